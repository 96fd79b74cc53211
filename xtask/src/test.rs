//! `cargo xtask test`: unit tests, the tests on this host, then those under other kernels, and one sum.

use std::{
    env,
    ffi::OsString,
    fs,
    process::{Command, Stdio},
    thread,
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
    machines,
    matrix::KERNELS,
    phases::Phases,
    results::{End, Results, Test},
    say, setup,
    suites::{self, Built, Suite, Which},
    table, tools,
    workspace::Workspace,
};

/// How long one suite may take on the host.
const HOST_LIMIT: Duration = Duration::from_mins(10);

/// Options of `cargo xtask test`.
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

    pub(crate) fn which(&self, built: &Built) -> Which<'_> {
        match &self.filter {
            Some(part) if self.suite(built).is_none() => Which::Like(part),
            _ => Which::All,
        }
    }

    /// True if a whole suite runs. A suite given by name is never left out.
    fn is_full(&self, built: &Built) -> bool {
        self.full || self.table || matches!(self.which(built), Which::Like(_))
    }

    /// True if any test of a suite is wanted.
    pub(crate) fn wants(&self, built: &Built, suite: &str) -> bool {
        (!self.table || table::SUITES.contains(&suite))
            && self.suite(built).is_none_or(|only| only.name == suite)
    }

    /// True if a tier is wanted in machines.
    pub(crate) fn wants_tier(&self, tier: &str) -> bool {
        self.tier.is_empty() || self.tier.iter().any(|wanted| wanted == tier)
    }

    /// True if all tests behind the table run.
    fn makes_the_table(&self) -> bool {
        self.table && self.filter.is_none() && !self.quick && self.kernel.is_empty() && self.tier.is_empty()
    }
}

/// Everything that a run of tests needs.
struct Runner<'a> {
    workspace: &'a Workspace,
    args: &'a TestArgs,
    built: &'a Built,
    scene: Scene,
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

    let runner = Runner {
        workspace,
        args,
        built: &built,
        scene,
    };
    let mut results = Results::default();
    let on_host = args.kernel.is_empty();
    if !on_host {
        say("unit tests and the tests on this host are left out (--kernel)");
    } else if !args.table && args.suite(&built).is_none() {
        results.add(phases.time("unit", || runner.units())?);
    }
    let kernels: Vec<&str> = match args.kernel.as_slice() {
        _ if args.quick => Vec::new(),
        [] => KERNELS.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    if args.quick {
        say("the tests under other kernels are left out (--quick)");
    }
    // The tests on this host mostly wait, and machines are emulated: side by side they take less time. Child processes
    // end with the thread that started them, so machines stay with threads that wait for them.
    let mut times = Vec::new();
    let (host, done) = phases.time("tests on this host and in machines", || {
        thread::scope(|scope| {
            let host = on_host.then(|| scope.spawn(|| runner.host(&mut times)));
            let done = machines::run(workspace, args, &built, &kernels);
            (host.map(thread::ScopedJoinHandle::join), done)
        })
    });
    if let Some(host) = host {
        let host = host.map_err(|_| anyhow::anyhow!("the tests on this host panicked"))?;
        results.add(host?);
    }
    let done = done?;
    results.add(done.results);
    phases.add_parts(&done.times);
    phases.add_parts(&times);
    runner.scene.remove();
    interrupt::hold();
    finish(workspace, args, &built, &results, &phases)
}

impl Runner<'_> {
    fn units(&self) -> Result<Results> {
        say("unit tests");
        let mut results = Results::default();
        for unit in &self.built.units {
            results.add(unit.run(self.args.filter.as_deref())?);
        }
        Ok(results)
    }

    /// The tests on real mounts of this host, and how long each suite took.
    fn host(&self, times: &mut Vec<(String, Duration)>) -> Result<Results> {
        let mut results = Results::default();
        let suites = &self.built.suites;
        if !rustix::process::geteuid().is_root() {
            let reason = "needs root: type `sudo -E env PATH=$PATH cargo xtask test`";
            let skipped = suites
                .iter()
                .map(|suite| Test::skipped(format!("host: {}", suite.name), reason));
            results.tests.extend(skipped);
            return Ok(results);
        }
        let path = tools::search_path(self.workspace, self.built.full).unwrap_or_else(|err| {
            // The tests that need a tool say so by themselves.
            say(&format!("some tools for the tests are missing: {err:#}"));
            env::var_os("PATH").unwrap_or_default()
        });
        let which = self.args.which(self.built);
        for suite in suites
            .iter()
            .filter(|suite| self.args.wants(self.built, &suite.name))
        {
            let name = format!("host: {}", suite.name);
            say(&format!("{} on this host", suite.name));
            let start = Instant::now();
            results.add(flaky::run(&name, which, |which| {
                self.on_host(suite, &name, which, &path)
            })?);
            times.push((name, start.elapsed()));
        }
        Ok(results)
    }

    /// Runs a suite on this host, shows its output as it comes, and reads it.
    fn on_host(&self, suite: &Suite, name: &str, which: Which<'_>, path: &OsString) -> Result<Outcome> {
        let mut command = self.built.on_host(&self.workspace.root, suite, which);
        command.env("PATH", path);
        self.scene.mark(&mut command);
        let mut reader = Reader::new(name);
        let end = follow(command, HOST_LIMIT + suites::asked_time(), &mut |line| {
            show(&mut reader, "", line);
        })?;
        self.scene.clear();
        Ok(reader.finish(end, Instant::now()))
    }
}

/// Writes and prints the results; the sum is the last line.
fn finish(
    workspace: &Workspace,
    args: &TestArgs,
    built: &Built,
    results: &Results,
    phases: &Phases,
) -> Result<u8> {
    if let Some(text) = table::render(results, &host_column(built)) {
        println!("\n{text}");
        if args.makes_the_table() {
            let path = workspace.root.join(table::PATH);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            say(&format!("the table is in {}", table::PATH));
        }
    }
    let folder = workspace.target.join("ci");
    junit::write(results, &folder.join("junit.xml"))?;
    flaky::keep(results, &folder.join("flaky"))?;
    phases.save()?;

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
    println!("\nwhere the time went:\n{}", phases.table());
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

/// A prefix names the place of a line that may stand among those of other places.
pub(crate) fn show(reader: &mut Reader, place: &str, line: &str) {
    if let Some(shown) = reader.line(line, Instant::now()) {
        println!("{place}{shown}");
    }
}

/// `6.18 tracepoint`: the host's kernel, and the tier that ebusy chooses there.
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
