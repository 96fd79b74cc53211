//! Opens a file in a slave namespace and goes back: `hold-fd-left FILE [KEEP]`. A descriptor keeps the namespace, or
//! a bind mount on the file `KEEP`.

use std::{fs::File, os::fd::AsFd as _, os::fd::AsRawFd as _, path::Path, thread::available_parallelism};

use anyhow::{Result, bail};
use ebusy_tests::{claim::Claim, hold::Setup, namespace::Namespace};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity},
};

const SELF: &str = "/proc/self/ns/mnt";

fn main() -> Result<()> {
    let mut setup = Setup::from_args()?;
    let home = File::open(SELF)?;
    let Some(keep) = setup.paths.get(1).cloned() else {
        let (file, away) = open_away(&mut setup, &home)?;
        let held = setup.hold(vec![claim(&file)]);
        drop(away);
        return held;
    };
    let file = open_and_keep(&mut setup, &home, &keep)?;
    let held = setup.hold(vec![claim(&file)]);
    drop(file);
    unmount(&keep, UnmountFlags::empty())?;
    held
}

fn claim(file: &File) -> Claim {
    Claim::fd(file.as_raw_fd() as u32, "read").regular()
}

/// The file, opened in a new namespace, and that namespace.
fn open_away(setup: &mut Setup, home: &File) -> Result<(File, File)> {
    Namespace::Slave.enter()?;
    let away = File::open(SELF)?;
    setup.look_again()?;
    let file = File::open(setup.path())?;
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    setup.has_moved()?;
    Ok((file, away))
}

/// The kernel binds a namespace only in one that was made before it (`mnt_ns_loop`), and tells by their numbers, which
/// each CPU takes from a range of its own from Linux 6.18 on: seen from another CPU a new namespace may look older.
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
