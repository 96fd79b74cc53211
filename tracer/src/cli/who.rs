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
    Common,
    answer::{Answer, Asked},
    exit,
    log_lines::{self, Subject},
    look::{self, Look},
    need_root,
    output::Results,
};
use crate::{
    advice::advise_who,
    by_proc::{BLIND, ProcMounts},
    confine,
    identity::{BootClock, Containers, ProcessReader},
    incident::{History, of_snapshot},
    kernel::Reader,
    live::{Host, Identities, by_runtime_state, enter_host_namespace, own_namespace, sample, stuck},
    logs::LogClock,
    model::{Since, SinceSource, Target, Tier, Who as Report, earlier},
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
    Log(Vec<Subject>),
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
        let mut look = Look::new(&host, &reader, own_namespace);
        let mut answer = Answer::default();
        match &question {
            Question::Path(path) => answer.by_path(&mut look, path),
            Question::Name { name, path } => match look.by_name(name)? {
                found if found.is_empty() => answer.by_name_as_path(&mut look, path),
                found => answer.add(found, false),
            },
            Question::Log(asked) => {
                for asked in asked {
                    answer.by_log(&mut look, asked);
                }
            }
            Question::Stuck => {
                let kernel = host.kernel(&reader);
                let stuck = stuck(kernel, &look.containers, &look.view);
                answer.add(stuck.into_iter().map(|s| (s.mount, s.target)).collect(), false);
            }
        }
        let mut status = answer.status;
        if answer.targets.is_empty() {
            return results.finish(exit::of_both(status, nothing(&question, status)));
        }
        let identities = Identities::new(host.clock, Arc::clone(&look.containers), common.cmdline);
        for Asked {
            mount,
            target,
            leftover,
            aside,
        } in answer.targets
        {
            let _step = watchdog::within(Step::References, target.path.as_bytes());
            let found = sample(&host, &reader, &identities, &mount, &[]);
            let mut report = report(&host, &found, target, leftover);
            report.since = since(&question, &report.target, &look.containers);
            status = exit::of_both(
                status,
                match verdict(&report) {
                    exit::OK if leftover => exit::FOUND,
                    // Something else may have been meant.
                    exit::OK if aside => exit::UNKNOWN,
                    verdict => verdict,
                },
            );
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
            let named = of_containers().filter(|(_, _, container)| look::goes_by(container, name));
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
        status = exit::of_both(status, verdict(&report));
        results.who(&report)?;
    }
    Ok(status)
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

fn report(host: &Host, found: &crate::kernel::Snapshot, target: Target, leftover: bool) -> Report {
    let mut settled = of_snapshot(found, &History::default());
    settled.books.sampled_at = Some(host.clock.timestamp(found.started));
    let tier = Tier::Tracepoint;
    let mut report = Report {
        schema: Report::SCHEMA.to_owned(),
        time: host.clock.timestamp(found.started),
        target,
        leftover,
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

/// Nothing of that name is mounted: what there was to be said of it was said.
fn nothing(question: &Question, status: u8) -> u8 {
    match question {
        Question::Log(_) | Question::Path(_) => status,
        // A link that cannot be followed may lead to one.
        Question::Name { .. } if status != exit::OK => status,
        Question::Stuck => {
            say!("no container mount is stuck: every mounted one has a process of its container");
            exit::OK
        }
        Question::Name { name, .. }
            if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            say!("container {name} has no mounts: there is nothing to unmount");
            exit::NOT_THERE
        }
        Question::Name { name, .. } => {
            say!(
                "ebusy: no container, pod or mount named {}; give a path, a container id or its unique prefix, or \
                 NAMESPACE/POD",
                said(name.as_bytes())
            );
            exit::NOT_THERE
        }
    }
}
