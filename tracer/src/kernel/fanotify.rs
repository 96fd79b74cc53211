//! Events that a fanotify group has not read, and permission events that it has not answered: each holds the path
//! that it is about. Marks hold inodes and superblocks, no mount (kernel fact 14), so an idle group holds nothing.

use std::collections::{BTreeMap, BTreeSet};

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    file::PathAddress,
    found::Found,
    listing::{Listing, note},
    memory::{is_kernel_address, u32_at},
    needs::{Needs, has},
    walk::Walk,
};
use crate::model::{Kind, Text};

/// Events of one group at the most (16384 by default; `FAN_UNLIMITED_QUEUE` lifts it).
const EVENTS_MAX: usize = 1 << 18;

/// Events of one group on one path.
#[derive(Debug, Default)]
struct Events {
    count: u64,
    /// Some of them wait for an answer.
    permission: bool,
    /// `struct pid`s of those who caused them.
    causes: BTreeSet<u64>,
}

/// An event that holds a path.
#[derive(Debug)]
struct Event {
    path: PathAddress,
    permission: bool,
    cause: u64,
}

pub(super) const NEEDS: Needs = needs![group_notifications];

impl Walk<'_, '_> {
    /// Adds the events of all groups on mounts of interest; those of one group on one path are one entry.
    pub(super) fn fanotify_events(&mut self) {
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        let files = self.census.anonymous(kernel, "[fanotify]");
        if files.is_empty() {
            return;
        }
        if kernel.layout.event_type.is_none() || !has(NEEDS, t) {
            note(
                self.gaps,
                false,
                "fanotify events: the kernel's type information lacks them",
            );
            return;
        }
        let groups = kernel.memory.words(&files, t.file_private);
        for (file, group) in files.into_iter().zip(groups) {
            let Some(group) = group.filter(|group| is_kernel_address(*group)) else {
                continue;
            };
            let events = kernel
                .events(group)
                .or_note(self.gaps, "the events of a fanotify group changed under the walk");
            let mut by_path: BTreeMap<(u64, u64), Events> = BTreeMap::new();
            for event in events {
                if self.interest.contains(&event.path.mount) {
                    let key = (event.path.mount, event.path.dentry);
                    let events = by_path.entry(key).or_default();
                    events.count += 1;
                    events.permission |= event.permission;
                    events.causes.insert(event.cause);
                }
            }
            for ((mount, dentry), events) in by_path {
                let users = self.census.users(file);
                self.add(Found {
                    refs: events.count,
                    held_by: kernel.cause(&events),
                    ..Found::new(Kind::Fanotify, group, PathAddress { mount, dentry })
                        .used_by(self.tasks, users)
                });
            }
        }
    }
}

impl Kernel<'_> {
    /// The events of a group that hold a path, and whether its lists were whole.
    fn events(self, group: u64) -> Listing<Vec<Event>> {
        let t = &self.layout.table;
        let mut complete = true;
        let mut addresses = Vec::new();
        for list in [t.group_notifications, t.group_access_list] {
            if list == ABSENT {
                continue;
            }
            let ring = self.memory.ring(group.wrapping_add(u64::from(list)), EVENTS_MAX);
            complete &= ring.complete;
            let links = ring.nodes.into_iter();
            addresses.extend(links.map(|link| link.wrapping_sub(u64::from(t.event_list))));
        }
        // A ring that does not lead back goes round until the cap.
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert(*address));
        let [path, permission] = self.layout.event_types;
        let types = self.event_types(&addresses);
        let causes = self.memory.words(&addresses, t.event_pid);
        let mut events = Vec::new();
        for (wanted, offset, permission) in
            [(path, t.event_path, false), (permission, t.perm_event_path, true)]
        {
            let of_type: Vec<usize> = (0..addresses.len())
                .filter(|index| types[*index] == Some(wanted))
                .collect();
            let chosen: Vec<u64> = of_type.iter().map(|index| addresses[*index]).collect();
            let paths = self.path_addresses(&chosen, offset);
            events.extend(of_type.into_iter().zip(paths).filter_map(|(index, path)| {
                Some(Event {
                    path: path?,
                    permission,
                    cause: causes[index].unwrap_or(0),
                })
            }));
        }
        Listing::new(events, complete)
    }

    /// `enum fanotify_event_type` of events: a bitfield beside a hash (5.12 on, and 5.10 stable), or a number.
    fn event_types(self, events: &[u64]) -> Vec<Option<i64>> {
        let Some(field) = &self.layout.event_type else {
            return vec![None; events.len()];
        };
        let (shift, width) = field.bits.map_or((0, 32), |bits| (bits.shift, bits.width));
        let mask = u32::MAX.checked_shr(32 - width.clamp(1, 32)).unwrap_or(u32::MAX);
        let batch = self.memory.read_batch(events, field.offset, 4);
        batch
            .iter()
            .map(|piece| Some(i64::from(u32_at(piece?, 0)? >> shift & mask)))
            .collect()
    }

    /// Who caused events, in words.
    fn cause(self, events: &Events) -> Option<Text> {
        let mut pids = events.causes.iter().map(|pid| self.host_number(*pid));
        let pid = pids.next().flatten().filter(|_| events.causes.len() == 1);
        Some(Text::from(match (pid, events.count, events.permission) {
            (Some(pid), 1, true) => format!("pid {pid} waits for the answer"),
            (Some(pid), 1, false) => format!("caused by pid {pid}"),
            (Some(pid), count, _) => format!("{count} events, caused by pid {pid}"),
            (None, 1, _) => return None,
            (None, count, _) => format!("{count} events"),
        }))
    }

    /// The number of a `struct pid` in the host's pid namespace.
    fn host_number(self, pid: u64) -> Option<u32> {
        let t = &self.layout.table;
        if !is_kernel_address(pid) || t.pid_numbers == ABSENT || t.upid_nr == ABSENT {
            return None;
        }
        let number = self
            .memory
            .half(pid.wrapping_add(u64::from(t.pid_numbers)), t.upid_nr)?;
        (number != 0).then_some(number)
    }
}
