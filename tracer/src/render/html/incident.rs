//! One incident: the verdict in a sentence, the picture, who held it, the books, what to do.

use jiff::tz::TimeZone;

use super::{
    again::again,
    slow,
    text::{Apart, Name, Page, Words, advice, row},
    timeline::timeline,
    verdict::{container, verdict},
};
use crate::{
    incident::Span,
    model::{Holder, Incident, IncidentBody, Kind, Outcome, Process, Refusals, Through, WayIn},
    render::{
        books::{Account, books},
        kinds::{also, way},
        names::container_short,
        operation,
        times::{between, duration, moment},
    },
    report::{Finding, of_holder, of_target, said_workload},
    text::said,
};

/// Holders that are told one by one.
const HOLDERS: usize = 50;
/// Other processes that share a reference, by name.
const SHARERS: usize = 12;

pub(super) fn incident(page: &mut Page, finding: &Finding, notes: &[String], zone: &TimeZone) {
    let Finding {
        incident,
        timeline: times,
    } = finding;
    let id = incident.id;
    page.put(format_args!(
        "<section class=\"card incident\" id=\"i{id}\">\n<h2><a class=\"number\" href=\"#i{id}\">#{id}</a>"
    ));
    verdict(page, incident);
    page.put(format_args!("</h2>\n"));
    state(page, incident, zone);
    again(page, incident, zone);
    for note in notes {
        page.put(format_args!("<p class=\"dim\">{}</p>\n", Words(note)));
    }
    // Those of umount2 alone have their times.
    if !times.attempts.is_empty() {
        page.put(format_args!("<h3>Timeline</h3>\n"));
        timeline(page, finding, zone);
    }
    let groups = [
        ("Held by", incident.holders.as_slice(), times.holders.as_slice()),
        ("Suspected, not seen by reference", incident.candidates(), &[]),
        (
            "Not blocking, but keeping the file system in use",
            incident.bystanders.as_slice(),
            times.bystanders.as_slice(),
        ),
    ];
    for (title, holders, spans) in groups {
        if holders.is_empty() {
            continue;
        }
        page.put(format_args!("<h3>{title}</h3>\n"));
        for (index, holder) in holders.iter().enumerate().take(HOLDERS) {
            self::holder(page, holder, spans.get(index), incident, zone);
        }
        if holders.len() > HOLDERS {
            page.put(format_args!(
                "<p class=\"dim\">{} more: see <code>--format json</code></p>\n",
                holders.len() - HOLDERS
            ));
        }
    }
    match &incident.body {
        IncidentBody::Operation(refused) => page.put(format_args!(
            "<h3>Why</h3>\n<p>{}</p>\n",
            Words(operation::reason(refused))
        )),
        IncidentBody::Umount(_) | IncidentBody::Detached => account(page, incident),
        IncidentBody::Slow(_) => {}
    }
    let mut fixes = incident.fixes.iter().filter(|fix| fix.is_for_people()).peekable();
    if fixes.peek().is_some() {
        page.put(format_args!("<h3>What to do, least harmful first</h3>\n<ol>\n"));
        for fix in fixes {
            page.put(format_args!("<li>"));
            advice(page, fix);
            page.put(format_args!("</li>\n"));
        }
        page.put(format_args!("</ol>\n"));
    }
    particulars(page, incident, zone);
    page.put(format_args!("</section>\n"));
}

fn state(page: &mut Page, incident: &Incident, zone: &TimeZone) {
    match &incident.body {
        IncidentBody::Umount(umount) => refused(page, incident, &umount.refusals, zone),
        IncidentBody::Operation(other) if other.operation.is_pending() => cleared(page, incident, zone),
        IncidentBody::Operation(other) => refused(page, incident, &other.refusals, zone),
        IncidentBody::Detached => detached(page, incident, zone),
        IncidentBody::Slow(slow) => slow::state(page, incident, slow, zone),
    }
}

/// An umount, or another call.
fn refused(page: &mut Page, incident: &Incident, refusals: &Refusals, zone: &TimeZone) {
    let is_umount = matches!(incident.body, IncidentBody::Umount(_));
    let ended = incident.ended.unwrap_or(incident.started);
    let took = duration(between(incident.started, ended));
    let (class, tag, words) = match incident.outcome {
        None => ("", "open", String::new()),
        Some(outcome) => (
            outcome.name(),
            outcome.name(),
            match outcome {
                Outcome::Released if !is_umount => {
                    format!("What kept it was gone {took} after the first refusal.")
                }
                Outcome::Released => format!("It was unmounted {took} after the first refusal."),
                Outcome::Detached => {
                    format!(
                        "It was detached {took} after the first refusal, and lives on hidden until its holders end."
                    )
                }
                Outcome::GaveUp if !is_umount => {
                    "Nobody tried again for 30 s; what kept it may still be there.".to_owned()
                }
                Outcome::GaveUp => "Nobody tried again for 30 s; it is still mounted.".to_owned(),
                Outcome::Gone => format!("Its mount namespace ended {took} after the first refusal."),
                // Of no incident that has refusals.
                Outcome::Failed => String::new(),
                Outcome::StillBusy => {
                    format!("It was still busy when the capture ended, {took} after the first refusal.")
                }
            },
        ),
    };
    let attempts = match (refusals.attempts, refusals.bursts) {
        (1, _) => "1 attempt".to_owned(),
        (attempts, 0 | 1) => format!("{attempts} attempts"),
        (attempts, bursts) => format!("{attempts} attempts in {bursts} bursts"),
    };
    page.put(format_args!(
        "<p><span class=\"tag {class}\">{}</span> {attempts} refused, the first on {}, by <b>{}</b> (pid {}). {words}</p>\n",
        tag.replace('_', " "),
        super::summary::date(incident.started, zone),
        Name(incident.caller.comm.as_bytes()),
        incident.caller.pid,
    ));
}

/// A mount that was detached and lived on.
fn detached(page: &mut Page, incident: &Incident, zone: &TimeZone) {
    let ended = incident.ended.unwrap_or(incident.started);
    let took = duration(between(incident.started, ended));
    let (class, words) = match incident.outcome {
        None => ("", String::new()),
        Some(Outcome::Released) => ("released", format!("Its last reference went {took} later.")),
        Some(outcome) => (
            outcome.name(),
            format!("It was still in use when the capture ended, {took} later."),
        ),
    };
    page.put(format_args!(
        "<p><span class=\"tag {class}\">detached</span> Taken out of its namespace on {}, by <b>{}</b> (pid {}), while it \
         was in use. {words}</p>\n",
        super::summary::date(incident.started, zone),
        Name(incident.caller.comm.as_bytes()),
        incident.caller.pid,
    ));
}

/// A loop device that was told to give up its file while it was in use.
fn cleared(page: &mut Page, incident: &Incident, zone: &TimeZone) {
    let ended = incident.ended.unwrap_or(incident.started);
    let took = duration(between(incident.started, ended));
    let (class, words) = match incident.outcome {
        None => ("", String::new()),
        Some(Outcome::Released) => ("released", format!("It was free {took} later.")),
        Some(outcome) => (
            outcome.name(),
            format!("It was still in use when the capture ended, {took} later."),
        ),
    };
    page.put(format_args!(
        "<p><span class=\"tag {class}\">loop device</span> Told to give up its file on {}, by <b>{}</b> (pid {}), which \
         the kernel does when the last one closes it. {words}</p>\n",
        super::summary::date(incident.started, zone),
        Name(incident.caller.comm.as_bytes()),
        incident.caller.pid,
    ));
}

fn holder(page: &mut Page, holder: &Holder, span: Option<&Span>, incident: &Incident, zone: &TimeZone) {
    page.put(format_args!("<div class=\"holder\">\n<p class=\"who\">"));
    match &holder.process {
        Some(process) => {
            page.put(format_args!(
                "{}, pid {}",
                Name(process.comm.as_bytes()),
                process.pid
            ));
            if let Some(tid) = process.tid.filter(|tid| *tid != process.pid) {
                page.put(format_args!(", thread {tid}"));
            }
        }
        None => page.put(format_args!("No process")),
    }
    page.put(format_args!(": {}</p>\n<dl>\n", Words(&way(holder))));
    let also: Vec<&str> = holder.also.iter().map(|kind| also(*kind)).collect();
    if !also.is_empty() {
        row(page, "also", &also.join(", "));
    }
    if !holder.path.is_empty() {
        page.put(format_args!(
            "<dt>path inside</dt><dd><code>{}</code>{}</dd>\n",
            Apart(holder.path.as_bytes()),
            if holder.deleted { " (deleted)" } else { "" }
        ));
    }
    if let Some(seen) = holder.seen_as.as_ref().filter(|seen| **seen != holder.path) {
        page.put(format_args!(
            "<dt>as it sees it</dt><dd><code>{}</code></dd>\n",
            Apart(seen.as_bytes())
        ));
    }
    let copy = match holder.through {
        Through::Target => "the mount itself",
        Through::PropagatedCopy => "its own copy of the mount, which receives what happens on the host",
        Through::PrivateCopy => "a private copy of the mount, which does not block",
    };
    let namespace = holder
        .mount_namespace
        .map(|number| format!(", mount namespace {number}"))
        .unwrap_or_default();
    row(page, "through", &format!("{copy}{namespace}"));
    since(page, holder, span, incident, zone);
    way_in(page, holder, zone);
    row(
        page,
        "counts for",
        &match (holder.refs, holder.counted) {
            _ if matches!(incident.body, IncidentBody::Operation(_)) && holder.counted => {
                "one that is enough for the kernel to refuse".to_owned()
            }
            _ if holder.through == Through::PrivateCopy => {
                "nothing in the books: its mount does not block".to_owned()
            }
            (1, true) => "1 reference in the books".to_owned(),
            (refs, true) => format!("{refs} references in the books"),
            (1, false) => "1 reference, not in the last count".to_owned(),
            (refs, false) => format!("{refs} references, not in the last count"),
        },
    );
    if let Some(reason) = &holder.reason {
        row(page, "suspected as", reason);
    }
    if let Some(process) = &holder.process {
        self::process(page, process);
    }
    sharers(page, holder);
    page.put(format_args!("</dl>\n</div>\n"));
}

/// How it came into the mount namespace.
fn way_in(page: &mut Page, holder: &Holder, zone: &TimeZone) {
    let Some(entered) = holder.entered.as_deref() else {
        return;
    };
    let words = match (entered.operation, entered.from, entered.time) {
        (WayIn::Outside, Some(own), time) => {
            let verb = if time.is_some() { "opened" } else { "held" };
            format!("{verb} from outside: its own mount namespace is {own}")
        }
        (WayIn::Setns, _, Some(time)) => {
            let namespace = entered.namespace;
            let of = entered.container.as_ref();
            let of = of.map_or(String::new(), |of| format!(" of {}", container_short(of)));
            let by = entered.by.as_ref().map_or(String::new(), |by| {
                format!("its ancestor {} ({}) ", said(by.comm.as_bytes()), by.pid)
            });
            format!(
                "{by}entered mount namespace {namespace}{of} by setns at {}",
                moment(time, time, zone)
            )
        }
        _ => return,
    };
    row(page, "way in", &words);
}

fn since(page: &mut Page, holder: &Holder, span: Option<&Span>, incident: &Incident, zone: &TimeZone) {
    let Some(opened) = holder.opened else {
        row(page, "since", "unknown: that was not seen");
        return;
    };
    let reference = incident.ended.unwrap_or(incident.started);
    let mut words = moment(opened, reference, zone);
    let before = between(opened, incident.started);
    if before > 0 {
        let what = if incident.body == IncidentBody::Detached {
            "it was detached"
        } else {
            "the first refusal"
        };
        words = format!("{words}, {} before {what}", duration(before));
    }
    if let Some(by) = &holder.opened_by {
        let own = holder
            .process
            .as_ref()
            .is_some_and(|process| process.pid == by.pid);
        if own {
            words.push_str(", opened by the same process");
        } else {
            words = format!("{words}, opened by {} ({})", said(by.comm.as_bytes()), by.pid);
        }
    }
    if let Some(span) = span.filter(|span| span.ended) {
        words = format!("{words}; until {}", moment(span.until, reference, zone));
    }
    row(page, "since", &words);
}

fn process(page: &mut Page, process: &Process) {
    if let Some(container) = &process.container {
        page.put(format_args!("<dt>container</dt><dd>"));
        self::container(page, container);
        if let Some(owner) = &container.owner {
            page.put(format_args!(
                ", of {} {}",
                Name(owner.kind.as_bytes()),
                Name(owner.name.as_bytes())
            ));
        }
        if let Some(image) = &container.image {
            page.put(format_args!(", image <code>{}</code>", Apart(image.as_bytes())));
        }
        page.put(format_args!("</dd>\n"));
    } else if let Some(unit) = &process.unit {
        row(page, "unit", &said(unit.as_bytes()));
    }
    if let Some(exe) = &process.exe {
        page.put(format_args!(
            "<dt>program</dt><dd><code>{}</code></dd>\n",
            Apart(exe.as_bytes())
        ));
    }
    if let Some(arguments) = &process.cmdline {
        let line: Vec<String> = arguments
            .iter()
            .map(|part| Apart(part.as_bytes()).to_string())
            .collect();
        page.put(format_args!(
            "<dt>command line</dt><dd><code>{}</code></dd>\n",
            line.join(" ")
        ));
    }
    if !process.parents.is_empty() {
        let parents: Vec<String> = process
            .parents
            .iter()
            .map(|parent| format!("{} {}", said(parent.comm.as_bytes()), parent.pid))
            .collect();
        row(page, "started by", &parents.join(" ← "));
    }
}

fn sharers(page: &mut Page, holder: &Holder) {
    if holder.shared_with.is_empty() {
        return;
    }
    let mut names: Vec<String> = holder
        .shared_with
        .iter()
        .take(SHARERS)
        .map(|sharer| format!("{} {}", said(sharer.comm.as_bytes()), sharer.pid))
        .collect();
    if holder.shared_with.len() > SHARERS {
        names.push(format!("{} more", holder.shared_with.len() - SHARERS));
    }
    let title = if holder.kind == Kind::ChildMount {
        "used by"
    } else {
        "shared with"
    };
    row(page, title, &names.join(", "));
}

fn account(page: &mut Page, incident: &Incident) {
    let line = books(Account {
        books: &incident.references,
        holders: &incident.holders,
        target: &incident.target,
        attempts: Some(incident.attempts()),
        lost: Some(incident.lost_events),
        probe: incident.probe,
    });
    let line = line.strip_prefix("BOOKS").unwrap_or(&line).trim();
    let (sum, rest) = line.split_once(['(', ',', ';']).unwrap_or((line, ""));
    let rest = line
        .get(sum.len()..)
        .filter(|_| !rest.is_empty())
        .unwrap_or_default();
    page.put(format_args!(
        "<h3>Books</h3>\n<p class=\"books\"><b>{}</b><span class=\"dim\">{}</span></p>\n",
        Words(sum.trim_end()),
        Words(rest)
    ));
}

fn particulars(page: &mut Page, incident: &Incident, zone: &TimeZone) {
    let target = &incident.target;
    page.put(format_args!(
        "<details>\n<summary>Particulars</summary>\n<dl>\n<dt>mount</dt><dd><code>{}</code></dd>\n",
        Apart(target.path.as_bytes())
    ));
    if let Some(fs_type) = &target.fs_type {
        row(page, "file system", &said(fs_type.as_bytes()));
    }
    if let Some(source) = &target.source {
        page.put(format_args!(
            "<dt>source</dt><dd><code>{}</code></dd>\n",
            Apart(source.as_bytes())
        ));
    }
    let numbers = [
        ("mount id", target.mount_id),
        ("mount namespace", target.mount_namespace),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            row(page, name, &number.to_string());
        }
    }
    if let Some(container) = &target.container {
        page.put(format_args!(
            "<dt>container id</dt><dd><code>{}</code></dd>\n",
            Apart(container.id.as_bytes())
        ));
    }
    let callers: Vec<String> = incident
        .callers()
        .iter()
        .take(SHARERS)
        .map(|caller| {
            format!(
                "{} {} ({} attempts)",
                said(caller.comm.as_bytes()),
                caller.pid,
                caller.attempts
            )
        })
        .collect();
    if !callers.is_empty() {
        row(page, "refused to", &callers.join(", "));
    }
    if !incident.flags.is_empty() {
        row(page, "flags", &incident.flags.join(" | "));
    }
    if let Some(sampled) = incident.references.sampled_at {
        row(page, "looked at", &super::summary::date(sampled, zone));
    }
    row(page, "tier", incident.probe.name());
    page.put(format_args!("</dl>\n</details>\n"));
}

/// The row of an incident in the list of all.
pub(super) fn row_of_list(page: &mut Page, incident: &Incident, zone: &TimeZone) {
    let outcome = incident.outcome.map_or("open", Outcome::name);
    let id = incident.id;
    page.put(format_args!(
        "<tr><td><a href=\"#i{id}\">#{id}</a></td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td \
         class=\"{outcome}\">{}</td></tr>\n",
        super::summary::date(incident.started, zone),
        Words(&about(incident)),
        incident
            .holders
            .first()
            .map_or_else(
                || "nobody found".to_owned(),
                |holder| Apart(of_holder(holder).as_bytes()).to_string()
            ),
        incident.attempts(),
        outcome.replace('_', " ")
    ));
}

/// `rmdir of /srv/volume`; of an umount, its target.
fn about(incident: &Incident) -> String {
    let target = said_workload(&of_target(&incident.target));
    match &incident.body {
        IncidentBody::Umount(_) => target,
        IncidentBody::Operation(refused) => format!("{} of {target}", refused.operation.name()),
        IncidentBody::Detached => format!("{target}, detached"),
        IncidentBody::Slow(_) => format!("{target}, slow"),
    }
}
