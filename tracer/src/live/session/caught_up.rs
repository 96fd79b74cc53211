//! Whether all that has happened so far is looked at, and what keeps the targets of open incidents busy by now.

use std::time::Duration;

use tracer_common::HOST;

use super::Session;
use crate::model::Text;

/// An umount of a user that has not returned for so long may never do so: nobody else waits for it.
const HUNG: Duration = Duration::from_secs(1);

/// The target of an open incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StillBusy {
    /// Its path in its namespace.
    pub path: Text,
    /// Its id.
    pub mount_id: u32,
    /// Those beyond what an idle mount has, its own and those of the mounts in its place elsewhere.
    pub references: u64,
}

impl Session {
    /// Whether nothing of what had happened at `asked` (boot clock, ns) is left in the rings or waits for a look: new
    /// mounts, refused umounts, mounts that were detached, loop devices that were told to go. What came later does not
    /// matter: there may always be more of that.
    #[must_use]
    pub fn has_caught_up(&self, asked: u64) -> bool {
        let is_later = |time: u64| time > asked;
        self.behind.is_none_or(is_later)
            && self.others.oldest().is_none_or(is_later)
            && (!self.view_stale || is_later(self.view_from))
            && self.pending.values().all(|pending| is_later(pending.attempt))
            && self.vanished.iter().all(|(mount, vanished)| {
                let of_host = self.analyzer.source_of(*mount) == Some(HOST);
                is_later(vanished.found) || !of_host && vanished.since_found() > HUNG
            })
            && self.loops.has_caught_up(asked)
            && self.detached.has_caught_up(asked)
    }

    /// Counts the references of the targets of open incidents; those that have none are left out, and those that cannot
    /// be counted.
    #[must_use]
    pub fn still_busy(&self) -> Vec<StillBusy> {
        let kernel = self.host.kernel(&self.probes.reader);
        let targets = self.analyzer.open_targets().filter_map(|key| {
            let (_, mounted) = self.view.mount(key.address)?;
            let target = kernel
                .mount(key.address)
                .filter(|now| now.is_still(&mounted.mount))?;
            Some(StillBusy {
                path: Text::from(mounted.path.clone()),
                mount_id: target.id,
                references: kernel.busy_references(&target)?,
            })
        });
        targets.filter(|busy| busy.references > 0).collect()
    }
}
