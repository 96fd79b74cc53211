//! Names and paths replaced by hashes, so that a report can be handed to somebody else.
//!
//! Every component of a path and every name becomes `h` and twelve hexadecimal digits of SHA-256 over a secret salt
//! and the name: the same name has the same hash throughout one export, so that prefixes and equal names still show,
//! and another one in the next. The salt is never written. Command names (`comm`), pids and numbers stay readable:
//! without them nobody could tell what holds what.

use std::hash::{BuildHasher as _, RandomState};

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};

use crate::{
    advice::{advise_incident, advise_who},
    model::{
        AIO_REQUEST, Container, Entered, Holder, HostMount, Incident, IncidentBody, Noise, Owner, Process,
        RefusedOperation, RefusedUmount, Requester, Slow, Target, Text, UNIX_GARBAGE, URING_REQUEST, Who,
    },
};

/// Hexadecimal digits of a hash that are kept: with a million names the odds that two share one are below 1 in 500.
const DIGITS: usize = 12;

/// Replaces names; one salt each.
#[derive(Clone)]
pub struct Redactor {
    salt: [u8; 32],
    numbers: RandomState,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// With a salt of its own.
    pub fn new() -> std::io::Result<Self> {
        let mut salt = [0; 32];
        let mut filled = 0;
        while let Some(rest) = salt.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += getrandom(rest, GetRandomFlags::empty())?;
        }
        Ok(Self::with_salt(salt))
    }

    fn with_salt(salt: [u8; 32]) -> Self {
        Self {
            salt,
            numbers: RandomState::new(),
        }
    }

    fn hash(&self, bytes: &[u8]) -> String {
        let digest = Sha256::new()
            .chain_update(self.salt)
            .chain_update(bytes)
            .finalize();
        let digits = digest
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(u32::from(digit), 16))
            .take(DIGITS);
        std::iter::once('h').chain(digits).collect()
    }

    /// A kernel address, as a key that tells nothing but whether two are the same.
    #[must_use]
    pub fn number(&self, address: u64) -> String {
        format!("{:016x}", self.numbers.hash_one(address))
    }

    /// A name.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        if name.is_empty() {
            String::new()
        } else {
            self.hash(name.as_bytes())
        }
    }

    /// A path or a name in bytes: component by component, what separates them stays.
    #[must_use]
    pub fn text(&self, text: &Text) -> Text {
        let parts = text.as_bytes().split(|byte| *byte == b'/').map(|part| {
            if part.is_empty() {
                String::new()
            } else {
                self.hash(part)
            }
        });
        Text::from(parts.collect::<Vec<_>>().join("/"))
    }

    fn names(&self, name: &mut Option<String>) {
        if let Some(name) = name {
            *name = self.name(name);
        }
    }

    fn texts(&self, text: &mut Option<Text>) {
        if let Some(text) = text {
            *text = self.text(text);
        }
    }

    /// A container: all that somebody named; not what the runtimes themselves call things.
    pub fn container(&self, container: &mut Container) {
        // Every field is named here, so that one that is added is thought of.
        let Container {
            runtime: _,
            id,
            name,
            namespace,
            pod,
            pod_namespace,
            image,
            owner,
            privileged: _,
            host_pid: _,
            host_paths,
            host_mounts,
            unproven: _,
        } = container;
        *id = self.name(id);
        for name in [name, pod, pod_namespace, image] {
            self.names(name);
        }
        if !matches!(namespace.as_deref(), Some("k8s.io" | "moby" | "default")) {
            self.names(namespace);
        }
        if let Some(Owner {
            kind: _,
            name,
            source: _,
        }) = owner
        {
            *name = self.name(name);
        }
        for path in host_paths {
            *path = self.text(path);
        }
        for HostMount {
            path,
            destination,
            propagation: _,
        } in host_mounts
        {
            *path = self.text(path);
            self.texts(destination);
        }
    }

    fn unit(&self, unit: &mut Option<String>) {
        const KINDS: [&str; 6] = ["service", "scope", "slice", "mount", "socket", "swap"];
        if let Some(unit) = unit {
            *unit = match unit.rsplit_once('.') {
                Some((name, kind)) if KINDS.contains(&kind) => format!("{}.{kind}", self.name(name)),
                _ => self.name(unit),
            };
        }
    }

    /// A process.
    pub fn process(&self, process: &mut Process) {
        let Process {
            pid: _,
            tid: _,
            comm: _,
            exe,
            cmdline,
            uid: _,
            start_time: _,
            parents: _,
            requester,
            mount_namespace: _,
            pid_namespace: _,
            unit,
            container,
        } = process;
        self.texts(exe);
        for argument in cmdline.iter_mut().flatten() {
            *argument = Text::from(self.hash(argument.as_bytes()));
        }
        self.unit(unit);
        if let Some(container) = container {
            self.container(container);
        }
        if let Some(Requester {
            pid: _,
            comm: _,
            unit,
            container,
        }) = requester.as_deref_mut()
        {
            self.unit(unit);
            if let Some(container) = container {
                self.container(container);
            }
        }
    }

    /// A target.
    pub fn target(&self, target: &mut Target) {
        let Target {
            path,
            path_base64,
            mount_id: _,
            fs_type,
            source,
            device: _,
            mount_namespace: _,
            propagation: _,
            container,
        } = target;
        *path = self.text(path);
        *path_base64 = None;
        // What file systems without a device are mounted from is their type, as a rule.
        let fs_type = fs_type.as_deref().map(str::as_bytes);
        if source.as_ref().map(Text::as_bytes) != fs_type {
            self.texts(source);
        }
        if let Some(container) = container {
            self.container(container);
        }
    }

    /// A holder.
    pub fn holder(&self, holder: &mut Holder) {
        let Holder {
            kind: _,
            also: _,
            refs: _,
            process,
            held_by,
            reason,
            fd: _,
            access: _,
            // Pids and command names.
            shared_with: _,
            path,
            path_base64,
            deleted: _,
            seen_as,
            seen_as_base64,
            mount_id: _,
            mount_namespace: _,
            through: _,
            counted: _,
            propagation: _,
            opened: _,
            opened_by,
            entered,
            attempts_blocked: _,
            evidence: _,
            takes_along: _,
        } = holder;
        if let Some(Entered {
            time: _,
            operation: _,
            namespace: _,
            from: _,
            container: Some(container),
            by: _,
        }) = entered.as_deref_mut()
        {
            self.container(container);
        }
        for process in [process, opened_by].into_iter().flatten() {
            self.process(process);
        }
        let constant = held_by.as_ref().is_some_and(|by| {
            [AIO_REQUEST, UNIX_GARBAGE, URING_REQUEST]
                .iter()
                .any(|own| by.as_bytes() == own.as_bytes())
        });
        if !constant {
            self.texts(held_by);
        }
        // Why it is suspected is said in words of ebusy's own, and may quote.
        self.names(reason);
        *path = self.text(path);
        *path_base64 = None;
        self.texts(seen_as);
        *seen_as_base64 = None;
    }

    /// An answer of `who`, with advice that says the same of the hashes.
    pub fn who(&self, who: &mut Who) {
        let Who {
            schema: _,
            time: _,
            leftover: _,
            target,
            references: _,
            holders,
            candidates,
            bystanders,
            probe: _,
            since: _,
            fixes: _,
        } = who;
        self.target(target);
        for holder in holders.iter_mut().chain(candidates).chain(bystanders) {
            self.holder(holder);
        }
        advise_who(who);
    }

    /// An incident, with advice that says the same of the hashes.
    pub fn incident(&self, incident: &mut Incident) {
        let Incident {
            schema: _,
            id: _,
            body,
            started: _,
            ended: _,
            outcome: _,
            flags: _,
            caller,
            target,
            references: _,
            holders,
            bystanders,
            probe: _,
            lost_events: _,
            noise,
            source: _,
            fixes: _,
        } = incident;
        let candidates = match body {
            IncidentBody::Umount(RefusedUmount {
                of_own_root: _,
                // Pids and command names, as those of who comes back.
                refusals: _,
                candidates,
                since: _,
                retry: _,
            }) => candidates.as_mut_slice(),
            IncidentBody::Operation(RefusedOperation {
                operation: _,
                reason: _,
                refusals: _,
            })
            | IncidentBody::Detached
            // Functions of the kernel.
            | IncidentBody::Slow(Slow {
                answered: _,
                error: _,
                looks: _,
                waits: _,
            }) => &mut [],
        };
        self.process(caller);
        self.target(target);
        for Noise { by, lost: _ } in noise {
            self.process(by);
        }
        for holder in holders.iter_mut().chain(candidates).chain(bystanders) {
            self.holder(holder);
        }
        // From what is redacted already: commands have paths and names in them.
        advise_incident(incident);
    }
}

#[cfg(test)]
mod tests {
    use super::Redactor;
    use crate::{
        model::samples,
        model::{Container, Entered, Holder, Incident, IncidentBody, Owner, Process, Target, Text},
    };

    #[test]
    fn a_path_keeps_its_shape_and_equal_names_stay_equal() {
        let redactor = Redactor::with_salt([7; 32]);
        let path = |text: &str| redactor.text(&Text::from(text)).to_str_lossy().into_owned();
        let (short, long) = (path("/srv/secret"), path("/srv/secret/log"));
        assert!(long.starts_with(&format!("{short}/h")), "{short} {long}");
        assert_eq!(long.matches('/').count(), 3);
        assert!(!long.contains("srv") && !long.contains("secret"));
        assert_eq!(path("/"), "/");
        assert_eq!(path("//a"), path("//a"));
        assert_ne!(path("/srv"), {
            let other = Redactor::new().unwrap();
            other.text(&Text::from("/srv")).to_str_lossy().into_owned()
        });
    }

    #[test]
    fn nothing_that_somebody_named_is_left() {
        let redactor = Redactor::new().unwrap();
        let secret = || Some("secret".to_owned());
        let text = || Text::from("/x/secret");
        let mut target = Target {
            path: text(),
            path_base64: secret(),
            fs_type: Some("overlay".into()),
            source: Some("overlay".into()),
            container: Some(Container {
                runtime: Some("containerd".into()),
                id: "secret".into(),
                name: secret(),
                namespace: secret(),
                pod: secret(),
                pod_namespace: secret(),
                image: secret(),
                owner: Some(Owner {
                    kind: "Job".into(),
                    name: "secret".into(),
                    source: "label".into(),
                }),
                host_paths: vec![text()],
                ..Container::default()
            }),
            ..Target::default()
        };
        let mut holder = Holder {
            entered: Some(Box::new(Entered {
                container: target.container.clone(),
                ..Entered::default()
            })),
            ..Holder::default()
        };
        redactor.holder(&mut holder);
        let json = serde_json::to_string(&holder).unwrap();
        assert!(!json.contains("secret") && json.contains("containerd"), "{json}");
        redactor.target(&mut target);
        let json = serde_json::to_string(&target).unwrap();
        assert!(!json.contains("secret"), "{json}");
        assert!(json.contains("containerd") && json.contains("\"overlay\""));
        let mut process = Process {
            exe: Some(text()),
            cmdline: Some(vec![text(), Text::from("secret")]),
            unit: Some("secret.service".into()),
            ..Process::default()
        };
        redactor.process(&mut process);
        let json = serde_json::to_string(&process).unwrap();
        assert!(!json.contains("secret"), "{json}");
        assert!(json.contains(".service\""));
    }

    #[test]
    fn an_incident_that_names_nobody_keeps_its_advice() {
        let redactor = Redactor::new().unwrap();
        let umount = samples::incident(Vec::new());
        let detached = Incident {
            body: IncidentBody::Detached,
            ..umount.clone()
        };
        for mut incident in [umount, detached] {
            redactor.incident(&mut incident);
            assert!(
                incident.fixes.iter().any(|fix| fix.command.is_some()),
                "{incident:#?}"
            );
        }
    }

    #[test]
    fn a_redacted_pod_name_is_still_one() {
        let redactor = Redactor::new().unwrap();
        let name = redactor.name("node-agent-x7k2p");
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
            "{name}"
        );
    }
}
