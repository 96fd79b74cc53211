//! The tests follow every advice: hold, be refused, run exactly the command of the advice, and unmount.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use ebusy_tests::{
    ebusy::{self, who},
    harness::{self, Verdict},
    holder::{Helper, Holding, PATIENCE, Skip},
    namespace::Namespace,
    pause,
    report::{Fix, Who},
    scratch::{FileSystem, Scratch},
    zoo::{ROWS, Row},
};
use rustix::{
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
    },
};

/// Kinds that affect the whole system: these run in a machine with the tools that the advice names.
const SYSTEM: [&str; 5] = ["acct", "nfs_export", "scm_cycle", "swap", "swap_device"];

pub(crate) fn main() -> ExitCode {
    let mut tests = Vec::new();
    for row in ROWS {
        let Some(file_system) = row.file_systems.first().copied() else {
            continue;
        };
        // That program has the device open, so that it stays until it ends: see `loop_of_losetup`.
        if row.name == "loop" {
            continue;
        }
        let group = if SYSTEM.contains(&row.name) {
            "system"
        } else {
            "first"
        };
        tests.push(harness::test(format!("{group}::{}", row.name), move || {
            follow_first(row, file_system)
        }));
    }
    tests.push(harness::test("loop_of_losetup", loop_of_losetup));
    tests.push(harness::test("copy::slave", || {
        take_the_copy_away("hold-fd", "file")
    }));
    tests.push(harness::test("copy::cwd", || {
        take_the_copy_away("hold-cwd", "dir")
    }));
    tests.push(harness::test("copy::pid_namespace", || {
        take_the_copy_away("hold-fd-pid-namespace", "file")
    }));
    tests.push(harness::test("copy::distroless", distroless));
    tests.push(harness::test("several_holders", several));
    tests.push(harness::test("on_top::twelve", || all_on_top_go(12, false)));
    tests.push(harness::test("on_top::nested", || all_on_top_go(2, true)));
    tests.push(harness::test("on_top::of_a_peer", the_original_stays));
    harness::main(tests)
}

fn answer(scratch: &Scratch) -> Result<Who> {
    let (code, answers) = who(scratch.path())?;
    ensure!(code == 1, "who ended with {code}");
    answers.into_iter().next().context("an answer")
}

/// Runs it as people would.
fn run(fix: &Fix) -> Result<()> {
    let command = fix.command.as_deref().context("a command")?;
    let finished = pause::until(PATIENCE / 4, || {
        let finished =
            ebusy::run(Command::new("sh").arg("-c").arg(command)).with_context(|| command.to_owned())?;
        // A process takes a moment to end.
        let busy = finished.stderr.contains("target is busy");
        Ok((!busy).then_some(finished))
    })
    .with_context(|| format!("{command}: the target stays busy"))?;
    // A tool that this machine lacks is no fault of the advice.
    if finished.status.code() == Some(127) {
        let skip = format!("no tool here for: {command}");
        return Err(Skip { skip }.into());
    }
    ensure!(finished.status.success(), "{command}: {finished:?}");
    Ok(())
}

/// A pseudo file system at its usual place, in the tests' own mount namespace, if the machine lacks it.
struct AtUsualPlace(&'static str);

impl AtUsualPlace {
    fn of(row: &Row) -> Result<Option<Self>> {
        let (file_system, place, entry) = match row.name {
            "uprobe_tracefs" => ("tracefs", "/sys/kernel/tracing", "uprobe_events"),
            "binfmt_misc" => ("binfmt_misc", "/proc/sys/fs/binfmt_misc", "register"),
            // exportfs looks there for the kernel's server.
            "nfs_export" => ("nfsd", "/proc/fs/nfsd", "filehandle"),
            _ => return Ok(None),
        };
        if Path::new(place).join(entry).exists() {
            return Ok(None);
        }
        match mount(file_system, place, file_system, MountFlags::empty(), None) {
            Ok(()) => Ok(Some(Self(place))),
            Err(error) => {
                let skip = format!("no {file_system} at {place}: {error}");
                Err(Skip { skip }.into())
            }
        }
    }
}

impl Drop for AtUsualPlace {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

/// The kernel takes a while to drop the references of a holder that was killed.
fn unmounts(scratch: &Scratch) -> Result<()> {
    pause::until(PATIENCE, || Ok(scratch.umount()?.then_some(()))).with_context(|| {
        format!(
            "still busy after the advice was followed: {:#?}",
            who(scratch.path())
        )
    })
}

/// The advices that belong together ("... and ..."), until the first alternative.
fn all_of(who: &Who) -> Vec<&Fix> {
    let first = who.fixes.iter().take(1);
    let others = who.fixes.iter().skip(1);
    first
        .chain(others.take_while(|fix| fix.text.starts_with("and ")))
        .collect()
}

fn follow_first(row: &Row, file_system: FileSystem) -> Result<Verdict> {
    let _place = AtUsualPlace::of(row)?;
    let scratch = Scratch::new(file_system)?;
    let holding = row.hold(&scratch, Namespace::Same)?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    let who = answer(&scratch)?;
    ensure!(!who.fixes.is_empty(), "no advice: {who:#?}");
    let mut holding = Some(holding);
    for fix in all_of(&who) {
        match fix.action.as_str() {
            // Its worker waits for a FUSE server, which here is a child that ends with it: killed, it would wait for
            // its worker, the worker for the server, and the server for it. Or a worker waits for the server of the
            // mount, which answers when the holder releases it. So take the other half of the advice.
            "command" if ["aio_sync", "uring_teardown"].contains(&row.name) => {
                let gentle = ["end its AIO requests", "finish what it is waiting for"];
                ensure!(gentle.iter().any(|words| fix.text.contains(words)), "{fix:?}");
                holding.take().map_or(Ok(()), Holding::release)?;
            }
            "command" => run(fix).with_context(|| format!("{who:#?}"))?,
            // The program keeps the kernel busy for as long as it is there.
            "wait" => holding.take().map_or(Ok(()), Holding::release)?,
            _ => return Ok(Verdict::Skipped(format!("no command: {}", fix.text))),
        }
    }
    // Stopped, traced, or an init: only these need more.
    let stubborn = ["fd_stopped", "fd_traced", "fd_pid_namespace"].contains(&row.name);
    if stubborn && !scratch.umount()? {
        let force = who.fixes.iter().find(|fix| fix.action == "force");
        run(force.context("no other way")?)?;
    }
    unmounts(&scratch)?;
    drop(holding);
    Ok(Verdict::Passed)
}

/// A loop device that nothing but its file keeps.
fn loop_of_losetup() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let mut losetup = Command::new("losetup");
    let Ok(made) = ebusy::run(losetup.args(["-f", "--show"]).arg(scratch.join("file"))) else {
        return Ok(Verdict::Skipped("no losetup here".to_owned()));
    };
    if !made.status.success() {
        return Ok(Verdict::Skipped(made.stderr));
    }
    let device = String::from_utf8(made.stdout)?;
    let follow = || {
        ensure!(!scratch.umount()?, "the umount was not refused");
        let who = answer(&scratch)?;
        let fix = who.fixes.first().context("an advice")?;
        ensure!(
            fix.command.as_deref() == Some(&*format!("losetup -d {}", device.trim())),
            "{who:#?}"
        );
        run(fix)?;
        unmounts(&scratch)
    };
    let followed = follow();
    if followed.is_err() {
        ebusy::run(Command::new("losetup").args(["-d", device.trim()]))?;
    }
    followed.map(|()| Verdict::Passed)
}

fn copy_advice(who: &Who) -> Result<&Fix> {
    let mut fixes = who.fixes.iter();
    fixes
        .find(|fix| fix.text.starts_with("or leave it running"))
        .with_context(|| format!("no advice about the copy: {:#?}", who.fixes))
}

/// The holder stays, and so do its files.
fn take_the_copy_away(program: &str, path: &str) -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = Holding::start(program, Namespace::Slave, &[scratch.join(path)])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    let who = answer(&scratch)?;
    run(copy_advice(&who)?)?;
    unmounts(&scratch)?;
    holding.release()?;
    Ok(Verdict::Passed)
}

/// A holder whose root has nothing but itself, /proc and the host's mounts, and that has a pid namespace of its own.
fn distroless() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let program = ebusy_tests::holder::program("distroless")?;
    let mut helper = Helper::start(&program, &[scratch.join("file")])?;
    ensure!(helper.line()?.contains("ready"), "not ready");
    ensure!(!scratch.umount()?, "the umount was not refused");
    let who = answer(&scratch)?;
    let holder = who.holders.first().context("a holder")?;
    ensure!(
        holder
            .seen_as
            .as_deref()
            .is_some_and(|seen| seen.starts_with("/host/")),
        "{holder:#?}"
    );
    run(copy_advice(&who)?)?;
    unmounts(&scratch)?;
    helper.end_input();
    helper.finish()?;
    Ok(Verdict::Passed)
}

/// All of them must release it.
fn several() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Overlay)?;
    let holders = [
        Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?,
        Holding::start("hold-cwd", Namespace::Same, &[scratch.join("dir")])?,
        Holding::start("hold-child-mount", Namespace::Same, &[scratch.join("dir")])?,
        Holding::start("hold-mmap", Namespace::Slave, &[scratch.join("second")])?,
    ];
    ensure!(!scratch.umount()?, "the umount was not refused");
    // With a mount on top, the kernel looks at no copies: ebusy reports those after it has gone.
    for _ in 0..3 {
        let who = answer(&scratch)?;
        for fix in all_of(&who) {
            run(fix).with_context(|| format!("{who:#?}"))?;
        }
        harness::settle()?;
        if scratch.umount()? {
            drop(holders);
            return Ok(Verdict::Passed);
        }
    }
    bail!(
        "still busy after every advice was followed: {:#?}",
        who(scratch.path())
    )
}

fn tmpfs(at: &Path) -> Result<()> {
    fs::create_dir_all(at)?;
    mount("ebusy-top", at, "tmpfs", MountFlags::empty(), None)
        .with_context(|| format!("mount {}", at.display()))
}

/// Mounts on top, each with another one below it: the commands of one answer free the target.
fn all_on_top_go(count: usize, nested: bool) -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    for number in 0..count {
        let top = scratch.join(&format!("top {number}"));
        tmpfs(&top)?;
        if nested {
            tmpfs(&top.join("below"))?;
        }
    }
    ensure!(!scratch.umount()?, "the umount was not refused");
    let who = answer(&scratch)?;
    for fix in all_of(&who) {
        run(fix).with_context(|| format!("{who:#?}"))?;
    }
    unmounts(&scratch)?;
    Ok(Verdict::Passed)
}

/// A recursive bind mount of a shared tree: its own mounts go, those of the tree stay.
fn the_original_stays() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (original, copy) = (scratch.join("original"), scratch.join("copy"));
    tmpfs(&original)?;
    mount_change(&original, MountPropagationFlags::SHARED)?;
    let below = original.join("below");
    tmpfs(&below)?;
    fs::create_dir(&copy)?;
    mount_bind_recursive(&original, &copy)?;
    let refused = unmount(&copy, UnmountFlags::empty());
    ensure!(refused == Err(Errno::BUSY), "{refused:?}");
    let (_, answers) = who(&copy)?;
    let who = answers.into_iter().next().context("an answer")?;
    for fix in all_of(&who) {
        run(fix).with_context(|| format!("{who:#?}"))?;
    }
    unmount(&copy, UnmountFlags::empty()).context("still busy after the advice was followed")?;
    unmount(&below, UnmountFlags::empty()).context("the original has gone as well")?;
    unmount(&original, UnmountFlags::empty())?;
    Ok(Verdict::Passed)
}
