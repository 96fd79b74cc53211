//! Everything that can hold a mount, in one table: `snapshot` looks for all of it on one target, `survey` on many, and
//! `doctor` says which of it this kernel does not show.

use super::{
    accounting, aio, binfmt, closing, fanotify,
    layout::KernelLayout,
    needs::{Needs, missing},
    path_walk, socket, swap, uprobe, uring,
    walk::Walk,
};
use crate::model::Kind;

/// When in a look: each phase may need what those before it found.
#[derive(Clone, Copy)]
enum Phase {
    /// Files that something in the kernel keeps, and what is found without any others.
    First,
    /// Files in flight: the sockets that carry them may themselves be kept by what came first.
    Sockets,
    /// All files: what keeps them is known.
    Files,
    /// What is no file.
    Others,
    /// What nothing above led to.
    Rest,
}

/// One way to find references.
struct Collector {
    phase: Phase,
    /// What it finds.
    kinds: &'static [Kind],
    /// Without these it finds nothing.
    needs: Needs,
    collect: fn(&mut Walk<'_, '_>),
}

macro_rules! collectors {
    ($($phase:ident $method:ident [$($kind:ident),+] $needs:expr;)+) => {
        /// In the order in which they run.
        const COLLECTORS: &[Collector] = &[$(Collector {
            phase: Phase::$phase,
            kinds: &[$(Kind::$kind),+],
            needs: $needs,
            collect: |walk| {
                walk.$method();
            },
        }),+];
    };
}

collectors! {
    First   directories     [Cwd, Root]             &[];
    First   loop_devices    [Loop]                  &[];
    First   swap_files      [Swap]                  swap::NEEDS;
    First   interpreters    [BinfmtMisc]            binfmt::NEEDS;
    First   uprobes         [Uprobe]                uprobe::NEEDS;
    First   exports         [NfsExport]             &[];
    First   uring_files     [IoUring]               uring::NEEDS;
    First   aio_requests    [Kernel]                aio::NEEDS;
    First   closing_files   [Deferred]              closing::NEEDS;
    Sockets unix_sockets    [UnixSocket, ScmRights] socket::NEEDS;
    Files   files           [Fd, Exe, Mmap]         &[];
    Others  fanotify_events [Fanotify]              fanotify::NEEDS;
    Others  accounting      [Accounting]            accounting::NEEDS;
    Others  path_walks      [PathWalk]              path_walk::NEEDS;
    Rest    orphans         [Kernel, Deferred]      &[];
    Rest    suspected_walks [PathWalk]              &[];
}

const _: () = {
    let mut next = 1;
    while next < COLLECTORS.len() {
        let in_order = COLLECTORS[next - 1].phase as u8 <= COLLECTORS[next].phase as u8;
        assert!(in_order, "a collector stands before one of an earlier phase");
        next += 1;
    }
};

/// Looks for everything.
pub(super) fn collect(walk: &mut Walk<'_, '_>) {
    for collector in COLLECTORS {
        (collector.collect)(walk);
    }
}

/// Kinds that a kernel does not show, or has not, as its type information lacks these fields.
#[must_use]
pub fn kinds_not_shown(layout: &KernelLayout) -> Vec<(Kind, Vec<&'static str>)> {
    let all = COLLECTORS.iter().flat_map(|collector| {
        let missing = missing(collector.needs, &layout.table);
        collector.kinds.iter().map(move |kind| (*kind, missing.clone()))
    });
    all.filter(|(_, missing)| !missing.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use tracer_common::Layout;

    use super::{COLLECTORS, kinds_not_shown};
    use crate::{kernel::testing, model::Kind};

    #[test]
    fn every_kind_is_collected() {
        // Mounts are no references that a walk finds: those on top come from the target's list of children, those of a
        // file system from its superblock.
        for kind in Kind::ALL {
            let known = COLLECTORS.iter().any(|collector| collector.kinds.contains(&kind));
            assert_eq!(known, !matches!(kind, Kind::ChildMount | Kind::Mount), "{kind:?}");
        }
    }

    #[test]
    fn kinds_without_their_fields_are_named() {
        let mut layout = testing::layout();
        layout.table.set("group_notifications", tracer_common::ABSENT);
        let named = kinds_not_shown(&layout);
        assert!(
            named.contains(&(Kind::Fanotify, vec!["group_notifications"])),
            "{named:?}"
        );
        layout.table = Layout::absent();
        let kinds: Vec<Kind> = kinds_not_shown(&layout)
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert!(
            kinds.contains(&Kind::UnixSocket) && kinds.contains(&Kind::PathWalk),
            "{kinds:?}"
        );
        // These need nothing but what ebusy does not start without.
        assert!(
            !kinds.contains(&Kind::Fd) && !kinds.contains(&Kind::Cwd),
            "{kinds:?}"
        );
    }
}
