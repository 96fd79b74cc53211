//! `ebusy watch`: explains refused umounts as they happen.

use std::{ffi::OsString, os::fd::OwnedFd, time::Duration};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Common,
    child::{Child, Running},
    exit, need_root,
    output::{Results, create_private},
};
use crate::{
    incident::Output,
    live::{Options, Session, Sink, Watching, enter_host_namespace},
    render::escape,
};

/// How often time is let pass for incidents.
const TICK: Duration = Duration::from_millis(200);
/// How long a command may take to end when ebusy is told to.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a long run says that it is alive.
const ALIVE: Duration = Duration::from_mins(5);

#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// Show every refusal on the host
    #[arg(long)]
    all: bool,
    /// Do not record who opens files on watched mounts: cheaper, but nobody's "since when" is known
    #[arg(long)]
    no_history: bool,
    /// Exit with 1 if an umount was refused
    #[arg(long)]
    fail_on_ebusy: bool,
    /// Also write the stream of records, as JSON lines, for a later analysis
    #[arg(long, value_name = "FILE")]
    capture: Option<std::path::PathBuf>,
    /// Run this, show what is refused to it, stop when it does, and exit with its status
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Why the loop ended.
enum End {
    Command(u8),
    Signal(Signal),
}

impl Watch {
    /// With a command of our own.
    pub(super) fn for_demo(command: Vec<OsString>) -> Self {
        Self {
            all: false,
            no_history: false,
            fail_on_ebusy: false,
            capture: None,
            command,
        }
    }

    pub(super) fn run(self, common: &Common) -> Result<u8> {
        need_root()?;
        let patterns = common.patterns()?;
        let mut results = Results::new(common)?;
        let capture = match &self.capture {
            Some(path) => Some(Box::new(std::io::BufWriter::new(create_private(path)?)) as Box<dyn Sink>),
            None => None,
        };
        let child = if self.command.is_empty() {
            None
        } else {
            Some(Child::prepare(&self.command)?)
        };
        enter_host_namespace()?;
        let (session, watching) = Session::start(Options {
            probe: common.probe,
            history: !self.no_history,
            patterns,
            all: self.all,
            cmdline: common.cmdline,
            command: child.is_some(),
            capture,
        })?;
        announce(&session, &watching, common);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the event loop")?;
        runtime.block_on(self.watch(session, child, &mut results))
    }

    async fn watch(&self, mut session: Session, child: Option<Child>, results: &mut Results) -> Result<u8> {
        let [refusals, events] = session.descriptors()?;
        let refusals = watch_descriptor(refusals)?;
        let events = watch_descriptor(events)?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let running = match child.map(Child::start).transpose()? {
            Some(Ok(running)) => Some(running),
            Some(Err(status)) => return Ok(status),
            None => None,
        };
        let exited = match &running {
            Some(running) => Some(watch_descriptor(running.exited.try_clone()?)?),
            None => None,
        };
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
                status = command_exit(exited.as_ref(), running.as_ref()) => break End::Command(status),
                _ = alive.tick() => {
                    eprintln!("{}", summary(&session, "so far"));
                    Vec::new()
                }
            };
            report(output, results)?;
        };
        if let (End::Signal(signal), Some(running)) = (&end, &running) {
            running.signal(*signal);
            let ended = tokio::time::timeout(PATIENCE, command_exit(exited.as_ref(), Some(running))).await;
            if ended.is_err() {
                eprintln!("ebusy: the command did not end on {signal:?}; it is left running");
            }
        }
        report(session.end()?, results)?;
        Ok(self.finish(&session, &end, running.is_some()))
    }

    fn finish(&self, session: &Session, end: &End, had_command: bool) -> u8 {
        let refused = session.analyzer().totals.incidents > 0;
        eprintln!("{}", summary(session, "in all"));
        if !refused {
            eprintln!(
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

/// Asks to be told when a descriptor becomes readable.
fn watch_descriptor(descriptor: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
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

fn announce(session: &Session, watching: &Watching, common: &Common) {
    for refused in &watching.refused {
        eprintln!(
            "tier {} is not to be had here: {}",
            refused.tier,
            refused.reason()
        );
    }
    for missing in &watching.missing {
        eprintln!("hook missing: {missing}");
    }
    for stuck in &watching.stuck {
        eprintln!(
            "stuck already: {}; see: ebusy who {0}",
            escape(stuck.target.path.as_bytes())
        );
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
    eprintln!(
        "watching {targets}: {} now, {} mounts with their copies; tier {}, self-test {test}",
        watching.targets,
        watching.mounts,
        session.tier()
    );
}

fn summary(session: &Session, when: &str) -> String {
    let totals = &session.analyzer().totals;
    let slowest = totals.slowest.as_ref().map_or_else(String::new, |(nanos, path)| {
        format!(
            ", slowest {:.3} s ({})",
            *nanos as f64 / 1e9,
            escape(path.as_bytes())
        )
    });
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
    format!(
        "{when}: {} umounts, {} refused in {} incidents ({} not shown), {} detached{slowest}; {lost}; tier {}",
        totals.umounts,
        totals.refused,
        totals.incidents,
        totals.refused_elsewhere,
        totals.detached,
        session.tier()
    )
}
