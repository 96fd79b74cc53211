//! Compares ebusy's reports with the claims of the holder programs.

use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Result, bail};

use crate::{
    claim::{Claim, Owner},
    holder::{Claimed, Holding},
    report::{Books, Holder, Incident, Who, nanoseconds},
    scratch::Scratch,
};

/// Allowed difference between a converted time of the kernel's clock and one of ours, in nanoseconds.
const CLOCK_SLACK: u64 = 20_000_000;

/// The expected holder entries of one holder program.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The claims of the holder program.
    pub claimed: Claimed,
    /// The mount that it uses.
    pub through: &'static str,
    /// The kernel's count is of the mount that it uses.
    pub counted: bool,
    /// Number of refused attempts while it was there.
    pub attempts: u64,
    /// ebusy must have seen it open its file.
    pub history: bool,
    /// It was gone at the last attempt, so it is not in the books.
    pub former: bool,
}

impl Expected {
    /// It uses the target itself, and was there for one attempt.
    #[must_use]
    pub fn on_target(holding: &Holding) -> Self {
        Self {
            claimed: holding.claimed.clone(),
            through: "target",
            counted: true,
            attempts: 1,
            history: true,
            former: false,
        }
    }

    /// It uses a propagated copy, was there for one attempt, and the kernel counted it.
    #[must_use]
    pub fn on_copy(holding: &Holding) -> Self {
        Self {
            through: "propagated_copy",
            ..Self::on_target(holding)
        }
    }

    /// It made a mount on the copy of a peer, which propagated to the target, where nobody uses it.
    #[must_use]
    pub fn appeared_on_target(holding: &Holding, scratch: &Scratch) -> Self {
        let mut expected = Self::on_target(holding);
        let ready = &mut expected.claimed.ready;
        ready.mount_id = scratch.mount_id();
        ready.mount_namespace = scratch.mount_namespace();
        for claim in &mut ready.claims {
            claim.owners.clear();
        }
        expected
    }

    /// Sets the number of attempts refused while it was there.
    #[must_use]
    pub fn for_attempts(self, attempts: u64) -> Self {
        Self { attempts, ..self }
    }

    /// It was gone at the last attempt.
    #[must_use]
    pub fn former(self) -> Self {
        Self {
            counted: false,
            former: true,
            ..self
        }
    }

    /// It opened its file right after its mount or namespace was made, so ebusy may miss the open.
    #[must_use]
    pub fn at_once(self) -> Self {
        Self {
            history: false,
            ..self
        }
    }

    /// The kernel's count is of another mount.
    #[must_use]
    pub fn remaining(self) -> Self {
        Self {
            counted: false,
            ..self
        }
    }

    /// It uses a private copy.
    #[must_use]
    pub fn bystander(holding: &Holding) -> Self {
        Self {
            through: "private_copy",
            counted: false,
            attempts: 0,
            ..Self::on_target(holding)
        }
    }

    fn refs(&self, scratch: &Scratch) -> u64 {
        let overlay = scratch.file_system().is_overlay();
        self.claimed
            .ready
            .claims
            .iter()
            .map(|claim| claim.refs_on(overlay))
            .sum()
    }
}

/// The expected fields of an incident.
#[derive(Debug, Clone)]
pub struct Expectation<'a> {
    /// The target.
    pub scratch: &'a Scratch,
    /// The process that tried last.
    pub caller: u32,
    /// Refused attempts.
    pub attempts: u64,
    /// Bursts of them, unless that depends on the speed of the machine.
    pub bursts: Option<u64>,
    /// Its outcome.
    pub outcome: &'a str,
    /// All expected holders.
    pub holders: Vec<Expected>,
    /// All expected users of a private copy.
    pub bystanders: Vec<Expected>,
    /// Events lost before; no more may be lost.
    pub lost_events: u64,
    /// An umount propagates: set by the propagation of the target's parent.
    pub propagation: &'a str,
}

/// Collects all mismatches, so that one run shows all of them.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Notes a mismatch unless this is true.
    pub fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    /// Notes a mismatch unless the values are equal.
    pub fn equal<G, W>(&mut self, what: &str, got: &G, want: &W)
    where
        G: PartialEq<W> + std::fmt::Debug,
        W: std::fmt::Debug,
    {
        self.check(got == want, || format!("{what}: {got:?}, expected {want:?}"));
    }

    /// Fails if there are mismatches, and prints the object that has them.
    pub fn into_result(self, context: &dyn std::fmt::Debug) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        bail!("{}\n{context:#?}", self.0.join("\n"))
    }
}

impl<'a> Expectation<'a> {
    /// One attempt of this process, refused because of these holders, and a second that succeeded.
    #[must_use]
    pub fn released(scratch: &'a Scratch, holders: Vec<Expected>) -> Self {
        Self {
            scratch,
            caller: std::process::id(),
            attempts: 1,
            bursts: Some(1),
            outcome: "released",
            holders,
            bystanders: Vec::new(),
            lost_events: 0,
            propagation: "shared",
        }
    }

    /// Sets the process that tried.
    #[must_use]
    pub fn by(self, caller: u32) -> Self {
        Self { caller, ..self }
    }

    /// Fails unless there is exactly this incident.
    pub fn check_only(&self, incidents: &[Incident]) -> Result<()> {
        let [incident] = incidents else {
            bail!("{} incidents, expected 1\n{incidents:#?}", incidents.len())
        };
        self.check(incident)
    }

    /// Fails unless the incident is this one.
    pub fn check(&self, incident: &Incident) -> Result<()> {
        let mut problems = Problems::default();
        let problem = &mut problems;
        problem.equal("operation", &incident.operation, &"umount2");
        problem.equal("outcome", &incident.outcome.as_deref(), &Some(self.outcome));
        problem.equal("attempts", &incident.attempts, &self.attempts);
        if let Some(bursts) = self.bursts {
            problem.equal("bursts", &incident.bursts, &bursts);
        }
        problem.equal("caller.pid", &incident.caller.pid, &self.caller);
        problem.check(
            incident.callers.iter().any(|caller| caller.pid == self.caller),
            || format!("callers lack {}", self.caller),
        );
        let total: u64 = incident.callers.iter().map(|caller| caller.attempts).sum();
        problem.equal("attempts of all callers", &total, &self.attempts);
        problem.equal("lost_events", &incident.lost_events, &self.lost_events);
        problem.check(incident.ended.is_some(), || "it has no end".to_owned());
        self.target(problem, &incident.target);
        books(problem, self.scratch, &self.holders, &incident.references);
        let compared = Compared {
            scratch: self.scratch,
            history: true,
            list: "holders",
            found: &incident.holders,
        };
        compared.with(problem, &self.holders);
        let compared = Compared {
            scratch: self.scratch,
            history: false,
            list: "bystanders",
            found: &incident.bystanders,
        };
        compared.with(problem, &self.bystanders);
        problem.check(incident.candidates.is_empty(), || {
            "there are candidates".to_owned()
        });
        problems.into_result(incident)
    }

    /// Fails unless `ebusy who` gave these holders and bystanders.
    pub fn check_who(&self, code: i32, answers: &[Who]) -> Result<()> {
        let [who] = answers else {
            bail!("{} answers, expected 1\n{answers:#?}", answers.len())
        };
        let mut problems = Problems::default();
        let problem = &mut problems;
        problem.equal("exit status", &code, &i32::from(!self.holders.is_empty()));
        self.target(problem, &who.target);
        books(problem, self.scratch, &self.holders, &who.references);
        for (list, expected, found) in [
            ("holders", &self.holders, &who.holders),
            ("bystanders", &self.bystanders, &who.bystanders),
        ] {
            // `who` has no attempt.
            let expected: Vec<_> = expected
                .iter()
                .map(|expected| Expected {
                    attempts: 0,
                    ..expected.clone()
                })
                .collect();
            Compared {
                scratch: self.scratch,
                history: false,
                list,
                found,
            }
            .with(problem, &expected);
        }
        problem.check(who.candidates.is_empty(), || "there are candidates".to_owned());
        problems.into_result(who)
    }

    fn target(&self, problem: &mut Problems, found: &crate::report::Target) {
        let scratch = self.scratch;
        let path = found.path_bytes().unwrap_or_default();
        problem.check(path == scratch.path().as_os_str().as_bytes(), || {
            format!(
                "target.path: {}, expected {}",
                found.path,
                scratch.path().display()
            )
        });
        problem.equal("target.mount_id", &found.mount_id, &Some(scratch.mount_id()));
        problem.equal(
            "target.fs_type",
            &found.fs_type.as_deref(),
            &Some(scratch.file_system().type_name()),
        );
        problem.equal("target.source", &found.source.as_deref(), &Some(scratch.source()));
        problem.equal(
            "target.mount_namespace",
            &found.mount_namespace,
            &Some(scratch.mount_namespace()),
        );
        problem.equal(
            "target.propagation",
            &found.propagation.as_deref(),
            &Some(self.propagation),
        );
    }
}

fn books(problem: &mut Problems, scratch: &Scratch, holders: &[Expected], found: &Books) {
    let sum = |counted| -> u64 {
        holders
            .iter()
            .filter(|holder| !holder.former && holder.counted == counted)
            .map(|holder| holder.refs(scratch))
            .sum()
    };
    problem.equal("references.counted", &found.counted, &Some(sum(true)));
    problem.equal("references.explained", &found.explained, &sum(true));
    problem.equal("references.unexplained", &found.unexplained, &Some(0));
    problem.equal("references.overexplained", &found.overexplained, &0);
    problem.equal("references.remaining", &found.remaining, &Some(sum(false)));
    problem.equal(
        "references.changed_during_snapshot",
        &found.changed_during_snapshot,
        &Some(false),
    );
    problem.check(found.sampled_at.is_some(), || {
        "references.sampled_at is null".to_owned()
    });
}

/// A list of holder entries.
struct Compared<'a> {
    scratch: &'a Scratch,
    /// The tier must know when a file was opened.
    history: bool,
    list: &'static str,
    found: &'a [Holder],
}

impl Compared<'_> {
    /// Each claim has its entry, and each entry its claim.
    fn with(&self, problem: &mut Problems, expected: &[Expected]) {
        let mut left: Vec<&Holder> = self.found.iter().collect();
        for expected in expected {
            for claim in &expected.claimed.ready.claims {
                // One descriptor can stand for several references, which differ in `held_by`.
                let exact = |found: &&Holder| is_of(found, claim) && found.held_by == claim.held_by;
                let index = left.iter().position(exact);
                match index.or_else(|| left.iter().position(|found| is_of(found, claim))) {
                    Some(index) => self.entry(problem, expected, claim, left.remove(index)),
                    None => problem.0.push(format!("{}: none for {claim:?}", self.list)),
                }
            }
        }
        for innocent in left {
            problem
                .0
                .push(format!("{}: nobody claims {innocent:?}", self.list));
        }
    }

    fn entry(&self, problem: &mut Problems, expected: &Expected, claim: &Claim, found: &Holder) {
        let ready = &expected.claimed.ready;
        let label = |field: &str| format!("{}: {} of pid {}: {field}", self.list, claim.kind, ready.pid);
        let overlay = self.scratch.file_system().is_overlay();
        problem.equal(&label("also"), &found.also, &claim.also);
        problem.equal(&label("refs"), &found.refs, &claim.refs_on(overlay));
        problem.equal(&label("access"), &found.access, &claim.access);
        if claim.held_by.is_some() {
            problem.equal(&label("held_by"), &found.held_by, &claim.held_by);
        }
        problem.equal(&label("deleted"), &found.deleted, &claim.deleted);
        problem.equal(&label("through"), &found.through.as_str(), &expected.through);
        problem.equal(&label("counted"), &found.counted, &expected.counted);
        problem.equal(&label("mount_id"), &found.mount_id, &Some(ready.mount_id));
        problem.equal(
            &label("mount_namespace"),
            &found.mount_namespace,
            &Some(ready.mount_namespace),
        );
        problem.equal(
            &label("attempts_blocked"),
            &found.attempts_blocked,
            &expected.attempts,
        );
        let path = found.path_bytes().unwrap_or_default();
        problem.check(self.paths(expected, claim).contains(&path), || {
            format!("{}: {:?}", label("path"), found.path)
        });
        owners(problem, &label, claim, ready, found);
        self.opened(problem, &label, (expected, claim), found);
    }

    /// The paths inside the mount that ebusy may report for a claim.
    fn paths(&self, expected: &Expected, claim: &Claim) -> Vec<Vec<u8>> {
        let mount_point = self.scratch.path();
        claim
            .arguments
            .iter()
            .filter_map(|argument| expected.claimed.paths[*argument].strip_prefix(mount_point).ok())
            .map(|path| [b"/", path.as_os_str().as_bytes()].concat())
            .collect()
    }

    fn opened(
        &self,
        problem: &mut Problems,
        label: &dyn Fn(&str) -> String,
        (expected, claim): (&Expected, &Claim),
        found: &Holder,
    ) {
        let history = found.evidence.iter().any(|evidence| evidence == "history");
        problem.check(
            found.evidence.iter().any(|evidence| evidence == "snapshot"),
            || format!("{}: {:?}", label("evidence"), found.evidence),
        );
        let Some((after, before)) = claim.opened else {
            return;
        };
        if self.history && expected.history {
            problem.check(history, || format!("{}: {:?}", label("evidence"), found.evidence));
        }
        let Some(opened) = &found.opened else {
            problem.check(!history, || {
                format!("{}: null though it is in the history", label("opened"))
            });
            return;
        };
        let window = after.saturating_sub(CLOCK_SLACK)..=before + CLOCK_SLACK;
        problem.check(
            nanoseconds(opened).is_ok_and(|time| window.contains(&time)),
            || format!("{}: {opened}, expected {window:?}", label("opened")),
        );
        if history {
            let opener = found.opened_by.as_ref().map(|process| process.pid);
            problem.equal(
                &label("opened_by"),
                &opener,
                &claim
                    .opened_by
                    .or_else(|| claim.owners.first().map(|owner| owner.pid)),
            );
        }
    }
}

/// Matches an entry with a claim: same kind, and one of its processes and descriptors.
fn is_of(found: &Holder, claim: &Claim) -> bool {
    if found.kind != claim.kind {
        return false;
    }
    match &found.process {
        Some(process) => claim
            .owners
            .iter()
            .any(|owner| owner.pid == process.pid && owner.fd == found.fd),
        // A child mount is listed with its users.
        None => claim.owners.is_empty() || claim.kind == "child_mount",
    }
}

fn owners(
    problem: &mut Problems,
    label: &dyn Fn(&str) -> String,
    claim: &Claim,
    ready: &crate::claim::Ready,
    found: &Holder,
) {
    let Some(process) = &found.process else {
        let users = found.shared_with.iter().map(|user| (user.pid, user.fd));
        let claimed = claim.owners.iter().map(|owner| (owner.pid, owner.fd));
        problem.check(users.eq(claimed), || {
            format!("{}: {:?}", label("shared_with"), found.shared_with)
        });
        return;
    };
    problem.equal(&label("comm"), &process.comm, &ready.comm);
    problem.equal(
        &label("process.mount_namespace"),
        &process.mount_namespace,
        &Some(ready.moved_to.unwrap_or(ready.mount_namespace)),
    );
    problem.check(process.start_time.is_some(), || {
        format!("{} is null", label("start_time"))
    });
    problem.equal(&label("uid"), &process.uid, &Some(0));
    match claim.owners[0].tid {
        Some(tid) => problem.equal(&label("tid"), &process.tid, &Some(tid)),
        None => problem.check(process.tid.is_none_or(|tid| tid == process.pid), || {
            format!("{}: {:?} of a whole process", label("tid"), process.tid)
        }),
    }
    // The entry's own process, then the others.
    let mut named = vec![(process.pid, found.fd)];
    named.extend(found.shared_with.iter().map(|sharer| (sharer.pid, sharer.fd)));
    let claimed = |&(pid, fd): &(u32, Option<u32>)| {
        claim
            .owners
            .iter()
            .any(|owner: &Owner| owner.pid == pid && owner.fd == fd)
    };
    problem.check(named.iter().all(claimed), || {
        format!("{}: {:?}", label("shared_with"), found.shared_with)
    });
    let all_named = claim
        .owners
        .iter()
        .all(|owner| named.iter().any(|(pid, _)| *pid == owner.pid));
    problem.check(all_named, || {
        format!(
            "{} lacks a process: {:?}",
            label("shared_with"),
            found.shared_with
        )
    });
}
