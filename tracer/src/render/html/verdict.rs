//! What an incident is about, in a sentence.

use super::{
    slow,
    text::{Apart, Name, Page, Words},
};
use crate::{
    identity::mount_claim,
    model::{Container, Holder, Incident, IncidentBody, Kind, Operation, Outcome, Target, Through},
    render::{kinds::way, names::claimed},
    text::Line,
};

/// `The root file system of ci/build could not be unmounted: node-agent (pid 48211) had /var/log/app.log open.`
pub(super) fn verdict(page: &mut Page, incident: &Incident) {
    target(page, &incident.target);
    let what = match &incident.body {
        IncidentBody::Umount(_) => "could not be unmounted",
        IncidentBody::Operation(refused) => undone(refused.operation),
        IncidentBody::Detached if incident.outcome == Some(Outcome::Released) => "was detached and lived on",
        IncidentBody::Detached => "was detached and lives on",
        IncidentBody::Slow(slow) => return slow::verdict(page, slow),
    };
    page.put(format_args!(" {what}: "));
    let Some(first) = incident.holders.first() else {
        page.put(format_args!("{}.", nobody(incident)));
        return;
    };
    holder(page, first);
    match incident.holders.len() - 1 {
        0 => page.put(format_args!(".")),
        1 => page.put(format_args!(", and 1 other holder.")),
        more => page.put(format_args!(", and {more} other holders.")),
    }
}

/// What did not happen to the target.
fn undone(operation: Operation) -> &'static str {
    match operation {
        Operation::Rmdir | Operation::Unlink | Operation::DmRemove => "could not be removed",
        Operation::Rename => "could not be renamed",
        Operation::Mount => "could not be mounted",
        Operation::Remount => "could not be remounted",
        Operation::Open => "could not be opened exclusively",
        Operation::LoopClear => "was in use after it was detached",
    }
}

/// Why there is no holder to tell of.
fn nobody(incident: &Incident) -> &'static str {
    let books = &incident.references;
    match &incident.body {
        IncidentBody::Detached => {
            return "nothing was found that keeps it; the kernel, or what ebusy does not see, has the last reference";
        }
        IncidentBody::Operation(_) => {
            return "what kept it was gone before ebusy could look, or is of a kind that ebusy does not know";
        }
        IncidentBody::Umount(_) | IncidentBody::Slow(_) => {}
    }
    match (books.sampled_at, books.counted) {
        (None, _) => "nobody could be looked for after the refusal",
        (_, Some(0)) => "what held it was gone before ebusy could look",
        (_, Some(_)) => "no process was found that holds it; it is something in the kernel",
        (_, None) => "no holder was found, and this tier does not count",
    }
}

fn holder(page: &mut Page, of: &Holder) {
    let path = Apart(of.path.as_bytes());
    match of.kind {
        Kind::Mount => {
            let at = Apart(of.seen_as.as_ref().unwrap_or(&of.path).as_bytes());
            page.put(format_args!("{}, at <code>{at}</code>", Words(&way(of))));
            if of.process.is_some() {
                page.put(format_args!(", in the mount namespace of "));
                process(page, of);
            } else if of.through == Through::Target {
                page.put(format_args!(", in the caller's own mount namespace"));
            }
            return;
        }
        Kind::ChildMount => {
            page.put(format_args!(
                "another mount is on top of it, at <code>{path}</code>"
            ));
            return;
        }
        _ => {}
    }
    process(page, of);
    match of.kind {
        Kind::Fd => page.put(format_args!(" had <code>{path}</code> open")),
        Kind::Cwd => page.put(format_args!(" had <code>{path}</code> as its working directory")),
        Kind::Root => page.put(format_args!(" had <code>{path}</code> as its root directory")),
        Kind::Exe => page.put(format_args!(" was running the program <code>{path}</code>")),
        Kind::Mmap => page.put(format_args!(" had <code>{path}</code> mapped into its memory")),
        _ => page.put(format_args!(" held <code>{path}</code> ({})", Words(&way(of)))),
    }
}

fn process(page: &mut Page, of: &Holder) {
    let Some(process) = &of.process else {
        page.put(format_args!("the kernel"));
        return;
    };
    page.put(format_args!("{}", Name(process.comm.as_bytes())));
    if let Some(container) = &process.container {
        page.put(format_args!(" in "));
        self::container(page, container);
    }
    page.put(format_args!(" (pid {})", process.pid));
}

fn target(page: &mut Page, target: &Target) {
    let claim = mount_claim(target.path.as_bytes());
    match (&target.container, claim) {
        (Some(of), Some(claim)) if claim.what == "rootfs" => {
            page.put(format_args!("The root file system of "));
            container(page, of);
        }
        (Some(of), Some(claim)) if !claim.what.starts_with("mount ") => {
            let what = claimed(Line::new(""), &claim.what).finish();
            page.put(format_args!("The {} of ", Words(what.trim())));
            container(page, of);
        }
        (Some(of), _) => {
            page.put(format_args!("<code>{}</code> of ", Apart(target.path.as_bytes())));
            container(page, of);
        }
        (None, _) => page.put(format_args!("<code>{}</code>", Apart(target.path.as_bytes()))),
    }
}

pub(super) fn container(page: &mut Page, of: &Container) {
    match (&of.pod, &of.name) {
        (Some(pod), name) => {
            if let Some(namespace) = &of.pod_namespace {
                page.put(format_args!("{}/", Name(namespace.as_bytes())));
            }
            page.put(format_args!("{}", Name(pod.as_bytes())));
            if let Some(name) = name {
                page.put(format_args!(" “{}”", Apart(name.as_bytes())));
            }
        }
        (None, Some(name)) => page.put(format_args!("container “{}”", Apart(name.as_bytes()))),
        (None, None) => page.put(format_args!("container {}", Name(of.short_id().as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use crate::{
        model::{
            Books, Holder, Incident, IncidentBody, Kind, Operation, Outcome, Process, Reason,
            RefusedOperation, Target, Through,
        },
        render::{html::text::Page, samples},
    };

    fn words(change: impl FnOnce(&mut Incident)) -> String {
        let mut of = samples::incident(vec![samples::plain(412, "tail", Kind::Fd, "/log")]);
        of.target = Target {
            path: "/srv/volume".into(),
            ..Target::default()
        };
        change(&mut of);
        let mut page = Page::default();
        verdict(&mut page, &of);
        page.0
    }

    fn refused(operation: Operation, reason: Reason, holders: Vec<Holder>) -> String {
        words(|of| {
            of.body = IncidentBody::Operation(RefusedOperation {
                operation,
                reason,
                refusals: samples::refusals(),
            });
            of.references = Books::default();
            of.holders = holders;
        })
    }

    #[test]
    fn each_operation_has_words_of_its_own() {
        let mount = Holder {
            kind: Kind::Mount,
            held_by: Some("/dev/loop3".into()),
            path: "/".into(),
            seen_as: Some("/mnt/data".into()),
            ..Holder::default()
        };
        let elsewhere = Holder {
            through: Through::PrivateCopy,
            process: Some(Process {
                pid: 905,
                comm: "lxcfs".into(),
                ..Process::default()
            }),
            ..mount.clone()
        };
        let child = Holder {
            kind: Kind::ChildMount,
            path: "/srv/volume".into(),
            ..Holder::default()
        };
        let writer = samples::plain(412, "tail", Kind::Fd, "/log");
        let detached = |outcome, holders: bool| {
            words(|of| {
                of.body = IncidentBody::Detached;
                of.outcome = outcome;
                if !holders {
                    of.holders.clear();
                }
            })
        };
        let all = [
            words(|_| {}),
            detached(None, true),
            detached(Some(Outcome::Released), true),
            detached(Some(Outcome::StillBusy), false),
            refused(Operation::Rmdir, Reason::MountPoint, vec![child]),
            refused(Operation::Unlink, Reason::Unknown, Vec::new()),
            refused(Operation::Rename, Reason::Unknown, Vec::new()),
            refused(Operation::Mount, Reason::OverlayInUse, vec![mount.clone(), mount]),
            refused(Operation::Open, Reason::DeviceInUse, vec![elsewhere]),
            refused(Operation::Remount, Reason::OpenFiles, vec![writer]),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        <code>/srv/volume</code> could not be unmounted: tail (pid 412) had <code>/log</code> open.
        <code>/srv/volume</code> was detached and lives on: tail (pid 412) had <code>/log</code> open.
        <code>/srv/volume</code> was detached and lived on: tail (pid 412) had <code>/log</code> open.
        <code>/srv/volume</code> was detached and lives on: nothing was found that keeps it; the kernel, or what ebusy does not see, has the last reference.
        <code>/srv/volume</code> could not be removed: another mount is on top of it, at <code>/srv/volume</code>.
        <code>/srv/volume</code> could not be removed: what kept it was gone before ebusy could look, or is of a kind that ebusy does not know.
        <code>/srv/volume</code> could not be renamed: what kept it was gone before ebusy could look, or is of a kind that ebusy does not know.
        <code>/srv/volume</code> could not be mounted: a mount that is there: /dev/loop3, at <code>/mnt/data</code>, in the caller's own mount namespace, and 1 other holder.
        <code>/srv/volume</code> could not be opened exclusively: a mount that is there: /dev/loop3, at <code>/mnt/data</code>, in the mount namespace of lxcfs (pid 905).
        <code>/srv/volume</code> could not be remounted: tail (pid 412) had <code>/log</code> open.
        "#);
    }
}
