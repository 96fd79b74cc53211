//! Mounts below, above and beside the target, and files in namespaces that the process has left.

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    thread::available_parallelism,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
    thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity},
};

use super::file::reading;
use crate::{claim::Claim, hold::Setup, namespace::Namespace, process::ForkedChild};

const OWN_NAMESPACE: &str = "/proc/self/ns/mnt";

fn mount_tmpfs(source: &str, path: &Path) -> Result<()> {
    Ok(mount(source, path, "tmpfs", MountFlags::empty(), None)?)
}

/// Mounts a tmpfs there, and unmounts it in the end.
pub(super) fn child(setup: &Setup) -> Result<()> {
    mount_tmpfs("ebusy-child", setup.path())?;
    let held = setup.hold([Claim::new("child_mount").without_process()]);
    unmount(setup.path(), UnmountFlags::empty())?;
    held
}

/// Mounts a tmpfs there and keeps a file of it open; it unmounts it in the end.
pub(super) fn child_used(setup: &Setup) -> Result<()> {
    mount_tmpfs("ebusy-child", setup.path())?;
    let file = File::create(setup.path().join("used"))?;
    let mut claim = Claim::new("child_mount").held_by("ebusy-child");
    claim.owners[0].fd = Some(file.as_raw_fd() as u32);
    let held = setup.hold([claim]);
    drop(file);
    unmount(setup.path(), UnmountFlags::empty())?;
    held
}

/// Holds a file open and mounts a tmpfs on a second path of the mount, which it unmounts in the end:
/// `hold-fd-covered FILE DIRECTORY`.
pub(super) fn covered(setup: &Setup) -> Result<()> {
    let (_file, claim) = reading(setup)?;
    mount_tmpfs("ebusy-child", &setup.paths[1])?;
    let held = setup.hold([claim]);
    // The mount below may be gone by now, and this one with it.
    let _ = unmount(&setup.paths[1], UnmountFlags::empty());
    held
}

/// Mounts a tmpfs over a mount and holds a file of the upper one open: `hold-fd-on-top MOUNT_POINT`.
pub(super) fn on_top(setup: &Setup) -> Result<()> {
    mount_tmpfs("ebusy-top", setup.path())?;
    let file = File::create(setup.path().join("file"))?;
    let held = setup.hold([]);
    drop(file);
    let _ = unmount(setup.path(), UnmountFlags::empty());
    held
}

/// Unmounts a copy, mounts a tmpfs in its place and holds a file of that open: `hold-fd-unrelated FILE`, where the
/// file is in the root of the copy.
pub(super) fn unrelated(setup: &Setup) -> Result<()> {
    let mut setup = setup.clone();
    let mount_point = setup.path().parent().context("a file is in a directory")?;
    unmount(mount_point, UnmountFlags::empty())?;
    mount_tmpfs("ebusy-unrelated", mount_point)?;
    let file = File::create(setup.path())?;
    setup.look_again()?;
    setup.hold([Claim::fd(file.as_raw_fd() as u32, "write")])
}

/// Opens a file and goes into a private namespace afterwards: the descriptor stays where it was opened, unlike the
/// working and the root directory, which move to the copy.
pub(super) fn moved(setup: &Setup) -> Result<()> {
    let mut setup = setup.clone();
    // A process stays behind, and keeps the file's namespace.
    let _stays = ForkedChild::pause()?;
    let (_file, claim) = reading(&setup)?;
    setup.move_to(Namespace::Private)?;
    setup.hold([claim])
}

/// Keeps a private mount namespace that no process is in, by a descriptor; it holds nothing.
pub(super) fn namespace(setup: &Setup) -> Result<()> {
    let home = File::open(OWN_NAMESPACE)?;
    Namespace::Private.enter()?;
    let _away = File::open(OWN_NAMESPACE)?;
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    setup.hold([])
}

/// Opens a file in a slave namespace and goes back: `hold-fd-left FILE [KEEP]`. A descriptor keeps the namespace, or
/// a bind mount on the file `KEEP`.
pub(super) fn left(setup: &Setup) -> Result<()> {
    let mut setup = setup.clone();
    let home = File::open(OWN_NAMESPACE)?;
    let claim = |file: &File| Claim::fd(file.as_raw_fd() as u32, "read").regular();
    let Some(keep) = setup.paths.get(1).cloned() else {
        let (file, away) = open_away(&mut setup, &home)?;
        let held = setup.hold([claim(&file)]);
        drop(away);
        return held;
    };
    let file = open_and_keep(&mut setup, &home, &keep)?;
    let held = setup.hold([claim(&file)]);
    drop(file);
    unmount(&keep, UnmountFlags::empty())?;
    held
}

/// The file, opened in a new namespace, and that namespace.
fn open_away(setup: &mut Setup, home: &File) -> Result<(File, File)> {
    Namespace::Slave.enter()?;
    let away = File::open(OWN_NAMESPACE)?;
    setup.look_again()?;
    let file = File::open(setup.path())?;
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    setup.has_moved()?;
    Ok((file, away))
}

/// The kernel binds a namespace only in one that was made before it (`mnt_ns_loop`), and compares their numbers, which
/// each CPU takes from a range of its own from Linux 6.18 on: a new namespace of another CPU may look older.
fn open_and_keep(setup: &mut Setup, home: &File, keep: &Path) -> Result<File> {
    for cpu in 0..available_parallelism()?.get() {
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one)?;
        let (file, away) = open_away(setup, home)?;
        match mount_bind(format!("/proc/self/fd/{}", away.as_raw_fd()), keep) {
            Ok(()) => return Ok(file),
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no CPU makes a namespace that looks newer than this one")
}
