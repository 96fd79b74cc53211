//! The command line: one file a verb.

mod answer;
mod audit;
mod capture_source;
mod child;
mod demo;
mod doctor;
mod export;
mod inherited;
mod log_lines;
mod look;
mod output;
mod output_file;
mod record;
mod report;
mod sink;
mod status;
mod watch;
mod who;

use std::{io::Write as _, os::unix::ffi::OsStrExt as _, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::log_lines::fuzzed;
#[cfg(test)]
pub(crate) use self::report::LogMatch;
use crate::{
    identity::WatchPatterns,
    probe::{Choice, LockedDown, NoTier},
    stderr,
    text::{Command, printable, say::say},
};

/// Exit codes.
pub mod exit {
    /// Nothing found, or done.
    pub const OK: u8 = 0;
    /// Found: something blocks.
    pub const FOUND: u8 = 1;
    /// Usage, or failure.
    pub const USAGE: u8 = 2;
    /// Could not tell.
    pub const UNKNOWN: u8 = 3;
    /// What was asked about is not there, or not any more.
    pub const NOT_THERE: u8 = 4;
    /// Ended by the watchdog, as one step took too long.
    pub const STUCK: u8 = crate::watchdog::STUCK;
    /// The command to watch was not found.
    pub const NOT_FOUND: u8 = 127;
    /// SIGINT of an unfinished job.
    pub const INTERRUPTED: u8 = 130;
    /// Of several things asked about: what blocks comes before what could not be told, and that before what is not there.
    #[must_use]
    pub const fn of_both(one: u8, other: u8) -> u8 {
        let mut order = [FOUND, UNKNOWN, NOT_THERE].as_slice();
        while let Some((first, rest)) = order.split_first() {
            if one == *first || other == *first {
                return *first;
            }
            order = rest;
        }
        OK
    }

    /// Whoever read the results has gone before the end, as of a program that SIGPIPE ends.
    pub const NOT_READ: u8 = 141;
}

/// Names every reference that made an umount fail with "device or resource busy".
#[derive(Debug, Parser)]
#[command(
    name = "ebusy",
    version,
    after_help = "Examples:\n  \
        ebusy watch                              explain every refused umount of a container mount\n  \
        ebusy watch -- umount /mnt/data          run a command and explain what is refused to it\n  \
        ebusy who 9c41d0e7a2f4                   who would block the umount of this container's root file system\n  \
        ebusy who                                every container mount that is stuck now\n  \
        ebusy audit                              who could be next: copies, leaked and detached mounts\n  \
        ebusy demo                               make a real EBUSY and explain it\n\n\
        Exit status: 0 nothing found, 1 found, 2 usage or failure, 3 could not tell, 4 not there (who), 75 ended itself as it was stuck for \
         a minute, 130 interrupted, 141 whoever read the results has gone before their end."
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Explain refused umounts as they happen; with a command, run it and exit with its status
    Watch(watch::Watch),
    /// Record what happens into a folder, for weeks: bounded, and readable after a crash
    Record(record::Record),
    /// Say who would block an umount now, without unmounting
    Who(who::Who),
    /// Tell the incidents of a capture: text, JSON, or one page of HTML
    Report(Box<report::Report>),
    /// Write a capture as JSON lines, or as a trace for Perfetto
    Export(Box<export::Export>),
    /// Say who is in a position to keep container mounts, and what is kept already: now, without waiting
    Audit(audit::Audit),
    /// Make a real EBUSY in a scratch mount namespace and explain it; leaves nothing behind
    Demo,
    /// A part of the demo
    #[command(hide = true)]
    DemoScene(demo::Scene),
    /// Say what this kernel allows, what is missing, and what mends it
    Doctor(doctor::Doctor),
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Format of the results
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Write the results to a file instead of stdout
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Watch (and show) mounts whose path matches, besides container and kubelet mounts; repeatable
    #[arg(long, global = true, value_name = "GLOB")]
    pub(crate) target: Vec<String>,
    /// Probe tier: auto, fentry, kprobe, tracepoint or proc
    #[arg(long, global = true, default_value = "auto", value_name = "TIER", value_parser = parse_probe)]
    pub(crate) probe: Choice,
    /// Record command lines of processes
    #[arg(long, global = true)]
    pub(crate) cmdline: bool,
    /// Log more to stderr; repeatable
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

fn parse_probe(name: &str) -> Result<Choice, String> {
    name.parse()
}

/// Formats of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
    /// One page that needs nothing else (`report` only)
    Html,
}

/// How long an umount takes before it is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slow(f64);

impl Default for Slow {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Slow {
    fn limit(self) -> Option<Duration> {
        (self.0 > 0.0).then(|| Duration::from_secs_f64(self.0))
    }
}

impl FromStr for Slow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds: Option<f64> = text.parse().ok();
        seconds
            .filter(|seconds| (0.0..1e6).contains(seconds))
            .map(Self)
            .ok_or_else(|| "seconds, as in 0.5; 0 for none".to_owned())
    }
}

impl Common {
    /// Container and kubelet mounts, and those that were asked for.
    fn patterns(&self) -> anyhow::Result<WatchPatterns> {
        WatchPatterns::with(&self.target).map_err(|error| {
            anyhow::anyhow!(
                "--target {}: {}; quote the glob: --target '/mnt/*'",
                error.glob().unwrap_or("?"),
                error.kind()
            )
        })
    }
}

/// Parses the command line, runs the verb, and returns the exit status.
#[must_use]
pub fn main() -> u8 {
    inherited::note();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return tell(&answer),
    };
    let level = match cli.common.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("tracer", level)
        .filter_module("ebusy", level)
        .parse_default_env()
        .format(|to, record| {
            let words = printable(&record.args().to_string());
            writeln!(to, "[{:<5}] {words}", record.level())
        })
        .target(env_logger::Target::Pipe(Box::new(stderr::Log)))
        .init();
    let result = match cli.verb {
        Verb::Watch(watch) => watch.run(&cli.common),
        Verb::Record(record) => record.run(&cli.common),
        Verb::Who(who) => who.run(&cli.common),
        Verb::Report(report) => report.run(&cli.common),
        Verb::Export(export) => export.run(&cli.common),
        Verb::Audit(audit) => audit.run(&cli.common),
        Verb::Demo => demo::run(&cli.common),
        Verb::DemoScene(scene) => scene.run(),
        Verb::Doctor(doctor) => doctor.run(&cli.common),
    };
    let status = result.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            return exit::NOT_READ;
        }
        say!("ebusy: {error:#}");
        // Blind is not broken.
        if error.is::<NoTier>() || error.is::<LockedDown>() {
            exit::UNKNOWN
        } else {
            exit::USAGE
        }
    });
    stderr::finish();
    status
}

/// Help, the version, or what is wrong with the command line.
fn tell(answer: &clap::Error) -> u8 {
    if answer.use_stderr() {
        return usage(answer);
    }
    // Help and version, which are ebusy's own words.
    let status = u8::try_from(answer.exit_code()).unwrap_or(exit::USAGE);
    match answer.print() {
        Ok(()) if !(inherited::was_closed(libc::STDOUT_FILENO) && status == exit::OK) => status,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => status.max(exit::NOT_READ),
        _ => exit::USAGE,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Refuses at once, with the command that mends it, what only root can do.
fn need_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let why = "this needs root (it loads BPF programs and reads kernel memory)";
    let again = std::env::args_os().try_fold(Command::new(&["sudo"]), |command, argument| {
        command.argument(argument.as_bytes())
    });
    match again {
        Some(again) => anyhow::bail!("{why}; run: {again}"),
        None => anyhow::bail!("{why}; run it with sudo"),
    }
}

/// What is wrong with the command line. clap quotes arguments as they are, which can be names of files of others.
fn usage(error: &clap::Error) -> u8 {
    let mut text = error.render().to_string();
    for argument in std::env::args_os() {
        let argument = argument.to_string_lossy();
        let visible = printable(&argument);
        if visible != argument {
            text = text.replace(&*argument, &visible);
        }
    }
    for line in text.lines() {
        say!("{line}");
    }
    exit::USAGE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn what_blocks_is_not_hidden_by_what_could_not_be_told() {
        use super::exit::{FOUND, NOT_THERE, OK, UNKNOWN, of_both};
        let order = [OK, NOT_THERE, UNKNOWN, FOUND];
        for (index, one) in order.iter().enumerate() {
            for other in &order[index..] {
                assert_eq!((of_both(*one, *other), of_both(*other, *one)), (*other, *other));
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
