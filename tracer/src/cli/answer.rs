//! Which mounts answer a question, and what to say of what has none.

use super::{
    exit,
    log_lines::Subject,
    look::{Found, Look},
};
use crate::{
    identity::mount_claim,
    kernel::Mount,
    logs::{BusyError, plain},
    model::Target,
    text::{said, say::say},
};

/// What is to be looked at, and what is known without a look.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) targets: Vec<Asked>,
    pub(super) status: u8,
}

/// A mount that was asked about.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) mount: Mount,
    pub(super) target: Target,
    /// That it is mounted is why something else than its umount was refused.
    pub(super) leftover: bool,
    /// A line only names it beside what it is about.
    pub(super) aside: bool,
}

impl Answer {
    /// Adds mounts, each once.
    pub(super) fn add(&mut self, found: Vec<(Mount, Target)>, leftover: bool) {
        self.extend(found, leftover, false);
    }

    fn extend(&mut self, found: Vec<(Mount, Target)>, leftover: bool, aside: bool) {
        for (mount, target) in found {
            let known = self
                .targets
                .iter_mut()
                .find(|known| known.mount.address == mount.address);
            match known {
                Some(known) => {
                    known.leftover |= leftover;
                    known.aside &= aside;
                }
                None => self.targets.push(Asked {
                    mount,
                    target,
                    leftover,
                    aside,
                }),
            }
        }
    }

    fn not(&mut self, status: u8, words: &str) {
        self.status = exit::of_both(self.status, status);
        say!("{words}");
    }

    /// A name that is no container's or pod's may be a path from here; where it is none, nothing is said of that.
    pub(super) fn by_name_as_path(&mut self, look: &mut Look<'_>, path: &[u8]) {
        let found = look.by_path(path);
        if !matches!(found, Found::Nothing) {
            self.at(path, found);
        }
    }

    pub(super) fn by_path(&mut self, look: &mut Look<'_>, path: &[u8]) {
        self.at(path, look.by_path(path));
    }

    fn at(&mut self, path: &[u8], found: Found) {
        let shown = said(path);
        match found {
            Found::Mounts(found, note) => {
                if let Some(note) = note {
                    say!("{note}");
                }
                if found.len() > 1 && found.iter().all(|(_, target)| target.path == found[0].1.path) {
                    say!(
                        "{} mounts are on top of each other at {shown}, the topmost first",
                        found.len()
                    );
                }
                self.add(found, false);
            }
            Found::Unknown(at) => self.not(exit::UNKNOWN, &not_followed(path, &at)),
            Found::Nothing if mount_claim(path).is_some() => self.not(
                exit::NOT_THERE,
                &format!("{shown} is not mounted in any mount namespace: there is nothing to unmount"),
            ),
            Found::Nothing => self.not(
                exit::NOT_THERE,
                &format!("ebusy: {shown} is not a mountpoint in any mount namespace; see: findmnt -o TARGET"),
            ),
        }
    }

    /// The mounts that log lines are about; says what it could not match.
    pub(super) fn by_log(&mut self, look: &mut Look<'_>, subject: &Subject) {
        let leftover = matches!(
            subject.line.error,
            BusyError::Remove | BusyError::Reference | BusyError::Mount
        );
        if let Some((found, is_target)) = mounts_of(look, subject) {
            if subject.lines > 1 || !is_target {
                say!("{}", subject.words());
            }
            if !is_target {
                say!("what it is about could not be matched; it also names this:");
            }
            self.extend(found, leftover && is_target, !is_target);
            return;
        }
        let target = subject
            .line
            .target
            .as_ref()
            .map(|target| plain(target.as_bytes()));
        if let Some(path) = target.filter(|target| target.starts_with(b"/")) {
            match look.named(&path) {
                Found::Mounts(found, note) => {
                    if let Some(note) = note {
                        say!("{note}");
                    }
                    self.add(found, leftover);
                    return;
                }
                Found::Unknown(at) => {
                    self.not(
                        exit::UNKNOWN,
                        &format!("{}: {}", subject.words(), not_followed(&path, &at)),
                    );
                    return;
                }
                // Others of its container may be busy: but not this one.
                Found::Nothing if mount_claim(&path).is_some_and(|claim| claim.owner.is_some()) => {
                    self.not(exit::NOT_THERE, &subject.gone());
                    return;
                }
                Found::Nothing => {}
            }
        }
        let mut found = Vec::new();
        for name in subject.names() {
            // Several names of one line: one that could be several things says less than another.
            if let Ok(named) = look.by_name(&name) {
                found.extend(named);
            }
        }
        if let Some(uid) = subject.line.pod_uid.as_ref().filter(|_| found.is_empty()) {
            found = look.by_pod_uid(uid);
        }
        if found.is_empty() {
            self.not(exit::UNKNOWN, &subject.not_matched());
        } else {
            if subject.lines > 1 {
                say!("{}", subject.words());
            }
            self.extend(found, false, false);
        }
    }
}

/// The mounts that a line names, by path or by source; whether it is about them.
fn mounts_of(look: &mut Look<'_>, subject: &Subject) -> Option<(Vec<(Mount, Target)>, bool)> {
    let known = subject.line.known(|path| look.is_known(path).then_some(()))?;
    // A device or a directory of a control file system is no more than mentioned.
    let found = match look.named(&known.path) {
        Found::Mounts(found, _) => found,
        _ => look.by_source(&known.path),
    };
    (!found.is_empty()).then_some((found, known.is_target))
}

fn not_followed(path: &[u8], at: &[u8]) -> String {
    format!(
        "{} is a symbolic link that the kernel does not have in memory: cannot tell where {} leads; give the path that \
         `realpath` prints for it",
        said(at),
        said(path)
    )
}
