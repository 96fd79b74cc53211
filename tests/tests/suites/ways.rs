//! The ways of umount2: its flags, forms of its path, and callers that block themselves.

use std::{ffi::OsStr, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use ebusy_tests::{
    ebusy::{Watch, who},
    expect::{Expectation, Expected, Problems},
    harness::{self, Verdict},
    holder::Holding,
    namespace::{self, Namespace},
    report::Incident,
    scratch::{FileSystem, Scratch},
    steps::{hold_fd, nothing_told, release, told, watched},
    umounter::Umounter,
};
use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount},
};

pub(crate) fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (name, flags) in [
        ("no_flags", &[][..]),
        ("force", &["force"]),
        ("nofollow", &["nofollow"]),
        ("expire", &["expire"]),
        ("expire_and_nofollow", &["expire", "nofollow"]),
    ] {
        tests.push(harness::test(format!("busy::{name}"), move || busy(flags)));
    }
    for name in ["/", "/.", "//", "/../target", "/dir/.."] {
        let form = format!("path::{}", name.replace('/', "|"));
        tests.push(harness::test(form, move || by_path(name)));
    }
    tests.extend([
        harness::test("path::symbolic_link", symbolic_link),
        harness::test("child_mount_and_expire", child_mount_and_expire),
        harness::test("expire_of_an_idle_mount", expire_of_an_idle_mount),
        harness::test("expire_of_a_busy_copy", expire_of_a_busy_copy),
        harness::test("detach", detach),
        harness::test("bind_mounted_file", bind_mounted_file),
        harness::test("working_directory_of_the_caller", working_directory_of_the_caller),
        harness::test("dot", dot),
        harness::test("descriptor_of_the_caller", descriptor_of_the_caller),
        harness::test("root_of_the_caller", root_of_the_caller),
        harness::test("root_of_the_caller::written", root_of_the_caller_written),
        harness::test(
            "root_of_the_caller::written_elsewhere",
            root_of_the_caller_written_elsewhere,
        ),
        harness::test("entry_of_32_bits", entry_of_32_bits),
        harness::test("other_errors", other_errors),
    ]);
    // Each keeps to a mount of its own, and waits most of the time.
    harness::main_side_by_side(tests, 4)
}

/// Another process tries once, and stays until ebusy has looked.
fn umounter(options: &[&OsStr], path: &OsStr, flags: &[&str]) -> Result<Umounter> {
    Umounter::run_watched(options, path, flags)
}

fn refused_once(options: &[&OsStr], path: &OsStr, flags: &[&str]) -> Result<Umounter> {
    umounter(options, path, flags)?.expect_refused(1)
}

/// Releases it; asserts that the incident is the expected one, with these flags.
fn told_with(
    expectation: &Expectation<'_>,
    watch: Watch,
    holding: Holding,
    flags: &[&str],
) -> Result<Verdict> {
    let incident = told(expectation, watch, [holding])?;
    let mut found: Vec<&str> = incident.flags.iter().map(String::as_str).collect();
    found.sort_unstable();
    ensure!(found == flags, "{found:?}, expected {flags:?}");
    Ok(Verdict::Passed)
}

/// A file is open. With `MNT_EXPIRE` the kernel compares the count of the target itself, without the busy check of
/// other umounts (`do_umount` in fs/namespace.c); tmpfs has nothing that `MNT_FORCE` could end.
fn busy(flags: &'static [&'static str]) -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let umounter = refused_once(&[], scratch.path().as_os_str(), flags)?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]).by(umounter.pid);
    let mut names: Vec<&str> = flags
        .iter()
        .map(|flag| match *flag {
            "force" => "MNT_FORCE",
            "expire" => "MNT_EXPIRE",
            _ => "UMOUNT_NOFOLLOW",
        })
        .collect();
    names.sort_unstable();
    told_with(&expectation, watch, holding, &names)
}

/// Every spelling of the path means the same mount.
fn by_path(suffix: &str) -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let mut path = scratch.path().as_os_str().to_owned();
    path.push(suffix);
    let umounter = refused_once(&[], &path, &[])?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]).by(umounter.pid);
    told_with(&expectation, watch, holding, &[])
}

/// A link leads to the mount, unless `UMOUNT_NOFOLLOW` is given: then it is no mount point, which is no refusal.
fn symbolic_link() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let link = scratch.directory().join("link");
    std::os::unix::fs::symlink(scratch.path(), &link)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let not_followed = umounter(&[], link.as_os_str(), &["nofollow"])?;
    ensure!(not_followed.error == Some(libc::EINVAL), "{not_followed:?}");
    let umounter = refused_once(&[], link.as_os_str(), &[])?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]).by(umounter.pid);
    told_with(&expectation, watch, holding, &[])
}

/// Up to Linux 6.12 the child is in the count, 7.2 checks for it: EBUSY either way.
fn child_mount_and_expire() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = Holding::start("hold-child-mount", Namespace::Same, &[scratch.join("dir")])?;
    let umounter = refused_once(&[], scratch.path().as_os_str(), &["expire"])?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]).by(umounter.pid);
    told_with(&expectation, watch, holding, &["MNT_EXPIRE"])
}

/// The first call marks the mount (EAGAIN), the second unmounts it if nobody has used it since: ebusy has not.
fn expire_of_an_idle_mount() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    harness::settle()?;
    let marked = unmount(scratch.path(), UnmountFlags::EXPIRE);
    ensure!(marked == Err(Errno::AGAIN), "{marked:?}");
    let (code, _) = who(scratch.path())?;
    ensure!(code == 0, "who: {code}");
    harness::settle()?;
    unmount(scratch.path(), UnmountFlags::EXPIRE).context("somebody has used the mount")?;
    nothing_told(watch)?;
    Ok(Verdict::Passed)
}

/// The call that marks a mount does not look at its copies; the call that unmounts it does.
fn expire_of_a_busy_copy() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Slave, "file")?;
    let marked = unmount(scratch.path(), UnmountFlags::EXPIRE);
    ensure!(marked == Err(Errno::AGAIN), "{marked:?}");
    let umounter = refused_once(&[], scratch.path().as_os_str(), &["expire"])?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_copy(&holding)]).by(umounter.pid);
    told_with(&expectation, watch, holding, &["MNT_EXPIRE"])
}

/// `MNT_DETACH` is never refused.
fn detach() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Slave, "file")?;
    ensure!(scratch.umount_with(UnmountFlags::DETACH)?, "a detach was refused");
    let (mut incidents, log) = watch.finish()?;
    // ebusy reports that it lives on, if that lasted a second.
    incidents.retain(|incident| incident.operation != "detach");
    ensure!(incidents.is_empty(), "{incidents:#?}");
    ensure!(log.contains(" detached"), "{log}");
    holding.release()?;
    Ok(Verdict::Passed)
}

/// There is one incident of one attempt, balanced, and this process is named for these kinds of references only.
fn names_only(incidents: &[Incident], caller: u32, pid: u32, kinds: &[&str]) -> Result<()> {
    ensure!(incidents.len() == 1, "{incidents:#?}");
    let incident = &incidents[0];
    let mut problems = Problems::default();
    problems.equal("caller", &incident.caller.pid, &caller);
    let mut found: Vec<_> = incident
        .holders
        .iter()
        .map(|holder| {
            let pid = holder.process.as_ref().map(|process| process.pid);
            (pid, holder.kind.as_str())
        })
        .collect();
    found.sort_unstable();
    let expected: Vec<_> = kinds.iter().map(|kind| (Some(pid), *kind)).collect();
    problems.equal("holders", &found, &expected);
    let books = &incident.references;
    problems.equal("counted", &books.counted, &Some(kinds.len() as u64));
    problems.equal("explained", &books.explained, &(kinds.len() as u64));
    problems.equal("unexplained", &books.unexplained, &Some(0));
    problems.equal("overexplained", &books.overexplained, &0);
    problems.into_result(incident)
}

/// A mount whose root is a file.
fn bind_mounted_file() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let elsewhere = scratch.directory().join("elsewhere");
    fs::write(&elsewhere, "")?;
    mount_bind(scratch.join("file"), &elsewhere)?;
    let watch = Watch::targets(&[&elsewhere])?;
    let holding = Holding::start("hold-fd", Namespace::Same, std::slice::from_ref(&elsewhere))?;
    let innocent = hold_fd(&scratch, Namespace::Same, "file")?;
    let umounter = refused_once(&[], elsewhere.as_os_str(), &[])?;
    harness::settle()?;
    let pid = holding.claimed.ready.pid;
    holding.release()?;
    unmount(&elsewhere, UnmountFlags::empty())?;
    let (incidents, _) = watch.finish()?;
    names_only(&incidents, umounter.pid, pid, &["fd"])?;
    release(&scratch, [innocent])?;
    Ok(Verdict::Passed)
}

/// The caller blocks itself, and is named like any other holder.
fn by_itself(
    options: &[&str],
    path: impl FnOnce(&Path) -> std::path::PathBuf,
    kinds: &[&str],
) -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    harness::settle()?;
    let options: Vec<&OsStr> = options
        .iter()
        .map(|option| {
            if *option == "TARGET" {
                scratch.path().as_os_str()
            } else {
                option.as_ref()
            }
        })
        .collect();
    let umounter = refused_once(&options, path(scratch.path()).as_os_str(), &[])?;
    ensure!(scratch.umount()?, "still busy after the caller's end");
    let (incidents, log) = watch.finish()?;
    if kinds == ["fd"] && incidents.is_empty() && log.contains("tier tracepoint") {
        // That tier has the path as text, and `/proc/self` is the caller's own.
        return Ok(Verdict::Passed);
    }
    names_only(&incidents, umounter.pid, umounter.pid, kinds)?;
    Ok(Verdict::Passed)
}

fn working_directory_of_the_caller() -> Result<Verdict> {
    by_itself(&["--cwd", "TARGET"], Path::to_owned, &["cwd"])
}

fn dot() -> Result<Verdict> {
    by_itself(&["--cwd", "TARGET"], |_| ".".into(), &["cwd"])
}

/// The descriptor that names the mount holds it.
fn descriptor_of_the_caller() -> Result<Verdict> {
    by_itself(&["--open", "TARGET"], |_| "/proc/self/fd/{}".into(), &["fd"])
}

/// The umount of the caller's own root is a remount: it succeeds, the mount stays, and becomes read-only.
fn root_of_the_caller() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let root = scratch.path().as_os_str();
    let umounter = umounter(
        &["--root".as_ref(), root, "--cwd".as_ref(), "/".as_ref()],
        "/".as_ref(),
        &[],
    )?;
    ensure!(umounter.unmounted && umounter.refused == 0, "{umounter:?}");
    ensure!(
        namespace::mount_id(scratch.path())? == scratch.mount_id(),
        "it is gone"
    );
    let state = statvfs(scratch.path())?;
    ensure!(
        state.f_flag.contains(StatVfsMountFlags::RDONLY),
        "it can be written"
    );
    ensure!(scratch.umount()?, "busy");
    nothing_told(watch)?;
    Ok(Verdict::Passed)
}

/// A file that is open for writing refuses the remount; one that is only read does not.
fn root_of_the_caller_written() -> Result<Verdict> {
    root_is_written(|scratch| Holding::start("hold-fd-write", Namespace::Same, &[scratch.join("new")]))
}

/// It is the file system that is remounted: the file may be open through any mount of it.
fn root_of_the_caller_written_elsewhere() -> Result<Verdict> {
    root_is_written(|scratch| Holding::start("hold-fd-write", Namespace::Private, &[scratch.join("new")]))
}

fn root_is_written(hold: impl FnOnce(&Scratch) -> Result<Holding>) -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let reader = hold_fd(&scratch, Namespace::Same, "file")?;
    let writer = hold(&scratch)?;
    let writer_pid = writer.claimed.ready.pid;
    let root = scratch.path().as_os_str();
    let options = ["--root".as_ref(), root, "--cwd".as_ref(), "/".as_ref()];
    let umounter = refused_once(&options, "/".as_ref(), &[])?;
    harness::settle()?;
    writer.release()?;
    // A second call is not refused any more, though the reader is still there.
    let again = self::umounter(&options, "/".as_ref(), &[])?;
    ensure!(again.unmounted, "{again:?}");
    mount_remount(scratch.path(), MountFlags::empty(), "")?;
    release(&scratch, [reader])?;
    let (incidents, _) = watch.finish()?;
    // Only the writer is named, and nothing is counted: the kernel compares no number of references here.
    let [incident] = &incidents[..] else {
        bail!("{} incidents: {incidents:#?}", incidents.len())
    };
    let named: Vec<_> = incident.holders.iter().map(|holder| &holder.process).collect();
    let named: Vec<_> = named.into_iter().flatten().map(|process| process.pid).collect();
    ensure!(
        incident.caller.pid == umounter.pid && named == [writer_pid] && incident.references.counted.is_none(),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// A 32-bit caller. The events of system calls leave it out on x86 (`ARCH_TRACE_IGNORE_COMPAT_SYSCALLS`): the
/// tracepoint tier does not see it, and says nothing; the others see the function in the kernel.
fn entry_of_32_bits() -> Result<Verdict> {
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(Verdict::Skipped("not on this architecture".to_owned()));
    }
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let options: [&OsStr; 2] = ["--entry".as_ref(), "i386".as_ref()];
    let Ok(umounter) = umounter(&options, scratch.path().as_os_str(), &[]) else {
        return Ok(Verdict::Skipped("no entry of 32 bits".to_owned()));
    };
    ensure!(umounter.refused == 1, "{umounter:?}");
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]).by(umounter.pid);
    release(&scratch, [holding])?;
    let (incidents, log) = watch.finish()?;
    if log.contains("tier tracepoint") {
        ensure!(incidents.is_empty(), "{incidents:#?}");
    } else {
        expectation.check_only(&incidents)?;
    }
    Ok(Verdict::Passed)
}

/// Only EBUSY is a refusal.
fn other_errors() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = Watch::targets(&[scratch.directory().join("**"), scratch.path().to_owned()])?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for (path, flags, error) in [
        (scratch.join("dir"), &[][..], libc::EINVAL),
        (scratch.join("file"), &[], libc::EINVAL),
        (scratch.join("nothing"), &[], libc::ENOENT),
        (scratch.join("."), &["expire", "detach"], libc::EINVAL),
        (scratch.join("."), &["expire", "force"], libc::EINVAL),
    ] {
        let umounter = umounter(&[], path.as_os_str(), flags)?;
        ensure!(umounter.error == Some(error), "{}: {umounter:?}", path.display());
    }
    holding.release()?;
    ensure!(scratch.umount()?, "busy");
    nothing_told(watch)?;
    Ok(Verdict::Passed)
}
