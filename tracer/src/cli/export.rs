//! `ebusy export`: a capture in the format of something else. Needs no privilege.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
};

use anyhow::{Context as _, Result};

use super::{
    Common,
    capture_source::{self as source, Damage},
    exit,
    output_file::InUse,
    report::{Choice, nothing},
    sink::Sink,
};
use crate::{
    capture::Opened,
    confine,
    export::{Jsonl, Perfetto},
    model::keep_zone,
    report::{Analysis, Filter, Redactor, Seen},
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

enum Writer<W: Write> {
    Jsonl(Jsonl<W>),
    Perfetto(Perfetto<W>),
}

impl Export {
    pub(super) fn run(self, common: &Common) -> Result<u8> {
        let opened = source::open(&self.capture)?;
        let in_use = InUse::standard().reading(&self.capture);
        let mut sink = Sink::open(common.output.as_deref(), &in_use)?;
        anyhow::ensure!(
            self.to == To::Jsonl || !sink.is_terminal(),
            "a trace is no text for a terminal; say where it goes: -o trace.pftrace"
        );
        keep_zone();
        confine::while_reading(sink.output());
        let filter = self.choice.filter(common, &opened, None)?;
        let (damage, chosen, seen) = self.write(opened, &filter, &mut sink)?;
        sink.finish()?;
        if chosen == 0 {
            nothing(&filter, &seen);
        }
        Ok(if damage.count > 0 { exit::UNKNOWN } else { exit::OK })
    }

    /// All of it, to its end: what was wrong, how many incidents were chosen, and out of what.
    fn write(&self, opened: Opened, filter: &Filter, sink: &mut Sink) -> Result<(Damage, u64, Seen)> {
        let redactor = Redactor::new().context("making a salt")?;
        let to = BufWriter::with_capacity(1 << 18, sink);
        let mut writer = match self.to {
            To::Jsonl => Writer::Jsonl(Jsonl::new(to, redactor.clone())),
            To::Perfetto => Writer::Perfetto(Perfetto::new(to)),
        };
        let writer = std::cell::RefCell::new(&mut writer);
        let mut analysis = Analysis::default();
        let mut chosen = 0u64;
        let damage = source::read(
            opened,
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
        match &mut *writer {
            Writer::Jsonl(to) => to.flush(),
            Writer::Perfetto(to) => to.flush(),
        }
        .context("writing the export")?;
        Ok((damage, chosen, analysis.seen().clone()))
    }
}
