//! `cargo xtask test`: unit tests, the tests on this host, then those under other kernels, and one sum.

use std::{
    env,
    ffi::OsString,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    events::{Outcome, Reader},
    flaky,
    follow::follow,
    interrupt, junit,
    leftover::Scene,
    matrix::{KERNELS, MATRIX, Plan},
    phases::Phases,
    results::{End, Results, Test},
    say, setup,
    suites::{self, Built, Suite, Which},
    table, tools,
    vm::{self, Job, Lab},
    workspace::Workspace,
};

/// How long one suite may take on the host.
const HOST_LIMIT: Duration = Duration::from_mins(10);

/// The same in a machine, which may be emulated.
const VM_LIMIT: Duration = Duration::from_mins(30);

/// Of `cargo xtask test`.
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Leave the virtual machines out
    #[arg(long)]
    quick: bool,
    /// Only these kernels, in place of this host and the whole matrix
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
    /// Only at these tiers, of what runs in machines
    #[arg(long, value_name = "TIER")]
    tier: Vec<String>,
    /// All of what runs in machines in place of a choice that covers every pair of kernel, tier, file system and way; all
    /// that peers see; and the tests of container engines, from their packages
    #[arg(long)]
    full: bool,
    /// Keep the table of kinds in docs/kinds.md, and run only what it is made from, all of it
    #[arg(long)]
    table: bool,
    /// Only the suite of this name, or tests whose names contain this
    filter: Option<String>,
}

impl TestArgs {
    /// The suite that the filter names, if it names one.
    fn suite<'b>(&self, built: &'b Built) -> Option<&'b Suite> {
        self.filter.as_deref().and_then(|name| built.suite(name))
    }

    fn which(&self, built: &Built) -> Which<'_> {
        match &self.filter {
            Some(part) if self.suite(built).is_none() => Which::Like(part),
            _ => Which::All,
        }
    }

    /// Whether all of a suite runs. What is asked for by its name is not to be left out.
    fn is_full(&self, built: &Built) -> bool {
        self.full || self.table || matches!(self.which(built), Which::Like(_))
    }

    /// Whether a suite is wanted at all.
    fn wants(&self, built: &Built, suite: &str) -> bool {
        (!self.table || table::SUITES.contains(&suite))
            && self.suite(built).is_none_or(|only| only.name == suite)
    }

    /// Whether everything that the table is made from runs.
    fn makes_the_table(&self) -> bool {
        self.table && self.filter.is_none() && !self.quick && self.kernel.is_empty() && self.tier.is_empty()
    }
}

/// What a run of tests needs and comes to.
struct Runner<'a> {
    workspace: &'a Workspace,
    args: &'a TestArgs,
    built: &'a Built,
    scene: Scene,
    results: Results,
    phases: Phases,
}

/// Runs everything; the status is 1 if something failed.
pub(crate) fn main(workspace: &Workspace, args: &TestArgs) -> Result<u8> {
    let mut phases = Phases::of_this_run(workspace);
    phases.time("set-up", || setup::toolchain(false))?;
    say("building ebusy");
    let ebusy = phases.time("build: ebusy", || suites::build_ebusy(workspace))?;
    say("building the tests and their holder programs");
    let mut built = phases.time("build: tests", || suites::build_tests(workspace, ebusy))?;
    built.full = args.is_full(&built);
    if !args.quick {
        match phases.time("set-up", || tools::advised(workspace)) {
            Ok(found) => built.tools.extend(found),
            // The tests that need one say so by themselves.
            Err(err) => say(&format!("no tools for machines: {err:#}")),
        }
    }
    let built = built;

    let scene = Scene::new(workspace, &built.ebusy, &built.holder_directory)?;
    let clean = scene.clone();
    interrupt::watch(move || clean.remove())?;

    let mut runner = Runner {
        workspace,
        args,
        built: &built,
        scene,
        results: Results::default(),
        phases,
    };
    if args.kernel.is_empty() {
        if !args.table && args.suite(&built).is_none() {
            runner.units()?;
        }
        runner.host()?;
    } else {
        say("unit tests and the tests on this host are left out (--kernel)");
    }
    if args.quick {
        say("the tests under other kernels are left out (--quick)");
    } else if args.kernel.is_empty() {
        runner.machines(&KERNELS)?;
    } else {
        let kernels: Vec<&str> = args.kernel.iter().map(String::as_str).collect();
        runner.machines(&kernels)?;
    }
    runner.scene.remove();
    interrupt::hold();
    runner.finish()
}

impl Runner<'_> {
    fn units(&mut self) -> Result<()> {
        say("unit tests");
        let filter = self.args.filter.as_deref();
        for unit in &self.built.units {
            let results = self.phases.time("unit", || unit.run(filter))?;
            self.results.add(results);
        }
        Ok(())
    }

    /// The tests on real mounts of this host.
    fn host(&mut self) -> Result<()> {
        let built = self.built;
        if !rustix::process::geteuid().is_root() {
            let reason = "needs root: type `sudo -E env PATH=$PATH cargo xtask test`";
            let skipped = built
                .suites
                .iter()
                .map(|suite| Test::skipped(format!("host: {}", suite.name), reason));
            self.results.tests.extend(skipped);
            return Ok(());
        }
        let path = self.phases.time("set-up", || {
            tools::search_path(self.workspace, built.full).unwrap_or_else(|err| {
                // The tests that need a tool say so by themselves.
                say(&format!("some tools for the tests are missing: {err:#}"));
                env::var_os("PATH").unwrap_or_default()
            })
        });
        let scene = &self.scene;
        let (workspace, which) = (self.workspace, self.args.which(self.built));
        for suite in built
            .suites
            .iter()
            .filter(|suite| self.args.wants(built, &suite.name))
        {
            let name = format!("host: {}", suite.name);
            say(&format!("{} on this host", suite.name));
            let results = self.phases.time(&name, || {
                flaky::run(&name, which, |which| {
                    on_host(workspace, built, scene, suite, &name, which, &path)
                })
            })?;
            self.results.add(results);
        }
        Ok(())
    }

    fn machines(&mut self, kernels: &[&str]) -> Result<()> {
        let lab = match self.phases.time("set-up", || Lab::open(self.workspace)) {
            Ok(lab) => lab,
            Err(err) => {
                let reason = on_one_line(&err);
                let skipped = kernels
                    .iter()
                    .map(|kernel| Test::skipped(format!("kernel {kernel}"), reason.as_str()));
                self.results.tests.extend(skipped);
                return Ok(());
            }
        };
        for name in kernels {
            let kernel = match self.phases.time("set-up", || lab.kernel(name, false)) {
                Ok(kernel) => kernel,
                Err(err) => {
                    let skipped = Test::skipped(format!("kernel {name}"), on_one_line(&err));
                    self.results.tests.push(skipped);
                    continue;
                }
            };
            let plans = MATRIX.iter().filter(|plan| plan.kernels.contains(name));
            for plan in plans {
                if self.args.wants(self.built, plan.test)
                    && (self.args.tier.is_empty() || self.args.tier.iter().any(|tier| tier == plan.tier))
                {
                    self.plan(&lab, &kernel, name, plan)?;
                }
            }
        }
        say(&format!("{} boots of machines", lab.boots()));
        Ok(())
    }

    /// One suite under one kernel.
    fn plan(&mut self, lab: &Lab, kernel: &vm::Kernel, name: &str, plan: &Plan) -> Result<()> {
        let place = format!("{name} {}", plan.tier);
        let full = format!("{place}: {}", plan.test);
        let Some(suite) = self.built.suite(plan.test) else {
            let failed = Test::failed(full, format!("there is no suite {}", plan.test));
            self.results.tests.push(failed);
            return Ok(());
        };
        say(&format!(
            "{} under the kernel {name} at the tier {}",
            suite.name, plan.tier
        ));
        // What was asked for on the command line is all that is asked for.
        let which = match (self.args.which(self.built), plan.only) {
            (Which::All, only) if !only.is_empty() => Which::Like(only),
            (asked, _) => asked,
        };
        let mut boots = Duration::ZERO;
        let start = Instant::now();
        let results = flaky::run(&full, which, |which| {
            let job = Job {
                append: plan.append.to_owned(),
                timeout: VM_LIMIT,
                ..self.built.in_machine(suite, which, name, plan.tier)
            };
            in_machine(lab, kernel, &job, &full, &mut boots)
        })?;
        self.phases.add(&place, start.elapsed().saturating_sub(boots));
        self.phases.add(&format!("{name} boots"), boots);
        self.results.add(results);
        Ok(())
    }

    /// Writes and prints what came of it; the sum is the last line.
    fn finish(self) -> Result<u8> {
        let results = &self.results;
        if let Some(text) = table::render(results, &host_column(self.built)) {
            println!("\n{text}");
            if self.args.makes_the_table() {
                let path = self.workspace.root.join(table::PATH);
                fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
                say(&format!("the table is in {}", table::PATH));
            }
        }
        let folder = self.workspace.target.join("ci");
        junit::write(results, &folder.join("junit.xml"))?;
        flaky::keep(results, &folder.join("flaky"))?;
        self.phases.save()?;

        println!();
        for test in &results.tests {
            let name = test.full_name();
            match &test.end {
                End::Passed => {}
                End::Skipped(why) => println!("skipped  {name}: {why}"),
                End::Flaky(why) => println!("flaky    {name}: passed once more, failed at first: {why}"),
                End::Failed(why) => println!("FAILED   {name}: {why}"),
            }
        }
        println!("\nslowest tests:");
        for test in results.slowest(10) {
            println!("{:>7.1} s  {}", test.time.as_secs_f64(), test.full_name());
        }
        println!("\nwhere the time went:\n{}", self.phases.table());
        let flaky = results.flaky();
        if flaky > flaky::BUDGET {
            println!(
                "{flaky} tests are flaky, and a run may have {}: it has failed",
                flaky::BUDGET
            );
        }
        println!("{}", results.summary());
        Ok(u8::from(results.have_failed()))
    }
}

fn show(reader: &mut Reader, line: &str) {
    if let Some(shown) = reader.line(line, Instant::now()) {
        println!("{shown}");
    }
}

fn on_one_line(err: &anyhow::Error) -> String {
    format!("{err:#}").lines().collect::<Vec<_>>().join(" ")
}

/// Runs a suite in a machine, shows its output as it comes, and reads it.
fn in_machine(
    lab: &Lab,
    kernel: &vm::Kernel,
    job: &Job,
    suite: &str,
    boots: &mut Duration,
) -> Result<Outcome> {
    interrupt::hold();
    let mut reader = Reader::new(suite);
    let start = Instant::now();
    // The harness speaks as soon as it has been started.
    let mut booted = None;
    let run = lab.run(kernel, job, &mut |line| {
        booted.get_or_insert_with(|| start.elapsed());
        show(&mut reader, line);
    })?;
    *boots += booted.unwrap_or_default();
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

/// `6.18 tracepoint`: the host's kernel, and the tier that ebusy takes there.
fn host_column(built: &Built) -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version: Vec<&str> = release.splitn(3, '.').take(2).collect();
    let doctor = Command::new(&built.ebusy)
        .args(["doctor", "--format", "json"])
        .stderr(Stdio::null())
        .output();
    let doctor = doctor.ok().and_then(|output| {
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        value.get("tier")?.as_str().map(str::to_owned)
    });
    format!("{} {}", version.join("."), doctor.unwrap_or_default())
        .trim()
        .to_owned()
}

/// Runs a suite on this host, shows its output as it comes, and reads it.
fn on_host(
    workspace: &Workspace,
    built: &Built,
    scene: &Scene,
    suite: &Suite,
    name: &str,
    which: Which<'_>,
    path: &OsString,
) -> Result<Outcome> {
    let mut command = built.on_host(&workspace.root, suite, which);
    command.env("PATH", path);
    scene.mark(&mut command);
    let mut reader = Reader::new(name);
    let end = follow(command, HOST_LIMIT, &mut |line| show(&mut reader, line))?;
    scene.clear();
    Ok(reader.finish(end, Instant::now()))
}
