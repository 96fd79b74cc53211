//! Takes snapshots, and gives what they found its identity.

use super::{host::Host, identities::Identities};
use crate::{
    identity::boot_nanos,
    incident::{History, of_snapshot},
    kernel::{LedgerFile, Mount, Reader, Snapshot, snapshot},
};

/// Processes that are identified in one snapshot at the most; the others keep what the kernel told.
const IDENTIFIED_MAX: usize = 256;

/// Looks for the references on a mount. If the count changed meanwhile and the books do not balance, once more: a
/// path walk that was under way, or a holder that just came or went.
#[must_use]
pub fn sample(
    host: &Host,
    reader: &Reader,
    identities: &Identities,
    target: &Mount,
    ledger: &[LedgerFile],
) -> Snapshot {
    let take = || snapshot(host.kernel(reader), target, host.task(), ledger, boot_nanos);
    let mut found = take();
    let books = of_snapshot(&found, &History::default()).books;
    let balanced = books.unexplained == Some(0) && books.overexplained == 0;
    if books.changed_during_snapshot == Some(true) && !balanced {
        found = take();
    }
    for reference in found.references.iter_mut().take(IDENTIFIED_MAX) {
        if let Some(process) = &mut reference.holder.process {
            *process = identities.complete(host.kernel(reader), process, reference.start);
        }
    }
    found
}
