//! The case for which ebusy was written: containerd cannot delete a task, because another container's namespace has a
//! slave copy of its root file system, in which a file is open.

use std::{
    ffi::OsString,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    containerd::{Container, Containerd, NAMESPACE, missing},
    ebusy::{Watch, who, who_of_log},
    expect::Problems,
    harness::{self, Verdict},
    holder::{Claimed, Holding, Waiting},
    image::FILE,
    namespace::{self, Namespace},
    pause,
    report::{Books, Holder, Incident, Target, Who, nanoseconds},
};

const ID: &str = "9c41d0e7a2f4b35d8e6f70123456789abcdef0123456789abcdef0123456789a";
const POD: &str = "wf-build-7h2kq";
const POD_NAMESPACE: &str = "ci";
const ANNOTATIONS: [(&str, &str); 4] = [
    ("io.kubernetes.cri.container-type", "container"),
    ("io.kubernetes.cri.container-name", "main"),
    ("io.kubernetes.cri.sandbox-name", POD),
    ("io.kubernetes.cri.sandbox-namespace", POD_NAMESPACE),
];

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("holders_make_the_delete_fail", holders_make_the_delete_fail),
        harness::test("explains_a_failed_delete", explains_a_failed_delete),
        harness::test("since_when_and_when_again", since_when_and_when_again),
    ])
}

/// A container whose task is dead, and the two users of its root file system. They go before containerd does.
struct Stuck {
    holder: Holding,
    bystander: Holding,
    container: Container,
    containerd: Containerd,
}

impl Stuck {
    fn new() -> Result<Self> {
        let mut containerd = Containerd::start()?;
        // It is there before the container is, as a node's agent is, and gets the mount by propagation.
        let agent = Waiting::start("hold-fd", Namespace::Slave)?;
        let container = containerd.run(ID, &ANNOTATIONS)?;
        let file = container.rootfs.join(FILE.trim_start_matches('/'));
        let holder = agent.proceed(std::slice::from_ref(&file))?;
        let bystander = Holding::start("hold-fd", Namespace::Private, &[file])?;
        containerd.kill(&container)?;
        Ok(Self {
            holder,
            bystander,
            container,
            containerd,
        })
    }

    /// containerd tries 50 times, and says why it failed.
    fn delete_fails(&self) -> Result<()> {
        let output = self.containerd.ctr(&["task", "delete", ID])?;
        ensure!(!output.status.success(), "the task was deleted");
        let expected = format!(
            "failed rootfs umount: failed to unmount target {}: device or resource busy",
            self.container.rootfs.display()
        );
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains(&expected), "ctr says: {said}");
        let log = self.containerd.log();
        let expected = expected.trim_start_matches("failed rootfs umount: ");
        ensure!(log.contains(expected), "containerd says: {log}");
        Ok(())
    }
}

/// Checks the scene of the other test without ebusy.
fn holders_make_the_delete_fail() -> Result<Verdict> {
    if let Some(reason) = missing() {
        return Ok(Verdict::Skipped(reason));
    }
    let stuck = Stuck::new()?;
    stuck.delete_fails()?;
    stuck.holder.release()?;
    // The other one still has its file open.
    stuck
        .containerd
        .ctr_ok(&["task", "delete", ID])
        .or_else(already_exited)?;
    ensure!(
        namespace::mount_id(&stuck.container.rootfs).is_err(),
        "the bundle is still there"
    );
    stuck.bystander.release()?;
    Ok(Verdict::Passed)
}

/// `ctr task delete` exits with the status of the task that it deleted.
fn already_exited(error: anyhow::Error) -> Result<String> {
    let text = format!("{error:#}");
    if text.contains("exit with non-zero exit code 137") {
        Ok(text)
    } else {
        Err(error)
    }
}

fn explains_a_failed_delete() -> Result<Verdict> {
    if let Some(reason) = missing() {
        return Ok(Verdict::Skipped(reason));
    }
    // Container mounts are shown without being asked for.
    let watch = Watch::start(&[] as &[OsString])?;
    let stuck = Stuck::new()?;
    let mount_id = namespace::mount_id(&stuck.container.rootfs)?;
    stuck.delete_fails()?;
    // Errors in an answer are reported last, after more important ones.
    let answers = [
        ID.to_owned(),
        ID[..12].to_owned(),
        stuck.container.rootfs.display().to_string(),
        format!("{POD_NAMESPACE}/{POD}"),
    ]
    .map(|what| (who(&what), what));
    // It gives up after 30 s of quiet.
    let incidents = watch.wait_for_incidents(1, Duration::from_secs(45))?;
    let (holder, bystander) = (stuck.holder.claimed.clone(), stuck.bystander.claimed.clone());
    let truth = Truth {
        container: &stuck.container,
        mount_id,
        holder: &holder,
        bystander: &bystander,
    };

    // After the fix the delete succeeds at its first try: ebusy still watches, and holds nothing.
    stuck.holder.release()?;
    let began = Instant::now();
    stuck
        .containerd
        .ctr_ok(&["task", "delete", ID])
        .or_else(already_exited)?;
    let took = began.elapsed();
    let (all, _) = watch.finish()?;

    truth.incident(&incidents)?;
    ensure!(all.len() == 1, "{all:#?}");
    ensure!(
        took < Duration::from_secs(2),
        "the delete took {took:?}: was it refused again?"
    );
    for (answer, what) in answers {
        let context = format!("who {what}");
        let (code, answers) = answer.context(context.clone())?;
        truth.who(code, &answers).context(context)?;
    }
    stuck.bystander.release()?;
    Ok(Verdict::Passed)
}

/// Between the deletes that fail.
const PAUSE: Duration = Duration::from_secs(3);

/// ebusy reports since when it is stuck, from traces of the first delete, and when containerd will try again.
fn since_when_and_when_again() -> Result<Verdict> {
    if let Some(reason) = missing() {
        return Ok(Verdict::Skipped(reason));
    }
    let stuck = Stuck::new()?;
    // Dead, but not deleted yet.
    let (_, before) = who(ID)?;
    let since = before.first().context("an answer")?.since.clone();
    ensure!(since.is_none(), "nobody has tried: {since:?}");
    let watch = Watch::start(&[] as &[OsString])?;
    let began = SystemTime::now();
    stuck.delete_fails()?;
    let failed = SystemTime::now();
    pause::takes(PAUSE, "who deletes comes back after that");
    stuck.delete_fails()?;
    let (_, after) = who(ID)?;
    // A later `who` finds it.
    let late = Watch::start(&[] as &[OsString])?;
    let (_, said) = late.finish()?;
    // A log has earlier refusals.
    let target = stuck.container.rootfs.display();
    let line = |time: &str| {
        format!(
            "time=\"{time}\" level=error msg=\"failed to delete task: failed rootfs umount: failed to unmount target \
             {target}: device or resource busy: unknown\"\n"
        )
    };
    let first = "2026-11-23T13:18:45Z";
    let (_, by_log) = who_of_log(&["2026-11-23T13:19:15Z", first].map(line).concat())?;
    let (incidents, _) = watch.finish()?;
    let by_log = by_log.first().context("an answer")?.since.clone();
    ensure!(
        by_log.as_ref().is_some_and(
            |since| since.source == "log" && nanoseconds(&since.time).ok() == nanoseconds(first).ok()
        ),
        "{by_log:?}"
    );
    let since = after.first().context("an answer")?.since.clone();
    let since = since.with_context(|| format!("no since: {after:#?}"))?;
    let nanos =
        |time: SystemTime| Ok::<_, anyhow::Error>(time.duration_since(SystemTime::UNIX_EPOCH)?.as_nanos());
    let time = u128::from(nanoseconds(&since.time)?);
    // The kernel's time of files is that of its last tick.
    let tick = Duration::from_millis(20).as_nanos();
    ensure!(
        since.source == "runtime_state" && (nanos(began)? - tick..nanos(failed)?).contains(&time),
        "{since:?}, the first delete was from {began:?} to {failed:?}"
    );
    ensure!(
        said.lines()
            .any(|line| line.contains("stuck already: ") && line.contains(ID) && line.contains(", since ")),
        "{said}"
    );
    ensure!(incidents.len() == 1, "{incidents:#?}");
    let retry = incidents[0].retry.as_ref().context("nobody comes back")?;
    let next = retry.next.as_deref().map(nanoseconds).transpose()?;
    ensure!(
        retry.source == "observed"
            && retry.by == "containerd-shim"
            && retry.within.is_none()
            && retry.pauses.len() == 1
            && (PAUSE.as_secs_f64()..PAUSE.as_secs_f64() + 3.0).contains(&retry.pauses[0])
            && next.is_some_and(|next| u128::from(next) > nanos(failed).unwrap_or_default()),
        "{retry:?}"
    );
    stuck.holder.release()?;
    stuck
        .containerd
        .ctr_ok(&["task", "delete", ID])
        .or_else(already_exited)?;
    stuck.bystander.release()?;
    Ok(Verdict::Passed)
}

/// Expected facts.
struct Truth<'a> {
    container: &'a Container,
    mount_id: u32,
    holder: &'a Claimed,
    bystander: &'a Claimed,
}

impl Truth<'_> {
    fn incident(&self, incidents: &[Incident]) -> Result<()> {
        ensure!(incidents.len() == 1, "{incidents:#?}");
        let incident = &incidents[0];
        let mut problems = Problems::default();
        let problem = &mut problems;
        problem.equal("outcome", &incident.outcome.as_deref(), &Some("gave_up"));
        problem.check((48..=52).contains(&incident.attempts), || {
            format!("{} attempts", incident.attempts)
        });
        problem.equal("bursts", &incident.bursts, &1);
        problem.equal("flags", &incident.flags, &Vec::<String>::new());
        problem.equal("caller.pid", &incident.caller.pid, &self.container.shim);
        problem.equal("caller.comm", &incident.caller.comm, &"containerd-shim");
        let callers: Vec<_> = incident
            .callers
            .iter()
            .map(|caller| (caller.pid, caller.attempts))
            .collect();
        problem.equal(
            "callers",
            &callers,
            &vec![(self.container.shim, incident.attempts)],
        );
        problem.equal("lost_events", &incident.lost_events, &0);
        self.target(problem, &incident.target);
        books(problem, &incident.references);
        self.lists(
            problem,
            (&incident.holders, &incident.bystanders, &incident.candidates),
            incident.attempts,
        );
        if let [found] = incident.holders.as_slice() {
            self.opened(problem, found);
        }
        problems.into_result(incident)
    }

    fn who(&self, code: i32, answers: &[Who]) -> Result<()> {
        ensure!(answers.len() == 1, "{answers:#?}");
        let who = &answers[0];
        let mut problems = Problems::default();
        problems.equal("exit status", &code, &1);
        self.target(&mut problems, &who.target);
        books(&mut problems, &who.references);
        self.lists(&mut problems, (&who.holders, &who.bystanders, &who.candidates), 0);
        problems.into_result(who)
    }

    fn target(&self, problem: &mut Problems, target: &Target) {
        problem.equal(
            "target.path",
            &target.path,
            &self.container.rootfs.to_string_lossy(),
        );
        problem.equal("target.mount_id", &target.mount_id, &Some(self.mount_id));
        problem.equal("target.fs_type", &target.fs_type.as_deref(), &Some("overlay"));
        problem.equal(
            "target.mount_namespace",
            &target.mount_namespace,
            &namespace::current().ok(),
        );
        let container = target.container.as_ref();
        problem.equal(
            "target.container.id",
            &container.map(|found| found.id.as_str()),
            &Some(ID),
        );
        let runtime = container.and_then(|found| found.runtime.as_deref());
        problem.equal("target.container.runtime", &runtime, &Some("containerd"));
        let namespace = container.and_then(|found| found.namespace.as_deref());
        problem.equal("target.container.namespace", &namespace, &Some(NAMESPACE));
        let name = container.and_then(|found| found.name.as_deref());
        problem.equal("target.container.name", &name, &Some("main"));
        let pod = container.and_then(|found| found.pod.as_deref());
        problem.equal("target.container.pod", &pod, &Some(POD));
        let pod_namespace = container.and_then(|found| found.pod_namespace.as_deref());
        problem.equal(
            "target.container.pod_namespace",
            &pod_namespace,
            &Some(POD_NAMESPACE),
        );
    }

    /// Exactly one holder, exactly one bystander.
    fn lists(&self, problem: &mut Problems, lists: (&[Holder], &[Holder], &[Holder]), attempts: u64) {
        let (holders, bystanders, candidates) = lists;
        problem.equal("holders", &holders.len(), &1);
        problem.equal("bystanders", &bystanders.len(), &1);
        problem.equal("candidates", &candidates.len(), &0);
        for found in holders {
            self.entry(problem, "holder", found, (self.holder, "propagated_copy"));
            problem.equal("attempts_blocked", &found.attempts_blocked, &attempts);
            problem.check(found.counted, || "the holder is not counted".to_owned());
        }
        for found in bystanders {
            self.entry(problem, "bystander", found, (self.bystander, "private_copy"));
        }
    }

    fn entry(
        &self,
        problem: &mut Problems,
        label: &str,
        found: &Holder,
        (claimed, through): (&Claimed, &str),
    ) {
        let ready = &claimed.ready;
        let label = |field: &str| format!("{label}: {field}");
        let process = found.process.as_ref();
        problem.equal(&label("kind"), &found.kind, &"fd");
        problem.equal(
            &label("pid"),
            &process.map(|process| process.pid),
            &Some(ready.pid),
        );
        problem.equal(
            &label("comm"),
            &process.map(|process| process.comm.as_str()),
            &Some("hold-fd"),
        );
        problem.equal(&label("fd"), &found.fd, &ready.claims[0].owners[0].fd);
        problem.equal(&label("path"), &found.path, &FILE);
        let seen_as = self.container.rootfs.join(FILE.trim_start_matches('/'));
        problem.equal(&label("seen_as"), &found.seen_as.as_deref(), &seen_as.to_str());
        problem.equal(&label("through"), &found.through, &through);
        problem.equal(&label("refs"), &found.refs, &2);
        problem.equal(
            &label("mount_namespace"),
            &found.mount_namespace,
            &Some(ready.mount_namespace),
        );
        problem.equal(&label("mount_id"), &found.mount_id, &Some(ready.mount_id));
    }

    fn opened(&self, problem: &mut Problems, found: &Holder) {
        let window = self.holder.ready.claims[0].opened.unwrap_or_default();
        let opened = found.opened.as_deref().and_then(|time| nanoseconds(time).ok());
        let slack = Duration::from_millis(20).as_nanos() as u64;
        problem.check(
            opened.is_some_and(|time| (window.0 - slack..=window.1 + slack).contains(&time)),
            || format!("opened: {:?}, expected {window:?}", found.opened),
        );
    }
}

/// An open regular file of an overlay.
fn books(problem: &mut Problems, books: &Books) {
    problem.equal("references.counted", &books.counted, &Some(2));
    problem.equal("references.explained", &books.explained, &2);
    problem.equal("references.unexplained", &books.unexplained, &Some(0));
    problem.equal("references.overexplained", &books.overexplained, &0);
    problem.equal("references.remaining", &books.remaining, &Some(0));
    problem.equal(
        "references.changed_during_snapshot",
        &books.changed_during_snapshot,
        &Some(false),
    );
}
