//! An umount that has its result: what it meant, by whom, and whether it is of interest.

use super::{
    context::Context,
    host::own_namespace,
    target::{absolute, at_path, describe, mount_key, unknown},
};
use crate::{
    incident::MNT_DETACH,
    kernel::{Kernel, Mount},
    model::{Process, Target, Text},
    stream::{MountKey, RawUmount, Record, Umount},
};

const EBUSY: i64 = -16;
/// `UMOUNT_NOFOLLOW` of umount2(2).
pub(super) const UMOUNT_NOFOLLOW: u32 = 8;

/// An umount that has returned.
#[derive(Debug)]
pub(super) struct Returned<'a> {
    pub(super) raw: &'a RawUmount,
    /// What was not unmounted, where that is known.
    pub(super) mount: Option<Mount>,
    key: Option<MountKey>,
    pub(super) target: Target,
    caller: Process,
    /// The user wants to see it.
    pub(super) shown: bool,
}

impl<'a> Returned<'a> {
    /// Finds out what it meant.
    pub(super) fn new(context: &mut Context, raw: &'a RawUmount) -> Self {
        let refused = raw.ret == EBUSY;
        let (mount, target) = resolve(context, raw, refused);
        let caller = if refused {
            context.complete_caller(&raw.caller, raw.start)
        } else {
            raw.caller.clone()
        };
        let key = match &mount {
            Some(mount) => Some(mount_key(mount)),
            // What was unmounted is known by its address and number, if it is the target of an incident.
            None => raw.target.and_then(|(address, _)| {
                let meant = (address, raw.target_number);
                context.analyzer.open_target_at(meant, raw.caller.mount_namespace)
            }),
        };
        Self {
            shown: context.is_shown(&target.path, &caller),
            raw,
            mount,
            key,
            target,
            caller,
        }
    }

    /// Whether it failed with EBUSY.
    pub(super) fn is_refused(&self) -> bool {
        self.raw.ret == EBUSY
    }

    /// Its own record for the stream.
    pub(super) fn record(self, context: &Context) -> Record {
        let raw = self.raw;
        // The tier sees the busy check if it sees what the path resolved to, and all its functions are there.
        let busy_check = raw
            .target
            .filter(|_| context.probes.counts)
            .map(|_| raw.busy_check);
        let address = self.mount.map(|mount| mount.address);
        let of_root = address.is_some_and(|address| address == raw.root.0);
        Record::Umount(Box::new(Umount {
            entered: raw.entered,
            checked: raw.checked,
            returned: raw.returned,
            ret: raw.ret,
            flags: raw.flags,
            source: raw.source,
            caller: self.caller,
            passed: raw.path.as_deref().map(Text::from),
            mount: self.key,
            target: self.target,
            shown: self.shown,
            remount: of_root && raw.flags & MNT_DETACH == 0,
            busy_check,
            compared: raw.compared,
        }))
    }
}

/// The mount that an umount meant; looked up anew once where the last look does not have it. After a success
/// it is gone, and only its path is of use.
pub(super) fn resolve(context: &mut Context, raw: &RawUmount, refused: bool) -> (Option<Mount>, Target) {
    let kernel = context.kernel();
    let path = absolute(kernel, raw);
    for again in [false, true] {
        if again && refused {
            context.refresh_for(raw.source);
        }
        // One that began after the last look has taken away nothing that is missing there.
        let before = context.picture.before(raw.entered);
        let view = match before {
            Some(before) if again && !refused => before,
            None if again && !refused => break,
            _ => &context.picture.view,
        };
        let kernel = context.kernel();
        let number = raw.caller.mount_namespace;
        let found = match (raw.target, &path) {
            // Nobody unmounts what is in another namespace: there, the address has come to another mount since.
            (Some((address, _)), _) => view
                .mount(address)
                .filter(|(namespace, _)| number.is_none_or(|number| number == namespace.number))
                .filter(|(_, mounted)| raw.meant(mount_key(&mounted.mount))),
            (None, Some(path)) => number
                .and_then(|number| view.namespace(number))
                .and_then(|namespace| {
                    let own = own_namespace() == Some(namespace.number);
                    let last = raw.flags & UMOUNT_NOFOLLOW == 0;
                    Some((namespace, at_path(namespace, path, own, last)?))
                }),
            (None, None) => None,
        };
        let Some((namespace, mounted)) = found else {
            continue;
        };
        let known = &mounted.mount;
        let now = kernel.mount(known.address).filter(|now| now.is_same(known));
        if refused && now.as_ref().is_none_or(|now| now.namespace == 0) {
            continue;
        }
        // A path means what is on top there: that was mounted since the last look.
        let by_path = raw.target.is_none();
        if refused && by_path && !again && now.as_ref().is_some_and(|now| is_covered(kernel, now)) {
            continue;
        }
        let target = describe(kernel, context.identities.containers(), view, namespace, mounted);
        return (now.filter(|_| refused), target);
    }
    let shown = path.as_deref().or(raw.path.as_deref());
    (None, unknown(shown, raw.caller.mount_namespace))
}

/// Whether another mount is on top of this one, in the same place.
fn is_covered(kernel: Kernel<'_>, mount: &Mount) -> bool {
    let children = kernel.children(mount).items;
    let children = kernel.mounts(&children);
    children
        .iter()
        .flatten()
        .any(|child| child.mountpoint == mount.root)
}
