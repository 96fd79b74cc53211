//! Who opened which file, and when: a hint for what a snapshot finds, never a holder by itself.

use std::collections::{HashMap, VecDeque};

use crate::{
    model::Process,
    stream::{Closed, Opened},
};

/// Opens kept at the most; the oldest go first.
const OPENS_MAX: usize = 200_000;

/// Opens on watched mounts that may still be open.
#[derive(Debug, Default)]
pub struct History {
    opens: HashMap<u64, Opened>,
    order: VecDeque<(u64, u64)>,
    /// Opens that had to be forgotten.
    pub forgotten: u64,
}

impl History {
    /// A file was opened. At the tracepoint tier an address can come again without a close having been seen.
    pub fn opened(&mut self, opened: Opened) {
        self.order.push_back((opened.file, opened.time));
        self.opens.insert(opened.file, opened);
        while self.order.len() > OPENS_MAX {
            let Some((file, time)) = self.order.pop_front() else {
                break;
            };
            // The same address may have been opened again since.
            if self.opens.get(&file).is_some_and(|opened| opened.time == time) {
                self.opens.remove(&file);
                self.forgotten += 1;
            }
        }
    }

    /// A file's last reference went.
    pub fn closed(&mut self, closed: &Closed) {
        if self
            .opens
            .get(&closed.file)
            .is_some_and(|opened| opened.time <= closed.time)
        {
            self.opens.remove(&closed.file);
        }
    }

    /// Who opened this file: only if it is on the same mount, and was there when it was found.
    #[must_use]
    pub fn of(&self, file: u64, mount: u64, found: u64) -> Option<(u64, &Process)> {
        let opened = self.opens.get(&file)?;
        (opened.mount == mount && opened.time <= found).then_some((opened.time, &opened.by))
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
            dentry: 0,
            by: Process {
                pid: 7,
                ..Process::default()
            },
            fd: None,
        }
    }

    #[test]
    fn an_open_is_of_its_file_and_mount_until_it_is_closed() {
        let mut history = History::default();
        history.opened(open(1, 10, 100));
        assert_eq!(
            history.of(1, 10, 200).map(|(time, by)| (time, by.pid)),
            Some((100, 7))
        );
        assert!(
            history.of(1, 11, 200).is_none(),
            "another mount: the address was reused"
        );
        assert!(history.of(1, 10, 50).is_none(), "opened after it was found");
        history.closed(&Closed { time: 90, file: 1 });
        assert!(
            history.of(1, 10, 200).is_some(),
            "a close before the open is of an older file"
        );
        history.closed(&Closed { time: 150, file: 1 });
        assert!(history.of(1, 10, 200).is_none());
    }
}
