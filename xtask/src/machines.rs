//! The tests under other kernels: some machines beside each other, those of one kernel one after the other.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    events::{Outcome, Reader},
    flaky, interrupt,
    matrix::{MATRIX, Plan},
    results::{Results, Test},
    say,
    suites::{self, Built, Which},
    test::{TestArgs, show},
    vm::{self, Job, Kernel, Lab},
    workspace::Workspace,
};

/// An emulated machine keeps a core busy, and its tests wait for each other: with three on two cores they take longer.
const BESIDE: usize = 2;

/// How long one suite may take in a machine, which may be emulated.
const LIMIT: Duration = Duration::from_mins(30);

/// The results of the tests in machines, and the time of each kernel, by tier.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) results: Results,
    pub(crate) times: Vec<(String, Duration)>,
}

impl Done {
    fn add(&mut self, other: Self) {
        self.results.add(other.results);
        self.times.extend(other.times);
    }
}

/// Runs the wanted tests under these kernels. A kernel that is not available is skipped, and all are without an
/// emulator.
pub(crate) fn run(workspace: &Workspace, args: &TestArgs, built: &Built, names: &[&str]) -> Result<Done> {
    let mut done = Done::default();
    if names.is_empty() {
        return Ok(done);
    }
    let start = Instant::now();
    let (lab, kernels) = match prepare(workspace, names, &mut done.results) {
        Ok(ready) => ready,
        Err(err) => {
            let reason = on_one_line(&err);
            let skipped = names
                .iter()
                .map(|kernel| Test::skipped(format!("kernel {kernel}"), reason.as_str()));
            done.results.tests.extend(skipped);
            return Ok(done);
        }
    };
    done.times.push(("machines: set-up".to_owned(), start.elapsed()));
    let machines = Machines {
        args,
        built,
        lab: &lab,
    };
    let mut kernels: Vec<_> = kernels.into_iter().enumerate().collect();
    // The longest first, so that they end together.
    kernels.sort_by_key(|(_, (name, _))| Reverse(plans(name).count()));
    let queue = Mutex::new(VecDeque::from(kernels));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    // Child processes end with the thread that started them: each thread stays as long as its machines.
    let lane = || -> Result<Vec<(usize, Done)>> {
        let mut all = Vec::new();
        while let Some((place, (name, kernel))) = next() {
            all.push((place, machines.kernel(name, &kernel)?));
        }
        Ok(all)
    };
    let lanes = thread::scope(|scope| {
        let lanes: Vec<_> = (0..BESIDE).map(|_| scope.spawn(lane)).collect();
        lanes
            .into_iter()
            .map(|lane| {
                lane.join()
                    .map_err(|_| anyhow::anyhow!("the tests in machines panicked"))?
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let mut all: Vec<_> = lanes.into_iter().flatten().collect();
    all.sort_by_key(|(place, _)| *place);
    for (_, of_kernel) in all {
        done.add(of_kernel);
    }
    say(&format!("{} boots of machines", lab.boots()));
    Ok(done)
}

/// Prepares the parts of machines before the first one starts.
fn prepare<'n>(
    workspace: &Workspace,
    names: &[&'n str],
    results: &mut Results,
) -> Result<(Lab, Vec<(&'n str, Kernel)>)> {
    let lab = Lab::open(workspace)?;
    let mut kernels = Vec::new();
    for name in names {
        match lab.kernel(name, false) {
            Ok(kernel) => kernels.push((*name, kernel)),
            Err(err) => {
                let skipped = Test::skipped(format!("kernel {name}"), on_one_line(&err));
                results.tests.push(skipped);
            }
        }
    }
    if let Some((_, kernel)) = kernels.first() {
        lab.accelerator(kernel)?;
    }
    Ok((lab, kernels))
}

/// The matrix's rows for a kernel.
fn plans(kernel: &str) -> impl Iterator<Item = &'static Plan> {
    MATRIX.iter().filter(move |plan| plan.kernels.contains(&kernel))
}

struct Machines<'a> {
    args: &'a TestArgs,
    built: &'a Built,
    lab: &'a Lab,
}

impl Machines<'_> {
    /// All suites of the matrix under one kernel.
    fn kernel(&self, name: &str, kernel: &Kernel) -> Result<Done> {
        let mut done = Done::default();
        for plan in plans(name) {
            if self.args.wants(self.built, plan.test) && self.args.wants_tier(plan.tier) {
                done.add(self.plan(kernel, name, plan)?);
            }
        }
        Ok(done)
    }

    /// One suite under one kernel.
    fn plan(&self, kernel: &Kernel, name: &str, plan: &Plan) -> Result<Done> {
        let place = format!("{name} {}", plan.tier);
        let full = format!("{place}: {}", plan.test);
        let Some(suite) = self.built.suite(plan.test) else {
            let results = Results::of(Test::failed(full, format!("there is no suite {}", plan.test)));
            return Ok(Done {
                results,
                times: Vec::new(),
            });
        };
        say(&format!(
            "{} under the kernel {name} at the tier {}",
            suite.name, plan.tier
        ));
        // The command line selects exactly the tests to run.
        let which = match (self.args.which(self.built), plan.only) {
            (Which::All, only) if !only.is_empty() => Which::Like(only),
            (asked, _) => asked,
        };
        let mut boots = Duration::ZERO;
        let start = Instant::now();
        let results = flaky::run(&full, which, |which| {
            let job = Job {
                append: plan.append.to_owned(),
                timeout: LIMIT + suites::asked_time(),
                ..self.built.in_machine(suite, which, name, plan.tier)
            };
            self.job(kernel, &job, &full, &mut boots)
        })?;
        let times = vec![
            (place, start.elapsed().saturating_sub(boots)),
            (format!("{name} boots"), boots),
        ];
        Ok(Done { results, times })
    }

    /// Runs a suite in a machine, shows its output as it comes, and reads it.
    fn job(&self, kernel: &Kernel, job: &Job, suite: &str, boots: &mut Duration) -> Result<Outcome> {
        interrupt::hold();
        let mut reader = Reader::new(suite);
        let start = Instant::now();
        let place = format!("{suite}: ");
        let run = self
            .lab
            .run(kernel, job, &mut |line| show(&mut reader, &place, line))?;
        *boots += run.began.map_or_else(|| start.elapsed(), |began| began - start);
        vm::report(&run);
        if let Some(release) = &run.release {
            say(&format!("that was {release}"));
        }
        let end = match run.outcome {
            vm::Outcome::Exited(0) => Ok(()),
            outcome => Err(outcome.to_string()),
        };
        Ok(reader.finish(end, Instant::now()))
    }
}

fn on_one_line(err: &anyhow::Error) -> String {
    format!("{err:#}").lines().collect::<Vec<_>>().join(" ")
}
