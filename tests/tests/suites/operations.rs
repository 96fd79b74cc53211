//! Other operations that fail with EBUSY: rmdir, rename, mount, remount, the open of a device. Each test follows the
//! advice, and then the operation succeeds.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::Watch,
    harness::{self, Verdict},
    holder::Holding,
    namespace::{self, Namespace},
    report::{Holder, Incident, pasted, umount_in},
    scratch::{FileSystem, Scratch},
};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount},
};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("op_rmdir_of_a_mount_point", rmdir_of_a_mount_point),
        harness::test(
            "op_rmdir_of_what_is_mounted_on_elsewhere",
            rmdir_of_what_is_mounted_on_elsewhere,
        ),
        harness::test("op_rename_of_a_mount_point", rename_of_a_mount_point),
        harness::test("op_unlink_of_a_bound_file", unlink_of_a_bound_file),
        harness::test("op_overlay_in_a_private_copy", overlay_in_a_private_copy),
        harness::test("op_overlay_mounted_twice", overlay_mounted_twice),
        harness::test("op_mounted_there_already", mounted_there_already),
        harness::test("op_remount_read_only", remount_read_only),
        harness::test("op_remount_with_a_removed_file", remount_with_a_removed_file),
        harness::test("op_device_in_a_private_copy", device_in_a_private_copy),
        harness::test("op_device_open_exclusively", device_open_exclusively),
    ])
}

/// The outcome of a call that must fail with EBUSY.
fn busy(result: rustix::io::Result<()>) -> Result<()> {
    match result {
        Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).context("another error than EBUSY"),
        Ok(()) => anyhow::bail!("it was not refused"),
    }
}

/// Lets the watch see that it is over, and returns the only incident.
fn only(watch: Watch, operation: &str, reason: &str, outcome: &str) -> Result<Incident> {
    let incident = watch.finish_with_one()?;
    ensure!(
        incident.operation == operation
            && incident.reason.as_deref() == Some(reason)
            && incident.outcome.as_deref() == Some(outcome)
            && incident.caller.pid == std::process::id()
            && incident.lost_events == 0,
        "{incident:#?}"
    );
    Ok(incident)
}

fn only_holder(incident: &Incident) -> Result<&Holder> {
    ensure!(incident.holders.len() == 1, "{incident:#?}");
    Ok(&incident.holders[0])
}

fn seen_as(holder: &Holder, path: &Path) -> bool {
    holder.seen_as.as_deref() == path.to_str()
}

fn watched(scratch: &Scratch) -> Result<Watch> {
    let all = scratch.directory().join("**");
    Watch::targets(&[scratch.directory().to_owned(), all])
}

fn rmdir_of_a_mount_point() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = watched(&scratch)?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    for _ in 0..3 {
        busy(rustix::fs::rmdir(scratch.path()))?;
    }
    harness::settle()?;
    let pid = holding.claimed.ready.pid;
    holding.release()?;
    unmount(scratch.path(), UnmountFlags::empty())?;
    fs::remove_dir(scratch.path())?;
    let incident = only(watch, "rmdir", "mount_point", "released")?;
    let holder = only_holder(&incident)?;
    ensure!(
        incident.attempts == 3
            && incident.target.path == scratch.path().to_string_lossy()
            && holder.kind == "child_mount"
            && seen_as(holder, scratch.path())
            && holder.mount_id == Some(scratch.mount_id())
            && holder.attempts_blocked == 3
            && holder.shared_with.iter().any(|sharer| sharer.pid == pid),
        "{incident:#?}"
    );
    // The users of the mount there go first: otherwise its umount is refused in turn.
    let commands: Vec<&str> = incident
        .fixes
        .iter()
        .filter_map(|fix| fix.command.as_deref())
        .collect();
    let umount = format!("umount {}", scratch.path().display());
    ensure!(
        commands.starts_with(&[&format!("kill {pid}"), &umount]),
        "{:?}",
        incident.fixes
    );
    Ok(Verdict::Passed)
}

/// The kernel checks the directory, not the path: a mount on it by another path counts as well.
fn rmdir_of_what_is_mounted_on_elsewhere() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (base, other) = (scratch.join("dir"), scratch.directory().join("other"));
    fs::create_dir(base.join("volume"))?;
    fs::create_dir(&other)?;
    mount_bind(&base, &other)?;
    let _other = Unmount(other.clone());
    rustix::mount::mount_change(&other, rustix::mount::MountPropagationFlags::PRIVATE)?;
    let volume = other.join("volume");
    mount("ebusy-volume", &volume, "tmpfs", MountFlags::empty(), None)?;
    let watch = watched(&scratch)?;
    busy(rustix::fs::rmdir(base.join("volume")))?;
    harness::settle()?;
    unmount(&volume, UnmountFlags::empty())?;
    fs::remove_dir(base.join("volume"))?;
    let incident = only(watch, "rmdir", "mount_point", "released")?;
    let holder = only_holder(&incident)?;
    ensure!(
        seen_as(holder, &volume) && holder.held_by.as_deref() == Some("ebusy-volume"),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].command == Some(format!("umount {}", volume.display())),
        "{:?}",
        incident.fixes
    );
    Ok(Verdict::Passed)
}

fn rename_of_a_mount_point() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = watched(&scratch)?;
    let new = scratch.directory().join("renamed");
    busy(rustix::fs::rename(scratch.path(), &new))?;
    harness::settle()?;
    unmount(scratch.path(), UnmountFlags::empty())?;
    fs::rename(scratch.path(), &new)?;
    let incident = only(watch, "rename", "mount_point", "released")?;
    ensure!(seen_as(only_holder(&incident)?, scratch.path()), "{incident:#?}");
    Ok(Verdict::Passed)
}

fn unlink_of_a_bound_file() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (file, over) = (scratch.join("file"), scratch.join("second"));
    mount_bind(&over, &file)?;
    let watch = watched(&scratch)?;
    busy(rustix::fs::unlink(&file))?;
    harness::settle()?;
    unmount(&file, UnmountFlags::empty())?;
    fs::remove_file(&file)?;
    let incident = only(watch, "unlink", "mount_point", "released")?;
    ensure!(seen_as(only_holder(&incident)?, &file), "{incident:#?}");
    Ok(Verdict::Passed)
}

/// Directories for an overlay on the tmpfs of a scratch.
struct Layers {
    target: PathBuf,
    options: CString,
}

impl Layers {
    fn new(scratch: &Scratch) -> Result<Self> {
        let names = ["lower", "over", "work"].map(|name| scratch.join(name));
        for directory in &names {
            fs::create_dir(directory)?;
        }
        let target = scratch.directory().join("overlay");
        fs::create_dir(&target)?;
        let [lower, upper, work] = names.map(|path| path.display().to_string());
        let options = format!("index=on,lowerdir={lower},upperdir={upper},workdir={work}");
        Ok(Self {
            target,
            options: CString::new(options)?,
        })
    }

    fn mount(&self) -> rustix::io::Result<()> {
        mount(
            "ebusy-overlay",
            &self.target,
            "overlay",
            MountFlags::empty(),
            Some(self.options.as_c_str()),
        )
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        while unmount(&self.target, UnmountFlags::DETACH).is_ok() {}
    }
}

/// Unmounts the mount there.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        while unmount(&self.0, UnmountFlags::DETACH).is_ok() {}
    }
}

/// The umount succeeded, but an idle private copy keeps the overlay, and with it the upper directory.
fn overlay_in_a_private_copy() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let layers = Layers::new(&scratch)?;
    layers.mount().context("mount an overlay with an index")?;
    let id = namespace::mount_id(&layers.target)?;
    let watch = watched(&scratch)?;
    let holding = Holding::start("hold-fd", Namespace::Private, &[scratch.join("file")])?;
    unmount(&layers.target, UnmountFlags::empty()).context("an idle private copy does not block")?;
    busy(layers.mount())?;
    harness::settle()?;
    // The advice on stderr, before the end has it in JSON.
    let pid = holding.claimed.ready.pid;
    let path = layers.target.display().to_string();
    let advice = umount_in(pid, &layers.target);
    let status = pasted(&advice).status()?;
    ensure!(status.success(), "{advice}: {status}");
    layers.mount().context("mount it once the copy is gone")?;
    let incident = only(watch, "mount", "overlay_in_use", "released")?;
    let holder = only_holder(&incident)?;
    let process = holder.process.as_ref().context("a process")?;
    ensure!(
        holder.kind == "mount"
            && holder.through == "private_copy"
            && process.pid == pid
            && holder.mount_namespace == Some(holding.claimed.ready.mount_namespace)
            && seen_as(holder, &layers.target)
            && holder.mount_id != Some(id),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].command.as_ref() == Some(&advice) && incident.target.path == path,
        "{incident:#?}"
    );
    holding.release()?;
    Ok(Verdict::Passed)
}

/// The other user of the layer is in the caller's own namespace.
fn overlay_mounted_twice() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let mut layers = Layers::new(&scratch)?;
    layers.mount()?;
    let first = layers.target.clone();
    let _first = Unmount(first.clone());
    layers.target = scratch.directory().join("again");
    fs::create_dir(&layers.target)?;
    let watch = watched(&scratch)?;
    busy(layers.mount())?;
    harness::settle()?;
    unmount(&first, UnmountFlags::empty())?;
    layers.mount()?;
    let incident = only(watch, "mount", "overlay_in_use", "released")?;
    let holder = only_holder(&incident)?;
    ensure!(
        holder.through == "target" && holder.process.is_none() && seen_as(holder, &first),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].command == Some(format!("umount {}", first.display())),
        "{:?}",
        incident.fixes
    );
    Ok(Verdict::Passed)
}

fn mounted_there_already() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let watch = watched(&scratch)?;
    let source = scratch.source().to_owned();
    let again = || mount(source.as_str(), scratch.path(), "ext2", MountFlags::empty(), None);
    busy(again())?;
    harness::settle()?;
    unmount(scratch.path(), UnmountFlags::empty())?;
    let incident = only(watch, "mount", "mounted_there", "released")?;
    ensure!(seen_as(only_holder(&incident)?, scratch.path()), "{incident:#?}");
    Ok(Verdict::Passed)
}

fn read_only(scratch: &Scratch) -> rustix::io::Result<()> {
    mount_remount(scratch.path(), MountFlags::RDONLY, "")
}

fn remount_read_only() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = watched(&scratch)?;
    // One that only reads is no reason.
    let reads = Holding::start("hold-fd", Namespace::Same, &[scratch.join("second")])?;
    let writes = Holding::start("hold-fd-write", Namespace::Private, &[scratch.join("file")])?;
    busy(read_only(&scratch))?;
    harness::settle()?;
    let pid = writes.claimed.ready.pid;
    writes.release()?;
    read_only(&scratch).context("remount it once nobody writes")?;
    let incident = only(watch, "remount", "open_files", "released")?;
    let holder = only_holder(&incident)?;
    ensure!(
        holder.kind == "fd"
            && holder.path == "/file"
            && holder.access.as_deref() == Some("read+write")
            && holder.process.as_ref().is_some_and(|process| process.pid == pid)
            && incident.target.mount_id == Some(scratch.mount_id()),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].reads() == format!("have hold-fd-write close the file, or end it: kill {pid}"),
        "{:?}",
        incident.fixes
    );
    reads.release()?;
    Ok(Verdict::Passed)
}

/// A file that was removed while it was open: the file system has yet to write that, even if it is only read.
fn remount_with_a_removed_file() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let watch = watched(&scratch)?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    fs::remove_file(scratch.join("file"))?;
    busy(read_only(&scratch))?;
    harness::settle()?;
    let pid = holding.claimed.ready.pid;
    holding.release()?;
    read_only(&scratch).context("remount it once it is closed")?;
    let incident = only(watch, "remount", "open_files", "released")?;
    let holder = only_holder(&incident)?;
    ensure!(
        holder.deleted && holder.process.as_ref().is_some_and(|process| process.pid == pid),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

fn exclusively(device: &str) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(device)
}

fn exclusively_busy(device: &str) -> Result<()> {
    match exclusively(device) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        Err(error) => Err(error).context("another error than EBUSY"),
        Ok(_) => anyhow::bail!("it was not refused"),
    }
}

/// The umount succeeded, but a private copy keeps the file system, and with it the device.
fn device_in_a_private_copy() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let device = scratch.source().to_owned();
    // The image has its device until the file system goes: another open of it keeps that.
    let _keeps = File::open(&device)?;
    let watch = Watch::targets(std::slice::from_ref(&device))?;
    let holding = Holding::start("hold-cwd", Namespace::Private, &["/".into()])?;
    unmount(scratch.path(), UnmountFlags::empty()).context("an idle private copy does not block")?;
    exclusively_busy(&device)?;
    harness::settle()?;
    let pid = holding.claimed.ready.pid;
    let advice = umount_in(pid, scratch.path());
    let status = pasted(&advice).status()?;
    ensure!(status.success(), "{advice}: {status}");
    drop(exclusively(&device).context("open it once the copy is gone")?);
    let incident = only(watch, "open", "device_in_use", "released")?;
    let holder = only_holder(&incident)?;
    ensure!(
        holder.kind == "mount"
            && holder.through == "private_copy"
            && holder.process.as_ref().is_some_and(|process| process.pid == pid)
            && seen_as(holder, scratch.path())
            && incident.target.path == device,
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].command.as_ref() == Some(&advice),
        "{:?}",
        incident.fixes
    );
    // A process that only has it open is listed as well.
    ensure!(
        incident.bystanders.iter().any(|holder| holder
            .process
            .as_ref()
            .is_some_and(|process| process.pid == std::process::id())),
        "{incident:#?}"
    );
    holding.release()?;
    Ok(Verdict::Passed)
}

fn device_open_exclusively() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let device = scratch.source().to_owned();
    let keeps = File::open(&device)?;
    unmount(scratch.path(), UnmountFlags::empty())?;
    let mine = exclusively(&device)?;
    let watch = Watch::targets(std::slice::from_ref(&device))?;
    exclusively_busy(&device)?;
    harness::settle()?;
    drop(mine);
    drop(exclusively(&device)?);
    let incident = only(watch, "open", "device_in_use", "released")?;
    let holder = only_holder(&incident)?;
    ensure!(
        holder.kind == "fd"
            && holder
                .process
                .as_ref()
                .is_some_and(|process| process.pid == std::process::id()),
        "{incident:#?}"
    );
    drop(keeps);
    Ok(Verdict::Passed)
}
