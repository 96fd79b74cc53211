//! `cargo xtask test`: unit tests, the tests on this host, then those under other kernels, and one sum.

use std::{
    ffi::OsString,
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
    run, say,
    tally::{Reader, Tally},
    toolchain, tools,
    vm::{self, Job, Lab},
    workspace::{Artifact, Workspace},
};

/// The kernels that the tests run under besides the host's.
const MATRIX: [&str; 1] = ["6.1"];

/// The tests of the package that run in machines: they need nothing but ebusy and the holder programs.
const VM_TESTS: [&str; 1] = ["kinds"];

const TESTS: &str = "ebusy-tests";

/// How long one test executable may take on the host.
const HOST_LIMIT: Duration = Duration::from_mins(10);

/// The same in a machine, which may be emulated.
const VM_LIMIT: Duration = Duration::from_mins(30);

/// Of `cargo xtask test`.
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Leave the virtual machines out
    #[arg(long)]
    quick: bool,
    /// Only these kernels, in place of the whole matrix
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
    /// Only tests whose names contain this
    filter: Option<String>,
}

/// What the tests on a host or in a machine are given.
#[derive(Debug)]
struct Built {
    ebusy: PathBuf,
    tests: Vec<Artifact>,
    holders: Vec<Artifact>,
    holder_directory: PathBuf,
}

/// Runs everything; the status is 1 if something failed.
pub(crate) fn main(workspace: &Workspace, args: &TestArgs) -> Result<u8> {
    let mut sum = Tally::default();
    crate::setup::toolchain(false)?;
    say("unit tests");
    sum.add(unit_tests(workspace, args)?);

    say("building ebusy, the holder programs and the tests on real mounts");
    let built = build(workspace)?;
    if rustix::process::geteuid().is_root() {
        let path = match tools::search_path(workspace) {
            Ok(path) => path,
            Err(err) => {
                // The tests that need a tool say so by themselves.
                say(&format!("some tools for the tests are missing: {err:#}"));
                std::env::var_os("PATH").unwrap_or_default()
            }
        };
        for test in &built.tests {
            say(&format!("{} on this host", test.name));
            let start = Instant::now();
            sum.add(host_test(workspace, args, &built, test, &path)?);
            say(&format!("{} took {} s", test.name, start.elapsed().as_secs()));
        }
    } else {
        for test in &built.tests {
            sum.skip(
                format!("host: {}", test.name),
                "needs root: type `sudo -E env PATH=$PATH cargo xtask test`",
            );
        }
    }

    if args.quick {
        say("the tests under other kernels are left out (--quick)");
    } else {
        let kernels: Vec<&str> = if args.kernel.is_empty() {
            MATRIX.to_vec()
        } else {
            args.kernel.iter().map(String::as_str).collect()
        };
        sum.add(matrix(workspace, args, &built, &kernels)?);
    }
    print(&sum);
    Ok(u8::from(!sum.failed.is_empty()))
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
    command.args(["--no-run", "--package", TESTS, "--test", "*"]);
    let artifacts = Workspace::artifacts(&mut command)?;
    let (mut tests, mut holders) = (Vec::new(), Vec::new());
    for artifact in artifacts {
        match (artifact.kind.as_str(), artifact.harness) {
            ("test", true) => tests.push(artifact),
            ("bin", false) => holders.push(artifact),
            _ => {}
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Built {
        ebusy,
        tests,
        holders,
        holder_directory: workspace.target.join(crate::workspace::TARGET).join("debug"),
    })
}

/// Only one at a time: they mount, and look at the mounts of the whole host.
fn harness_args(args: &TestArgs) -> impl Iterator<Item = String> {
    ["--test-threads=1", "--nocapture"]
        .map(str::to_owned)
        .into_iter()
        .chain(args.filter.clone())
}

fn host_test(
    workspace: &Workspace,
    args: &TestArgs,
    built: &Built,
    test: &Artifact,
    path: &OsString,
) -> Result<Tally> {
    let mut command = toolchain::bare(&test.path);
    let package = workspace.root.join("tests");
    command
        .args(harness_args(args))
        .current_dir(&package)
        .env("CARGO_MANIFEST_DIR", &package)
        .env("EBUSY_BIN", &built.ebusy)
        .env("EBUSY_HOLDERS", &built.holder_directory)
        .env("PATH", path)
        .env("RUST_BACKTRACE", "1");
    follow(&format!("host: {}", test.name), command, Stream::Both, HOST_LIMIT)
}

fn matrix(workspace: &Workspace, args: &TestArgs, built: &Built, kernels: &[&str]) -> Result<Tally> {
    let mut sum = Tally::default();
    let tests: Vec<_> = built
        .tests
        .iter()
        .filter(|test| VM_TESTS.contains(&test.name.as_str()))
        .collect();
    if tests.is_empty() {
        say("there are no tests for other kernels");
        return Ok(sum);
    }
    let lab = match Lab::open(workspace) {
        Ok(lab) => lab,
        Err(err) => {
            for kernel in kernels {
                sum.skip(
                    format!("kernel {kernel}"),
                    format!("{err:#}").lines().collect::<Vec<_>>().join(" "),
                );
            }
            return Ok(sum);
        }
    };
    for name in kernels {
        let kernel = match lab.kernel(name, false) {
            Ok(kernel) => kernel,
            Err(err) => {
                sum.skip(
                    format!("kernel {name}"),
                    format!("{err:#}").lines().collect::<Vec<_>>().join(" "),
                );
                continue;
            }
        };
        for test in &tests {
            say(&format!("{} under the kernel {name}", test.name));
            let job = vm_job(args, built, test, name);
            let mut reader = Reader::new(format!("{name}: {}", test.name));
            let start = Instant::now();
            let run = lab.run(&kernel, &job, &mut |line| {
                println!("{line}");
                reader.line(line);
            })?;
            vm::report(&run);
            if let Some(release) = &run.release {
                say(&format!(
                    "{} took {} s under {release}",
                    test.name,
                    start.elapsed().as_secs()
                ));
            }
            sum.add(reader.finish(match run.outcome {
                vm::Outcome::Exited(0) => Ok(()),
                outcome => Err(outcome.to_string()),
            }));
        }
    }
    Ok(sum)
}

fn vm_job(args: &TestArgs, built: &Built, test: &Artifact, kernel: &str) -> Job {
    let program = format!("/opt/tests/{}", test.name);
    let mut programs = vec![
        ("/opt/bin/ebusy".to_owned(), built.ebusy.clone()),
        (program.clone(), test.path.clone()),
    ];
    for holder in &built.holders {
        programs.push((format!("/opt/holders/{}", holder.name), holder.path.clone()));
    }
    let env = [
        ("EBUSY_BIN", "/opt/bin/ebusy"),
        ("EBUSY_HOLDERS", "/opt/holders"),
        ("EBUSY_VM", kernel),
        ("RUST_BACKTRACE", "1"),
    ];
    Job {
        programs,
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        argv: [program].into_iter().chain(harness_args(args)).collect(),
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
    for name in &sum.failed {
        println!("FAILED   {name}");
    }
    println!("{}", sum.summary());
}
