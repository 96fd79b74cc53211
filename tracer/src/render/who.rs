//! Who would block an umount, as text.

use jiff::tz::TimeZone;

use super::{
    Style,
    books::{Account, books, unseen},
    names,
    report::Report,
    times::moment,
    view::View,
};
use crate::{advice::after, model::Who, text::Line};

/// The answer in at most 18 lines of 110 columns.
#[must_use]
pub fn who(who: &Who, style: &Style) -> String {
    let account = Account {
        books: &who.references,
        holders: &who.holders,
        target: &who.target,
        attempts: None,
        lost: None,
        probe: who.probe,
    };
    Report {
        verdict: verdict(who),
        holders: &who.holders,
        no_holder: None,
        candidates: &who.candidates,
        bystanders: &who.bystanders,
        view: View {
            target: &who.target,
            attempts: None,
            now: who.time,
            zone: &style.zone,
        },
        account: std::iter::once(books(account))
            .chain(state(who, &style.zone))
            .chain(unseen(&who.references))
            .collect(),
        fixes: &who.fixes,
        over: false,
        check: None,
    }
    .write(style)
}

/// Since when it is stuck, and who tries again.
fn state(who: &Who, zone: &TimeZone) -> Option<String> {
    let since = who.since.as_ref()?;
    let line = Line::new("STATE").words(format!(
        "stuck since {} at the latest ({})",
        moment(since.time, who.time, zone),
        since.source.words()
    ));
    let then = after(&who.target);
    Some(line.maybe(1, format!("; {then}")).finish())
}

fn verdict(who: &Who) -> String {
    let books = &who.references;
    let owners = who.holders.len();
    let (label, words) = match (owners, books.counted, books.remaining) {
        (0, Some(0), None | Some(0)) if who.leftover => (
            "BUSY",
            ": still mounted, which is why it is busy; nothing blocks its umount".to_owned(),
        ),
        (0, Some(0), None | Some(0)) => ("FREE", ": nothing blocks its umount".to_owned()),
        (0, None, _) => (
            "UNSURE",
            ": no holder found, but references are not counted at this tier".to_owned(),
        ),
        (0, Some(counted), remaining) => {
            let all = counted.saturating_add(remaining.unwrap_or(0));
            (
                "BUSY",
                format!(": {all} references block its umount, but no process was found for them"),
            )
        }
        (1, ..) => ("BUSY", ": 1 holder blocks its umount".to_owned()),
        (many, ..) => ("BUSY", format!(": {many} holders block its umount")),
    };
    Line::new(label)
        .with(|line| names::target(line, &who.target))
        .words(words)
        .finish()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::who;
    use crate::{
        model::{Books, Kind, Who},
        render::{
            Style,
            samples::{self, plain},
        },
    };

    fn text(of: &Who) -> String {
        who(
            of,
            &Style {
                terminal: false,
                zone: TimeZone::UTC,
            },
        )
    }

    #[test]
    fn busy() {
        insta::assert_snapshot!(text(&samples::who(vec![samples::holder()])), @r#"
        BUSY   rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4): 1 holder blocks its umount
        HOLDER monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 (read)
          file   in the container /var/log/app.log; in the holder /host/run/containerd/[..]/rootfs/var/log/app.log
          through  its own slave copy of the mount (hostPath / at /host, HostToContainer), mnt ns 4026533012
          since  03:02:11, 41 min, opened by the same process (tid 48230)
        BOOKS  2 counted = 2 explained + 0 unexplained (overlay file: 2); tier tracepoint
        FIX    have node-agent close the file, or end it (the pod is recreated):
                 kubectl -n monitoring delete pod node-agent-x7k2p
               or leave it running, and take its copy away (its files stay open; runs no program of its image):
                 nsenter -t 48211 -p umount -i -n -N 48211 -l /host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs
               to keep it from happening again, narrow that pod's hostPath; HostToContainer is why its files block,
               not the cure
        "#);
        let two = vec![samples::holder(), plain(412, "bash", Kind::Cwd, "/var")];
        insta::assert_snapshot!(text(&samples::who(two)), @r#"
        BUSY   rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4): 2 holders block its umount
        HOLDER monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 (read)
          file   in the container /var/log/app.log; in the holder /host/run/containerd/[..]/rootfs/var/log/app.log
          through  its own slave copy of the mount (hostPath / at /host, HostToContainer), mnt ns 4026533012
          since  03:02:11, 41 min, opened by the same process (tid 48230)
        HOLDER bash, pid 412, working directory
          cwd    in the container /var; seen as /run/containerd/io.containerd.runtime.v2.task/k8s.io/[..]/rootfs/var
          through  the mount itself, mnt ns 4026531841
          since  unknown
        BOOKS  3 counted = 3 explained + 0 unexplained (overlay file: 2); tier tracepoint
        FIX    have node-agent close the file, or end it (the pod is recreated):
                 kubectl -n monitoring delete pod node-agent-x7k2p
               and have bash leave the directory, or end it:
                 kill -HUP 412
               or leave it running, and take its copy away (its files stay open; runs no program of its image):
                 nsenter -t 48211 -p umount -i -n -N 48211 -l /host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs
               +1 more to try: see --format json
        "#);
    }

    #[test]
    fn free_unknown_and_unexplained() {
        let mut of = samples::who(Vec::new());
        insta::assert_snapshot!(text(&of), @r#"
        FREE   rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4): nothing blocks its umount
        BOOKS  0 counted = 0 explained + 0 unexplained; tier tracepoint
        "#);
        of.references = samples::books(2, 0);
        insta::assert_snapshot!(text(&of), @r#"
        BUSY   rootfs of ci/wf-build-7h2kq "main": 2 references block its umount, but no process was found for them
        BOOKS  2 counted = 0 explained + 2 unexplained; tier tracepoint
        "#);
        of.references = Books {
            counted: None,
            unexplained: None,
            ..Books::default()
        };
        insta::assert_snapshot!(text(&of), @r#"
        UNSURE rootfs of ci/wf-build-7h2kq "main": no holder found, but references are not counted at this tier
        BOOKS  not counted at this tier, 0 explained; tier tracepoint
        "#);
    }
}
