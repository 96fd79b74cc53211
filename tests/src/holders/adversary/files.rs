//! Files with names that a terminal or shell acts on, and files and mounts that look like those of runtimes.

use std::{
    fs::{self, File},
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
};

use anyhow::Result;
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::{Kept, SIZE, Worker};
use crate::process::Mapping;

const TASKS: &str = "io.containerd.runtime.v2.task";
const POD: &str = "0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e";

/// The id of one of a few containers.
fn id(worker: &mut Worker) -> String {
    format!("{:064x}", 0xabcd + worker.noise.below(6))
}

/// Paths where a runtime would have the root file system of a container, and its files.
fn place(worker: &mut Worker, base: &Path) -> (PathBuf, Vec<PathBuf>) {
    let id = id(worker);
    match worker.noise.below(4) {
        0 => {
            let bundle = base.join("containerd").join(TASKS).join("k8s.io").join(&id);
            let files = ["config.json", "options.json", "init.pid", "work"].map(|name| bundle.join(name));
            (bundle.join("rootfs"), files.to_vec())
        }
        1 => {
            let container = base.join("docker/containers").join(&id);
            let layer = base.join("docker/image/overlay2/layerdb/mounts").join(&id);
            let files = [
                container.join("config.v2.json"),
                container.join("hostconfig.json"),
                layer.join("mount-id"),
            ];
            (
                base.join("docker/overlay2").join(&id).join("merged"),
                files.to_vec(),
            )
        }
        2 => {
            let storage = base.join("containers/storage");
            let files = [
                storage.join("overlay-containers/containers.json"),
                storage.join("overlay-containers/volatile-containers.json"),
            ];
            (storage.join("overlay").join(&id).join("merged"), files.to_vec())
        }
        _ => {
            let volume = base
                .join("kubelet/pods")
                .join(POD)
                .join("volumes/kubernetes.io~csi/pvc-1");
            (volume.join("mount"), vec![volume.join("vol_data.json")])
        }
    }
}

/// A file that makes its opener wait, read without end, or follow a link.
fn trap(worker: &mut Worker, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(path);
    match worker.noise.below(7) {
        0 => mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0)?,
        1 => symlink("/dev/zero", path)?,
        2 => symlink("/proc/self/root", path)?,
        3 => symlink(path, path)?,
        4 => drop(UnixListener::bind(path)?),
        5 => File::create(path)?.set_len(1 << 30)?,
        _ => {
            let spec = format!(
                r#"{{"linux":{{"cgroupsPath":"/"}},"annotations":{{"io.kubernetes.cri.sandbox-name":"\u001b[2J","io.kubernetes.cri.sandbox-namespace":"kube-system","io.kubernetes.cri.sandbox-uid":"{POD}","io.kubernetes.cri.container-name":"'; reboot; '"}},"x":{}1{}}}"#,
                "[".repeat(100),
                "]".repeat(100)
            );
            fs::write(path, spec)?;
        }
    }
    Ok(())
}

/// In a directory that others see as well.
pub(super) fn shaped(worker: &mut Worker) -> Result<()> {
    let outside = worker.outside.clone();
    let (rootfs, files) = place(worker, &outside);
    fs::create_dir_all(rootfs)?;
    let at = worker.noise.below(files.len());
    trap(worker, &files[at])
}

/// Mounts at such paths, some of them at those of the host's own runtimes, to the letter.
pub(super) fn shaped_mount(worker: &mut Worker) -> Result<()> {
    let base = match worker.noise.below(3) {
        0 => PathBuf::from("/run"),
        1 => worker.outside.clone(),
        _ => worker.arena.clone(),
    };
    let (rootfs, files) = place(worker, &base);
    fs::create_dir_all(&rootfs)?;
    for file in files {
        let _ = trap(worker, &file);
    }
    mount("overlay", &rootfs, "tmpfs", MountFlags::empty(), Some(SIZE))?;
    let file = File::create(rootfs.join("file"))?;
    worker.failing(3, || unmount(&rootfs, UnmountFlags::empty()));
    if worker.noise.below(2) == 0 {
        worker.keep(file);
    }
    worker.kept.push_back(Kept::Mount(rootfs));
    Ok(())
}

pub(super) fn names(worker: &mut Worker) -> Result<()> {
    let directory = worker.directory()?;
    let path = directory.join(worker.noise.name());
    let file = File::create(&path)?;
    fs::rename(&path, directory.join(worker.noise.name()))?;
    worker.keep(file);
    Ok(())
}

pub(super) fn deleted(worker: &mut Worker) -> Result<()> {
    let directory = worker.directory()?;
    let path = directory.join(worker.noise.name());
    let file = File::create(&path)?;
    fs::remove_file(&path)?;
    fs::remove_dir_all(&directory)?;
    worker.keep(file);
    Ok(())
}

pub(super) fn mapping(worker: &mut Worker) -> Result<()> {
    let path = worker.directory()?.join(worker.noise.name());
    fs::write(&path, [0; 8192])?;
    let file = File::open(&path)?;
    for _ in 0..worker.noise.below(6) {
        let page = worker.noise.below(2) as u64;
        worker.keep(Mapping::of(&file, page)?);
    }
    Ok(())
}
