//! Hosts that lack something: no type information, no tracefs, no sysfs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, who},
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    namespace::{self, Namespace},
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("no_type_information", no_type_information),
        harness::test("no_tracefs", no_tracefs),
        harness::test("no_sysfs", no_sysfs),
    ])
}

/// An empty tmpfs on a directory of the system, in the namespace of the tests.
struct Mask(PathBuf);

impl Mask {
    fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        mount("ebusy-mask", &path, "tmpfs", MountFlags::empty(), None)
            .with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// ebusy moves to the namespace of the first process where it can, and sees what is there.
fn out_of_reach() -> Option<Verdict> {
    match (namespace::of(1), namespace::current()) {
        (Ok(first), Ok(own)) if first != own => {
            let reason = "ebusy leaves the namespace in which something could be hidden from it";
            Some(Verdict::Skipped(reason.to_owned()))
        }
        _ => None,
    }
}

fn no_type_information() -> Result<Verdict> {
    if let Some(skipped) = out_of_reach() {
        return Ok(skipped);
    }
    let _mask = Mask::new("/sys/kernel/btf")?;
    // Without a tier asked for, `who` has /proc left, and may find somebody.
    for arguments in [&["watch", "--", "true"][..], &["who", "/"], &["demo"]] {
        let mut command = ebusy::command(arguments[0])?;
        let finished = ebusy::run(command.args(&arguments[1..]))?;
        ensure!(
            finished
                .status
                .code()
                .is_some_and(|code| code > 1 || code == 1 && arguments[0] == "who"),
            "{arguments:?}: {finished:?}"
        );
        ensure!(
            finished.stderr.contains("BTF"),
            "it does not say what is missing: {}",
            finished.stderr
        );
    }
    // The doctor still runs, and prints the fix.
    let finished = ebusy::run(&mut ebusy::command("doctor")?)?;
    let text = String::from_utf8_lossy(&finished.stdout).into_owned();
    ensure!(finished.status.code().is_some_and(|code| code != 0), "{text}");
    ensure!(
        text.contains("BTF") && text.contains("CONFIG_DEBUG_INFO_BTF"),
        "{text}"
    );
    Ok(Verdict::Passed)
}

fn no_tracefs() -> Result<Verdict> {
    if let Some(skipped) = out_of_reach() {
        return Ok(skipped);
    }
    let paths = ["/sys/kernel/tracing", "/sys/kernel/debug"];
    let _masks: Vec<Mask> = paths
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .map(Mask::new)
        .collect::<Result<_>>()?;
    explains()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(
        !mounts.contains(" - tracefs "),
        "it leaves a tracefs mounted:\n{mounts}"
    );
    Ok(Verdict::Passed)
}

fn no_sysfs() -> Result<Verdict> {
    if let Some(skipped) = out_of_reach() {
        return Ok(skipped);
    }
    let _mask = Mask::new("/sys")?;
    let finished = ebusy::run(ebusy::command("watch")?.args(["--", "true"]))?;
    ensure!(
        finished.status.code().is_some_and(|code| code > 1),
        "{finished:?}"
    );
    ensure!(
        finished.stderr.contains("/sys"),
        "it does not say what is missing: {}",
        finished.stderr
    );
    Ok(Verdict::Passed)
}

fn explains() -> Result<()> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Slave, "file")?;
    let (code, answers) = who(scratch.path())?;
    Expectation::released(&scratch, vec![Expected::on_copy(&holding)]).check_who(code, &answers)?;
    let watch = ebusy::Watch::targets(&[scratch.path()])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    harness::settle()?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_copy(&holding).at_once()]);
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    expectation.check_only(&watch.finish()?.0)
}
