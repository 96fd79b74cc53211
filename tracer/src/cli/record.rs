//! `ebusy record`: a long-running capture.

use std::{path::Path, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, interval_at},
};

use super::{
    Common, Slow, exit,
    inherited::settle_in,
    need_root,
    output::{keep_off, standard_mounts},
    status::Status,
    watch::{ALIVE, TICK, announce, summary, watch_descriptor},
};
use crate::{
    capture::{Destination, Folder, Limits},
    confine,
    live::{Options, Session, enter_host_namespace},
    probe::History,
    render::escape,
    stderr,
    text::say::say,
    watchdog::{self, Step},
};

/// The least that a folder may hold: segments of an eighth of it have room for a block each.
const SIZE_MIN: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
    -o DIR is the folder. SIGTERM and SIGINT end the recording, SIGHUP begins a new segment.\n\
    What is recorded is on the disk after a second at the latest. When the disk is full ebusy goes on watching, counts \
    what it cannot write, and writes again when there is room.")]
pub(super) struct Record {
    /// Size of the whole folder at the most: the oldest segments go first (K, M, G, T: of 1024)
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    max_size: Size,
    /// Age of what is in the folder at the most (s, m, h, d, w)
    #[arg(long, value_name = "TIME", default_value = "30d")]
    max_age: Age,
    /// Show every refusal on the host, not only those of container mounts
    #[arg(long)]
    all: bool,
    /// Record also where an umount waits that takes longer than so many seconds (0: none)
    #[arg(long, value_name = "SECS", default_value = "1")]
    slow: Slow,
    /// Record who opens files on watched mounts also at the tracepoint tier, where that slows down all system calls
    #[arg(long)]
    history: bool,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim_end_matches('B').trim_end_matches('i');
        let (number, unit) = split(bare);
        let shift = match unit {
            "" => 0,
            "K" | "k" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err("a number and K, M, G or T, as in 500M".to_owned()),
        };
        let size = number.and_then(|number| number.checked_mul(1 << shift));
        match size {
            Some(size) if size >= SIZE_MIN => Ok(Self(size)),
            Some(_) => Err("1M is the least".to_owned()),
            None => Err("a number and K, M, G or T, as in 500M".to_owned()),
        }
    }
}

/// A time span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Age(Duration);

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err("a number and s, m, h, d or w, as in 7d".to_owned()),
        };
        number
            .and_then(|number| number.checked_mul(seconds))
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| "a number and s, m, h, d or w, as in 7d".to_owned())
    }
}

fn split(text: &str) -> (Option<u64>, &str) {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    (text[..end].parse().ok(), &text[end..])
}

/// What it is told to do.
struct Signals {
    interrupt: SignalStream,
    terminate: SignalStream,
    hangup: SignalStream,
    status: Status,
}

impl Record {
    /// The limits hold for what is in the folder from before as well: what that will cost is said.
    fn folder(&self, path: &Path, limits: &Limits) -> Result<Folder> {
        let mut folder = Folder::open(path)?;
        let shown = escape(path.as_os_str().as_encoded_bytes());
        folder
            .take_over()
            .with_context(|| format!("the captures in {shown}"))?;
        let (segments, bytes) = folder.beyond(limits);
        if segments > 0 {
            say!(
                "{shown}: {segments} segments of before, {} MiB, are beyond --max-size {} MiB or --max-age {} h, and \
                 will be removed",
                bytes.div_ceil(1 << 20),
                self.max_size.0 >> 20,
                self.max_age.0.as_secs() / 3600
            );
        }
        Ok(folder)
    }

    pub(super) fn run(&self, common: &Common) -> Result<u8> {
        need_root()?;
        watchdog::start()?;
        let path = common
            .output
            .as_deref()
            .context("where to? ebusy record -o DIR")?;
        ensure!(path != "-", "a capture is a folder: ebusy record -o DIR");
        let patterns = common.patterns()?;
        let limits = Limits::new(self.max_size.0, Some(self.max_age.0));
        let folder = self.folder(path, &limits)?;
        settle_in()?;
        enter_host_namespace()?;
        stderr::without_waiting().context("starting a thread")?;
        let history = if self.history { History::On } else { History::Cheap };
        let (session, watching) = Session::start(Options {
            probe: common.probe,
            history,
            patterns,
            all: self.all,
            cmdline: common.cmdline,
            command: false,
            slow: self.slow.limit(),
            capture: Some(Destination {
                folder,
                limits,
                optional: false,
            }),
        })?;
        keep_off(&session, &standard_mounts())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the event loop")?;
        runtime.block_on(async {
            // Whoever reads that line may send a signal at once.
            let signals = Signals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
                status: Status::new()?,
            };
            watchdog::second_signal_ends()?;
            confine::once_started();
            announce(&session, &watching, common);
            if !history.at(session.tier()) {
                say!("who opens files is not recorded at this tier (--history does)");
            }
            record(session, signals).await
        })
    }
}

async fn record(mut session: Session, mut signals: Signals) -> Result<u8> {
    let [refusals, events, others] = session.descriptors()?;
    let refusals = watch_descriptor(refusals)?;
    let events = watch_descriptor(events)?;
    let others = watch_descriptor(others)?;
    watchdog::base(Step::Waiting);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alive = interval_at(Instant::now() + ALIVE, ALIVE);
    loop {
        // What the analysis says is in the capture: it says it again to whoever reads that.
        tokio::select! {
            biased;
            guard = refusals.readable() => {
                session.drain()?;
                guard?.clear_ready();
            }
            _ = signals.interrupt.recv() => break,
            _ = signals.terminate.recv() => break,
            _ = signals.hangup.recv() => {
                if let Some(recorder) = session.recorder() {
                    recorder.reopen();
                }
            }
            _ = tick.tick() => {
                session.tick()?;
            }
            guard = events.readable() => {
                session.drain()?;
                guard?.clear_ready();
            }
            guard = others.readable() => {
                session.drain()?;
                guard?.clear_ready();
            }
            () = signals.status.due() => {
                session.tick()?;
            }
            _ = alive.tick() => tell(&session, "so far"),
        }
        signals.status.answer(&session);
    }
    session.end()?;
    let Some(mut recorder) = session.take_recorder() else {
        return Ok(exit::OK);
    };
    let closing = watchdog::within(Step::Closing, recorder.path().as_os_str().as_encoded_bytes());
    recorder.close();
    drop(closing);
    say!("{}", summary(&session, "in all"));
    let standing = recorder.standing();
    say!(
        "{standing}: {}",
        escape(recorder.path().as_os_str().as_encoded_bytes())
    );
    session.close();
    Ok(if standing.failing.is_some() {
        exit::USAGE
    } else {
        exit::OK
    })
}

fn tell(session: &Session, when: &str) {
    let standing = session
        .recorder()
        .map_or_else(String::new, |recorder| recorder.standing().to_string());
    say!("{}; {standing}", summary(session, when));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Age, Size};

    #[test]
    fn sizes_and_ages_have_units() {
        assert_eq!("1G".parse(), Ok(Size(1 << 30)));
        assert_eq!("512MiB".parse(), Ok(Size(512 << 20)));
        assert_eq!("2097152".parse(), Ok(Size(2 << 20)));
        for bad in ["", "G", "1K", "-1", "1.5G", "99999999999G", "1X"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert_eq!("7d".parse(), Ok(Age(Duration::from_hours(168))));
        for bad in ["", "7", "0s", "d", "1y", "99999999999999999w"] {
            assert!(bad.parse::<Age>().is_err(), "{bad}");
        }
    }
}
