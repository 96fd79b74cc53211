//! Uprobes: each holds the path of the program or library that it is set in.
//!
//! Those of tracefs belong to no process. Those of perf belong to whoever has the perf event, or the BPF link that keeps
//! it; those of a BPF link for many (Linux 6.6 on) to whoever has the link.

use std::collections::{BTreeMap, HashSet};

use tracer_common::ABSENT;

use super::{
    file::PathAddress,
    found::Found,
    found::Users,
    listing::note,
    memory::is_kernel_address,
    needs::{Needs, has},
    walk::Walk,
};
use crate::model::{Kind, Text};

/// Events of tracefs, and probes of one event, at the most.
const EVENTS_MAX: usize = 1 << 18;
const PROBES_MAX: usize = 1 << 14;
/// `MAX_EVENT_NAME_LEN` and the group's alike.
const NAME_MAX: usize = 64;

/// What is one entry: the probed file, the name of the event, the process that has it.
type Key = (PathAddress, Option<Text>, Users);

/// A kernel without these has no uprobes (`CONFIG_UPROBE_EVENTS`).
pub(super) const NEEDS: Needs = needs![
    call_flags,
    probe_event_call,
    probe_event_probes,
    probe_list,
    probe_event,
    uprobe_probe,
    uprobe_path,
];

impl Walk<'_, '_> {
    /// The files that uprobes are set in.
    pub(super) fn uprobes(&mut self) {
        let t = &self.kernel.layout.table;
        if !self.kernel.ways.open() || !has(NEEDS, t) {
            return;
        }
        let mut entries: BTreeMap<Vec<u64>, (Key, Vec<u64>)> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (call, name, users) in self.probed_events() {
            for (probe, path) in self.probes(call) {
                if seen.insert(probe) {
                    add(&mut entries, (path, name.clone(), users.clone()), probe);
                }
            }
        }
        for (link, path, users) in self.multi_links() {
            if seen.insert(link) {
                let name = Some(Text::from(b"a BPF link".to_vec()));
                add(&mut entries, (path, name, users), link);
            }
        }
        for ((path, name, users), probes) in entries.into_values() {
            let object = probes.iter().copied().min().unwrap_or(0);
            let found = Found {
                refs: probes.len() as u64,
                held_by: name,
                ..Found::new(Kind::Uprobe, object, path)
            };
            self.add(found.used_by(self.tasks, users));
        }
    }

    /// Events of uprobes: the `trace_event_call`, its name if it is in tracefs, who has it.
    fn probed_events(&mut self) -> Vec<(u64, Option<Text>, Users)> {
        let mut all: Vec<_> = self
            .tracefs_events()
            .into_iter()
            .map(|call| (call, self.event_name(call), Vec::new()))
            .collect();
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        let mut files: Vec<(u64, Users)> = self
            .census
            .anonymous(kernel, "[perf_event]")
            .into_iter()
            .map(|file| (file, self.census.users(file)))
            .collect();
        files.extend(
            self.links(kernel.ways.values.perf_link)
                .into_iter()
                .filter_map(|(link, users)| {
                    let link = link.checked_sub(u64::from(t.perf_link_link))?;
                    Some((kernel.memory.word(link, t.perf_link_file)?, users))
                }),
        );
        let addresses: Vec<u64> = files.iter().map(|(file, _)| *file).collect();
        let events: Vec<u64> = kernel
            .memory
            .words(&addresses, t.file_private)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let calls = kernel.memory.words(&events, t.perf_event_call);
        let calls: Vec<u64> = calls.into_iter().map(Option::unwrap_or_default).collect();
        let flags = self.are_uprobes(&calls);
        // One event of perf has a descriptor for every CPU.
        let mut by_call: BTreeMap<u64, Users> = BTreeMap::new();
        for ((call, is_uprobe), (_, users)) in calls.into_iter().zip(flags).zip(files) {
            if is_uprobe {
                by_call.entry(call).or_default().extend(users);
            }
        }
        all.extend(by_call.into_iter().map(|(call, users)| (call, None, users)));
        all
    }

    /// Whether these `trace_event_call`s are of uprobes.
    fn are_uprobes(&self, calls: &[u64]) -> Vec<bool> {
        let flag = self.kernel.ways.values.event_is_uprobe.unwrap_or(0);
        let flags = self
            .kernel
            .memory
            .halves(calls, self.kernel.layout.table.call_flags);
        flags
            .into_iter()
            .map(|flags| flags.is_some_and(|flags| flags & flag != 0))
            .collect()
    }

    /// The events of tracefs that are uprobes.
    fn tracefs_events(&mut self) -> Vec<u64> {
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        let Some(array) = kernel.ways.trace_array() else {
            note(self.gaps, false, "the uprobes of tracefs could not be looked at");
            return Vec::new();
        };
        let head = array.wrapping_add(u64::from(t.trace_array_events));
        if t.trace_array_events == ABSENT || t.trace_file_list == ABSENT {
            note(self.gaps, false, "the uprobes of tracefs could not be looked at");
            return Vec::new();
        }
        let ring = kernel.memory.ring(head, EVENTS_MAX);
        note(
            self.gaps,
            ring.complete,
            "the events of tracefs changed under the walk",
        );
        let files: Vec<u64> = ring
            .nodes
            .iter()
            .map(|link| link.wrapping_sub(u64::from(t.trace_file_list)))
            .collect();
        let calls: Vec<u64> = kernel
            .memory
            .words(&files, t.trace_file_call)
            .into_iter()
            .flatten()
            .filter(|call| is_kernel_address(*call))
            .collect();
        let flags = self.are_uprobes(&calls);
        calls
            .into_iter()
            .zip(flags)
            .filter(|(_, is_uprobe)| *is_uprobe)
            .map(|(call, _)| call)
            .collect()
    }

    /// `group/event`.
    fn event_name(&self, call: u64) -> Option<Text> {
        let memory = self.kernel.memory;
        let t = &self.kernel.layout.table;
        let class = memory.word(call, t.call_class)?;
        let group = memory.string(memory.word(class, t.class_system)?, NAME_MAX)?;
        let event = memory.string(memory.word(call, t.call_name)?, NAME_MAX)?;
        Some(Text::from([&group, &b"/"[..], &event].concat()))
    }

    /// The probes of an event on mounts of interest.
    fn probes(&self, call: u64) -> Vec<(u64, PathAddress)> {
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        let event = call.wrapping_sub(u64::from(t.probe_event_call));
        let head = event.wrapping_add(u64::from(t.probe_event_probes));
        let ring = kernel.memory.ring(head, PROBES_MAX);
        let probes: Vec<u64> = ring
            .nodes
            .iter()
            .map(|link| link.wrapping_sub(u64::from(t.probe_list)))
            .collect();
        // Each leads back to its event.
        let events = kernel.memory.words(&probes, t.probe_event);
        let uprobes: Vec<u64> = probes
            .into_iter()
            .zip(events)
            .filter(|(_, found)| *found == Some(event))
            .map(|(probe, _)| probe.wrapping_sub(u64::from(t.uprobe_probe)))
            .collect();
        self.paths_at(&uprobes, t.uprobe_path)
    }

    /// The objects whose `struct path` at an offset is on a mount of interest.
    pub(super) fn paths_at(&self, objects: &[u64], offset: u32) -> Vec<(u64, PathAddress)> {
        let paths = self.kernel.path_addresses(objects, offset);
        objects
            .iter()
            .copied()
            .zip(paths)
            .filter_map(|(object, path)| Some((object, path?)))
            .filter(|(_, path)| self.interest.contains(&path.mount) && self.kernel.fits(*path))
            .collect()
    }

    /// The `bpf_link`s of a type that have a descriptor.
    fn links(&self, kind: Option<u32>) -> Vec<(u64, Users)> {
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        let Some(kind) = kind else {
            return Vec::new();
        };
        // bpf_link_prime() and bpf_link_new_fd() name them differently.
        let files: Vec<u64> = ["bpf_link", "bpf-link"]
            .into_iter()
            .flat_map(|name| self.census.anonymous(kernel, name))
            .collect();
        let links: Vec<u64> = kernel
            .memory
            .words(&files, t.file_private)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let kinds = kernel.memory.halves(&links, t.bpf_link_type);
        links
            .into_iter()
            .zip(kinds)
            .zip(files)
            .filter(|((_, found), _)| *found == Some(kind))
            .map(|((link, _), file)| (link, self.census.users(file)))
            .collect()
    }

    /// BPF links for many uprobes, on mounts of interest.
    fn multi_links(&self) -> Vec<(u64, PathAddress, Users)> {
        let t = &self.kernel.layout.table;
        if t.uprobe_multi_link == ABSENT {
            return Vec::new();
        }
        let links = self.links(self.kernel.ways.values.uprobe_multi_link);
        let mut by_link: BTreeMap<u64, Users> = BTreeMap::new();
        for (link, users) in links {
            let object = link.wrapping_sub(u64::from(t.uprobe_multi_link));
            by_link.entry(object).or_default().extend(users);
        }
        let objects: Vec<u64> = by_link.keys().copied().collect();
        self.paths_at(&objects, t.uprobe_multi_path)
            .into_iter()
            .map(|(object, path)| (object, path, by_link.remove(&object).unwrap_or_default()))
            .collect()
    }
}

/// Many alike are one entry: the same file, event and processes.
fn add(entries: &mut BTreeMap<Vec<u64>, (Key, Vec<u64>)>, key: Key, object: u64) {
    let (path, name, users) = &key;
    let mut processes: Vec<u64> = users.iter().map(|(index, _)| *index as u64).collect();
    processes.sort_unstable();
    processes.dedup();
    let name = name.as_ref().map_or(&[][..], |name| name.as_bytes());
    let ordered = [path.mount, path.dentry, processes.len() as u64]
        .into_iter()
        .chain(processes)
        .chain(name.iter().map(|byte| u64::from(*byte)))
        .collect();
    entries
        .entry(ordered)
        .or_insert_with(|| (key, Vec::new()))
        .1
        .push(object);
}
