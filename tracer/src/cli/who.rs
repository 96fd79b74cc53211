//! `ebusy who`: who would block an umount now, without unmounting.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt as _},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, bail};

use super::{
    Common, exit,
    log_lines::{self, Asked},
    need_root,
    output::Results,
};
use crate::{
    advice::advise_who,
    by_proc::{BLIND, ProcMounts},
    confine,
    identity::{BootClock, Containers, Lookup, ProcessReader, WatchPatterns},
    incident::{History, of_snapshot},
    kernel::{Mount, Reader},
    live::{
        Host, Identities, Mounted, MountsView, NamespaceMounts, by_runtime_state, describe,
        enter_host_namespace, follow_links, own_namespace, sample, stuck,
    },
    logs::LogClock,
    model::{Container, Since, SinceSource, Target, Tier, Who as Report, earlier},
    probe::{Choice, reader_only},
    text::{said, say::say},
    watchdog::{self, Step},
};

#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// A path, a container id or its unique prefix, NAMESPACE/POD, or - for a log line on stdin;
    /// without it every container mount that is stuck now
    what: Option<OsString>,
    /// Replace paths, names of pods and containers, and command lines by hashes with a salt of this answer
    #[arg(long)]
    redact: bool,
}

/// What was asked about.
enum Question {
    Path(Vec<u8>),
    /// A container or a pod; else the path that it is from here.
    Name {
        name: String,
        path: Vec<u8>,
    },
    /// Log lines, which are read once ebusy is confined.
    Log(Vec<Asked>),
    Stuck,
}

impl Who {
    pub(super) fn run(self, common: &Common) -> Result<u8> {
        let mut question = self.question()?;
        need_root()?;
        watchdog::start()?;
        let own_namespace = own_namespace();
        let mut results = Results::redacted(common, self.redact)?;
        // Where there is no reader, the mounts of the namespace that ebusy was started in count as well.
        let started_in = ProcMounts::read(own_namespace);
        enter_host_namespace()?;
        let kernel = kernel(common.probe)?;
        confine::while_looking(results.to_file());
        if let Question::Log(asked) = &mut question {
            // How long that lasts is up to whoever writes it.
            let _step = watchdog::within(Step::Waiting, &[]);
            *asked = log_lines::read(std::io::stdin().lock(), LogClock::of_host())?;
        }
        let (host, reader) = match kernel {
            Ok(kernel) => kernel,
            Err(why) => {
                say!("tier proc, {why}: {BLIND}");
                if common.cmdline {
                    say!(
                        "command lines are not shown at tier proc: to read one from /proc can wait for its process"
                    );
                }
                let mounts = [started_in?, ProcMounts::read(self::own_namespace())?];
                let status = by_proc(&question, &mounts, &mut results)?;
                return results.finish(status);
            }
        };
        let mut look = Look {
            view: MountsView::read(host.kernel(&reader), host.task()),
            containers: Arc::new(Containers::new("/proc", "/")),
            host: &host,
            reader: &reader,
        };
        look.containers
            .learn_all(look.view.paths_of(self::own_namespace()));
        let mut status = exit::OK;
        let targets = match &question {
            Question::Path(path) => look.everywhere(path, own_namespace),
            Question::Name { name, path } => match look.by_name(name)? {
                found if found.is_empty() => look.everywhere(path, own_namespace),
                found => found,
            },
            Question::Log(asked) => look.by_log(asked, own_namespace, &mut status)?,
            Question::Stuck => {
                let kernel = host.kernel(&reader);
                stuck(kernel, &look.containers, &look.view)
                    .into_iter()
                    .map(|s| (s.mount, s.target))
                    .collect()
            }
        };
        if targets.is_empty() {
            let nothing = nothing(&question, common)?;
            return results.finish(status.max(nothing));
        }
        let identities = Identities::new(host.clock, Arc::clone(&look.containers), common.cmdline);
        for (mount, target) in targets {
            let _step = watchdog::within(Step::References, target.path.as_bytes());
            let found = sample(&host, &reader, &identities, &mount, &[]);
            let mut report = report(&host, &found, target);
            report.since = since(&question, &report.target, &look.containers);
            status = status.max(verdict(&report));
            for gap in &found.gaps {
                log::warn!("{gap}");
            }
            results.who(&report)?;
        }
        results.finish(status)
    }

    fn question(&self) -> Result<Question> {
        let what = match self.what.as_deref().map(OsStrExt::as_bytes) {
            None => return Ok(Question::Stuck),
            Some(b"-") => return Ok(Question::Log(Vec::new())),
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

/// The kernel, if it lets us read it; otherwise why not, where that is no reason to give up.
pub(super) fn kernel(choice: Choice) -> Result<std::result::Result<(Host, Reader), String>> {
    if choice == Choice::Only(Tier::Proc) {
        return Ok(Err("as it was asked for".to_owned()));
    }
    let load = || {
        let mut host = Host::new()?;
        let reader = reader_only(&host.layout)?;
        host.attach(&reader)?;
        Ok((host, reader))
    };
    match load() {
        Ok(kernel) => Ok(Ok(kernel)),
        Err(error) if choice == Choice::Auto => {
            let error: anyhow::Error = error;
            Ok(Err(format!("because kernel memory cannot be read ({error:#})")))
        }
        Err(error) => Err(error),
    }
}

/// The answer where /proc is all there is. Nothing found is not "nothing there".
fn by_proc(question: &Question, mounts: &[ProcMounts; 2], results: &mut Results) -> Result<u8> {
    let containers = Arc::new(Containers::new("/proc", "/"));
    let clock = BootClock::sample();
    containers.learn_all(mounts.iter().flat_map(ProcMounts::paths));
    let processes = ProcessReader::new(clock, Arc::clone(&containers));
    let of_containers = || {
        mounts.iter().flat_map(|mounts| {
            mounts
                .of_containers(&containers)
                .map(move |(line, of)| (mounts, line, of))
        })
    };
    let at = |path: &[u8]| mounts.iter().find_map(|mounts| Some((mounts, mounts.at(path)?)));
    let mut found: Vec<_> = match question {
        Question::Path(path) => at(path).into_iter().collect(),
        Question::Name { name, path } => {
            let named = of_containers().filter(|(_, _, container)| goes_by(container, name));
            let named: Vec<_> = named.map(|(mounts, line, _)| (mounts, line)).collect();
            if named.is_empty() {
                at(path).into_iter().collect()
            } else {
                named
            }
        }
        Question::Log(asked) => {
            let mut named = Vec::new();
            for asked in asked {
                let mount = asked.path().and_then(|path| at(&path));
                if mount.is_none() {
                    say!("{}", asked.not_seen_by_proc());
                }
                named.extend(mount);
            }
            named
        }
        Question::Stuck => {
            let alive = containers.containers_alive();
            let stuck = of_containers().filter(|(_, _, container)| !alive.contains_key(&container.id));
            stuck.map(|(mounts, line, _)| (mounts, line)).collect()
        }
    };
    let mut seen = HashSet::new();
    found.retain(|(_, line)| seen.insert(line.id));
    if found.is_empty() {
        say!("no such mount in this mount namespace; others are not seen at tier proc");
        return Ok(exit::UNKNOWN);
    }
    let mut status = exit::OK;
    for (mounts, line) in found {
        let report = mounts.who(line, &processes, Path::new("/proc"), clock.now());
        status = status.max(verdict(&report));
        results.who(&report)?;
    }
    Ok(status)
}

/// Whether that is its id or the beginning of it, or its pod.
fn goes_by(container: &Container, name: &str) -> bool {
    let pod = container.pod_namespace.as_deref().zip(container.pod.as_deref());
    container.id.starts_with(name) || pod.is_some_and(|pod| name.split_once('/') == Some(pod))
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
        let own = own.and_then(|number| self.view.namespace(number));
        let at = |path: &[u8]| {
            own.into_iter()
                .chain(self.view.namespaces.iter().map(AsRef::as_ref))
                .find_map(|namespace| Some((namespace, namespace.at(path)?)))
        };
        // Links are followed where ebusy is now, and only as far as no file system has to be asked.
        let without_links = || {
            let here = self.view.namespace(own_namespace()?)?;
            at(&follow_links(here, path, true))
        };
        at(path)
            .or_else(without_links)
            .map(|(namespace, mounted)| self.describe(namespace, mounted))
            .into_iter()
            .collect()
    }

    /// The same, and at last in the namespaces that no process is in.
    fn everywhere(&mut self, path: &[u8], own: Option<u32>) -> Vec<(Mount, Target)> {
        let found = self.by_path(path, own);
        if !found.is_empty() {
            return found;
        }
        let known = self.view.namespaces.len();
        let kernel = self.host.kernel(self.reader);
        if self.view.add_hidden(kernel).is_none() || self.view.namespaces.len() == known {
            return Vec::new();
        }
        self.by_path(path, own)
    }

    /// The mounts that log lines are about, each once; says what it could not match.
    fn by_log(&mut self, asked: &[Asked], own: Option<u32>, status: &mut u8) -> Result<Vec<(Mount, Target)>> {
        let mut found: Vec<(Mount, Target)> = Vec::new();
        for asked in asked {
            let mut mounts = match (asked.path(), asked.source()) {
                (Some(path), _) => self.everywhere(&path, own),
                (None, Some(source)) => self.by_source(source),
                (None, None) => Vec::new(),
            };
            // A path that is not mounted any more says that this one is free; others of its container may not be.
            if asked.line.target.is_none() {
                for name in asked.names() {
                    mounts.extend(self.by_name(&name)?);
                }
                if mounts.is_empty() && asked.names().is_empty() {
                    *status = exit::UNKNOWN;
                }
            }
            if mounts.is_empty() {
                say!("{}", asked.not_matched());
            } else if asked.lines > 1 {
                say!("{}", asked.words());
            }
            for (mount, target) in mounts {
                if !found.iter().any(|(known, _)| known.address == mount.address) {
                    found.push((mount, target));
                }
            }
        }
        Ok(found)
    }

    /// The mounts of a data set or device, copies left out.
    fn by_source(&self, source: &[u8]) -> Vec<(Mount, Target)> {
        let kernel = self.host.kernel(self.reader);
        let mut copies = Vec::new();
        let mut found = Vec::new();
        for (namespace, mounted) in self.view.originals_first() {
            if copies.contains(&mounted.mount.address)
                || kernel.device_name(&mounted.mount).as_deref() != Some(source)
            {
                continue;
            }
            copies.extend(kernel.mounts_of_superblock(mounted.mount.superblock).0);
            found.push(self.describe(namespace, mounted));
        }
        found
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
        let wanted = |container: &Container| {
            goes_by(container, name) || pods.iter().any(|pod| pod.container.id == container.id)
        };
        let kernel = self.host.kernel(self.reader);
        let mut copies = Vec::new();
        let mut found: Vec<(Mount, Target)> = Vec::new();
        for (namespace, mounted) in self.view.originals_first() {
            if copies.contains(&mounted.mount.address) {
                continue;
            }
            let container = mounted.container(&self.containers);
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
        .map(|id| said(id.as_bytes().get(..20).unwrap_or(id.as_bytes())))
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
    let mut settled = of_snapshot(found, &History::default());
    settled.books.sampled_at = Some(host.clock.timestamp(found.started));
    let tier = Tier::Tracepoint;
    let mut report = Report {
        schema: Report::SCHEMA.to_owned(),
        time: host.clock.timestamp(found.started),
        target,
        references: settled.books,
        holders: settled.holders,
        candidates: settled.candidates,
        bystanders: settled.bystanders,
        probe: tier,
        since: None,
        fixes: Vec::new(),
    };
    advise_who(&mut report);
    report
}

/// Since when the umount of a mount has failed: by what its runtime left behind, if its container has no process, and
/// by the log.
fn since(question: &Question, target: &Target, containers: &Containers) -> Option<Since> {
    let alive = containers.containers_alive();
    let ended = target
        .container
        .as_ref()
        .is_some_and(|container| !alive.contains_key(&container.id));
    let mut since = ended
        .then(|| by_runtime_state(containers, target.path.as_bytes()))
        .flatten();
    if let Question::Log(asked) = question {
        for time in asked.iter().filter_map(|asked| asked.since(target)) {
            let source = SinceSource::Log;
            earlier(&mut since, Some(Since { time, source }));
        }
    }
    since
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
        // Each line has had its answer.
        Question::Log(_) => Ok(exit::OK),
        Question::Stuck => {
            say!("no container mount is stuck: every mounted one has a process of its container");
            Ok(exit::OK)
        }
        Question::Path(path) => {
            let patterns: WatchPatterns = common.patterns()?;
            let shown = said(path);
            if patterns.covers(path) {
                say!("{shown} is not mounted in any mount namespace: there is nothing to unmount");
                return Ok(exit::OK);
            }
            bail!("{shown} is not a mountpoint in any mount namespace; see: findmnt -o TARGET")
        }
        Question::Name { name, .. }
            if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            say!("container {name} has no mounts: there is nothing to unmount");
            Ok(exit::OK)
        }
        Question::Name { name, .. } => bail!(
            "no container, pod or mount named {}; give a path, a container id or its unique prefix, or NAMESPACE/POD",
            said(name.as_bytes())
        ),
    }
}
