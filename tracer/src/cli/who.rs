//! `ebusy who`: who would block an umount now, without unmounting.

use std::{
    ffi::{OsStr, OsString},
    io::Read as _,
    os::unix::ffi::{OsStrExt, OsStringExt as _},
    path::{Component, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};

use super::{Common, exit, need_root, output::Results};
use crate::{
    identity::{Containers, Lookup, WatchPatterns},
    incident::{History, of_snapshot},
    kernel::{Mount, Reader},
    live::{
        Host, Identities, Mounted, MountsView, NamespaceMounts, describe, enter_host_namespace,
        own_namespace, sample, stuck,
    },
    model::{Container, Target, Who as Report},
    probe::{Tier, reader_only},
    render::escape,
};

/// Standard input is read no further than this.
const LOG_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// A path, a container id or its unique prefix, NAMESPACE/POD, or - for a log line on stdin;
    /// without it every container mount that is stuck now
    what: Option<OsString>,
}

/// What was asked about.
enum Question {
    Path(Vec<u8>),
    /// A container or a pod; else the path that it is from here.
    Name {
        name: String,
        path: Vec<u8>,
    },
    Stuck,
}

impl Who {
    pub(super) fn run(self, common: &Common) -> Result<u8> {
        let question = self.question()?;
        need_root()?;
        let own_namespace = own_namespace();
        let mut results = Results::new(common)?;
        enter_host_namespace()?;
        let mut host = Host::new()?;
        let reader = reader_only(&host.layout)?;
        host.attach(&reader)?;
        let look = Look {
            view: MountsView::read(host.kernel(&reader), host.task()),
            containers: Arc::new(Containers::new("/proc", "/")),
            host: &host,
            reader: &reader,
        };
        let targets = match &question {
            Question::Path(path) => look.by_path(path, own_namespace),
            Question::Name { name, path } => match look.by_name(name)? {
                found if found.is_empty() => look.by_path(path, own_namespace),
                found => found,
            },
            Question::Stuck => {
                let kernel = host.kernel(&reader);
                stuck(kernel, &look.containers, &look.view)
                    .into_iter()
                    .map(|s| (s.mount, s.target))
                    .collect()
            }
        };
        if targets.is_empty() {
            return nothing(&question, common);
        }
        let identities = Identities::new(host.clock, Arc::clone(&look.containers), common.cmdline);
        let mut status = exit::OK;
        for (mount, target) in targets {
            let found = sample(&host, &reader, &identities, &mount);
            let report = report(&host, &found, target);
            status = status.max(verdict(&report));
            for gap in &found.gaps {
                log::warn!("{gap}");
            }
            results.who(&report)?;
        }
        Ok(status)
    }

    fn question(&self) -> Result<Question> {
        let what = match self.what.as_deref().map(OsStrExt::as_bytes) {
            None => return Ok(Question::Stuck),
            Some(b"-") => {
                let mut log = Vec::new();
                std::io::stdin()
                    .lock()
                    .take(LOG_MAX)
                    .read_to_end(&mut log)
                    .context("reading a log line from stdin")?;
                let Some(path) = path_in_log(&log) else {
                    bail!(
                        "no path of a refused umount in the log line; expected `failed to unmount target PATH: device or \
                         resource busy` or `umount: PATH: target is busy`"
                    );
                };
                return Ok(Question::Path(path));
            }
            Some(b"") => {
                bail!("an empty name; give a path, a container id, NAMESPACE/POD, or - for a log line")
            }
            Some(what) => what,
        };
        let path = absolute(what)?;
        if what.starts_with(b"/") || what.starts_with(b".") {
            return Ok(Question::Path(path));
        }
        let name = String::from_utf8_lossy(what).into_owned();
        Ok(Question::Name { name, path })
    }
}

/// From the directory that ebusy was started in; no link is followed, nothing is looked up.
fn absolute(what: &[u8]) -> Result<Vec<u8>> {
    let base = if what.starts_with(b"/") {
        PathBuf::new()
    } else {
        std::env::current_dir()?
    };
    let mut path = PathBuf::from("/");
    for part in base.join(OsStr::from_bytes(what)).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Ok(path.into_os_string().into_vec())
}

/// A look at all mounts.
struct Look<'a> {
    view: MountsView,
    containers: Arc<Containers>,
    host: &'a Host,
    reader: &'a Reader,
}

impl Look<'_> {
    fn describe(&self, namespace: &NamespaceMounts, mounted: &Mounted) -> (Mount, Target) {
        let kernel = self.host.kernel(self.reader);
        (
            mounted.mount.clone(),
            describe(kernel, &self.containers, &self.view, namespace, mounted),
        )
    }

    /// The mount at a path: in the namespace that ebusy was started in, else in the host's, else wherever it is.
    fn by_path(&self, path: &[u8], own: Option<u32>) -> Vec<(Mount, Target)> {
        let own = own.and_then(|number| self.view.namespace(number)).into_iter();
        let found = own
            .chain(&self.view.namespaces)
            .find_map(|namespace| Some((namespace, namespace.at(path)?)));
        found
            .map(|(namespace, mounted)| self.describe(namespace, mounted))
            .into_iter()
            .collect()
    }

    /// All mounts of a container or a pod, copies in other namespaces left out.
    fn by_name(&self, name: &str) -> Result<Vec<(Mount, Target)>> {
        let pods = match self.containers.lookup(name) {
            Lookup::Found(found) => found,
            Lookup::Ambiguous(found) => bail!(
                "{name} could be {}; give more of the id",
                ids(found.iter().map(|f| &f.container.id))
            ),
            Lookup::Nothing => Vec::new(),
        };
        // A runtime with a state directory of its own is known by its mounts only.
        let wanted = |container: &Container| {
            let pod = container.pod_namespace.as_deref().zip(container.pod.as_deref());
            container.id.starts_with(name)
                || pods.iter().any(|pod| pod.container.id == container.id)
                || pod.is_some_and(|(namespace, pod)| name.split_once('/') == Some((namespace, pod)))
        };
        let kernel = self.host.kernel(self.reader);
        let mut copies = Vec::new();
        let mut found: Vec<(Mount, Target)> = Vec::new();
        for (namespace, mounted) in self.view.all() {
            if copies.contains(&mounted.mount.address) {
                continue;
            }
            let container = self.containers.container_of_mount_path(&mounted.path);
            if container.is_some_and(|container| !container.id.is_empty() && wanted(&container)) {
                copies.extend(kernel.mounts_of_superblock(mounted.mount.superblock).0);
                found.push(self.describe(namespace, mounted));
            }
        }
        let mut names: Vec<&String> = found
            .iter()
            .filter_map(|(_, target)| target.container.as_ref().map(|container| &container.id))
            .collect();
        names.sort_unstable();
        names.dedup();
        if pods.is_empty() && !name.contains('/') && names.len() > 1 {
            bail!("{name} could be {}; give more of the id", ids(names.into_iter()));
        }
        Ok(found)
    }
}

fn ids<'a>(ids: impl Iterator<Item = &'a String>) -> String {
    let mut ids: Vec<String> = ids
        .map(|id| escape(id.as_bytes()).chars().take(20).collect())
        .collect();
    let more = ids.len().saturating_sub(5);
    ids.truncate(5);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", ids.join(", "))
}

fn report(host: &Host, found: &crate::kernel::Snapshot, target: Target) -> Report {
    let (mut references, holders, bystanders) = of_snapshot(found, &History::default());
    references.sampled_at = Some(host.clock.timestamp(found.started));
    Report {
        schema: Report::SCHEMA.to_owned(),
        time: host.clock.timestamp(found.started),
        target,
        references,
        holders,
        candidates: Vec::new(),
        bystanders,
        probe: Tier::Tracepoint.name().to_owned(),
    }
}

/// Found if anything blocks; unknown is not "nothing".
fn verdict(report: &Report) -> u8 {
    match (report.references.counted, report.references.remaining) {
        _ if !report.holders.is_empty() => exit::FOUND,
        (Some(0), Some(0)) => exit::OK,
        (Some(_), Some(_)) => exit::FOUND,
        _ => exit::UNKNOWN,
    }
}

/// Nothing of that name is mounted: that is free where it names a container's mount, and a mistake otherwise.
fn nothing(question: &Question, common: &Common) -> Result<u8> {
    match question {
        Question::Stuck => {
            eprintln!("no container mount is stuck: every mounted one has a process of its container");
            Ok(exit::OK)
        }
        Question::Path(path) => {
            let patterns: WatchPatterns = common.patterns()?;
            let shown = escape(path);
            if patterns.covers(path) {
                eprintln!("{shown} is not mounted in any mount namespace: there is nothing to unmount");
                return Ok(exit::OK);
            }
            bail!("{shown} is not a mountpoint in any mount namespace; see: findmnt -o TARGET")
        }
        Question::Name { name, .. }
            if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            eprintln!("container {name} has no mounts: there is nothing to unmount");
            Ok(exit::OK)
        }
        Question::Name { name, .. } => bail!(
            "no container, pod or mount named {}; give a path, a container id or its unique prefix, or NAMESPACE/POD",
            escape(name.as_bytes())
        ),
    }
}

/// The path in a log line of containerd, CRI-O, or umount(8).
fn path_in_log(log: &[u8]) -> Option<Vec<u8>> {
    let find = |needle: &[u8], from: usize| {
        log.get(from..)?
            .windows(needle.len())
            .position(|window| window == needle)
            .map(|at| at + from)
    };
    let pairs: [(&[u8], &[u8]); 3] = [
        (b"failed to unmount target ", b": device or resource busy"),
        (b"umount: ", b": target is busy"),
        (b"unmount ", b": device or resource busy"),
    ];
    pairs.iter().find_map(|(before, after)| {
        let start = find(before, 0)? + before.len();
        let end = find(after, start)?;
        let path = &log[start..end];
        path.starts_with(b"/").then(|| path.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::path_in_log;

    #[test]
    fn paths_in_log_lines() {
        let containerd = b"error=\"failed rootfs umount: failed to unmount target \
            /run/containerd/io.containerd.runtime.v2.task/k8s.io/abc/rootfs: device or resource busy: unknown\"";
        assert_eq!(
            path_in_log(containerd).unwrap(),
            b"/run/containerd/io.containerd.runtime.v2.task/k8s.io/abc/rootfs"
        );
        assert_eq!(
            path_in_log(b"umount: /mnt/x y: target is busy.").unwrap(),
            b"/mnt/x y"
        );
        assert_eq!(path_in_log(b"umount: relative: target is busy."), None);
        assert_eq!(path_in_log(b"all is well\xff"), None);
    }
}
