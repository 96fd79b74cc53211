//! `ebusy report`: the incidents of a capture, by the same analysis as live. Needs no privilege.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Common, Format, capture_source as source, exit, output::Results, output_file::InUse};
use crate::{
    capture::Opened,
    confine,
    logs::{LogClock, LogLine, LogReader, matched},
    model::{Incident, IncidentBody, Kind, Outcome, Since, SinceSource, Timestamp, earlier, keep_zone, zone},
    render::{self, Html},
    report::{Analysis, Filter, Finding, Redactor, Seen, Summary, Tally, When, glob},
    text::{said, said_path, say::say},
};

/// Incidents that are kept for being matched with a log.
const MATCHED_MAX: usize = 100_000;
/// Lines of a log that are matched.
const LINES_MAX: usize = 100_000;

#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// A folder of `record` or `watch`, or one file of it; without it that of `EBUSY_CAPTURE`, or /var/lib/ebusy
    #[arg(value_name = "CAPTURE")]
    capture: Option<PathBuf>,
    /// One incident alone, by its number
    #[arg(value_name = "ID")]
    id: Option<u64>,
    #[command(flatten)]
    choice: Choice,
    /// Match the lines of a log (containerd, kubelet, journal; - for stdin) with the incidents; repeatable
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// The sums alone
    #[arg(long)]
    summary: bool,
    /// Print every advice in full, one a line, to copy commands from
    #[arg(long)]
    commands: bool,
    /// Incidents that are told one by one in HTML, the latest
    #[arg(long, value_name = "N", default_value_t = 500)]
    limit: usize,
    /// Replace paths, names of pods and containers, and command lines by hashes with a salt of this report
    #[arg(long)]
    redact: bool,
}

/// Which incidents.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Choice {
    /// Not those that had ended by then: 2h, 3d (before the capture's end), 2026-11-24T10:00, 2026-11-24T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<When>,
    /// Not those that began later; times as for --since
    #[arg(long, value_name = "TIME")]
    until: Option<When>,
    /// Container of the target: beginning of its id, or a glob on its name, POD or NAMESPACE/POD; repeatable
    #[arg(long, value_name = "GLOB")]
    container: Vec<String>,
    /// A holder: pid, or a glob on command, container, POD, NAMESPACE/POD, owner or unit; repeatable
    #[arg(long, value_name = "GLOB")]
    holder: Vec<String>,
    /// How it ended: `released`, `detached`, `gave_up`, `gone` or `still_busy`; repeatable
    #[arg(long, value_name = "OUTCOME", value_parser = by_name::<Outcome>)]
    outcome: Vec<Outcome>,
    /// A kind of reference that a holder has: `fd`, `cwd`, `mmap`, `child_mount`...; repeatable
    #[arg(long, value_name = "KIND", value_parser = by_name::<Kind>)]
    kind: Vec<Kind>,
}

/// A value by its name in JSON.
fn by_name<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, String> {
    let name = name.replace('-', "_");
    serde_json::from_value(serde_json::Value::String(name)).map_err(|error| error.to_string())
}

impl Choice {
    /// The filter; times before the end of the capture are counted from there.
    pub(super) fn filter(&self, common: &Common, capture: &Opened, id: Option<u64>) -> Result<Filter> {
        let relative = [self.since, self.until]
            .iter()
            .any(|when| matches!(when, Some(When::BeforeEnd(_))));
        let end = if relative { source::end_of(capture) } else { None };
        let globs = |of: &[String]| {
            of.iter()
                .map(|text| Ok((text.clone(), glob(text).map_err(anyhow::Error::msg)?)))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Filter {
            id,
            since: self.since.and_then(|when| when.resolve(end)),
            until: self.until.and_then(|when| when.resolve(end)),
            targets: globs(&common.target)?.into_iter().map(|(_, glob)| glob).collect(),
            containers: globs(&self.container)?,
            holders: globs(&self.holder)?,
            outcomes: self.outcome.clone(),
            kinds: self.kind.clone(),
        })
    }
}

/// Says that nothing was chosen, and out of what.
pub(super) fn nothing(filter: &Filter, seen: &Seen) {
    let span = match (seen.first, seen.last) {
        (Some(first), Some(last)) => format!(" ({first} to {last})"),
        _ => String::new(),
    };
    if filter.is_empty() {
        say!(
            "no umount was refused in the capture{span}, {} records",
            seen.records
        );
    } else {
        say!(
            "none of the {} incidents in the capture{span} is what was asked for; see all: ebusy report CAPTURE",
            seen.incidents
        );
    }
}

/// Where incidents go.
enum Sink {
    Lines,
    Page(Html),
    Nothing,
}

impl Report {
    pub(super) fn run(self, common: &Common) -> Result<u8> {
        let (capture, id) = source::which(self.capture.clone(), self.id)?;
        let opened = source::open(&capture)?;
        let logs = self.open_logs()?;
        let in_use = self
            .log
            .iter()
            .fold(InUse::standard(), |in_use, log| in_use.reading(log));
        let in_use = in_use.reading(&capture);
        let mut results = match common.format {
            Format::Html => Results::raw(common, &in_use)?,
            _ => Results::new(common, &in_use)?,
        };
        keep_zone();
        confine::while_reading(results.output());
        let filter = self.choice.filter(common, &opened, id)?;
        let redactor = self
            .redact
            .then(Redactor::new)
            .transpose()
            .context("making a salt")?;
        let mut lines = Self::lines(logs)?;
        let firsts = firsts(&lines);
        let zone = zone();
        let mut sink = match common.format {
            Format::Html => Sink::Page(Html::new(zone.clone(), self.limit)),
            _ if self.summary => Sink::Nothing,
            _ => Sink::Lines,
        };
        let mut analysis = Analysis::default();
        let mut tally = Tally::new(zone.clone());
        let mut kept: Vec<Incident> = Vec::new();
        let (mut chosen, mut seen_id) = (0u64, false);
        let damage = source::read(
            opened,
            &mut analysis,
            |_, _| Ok(()),
            |mut finding| {
                seen_id |= Some(finding.incident.id) == id;
                if !filter.wants(&finding.incident) {
                    return Ok(());
                }
                chosen += 1;
                if !lines.is_empty() && kept.len() < MATCHED_MAX {
                    kept.push(slim(&finding.incident));
                }
                since(&mut finding.incident, &firsts);
                if let Some(redactor) = &redactor {
                    redactor.incident(&mut finding.incident);
                }
                let again = tally.add(&finding);
                self.tell((&mut sink, &mut results), &finding, &again, common)?;
                // Nobody is waited for who reads no more.
                results.check()
            },
        )?;
        if let Some(id) = id
            && !seen_id
        {
            anyhow::bail!(
                "{}: no incident {id} in it; it has {}",
                said_path(&capture),
                numbers(analysis.seen().incidents)
            );
        }
        let matches = Self::matches(&mut lines, &kept, redactor.as_ref());
        let damaged = damage.count > 0;
        let told = damage.told.into_iter().map(|words| match &redactor {
            // It has the path of the file.
            Some(_) => words.replace(&*capture.to_string_lossy(), "CAPTURE"),
            None => words,
        });
        let summary = tally.finish(analysis.seen(), told.collect());
        let name = if self.redact {
            "CAPTURE".into()
        } else {
            capture.to_string_lossy()
        };
        Self::end(sink, &mut results, &summary, &matches, &name, common)?;
        if chosen == 0 {
            nothing(&filter, analysis.seen());
        }
        results.finish(if damaged { exit::UNKNOWN } else { exit::OK })
    }

    fn tell(
        &self,
        (sink, results): (&mut Sink, &mut Results),
        finding: &Finding,
        again: &[(u64, String)],
        common: &Common,
    ) -> Result<()> {
        let again: Vec<String> = again
            .iter()
            .map(|(nth, holder)| recurrence(*nth, holder))
            .collect();
        match sink {
            Sink::Page(page) => page.incident(finding, &again),
            Sink::Nothing => {}
            Sink::Lines if common.format == Format::Json => results.incident(&finding.incident)?,
            Sink::Lines => {
                let text = render::of_capture(&finding.incident, &again, self.commands, results.style());
                results.text(&text);
            }
        }
        Ok(())
    }

    fn end(
        sink: Sink,
        results: &mut Results,
        summary: &Summary,
        matches: &[LogMatch],
        name: &str,
        common: &Common,
    ) -> Result<()> {
        match (sink, common.format) {
            (Sink::Page(page), _) => {
                let told: Vec<(String, Option<u64>)> = matches
                    .iter()
                    .map(|found| (found.words.clone(), found.incident))
                    .collect();
                let html = page.finish(summary, &told, name);
                results.bytes(html.as_bytes());
                Ok(())
            }
            (Sink::Nothing, Format::Json) => {
                results.json(summary)?;
                matches.iter().try_for_each(|found| results.json(found))
            }
            (Sink::Lines, Format::Json) => matches.iter().try_for_each(|found| results.json(found)),
            (Sink::Nothing, _) => {
                Self::sums(results, summary, matches);
                Ok(())
            }
            (Sink::Lines, _) => {
                // One incident is its own summary.
                if summary.incidents > 1 || !matches.is_empty() {
                    Self::sums(results, summary, matches);
                }
                Ok(())
            }
        }
    }

    fn sums(results: &mut Results, summary: &Summary, matches: &[LogMatch]) {
        let mut text = render::summary(summary, results.style());
        for found in matches {
            let line = match found.incident {
                Some(id) => format!("LOG    {} -> #{id}\n", found.words),
                None => format!("LOG    {}\n", found.words),
            };
            text.push_str(&line);
        }
        results.text(&text);
    }

    fn open_logs(&self) -> Result<Vec<(PathBuf, Box<dyn BufRead>)>> {
        self.log
            .iter()
            .map(|path| Ok((path.clone(), open_log(path)?)))
            .collect()
    }

    /// The lines of the logs that speak of something busy.
    fn lines(opened: Vec<(PathBuf, Box<dyn BufRead>)>) -> Result<Vec<(PathBuf, Vec<LogLine>)>> {
        let mut logs = Vec::new();
        for (path, log) in opened {
            let path = &path;
            let mut reader = LogReader::new(log, LogClock::of_host());
            let lines = reader
                .by_ref()
                .take(LINES_MAX)
                .collect::<Result<Vec<_>, _>>()
                .with_context(|| format!("reading the log {}", said_path(path)))?;
            if lines.is_empty() {
                say!("{}: no line of it says that something is busy", said_path(path));
            }
            let more = reader.take_while(Result::is_ok).count();
            if more > 0 {
                say!(
                    "{}: only the first {LINES_MAX} lines that say that something is busy are matched; {more} are not",
                    said_path(path)
                );
            }
            logs.push((path.clone(), lines));
        }
        Ok(logs)
    }

    fn matches(
        logs: &mut Vec<(PathBuf, Vec<LogLine>)>,
        incidents: &[Incident],
        redactor: Option<&Redactor>,
    ) -> Vec<LogMatch> {
        let mut found = Vec::new();
        for (path, lines) in logs.drain(..) {
            for one in matched(&lines, incidents) {
                found.push(LogMatch::new(&path, &one, redactor));
            }
        }
        found
    }
}

/// A log; `-` is stdin.
fn open_log(path: &Path) -> Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("opening the log {}", said_path(path)))?;
    Ok(Box::new(BufReader::new(file)))
}

/// The first line about each target.
fn firsts(logs: &[(PathBuf, Vec<LogLine>)]) -> Vec<LogLine> {
    let mut first: HashMap<_, LogLine> = HashMap::new();
    for line in logs.iter().flat_map(|(_, lines)| lines) {
        let about = (
            line.target.clone(),
            line.container_id.clone(),
            line.pod.clone(),
            line.error,
        );
        let known = first.entry(about).or_insert_with(|| line.clone());
        if line.time.is_some() && (known.time.is_none() || line.time < known.time) {
            *known = line.clone();
        }
    }
    first.into_values().collect()
}

/// The log may know of attempts before those of the capture.
fn since(incident: &mut Incident, firsts: &[LogLine]) {
    let IncidentBody::Umount(umount) = &mut incident.body else {
        return;
    };
    let by_log = firsts.iter().filter_map(|line| line.failed_by(&incident.target));
    if let Some(time) = by_log.min().filter(|time| *time < incident.started) {
        let source = SinceSource::Log;
        earlier(&mut umount.since, Some(Since { time, source }));
    }
}

/// A log line and the incident that explains it.
#[derive(Debug, serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LogMatch {
    schema: &'static str,
    /// The name of the file.
    log: String,
    /// The number of the line, from 1.
    line: u64,
    /// When it was logged, where the log says so.
    time: Option<Timestamp>,
    /// The `id` of the incident.
    incident: Option<u64>,
    /// What line and incident have in common.
    by: Vec<&'static str>,
    /// Why there is no incident, in words.
    not_seen: Option<&'static str>,
    /// What was logged.
    message: String,
    #[serde(skip)]
    words: String,
}

impl LogMatch {
    /// The value of `schema`.
    pub(crate) const SCHEMA: &str = "ebusy.match/1";

    fn new(path: &Path, found: &crate::logs::Match<'_>, redactor: Option<&Redactor>) -> Self {
        let log = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let message = found.line.message.to_str_lossy();
        let (log, message) = match redactor {
            Some(redactor) => (redactor.name(&log), redactor.name(&message)),
            None => (log.into_owned(), message.into_owned()),
        };
        let place = format!("{} line {}", said(log.as_bytes()), found.line.line);
        let time = found
            .line
            .time
            .map(|time| format!(" ({time})"))
            .unwrap_or_default();
        let words = match found.not_seen {
            Some(why) => format!("{place}{time}: {}", why.words()),
            None => format!("{place}{time}, by {}", found.by.join(", ")),
        };
        Self {
            schema: Self::SCHEMA,
            log,
            line: found.line.line,
            time: found.line.time,
            incident: found.incident,
            by: found.by.clone(),
            not_seen: found.not_seen.map(crate::logs::NotSeen::words),
            message,
            words,
        }
    }
}

/// What matching needs of an incident.
fn slim(incident: &Incident) -> Incident {
    let mut slim = Incident {
        holders: Vec::new(),
        bystanders: Vec::new(),
        fixes: Vec::new(),
        ..incident.clone()
    };
    if let IncidentBody::Umount(umount) = &mut slim.body {
        umount.candidates = Vec::new();
    }
    slim
}

fn numbers(incidents: u64) -> String {
    match incidents {
        0 => "none".to_owned(),
        1 => "one, number 1".to_owned(),
        many => format!("{many}, from 1 on"),
    }
}

fn recurrence(nth: u64, holder: &str) -> String {
    let ordinal = match nth {
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        4 => "fourth".to_owned(),
        5 => "fifth".to_owned(),
        more => {
            let suffix = match (more % 100, more % 10) {
                (11..=13, _) => "th",
                (_, 1) => "st",
                (_, 2) => "nd",
                (_, 3) => "rd",
                _ => "th",
            };
            format!("{more}{suffix}")
        }
    };
    format!(
        "{ordinal} target of {} on that day",
        crate::report::said_workload(holder)
    )
}

#[cfg(test)]
mod tests {
    use super::{by_name, recurrence};
    use crate::model::Outcome;

    #[test]
    fn names_are_those_of_the_json() {
        assert_eq!(by_name::<Outcome>("gave_up"), Ok(Outcome::GaveUp));
        assert_eq!(by_name::<Outcome>("gave-up"), Ok(Outcome::GaveUp));
        assert!(by_name::<Outcome>("happy").unwrap_err().contains("still_busy"));
    }

    #[test]
    fn ordinals() {
        let all: Vec<String> = [2, 3, 11, 21, 22, 112].map(|nth| recurrence(nth, "x")).into();
        let firsts: Vec<&str> = all.iter().filter_map(|text| text.split(' ').next()).collect();
        assert_eq!(firsts, ["second", "third", "11th", "21st", "22nd", "112th"]);
    }
}
