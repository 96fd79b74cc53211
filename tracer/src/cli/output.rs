//! Where results go, and in which format.

use std::{
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Common, Format, exit, output_file::InUse, sink::Sink};
use crate::{
    confine,
    identity::mount_id,
    live::Session,
    model::{Audit, Incident, Who},
    outlet::{Outcome, Outlet},
    render::{self, Style},
    report::Redactor,
    text::say::say,
    watchdog::{self, Step},
};

/// Bytes of results that may wait for their reader while ebusy watches.
const ROOM: usize = 16 << 20;

/// Writes results. A failure to is kept: what they say does not depend on whether anybody reads it.
#[derive(Debug)]
pub(super) struct Results {
    to: To,
    /// Why not all was written.
    failed: Option<io::Error>,
    format: Format,
    style: Style,
    /// Takes out what somebody named.
    redactor: Option<Redactor>,
}

#[derive(Debug)]
enum To {
    Sink(Sink),
    /// In a thread; what it is, for people, and that a loss was told.
    Outlet(Outlet, String, bool),
}

impl Results {
    pub(super) fn new(common: &Common, in_use: &InUse) -> Result<Self> {
        anyhow::ensure!(
            common.format != Format::Html,
            "--format html is for captures: ebusy report FILE --format html -o report.html"
        );
        let to = Sink::open(common.output.as_deref(), in_use)?;
        let style = Style::new(to.is_terminal());
        Ok(Self {
            to: To::Sink(to),
            failed: None,
            format: common.format,
            style,
            redactor: None,
        })
    }

    /// The same where `--redact` may ask for hashes of paths and names: with one salt for all that is written.
    pub(super) fn redacted(common: &Common, redact: bool) -> Result<Self> {
        let redactor = redact.then(Redactor::new).transpose().context("making a salt")?;
        Ok(Self {
            redactor,
            ..Self::new(common, &InUse::standard())?
        })
    }

    /// For what has a format of its own.
    pub(super) fn raw(common: &Common, in_use: &InUse) -> Result<Self> {
        Ok(Self {
            to: To::Sink(Sink::open(common.output.as_deref(), in_use)?),
            failed: None,
            format: common.format,
            style: Style::new(false),
            redactor: None,
        })
    }

    /// From now on nobody waits for whoever reads them, and what is not read is lost. Starts a thread.
    pub(super) fn without_waiting(self) -> Result<Self> {
        let to = match self.to {
            To::Sink(sink) => {
                let shown = sink.shown();
                To::Outlet(sink.without_waiting(ROOM)?, shown, false)
            }
            outlet @ To::Outlet(..) => outlet,
        };
        Ok(Self { to, ..self })
    }

    /// The mounts that stdout, stderr and the file of `-o` are on, and what they are.
    pub(super) fn mounts(&self) -> Vec<(u32, String)> {
        let mut mounts = standard_mounts();
        if let To::Sink(sink @ Sink::File(_)) = &self.to {
            mounts.extend(mount(sink.as_fd(), sink.shown()));
        }
        mounts
    }

    /// Whether they go to the file of `-o`, which gets its name at the end.
    pub(super) fn to_file(&self) -> bool {
        matches!(&self.to, To::Sink(Sink::File(_)))
    }

    /// Where that file is.
    pub(super) fn output(&self) -> Option<confine::Output<'_>> {
        match &self.to {
            To::Sink(sink) => sink.output(),
            To::Outlet(..) => None,
        }
    }

    /// Says, once, that results are lost, while ebusy goes on.
    pub(super) fn tell_losses(&mut self) {
        if let To::Outlet(outlet, shown, told) = &mut self.to
            && !*told
            && let Some(words) = losses(outlet.outcome())
        {
            say!("ebusy: {shown}: {words}; ebusy goes on, stop it with SIGINT");
            *told = true;
        }
    }

    /// What went wrong, where nothing is gained by going on.
    pub(super) fn check(&mut self) -> Result<()> {
        self.failed
            .take()
            .map_or(Ok(()), |error| Err(error).context("writing the results"))
    }

    /// All was said. The exit status is that of what was found; it is a failure where that would say that all is well,
    /// and not all was written.
    pub(super) fn finish(self, found: u8) -> Result<u8> {
        self.finish_within(found, Duration::ZERO)
    }

    /// The same where they are written in a thread, and their reader may take so long for the next of them.
    pub(super) fn finish_within(mut self, found: u8, patience: Duration) -> Result<u8> {
        if let To::Outlet(outlet, shown, _) = &self.to {
            let outcome = outlet.finish(patience);
            let Some(words) = losses(outcome) else {
                return Ok(found);
            };
            say!("ebusy: {shown}: {words}");
            let gone = outcome.error == Some(io::ErrorKind::BrokenPipe);
            return Ok(match found {
                exit::OK if gone => exit::NOT_READ,
                exit::OK => exit::USAGE,
                found => found,
            });
        }
        let written = self.check().and_then(|()| match self.to {
            To::Sink(sink) => sink.finish(),
            To::Outlet(..) => Ok(()),
        });
        match written {
            Err(error) if found == exit::OK => return Err(error),
            Err(error) if !super::is_broken_pipe(&error) => say!("ebusy: {error:#}"),
            _ => {}
        }
        Ok(found)
    }

    /// How text is written there.
    pub(super) fn style(&self) -> &Style {
        &self.style
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.write(bytes);
    }

    /// An incident; one that is still open is shown to people only.
    pub(super) fn incident(&mut self, incident: &Incident) -> Result<()> {
        let redacted = self.redactor.as_ref().map(|redactor| {
            let mut incident = incident.clone();
            redactor.incident(&mut incident);
            incident
        });
        let incident = redacted.as_ref().unwrap_or(incident);
        match self.format {
            Format::Json if incident.ended.is_none() => Ok(()),
            Format::Json => self.json(incident),
            Format::Text | Format::Html => {
                self.text(&render::incident(incident, &self.style));
                Ok(())
            }
        }
    }

    pub(super) fn who(&mut self, who: &Who) -> Result<()> {
        let redacted = self.redactor.as_ref().map(|redactor| {
            let mut who = who.clone();
            redactor.who(&mut who);
            who
        });
        let who = redacted.as_ref().unwrap_or(who);
        match self.format {
            Format::Json => self.json(who),
            Format::Text | Format::Html => {
                self.text(&render::who(who, &self.style));
                Ok(())
            }
        }
    }

    pub(super) fn audit(&mut self, audit: &Audit) -> Result<()> {
        let redacted = self.redactor.as_ref().map(|redactor| {
            let mut audit = audit.clone();
            redactor.audit(&mut audit);
            audit
        });
        let audit = redacted.as_ref().unwrap_or(audit);
        match self.format {
            Format::Json => self.json(audit),
            Format::Text | Format::Html => {
                self.text(&render::audit(audit, &self.style));
                Ok(())
            }
        }
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = Vec::new();
        crate::text::json::to_writer(&mut line, value).context("writing JSON")?;
        line.push(b'\n');
        self.write(&line);
        Ok(())
    }

    pub(super) fn text(&mut self, text: &str) {
        let mut text = text.trim_end().to_owned();
        text.push('\n');
        self.write(text.as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        let _step = watchdog::within(Step::Writing, &[]);
        match &mut self.to {
            To::Sink(sink) if self.failed.is_none() => self.failed = sink.write_all(bytes).err(),
            To::Sink(_) => {}
            To::Outlet(outlet, ..) => outlet.send(bytes.to_vec()),
        }
    }
}

/// What was lost, in words; nothing if nothing was.
fn losses(outcome: Outcome) -> Option<String> {
    let why = outcome
        .error
        .map_or_else(|| "nobody reads them".to_owned(), |error| error.to_string());
    (outcome.lost > 0).then(|| format!("{} results are lost so far: {why}", outcome.lost))
}

/// The mounts that stdout and stderr are on, and what they are.
pub(super) fn standard_mounts() -> Vec<(u32, String)> {
    let stdout = mount(io::stdout().as_fd(), "stdout".to_owned());
    let stderr = mount(io::stderr().as_fd(), "stderr".to_owned());
    stdout.into_iter().chain(stderr).collect()
}

fn mount(of: BorrowedFd<'_>, what: String) -> Option<(u32, String)> {
    Some((mount_id(of).ok()??, what))
}

/// ebusy must not be what keeps a mount busy that it watches.
pub(super) fn keep_off(session: &Session, mounts: &[(u32, String)]) -> Result<()> {
    for (mount, what) in mounts {
        anyhow::ensure!(
            !session.watches(*mount),
            "{what} is a file on a mount that is watched, and would keep it busy: write to a file elsewhere"
        );
    }
    Ok(())
}
