//! An audit as text: the verdict first, then what was found by section and workload, on one screen.

use super::{Style, names, report::command_line};
use crate::{
    model::{
        Audit, Detached, Fix, Group, Holder, KeptNamespace, Leaked, Now, Process, Setting, Target, Workload,
    },
    text::{
        Line,
        fit::{COLUMNS, wrap},
        printable,
    },
};

/// Lines of a screen.
pub(super) const LINES_MAX: usize = 40;
/// Entries of a section at the most.
const ENTRIES_MAX: usize = 4;
/// What is left of a line after its margin.
const MARGIN: usize = 9;

/// The answer, in at most 40 lines of 110 columns.
#[must_use]
pub fn audit(audit: &Audit, _style: &Style) -> String {
    let sections = sections(audit);
    let mut after: Vec<String> = own(audit).into_iter().collect();
    for gap in audit.gaps.iter().take(2) {
        after.push(Line::new("BLIND").words(gap.clone()).finish());
    }
    if !audit.blind.is_empty() {
        let text = format!("not looked at, or not as a whole: {}", audit.blind.join(", "));
        after.push(Line::new("BLIND").words(text).finish());
    }
    // As many of each as there is room for.
    let room = LINES_MAX - 1 - after.len();
    let body = (1..=ENTRIES_MAX)
        .rev()
        .map(|most| {
            sections
                .iter()
                .flat_map(|entries| section(entries, most))
                .collect()
        })
        .find(|body: &Vec<String>| body.len() <= room)
        .unwrap_or_else(|| sections.iter().flat_map(|entries| section(entries, 1)).collect());
    let mut lines = vec![verdict(audit)];
    lines.extend(body.into_iter().take(room));
    lines.extend(after);
    lines.join("\n")
}

/// So many entries, with what mends the first of them, and how many more there are.
fn section(entries: &[Entry], most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, entry) in entries.iter().take(most).enumerate() {
        lines.push(entry.line.clone());
        lines.extend(entry.detail.clone());
        if index == 0 {
            lines.extend(advice(&entry.fixes));
        }
    }
    if entries.len() > most {
        let more = format!("+{} more: see --format json", entries.len() - most);
        lines.push(Line::sub("").words(more).finish());
    }
    lines
}

struct Entry {
    line: String,
    detail: Option<String>,
    fixes: Vec<Fix>,
}

fn sections(audit: &Audit) -> [Vec<Entry>; 7] {
    [
        audit.now.iter().map(now).collect(),
        audit.can_pin.iter().map(|group| copies("PIN", group)).collect(),
        audit.can_leak.iter().map(|group| copies("LEAK", group)).collect(),
        audit.leaked.iter().map(leaked).collect(),
        audit.detached.iter().map(detached).collect(),
        audit.namespaces.iter().map(namespace).collect(),
        audit.settings.iter().map(setting).collect(),
    ]
}

fn verdict(audit: &Audit) -> String {
    let count = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
    let stuck = audit.now.iter().filter(|now| now.stuck).count();
    let parts: Vec<String> = [
        count(stuck, "stuck now"),
        count(audit.now.len() - stuck, "busy now"),
        count(audit.can_pin.len(), "can pin"),
        count(audit.can_leak.len(), "can leak"),
        count(audit.leaked.len(), "leaked"),
        count(audit.detached.len(), "detached"),
        count(audit.namespaces.len(), "kept"),
        count(audit.settings.len(), "sysctl"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let words = match (parts.is_empty(), audit.blind.is_empty() && audit.gaps.is_empty()) {
        (true, true) => "nothing found".to_owned(),
        (true, false) => "nothing found, but not everything was seen".to_owned(),
        (false, _) => parts.join(", "),
    };
    let of = format!(
        "; {} mounts of containers, {} mount namespaces; tier {}",
        audit.watched, audit.mount_namespaces, audit.probe
    );
    Line::new("AUDIT").words(words).maybe(9, of).finish()
}

/// The first advice: its words, and its command whole on a line of its own.
fn advice(fixes: &[Fix]) -> Vec<String> {
    let Some(first) = fixes.iter().find(|fix| fix.is_for_people()) else {
        return Vec::new();
    };
    let lines = wrap(&printable(&first.words()), COLUMNS - MARGIN);
    let words = lines.into_iter().enumerate().map(|(index, text)| {
        Line::sub(if index == 0 { "fix" } else { "" })
            .words(text)
            .finish()
    });
    words.chain(first.command.as_ref().map(command_line)).collect()
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn now(now: &Now) -> Entry {
    let line = Line::new("NOW").with(|line| names::target(line, &now.target));
    let words = match (now.stuck, now.holders.len(), now.unexplained) {
        (true, 0, Some(0)) => ": stuck, no process left, nothing blocks".to_owned(),
        (true, 0, None) => ": stuck, no process left".to_owned(),
        (_, 0, unexplained) => {
            let stuck = if now.stuck { "stuck, " } else { "" };
            format!(
                ": {stuck}{}",
                plural(
                    unexplained.unwrap_or(0),
                    "unexplained reference",
                    "unexplained references"
                )
            )
        }
        (true, count, _) => format!(": stuck, {}", plural(count as u64, "holder", "holders")),
        (false, count, _) => format!(": {} would block", plural(count as u64, "holder", "holders")),
    };
    Entry {
        line: line.words(words).finish(),
        detail: by(&now.holders, &now.target),
        fixes: now.fixes.clone(),
    }
}

/// `by node-agent, pid 48211, fd 37 /var/log/app.log +2`.
fn by(holders: &[Holder], target: &Target) -> Option<String> {
    let first = holders.first()?;
    let line = Line::sub("by");
    let line = match &first.process {
        Some(process) => line
            .with(|line| names::home(line, process, target))
            .with(|line| names::process(line, process)),
        None => line.words("no process"),
    };
    let line = match (first.fd, &first.held_by) {
        (Some(fd), _) => line.words(format!(", fd {fd} ")),
        (None, Some(by)) => line
            .words(format!(", {} ", first.kind.name()))
            .name(by.as_bytes())
            .words(" "),
        (None, None) => line.words(format!(", {} ", first.kind.name())),
    };
    let line = line.path(first.path.as_bytes());
    let more = holders.len() - 1;
    let line = if more > 0 {
        line.words(format!(" +{more}"))
    } else {
        line
    };
    Some(line.finish())
}

fn process(line: Line, process: &Process) -> Line {
    line.with(|line| names::home(line, process, &Target::default()))
        .with(|line| names::process(line, process))
}

fn workload(line: Line, workload: &Workload) -> Line {
    match &workload.process {
        _ if workload.same_namespace => line.words("mounted a second time"),
        Some(of) => process(line, of),
        None => line.words("a namespace without a process"),
    }
}

fn copies(label: &str, group: &Group) -> Entry {
    let kind = group.copies.first().and_then(|copy| copy.propagation);
    let kind = kind.map_or_else(String::new, |kind| format!("{} ", kind.name()));
    let (one, many) = (format!("{kind}copy"), format!("{kind}copies"));
    let line = Line::new(label)
        .with(|line| workload(line, &group.workload))
        .words(format!(
            ": {}, {} in use",
            plural(group.mounts, &one, &many),
            group.in_use
        ));
    let more = group.mount_namespaces.len().saturating_sub(1);
    let line = match group.mount_namespaces.first() {
        Some(number) if more > 0 => line.maybe(2, format!(", mnt ns {number} +{more}")),
        Some(number) => line.maybe(2, format!(", mnt ns {number}")),
        None => line,
    };
    let example = group.copies.first().map(|copy| {
        let line = Line::sub("as").path(copy.path.as_bytes()).words(", ");
        let line = line.with(|line| names::target(line, &copy.target));
        let more = group.mounts.saturating_sub(1);
        if more > 0 {
            line.words(format!(" +{more}"))
        } else {
            line
        }
        .finish()
    });
    // Those in use come first.
    let used = group.copies.first().and_then(|copy| {
        let holder = copy.holders.first()?;
        let line = Line::sub("open").path(holder.path.as_bytes()).words(", on the ");
        let line = line.with(|line| names::target(line, &copy.target));
        let more = copy.holders.len() - 1;
        let line = if more > 0 {
            line.words(format!(" +{more}"))
        } else {
            line
        };
        Some(line.finish())
    });
    Entry {
        line: line.finish(),
        detail: used.or(example),
        fixes: group.fixes.clone(),
    }
}

fn leaked(leaked: &Leaked) -> Entry {
    let line = Line::new("LEAKED").with(|line| names::claimed(line, &leaked.what));
    let line = match (&leaked.container, &leaked.pod_uid) {
        (Some(of), _) => names::container(line.words(" of "), of),
        (None, Some(uid)) => line.words(" of pod ").name(uid.as_bytes()),
        (None, None) => line,
    };
    let line = line.words(", which is gone");
    let detail = leaked.places.first().map(|place| {
        let line = Line::sub("at").path(place.mount.path.as_bytes());
        let line = match &place.workload {
            Some(of) => workload(line.words(" in "), of),
            None => line,
        };
        let more = leaked.places.len() - 1;
        if more > 0 {
            line.words(format!(" +{more} copies"))
        } else {
            line
        }
        .finish()
    });
    Entry {
        line: line.finish(),
        detail,
        fixes: leaked.fixes.clone(),
    }
}

fn detached(detached: &Detached) -> Entry {
    let line = Line::new("DETACH");
    let line = match &detached.fs_type {
        Some(fs_type) => line.name(fs_type.as_bytes()),
        None => line.words("a file system"),
    };
    let line = match &detached.source {
        Some(source) => line.words(" ").path(source.as_bytes()),
        None => line,
    };
    let line = match (detached.bytes, detached.mounted_elsewhere) {
        (Some(bytes), _) => line.words(format!(", {} not freed", size(bytes))),
        (None, false) => line.words(", file system not freed"),
        (None, true) => line.words(", mounted elsewhere as well"),
    };
    let line = if detached.below > 0 {
        line.maybe(
            3,
            format!(", {} below it", plural(detached.below, "mount", "mounts")),
        )
    } else {
        line
    };
    let detail = by(&detached.holders, &Target::default()).or_else(|| {
        let words = match detached.unexplained {
            Some(count) => plural(
                count,
                "reference that has no holder",
                "references that have no holder",
            ),
            None => "the last reference was not found".to_owned(),
        };
        Some(Line::sub("by").words(words).finish())
    });
    Entry {
        line: line.finish(),
        detail,
        fixes: detached.fixes.clone(),
    }
}

/// `12.0 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if size >= 1024.0 {
            size /= 1024.0;
            unit = next;
        }
    }
    format!("{size:.1} {unit}")
}

fn namespace(namespace: &KeptNamespace) -> Entry {
    let line = Line::new("KEPT").words(format!(
        "mnt ns {} without a process: {}, {} of container mounts",
        namespace.number,
        plural(namespace.mounts, "mount", "mounts"),
        plural(namespace.watched, "copy", "copies"),
    ));
    let detail = namespace.kept_by.first().map(|keeper| {
        let line = Line::sub("by");
        let line = match (&keeper.process, &keeper.path) {
            (Some(of), _) => {
                let line = process(line, of);
                match keeper.fd {
                    Some(fd) => line.words(format!(", fd {fd}")),
                    None => line,
                }
            }
            (None, Some(path)) => line.words("the bind mount ").path(path.as_bytes()),
            (None, None) => line.name(keeper.kind.as_bytes()),
        };
        let more = namespace.kept_by.len() - 1;
        if more > 0 {
            line.words(format!(" +{more}"))
        } else {
            line
        }
        .finish()
    });
    let unknown = || Line::sub("by").words("what keeps it was not found").finish();
    Entry {
        line: line.finish(),
        detail: Some(detail.unwrap_or_else(unknown)),
        fixes: namespace.fixes.clone(),
    }
}

fn setting(setting: &Setting) -> Entry {
    let used = setting
        .used
        .map_or_else(String::new, |used| format!(", {used} used"));
    let line = Line::new("SYSCTL").name(setting.name.as_bytes());
    let line = line.words(format!(" = {}{used}: {}", setting.value, setting.why));
    Entry {
        line: line.finish(),
        detail: None,
        fixes: setting.fixes.clone(),
    }
}

fn own(audit: &Audit) -> Option<String> {
    let own = audit.own?;
    Some(
        Line::new("OWN")
            .words(format!(
                "ebusy itself: {} on these mounts, {} of mount namespaces (measured)",
                plural(own.references, "reference", "references"),
                plural(own.namespaces, "descriptor", "descriptors")
            ))
            .finish(),
    )
}

#[cfg(test)]
mod tests;
