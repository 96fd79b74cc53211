//! Whether all that has happened so far is looked at, and what keeps the targets of open incidents busy by now.

use super::Session;
use crate::model::Text;

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
    /// Whether no events are left in the ring, and nothing that was taken from the rings waits for a look: new mounts,
    /// refused umounts, mounts that were detached, loop devices that were told to go. What others did after `asked` (boot
    /// clock, ns) does not matter: there may always be more of that.
    #[must_use]
    pub fn has_caught_up(&self, asked: u64) -> bool {
        self.behind.is_none()
            && self.others.oldest().is_none_or(|time| time > asked)
            && !self.view_stale
            && self.pending.is_empty()
            && self.vanished.is_empty()
            && self.loops.has_caught_up()
            && self.detached.has_caught_up()
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
