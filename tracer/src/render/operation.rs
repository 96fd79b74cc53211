//! A refused rmdir, mount, remount and the like as text: an incident that is not about umount2.

use super::{Style, books::state, detached, names, noise::noise, report::Report, view::View};
use crate::{
    model::{Incident, Operation, Outcome, Reason, RefusedOperation},
    text::{Command, Line},
};

/// The incident in at most 18 lines of 110 columns.
pub(super) fn report(incident: &Incident, refused: &RefusedOperation, style: &Style) -> String {
    let now = incident.seen_at();
    let RefusedOperation {
        operation, refusals, ..
    } = refused;
    let pending = operation.is_pending();
    let state = if pending {
        detached::state(incident, "detach", &style.zone)
    } else {
        state(incident, refusals, None, &style.zone)
    };
    let over = incident.outcome.is_some_and(Outcome::is_over);
    Report {
        verdict: verdict(incident, refused),
        holders: &incident.holders,
        no_holder: incident.holders.is_empty().then(|| {
            Line::new("HOLDER")
                .words(
                    "none found: it was gone before ebusy looked, or is of a kind that ebusy does not know",
                )
                .finish()
        }),
        candidates: &[],
        bystanders: &incident.bystanders,
        view: View {
            target: &incident.target,
            attempts: (!pending).then_some(refusals.attempts),
            now,
            zone: &style.zone,
        },
        account: [why(incident, refused), state]
            .into_iter()
            .chain(noise(incident))
            .collect(),
        fixes: &incident.fixes,
        over: matches!(incident.outcome, Some(Outcome::Released | Outcome::Gone)),
        check: (!over).then(|| check(incident, refused)).flatten(),
    }
    .write(style)
}

fn verdict(incident: &Incident, refused: &RefusedOperation) -> String {
    let words = match refused.operation {
        Operation::Rmdir => "rmdir of ",
        Operation::Unlink => "unlink of ",
        Operation::Rename => "rename of ",
        Operation::Mount => "mount of ",
        Operation::Remount => "remount of ",
        Operation::Open => "exclusive open of ",
        Operation::DmRemove => "removal of ",
        Operation::LoopClear => return cleared(incident),
    };
    let line = Line::new("EBUSY").words(words);
    let line = match &incident.target.container {
        Some(_) => names::target(line, &incident.target),
        None => line.path(incident.target.path.as_bytes()),
    };
    let line = line
        .words(", refused to ")
        .with(|line| names::caller(line, &incident.caller));
    names::other_callers(line, &incident.caller, &refused.refusals).finish()
}

/// A loop device that was told to give up its file, which was not refused.
fn cleared(incident: &Incident) -> String {
    let now = match incident.outcome {
        Some(Outcome::Released) => ": free",
        _ => ": still in use",
    };
    let line = Line::new("LOOP").path(incident.target.path.as_bytes());
    let line = match &incident.target.source {
        Some(file) => line.words(" on ").path(file.as_bytes()),
        None => line,
    };
    line.words(", detached by ")
        .with(|line| names::caller(line, &incident.caller))
        .words(now)
        .finish()
}

/// What the kernel refuses for, in words.
pub(super) fn reason(refused: &RefusedOperation) -> &'static str {
    match refused.reason {
        Reason::MountPoint => "something is mounted on it in the caller's mount namespace",
        Reason::MountedThere => "it is mounted right there already",
        Reason::OverlayInUse => "a layer is the upper or work directory of an overlay that is still there",
        Reason::DeviceInUse if refused.operation.is_pending() => {
            "the kernel said yes, and waits until nobody has the device open"
        }
        Reason::DeviceInUse => "the block device is in use",
        Reason::OpenFiles => "files are open for writing, or were removed and are still open",
        Reason::Unknown => "nothing was found that explains it",
    }
}

fn why(incident: &Incident, refused: &RefusedOperation) -> String {
    Line::new("WHY")
        .words(reason(refused))
        .words(format!(
            "; {} lost; tier {}",
            incident.lost_events, incident.probe
        ))
        .finish()
}

/// What to run to see whether it is free.
fn check(incident: &Incident, refused: &RefusedOperation) -> Option<(&'static str, Command)> {
    let (words, command): (_, &[&'static str]) = match (refused.operation, refused.reason) {
        (Operation::LoopClear, _) => ("no such device once it is free", &["losetup"]),
        (Operation::DmRemove, _) => ("open count 0 once nobody has it", &["dmsetup", "info"]),
        (_, Reason::MountPoint | Reason::MountedThere) => {
            ("prints nothing once it is free", &["findmnt", "--mountpoint"])
        }
        (_, Reason::OpenFiles) => ("no HOLDER that writes", &["ebusy", "who"]),
        _ => return None,
    };
    let command = Command::new(command).path(incident.target.path.as_bytes())?;
    Some((words, command))
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use crate::{
        advice::advise_incident,
        model::{
            Access, Books, Holder, IncidentBody, Kind, Operation, Process, Propagation, Reason, Refusals,
            RefusedOperation, Sharer, Target, Through, Tier,
        },
        render::{Style, incident, samples},
    };

    fn text(operation: Operation, reason: Reason, path: &str, holders: Vec<Holder>) -> String {
        let mut of = samples::incident(Vec::new());
        of.body = IncidentBody::Operation(RefusedOperation {
            operation,
            reason,
            refusals: Refusals {
                attempts: 1,
                bursts: 1,
                callers: Vec::new(),
            },
        });
        of.target = Target {
            path: path.into(),
            ..Target::default()
        };
        of.caller = Process {
            pid: 812,
            comm: "rm".into(),
            ..Process::default()
        };
        of.probe = Tier::Tracepoint;
        of.references = Books {
            sampled_at: of.references.sampled_at,
            ..Books::default()
        };
        of.holders = holders;
        advise_incident(&mut of);
        let style = Style {
            terminal: false,
            zone: TimeZone::UTC,
        };
        incident(&of, &style)
    }

    fn mount(through: Through) -> Holder {
        Holder {
            kind: Kind::Mount,
            refs: 1,
            held_by: Some("/dev/loop3".into()),
            path: "/".into(),
            seen_as: Some("/mnt/data".into()),
            mount_namespace: Some(4_026_532_180),
            propagation: Some(Propagation::Private),
            through,
            counted: true,
            process: (through != Through::Target).then(|| Process {
                pid: 18_905,
                comm: "lxcfs".into(),
                ..Process::default()
            }),
            ..Holder::default()
        }
    }

    #[test]
    fn a_directory_with_a_mount_on_it() {
        let holder = Holder {
            kind: Kind::ChildMount,
            refs: 1,
            counted: true,
            held_by: Some("tmpfs".into()),
            path: "/srv/volume".into(),
            seen_as: Some("/srv/volume".into()),
            shared_with: vec![Sharer {
                pid: 700,
                comm: "tail".into(),
                fd: Some(3),
            }],
            ..Holder::default()
        };
        insta::assert_snapshot!(text(Operation::Rmdir, Reason::MountPoint, "/srv/volume", vec![holder]), @r#"
        EBUSY  rmdir of /srv/volume, refused to rm 812
        HOLDER a mount on top of it: tmpfs, used by 1
          mount  in the mount /srv/volume
          through  the mount itself
          since  unknown, used by tail 700 (fd 3)
        WHY    something is mounted on it in the caller's mount namespace; 0 lost; tier tracepoint
        STATE  gave up after 2.46 s, 1 attempt (03:43:19)
        FIX    have tail leave the mount on top, or end it:
                 kill 700
               and unmount /srv/volume first, which is mounted on top (whoever uses that mount):
                 umount /srv/volume
               that umount will be refused in turn because of tail 700:
                 ebusy who /srv/volume
        CHECK  prints nothing once it is free:
                 findmnt --mountpoint /srv/volume
        "#);
    }

    #[test]
    fn a_device_in_a_private_copy_and_here() {
        let holders = vec![mount(Through::PrivateCopy), mount(Through::Target)];
        insta::assert_snapshot!(text(Operation::Open, Reason::DeviceInUse, "/dev/loop3", holders), @r#"
        EBUSY  exclusive open of /dev/loop3, refused to rm 812
        HOLDER lxcfs, pid 18905, a mount that is there: /dev/loop3
          mount  in the mount /; seen as /mnt/data
          through  a private copy of the mount, mnt ns 4026532180
        HOLDER a mount that is there: /dev/loop3
          mount  in the mount /; seen as /mnt/data
          through  the caller's own mount namespace, mnt ns 4026532180
        WHY    the block device is in use; 0 lost; tier tracepoint
        STATE  gave up after 2.46 s, 1 attempt (03:43:19)
        FIX    take away the copy that lxcfs has (runs no program of its image):
                 nsenter -t 18905 -p umount -i -n -N 18905 /mnt/data
               and unmount /mnt/data:
                 umount /mnt/data
               or end lxcfs:
                 kill 18905
               +2 more to try: see --format json
        "#);
    }

    fn opener() -> Holder {
        Holder {
            kind: Kind::Fd,
            refs: 1,
            fd: Some(7),
            access: Some(Access::Read),
            path: "/dev/loop3".into(),
            seen_as: Some("/dev/loop3".into()),
            counted: true,
            process: Some(Process {
                pid: 700,
                comm: "dd".into(),
                ..Process::default()
            }),
            ..Holder::default()
        }
    }

    #[test]
    fn a_loop_device_that_stays() {
        insta::assert_snapshot!(text(Operation::LoopClear, Reason::DeviceInUse, "/dev/loop3", vec![opener()]), @r#"
        LOOP   /dev/loop3, detached by rm 812: still in use
        HOLDER dd, pid 700, fd 7 (read)
          file   in the mount /dev/loop3
          through  the mount itself
          since  unknown: its open was not seen
        WHY    the kernel said yes, and waits until nobody has the device open; 0 lost; tier tracepoint
        STATE  still in use when ebusy stopped, 32 s after the detach (03:43:49)
        FIX    have dd close the file, or end it:
                 kill 700
               then the kernel frees /dev/loop3 by itself; losetup -d once more changes nothing
        CHECK  no such device once it is free:
                 losetup /dev/loop3
        "#);
    }

    #[test]
    fn a_mapped_device_with_another_on_top() {
        let above = Holder {
            kind: Kind::Kernel,
            refs: 1,
            held_by: Some("/dev/dm-1".into()),
            path: "/dev/dm-0".into(),
            counted: true,
            ..Holder::default()
        };
        insta::assert_snapshot!(text(Operation::DmRemove, Reason::DeviceInUse, "/dev/mapper/data", vec![above]), @r#"
        EBUSY  removal of /dev/mapper/data, refused to rm 812
        HOLDER held by the kernel: /dev/dm-1
          file   in the mount /dev/dm-0
          through  the mount itself
          since  unknown
        WHY    the block device is in use; 0 lost; tier tracepoint
        STATE  gave up after 2.46 s, 1 attempt (03:43:19)
        FIX    remove /dev/dm-1, once nothing uses that:
                 dmsetup remove /dev/dm-1
               then remove /dev/mapper/data once more:
                 dmsetup remove /dev/mapper/data
               or now, for the kernel to remove it when the last one closes it:
                 dmsetup remove --deferred /dev/mapper/data
               dmsetup remove --force does not help: it only makes all I/O of those who have it fail
        CHECK  open count 0 once nobody has it:
                 dmsetup info /dev/mapper/data
        "#);
    }

    #[test]
    fn nothing_found() {
        insta::assert_snapshot!(text(Operation::Mount, Reason::Unknown, "/mnt", Vec::new()), @r#"
        EBUSY  mount of /mnt, refused to rm 812
        HOLDER none found: it was gone before ebusy looked, or is of a kind that ebusy does not know
        WHY    nothing was found that explains it; 0 lost; tier tracepoint
        STATE  gave up after 2.46 s, 1 attempt (03:43:19)
        FIX    see which processes have a mount there:
                 sh -c 'grep -lF -e "$1" /proc/[0-9]*/mountinfo' sh /mnt
               look for leaked, detached and copied mounts:
                 ebusy audit
        "#);
    }
}
