//! An incident as text.

use super::{
    Style,
    books::{Account, again, books, state, unseen},
    detached, names,
    noise::noise,
    operation,
    report::{Report, check},
    slow,
    view::View,
};
use crate::{
    model::{Incident, IncidentBody, Outcome, RefusedUmount},
    text::Line,
};

/// The incident in at most 18 lines of 110 columns.
#[must_use]
pub fn incident(incident: &Incident, style: &Style) -> String {
    match &incident.body {
        IncidentBody::Umount(umount) => refused(incident, umount, style),
        IncidentBody::Operation(refused) => operation::report(incident, refused, style),
        IncidentBody::Detached => detached::report(incident, style),
        IncidentBody::Slow(slow) => slow::report(incident, slow, style),
    }
}

fn refused(incident: &Incident, umount: &RefusedUmount, style: &Style) -> String {
    let attempts = Some(umount.refusals.attempts);
    let now = incident.seen_at();
    let released = incident.outcome.is_some_and(Outcome::is_over);
    let account = Account {
        books: &incident.references,
        holders: &incident.holders,
        target: &incident.target,
        attempts,
        lost: Some(incident.lost_events),
        probe: incident.probe,
    };
    Report {
        verdict: verdict(incident, umount),
        holders: &incident.holders,
        no_holder: incident.holders.is_empty().then(|| no_holder(incident)),
        candidates: &umount.candidates,
        bystanders: &incident.bystanders,
        view: View {
            target: &incident.target,
            attempts,
            now,
            zone: &style.zone,
        },
        account: [
            books(account),
            state(incident, &umount.refusals, umount.retry.as_ref(), &style.zone),
        ]
        .into_iter()
        .chain(again(incident, umount, &style.zone))
        .chain(unseen(&incident.references))
        .chain(noise(incident))
        .collect(),
        fixes: &incident.fixes,
        over: matches!(incident.outcome, Some(Outcome::Released | Outcome::Gone)),
        check: (!released).then(|| check(&incident.target)),
    }
    .write(style)
}

fn verdict(incident: &Incident, umount: &RefusedUmount) -> String {
    let line = Line::new("EBUSY").with(|line| names::target(line, &incident.target));
    let line = line
        .words(", refused to ")
        .with(|line| names::caller(line, &incident.caller));
    let line = names::other_callers(line, &incident.caller, &umount.refusals);
    if incident.flags.is_empty() {
        line
    } else {
        line.maybe(1, format!(", {}", incident.flags.join("|")))
    }
    .finish()
}

/// What it means that nobody was found.
fn no_holder(incident: &Incident) -> String {
    let books = &incident.references;
    let line = Line::new("HOLDER");
    match (books.sampled_at, books.counted) {
        (None, _) => line.words("unknown: nobody was looked for, as no snapshot could be taken after the refusal"),
        (_, Some(0)) => line.words("none any more: it was gone before ebusy looked, right after the attempt"),
        _ if !books.gaps.is_empty() => line.words("none found where ebusy could look: there may be one"),
        (_, Some(_)) => line.words(
            "none found: no open file, directory, mapping or mount of a live process; something in the kernel",
        ),
        (_, None) => line.words("none found, and the references are not counted: there may be one"),
    }
    .finish()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::incident;
    use crate::{
        advice::advise_incident,
        model::{Books, Holder, Incident, Kind, Outcome, Parent, Through, Tier},
        render::{
            Style,
            samples::{self, plain},
        },
    };

    fn style() -> Style {
        Style {
            terminal: false,
            zone: TimeZone::UTC,
        }
    }

    fn text(of: &Incident) -> String {
        incident(of, &style())
    }

    #[test]
    fn one_holder() {
        insta::assert_snapshot!(text(&samples::incident(vec![samples::holder()])), @r#"
        EBUSY  rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4), refused to containerd-shim 19871
        HOLDER monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 (read)
          file   in the container /var/log/app.log; in the holder /host/run/containerd/[..]/rootfs/var/log/app.log
          through  its own slave copy of the mount (hostPath / at /host, HostToContainer), mnt ns 4026533012
          since  03:02:11, 41 min, opened by the same process (tid 48230)
        BOOKS  2 counted = 2 explained + 0 unexplained, the same in 50 of 50 attempts; 0 lost; tier fentry
        STATE  gave up after 2.46 s, 50 attempts (03:43:19); containerd retries by itself, within 5 min
        FIX    have node-agent close the file, or end it (the pod is recreated):
                 kubectl -n monitoring delete pod node-agent-x7k2p
               or leave it running, and take its copy away (its files stay open; runs no program of its image):
                 nsenter -t 48211 -p umount -i -n -N 48211 -l /host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs
               to keep it from happening again, narrow that pod's hostPath; HostToContainer is why its files block,
               not the cure
        CHECK  exit status 0 means free:
                 ebusy who 9c41d0e7a2f4
        "#);
    }

    #[test]
    fn two_holders_and_a_bystander() {
        let mut of = samples::incident(vec![samples::holder(), plain(412, "bash", Kind::Cwd, "/var")]);
        let private = Holder {
            through: Through::PrivateCopy,
            ..plain(900, "scanner", Kind::Fd, "/etc/passwd")
        };
        of.bystanders = vec![private];
        insta::assert_snapshot!(text(&of), @r#"
        EBUSY  rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4), refused to containerd-shim 19871
        HOLDER monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 (read)
          file   /var/log/app.log; through its own slave copy; since 03:02:11, 41 min
        HOLDER bash, pid 412, working directory
          cwd    /var; through the mount itself; since unknown
        BESIDE not blocking, but keeping the file system busy: scanner 900
        BOOKS  3 counted = 3 explained + 0 unexplained, the same in 50 of 50 attempts; 0 lost; tier fentry
        STATE  gave up after 2.46 s, 50 attempts (03:43:19); containerd retries by itself, within 5 min
        FIX    have node-agent close the file, or end it (the pod is recreated):
                 kubectl -n monitoring delete pod node-agent-x7k2p
               and have bash leave the directory, or end it:
                 kill -HUP 412
               or leave it running, and take its copy away (its files stay open; runs no program of its image):
                 nsenter -t 48211 -p umount -i -n -N 48211 -l /host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs
               +1 more to try: see --format json
        CHECK  exit status 0 means free:
                 ebusy who 9c41d0e7a2f4
        "#);
    }

    #[test]
    fn five_holders() {
        let mut holders = vec![samples::holder()];
        holders.extend((1..5).map(|index| plain(400 + index, "tail", Kind::Fd, "/var/log/messages")));
        insta::assert_snapshot!(text(&samples::incident(holders)), @r#"
        EBUSY  rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4), refused to containerd-shim 19871
        HOLDER monitoring/node-agent-x7k2p "agent": node-agent, pid 48211, fd 37 (read): /var/log/app.log
        HOLDER tail, pid 401, fd 3 (read): /var/log/messages (the mount itself)
        HOLDER tail, pid 402, fd 3 (read): /var/log/messages (the mount itself)
        HOLDER tail, pid 403, fd 3 (read): /var/log/messages (the mount itself)
        HOLDER tail, pid 404, fd 3 (read): /var/log/messages (the mount itself)
        BOOKS  6 counted = 6 explained + 0 unexplained, the same in 50 of 50 attempts; 0 lost; tier fentry
        STATE  gave up after 2.46 s, 50 attempts (03:43:19); containerd retries by itself, within 5 min
        FIX    have node-agent close the file, or end it (the pod is recreated):
                 kubectl -n monitoring delete pod node-agent-x7k2p
               and have tail close the file, or end it:
                 kill 401
               and have tail close the file, or end it:
                 kill 402
               +4 more to try: see --format json
        CHECK  exit status 0 means free:
                 ebusy who 9c41d0e7a2f4
        "#);
    }

    #[test]
    fn nine_holders() {
        let holders = (0..9)
            .map(|index| plain(400 + index, "tail", Kind::Fd, "/var/log/messages"))
            .collect();
        let mut of = samples::incident(holders);
        samples::umount_of(&mut of).candidates = vec![plain(77, "loop", Kind::Fd, "/disk.img")];
        of.bystanders = (0..5)
            .map(|index| plain(500 + index, "idle", Kind::Fd, "/x"))
            .collect();
        insta::assert_snapshot!(text(&of), @r#"
        EBUSY  rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4), refused to containerd-shim 19871
        HOLDER tail, pid 400, fd 3 (read): /var/log/messages (the mount itself)
        HOLDER tail, pid 401, fd 3 (read): /var/log/messages (the mount itself)
        HOLDER tail, pid 402, fd 3 (read): /var/log/messages (the mount itself)
        HOLDER tail, pid 403, fd 3 (read): /var/log/messages (the mount itself)
        HOLDER tail, pid 404, fd 3 (read): /var/log/messages (the mount itself)
               +4 more, with 4 references: see --format json
        MAYBE  suspected, not seen by reference: loop 77
        BESIDE not blocking, but keeping the file system busy: idle 500, idle 501, idle 502 and 2 more
        BOOKS  9 counted = 9 explained + 0 unexplained, the same in 50 of 50 attempts; 0 lost; tier fentry
        STATE  gave up after 2.46 s, 50 attempts (03:43:19); containerd retries by itself, within 5 min
        FIX    have tail close the file, or end it:
                 kill 400
               and have tail close the file, or end it:
                 kill 401
               and do the same for 1 other holders
        CHECK  exit status 0 means free:
                 ebusy who 9c41d0e7a2f4
        "#);
    }

    #[test]
    fn nobody_found() {
        let mut of = samples::incident(Vec::new());
        of.references = samples::books(1, 0);
        of.outcome = None;
        of.ended = None;
        advise_incident(&mut of);
        insta::assert_snapshot!(text(&of), @r#"
        EBUSY  rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4), refused to containerd-shim 19871
        HOLDER none found: no open file, directory, mapping or mount of a live process; something in the kernel
        BOOKS  1 counted = 0 explained + 1 unexplained; 0 lost; tier fentry
        STATE  still refused after 2.46 s, 50 attempts (03:43:19); containerd retries by itself, within 5 min
        FIX    look again while it is refused, for what comes and goes:
                 ebusy who 9c41d0e7a2f4
               or wait and try again: what no process has, the kernel may drop by itself
        CHECK  exit status 0 means free:
                 ebusy who 9c41d0e7a2f4
        "#);
        of.references.gaps = vec![
            "a descriptor table changed under the walk".to_owned(),
            "too many sockets".to_owned(),
        ];
        assert!(text(&of).contains("HOLDER none found where ebusy could look: there may be one\n"));
        let unseen = "UNSEEN a descriptor table changed under the walk, and 1 more (`gaps` of the JSON)\n";
        assert!(text(&of).contains(unseen), "{}", text(&of));
        of.references = samples::books(0, 0);
        assert!(text(&of).contains("HOLDER none any more: "));
        of.references = Books {
            counted: None,
            unexplained: None,
            ..of.references
        };
        assert!(text(&of).contains("HOLDER none found, and the references are not counted"));
        of.references = Books::default();
        assert!(text(&of).contains("HOLDER unknown: ") && text(&of).contains("BOOKS  no snapshot"));
    }

    #[test]
    fn a_plain_mount_and_a_person() {
        let mut of = samples::incident(vec![plain(412, "bash", Kind::Cwd, "/")]);
        of.target.path = "/mnt/data".into();
        of.target.container = None;
        of.target.fs_type = Some("ext4".into());
        of.holders[0].seen_as = Some("/mnt/data".into());
        of.caller.comm = "umount".into();
        samples::umount_of(&mut of).refusals.callers[0].comm = "umount".into();
        of.caller.parents = vec![Parent {
            pid: 300,
            comm: "fish".into(),
            ..Parent::default()
        }];
        samples::umount_of(&mut of).refusals.attempts = 1;
        of.flags = vec!["UMOUNT_NOFOLLOW".into()];
        of.outcome = Some(Outcome::Released);
        of.probe = Tier::Tracepoint;
        insta::assert_snapshot!(text(&of), @r#"
        EBUSY  /mnt/data (ext4), refused to umount 19871, run by fish 300, UMOUNT_NOFOLLOW
        HOLDER bash, pid 412, working directory
          cwd    in the mount /; seen as /mnt/data
          through  the mount itself, mnt ns 4026531841
          since  unknown
        BOOKS  1 counted = 1 explained + 0 unexplained; 0 lost; tier tracepoint
        STATE  released after 32 s, 1 attempt refused (03:43:49)
        FIX    for the next time: have bash leave the directory, or end it:
                 kill -HUP 412
        "#);
    }

    #[test]
    fn on_a_terminal_only_labels_are_set_off() {
        let mut of = samples::incident(vec![samples::holder()]);
        of.holders[0].path = "/\x1b[31mred".into();
        let text = incident(
            &of,
            &Style {
                terminal: true,
                zone: TimeZone::UTC,
            },
        );
        assert!(text.starts_with("\x1b[1;31mEBUSY  \x1b[0mrootfs of"));
        assert!(text.contains("\x1b[1mHOLDER \x1b[0m") && text.contains("/\\x1b[31mred"));
        assert_eq!(text.matches('\x1b').count(), 12);
    }
}
