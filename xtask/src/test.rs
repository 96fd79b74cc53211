//! `cargo xtask test`: unit tests, the tests on this host, then those under other kernels, and one sum.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    leftover,
    matrix::{KERNELS, MATRIX, Plan},
    run, say, table,
    tally::{Reader, Tally},
    toolchain, tools,
    vm::{self, Job, Lab},
    workspace::{Artifact, Workspace},
};

const TESTS: &str = "ebusy-tests";

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
    /// Keep the table of kinds in docs/kinds.md, and run only what it is made from
    #[arg(long)]
    table: bool,
    /// Only tests whose names contain this
    filter: Option<String>,
}

/// What the tests on a host or in a machine are given.
#[derive(Debug)]
struct Built {
    ebusy: PathBuf,
    /// All suites of tests on real mounts, and their names.
    tests: PathBuf,
    suites: Vec<String>,
    holders: Vec<Artifact>,
    holder_directory: PathBuf,
}

/// Runs everything; the status is 1 if something failed.
pub(crate) fn main(workspace: &Workspace, args: &TestArgs) -> Result<u8> {
    let mut sum = Tally::default();
    crate::setup::toolchain(false)?;
    if !args.table && args.kernel.is_empty() {
        say("unit tests");
        sum.add(unit_tests(workspace, args)?);
    }

    say("building ebusy, the holder programs and the tests on real mounts");
    let built = build(workspace)?;
    if args.kernel.is_empty() {
        sum.add(host(workspace, args, &built)?);
    } else {
        say("the tests on this host are left out (--kernel)");
    }

    if args.quick {
        say("the tests under other kernels are left out (--quick)");
    } else {
        let kernels: Vec<&str> = if args.kernel.is_empty() {
            KERNELS.to_vec()
        } else {
            args.kernel.iter().map(String::as_str).collect()
        };
        sum.add(matrix(workspace, args, &built, &kernels)?);
    }
    if let Some(text) = table::render(&sum, &host_column(&built)) {
        println!("\n{text}");
        if args.table
            && args.filter.is_none()
            && !args.quick
            && args.kernel.is_empty()
            && args.tier.is_empty()
        {
            let path = workspace.root.join(table::PATH);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            say(&format!("the table is in {}", table::PATH));
        }
    }
    print(&sum);
    Ok(u8::from(!sum.failed.is_empty()))
}

/// The tests on real mounts of this host.
fn host(workspace: &Workspace, args: &TestArgs, built: &Built) -> Result<Tally> {
    let mut sum = Tally::default();
    if !rustix::process::geteuid().is_root() {
        for suite in &built.suites {
            sum.skip(
                format!("host: {suite}"),
                "needs root: type `sudo -E env PATH=$PATH cargo xtask test`",
            );
        }
        return Ok(sum);
    }
    let path = match tools::search_path(workspace) {
        Ok(path) => path,
        Err(err) => {
            // The tests that need a tool say so by themselves.
            say(&format!("some tools for the tests are missing: {err:#}"));
            std::env::var_os("PATH").unwrap_or_default()
        }
    };
    for suite in &built.suites {
        if args.table && !table::SUITES.contains(&suite.as_str()) {
            continue;
        }
        say(&format!("{suite} on this host"));
        let start = Instant::now();
        let which = args.filter.as_deref().map_or(Which::All, Which::Like);
        sum.add(run_tests(which, |which| {
            host_test(workspace, which, built, suite, &path)
        })?);
        say(&format!("{suite} took {} s", start.elapsed().as_secs()));
    }
    Ok(sum)
}

/// Everything but the tests on real mounts. Static, so that the dependencies are compiled once for all tests.
fn unit_tests(workspace: &Workspace, args: &TestArgs) -> Result<Tally> {
    let mut sum = Tally::default();
    for (name, selection) in [
        (
            "unit",
            ["--workspace", "--exclude", "tracer-ebpf", "--exclude", TESTS].as_slice(),
        ),
        ("unit", &["--package", TESTS, "--lib"]),
    ] {
        let mut command = workspace.cargo_static("test");
        command
            .arg("--no-fail-fast")
            .args(selection)
            .arg("--")
            .args(&args.filter);
        sum.add(follow(name, command, Stream::Stdout, HOST_LIMIT)?);
    }
    Ok(sum)
}

fn build(workspace: &Workspace) -> Result<Built> {
    let ebusy = run::build(workspace)?;
    let mut command = workspace.cargo_static("test");
    command.args(["--no-run", "--package", TESTS, "--test", "suites"]);
    let (mut tests, mut holders) = (None, Vec::new());
    for artifact in Workspace::artifacts(&mut command)? {
        match (artifact.kind.as_str(), artifact.harness) {
            ("test", true) => tests = Some(artifact.path),
            ("bin", false) => holders.push(artifact),
            _ => {}
        }
    }
    let tests = tests.context("cargo built no tests on real mounts")?;
    let list = toolchain::bare(&tests)
        .arg("--list-suites")
        .output()
        .context("listing the suites")?;
    let list = String::from_utf8(list.stdout).context("names of suites")?;
    Ok(Built {
        ebusy,
        tests,
        suites: list.lines().map(str::to_owned).collect(),
        holders,
        holder_directory: workspace.target.join(crate::workspace::TARGET).join("debug"),
    })
}

/// Which tests of an executable run.
#[derive(Clone, Copy, Debug)]
enum Which<'a> {
    All,
    /// Those that have this in their names.
    Like(&'a str),
    /// The one of this name.
    Only(&'a str),
}

/// Only one at a time: they mount, and look at the mounts of the whole host.
fn harness_args(which: Which<'_>) -> impl Iterator<Item = String> {
    let names = match which {
        Which::All => vec![],
        Which::Like(part) => vec![part],
        Which::Only(name) => vec!["--exact", name],
    };
    let all = ["--test-threads=1", "--nocapture"].into_iter().chain(names);
    all.map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// Failures of one executable that are tried once more, each alone: more than these are no accident.
const AGAIN_MAX: usize = 8;

/// Runs the tests of an executable, and what failed once more, each test alone: on a machine that is emulated or loaded,
/// the time that one of several at once gets is an accident. What then passes is no failure, but is shown in the sum;
/// what fails again is one. A run that ended with a failure of no test (the machine broke down) is repeated whole.
fn run_tests(which: Which<'_>, mut run: impl FnMut(Which<'_>) -> Result<Tally>) -> Result<Tally> {
    let mut tally = run(which)?;
    let mut failed = tally.failed_tests();
    if failed.len() < tally.failed.len() {
        say(&format!("{}: once more", tally.failed.join(", ")));
        let whole = std::mem::replace(&mut tally, run(which)?);
        tally.unsteady.extend(whole.failed);
        failed = tally.failed_tests();
    }
    if failed.len() > AGAIN_MAX || failed.len() < tally.failed.len() {
        return Ok(tally);
    }
    for (suite, name) in failed {
        say(&format!("{suite}: {name} failed: once more, alone"));
        let alone = run(Which::Only(&name))?;
        if alone.passed == 1 && alone.failed.is_empty() {
            tally.passed_alone(&suite, &name);
        }
    }
    Ok(tally)
}

fn host_test(
    workspace: &Workspace,
    which: Which<'_>,
    built: &Built,
    suite: &str,
    path: &OsString,
) -> Result<Tally> {
    let mut command = toolchain::bare(&built.tests);
    let package = workspace.root.join("tests");
    command
        .arg(suite)
        .args(harness_args(which))
        .current_dir(&package)
        .env("CARGO_MANIFEST_DIR", &package)
        .env("EBUSY_BIN", &built.ebusy)
        .env("EBUSY_HOLDERS", &built.holder_directory)
        .env("PATH", path)
        .env("RUST_BACKTRACE", "1");
    let tally = follow(&format!("host: {suite}"), command, Stream::Both, HOST_LIMIT);
    leftover::end(&built.holder_directory, &built.ebusy);
    tally
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

fn matrix(workspace: &Workspace, args: &TestArgs, built: &Built, kernels: &[&str]) -> Result<Tally> {
    let mut sum = Tally::default();
    let lab = match Lab::open(workspace) {
        Ok(lab) => lab,
        Err(err) => {
            for kernel in kernels {
                sum.skip(format!("kernel {kernel}"), on_one_line(&err));
            }
            return Ok(sum);
        }
    };
    for name in kernels {
        let kernel = match lab.kernel(name, false) {
            Ok(kernel) => kernel,
            Err(err) => {
                sum.skip(format!("kernel {name}"), on_one_line(&err));
                continue;
            }
        };
        let plans = MATRIX
            .iter()
            .filter(|plan| plan.kernels.contains(name))
            .filter(|plan| args.tier.is_empty() || args.tier.iter().any(|tier| tier == plan.tier))
            .filter(|plan| !args.table || table::SUITES.contains(&plan.test));
        for plan in plans {
            if !built.suites.iter().any(|suite| suite == plan.test) {
                sum.failed
                    .push(format!("{name}: there is no suite {}", plan.test));
                continue;
            }
            let place = format!("{name} {}", plan.tier);
            say(&format!(
                "{} under the kernel {name} at the tier {}",
                plan.test, plan.tier
            ));
            // What was asked for on the command line is all that is asked for.
            let which = match (args.filter.as_deref(), plan.only) {
                (Some(filter), _) => Which::Like(filter),
                (None, "") => Which::All,
                (None, only) => Which::Like(only),
            };
            let suite = format!("{place}: {}", plan.test);
            let mut files = Vec::new();
            if plan.tools {
                match tools::advised(workspace) {
                    Ok(found) => files.extend(found),
                    // The tests that need one say so by themselves.
                    Err(err) => say(&format!("no tools for the machine: {err:#}")),
                }
            }
            let start = Instant::now();
            sum.add(run_tests(which, |which| {
                let mut job = vm_job(which, built, name, plan);
                job.files.clone_from(&files);
                in_machine(&lab, &kernel, &job, &suite)
            })?);
            say(&format!("{suite} took {} s", start.elapsed().as_secs()));
        }
    }
    Ok(sum)
}

/// Runs a test executable in a machine, shows its output as it comes, and reads it.
fn in_machine(lab: &Lab, kernel: &vm::Kernel, job: &Job, suite: &str) -> Result<Tally> {
    let mut reader = Reader::new(suite);
    let run = lab.run(kernel, job, &mut |line| {
        println!("{line}");
        reader.line(line);
    })?;
    vm::report(&run);
    if let Some(release) = &run.release {
        say(&format!("that was {release}"));
    }
    Ok(reader.finish(match run.outcome {
        vm::Outcome::Exited(0) => Ok(()),
        outcome => Err(outcome.to_string()),
    }))
}

fn on_one_line(err: &anyhow::Error) -> String {
    format!("{err:#}").lines().collect::<Vec<_>>().join(" ")
}

fn vm_job(which: Which<'_>, built: &Built, kernel: &str, plan: &Plan) -> Job {
    let program = "/opt/tests/suites".to_owned();
    let mut programs = vec![
        ("/opt/bin/ebusy".to_owned(), built.ebusy.clone()),
        (program.clone(), built.tests.clone()),
    ];
    for holder in &built.holders {
        programs.push((format!("/opt/holders/{}", holder.name), holder.path.clone()));
    }
    let env = [
        ("EBUSY_BIN", "/opt/bin/ebusy"),
        ("EBUSY_HOLDERS", "/opt/holders"),
        ("EBUSY_VM", kernel),
        ("EBUSY_PROBE", plan.tier),
        ("RUST_BACKTRACE", "1"),
    ];
    Job {
        programs,
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        argv: [program, plan.test.to_owned()]
            .into_iter()
            .chain(harness_args(which))
            .collect(),
        append: plan.append.to_owned(),
        timeout: VM_LIMIT,
        ..Job::default()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stream {
    /// Stderr is the terminal's: cargo shows its progress there.
    Stdout,
    /// In the order in which they are written.
    Both,
}

/// Runs a test executable, shows its output as it comes, and reads it.
fn follow(suite: &str, mut command: Command, stream: Stream, limit: Duration) -> Result<Tally> {
    let line = crate::command::line(&command);
    let (pipe, writer) = io::pipe().context("making a pipe")?;
    if stream == Stream::Both {
        command.stderr(writer.try_clone().context("copying a pipe")?);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    // It holds the writing ends, which keep the pipe open.
    drop(command);

    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    let mut reader = Reader::new(suite);
    let deadline = Instant::now() + limit;
    let mut end = None;
    loop {
        match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                println!("{line}");
                reader.line(&line);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) if end.is_some() => break,
            Err(_) => {}
        }
        // Quiet for a moment. A process that a failed test left behind may keep the pipe: it is not waited for.
        if end.is_some() {
            break;
        }
        end = child
            .try_wait()
            .with_context(|| format!("waiting for `{line}`"))?;
        if end.is_none() && Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(reader.finish(Err(format!("no end after {} s", limit.as_secs()))));
        }
    }
    Ok(reader.finish(match end {
        Some(status) if !status.success() => Err(status.to_string()),
        _ => Ok(()),
    }))
}

fn print(sum: &Tally) {
    println!();
    for (name, reason) in &sum.skipped {
        println!("skipped  {name}: {reason}");
    }
    for name in &sum.unsteady {
        println!("unsteady {name}: failed at first, not when it ran once more");
    }
    for name in &sum.failed {
        println!("FAILED   {name}");
    }
    println!("{}", sum.summary());
}
