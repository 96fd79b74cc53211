//! Who opened which file, and when: a hint for what a snapshot finds. Where the tier sees every open and close it also
//! proves who held a mount at the moment of an attempt.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{entered::Enterings, kept::Kept, room::Skipped};
use crate::{
    model::Text,
    stream::{Closed, Entered, Named, Opened},
};

/// Opens kept at the most, and of one source that is not the host.
const OPENS_MAX: usize = 200_000;
const EACH_MAX: usize = 50_000;
/// Closed files kept: an attempt is entered only a moment after the check that refused it.
const CLOSED_MAX: usize = 4096;
const EACH_CLOSED_MAX: usize = CLOSED_MAX / 8;
/// Paths kept.
const NAMES_MAX: usize = 4096;

/// A file that was open on a busy mount at the moment of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Passing {
    /// Who opened it, and when.
    pub opened: Opened,
    /// When it was closed, as far as that is known yet.
    pub closed: Option<u64>,
    /// Its path inside the mount, and whether it has no name any more.
    pub name: Option<(Text, bool)>,
}

/// The same, as the history has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StillOpen<'h> {
    pub opened: &'h Opened,
    pub closed: Option<u64>,
    pub name: Option<&'h (Text, bool)>,
}

/// Opens on watched mounts that may still be open, and the latest that are not.
#[derive(Debug, Default)]
pub struct History {
    opens: HashMap<u64, Opened>,
    by_mount: HashMap<u64, HashSet<u64>>,
    /// File and time of each, in order.
    order: Kept<(u64, u64), OPENS_MAX, EACH_MAX>,
    closed: Kept<(Opened, u64), CLOSED_MAX, EACH_CLOSED_MAX>,
    /// Paths of the latest attempts' files, by mount, dentry and the hash of the name.
    names: HashMap<(u64, u64, u64), (Text, bool)>,
    /// Who came into which mount namespace.
    pub(super) enterings: Enterings,
    /// Opens that had to be forgotten, by source.
    pub forgotten: BTreeMap<u64, u64>,
    /// Of what was opened before then a close may have been lost.
    doubtful_until: u64,
}

impl History {
    /// A file was opened. At the tracepoint tier an address can come again without a close having been seen.
    pub fn opened(&mut self, opened: Opened) {
        self.remove(opened.file);
        let forgotten = self.order.push(opened.source, (opened.file, opened.time));
        self.by_mount.entry(opened.mount).or_default().insert(opened.file);
        self.opens.insert(opened.file, opened);
        if let Some((source, (file, time))) = forgotten
            // The same address may have been opened again since.
            && self.opens.get(&file).is_some_and(|opened| opened.time == time)
        {
            self.remove(file);
            *self.forgotten.entry(source).or_default() += 1;
        }
    }

    fn remove(&mut self, file: u64) -> Option<Opened> {
        let opened = self.opens.remove(&file)?;
        if let Some(files) = self.by_mount.get_mut(&opened.mount) {
            files.remove(&file);
            if files.is_empty() {
                self.by_mount.remove(&opened.mount);
            }
        }
        Some(opened)
    }

    /// A file's last reference went.
    pub fn closed(&mut self, closed: &Closed) {
        if self
            .opens
            .get(&closed.file)
            .is_some_and(|opened| opened.time <= closed.time)
            && let Some(opened) = self.remove(closed.file)
        {
            self.closed.push(opened.source, (opened, closed.time));
        }
    }

    /// Opens or closes were lost, some time after `clean` and before `now`.
    pub(super) fn lost(&mut self, clean: u64, now: u64) {
        self.doubtful_until = now;
        self.closed.retain(|(_, closed)| *closed <= clean);
    }

    /// What the ledger has: an open or a close whose event was lost.
    pub fn recall(&mut self, opened: &Opened) {
        let known = self.opens.get(&opened.file).map(|known| known.time);
        match opened.closed {
            // An older life of that address tells nothing of this one.
            Some(time) if known == Some(opened.time) => self.closed(&Closed {
                time,
                file: opened.file,
            }),
            None if known.is_none_or(|known| known < opened.time) => self.opened(opened.clone()),
            _ => {}
        }
    }

    /// A thread came into another mount namespace.
    pub fn entered(&mut self, entered: Entered) {
        self.enterings.push(entered);
    }

    /// Enterings that had to be forgotten, by source.
    pub(crate) fn forgotten_enterings(&self) -> &Skipped {
        self.enterings.forgotten()
    }

    /// What a file is called.
    pub fn named(&mut self, named: Named) {
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(
            (named.mount, named.dentry, named.name),
            (named.path, named.deleted),
        );
    }

    /// The open of this file: only if it is of the same dentry on the same mount, and was there when it was found.
    #[must_use]
    pub fn of(&self, file: u64, mount: u64, dentry: u64, found: u64) -> Option<&Opened> {
        let opened = self.opens.get(&file)?;
        (opened.is_of(file, mount, dentry) && opened.time <= found).then_some(opened)
    }

    /// The files on a mount that were open at the moment of an attempt: when its count was read, or, where that is not
    /// known, from its entry to its return.
    fn open_at(
        &self,
        mount: u64,
        entered: u64,
        checked: Option<u64>,
    ) -> impl Iterator<Item = (&Opened, Option<u64>)> {
        let moment = checked.unwrap_or(entered);
        let open = self.by_mount.get(&mount).into_iter().flatten();
        let open = open
            .filter_map(|file| self.opens.get(file))
            .filter(|opened| opened.time > self.doubtful_until)
            .map(|opened| (opened, None));
        let closed = self
            .closed
            .iter()
            .filter(move |(opened, closed)| opened.mount == mount && checked.is_some_and(|at| at <= *closed))
            .map(|(opened, closed)| (opened, Some(*closed)));
        open.chain(closed)
            .filter(move |(opened, _)| opened.time <= moment && !opened.is_backing())
    }

    /// Those files with what is known of them.
    pub(super) fn blocking(
        &self,
        mount: u64,
        entered: u64,
        checked: Option<u64>,
    ) -> impl Iterator<Item = StillOpen<'_>> {
        self.open_at(mount, entered, checked)
            .map(|(opened, closed)| StillOpen {
                opened,
                closed,
                name: self.names.get(&(opened.mount, opened.dentry, opened.name)),
            })
    }

    /// How many files are open on a mount: what it costs to look for those that block.
    pub(super) fn open_on(&self, mount: u64) -> u64 {
        self.by_mount.get(&mount).map_or(0, |files| files.len() as u64)
    }

    /// Dentries of those files, with the hash of their name, that have no path yet.
    #[must_use]
    pub fn nameless(&self, mount: u64, entered: u64, checked: Option<u64>) -> HashSet<(u64, u64)> {
        self.open_at(mount, entered, checked)
            .filter(|(opened, _)| {
                !self
                    .names
                    .contains_key(&(opened.mount, opened.dentry, opened.name))
            })
            .map(|(opened, _)| (opened.dentry, opened.name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::History;
    use crate::{
        model::Process,
        stream::{Closed, Opened},
    };

    fn open(file: u64, mount: u64, time: u64) -> Opened {
        Opened {
            time,
            file,
            mount,
            dentry: 20,
            by: Process {
                pid: 7,
                ..Process::default()
            },
            ..Opened::default()
        }
    }

    #[test]
    fn a_file_blocks_an_attempt_that_its_life_covers() {
        let mut history = History::default();
        history.opened(open(1, 10, 100));
        history.opened(open(2, 10, 180));
        history.opened(open(3, 11, 100));
        history.closed(&Closed { time: 160, file: 1 });
        let at = |entered, checked| {
            let mut files: Vec<u64> = history
                .blocking(10, entered, checked)
                .map(|passing| passing.opened.file)
                .collect();
            files.sort_unstable();
            files
        };
        assert_eq!(at(140, Some(150)), [1]);
        assert_eq!(at(140, Some(170)), [0; 0], "closed before, opened after");
        assert_eq!(at(140, None), [0; 0], "it may have gone before the check");
        assert_eq!(at(190, None), [2]);
    }

    #[test]
    fn after_a_loss_only_what_is_newer_proves() {
        let mut history = History::default();
        history.opened(open(1, 10, 100));
        history.opened(open(2, 10, 110));
        history.closed(&Closed { time: 190, file: 2 });
        history.lost(150, 200);
        history.opened(open(3, 10, 210));
        let files: Vec<u64> = history
            .blocking(10, 180, Some(180))
            .map(|passing| passing.opened.file)
            .collect();
        assert_eq!(files, [0; 0]);
        let files: Vec<u64> = history
            .blocking(10, 220, Some(220))
            .map(|passing| passing.opened.file)
            .collect();
        assert_eq!(files, [3]);
        assert!(history.of(1, 10, 0, 230).is_some(), "a hint it still is");
    }

    #[test]
    fn the_ledger_tells_what_the_ring_lost() {
        let mut history = History::default();
        history.recall(&open(1, 10, 100));
        assert!(history.of(1, 10, 0, 200).is_some());
        history.opened(open(1, 10, 300));
        history.recall(&open(1, 10, 100));
        assert_eq!(history.of(1, 10, 0, 400).map(|opened| opened.time), Some(300));
        let closed = |time| Opened {
            closed: Some(350),
            ..open(1, 10, time)
        };
        history.recall(&closed(100));
        assert!(history.of(1, 10, 0, 400).is_some(), "that was an older file");
        history.recall(&closed(300));
        assert!(history.of(1, 10, 0, 400).is_none());
    }

    #[test]
    fn an_open_is_of_its_file_and_mount_until_it_is_closed() {
        let mut history = History::default();
        history.opened(open(1, 10, 100));
        assert_eq!(
            history
                .of(1, 10, 0, 200)
                .map(|opened| (opened.time, opened.by.pid)),
            Some((100, 7))
        );
        assert!(
            history.of(1, 11, 0, 200).is_none(),
            "another mount: the address was reused"
        );
        assert!(history.of(1, 10, 0, 50).is_none(), "opened after it was found");
        assert!(
            history.of(1, 10, 21, 200).is_none(),
            "another file: the address was reused"
        );
        assert!(history.of(1, 10, 20, 200).is_some());
        history.closed(&Closed { time: 90, file: 1 });
        assert!(
            history.of(1, 10, 0, 200).is_some(),
            "a close before the open is of an older file"
        );
        history.closed(&Closed { time: 150, file: 1 });
        assert!(history.of(1, 10, 0, 200).is_none());
    }
}
