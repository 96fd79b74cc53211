//! `ebusy export`: a capture in the format of something else. Needs no privilege.

use std::{
    fs::File,
    io::{BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    Common, capture_source as source, exit,
    output::create_private,
    report::{Choice, nothing},
};
use crate::{
    export::{Jsonl, Perfetto},
    report::{Analysis, Redactor},
};

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// A folder of `record` or `watch`, or one file of it
    #[arg(value_name = "CAPTURE")]
    capture: PathBuf,
    /// Format
    #[arg(long, value_enum)]
    to: To,
    #[command(flatten)]
    choice: Choice,
    /// Replace paths, names of pods and containers, and command lines by hashes with a salt of this export
    #[arg(long)]
    redact: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum To {
    /// A line of JSON for each event and each incident (docs/json.md)
    Jsonl,
    /// A trace for ui.perfetto.dev: incidents, attempts, holders
    Perfetto,
}

enum Writer {
    Jsonl(Jsonl<Box<dyn Write>>),
    Perfetto(Perfetto<Box<dyn Write>>),
}

impl Export {
    pub(super) fn run(self, common: &Common) -> Result<u8> {
        let filter = self.choice.filter(common, &self.capture, None)?;
        let redactor = Redactor::new().context("making a salt")?;
        // A capture that cannot be opened leaves no empty file behind.
        anyhow::ensure!(
            self.capture.exists(),
            "{}: no such capture; `ebusy record -o DIR` makes one",
            self.capture.display()
        );
        let to = output(common, self.to)?;
        let mut writer = match self.to {
            To::Jsonl => Writer::Jsonl(Jsonl::new(to, redactor.clone())),
            To::Perfetto => Writer::Perfetto(Perfetto::new(to)),
        };
        let writer = std::cell::RefCell::new(&mut writer);
        let mut analysis = Analysis::default();
        let mut chosen = 0u64;
        let damage = source::read(
            &self.capture,
            &mut analysis,
            |record, analysis| {
                let Writer::Jsonl(to) = &mut **writer.borrow_mut() else {
                    return Ok(());
                };
                // The clock of the first record is its own.
                let clock = match record {
                    crate::stream::Record::Start(start) => Some(start.clock),
                    _ => analysis.clock(),
                };
                let Some(clock) = clock else { return Ok(()) };
                let time = record.time().map(|time| clock.timestamp(time));
                let early = filter
                    .since
                    .is_some_and(|since| time.is_some_and(|time| time < since));
                let late = filter
                    .until
                    .is_some_and(|until| time.is_some_and(|time| time > until));
                if early || late {
                    return Ok(());
                }
                if self.redact {
                    let mut redacted = record.clone();
                    redactor.record(&mut redacted);
                    to.record(&redacted, clock).context("writing the export")
                } else {
                    to.record(record, clock).context("writing the export")
                }
            },
            |mut finding| {
                if !filter.wants(&finding.incident) {
                    return Ok(());
                }
                chosen += 1;
                if self.redact {
                    redactor.incident(&mut finding.incident);
                }
                match &mut **writer.borrow_mut() {
                    Writer::Jsonl(to) => to.finding(&finding),
                    Writer::Perfetto(to) => to.finding(&finding),
                }
                .context("writing the export")
            },
        )?;
        let writer = writer.into_inner();
        match writer {
            Writer::Jsonl(to) => to.flush(),
            Writer::Perfetto(to) => to.flush(),
        }
        .context("writing the export")?;
        if chosen == 0 {
            nothing(&filter, analysis.seen());
        }
        Ok(if damage.count > 0 { exit::UNKNOWN } else { exit::OK })
    }
}

fn output(common: &Common, format: To) -> Result<Box<dyn Write>> {
    match &common.output {
        Some(path) if path != Path::new("-") => {
            let file: File = create_private(path)?;
            Ok(Box::new(BufWriter::with_capacity(1 << 18, file)))
        }
        _ => {
            anyhow::ensure!(
                format == To::Jsonl || !std::io::stdout().is_terminal(),
                "a trace is no text for a terminal; say where it goes: -o trace.pftrace"
            );
            Ok(Box::new(BufWriter::with_capacity(1 << 18, std::io::stdout())))
        }
    }
}
