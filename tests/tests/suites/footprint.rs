//! ebusy never holds a mount that it watches: while every verb runs, an observer checks all its processes from outside,
//! and every watched mount can be unmounted on the first try. A verb that no case runs makes the test fail.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    capture::Capture,
    ebusy::{self, Watch},
    harness::{self, Verdict},
    holder::{Holding, PATIENCE},
    many::{Many, alone},
    namespace::Namespace,
    observer::Observer,
    pause,
    recording::Recording,
    report,
    scratch::{FileSystem, Scratch},
    steps::{hold_fd, refused},
};
use rustix::process::Signal;
use tempfile::TempDir;

/// How to run a verb: `VERBS` has all verbs.
enum How {
    /// To its end, with each of these arguments, and with that to read.
    ToItsEnd(fn(&Stage) -> Result<Vec<Run>>),
    /// Until it is interrupted; it writes to the folder, which must then have this many refusals.
    ForLong {
        arguments: fn(&Path) -> Vec<OsString>,
        refusals: fn(&Path) -> Result<usize>,
    },
}

/// One run of a verb.
#[derive(Default)]
struct Run {
    arguments: Vec<OsString>,
    input: Option<PathBuf>,
}

impl Run {
    /// True if it asks about that mount.
    fn names(&self, mount: &Path) -> bool {
        let input = self.input.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let in_input = input.is_some_and(|text| text.contains(&*mount.to_string_lossy()));
        in_input || self.arguments.iter().any(|argument| argument == mount)
    }

    fn with(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            input: None,
        }
    }
}

const VERBS: [(&str, How); 8] = [
    (
        "watch",
        How::ForLong {
            arguments: |folder| {
                let incidents = folder.join("incidents.jsonl");
                vec!["--format".into(), "json".into(), "-o".into(), incidents.into()]
            },
            refusals: |folder| {
                let incidents = report::incidents(&fs::read_to_string(folder.join("incidents.jsonl"))?)?;
                Ok(incidents.iter().map(|incident| incident.attempts as usize).sum())
            },
        },
    ),
    (
        "record",
        How::ForLong {
            arguments: |folder| vec!["--history".into(), "-o".into(), folder.into()],
            refusals: |folder| {
                let capture = Capture::read(folder)?;
                Ok(capture.of("umount").filter(|umount| umount["ret"] == -16).count())
            },
        },
    ),
    (
        "who",
        How::ToItsEnd(|stage| {
            Ok(vec![
                Run::default(),
                Run::with([stage.scratches[0].path()]),
                Run::with([stage.scratches[1].path()]),
                Run::with([stage.changing()]),
                Run {
                    arguments: vec!["-".into()],
                    input: Some(stage.log(stage.scratches[1].path())?),
                },
                Run {
                    arguments: vec!["-".into()],
                    input: Some(stage.log(&stage.changing())?),
                },
            ])
        }),
    ),
    (
        "report",
        How::ToItsEnd(|stage| {
            let capture = stage.capture()?;
            let log = stage.log(stage.scratches[0].path())?;
            let page = stage.directory.path().join("page.html");
            Ok(vec![
                Run::with([&capture]),
                Run::with([capture.as_os_str(), "--log".as_ref(), log.as_os_str()]),
                Run::with([
                    capture.as_os_str(),
                    "--format".as_ref(),
                    "html".as_ref(),
                    "-o".as_ref(),
                    page.as_os_str(),
                ]),
            ])
        }),
    ),
    (
        "export",
        How::ToItsEnd(|stage| {
            let capture = stage.capture()?;
            let to = |format: &str| {
                let file = stage.directory.path().join(format);
                Run::with([
                    capture.as_os_str(),
                    "--to".as_ref(),
                    format.as_ref(),
                    "-o".as_ref(),
                    file.as_os_str(),
                ])
            };
            Ok(vec![to("jsonl"), to("perfetto")])
        }),
    ),
    (
        "audit",
        How::ToItsEnd(|stage| {
            let mut arguments = Vec::new();
            for target in stage.targets() {
                arguments.extend(["--target".into(), target]);
            }
            Ok(vec![Run::with(arguments)])
        }),
    ),
    ("demo", How::ToItsEnd(|_| Ok(vec![Run::default()]))),
    ("doctor", How::ToItsEnd(|_| Ok(vec![Run::default()]))),
];

pub(crate) fn main() -> ExitCode {
    let mut tests = vec![
        harness::test("every_verb_is_here", every_verb_is_here),
        harness::test("watch_a_command", watch_a_command),
        harness::test("capabilities_that_are_kept", capabilities_that_are_kept),
        harness::test("many_mounts_on_the_first_try", many_mounts_on_the_first_try),
        harness::test("mounts_that_come_and_go", mounts_that_come_and_go),
    ];
    for (verb, how) in VERBS {
        tests.push(harness::test(verb, move || match how {
            How::ToItsEnd(runs) => to_its_end(verb, runs),
            How::ForLong { arguments, refusals } => for_long(verb, arguments, refusals),
        }));
    }
    harness::main(tests)
}

/// The verbs in `ebusy --help`, and no others.
fn every_verb_is_here() -> Result<Verdict> {
    let help = ebusy::run(std::process::Command::new(ebusy::binary()?).arg("--help"))?;
    let help = String::from_utf8(help.stdout)?;
    let (_, commands) = help.split_once("\nCommands:\n").context("no commands")?;
    let named: BTreeSet<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        // The text of an entry may continue in lines that are indented further.
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split(' ').next())
        .filter(|verb| *verb != "help")
        .collect();
    let here: BTreeSet<&str> = VERBS.iter().map(|(verb, _)| *verb).collect();
    ensure!(named == here, "ebusy has {named:?}, the cases are of {here:?}");
    Ok(Verdict::Passed)
}

/// Once the programs are loaded, every thread drops unneeded capabilities, but the command keeps them.
fn capabilities_that_are_kept() -> Result<Verdict> {
    // capabilities(7): dac_override, dac_read_search, kill, sys_ptrace, sys_admin, sys_resource, syslog, perfmon, bpf.
    let kept = [1, 2, 5, 19, 21, 24, 34, 38, 39].map(|bit| 1 << bit);
    let kept = kept.into_iter().fold(0, |all: u64, bit| all | bit);
    let folder = tempfile::Builder::new().prefix("ebusy-caps-").tempdir()?;
    let said = folder.path().join("said");
    let script = format!(
        "grep ^CapEff: /proc/self/status >{}.new; mv {0}.new {0}; sleep 60",
        said.display()
    );
    let capture = folder.path().join("capture");
    let own = capability_sets(Path::new("/proc/thread-self/status"))?;
    let running = ebusy::Running::start(
        ebusy::command("watch")?
            .arg("--capture")
            .arg(&capture)
            .args(["--", "sh", "-c", &script]),
    )?;
    pause::until(PATIENCE, || Ok(said.exists().then_some(())))
        .with_context(|| format!("the command did not start: {}", running.log()))?;
    let of_command = fs::read_to_string(&said)?;
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", running.pid()))? {
        let task = task?.path();
        let sets = capability_sets(&task.join("status"))?;
        // The watchdog needs none, and those that write to stdout and stderr do nothing else.
        let comm = fs::read_to_string(task.join("comm"))?;
        let needs_none = ["ebusy-write", "ebusy-watchdog"].contains(&comm.trim());
        let expected = if needs_none { 0 } else { own & kept };
        ensure!(
            sets == expected,
            "a thread has {sets:x}, not {expected:x}: {}",
            running.log()
        );
        threads += 1;
    }
    ensure!(
        threads == 5,
        "{threads} threads: one watches, one writes the capture, two write what is said, one is the watchdog"
    );
    ensure!(own & !kept != 0, "this test has nothing that could be given up");
    ensure!(
        of_command.trim().ends_with(&format!("{own:016x}")),
        "the command has {of_command}, not {own:x}"
    );
    running.signal(Signal::TERM)?;
    Ok(Verdict::Passed)
}

/// The effective capabilities of a thread, which must also be all its permitted ones.
fn capability_sets(status: &Path) -> Result<u64> {
    let text = fs::read_to_string(status)?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.context("a set of capabilities")?.trim(), 16).context("a number")
    };
    let (permitted, effective) = (of("CapPrm:")?, of("CapEff:")?);
    ensure!(
        permitted == effective,
        "{permitted:x} permitted, {effective:x} in effect"
    );
    Ok(effective)
}

/// The scene of a verb: two mounts in use, and others that come and go.
struct Stage {
    scratches: [Scratch; 2],
    many: Many,
    directory: TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        Ok(Self {
            scratches: [
                Scratch::new(FileSystem::Tmpfs)?,
                Scratch::new(FileSystem::Overlay)?,
            ],
            many: Many::new(8)?,
            directory: tempfile::Builder::new().prefix("ebusy-stage-").tempdir()?,
        })
    }

    /// One of the mounts that come and go.
    fn changing(&self) -> PathBuf {
        self.many.path(0)
    }

    /// Globs of all of them.
    fn targets(&self) -> [OsString; 3] {
        let [first, second] = &self.scratches;
        [
            first.path().into(),
            second.path().into(),
            self.many.directory().join("*").into(),
        ]
    }

    /// A file with what containerd logs of a mount.
    fn log(&self, mount: &Path) -> Result<PathBuf> {
        let name = format!("log-{}", mount.display().to_string().replace('/', "-"));
        let path = self.directory.path().join(name);
        let mount = mount.display();
        let time = jiff::Timestamp::now();
        fs::write(
            &path,
            format!(
                "time=\"{time}\" level=error msg=\"unable to delete c1\" error=\"failed to delete task: failed rootfs \
                 umount: failed to unmount target {mount}: device or resource busy: unknown\"\n"
            ),
        )?;
        Ok(path)
    }

    /// The capture of a refusal of the first.
    fn capture(&self) -> Result<PathBuf> {
        let folder = self.directory.path().join("capture");
        let scratch = &self.scratches[0];
        let recording = Recording::start(&folder, scratch.path(), &[])?;
        refused(scratch, 2)?;
        harness::settle()?;
        recording.finish()?.expect_code(0)?;
        Ok(folder)
    }
}

/// Maximum number of runs of a short command until the observer has looked at it.
const TRIES: usize = 200;

/// Runs ebusy beside mounts that somebody uses, then beside mounts that come and go.
fn to_its_end(verb: &str, runs: fn(&Stage) -> Result<Vec<Run>>) -> Result<Verdict> {
    let stage = Stage::new()?;
    let holdings = used(&stage.scratches)?;
    let runs = runs(&stage)?;
    ensure!(!runs.is_empty(), "nothing is run");
    let start = |run: &Run| {
        let input = match &run.input {
            Some(path) => File::open(path)?.into(),
            None => Stdio::null(),
        };
        let running = ebusy::Running::reading(ebusy::command(verb)?.args(&run.arguments), input)?;
        // The demo's own processes use mounts of the demo's, in namespaces of their own. One that ends has its name still,
        // but no arguments.
        let observer = Observer::of(
            running.pid(),
            &stage.scratches,
            &holdings,
            &["demo-scene", "demo-holder", "demo-bystander", "demo-umount"],
        );
        Ok::<_, anyhow::Error>((running, observer))
    };
    for run in &runs {
        // Some end within milliseconds: again, until somebody has looked meanwhile.
        let mut looks = 0;
        for _ in 0..TRIES {
            let (running, observer) = start(run)?;
            let status = running.wait()?;
            looks += observer.finish()?;
            let finished = running.finished(status)?;
            // Every target is there and in use: but ebusy may be unable to see a holder on this kernel, and a path
            // below the many has no mount now.
            let codes: &[i32] = if run.names(&stage.changing()) {
                &[0, 1, 3, 4]
            } else {
                &[0, 1]
            };
            ensure!(
                finished.status.code().is_some_and(|code| codes.contains(&code)),
                "{:?}: {finished:?}",
                run.arguments
            );
            if looks > 0 {
                break;
            }
        }
        ensure!(looks > 0, "nobody has looked: {:?}", run.arguments);
    }
    for run in &runs {
        let (running, observer) = start(run)?;
        let (mut rounds, mut refused) = (0, Vec::new());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            let ended = running.try_wait()?;
            ensure!(Instant::now() < deadline, "it does not end: {:?}", run.arguments);
            stage.many.mount()?;
            refused.extend(stage.many.unmount()?);
            rounds += 1;
            if let Some(status) = ended {
                break status;
            }
        };
        observer.finish()?;
        let finished = running.finished(status)?;
        ensure!(
            refused.is_empty(),
            "{} of {} were refused: {:?} {finished:?}",
            refused.len(),
            rounds * stage.many.count(),
            run.arguments
        );
    }
    free(&stage.scratches, holdings)
}

/// Files are opened and closed, umounts are refused, holders come and go in every kind of namespace; all is unmounted on
/// the first try while ebusy still runs.
fn for_long(
    verb: &str,
    arguments: fn(&Path) -> Vec<OsString>,
    refusals: fn(&Path) -> Result<usize>,
) -> Result<Verdict> {
    const ROUNDS: [Namespace; 3] = [Namespace::Same, Namespace::Slave, Namespace::Private];
    const ATTEMPTS: usize = 20;
    let stage = Stage::new()?;
    let output = stage.directory.path().join("output");
    let mut command = ebusy::command(verb)?;
    command.args(arguments(&output));
    for target in stage.targets() {
        command.args(["--target".into(), target]);
    }
    fs::create_dir(&output)?;
    let running = ebusy::Running::start(&mut command)?;
    running.wait_for("watching")?;
    let observer = Observer::of(running.pid(), &stage.scratches, &[], &[]);
    for namespace in ROUNDS {
        for scratch in &stage.scratches {
            let holding = hold_fd(scratch, Namespace::Same, "file")?;
            let other = hold_fd(scratch, namespace, "second")?;
            for _ in 0..ATTEMPTS {
                ensure!(!scratch.umount()?, "the umount was not refused");
                alone(|| fs::read(scratch.join("file")))?;
                pause::takes(
                    Duration::from_millis(2),
                    "what a caller waits that never gives up",
                );
            }
            holding.release()?;
            other.release()?;
        }
    }
    harness::settle()?;
    for scratch in &stage.scratches {
        ensure!(scratch.umount()?, "{} is busy", scratch.path().display());
    }
    let mut busy = Vec::new();
    for _ in 0..20 {
        stage.many.mount()?;
        busy.extend(stage.many.unmount()?);
    }
    ensure!(observer.finish()? > 0, "nobody has looked");
    running.signal(Signal::INT)?;
    let status = running.wait()?;
    let finished = running.finished(status)?;
    finished.expect_code(0)?;
    ensure!(busy.is_empty(), "{busy:?} were refused: {}", finished.stderr);
    let (found, expected) = (
        refusals(&output)?,
        ROUNDS.len() * stage.scratches.len() * ATTEMPTS,
    );
    ensure!(
        found == expected,
        "{found} refusals of {expected}: {}",
        finished.stderr
    );
    Ok(Verdict::Passed)
}

/// Each is in use itself and through a private copy.
fn used(scratches: &[Scratch]) -> Result<Vec<Holding>> {
    let mut holdings = Vec::new();
    for scratch in scratches {
        for namespace in [Namespace::Same, Namespace::Private] {
            holdings.push(hold_fd(scratch, namespace, "file")?);
        }
    }
    Ok(holdings)
}

/// Nobody else holds them once these have let go.
fn free(scratches: &[Scratch], holdings: Vec<Holding>) -> Result<Verdict> {
    for holding in holdings {
        holding.release()?;
    }
    for scratch in scratches {
        ensure!(scratch.umount()?, "{} is busy", scratch.path().display());
    }
    Ok(Verdict::Passed)
}

fn watch_a_command() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let (scratches, holdings) = ([scratch], vec![holding]);
    let umounter = ebusy_tests::holder::program("umounter")?;
    let mut command = ebusy::command("watch")?;
    command
        .arg("--")
        .arg(umounter)
        .arg(scratches[0].path())
        .args(["30", "20"]);
    let running = ebusy::Running::start(&mut command)?;
    let observer = Observer::of(running.pid(), &scratches, &holdings, &["umounter"]);
    let status = running.wait()?;
    ensure!(observer.finish()? > 0, "nobody has looked");
    running.finished(status)?;
    free(&scratches, holdings)
}

/// Something runs until it is dropped: `who` on a path, one after the other.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<usize>>>,
}

impl Asking {
    fn of(what: Option<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut asked = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut command = ebusy::command("who")?;
                let running = alone(|| ebusy::Running::start(command.args(&what)))?;
                running.wait()?;
                asked += 1;
            }
            Ok(asked)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn finish(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is finished once")?;
        thread.join().map_err(|_| anyhow::anyhow!("who panicked"))?
    }
}

fn many_mounts_on_the_first_try() -> Result<Verdict> {
    let many = Many::new(200)?;
    let watch = Watch::targets(&[many.directory().join("*")])?;
    many.mount()?;
    let asking = Asking::of(None);
    harness::settle()?;
    let refused = many.unmount()?;
    asking.finish()?;
    let (incidents, log) = watch.finish()?;
    ensure!(refused.is_empty(), "busy: {refused:?}\n{incidents:#?}\n{log}");
    ensure!(incidents.is_empty(), "{incidents:#?}");
    Ok(Verdict::Passed)
}

/// Mounted, used, unmounted again and again, while one ebusy watches and another is asked who would block.
fn mounts_that_come_and_go() -> Result<Verdict> {
    let many = Many::new(8)?;
    let watch = Watch::targets(&[many.directory().join("*")])?;
    let asking = [Asking::of(Some(many.path(0))), Asking::of(None)];
    let end = Instant::now() + Duration::from_secs(8);
    let (mut rounds, mut refused) = (0, Vec::new());
    while Instant::now() < end {
        many.mount()?;
        for path in many.paths() {
            alone(|| fs::read(path.join("file")))?;
        }
        refused.extend(many.unmount()?);
        rounds += 1;
    }
    for asking in asking {
        ensure!(asking.finish()? > 0, "nobody was asked");
    }
    let (incidents, log) = watch.finish()?;
    ensure!(
        refused.is_empty(),
        "{} of {} were refused\n{incidents:#?}\n{log}",
        refused.len(),
        rounds * many.count()
    );
    ensure!(incidents.is_empty(), "{incidents:#?}");
    Ok(Verdict::Passed)
}
