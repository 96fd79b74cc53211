//! `ebusy watch`: explains refused umounts as they happen.

use std::{
    ffi::OsString,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Common, Slow,
    child::{Child, Running},
    exit,
    inherited::settle_in,
    need_root,
    output::{Results, keep_off},
    status::Status,
};
use crate::{
    advice::after,
    capture::{Destination, Folder, Limits, Recorder},
    confine,
    incident::Output,
    live::{Options, Session, Watching, enter_host_namespace},
    model::Timestamp,
    probe::History,
    render::{escape, noisy},
    stderr,
    text::{Command, said, say::say},
    watchdog::{self, Step},
};

/// How often time is let pass for incidents.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// How long a command may take to end when ebusy is told to.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long whoever reads the results may take for the next of them, once all is over; and where ebusy was told to end.
const READER: Duration = Duration::from_secs(10);
const HASTE: Duration = Duration::from_millis(500);
/// Bytes of evidence of one run at the most; of more, the latest are kept.
const EVIDENCE_MAX: u64 = 256 << 20;
/// How often a long run says that it is alive.
pub(super) const ALIVE: Duration = Duration::from_mins(5);

#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the command line"
)]
pub(super) struct Watch {
    /// Show every refusal on the host
    #[arg(long)]
    all: bool,
    /// Do not record who opens files on watched mounts: cheaper, but nobody's "since when" is known
    #[arg(long)]
    no_history: bool,
    /// Tell also an umount that takes longer than so many seconds, and where it waits (0: none)
    #[arg(long, value_name = "SECS", default_value = "1")]
    slow: Slow,
    /// Exit with 1 if an umount was refused
    #[arg(long)]
    fail_on_ebusy: bool,
    /// Folder for the evidence: what was seen, for a later analysis [default: a new one in /var/tmp, kept if an umount
    /// was refused or slow]
    #[arg(long, value_name = "DIR", conflicts_with = "no_capture")]
    capture: Option<PathBuf>,
    /// Keep no evidence
    #[arg(long)]
    no_capture: bool,
    /// Replace paths, names of pods and containers, and command lines in what is reported by hashes with a salt of this
    /// run; the evidence keeps them
    #[arg(long)]
    redact: bool,
    /// Run this, show what is refused to it, stop when it does, and exit with its status
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Why the loop ended.
enum End {
    Command(u8),
    Signal(Signal),
}

/// What it ended with.
struct Ended {
    status: u8,
    of_command: bool,
    /// Whoever ended it waits for that.
    in_haste: bool,
}

impl Watch {
    /// With a command of our own.
    pub(super) fn for_demo(command: Vec<OsString>) -> Self {
        Self {
            all: false,
            no_history: false,
            slow: Slow::default(),
            fail_on_ebusy: false,
            capture: None,
            no_capture: true,
            redact: false,
            command,
        }
    }

    pub(super) fn run(self, common: &Common) -> Result<u8> {
        need_root()?;
        watchdog::start()?;
        let patterns = common.patterns()?;
        let results = Results::redacted(common, self.redact)?;
        let capture = self.capture.as_deref().map(Folder::open).transpose()?;
        let child = if self.command.is_empty() {
            None
        } else {
            Some(Child::prepare(&self.command)?)
        };
        settle_in()?;
        enter_host_namespace()?;
        stderr::without_waiting().context("starting a thread")?;
        let mounts = results.mounts();
        let mut results = results.without_waiting()?;
        let capture = capture.or_else(|| (!self.no_capture).then(evidence).flatten());
        let (session, watching) = Session::start(Options {
            probe: common.probe,
            history: if self.no_history {
                History::Off
            } else {
                History::On
            },
            patterns,
            all: self.all,
            cmdline: common.cmdline,
            command: child.is_some(),
            slow: self.slow.limit(),
            capture: capture.map(|folder| Destination {
                folder,
                limits: Limits::new(EVIDENCE_MAX, None),
                optional: self.capture.is_none(),
            }),
        })?;
        keep_off(&session, &mounts)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the event loop")?;
        runtime.block_on(async {
            // Whoever reads that line may end ebusy at once.
            let ends = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let status = Status::new()?;
            watchdog::second_signal_ends()?;
            confine::once_started();
            announce(&session, &watching, common);
            let end = self.watch(session, child, (ends, status), &mut results).await?;
            // Where a command was run, its status is what was asked for.
            let patience = if end.in_haste { HASTE } else { READER };
            let status = results.finish_within(end.status, patience)?;
            Ok(if end.of_command { end.status } else { status })
        })
    }

    async fn watch(
        &self,
        mut session: Session,
        child: Option<Child>,
        ((mut interrupt, mut terminate), mut status): ((SignalStream, SignalStream), Status),
        results: &mut Results,
    ) -> Result<Ended> {
        let [refusals, events, others] = session.descriptors()?;
        let refusals = watch_descriptor(refusals)?;
        let events = watch_descriptor(events)?;
        let others = watch_descriptor(others)?;
        let running = match child.map(Child::start).transpose()? {
            Some(Ok(running)) => Some(running),
            Some(Err(status)) => {
                return Ok(Ended {
                    status,
                    of_command: true,
                    in_haste: true,
                });
            }
            None => None,
        };
        let exited = match &running {
            Some(running) => Some(watch_descriptor(running.exited.try_clone()?)?),
            None => None,
        };
        watchdog::base(Step::Waiting);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive = tokio::time::interval_at(Instant::now() + ALIVE, ALIVE);
        let end = loop {
            let output = tokio::select! {
                biased;
                guard = refusals.readable() => {
                    let output = session.drain()?;
                    guard?.clear_ready();
                    output
                }
                _ = interrupt.recv() => break End::Signal(Signal::INT),
                _ = terminate.recv() => break End::Signal(Signal::TERM),
                _ = tick.tick() => {
                    if let Some(running) = &running {
                        running.reap_others();
                    }
                    session.tick()?
                }
                guard = events.readable() => {
                    let output = session.drain()?;
                    guard?.clear_ready();
                    output
                }
                guard = others.readable() => {
                    let output = session.drain()?;
                    guard?.clear_ready();
                    output
                }
                () = status.due() => session.tick()?,
                status = command_exit(exited.as_ref(), running.as_ref()) => break End::Command(status),
                _ = alive.tick() => {
                    say!("{}", summary(&session, "so far"));
                    Vec::new()
                }
            };
            report(output, results)?;
            results.tell_losses();
            status.answer(&session);
        };
        if let (End::Signal(signal), Some(running)) = (&end, &running) {
            running.signal(*signal);
            let ended = tokio::time::timeout(PATIENCE, command_exit(exited.as_ref(), Some(running))).await;
            if ended.is_err() {
                say!("ebusy: the command did not end on {signal:?}; it is left running");
            }
        }
        report(session.end()?, results)?;
        let recorder = session.take_recorder();
        let status = self.finish(&session, &end, running.is_some());
        if let Some(recorder) = recorder {
            self.keep(recorder, &session);
        }
        session.close();
        Ok(Ended {
            status,
            of_command: running.is_some(),
            in_haste: matches!(end, End::Signal(_)),
        })
    }

    /// Evidence of nothing is not kept, unless it was asked for.
    fn keep(&self, mut recorder: Recorder, session: &Session) {
        let _step = watchdog::within(Step::Closing, recorder.path().as_os_str().as_bytes());
        if self.capture.is_none() && session.analyzer().totals.incidents + session.analyzer().totals.slow == 0
        {
            recorder.discard();
            return;
        }
        recorder.close();
        let standing = recorder.standing();
        if standing.not_written > 0 || standing.removed > 0 {
            say!("{standing}");
        }
        say!("{}", escape(recorder.path().as_os_str().as_bytes()));
    }

    fn finish(&self, session: &Session, end: &End, had_command: bool) -> u8 {
        let refused = session.analyzer().totals.incidents > 0;
        say!("{}", summary(session, "in all"));
        if !refused {
            say!(
                "no umount was refused that is shown here; if something is busy all the same: `ebusy who PATH`, and \
                 --all for mounts outside containers"
            );
        }
        match end {
            End::Command(_) if self.fail_on_ebusy && refused => exit::FOUND,
            End::Command(status) => *status,
            End::Signal(_) if had_command => exit::INTERRUPTED,
            End::Signal(_) if self.fail_on_ebusy && refused => exit::FOUND,
            End::Signal(_) => exit::OK,
        }
    }
}

/// A new folder for what is seen; nobody can have put anything there before.
fn evidence() -> Option<Folder> {
    let name = format!(
        "/var/tmp/ebusy-watch-{}-{}",
        Timestamp::now().compact(),
        std::process::id()
    );
    let path = Path::new(&name);
    let folder = std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(anyhow::Error::from)
        .and_then(|()| Folder::open(path));
    folder
        .inspect_err(|error| {
            say!("no evidence is kept: {name}: {error:#}; choose a folder with --capture");
        })
        .ok()
}

/// Asks to be told when a descriptor becomes readable.
pub(super) fn watch_descriptor(descriptor: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is moved in, and stays the same until it is dropped with the registration.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
        .context("registering a descriptor with the event loop")
}

async fn command_exit(exited: Option<&AsyncFd<OwnedFd>>, running: Option<&Running>) -> u8 {
    let (Some(exited), Some(running)) = (exited, running) else {
        return std::future::pending().await;
    };
    loop {
        // An error would mean that the descriptor is broken: then the status is asked for all the same.
        let guard = exited.readable().await;
        if let Some(status) = running.status() {
            return status;
        }
        if let Ok(mut guard) = guard {
            guard.clear_ready();
        }
    }
}

fn report(output: Vec<Output>, results: &mut Results) -> Result<()> {
    for output in output {
        let (Output::Open(incident) | Output::Closed(incident)) = output;
        results.incident(&incident)?;
    }
    Ok(())
}

pub(super) fn announce(session: &Session, watching: &Watching, common: &Common) {
    for refused in &watching.refused {
        say!(
            "tier {} is not to be had here: {}",
            refused.tier,
            refused.reason()
        );
    }
    for missing in &watching.missing {
        say!("hook missing: {missing}");
    }
    for stuck in &watching.stuck {
        say!(
            "stuck already: {}{}; {}",
            said(stuck.target.path.as_bytes()),
            stuck.since.as_ref().map_or_else(String::new, |since| format!(
                ", since {} at the latest ({})",
                since.time.local_clock(),
                since.source.words()
            )),
            after(&stuck.target)
        );
        if let Some(command) = Command::new(&["ebusy", "who"]).path(stuck.target.path.as_bytes()) {
            say!("  {command}");
        }
    }
    let test = watching
        .self_test
        .as_ref()
        .map_or_else(|| "passed".to_owned(), |error| format!("FAILED: {error}"));
    let targets = if common.target.is_empty() {
        "container and kubelet mounts".to_owned()
    } else {
        format!("container and kubelet mounts, {}", common.target.join(", "))
    };
    say!(
        "watching {targets}: {} now, {} mounts with their copies; tier {}, self-test {test}",
        watching.targets,
        watching.mounts,
        session.tier()
    );
}

pub(super) fn summary(session: &Session, when: &str) -> String {
    let totals = &session.analyzer().totals;
    let slowest = totals.slowest.as_ref().map_or_else(String::new, |(nanos, path)| {
        format!(
            ", slowest {:.3} s ({})",
            *nanos as f64 / 1e9,
            said(path.as_bytes())
        )
    });
    let slow = if totals.slow > 0 {
        format!(", {} slow", totals.slow)
    } else {
        String::new()
    };
    let losses = session.losses();
    let lost: Vec<String> = losses
        .0
        .iter()
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    let lost = if lost.is_empty() {
        "0 lost".to_owned()
    } else {
        format!("{} lost ({})", losses.total(), lost.join(", "))
    };
    let beside = noisy(session.noisy());
    format!(
        "{when}: {} umounts, {} refused in {} incidents ({} not shown), {} detached{slow}{slowest}; {lost}{beside}; tier {}",
        totals.umounts,
        totals.refused,
        totals.incidents,
        totals.refused_elsewhere,
        totals.detached,
        session.tier()
    )
}
