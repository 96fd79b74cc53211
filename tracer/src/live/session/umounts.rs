//! An umount that has its result: what it meant, by whom, and whether it is of interest.

use super::{Pending, Session, UMOUNT_NOFOLLOW};
use crate::{
    incident::MNT_DETACH,
    kernel::{Kernel, Mount},
    live::{
        host::own_namespace,
        target::{absolute, at_path, describe, mount_key, unknown},
    },
    model::{Process, Target, Text},
    stream::{RawUmount, Record, Umount},
};

const EBUSY: i64 = -16;

impl Session {
    pub(super) fn umount(&mut self, raw: &RawUmount) {
        if raw.caller.pid == std::process::id() {
            self.own_umounts += 1;
            return;
        }
        let refused = raw.ret == EBUSY;
        let (mount, target) = self.resolve(raw, refused);
        let caller = if refused {
            self.identities
                .complete_caller(self.host.kernel(&self.probes.reader), &raw.caller, raw.start)
        } else {
            raw.caller.clone()
        };
        let shown = self.is_shown(&target.path, &caller);
        let mount_address = mount.as_ref().map(|mount| mount.address);
        let key = match &mount {
            Some(mount) => Some(mount_key(mount)),
            // What was unmounted is known by its address, if it is the target of an incident.
            None => raw
                .target
                .and_then(|(address, _)| self.analyzer.open_target_at(address, raw.caller.mount_namespace)),
        };
        if refused
            && shown
            && let Some(mount) = mount
        {
            let key = mount_key(&mount);
            self.pending.insert(
                key,
                Pending {
                    mount,
                    attempt: raw.returned,
                    source: raw.source,
                },
            );
        }
        if refused && shown {
            self.name_history(raw);
        }
        self.slow_returned(raw, &target);
        if raw.ret == 0 && raw.flags & MNT_DETACH != 0 && shown {
            self.detached(raw);
        }
        // The tier sees the busy check if it sees what the path resolved to, and all its functions are there.
        let busy_check = raw.target.filter(|_| self.probes.counts).map(|_| raw.busy_check);
        let of_root = mount_address.is_some_and(|address| address == raw.root.0);
        self.push(Record::Umount(Box::new(Umount {
            entered: raw.entered,
            checked: raw.checked,
            returned: raw.returned,
            ret: raw.ret,
            flags: raw.flags,
            source: raw.source,
            caller,
            passed: raw.path.as_deref().map(Text::from),
            mount: key,
            target,
            shown,
            remount: of_root && raw.flags & MNT_DETACH == 0,
            busy_check,
            compared: raw.compared,
        })));
    }

    /// The mount that an umount meant; looked up anew once where the last look does not have it. After a success
    /// it is gone, and only its path is of use.
    pub(super) fn resolve(&mut self, raw: &RawUmount, refused: bool) -> (Option<Mount>, Target) {
        let kernel = self.host.kernel(&self.probes.reader);
        let path = absolute(kernel, raw);
        for again in [false, true] {
            if again && refused {
                self.refresh_view_for(raw.source);
            }
            // One that began after the last look has taken away nothing that is missing there.
            let before = self.view_before.as_ref();
            let before = before.filter(|_| raw.entered <= self.view_until);
            let view = match before {
                Some((before, _)) if again && !refused => before,
                None if again && !refused => break,
                _ => &self.view,
            };
            let kernel = self.host.kernel(&self.probes.reader);
            let number = raw.caller.mount_namespace;
            let found = match (raw.target, &path) {
                // Nobody unmounts what is in another namespace: there, the address has come to another mount since.
                (Some((address, _)), _) => view
                    .mount(address)
                    .filter(|(namespace, _)| number.is_none_or(|number| number == namespace.number)),
                (None, Some(path)) => {
                    number
                        .and_then(|number| view.namespace(number))
                        .and_then(|namespace| {
                            let own = own_namespace() == Some(namespace.number);
                            let last = raw.flags & UMOUNT_NOFOLLOW == 0;
                            Some((namespace, at_path(namespace, path, own, last)?))
                        })
                }
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
            let target = describe(kernel, self.identities.containers(), view, namespace, mounted);
            return (now.filter(|_| refused), target);
        }
        let shown = path.as_deref().or(raw.path.as_deref());
        (None, unknown(shown, raw.caller.mount_namespace))
    }

    pub(super) fn is_shown(&self, path: &Text, caller: &Process) -> bool {
        let own = std::process::id();
        self.options.all
            || self.options.patterns.covers(path.as_bytes())
            || (self.options.command && caller.parents.iter().any(|parent| parent.pid == own))
    }
}

/// Whether another mount is on top of this one, in the same place.
fn is_covered(kernel: Kernel<'_>, mount: &Mount) -> bool {
    let (children, _) = kernel.children(mount);
    let children = kernel.mounts(&children);
    children
        .iter()
        .flatten()
        .any(|child| child.mountpoint == mount.root)
}
