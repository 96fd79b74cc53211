//! What log lines on standard input ask about: every target once.

use std::io::BufRead;

use anyhow::{Context as _, Result, bail};

use crate::{
    logs::{Assumed, LogClock, LogLine, LogReader, plain},
    model::{Target, Timestamp},
    text::{said, say::say},
};

/// Targets that are looked at.
const MAX_TARGETS: usize = 256;

/// A target and the lines about it.
#[derive(Debug)]
pub(super) struct Subject {
    /// The first of them.
    pub(super) line: LogLine,
    /// How many there are.
    pub(super) lines: u64,
    /// The number of the last one.
    last: u64,
    /// The one with the earliest time at which an umount had failed, if there is one: logs of several sources may be put
    /// together in any order.
    earliest: Option<LogLine>,
}

/// Reads to the end.
pub(super) fn read(log: impl BufRead, clock: LogClock) -> Result<Vec<Subject>> {
    let mut reader = LogReader::new(log, clock);
    let mut asked: Vec<Subject> = Vec::new();
    let mut left_out = 0_u64;
    while let Some(line) = reader.read().context("reading the log from stdin")? {
        let known = asked.iter_mut().find(|asked| same(&asked.line, &line));
        if let Some(known) = known {
            known.lines += 1;
            known.last = line.line;
            known.enter(&line);
        } else if asked.len() < MAX_TARGETS {
            let last = line.line;
            let mut new = Subject {
                line: line.clone(),
                lines: 1,
                last,
                earliest: None,
            };
            new.enter(&line);
            asked.push(new);
        } else {
            left_out += 1;
        }
    }
    let counts = reader.counts();
    if counts.cut > 0 {
        say!(
            "{} lines were longer than 64 KiB: their ends were not read",
            counts.cut
        );
    }
    if left_out > 0 {
        say!("more than {MAX_TARGETS} targets: {left_out} lines about others were left out");
    }
    if asked.is_empty() {
        bail!(
            "nothing is busy in {} log lines; expected e.g. `failed to unmount target PATH: device or resource busy` or \
             `umount: PATH: target is busy`",
            counts.lines
        );
    }
    Ok(asked)
}

/// Any text as a log on standard input: for fuzzing.
pub(crate) fn fuzzed(log: &[u8], clock: LogClock) {
    for asked in read(log, clock).unwrap_or_default() {
        let _ = (asked.path(), asked.names(), asked.not_matched(), asked.gone());
        let _ = asked.line.known(|path| path.is_empty().then_some(()));
    }
}

/// Whether two lines are about one thing.
fn same(one: &LogLine, other: &LogLine) -> bool {
    let about = |line: &LogLine| {
        (
            line.target.clone(),
            line.container_id.clone().filter(|_| line.target.is_none()),
            line.pod.clone().filter(|_| line.target.is_none()),
        )
    };
    about(one) == about(other)
}

impl Subject {
    fn enter(&mut self, line: &LogLine) {
        let known = self.earliest.as_ref().and_then(|earliest| earliest.time);
        let earlier = line
            .time
            .is_some_and(|time| known.is_none_or(|known| time < known));
        if line.is_failed_umount() && earlier {
            self.earliest = Some(line.clone());
        }
    }

    /// The path, where it is one.
    pub(super) fn path(&self) -> Option<Vec<u8>> {
        let path = plain(self.line.target.as_ref()?.as_bytes());
        path.starts_with(b"/").then_some(path)
    }

    /// The containers and the pod.
    pub(super) fn names(&self) -> Vec<String> {
        let pod = self.line.pod_namespace.as_ref().zip(self.line.pod.as_ref());
        let pod = pod.map(|(namespace, pod)| format!("{namespace}/{pod}"));
        let ids = self.line.container_id.iter().chain(&self.line.other_ids);
        ids.cloned().chain(pod).collect()
    }

    /// When the earliest of the lines was logged that tell of a failed umount of this target.
    pub(super) fn since(&self, target: &Target) -> Option<Timestamp> {
        self.earliest.as_ref()?.failed_by(target)
    }

    /// `line 3`, `lines 3 to 52 (50 times)`, and what they speak of.
    pub(super) fn words(&self) -> String {
        let which = match self.lines {
            1 => format!("line {}", self.line.line),
            many => format!("lines {} to {} ({many} times)", self.line.line, self.last),
        };
        let time = self.line.time.map_or_else(String::new, |time| {
            let day = match self.line.assumed {
                Some(Assumed::Day) => " (the log has no day: the latest such time)",
                _ => "",
            };
            format!(", since {}{day}", time.local_moment(Timestamp::now()))
        });
        let what = match (&self.line.target, self.names().first()) {
            (Some(target), _) => said(target.as_bytes()),
            (None, Some(name)) => said(name.as_bytes()),
            (None, None) => {
                let message = self.line.message.as_bytes();
                said(&message[..message.len().min(80)])
            }
        };
        format!("{which}{time}: {what}")
    }

    /// What to say where only the mounts of one namespace are known.
    pub(super) fn not_seen_by_proc(&self) -> String {
        format!(
            "{}: not mounted in this mount namespace; others are not seen at tier proc",
            self.words()
        )
    }

    /// What to say where no mount was found, and a runtime or the kubelet made it.
    pub(super) fn gone(&self) -> String {
        format!(
            "{}: not mounted any more in any mount namespace: there is nothing to unmount",
            self.words()
        )
    }

    /// What to say where nothing was found.
    pub(super) fn not_matched(&self) -> String {
        let why = if self.line.target.is_some() || !self.names().is_empty() {
            "could not be matched with any mount, device or container here"
        } else {
            "the line does not say what was busy; see what is stuck: ebusy who"
        };
        format!("{}: {why}", self.words())
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{Subject, read};
    use crate::{logs::LogClock, model::Timestamp};

    fn asked(log: &str) -> anyhow::Result<Vec<Subject>> {
        let clock = LogClock {
            now: Timestamp::from_nanos(1_755_129_600_000_000_000),
            boot: None,
            zone: TimeZone::UTC,
        };
        read(log.as_bytes(), clock)
    }

    #[test]
    fn every_target_once() {
        let log = "umount: /var/run/x/: target is busy\nfine\numount: /mnt/y z: target is busy\n\
                   umount: /var/run/x/: target is busy\ncannot destroy 'a/b': dataset is busy\nEBUSY: Device or resource busy\n";
        let asked = asked(log).unwrap();
        let words: Vec<String> = asked.iter().map(Subject::words).collect();
        assert_eq!(
            words,
            [
                "lines 1 to 4 (2 times): /var/run/x/",
                "line 3: '/mnt/y z'",
                "line 5: a/b",
                "line 6: 'EBUSY: Device or resource busy'",
            ]
        );
        assert_eq!(asked[0].path().unwrap(), b"/run/x");
        assert_eq!(asked[2].path(), None);
        assert!(asked[1].gone().contains("not mounted any more"));
        assert!(asked[1].not_matched().contains("could not be matched"));
        assert!(asked[3].not_matched().contains("does not say what"));
    }

    #[test]
    fn the_earliest_line_of_a_failed_umount_says_since_when() {
        let path = format!(
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/rootfs",
            "9c41d0e7".repeat(8)
        );
        let line = |time: &str, what: &str| {
            format!(
                "time=\"2026-11-23T{time}Z\" level=error msg=\"{what} {path}: device or resource busy\"\n"
            )
        };
        let log = [
            line("13:19:15", "failed to unmount target"),
            line("13:18:45", "failed to unmount target"),
            line("13:20:15", "failed to unmount target"),
        ];
        let target = crate::model::Target {
            path: path.as_str().into(),
            ..Default::default()
        };
        let asked = asked(&log.concat()).unwrap();
        let [one] = &asked[..] else { panic!("{asked:#?}") };
        let since = one.since(&target).map(Timestamp::as_nanos);
        assert_eq!(since, Some(1_795_439_925_000_000_000));
    }

    #[test]
    fn nothing_busy_is_an_error_that_says_what_was_expected() {
        let error = asked("all is well\nall is well\n").unwrap_err().to_string();
        assert!(error.starts_with("nothing is busy in 2 log lines; expected"));
    }

    #[test]
    fn a_flood_of_targets_is_cut() {
        let lines: Vec<String> = (0..300)
            .map(|index| format!("umount: /m/{index}: target is busy"))
            .collect();
        let log = lines.join("\n");
        assert_eq!(asked(&log).unwrap().len(), 256);
    }
}
