//! Block devices that stay busy: loop devices that were detached and are still in use, devices of device-mapper that
//! cannot be removed. Each test follows the advice, and then they go.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::Watch,
    ext2, guard,
    harness::{self, Verdict},
    holder::{Holding, PATIENCE},
    mapper::{By, Mapped},
    namespace::Namespace,
    pause,
    report::{Holder, Incident, pasted, umount_in},
    scratch::{FileSystem, Scratch},
    swap,
};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use tempfile::TempDir;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("loop_open_elsewhere", loop_open_elsewhere),
        harness::test("loop_free_at_once", loop_free_at_once),
        harness::test("loop_in_a_private_copy", loop_in_a_private_copy),
        harness::test("loop_mounted_here", loop_mounted_here),
        harness::test("loop_of_a_detached_mount", loop_of_a_detached_mount),
        harness::test("loop_that_stays", loop_that_stays),
        harness::test("mapped_in_a_private_copy", mapped_in_a_private_copy),
        harness::test("mapped_below_others", mapped_below_others),
        harness::test("mapped_and_swapped_to", mapped_and_swapped_to),
    ])
}

/// `LOOP_CLR_FD`, as losetup -d does it; it succeeds.
fn clear(name: &str) -> Result<()> {
    const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
    let device = File::open(name).with_context(|| name.to_owned())?;
    // SAFETY: this takes no argument.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) };
    ensure!(result == 0, "LOOP_CLR_FD: {}", io::Error::last_os_error());
    Ok(())
}

fn file_behind(name: &str) -> Option<String> {
    let disk = name.strip_prefix("/dev/")?;
    let text = fs::read_to_string(format!("/sys/block/{disk}/loop/backing_file")).ok()?;
    Some(text.trim_end().to_owned())
}

/// It is not free at once.
fn is_bound(name: &str) -> Result<()> {
    ensure!(file_behind(name).is_some(), "{name} is free");
    Ok(())
}

fn becomes_free(name: &str) -> Result<()> {
    pause::until(PATIENCE, || Ok(file_behind(name).is_none().then_some(())))
        .with_context(|| format!("{name} is not free"))
}

/// The only incident, of this process; with the device by its path and what it has or is.
fn only(watch: Watch, operation: &str, outcome: &str, device: [&str; 2]) -> Result<Incident> {
    let incident = watch.finish_with_one()?;
    ensure!(
        incident.operation == operation
            && incident.reason.as_deref() == Some("device_in_use")
            && incident.outcome.as_deref() == Some(outcome)
            && incident.attempts == 1
            && incident.caller.pid == std::process::id()
            && incident.target.path == device[0]
            && incident.target.source.as_deref() == Some(device[1])
            && incident.bystanders.is_empty()
            && incident.lost_events == 0,
        "{incident:#?}"
    );
    Ok(incident)
}

fn is_process(holder: &Holder, pid: u32) -> bool {
    holder.process.as_ref().is_some_and(|process| process.pid == pid)
}

fn follow(command: &str) -> Result<()> {
    let status = pasted(command).status()?;
    ensure!(status.success(), "{command}: {status}");
    Ok(())
}

fn last_word_of_loop(incident: &Incident, name: &str) -> Result<()> {
    let expected = format!("then the kernel frees {name} by itself; losetup -d once more changes nothing");
    ensure!(
        incident.fixes.iter().filter(|fix| fix.text == expected).count() == 1,
        "{:?}",
        incident.fixes
    );
    Ok(())
}

/// A loop device on a file, without a file system.
fn plain_loop(scratch: &Scratch) -> Result<(File, String, PathBuf)> {
    let path = scratch.join("file");
    let file = File::options().read(true).write(true).open(&path)?;
    let (device, name) = guard::loop_device(&file)?;
    Ok((device, name, path))
}

fn loop_open_elsewhere() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (device, name, file) = plain_loop(&scratch)?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[PathBuf::from(&name)])?;
    drop(device);
    let watch = Watch::targets(std::slice::from_ref(&name))?;
    clear(&name)?;
    is_bound(&name)?;
    harness::settle()?;
    is_bound(&name)?;
    let pid = holding.claimed.ready.pid;
    follow(&format!("kill {pid}"))?;
    becomes_free(&name)?;
    harness::settle()?;
    let incident = only(watch, "loop_clear", "released", [&name, &file.to_string_lossy()])?;
    ensure!(
        incident.holders.len() == 1
            && incident.holders[0].kind == "fd"
            && incident.holders[0].path == name
            && is_process(&incident.holders[0], pid),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].reads() == format!("have hold-fd close the file, or end it: kill {pid}"),
        "{:?}",
        incident.fixes
    );
    last_word_of_loop(&incident, &name)?;
    drop(holding);
    Ok(Verdict::Passed)
}

/// Nobody else has it: as almost always.
fn loop_free_at_once() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (device, name, _) = plain_loop(&scratch)?;
    let watch = Watch::targets(std::slice::from_ref(&name))?;
    clear(&name)?;
    drop(device);
    becomes_free(&name)?;
    harness::settle()?;
    let (incidents, log) = watch.finish()?;
    ensure!(incidents.is_empty(), "{incidents:#?}\n{log}");
    Ok(Verdict::Passed)
}

/// The umount succeeded, but a private copy keeps the file system, and with it the device.
fn loop_in_a_private_copy() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let name = scratch.source().to_owned();
    let file = file_behind(&name).context("a file behind it")?;
    let watch = Watch::targets(std::slice::from_ref(&name))?;
    let holding = Holding::start("hold-cwd", Namespace::Private, &["/".into()])?;
    unmount(scratch.path(), UnmountFlags::empty()).context("an idle private copy does not block")?;
    clear(&name)?;
    is_bound(&name)?;
    harness::settle()?;
    let pid = holding.claimed.ready.pid;
    let advice = umount_in(pid, scratch.path());
    follow(&advice)?;
    becomes_free(&name)?;
    harness::settle()?;
    let incident = only(watch, "loop_clear", "released", [&name, &file])?;
    let [holder] = &incident.holders[..] else {
        anyhow::bail!("{incident:#?}")
    };
    ensure!(
        holder.kind == "mount"
            && holder.through == "private_copy"
            && holder.mount_namespace == Some(holding.claimed.ready.mount_namespace)
            && holder.seen_as.as_deref() == scratch.path().to_str()
            && is_process(holder, pid),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].command.as_ref() == Some(&advice),
        "{:?}",
        incident.fixes
    );
    last_word_of_loop(&incident, &name)?;
    holding.release()?;
    Ok(Verdict::Passed)
}

fn loop_mounted_here() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let name = scratch.source().to_owned();
    let file = file_behind(&name).context("a file behind it")?;
    let watch = Watch::targets(std::slice::from_ref(&name))?;
    clear(&name)?;
    is_bound(&name)?;
    harness::settle()?;
    let advice = format!("umount {}", scratch.path().display());
    unmount(scratch.path(), UnmountFlags::empty())?;
    becomes_free(&name)?;
    harness::settle()?;
    let incident = only(watch, "loop_clear", "released", [&name, &file])?;
    let [holder] = &incident.holders[..] else {
        anyhow::bail!("{incident:#?}")
    };
    ensure!(
        holder.kind == "mount"
            && holder.through == "target"
            && holder.mount_id == Some(scratch.mount_id())
            && holder.seen_as.as_deref() == scratch.path().to_str()
            && incident.fixes[0].command.as_ref() == Some(&advice),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// `umount -l` before `losetup -d`.
fn loop_of_a_detached_mount() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let name = scratch.source().to_owned();
    let file = file_behind(&name).context("a file behind it")?;
    let watch = Watch::targets(std::slice::from_ref(&name))?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    unmount(scratch.path(), UnmountFlags::DETACH)?;
    clear(&name)?;
    is_bound(&name)?;
    harness::settle()?;
    let pid = holding.claimed.ready.pid;
    follow(&format!("kill {pid}"))?;
    becomes_free(&name)?;
    harness::settle()?;
    let incident = only(watch, "loop_clear", "released", [&name, &file])?;
    let [holder] = &incident.holders[..] else {
        anyhow::bail!("{incident:#?}")
    };
    ensure!(
        holder.kind == "fd" && holder.path == "/file" && is_process(holder, pid),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].reads() == format!("have hold-fd close the file, or end it: kill {pid}"),
        "{:?}",
        incident.fixes
    );
    drop(holding);
    Ok(Verdict::Passed)
}

/// Asked for twice, and still there in the end.
fn loop_that_stays() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (device, name, file) = plain_loop(&scratch)?;
    let watch = Watch::targets(std::slice::from_ref(&file))?;
    clear(&name)?;
    harness::settle()?;
    clear(&name)?;
    harness::settle()?;
    let (incidents, log) = watch.finish()?;
    is_bound(&name)?;
    let [incident] = &incidents[..] else {
        anyhow::bail!("{incidents:#?}\n{log}")
    };
    ensure!(
        incident.operation == "loop_clear"
            && incident.outcome.as_deref() == Some("still_busy")
            && incident.attempts == 2
            && incident.target.path == name
            && incident.holders.len() == 1
            && incident.holders[0].fd == u32::try_from(device.as_raw_fd()).ok()
            && incident.holders[0].attempts_blocked == 2
            && is_process(&incident.holders[0], std::process::id()),
        "{incident:#?}"
    );
    drop(device);
    becomes_free(&name)?;
    Ok(Verdict::Passed)
}

/// An image behind a loop device behind a device of device-mapper.
struct Image {
    mapped: Mapped,
    _directory: TempDir,
    target: PathBuf,
}

impl Image {
    fn new(name: &str, image: &[u8]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-test-").tempdir()?;
        let (path, target) = (directory.path().join("image"), directory.path().join("target"));
        fs::write(&path, image)?;
        fs::create_dir(&target)?;
        let file = File::options().read(true).write(true).open(&path)?;
        let (_device, below) = guard::loop_device(&file)?;
        Ok(Self {
            mapped: Mapped::new(name, &below, image.len() as u64 / 512)?,
            _directory: directory,
            target,
        })
    }

    fn busy(&self, by: By) -> Result<()> {
        match self.mapped.remove(by) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            Err(error) => Err(error).context("another error than EBUSY"),
            Ok(()) => anyhow::bail!("it was not refused"),
        }
    }

    fn only(&self, watch: Watch) -> Result<Incident> {
        let path = self.mapped.name_path();
        let incident = only(watch, "dm_remove", "released", [&path, self.mapped.path()])?;
        let then = format!("dmsetup remove {path}");
        ensure!(
            incident
                .fixes
                .iter()
                .any(|fix| fix.command.as_ref() == Some(&then)),
            "{:?}",
            incident.fixes
        );
        Ok(incident)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        while unmount(&self.target, UnmountFlags::DETACH).is_ok() {}
    }
}

fn mapped_in_a_private_copy() -> Result<Verdict> {
    let image = Image::new("ebusy-copied", &ext2::image())?;
    let known = fs::read_to_string("/proc/filesystems")?;
    if !known.lines().any(|line| line.trim() == "ext2") {
        return Ok(Verdict::Skipped("this kernel has no ext2".to_owned()));
    }
    mount(
        image.mapped.path(),
        &image.target,
        "ext2",
        MountFlags::empty(),
        None,
    )?;
    mount_change(&image.target, MountPropagationFlags::PRIVATE)?;
    let watch = Watch::targets(&[image.mapped.name_path()])?;
    let holding = Holding::start("hold-cwd", Namespace::Private, &["/".into()])?;
    unmount(&image.target, UnmountFlags::empty()).context("an idle private copy does not block")?;
    image.busy(By::Name)?;
    harness::settle()?;
    let pid = holding.claimed.ready.pid;
    let advice = umount_in(pid, &image.target);
    follow(&advice)?;
    image
        .mapped
        .remove(By::Name)
        .context("remove it once the copy is gone")?;
    let incident = image.only(watch)?;
    let [holder] = &incident.holders[..] else {
        anyhow::bail!("{incident:#?}")
    };
    ensure!(
        holder.kind == "mount"
            && holder.through == "private_copy"
            && holder.mount_namespace == Some(holding.claimed.ready.mount_namespace)
            && holder.seen_as.as_deref() == image.target.to_str()
            && is_process(holder, pid),
        "{incident:#?}"
    );
    ensure!(
        incident.fixes[0].command.as_ref() == Some(&advice),
        "{:?}",
        incident.fixes
    );
    holding.release()?;
    Ok(Verdict::Passed)
}

fn mapped_below_others() -> Result<Verdict> {
    let image = Image::new("ebusy-below", &vec![0; 1 << 20])?;
    let path = image.mapped.path().to_owned();
    let above = Mapped::new("ebusy-above", &path, 8)?;
    let (device, above_loop) = guard::loop_device(&File::options().read(true).write(true).open(&path)?)?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[PathBuf::from(&path)])?;
    let watch = Watch::targets(&[image.mapped.name_path()])?;
    image.busy(By::Number)?;
    harness::settle()?;
    let (pid, above_path) = (holding.claimed.ready.pid, above.path().to_owned());
    above.remove(By::Name).context("take down what is on top")?;
    drop(device);
    holding.release()?;
    becomes_free(&above_loop)?;
    image
        .mapped
        .remove(By::Number)
        .context("remove it once nobody has it")?;
    let incident = image.only(watch)?;
    let kept = |by: &str| {
        incident
            .holders
            .iter()
            .any(|holder| holder.kind == "kernel" && holder.held_by.as_deref() == Some(by))
    };
    ensure!(
        incident.holders.len() == 3
            && kept(&above_path)
            && kept(&above_loop)
            && incident
                .holders
                .iter()
                .any(|holder| holder.kind == "fd" && holder.path == path && is_process(holder, pid)),
        "{incident:#?}"
    );
    for advice in [
        format!("remove {above_path}, once nothing uses that: dmsetup remove {above_path}"),
        format!("detach {above_loop}, once nothing uses that: losetup -d {above_loop}"),
        format!("have hold-fd close the file, or end it: kill {pid}"),
    ] {
        ensure!(
            incident.fixes.iter().any(|fix| fix.reads() == advice),
            "{advice}: {:?}",
            incident.fixes
        );
    }
    Ok(Verdict::Passed)
}

fn mapped_and_swapped_to() -> Result<Verdict> {
    let image = Image::new("ebusy-swapped", &swap::area())?;
    let swapped = match swap::Swap::on(Path::new(image.mapped.path())) {
        Ok(swapped) => swapped,
        Err(error) => return Ok(Verdict::Skipped(format!("no swap here: {error:#}"))),
    };
    let watch = Watch::targets(&[image.mapped.name_path()])?;
    image.busy(By::Uuid)?;
    harness::settle()?;
    let advice = format!("swapoff {}", image.mapped.path());
    follow(&advice)?;
    image
        .mapped
        .remove(By::Uuid)
        .context("remove it once it is not swapped to")?;
    let incident = image.only(watch)?;
    ensure!(
        incident.holders.len() == 1
            && incident.holders[0].kind == "kernel"
            && incident.holders[0].held_by.as_deref() == Some("swap")
            && incident.fixes[0].command.as_ref() == Some(&advice),
        "{incident:#?}"
    );
    drop(swapped);
    Ok(Verdict::Passed)
}
