//! Threads that come into another mount namespace, and whose namespace it is.

use super::{context::Context, mounts::MountsView};
use crate::{
    identity::Containers,
    model::{Container, Process, WayIn},
    stream::{Entered, Record},
};

/// Enters it into the stream.
pub(super) fn entered(
    context: &mut Context,
    (time, operation, source): (u64, WayIn, u64),
    by: Process,
    start: u64,
) {
    let namespace = by.mount_namespace.unwrap_or(0);
    let whose = |context: &Context| owner(&context.picture.view, context.identities.containers(), namespace);
    // A new namespace has no container yet: its root file system comes later.
    let mut container = None;
    if operation == WayIn::Setns {
        container = whose(context);
        // It may have been seen when it was new, before it had its own root: no hook tells of that.
        if container.is_none() && context.picture.is_rested() {
            context.refresh();
            container = whose(context);
        }
    }
    context.picture.mark_stale();
    context.push(Record::Entered(Entered {
        time,
        operation,
        pid: by.pid,
        tid: by.tid,
        start,
        source,
        comm: by.comm,
        namespace,
        from: None,
        container: container.map(Box::new),
    }));
}

/// The container whose root file system is the root of a namespace: that is mounted elsewhere as well, at a place that
/// tells whose it is. Who happens to be in the namespace tells nothing: others may have entered it.
fn owner(view: &MountsView, containers: &Containers, number: u32) -> Option<Container> {
    let root = &view.namespace(number)?.at(b"/")?.mount;
    let elsewhere = view.all().filter(|(namespace, mounted)| {
        namespace.number != number
            && mounted.by_root
            && mounted.mount.superblock == root.superblock
            && mounted.mount.root == root.root
    });
    let mut paths: Vec<&[u8]> = elsewhere.map(|(_, mounted)| mounted.path.as_slice()).collect();
    // The host's namespace comes first; other containers see the same place under a path of their own.
    paths.dedup();
    paths
        .into_iter()
        .find_map(|path| containers.container_of_mount_path(path))
}
