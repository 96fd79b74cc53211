//! One holder, in one to five lines.

use super::{
    entered::way_in,
    kinds::{also, label, way},
    names,
    times::{between, duration, moment},
    view::View,
};
use crate::{
    advice::mountpoint_seen,
    identity::mount_claim,
    model::{Container, Holder, Kind, Process, Propagation, Target, Through},
    text::{Line, short_name},
};

/// The holder in at most so many lines, from one to five: the fifth is its way in.
pub(super) fn block(holder: &Holder, view: View<'_>, lines: usize) -> Vec<String> {
    let head = head(holder, view);
    let place = |label: &str| Line::sub(label);
    let lines = match lines {
        // A mount was made long ago; its namespace tells more than a time.
        3.. if holder.kind == Kind::Mount => vec![
            head,
            file(place(label(holder.kind)), holder, view.target, true),
            through(place("through"), holder, view.target),
        ],
        0 | 1 => vec![
            head.words(": ")
                .path(holder.path.as_bytes())
                .words(mark(holder))
                .maybe(4, format!(" ({})", copy(holder))),
        ],
        2 => {
            let line = file(place(label(holder.kind)), holder, view.target, false);
            let line = line.words(format!("; through {}", copy(holder)));
            vec![head, since(line.words("; since "), holder, view, false)]
        }
        3 => {
            let line = through(place("through"), holder, view.target);
            let line = since(line.words("; since "), holder, view, false);
            vec![
                head,
                file(place(label(holder.kind)), holder, view.target, true),
                line,
            ]
        }
        _ => [
            head,
            file(place(label(holder.kind)), holder, view.target, true),
            through(place("through"), holder, view.target),
            since(place("since"), holder, view, true),
        ]
        .into_iter()
        .chain(way_in(holder, view).filter(|_| lines > 4))
        .collect(),
    };
    lines.into_iter().map(Line::finish).collect()
}

/// In a list: `sleep 4242 of shop/web-0`.
pub(super) fn brief(holder: &Holder) -> String {
    match &holder.process {
        Some(process) => {
            let name = format!("{} {}", short_name(process.comm.as_bytes()), process.pid);
            match &process.container {
                Some(container) => format!("{name} of {}", names::container_short(container)),
                None => name,
            }
        }
        None => format!("{} {}", holder.kind.name(), short_name(holder.path.as_bytes())),
    }
}

fn head(holder: &Holder, view: View<'_>) -> Line {
    let line = Line::new("HOLDER");
    let line = match &holder.process {
        Some(process) => {
            let line = names::process(names::home(line, process, view.target), process);
            line.words(format!(", {}", way(holder)))
        }
        None => line.words(way(holder)),
    };
    let also: Vec<&str> = holder.also.iter().map(|kind| also(*kind)).collect();
    let line = if also.is_empty() {
        line
    } else {
        line.maybe(2, format!(", also {}", also.join(", ")))
    };
    match holder.shared_with.len() {
        0 => line,
        others if holder.kind == Kind::ChildMount => line.maybe(3, format!(", used by {others}")),
        others => line.maybe(1, format!(", shared with {others}")),
    }
}

fn mark(holder: &Holder) -> &'static str {
    if holder.deleted { " (deleted)" } else { "" }
}

/// Both paths of the file, or only the one inside the mount.
fn file(line: Line, holder: &Holder, target: &Target, both: bool) -> Line {
    let rootfs = target.container.is_some()
        && mount_claim(target.path.as_bytes()).is_some_and(|claim| claim.what == "rootfs");
    let inside = if rootfs {
        "in the container "
    } else {
        "in the mount "
    };
    let seen = holder
        .seen_as
        .as_ref()
        .filter(|seen| **seen != holder.path && both);
    if holder.path.as_bytes().is_empty() {
        return line.words("not looked up: at this tier that would take a reference on the mount");
    }
    let line = if both { line.words(inside) } else { line };
    let line = line.path(holder.path.as_bytes()).words(mark(holder));
    match seen {
        Some(seen) => {
            let contained = holder
                .process
                .as_ref()
                .is_some_and(|process| process.container.is_some());
            let seen_by = if contained {
                "; in the holder "
            } else {
                "; seen as "
            };
            line.words(seen_by).path(seen.as_bytes())
        }
        None => line,
    }
}

/// Which mount the reference is on, in few words.
fn copy(holder: &Holder) -> &'static str {
    match (holder.through, holder.propagation) {
        (Through::Target, _) if holder.kind == Kind::Mount => "the caller's own mount namespace",
        (Through::Target, _) => "the mount itself",
        (Through::PrivateCopy, _) => "a private copy",
        (Through::PropagatedCopy, Some(Propagation::Slave | Propagation::SharedSlave)) => {
            "its own slave copy"
        }
        (Through::PropagatedCopy, Some(Propagation::Shared)) => "its own shared copy",
        (Through::PropagatedCopy, _) => "a propagated copy",
    }
}

fn through(line: Line, holder: &Holder, target: &Target) -> Line {
    let line = line.words(copy(holder));
    let line = if holder.through == Through::Target {
        line
    } else {
        line.words(" of the mount")
    };
    let container = holder
        .process
        .as_ref()
        .and_then(|process| process.container.as_ref());
    let volume = container.and_then(|container| volume(container, holder, target));
    let line = match volume {
        Some(volume) if holder.through == Through::PropagatedCopy => line.maybe(3, volume),
        _ => line,
    };
    let line = match holder.mount_namespace {
        Some(namespace) => line.maybe(2, format!(", mnt ns {namespace}")),
        None => line,
    };
    // Not on the mount that the books speak of: it blocks once the first cause is mended, or had gone by the end.
    if holder.counted {
        line
    } else {
        line.words(", not in the last count")
    }
}

/// ` (hostPath / at /host, HostToContainer)`: the volume through which the container got its copy.
fn volume(container: &Container, holder: &Holder, target: &Target) -> Option<String> {
    let mountpoint = mountpoint_seen(holder)?;
    let inside = |source: &[u8]| {
        let source = source.strip_suffix(b"/").unwrap_or(source);
        let rest = target.path.as_bytes().strip_prefix(source)?;
        if !(rest.is_empty() || rest.starts_with(b"/")) {
            return None;
        }
        // Only if the rest of the path is the same on both sides is it this volume.
        mountpoint.strip_suffix(rest)
    };
    let volumes = container
        .host_paths
        .iter()
        .filter_map(|path| Some((path, inside(path.as_bytes())?)));
    let (source, at) = volumes.max_by_key(|(path, _)| path.as_bytes().len())?;
    let at = if at.is_empty() { b"/" } else { at };
    let kubernetes = container.pod.is_some();
    let kind = if kubernetes { "hostPath" } else { "volume" };
    let propagation = match (holder.propagation?, kubernetes) {
        (Propagation::Slave, true) => "HostToContainer",
        (Propagation::Slave, false) => "rslave",
        (_, true) => "Bidirectional",
        (_, false) => "rshared",
    };
    Some(format!(
        " ({kind} {} at {}, {propagation})",
        short_name(source.as_bytes()),
        short_name(at)
    ))
}

/// Since when, and who opened it.
fn since(line: Line, holder: &Holder, view: View<'_>, in_full: bool) -> Line {
    let line = match holder.opened {
        Some(opened) => {
            let held = between(opened, view.now);
            let line = line.words(moment(opened, view.now, view.zone));
            if held > 0 {
                line.maybe(6, format!(", {}", duration(held)))
            } else {
                line
            }
        }
        None if holder.kind == Kind::Fd && in_full => line.words("unknown: its open was not seen"),
        None => line.words("unknown"),
    };
    let line = match (&holder.opened_by, &holder.process) {
        (Some(by), Some(process)) if in_full => opened_by(line, by, process),
        _ => line,
    };
    let line = match view.attempts {
        Some(all) if all > 1 && holder.attempts_blocked < all => {
            line.words(format!(", blocked {} of {all} attempts", holder.attempts_blocked))
        }
        _ => line,
    };
    let Some(first) = holder.shared_with.first().filter(|_| in_full) else {
        return line;
    };
    let fd = first.fd.map(|fd| format!(" (fd {fd})")).unwrap_or_default();
    let more = match holder.shared_with.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    line.maybe(
        5,
        format!(
            ", {} {} {}{fd}{more}",
            if holder.kind == Kind::ChildMount {
                "used by"
            } else {
                "shared with"
            },
            short_name(first.comm.as_bytes()),
            first.pid
        ),
    )
}

fn opened_by(line: Line, by: &Process, process: &Process) -> Line {
    let same = by.pid == process.pid && (by.start_time == process.start_time || by.start_time.is_none());
    let thread = by
        .tid
        .filter(|tid| *tid != by.pid)
        .map(|tid| format!(" (tid {tid})"))
        .unwrap_or_default();
    if same {
        return line.maybe(4, format!(", opened by the same process{thread}"));
    }
    let container = by
        .container
        .as_ref()
        .filter(|of| !of.is_same_as(process.container.as_ref()));
    let of = container
        .map(|of| format!(" of {}", names::container_short(of)))
        .unwrap_or_default();
    line.maybe(
        4,
        format!(
            ", opened by {} {}{thread}{of}",
            short_name(by.comm.as_bytes()),
            by.pid
        ),
    )
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{View, block};
    use crate::{
        model::{Access, Holder, Kind, Process, Sharer, Through},
        render::samples::{self, at, plain},
    };

    fn text(holder: &Holder, lines: usize) -> String {
        let target = samples::target();
        let view = View {
            target: &target,
            attempts: Some(50),
            now: at(2_463),
            zone: &TimeZone::UTC,
        };
        block(holder, view, lines).join("\n")
    }

    #[test]
    fn fewer_lines_say_less() {
        let holder = samples::holder();
        insta::assert_snapshot!(text(&holder, 4), @r#"
        HOLDER monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 (read)
          file   in the container /var/log/app.log; in the holder /host/run/containerd/[..]/rootfs/var/log/app.log
          through  its own slave copy of the mount (hostPath / at /host, HostToContainer), mnt ns 4026533012
          since  03:02:11, 41 min, opened by the same process (tid 48230)
        "#);
        insta::assert_snapshot!(text(&holder, 3), @r#"
        HOLDER monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 (read)
          file   in the container /var/log/app.log; in the holder /host/run/containerd/[..]/rootfs/var/log/app.log
          through  its own slave copy of the mount (hostPath / at /host, HostToContainer); since 03:02:11, 41 min
        "#);
        insta::assert_snapshot!(text(&holder, 2), @r#"
        HOLDER monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 (read)
          file   /var/log/app.log; through its own slave copy; since 03:02:11, 41 min
        "#);
        insta::assert_snapshot!(text(&holder, 1), @r#"
        HOLDER monitoring/node-agent-x7k2p "agent": node-agent, pid 48211, fd 37 (read): /var/log/app.log
        "#);
    }

    #[test]
    fn every_kind() {
        let kinds = [Kind::Fd, Kind::Cwd, Kind::Root, Kind::Exe, Kind::Mmap];
        let all: Vec<String> = kinds
            .iter()
            .map(|kind| text(&plain(412, "tail", *kind, "/var/a"), 4))
            .collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        HOLDER tail, pid 412, fd 3 (read)
          file   in the container /var/a; seen as /run/containerd/io.containerd.runtime.v2.task/[..]/rootfs/var/a
          through  the mount itself, mnt ns 4026531841
          since  unknown: its open was not seen
        HOLDER tail, pid 412, working directory
          cwd    in the container /var/a; seen as /run/containerd/io.containerd.runtime.v2.task/[..]/rootfs/var/a
          through  the mount itself, mnt ns 4026531841
          since  unknown
        HOLDER tail, pid 412, root directory
          root   in the container /var/a; seen as /run/containerd/io.containerd.runtime.v2.task/[..]/rootfs/var/a
          through  the mount itself, mnt ns 4026531841
          since  unknown
        HOLDER tail, pid 412, running executable
          exe    in the container /var/a; seen as /run/containerd/io.containerd.runtime.v2.task/[..]/rootfs/var/a
          through  the mount itself, mnt ns 4026531841
          since  unknown
        HOLDER tail, pid 412, mapped file
          mmap   in the container /var/a; seen as /run/containerd/io.containerd.runtime.v2.task/[..]/rootfs/var/a
          through  the mount itself, mnt ns 4026531841
          since  unknown
        "#);
        let child = Holder {
            process: None,
            ..plain(0, "", Kind::ChildMount, "/data")
        };
        insta::assert_snapshot!(text(&child, 2), @r#"
        HOLDER a mount on top of it
          mount  /data; through the mount itself; since unknown
        "#);
    }

    #[test]
    fn what_else_there_is_to_say() {
        let sharer = |pid: u32| Sharer {
            pid,
            comm: "cat".into(),
            fd: Some(0),
        };
        let holder = Holder {
            also: vec![Kind::Mmap, Kind::Exe],
            access: Some(Access::Path),
            deleted: true,
            counted: false,
            attempts_blocked: 31,
            shared_with: vec![sharer(415), sharer(416)],
            opened: Some(at(-200_000_000)),
            opened_by: Some(Process {
                pid: 7,
                comm: "init".into(),
                ..Process::default()
            }),
            ..plain(412, "tail", Kind::Fd, "/var/a")
        };
        insta::assert_snapshot!(text(&holder, 4), @r#"
        HOLDER tail, pid 412, fd 3 (path only), also mapped, running, shared with 2
          file   in the container /var/a (deleted); seen as /run/containerd/[..]/rootfs/var/a
          through  the mount itself, mnt ns 4026531841, not in the last count
          since  2023-11-12 20:09:57, 2 d 7 h, blocked 31 of 50 attempts, shared with cat 415 (fd 0) and 1 more
        "#);
    }

    #[test]
    fn volumes_by_what_both_paths_have_in_common() {
        let mut holder = samples::holder();
        let paths = |holder: &mut Holder, paths: &[&str]| {
            let container = holder.process.as_mut().unwrap().container.as_mut().unwrap();
            container.host_paths = paths.iter().map(|path| (*path).into()).collect();
        };
        let third = |holder: &Holder| text(holder, 4).lines().nth(2).unwrap().to_owned();
        paths(&mut holder, &["/", "/run", "/ru"]);
        // A longer source does not fit what the holder sees.
        assert!(
            third(&holder).contains("(hostPath /run at /host/run, HostToContainer)"),
            "{}",
            third(&holder)
        );
        paths(&mut holder, &["/var"]);
        assert!(!third(&holder).contains("hostPath"));
        paths(&mut holder, &["/"]);
        holder.seen_as = None;
        assert!(!third(&holder).contains("hostPath"));
        holder.through = Through::Target;
        assert_eq!(third(&holder), "  through  the mount itself, mnt ns 4026533012");
    }
}
