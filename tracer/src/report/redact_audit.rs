//! The same for what `audit` finds.

use super::Redactor;
use crate::{
    advice::advise_audit,
    model::{Audit, CopiedMount, Detached, Group, Holder, KeptNamespace, Leaked, Now, Workload},
};

/// What goes before the name of a volume in [`Leaked::what`].
const VOLUME: &str = "volume ";

impl Redactor {
    /// An audit, with advice that says the same of the hashes. What it says of gaps and settings is in words of ebusy's
    /// own.
    pub fn audit(&self, audit: &mut Audit) {
        for Now { target, holders, .. } in &mut audit.now {
            self.target(target);
            self.holders(holders);
        }
        for group in audit.can_pin.iter_mut().chain(&mut audit.can_leak) {
            self.group(group);
        }
        for leaked in &mut audit.leaked {
            self.leaked(leaked);
        }
        for detached in &mut audit.detached {
            let Detached {
                fs_type,
                source,
                holders,
                ..
            } = detached;
            // What file systems without a device are mounted from is their type, as a rule.
            if let Some(source) = source
                && fs_type.as_deref().map(str::as_bytes) != Some(source.as_bytes())
            {
                *source = self.text(source);
            }
            self.holders(holders);
        }
        for KeptNamespace { kept_by, .. } in &mut audit.namespaces {
            for keeper in kept_by {
                if let Some(process) = &mut keeper.process {
                    self.process(process);
                }
                if let Some(path) = &mut keeper.path {
                    *path = self.text(path);
                }
            }
        }
        // From what is redacted already: commands have paths and names in them.
        advise_audit(audit);
    }

    fn holders(&self, holders: &mut [Holder]) {
        for holder in holders {
            self.holder(holder);
        }
    }

    fn workload(&self, workload: &mut Workload) {
        if let Some(process) = &mut workload.process {
            self.process(process);
        }
    }

    fn group(&self, group: &mut Group) {
        self.workload(&mut group.workload);
        for copy in &mut group.copies {
            let CopiedMount {
                target,
                path,
                path_base64,
                holders,
                ..
            } = copy;
            self.target(target);
            *path = self.text(path);
            *path_base64 = None;
            self.holders(holders);
        }
    }

    fn leaked(&self, leaked: &mut Leaked) {
        if let Some((words, name)) = leaked.what.split_once(VOLUME) {
            leaked.what = format!("{words}{VOLUME}{}", self.name(name));
        }
        if let Some(container) = &mut leaked.container {
            self.container(container);
        }
        if let Some(uid) = &mut leaked.pod_uid {
            *uid = self.name(uid);
        }
        for place in &mut leaked.places {
            self.target(&mut place.mount);
            if let Some(workload) = &mut place.workload {
                self.workload(workload);
            }
            self.holders(&mut place.holders);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Redactor;
    use crate::model::{
        Audit, Container, CopiedMount, Detached, Fix, Group, Holder, Keeper, KeptNamespace, Leaked,
        LeakedPlace, Now, Process, Target, Text, Tier, Timestamp, Workload,
    };

    fn process() -> Process {
        Process {
            pid: 7,
            comm: "agent".into(),
            unit: Some("secret.service".into()),
            container: Some(Container {
                runtime: Some("containerd".into()),
                id: "secret".into(),
                pod: Some("secret".into()),
                pod_namespace: Some("secret".into()),
                ..Container::default()
            }),
            ..Process::default()
        }
    }

    fn everything() -> Audit {
        let path = || Text::from("/x/secret");
        let target = || Target {
            path: path(),
            ..Target::default()
        };
        let holders = || {
            vec![Holder {
                process: Some(process()),
                path: path(),
                ..Holder::default()
            }]
        };
        let workload = || Workload {
            process: Some(process()),
            processes: 1,
            same_namespace: false,
        };
        let group = || Group {
            workload: workload(),
            mount_namespaces: vec![8],
            mounts: 1,
            in_use: 1,
            copies: vec![CopiedMount {
                target: target(),
                path: path(),
                path_base64: Some("secret".into()),
                mount_id: 1,
                mount_namespace: 8,
                propagation: None,
                holders: holders(),
            }],
            fixes: vec![Fix::change("narrow /x/secret")],
        };
        Audit {
            now: vec![Now {
                target: target(),
                stuck: true,
                holders: holders(),
                unexplained: Some(0),
                fixes: vec![Fix::change("umount /x/secret")],
            }],
            can_pin: vec![group()],
            can_leak: vec![group()],
            leaked: vec![Leaked {
                what: "subPath of volume secret".into(),
                container: process().container,
                pod_uid: Some("secret".into()),
                places: vec![LeakedPlace {
                    mount: target(),
                    workload: Some(workload()),
                    holders: holders(),
                }],
                fixes: vec![Fix::change("umount /x/secret")],
            }],
            detached: vec![Detached {
                mount_id: 9,
                fs_type: Some("ext4".into()),
                source: Some(path()),
                device: None,
                below: 0,
                mounted_elsewhere: false,
                bytes: None,
                holders: holders(),
                unexplained: None,
                fixes: vec![Fix::change("end /x/secret")],
            }],
            namespaces: vec![KeptNamespace {
                number: 10,
                mounts: 1,
                watched: 1,
                kept_by: vec![Keeper {
                    kind: "bind_mount".into(),
                    process: Some(process()),
                    fd: None,
                    path: Some(path()),
                    mount_namespace: Some(11),
                }],
                fixes: vec![Fix::change("umount /x/secret")],
            }],
            ..Audit::of(Timestamp::from_nanos(1), Tier::Tracepoint)
        }
    }

    #[test]
    fn nothing_that_somebody_named_is_left_of_an_audit() {
        let mut audit = everything();
        Redactor::new().unwrap().audit(&mut audit);
        let json = serde_json::to_string(&audit).unwrap();
        assert!(!json.contains("secret"), "{json}");
        assert!(
            json.contains("subPath of volume h") && json.contains("\"agent\"") && json.contains("containerd"),
            "{json}"
        );
        assert!(!audit.now[0].fixes.is_empty(), "{json}");
    }
}
