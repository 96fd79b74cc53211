//! Cases from the field: a holder of each, the umount as a runtime tries it, and the expected report and advice of
//! ebusy. Each names the issues that reported it.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use ebusy_tests::{
    ebusy::{self, Watch},
    expect::Problems,
    harness::{self, Verdict},
    holder::{Helper, Holding, program},
    namespace::Namespace,
    pause,
    report::{Holder, Incident, Who},
    schema,
    scratch::{FileSystem, Scratch},
    steps::{PAUSE, refused, until_references},
};
use serde::Deserialize;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("tail_of_another_pod", || tail(Namespace::Slave)),
        harness::test("tail_below_a_bidirectional_base", || tail(Namespace::Shared)),
        harness::test("tail_on_the_host", || tail(Namespace::Same)),
        harness::test("scanner", scanner),
        harness::test("scanner_that_nobody_saw", scanner_that_nobody_saw),
        harness::test("fork_with_a_copy", fork_with_a_copy),
        harness::test("no_process_left::uring_killed", uring_killed),
        harness::test("no_process_left::uring_teardown", || {
            deferred("hold-uring-teardown", "finish what it is waiting for")
        }),
        harness::test("no_process_left::scm_cycle", || {
            deferred("hold-scm-cycle", "getent passwd root")
        }),
        harness::test("antivirus_with_unread_events", unread_events),
        harness::test("who_with_a_log", who_with_a_log),
    ])
}

/// A root file system as a runtime has it.
fn rootfs() -> Result<Scratch> {
    Scratch::within(&std::env::temp_dir(), "rootfs".as_ref(), FileSystem::Overlay)
}

/// The only incident, which is about this mount and ended so.
fn only(watch: Watch, scratch: &Scratch, outcome: &str) -> Result<Incident> {
    let (mut incidents, log) = watch.finish()?;
    ensure!(incidents.len() == 1, "{incidents:#?}\n{log}");
    let incident = incidents.remove(0);
    let mut problems = Problems::default();
    problems.equal("target", &incident.target.path, &scratch.path().to_string_lossy());
    problems.equal("outcome", &incident.outcome.as_deref(), &Some(outcome));
    problems.check(incident.lost_events == 0, || {
        format!("{} events were lost:\n{log}", incident.lost_events)
    });
    problems.into_result(&incident)?;
    Ok(incident)
}

/// All processes that are named in any way.
fn named(incident: &Incident) -> impl Iterator<Item = &Holder> {
    let holders = incident.holders.iter();
    holders.chain(&incident.candidates).chain(&incident.bystanders)
}

/// A log agent reads a file of another container through its copy of the host's mounts (containerd#9530,
/// fluent-bit#813), or a process on the node does (k3s#713), or one of two plugins that have the same directory of the
/// host with `Bidirectional` propagation, so that each has peers of the other's mounts there (ceph-csi#1040,
/// csi-wekafs#659).
fn tail(namespace: Namespace) -> Result<Verdict> {
    let scratch = rootfs()?;
    let log = scratch.join("app.log");
    fs::write(&log, "ready\n")?;
    let watch = Watch::targets(&[scratch.path()])?;
    let mut command = match namespace {
        Namespace::Slave | Namespace::Shared => {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", namespace.name(), "tail"]);
            command
        }
        _ => Command::new("tail"),
    };
    let Ok(tail) = Helper::from_command(command.arg("-f").arg(&log)) else {
        return Ok(Verdict::Skipped("no tail or unshare here".to_owned()));
    };
    ensure!(tail.line()? == "ready", "not what is in the file");
    refused(&scratch, 3)?;
    harness::settle()?;
    let pid = tail.pid();
    drop(tail);
    ensure!(scratch.umount()?, "still busy after tail has ended");

    let incident = only(watch, &scratch, "released")?;
    let mut problems = Problems::default();
    let books = &incident.references;
    // An open file of an overlay has a backing file.
    problems.equal("counted", &books.counted, &Some(2));
    problems.equal("unexplained", &books.unexplained, &Some(0));
    problems.equal("named", &named(&incident).count(), &1);
    let holder = incident.holders.first().context("a holder")?;
    let process = holder.process.as_ref().context("its process")?;
    problems.equal("holder", &(process.pid, process.comm.as_str()), &(pid, "tail"));
    let what = (
        holder.kind.as_str(),
        holder.path.as_str(),
        holder.access.as_deref(),
    );
    problems.equal("what", &what, &("fd", "/app.log", Some("read")));
    let through = match namespace {
        Namespace::Slave | Namespace::Shared => "propagated_copy",
        _ => "target",
    };
    problems.equal("through", &holder.through.as_str(), &through);
    let first = format!("have tail close the file, or end it: kill {pid}");
    problems.check(
        incident.fixes.first().is_some_and(|fix| fix.reads() == first),
        || format!("not advised: {first}"),
    );
    let copy = incident
        .fixes
        .iter()
        .any(|fix| fix.text.contains("leave it running"));
    problems.equal(
        "its copy can be taken away",
        &copy,
        &(namespace == Namespace::Slave),
    );
    let shared = "its copy is shared, the target would go with it";
    let shared = incident.fixes.iter().any(|fix| fix.text.contains(shared));
    problems.equal("its copy is a peer", &shared, &(namespace == Namespace::Shared));
    problems.into_result(&incident)?;
    Ok(Verdict::Passed)
}

/// The final line of `flicker`.
#[derive(Deserialize)]
struct Flickered {
    pids: HashSet<u32>,
}

/// A scanner opens files for moments while an image is unpacked (containerd#5538): ebusy names only its processes, and
/// unseen momentary references stay unexplained. The history of opens names one of them wherever every open is seen.
fn scanner() -> Result<Verdict> {
    let mut refused = 0;
    for _ in 0..3 {
        let scratch = rootfs()?;
        let watch = Watch::targets(&[scratch.path()])?;
        let Some((incident, pids)) = scanned(watch, &scratch)? else {
            continue;
        };
        refused += 1;
        if only_these(&incident, "flicker", &pids)? {
            return Ok(Verdict::Passed);
        }
        ensure!(incident.probe == "tracepoint", "nobody is named: {incident:#?}");
        ensure!(!incident.fixes.is_empty(), "nobody, and no advice: {incident:#?}");
    }
    if refused == 0 {
        return Ok(Verdict::Skipped("the scanner never stood in the way".to_owned()));
    }
    Ok(Verdict::Passed)
}

/// A tier that does not see releases may name nobody: the advice leads to a tier that does.
fn scanner_that_nobody_saw() -> Result<Verdict> {
    let forced = std::env::var("EBUSY_PROBE").ok();
    let tier: Vec<OsString> = match forced.as_deref() {
        None => vec!["--probe".into(), "tracepoint".into()],
        Some("tracepoint") => Vec::new(),
        Some(other) => return Ok(Verdict::Skipped(format!("tier {other} is forced"))),
    };
    let watch = |scratch: &Scratch| {
        let target = ["--target".into(), scratch.path().as_os_str().to_owned()];
        Watch::start(&[&tier[..], &target].concat())
    };
    for _ in 0..20 {
        let scratch = rootfs()?;
        let Some((incident, pids)) = scanned(watch(&scratch)?, &scratch)? else {
            continue;
        };
        if only_these(&incident, "flicker", &pids)? {
            continue;
        }
        let fix = incident.fixes.first().context("nobody, and nothing to do")?;
        ensure!(fix.action == "look", "{incident:#?}");
        let command = fix.command.as_deref().context("a command")?;
        // A long path is left for the reader to fill in.
        let path = scratch.path().to_string_lossy();
        let Some(arguments) = command.strip_prefix("ebusy watch ") else {
            // ebusy saw a count but no holder: the holder may come back.
            let is_short = path.len() <= 70;
            ensure!(
                command == "ebusy who" && !is_short || command.starts_with("ebusy who "),
                "{command}"
            );
            continue;
        };
        let target = arguments.strip_prefix("--probe fentry --target ");
        let is_it = |target: &str| match target {
            "PATH" => path.len() > 98,
            target => target.trim_matches('\'') == path,
        };
        ensure!(target.is_some_and(is_it), "{command}");
        if forced.is_some() {
            return Ok(Verdict::Passed);
        }
        return follow(arguments);
    }
    Ok(Verdict::Skipped(
        "whoever stood in the way was always seen".to_owned(),
    ))
}

/// Another image is unpacked, and this time it is seen.
fn follow(arguments: &str) -> Result<Verdict> {
    for _ in 0..5 {
        let scratch = rootfs()?;
        let tier = arguments.split(' ').take(2).map(OsString::from);
        let target = ["--target".into(), scratch.path().as_os_str().to_owned()];
        let Ok(watch) = Watch::start(&tier.chain(target).collect::<Vec<_>>()) else {
            return Ok(Verdict::Skipped("this kernel has no such tier".to_owned()));
        };
        if let Some((incident, pids)) = scanned(watch, &scratch)? {
            ensure!(
                only_these(&incident, "flicker", &pids)?,
                "nobody is named: {incident:#?}"
            );
            return Ok(Verdict::Passed);
        }
    }
    Ok(Verdict::Skipped("the scanner never stood in the way".to_owned()))
}

/// The incident of an umount while the scanner is at work, and its processes; `None` where that was never refused.
fn scanned(watch: Watch, scratch: &Scratch) -> Result<Option<(Incident, HashSet<u32>)>> {
    let mut scanner = Helper::start(&program("flicker")?, &[scratch.join("file")])?;
    scanner.line()?;
    harness::settle()?;
    let refusals = attempts(scratch, 20)?;
    scanner.end_input();
    let line = scanner.line()?;
    let Flickered { pids } = serde_json::from_str(&line).context(line)?;
    scanner.finish()?;
    if refusals == 20 {
        ensure!(scratch.umount()?, "still busy after the scanner has ended");
    }
    if refusals == 0 {
        watch.finish()?;
        return Ok(None);
    }
    Ok(Some((only(watch, scratch, "released")?, pids)))
}

/// Tries at most this often; returns the number of refusals.
fn attempts(scratch: &Scratch, limit: u32) -> Result<u32> {
    for refusals in 0..limit {
        if scratch.umount()? {
            return Ok(refusals);
        }
        pause::takes(PAUSE / 5, "what an impatient caller waits before it tries again");
    }
    Ok(limit)
}

/// Asserts that only these are named; returns true if any is. If none is, nothing may be explained.
fn only_these(incident: &Incident, comm: &str, pids: &HashSet<u32>) -> Result<bool> {
    let mut problems = Problems::default();
    for holder in named(incident) {
        let process = holder.process.as_ref().context("a process")?;
        problems.check(process.comm == comm && pids.contains(&process.pid), || {
            format!("accused wrongly: {} {}", process.comm, process.pid)
        });
        // Between its close and the last put of its file, a descriptor is `deferred`.
        let what = (holder.kind.as_str(), holder.path.as_str());
        problems.check(matches!(what, ("fd" | "deferred", "/file")), || {
            format!("what: {what:?}")
        });
    }
    let found = named(incident).next().is_some();
    if !found {
        problems.equal("explained", &incident.references.explained, &0);
    }
    problems.into_result(incident)?;
    Ok(found)
}

/// The output of `forker`.
#[derive(Deserialize)]
struct Forked {
    child: u32,
}

/// A child has a copy of the descriptors for some milliseconds between fork and exec, in which its parent has closed
/// its own and unmounts (containerd#10704, found by containerd#12139 after eleven months).
fn fork_with_a_copy() -> Result<Verdict> {
    for _ in 0..10 {
        let scratch = rootfs()?;
        let watch = Watch::targets(&[scratch.path()])?;
        let mut forker = Helper::start(&program("forker")?, &[scratch.join("file")])?;
        let parent = forker.pid();
        forker.line()?;
        harness::settle()?;
        forker.say("fork")?;
        let line = forker.line()?;
        let Forked { child } = serde_json::from_str(&line).context(line)?;
        let refusals = attempts(&scratch, 1000)?;
        forker.finish()?;
        // On a loaded machine the child may be over already.
        if refusals == 0 {
            watch.finish()?;
            continue;
        }
        let incident = only(watch, &scratch, "released")?;
        let found = only_these(&incident, "forker", &HashSet::from([child, parent]))?;
        ensure!(
            found || incident.probe == "tracepoint",
            "nobody is named: {incident:#?}"
        );
        return Ok(Verdict::Passed);
    }
    Ok(Verdict::Skipped("the child was never there".to_owned()))
}

/// Killed and reaped, and the mount is busy for 20 to 30 ms more: its ring is taken down (moby PR#39270,
/// liburing#1627). No process that lives is named.
fn uring_killed() -> Result<Verdict> {
    for _ in 0..5 {
        let scratch = rootfs()?;
        let watch = Watch::targets(&[scratch.path()])?;
        let holding = Holding::start("hold-uring-fixed", Namespace::Same, &[scratch.join("file")])?;
        let pid = holding.claimed.ready.pid;
        drop(holding);
        if attempts(&scratch, 1000)? == 0 {
            watch.finish()?;
            continue;
        }
        let incident = only(watch, &scratch, "released")?;
        let mut problems = Problems::default();
        // A look while it ended may have seen it with its ring.
        for holder in named(&incident) {
            let process = holder.process.as_ref().map(|process| process.pid);
            problems.check(process.is_none_or(|process| process == pid), || {
                format!("accused wrongly: {process:?}")
            });
            problems.equal("path", &holder.path.as_str(), &"/file");
        }
        let gone = |holder: &&Holder| holder.kind == "deferred" && holder.process.is_none();
        if incident.holders.iter().any(|holder| gone(&holder)) {
            for advice in ["wait and try again", "killing does not help"] {
                problems.check(incident.fixes.iter().any(|fix| fix.text.contains(advice)), || {
                    format!("not advised: {advice}")
                });
            }
        }
        problems.into_result(&incident)?;
        return Ok(Verdict::Passed);
    }
    Ok(Verdict::Skipped("the ring was gone at once".to_owned()))
}

/// No descriptor leads to it any more: ebusy says so, with the way to end it.
fn deferred(holder: &str, advice: &str) -> Result<Verdict> {
    let scratch = rootfs()?;
    let watch = Watch::targets(&[scratch.path()])?;
    let holding = Holding::start(holder, Namespace::Same, &[scratch.join("file")])?;
    refused(&scratch, 2)?;
    harness::settle()?;
    holding.release()?;
    // While the kernel drops one reference after the other, an attempt can be refused for one that is in no list any more.
    until_references(&scratch, 0)?;
    ensure!(scratch.umount()?, "still busy after the release");
    let incident = only(watch, &scratch, "released")?;
    let mut problems = Problems::default();
    problems.equal("unexplained", &incident.references.unexplained, &Some(0));
    // With the process that is there still, and without it once it has ended.
    for holder in named(&incident) {
        problems.equal("kind", &holder.kind.as_str(), &"deferred");
    }
    problems.check(!incident.holders.is_empty(), || "no holder".to_owned());
    problems.check(incident.fixes.iter().any(|fix| fix.text.contains(advice)), || {
        format!("not advised: {advice}")
    });
    problems.into_result(&incident)?;
    Ok(Verdict::Passed)
}

/// A scanner on access has not read its events (rear#3478, isar#125): no descriptor leads to the file.
fn unread_events() -> Result<Verdict> {
    let scratch = rootfs()?;
    let watch = Watch::targets(&[scratch.path()])?;
    let holding = Holding::start("hold-fanotify-event", Namespace::Same, &[scratch.join("file")])?;
    let pid = holding.claimed.ready.pid;
    refused(&scratch, 3)?;
    harness::settle()?;
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the scanner has ended");
    let incident = only(watch, &scratch, "released")?;
    let mut problems = Problems::default();
    problems.equal("unexplained", &incident.references.unexplained, &Some(0));
    let found: Vec<_> = named(&incident)
        .map(|holder| {
            let process = holder.process.as_ref().map(|process| process.pid);
            (holder.kind.as_str(), process, holder.path.as_str())
        })
        .collect();
    problems.equal("named", &found, &vec![("fanotify", Some(pid), "/file")]);
    let advice = "read its fanotify events";
    problems.check(
        incident
            .fixes
            .first()
            .is_some_and(|fix| fix.text.contains(advice)),
        || format!("not advised: {advice}"),
    );
    problems.into_result(&incident)?;
    Ok(Verdict::Passed)
}

/// A log with two lines of a mount that is busy, in two formats, and one of something that is not mounted any more.
fn who_with_a_log() -> Result<Verdict> {
    let scratch = rootfs()?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    let target = scratch.path().display();
    let gone = scratch.directory().join("gone");
    let gone = gone.display();
    let log = format!(
        "time=\"2026-11-24T03:02:11Z\" level=error msg=\"StopContainer failed\" error=\"failed rootfs umount: failed to \
         unmount target {target}: device or resource busy: unknown\"\n\
         Nov 24 03:02:12 node systemd[1]: Started something else.\n\
         umount: {target}: target is busy.\n\
         umount: {gone}: target is busy.\n"
    );
    let file = scratch.directory().join("log");
    fs::write(&file, log)?;
    let who = ebusy::command("who")?;
    let mut piped = Command::new("sh");
    piped
        .args(["-c", "exec \"$@\" --format json - < \"$0\""])
        .arg(file);
    let finished = ebusy::run(piped.arg(who.get_program()).args(who.get_args()))?;
    finished.expect_code(1)?;
    let errors = finished.stderr;
    let answers = String::from_utf8(finished.stdout)?;
    let answers: Vec<Who> = schema::read_lines(&answers)?;
    let [answer] = &answers[..] else {
        bail!("{} answers: {answers:#?}\n{errors}", answers.len())
    };
    let mut problems = Problems::default();
    problems.equal("target", &answer.target.path, &target.to_string());
    let pids: Vec<_> = answer
        .holders
        .iter()
        .filter_map(|holder| holder.process.as_ref())
        .map(|process| process.pid)
        .collect();
    problems.equal("holders", &pids, &vec![holding.claimed.ready.pid]);
    for part in ["lines 1 to 3 (2 times)", "could not be matched"] {
        problems.check(errors.contains(part), || format!("not said: {part}\n{errors}"));
    }
    problems.into_result(answer)?;
    holding.release()?;
    Ok(Verdict::Passed)
}
