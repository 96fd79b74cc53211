//! What keeps the targets of open incidents busy by now.

use super::context::Context;
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

/// Counts the references of the targets of open incidents; those that have none are left out, and those that cannot
/// be counted.
pub(super) fn still_busy(context: &Context) -> Vec<StillBusy> {
    let kernel = context.kernel();
    let targets = context.analyzer.open_targets().filter_map(|key| {
        let (_, mounted) = context.picture.view.mount(key.address)?;
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
