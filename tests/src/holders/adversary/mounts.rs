//! Mounts, and refused operations on them.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{CWD, Mode, OFlags, open},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen, mount, mount_bind,
        mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
    },
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{Kept, SIZE, Worker};

pub(super) fn mounted(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    fs::write(path.join("file"), "x")?;
    worker.kept.push_back(Kept::Mount(path));
    Ok(())
}

pub(super) fn unmounted(worker: &mut Worker) -> Result<()> {
    let at = worker.kept.iter().position(|kept| matches!(kept, Kept::Mount(_)));
    if let Some(Kept::Mount(path)) = at.and_then(|at| worker.kept.remove(at)) {
        unmount(path, UnmountFlags::empty())?;
    }
    Ok(())
}

/// Its own file is open.
pub(super) fn refused(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    let file = File::create(path.join(worker.noise.name()))?;
    worker.failing(50, || unmount(&path, UnmountFlags::empty()));
    drop(file);
    unmount(path, UnmountFlags::empty())?;
    Ok(())
}

pub(super) fn detached(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    let file = File::create(path.join(worker.noise.name()))?;
    unmount(path, UnmountFlags::DETACH)?;
    worker.keep(file);
    Ok(())
}

pub(super) fn bound(worker: &mut Worker) -> Result<()> {
    let path = worker.directory()?;
    mount_bind(&worker.arena, &path)?;
    worker.kept.push_back(Kept::Mount(path));
    Ok(())
}

/// A recursive copy of everything, with all mounts of the host. One at a time: each would contain all earlier ones.
pub(super) fn bound_whole(worker: &mut Worker) -> Result<()> {
    let path = worker.arena.join("whole");
    let _ = unmount(&path, UnmountFlags::DETACH);
    fs::create_dir_all(&path)?;
    mount_bind_recursive("/", &path)?;
    Ok(())
}

pub(super) fn propagation(worker: &mut Worker) -> Result<()> {
    let kinds = [
        MountPropagationFlags::SHARED,
        MountPropagationFlags::DOWNSTREAM,
        MountPropagationFlags::PRIVATE,
        MountPropagationFlags::UNBINDABLE,
    ];
    let kind = kinds[worker.noise.below(kinds.len())];
    for kept in &worker.kept {
        if let Kept::Mount(path) = kept {
            mount_change(path, kind)?;
        }
    }
    Ok(())
}

/// One on top of the other.
pub(super) fn stacked(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    for _ in 0..worker.noise.below(8) {
        mount("stacked", &path, "tmpfs", MountFlags::empty(), Some(SIZE))?;
        worker.kept.push_back(Kept::Mount(path.clone()));
    }
    worker.kept.push_back(Kept::Mount(path));
    Ok(())
}

/// Two that take turns being mounted on each other: a reader of their parents, one after the other, sees a circle.
pub(super) fn cycle(worker: &mut Worker) -> Result<()> {
    let outer = worker.mount()?;
    mount_change(&outer, MountPropagationFlags::PRIVATE)?;
    let place = |name: &str| -> Result<OwnedFd> {
        let path = outer.join(name);
        fs::create_dir(&path)?;
        Ok(open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    };
    let places = [place("a")?, place("b")?];
    let on = |name: &str| -> Result<OwnedFd> {
        let path = outer.join(name);
        mount(name, &path, "tmpfs", MountFlags::empty(), Some(SIZE))?;
        Ok(open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    };
    let [one, other] = [on("a")?, on("b")?];
    let put = |from: &OwnedFd, to: &OwnedFd| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(from, "", to, "", flags)
    };
    put(&one, &other)?;
    for _ in 0..worker.times(25) {
        put(&one, &places[0])?;
        put(&other, &one)?;
        put(&other, &places[1])?;
        put(&one, &other)?;
        worker.failing(4, || unmount("nothing", UnmountFlags::empty()));
    }
    worker.kept.push_back(Kept::Mount(outer));
    Ok(())
}

/// Two mounts take turns as the root, each put on top of the other.
pub(super) fn pivoted(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    let times = worker.times(60);
    worker.keep_child(|| {
        // SAFETY: no file descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        // pivot_root cannot leave a machine's initial root, but it can leave a chroot.
        rustix::process::chdir(&path)?;
        rustix::process::chroot(".")?;
        fs::create_dir("/other")?;
        mount("other", "/other", "tmpfs", MountFlags::empty(), Some(SIZE))?;
        let root = |path: &str| open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let roots = [root("/other")?, root("/")?];
        for turn in 0..times {
            rustix::process::fchdir(&roots[turn % 2])?;
            rustix::process::pivot_root(".", ".").context("pivot_root")?;
        }
        Ok(())
    })
}

/// Neither a mount point nor the root can be replaced or removed.
pub(super) fn renamed_over(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    let other = path.with_file_name("other");
    fs::create_dir_all(&other)?;
    let new = Path::new("/").join(worker.noise.name());
    worker.failing(20, || rustix::fs::rename("/", &new));
    worker.failing(20, || rustix::fs::rename(&other, &path));
    worker.failing(20, || rustix::fs::rmdir(&path));
    worker.failing(20, || mount_move(&path));
    worker.kept.push_back(Kept::Mount(path));
    Ok(())
}

/// A mount below itself.
fn mount_move(path: &Path) -> Result<(), Errno> {
    rustix::mount::mount_move(path, path.join("."))
}

/// In no namespace.
pub(super) fn loose(worker: &mut Worker) -> Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let root = fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    worker.keep(open_tree(CWD, &worker.arena, flags)?);
    let path = worker.directory()?;
    move_mount(&root, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    worker.kept.push_back(Kept::Mount(path));
    worker.keep(root);
    Ok(())
}

/// Layers whose names contain separators of options.
pub(super) fn overlay(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    let names: [&OsStr; 4] = ["lower:a", "upper,b", "work\\c", "merged"].map(OsStr::new);
    for name in names {
        fs::create_dir(path.join(name))?;
    }
    let escaped = |name: &OsStr| {
        let mut escaped = Vec::new();
        for byte in path.join(name).as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                escaped.push(b'\\');
            }
            escaped.push(*byte);
        }
        escaped
    };
    let [lower, upper, work, merged] = names;
    let mut options = b"userxattr,lowerdir=".to_vec();
    options.extend(escaped(lower));
    options.extend(b",upperdir=");
    options.extend(escaped(upper));
    options.extend(b",workdir=");
    options.extend(escaped(work));
    let merged = path.join(merged);
    worker.kept.push_back(Kept::Mount(path));
    let mounted = mount(
        "overlay",
        &merged,
        "overlay",
        MountFlags::empty(),
        Some(&*CString::new(options)?),
    );
    mounted.context("an overlay")?;
    let file = File::create(merged.join("file"))?;
    anyhow::ensure!(file.as_raw_fd() >= 0);
    worker.failing(5, || unmount(&merged, UnmountFlags::empty()));
    worker.kept.push_back(Kept::Mount(merged));
    Ok(())
}
