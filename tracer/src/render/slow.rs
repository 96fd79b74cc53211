//! An umount2 that takes long as text, and what shortens it.

use super::{
    Style, names,
    noise::noise,
    report::Report,
    times::{between, clock, duration},
    view::View,
};
use crate::{
    model::{Incident, Outcome, Phase, Slow, Timestamp, Wait, WaitsFor},
    text::Line,
};

/// Waits that are told one by one.
const WAITS: usize = 4;
/// What is left to do after the result is worth a word from then on, ns.
const AFTERWARDS: i64 = 10_000_000;

/// The incident in at most 18 lines of 110 columns.
pub(super) fn report(incident: &Incident, slow: &Slow, style: &Style) -> String {
    let now = until(incident);
    let mut account = waits(slow);
    account.push(state(incident, slow, now, style));
    account.extend(noise(incident));
    Report {
        verdict: verdict(incident, now),
        holders: &[],
        no_holder: None,
        candidates: &[],
        bystanders: &[],
        view: View {
            target: &incident.target,
            attempts: None,
            now,
            zone: &style.zone,
        },
        account,
        fixes: &incident.fixes,
        over: incident.ended.is_some() && incident.outcome != Some(Outcome::StillBusy),
        check: None,
    }
    .write(style)
}

/// When it was over, or last looked at.
fn until(incident: &Incident) -> Timestamp {
    incident
        .ended
        .or(incident.references.sampled_at)
        .unwrap_or(incident.started)
}

fn verdict(incident: &Incident, now: Timestamp) -> String {
    let took = duration(between(incident.started, now));
    let words = match incident.outcome {
        None => format!(": {took} so far"),
        Some(Outcome::StillBusy) => format!(": {took} and not over"),
        Some(_) => format!(": took {took}"),
    };
    Line::new("SLOW")
        .words("umount of ")
        .with(|line| names::target(line, &incident.target))
        .words(", by ")
        .with(|line| names::caller(line, &incident.caller))
        .words(words)
        .finish()
}

/// What it was doing.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Lookup => "looking for the mount by its path",
        Phase::Tables => "changing the mount tables",
        Phase::Abort => "aborting what is under way",
        Phase::Sync => "writing back dirty data (sync)",
        Phase::Evict => "freeing cached inodes, names and pages",
        Phase::Shutdown => "shutting the file system down",
        Phase::Unknown => "in the kernel, unknown at what",
    }
}

/// What it waited for.
pub(super) fn waits_for(of: WaitsFor) -> &'static str {
    match of {
        WaitsFor::Device => "waits for the disk",
        WaitsFor::FuseServer => "waits for a FUSE server",
        WaitsFor::NetworkServer => "waits for a network file server",
        WaitsFor::Lock => "waits for a lock",
        WaitsFor::Rcu => "waits until no CPU looks at the old tables",
        WaitsFor::Cpu => "running on a CPU",
    }
}

/// The same of both.
pub(super) fn words(wait: &Wait) -> String {
    match (wait.phase, wait.waits_for) {
        (Phase::Unknown, Some(WaitsFor::Cpu)) => {
            "running on a CPU in the kernel, where it is not seen what at".to_owned()
        }
        (of, Some(what)) => format!("{}, {}", phase(of), waits_for(what)),
        (of, None) => phase(of).to_owned(),
    }
}

fn waits(slow: &Slow) -> Vec<String> {
    if slow.waits.is_empty() {
        let line =
            Line::new("WAIT").words("unknown: it was over, or could not be looked at, before ebusy looked");
        return vec![line.finish()];
    }
    let shown = slow.waits.iter().take(WAITS).enumerate();
    let mut lines: Vec<String> = shown
        .map(|(index, wait)| {
            let line = if index == 0 {
                Line::new("WAIT")
            } else {
                Line::new("")
            };
            let line = line.words(format!("{} of {} looks: {}", wait.looks, slow.looks, words(wait)));
            match &wait.function {
                Some(function) => line.words(" (").name(function.as_bytes()).words(")"),
                None => line,
            }
            .finish()
        })
        .collect();
    if slow.waits.len() > WAITS {
        lines.push(
            Line::new("")
                .words(format!("+{} more", slow.waits.len() - WAITS))
                .finish(),
        );
    }
    lines
}

fn state(incident: &Incident, slow: &Slow, now: Timestamp, style: &Style) -> String {
    let answered = slow.answered.map(|answered| between(incident.started, answered));
    let rest = slow.answered.map_or(0, |answered| between(answered, now));
    let words = match incident.outcome {
        None if answered.is_some() => {
            "unmounted, but its caller is not back: the file system is being freed".to_owned()
        }
        None => "not unmounted yet".to_owned(),
        Some(Outcome::Released | Outcome::Detached) => {
            let done = if incident.outcome == Some(Outcome::Detached) {
                "detached"
            } else {
                "unmounted"
            };
            match answered.filter(|_| rest >= AFTERWARDS) {
                Some(answered) => format!(
                    "{done} after {}, then {} until the file system was freed",
                    duration(answered),
                    duration(rest)
                ),
                None => done.to_owned(),
            }
        }
        Some(Outcome::Failed) => format!("failed with {}", slow.error.as_deref().unwrap_or("an error")),
        Some(Outcome::StillBusy) => "not over when ebusy stopped".to_owned(),
        Some(_) => "over; its result was not seen".to_owned(),
    };
    Line::new("STATE")
        .words(format!("{words} ({})", clock(now, &style.zone)))
        .words(format!(
            "; {} lost; tier {}",
            incident.lost_events, incident.probe
        ))
        .finish()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use crate::{
        advice::advise_incident,
        model::{
            Books, Incident, IncidentBody, Outcome, Phase, Process, Slow, Target, Timestamp, Wait, WaitsFor,
        },
        render::{Style, incident, samples},
    };

    fn text(
        outcome: Option<Outcome>,
        answered: Option<i64>,
        error: Option<&str>,
        seen: &[(Phase, Option<WaitsFor>, &str, u64)],
    ) -> String {
        let of = samples::incident(Vec::new());
        let later = |millis: i64| Timestamp::from_nanos(of.started.as_nanos() + millis * 1_000_000);
        let target = Target {
            path: "/run/containerd/rootfs".into(),
            fs_type: Some("overlay".into()),
            ..Target::default()
        };
        let slow = Slow {
            answered: answered.map(later),
            error: error.map(str::to_owned),
            looks: seen.iter().map(|(.., looks)| looks).sum(),
            waits: seen
                .iter()
                .map(|(phase, waits_for, function, looks)| Wait {
                    phase: *phase,
                    waits_for: *waits_for,
                    function: (!function.is_empty()).then(|| (*function).to_owned()),
                    looks: *looks,
                    first: later(100),
                    last: later(900),
                    stack: Vec::new(),
                })
                .collect(),
        };
        let mut of = Incident {
            body: IncidentBody::Slow(slow),
            outcome,
            ended: outcome.map(|_| later(31_000)),
            caller: Process {
                pid: 812,
                comm: "umount".into(),
                ..Process::default()
            },
            references: Books {
                sampled_at: Some(later(1_040)),
                ..Books::default()
            },
            target,
            ..of
        };
        advise_incident(&mut of);
        let style = Style {
            terminal: false,
            zone: TimeZone::UTC,
        };
        incident(&of, &style)
    }

    #[test]
    fn it_goes_on() {
        let seen = [
            (Phase::Sync, Some(WaitsFor::Device), "folio_wait_bit_common", 4),
            (Phase::Unknown, Some(WaitsFor::Cpu), "", 1),
        ];
        insta::assert_snapshot!(text(None, Some(2), None, &seen), @r"
        SLOW   umount of /run/containerd/rootfs (overlay), by umount 812: 1.04 s so far
        WAIT   4 of 5 looks: writing back dirty data (sync), waits for the disk (folio_wait_bit_common)
               1 of 5 looks: running on a CPU in the kernel, where it is not seen what at
        STATE  unmounted, but its caller is not back: the file system is being freed (03:43:18); 0 lost; tier fentry
        FIX    an overlay syncs the whole file system of its upper directory: write that back before (sync -f of it),
               or mount the overlay with `volatile` (Linux 5.10 on) where its data may be lost in a crash
               umount -l does not help: whoever drops the last reference waits as long
        ");
    }

    #[test]
    fn it_is_over() {
        let seen = [(
            Phase::Sync,
            Some(WaitsFor::FuseServer),
            "request_wait_answer",
            150,
        )];
        insta::assert_snapshot!(text(Some(Outcome::Released), Some(2), None, &seen), @r#"
        SLOW   umount of /run/containerd/rootfs (overlay), by umount 812: took 31 s
        WAIT   150 of 150 looks: writing back dirty data (sync), waits for a FUSE server (request_wait_answer)
        STATE  unmounted after 2 ms, then 30 s until the file system was freed (03:43:48); 0 lost; tier fentry
        FIX    for the next time: have the FUSE server answer, or end it; what waits for it is aborted by a 1 in
               /sys/fs/fuse/connections/N/abort (N: its minor device number)
               an overlay syncs the whole file system of its upper directory: write that back before (sync -f of it),
               or mount the overlay with `volatile` (Linux 5.10 on) where its data may be lost in a crash
               umount -l does not help: whoever drops the last reference waits as long
        "#);
    }

    #[test]
    fn it_fails_or_is_not_over() {
        let seen = [
            (Phase::Tables, Some(WaitsFor::Lock), "path_umount", 9),
            (Phase::Unknown, None, "vendor_\u{1b}[31mthing", 2),
        ];
        let failed = text(Some(Outcome::Failed), Some(31_000), Some("EBUSY"), &seen);
        let open = text(Some(Outcome::StillBusy), None, None, &[]);
        insta::assert_snapshot!(format!("{failed}{open}"), @r#"
        SLOW   umount of /run/containerd/rootfs (overlay), by umount 812: took 31 s
        WAIT   9 of 11 looks: changing the mount tables, waits for a lock (path_umount)
               2 of 11 looks: in the kernel, unknown at what ('vendor_\x1b[31mthing')
        STATE  failed with EBUSY (03:43:48); 0 lost; tier fentry
        FIX    for the next time: somebody else changes mount tables: look for other slow umounts and mounts, and for
               very many mounts
        SLOW   umount of /run/containerd/rootfs (overlay), by umount 812: 31 s and not over
        WAIT   unknown: it was over, or could not be looked at, before ebusy looked
        STATE  not over when ebusy stopped (03:43:48); 0 lost; tier fentry
        "#);
    }
}
