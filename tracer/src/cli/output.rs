//! Where results go, and in which format.

use std::{
    fs::File,
    io::{IsTerminal as _, Write},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Common, Format};
use crate::{
    model::{Audit, Incident, Who},
    render::{self, Style},
    report::Redactor,
    watchdog::{self, Step},
};

/// Writes results.
#[derive(Debug)]
pub(super) struct Results {
    to: Target,
    format: Format,
    style: Style,
    /// Takes out what somebody named.
    redactor: Option<Redactor>,
}

#[derive(Debug)]
enum Target {
    Stdout,
    File(File),
}

impl Results {
    pub(super) fn new(common: &Common) -> Result<Self> {
        anyhow::ensure!(
            common.format != Format::Html,
            "--format html is for captures: ebusy report FILE --format html -o report.html"
        );
        let to = Self::target(common)?;
        let terminal = matches!(to, Target::Stdout) && std::io::stdout().is_terminal();
        Ok(Self {
            to,
            format: common.format,
            style: Style::new(terminal),
            redactor: None,
        })
    }

    /// The same where `--redact` may ask for hashes of paths and names: with one salt for all that is written.
    pub(super) fn redacted(common: &Common, redact: bool) -> Result<Self> {
        let redactor = redact.then(Redactor::new).transpose().context("making a salt")?;
        Ok(Self {
            redactor,
            ..Self::new(common)?
        })
    }

    fn target(common: &Common) -> Result<Target> {
        Ok(match &common.output {
            Some(path) if path != Path::new("-") => Target::File(create_private(path)?),
            _ => Target::Stdout,
        })
    }

    /// For what has a format of its own.
    pub(super) fn raw(common: &Common) -> Result<Self> {
        let to = Self::target(common)?;
        Ok(Self {
            to,
            format: common.format,
            style: Style::new(false),
            redactor: None,
        })
    }

    /// How text is written there.
    pub(super) fn style(&self) -> &Style {
        &self.style
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
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
            Format::Text | Format::Html => self.text(&render::incident(incident, &self.style)),
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
            Format::Text | Format::Html => self.text(&render::who(who, &self.style)),
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
            Format::Text | Format::Html => self.text(&render::audit(audit, &self.style)),
        }
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).context("writing JSON")?;
        line.push(b'\n');
        self.write(&line)
    }

    pub(super) fn text(&mut self, text: &str) -> Result<()> {
        let mut text = text.trim_end().to_owned();
        text.push('\n');
        self.write(text.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let _step = watchdog::within(Step::Writing, &[]);
        match &mut self.to {
            Target::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
            Target::File(file) => file.write_all(bytes),
        }
        .context("writing the results")
    }
}

/// Makes a file that only its owner can read: results name processes and paths of other users.
pub(super) fn create_private(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let _step = watchdog::within(Step::Opening, path.as_os_str().as_bytes());
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating {}", path.display()))
}
