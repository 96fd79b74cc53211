//! Files that are open or mapped.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::net::UnixListener},
};

use anyhow::{Result, ensure};
use rustix::{
    fs::{CWD, Mode, OFlags, open as open_with},
    mount::{OpenTreeFlags, open_tree},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::{claim::Claim, harness, hold::Setup, process::Mapping, socket::bound};

/// Opens the first path for reading: a regular file.
pub(super) fn reading(setup: &Setup) -> Result<(File, Claim)> {
    let file = File::open(setup.path())?;
    let claim = setup.opened(&file, "read").regular();
    Ok((file, claim))
}

/// Holds a regular file open for reading.
pub(super) fn read(setup: &Setup) -> Result<()> {
    let (_file, claim) = reading(setup)?;
    setup.hold([claim])
}

/// Holds a regular file open for reading and writing, opened with creat(2)'s flags.
pub(super) fn write(setup: &Setup) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(setup.path())?;
    setup.hold([setup.opened(&file, "read+write").regular()])
}

/// Holds a file with `O_PATH`: overlayfs opens no backing file for it.
pub(super) fn path(setup: &Setup) -> Result<()> {
    let file = open_with(setup.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    setup.hold([setup.opened(&file, "path")])
}

/// Holds a descriptor of `open_tree` without `OPEN_TREE_CLONE`: like one with `O_PATH`, on the mount itself.
pub(super) fn tree(setup: &Setup) -> Result<()> {
    let tree = open_tree(CWD, setup.path(), OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    setup.hold([setup.opened(&tree, "path")])
}

/// Holds a directory open; used for the root of the mount as well.
pub(super) fn directory(setup: &Setup) -> Result<()> {
    let directory = File::open(setup.path())?;
    setup.hold([setup.opened(&directory, "read")])
}

/// Holds a file open that it has unlinked.
pub(super) fn deleted(setup: &Setup) -> Result<()> {
    let (_file, mut claim) = reading(setup)?;
    fs::remove_file(setup.path())?;
    claim.deleted = true;
    setup.hold([claim])
}

/// Opens one file twice: two open file descriptions.
pub(super) fn twice(setup: &Setup) -> Result<()> {
    let files = [File::open(setup.path())?, File::open(setup.path())?];
    setup.hold(files.each_ref().map(|file| setup.opened(file, "read").regular()))
}

/// Holds a file open, with a lease on it.
pub(super) fn lease(setup: &Setup) -> Result<()> {
    let (file, claim) = reading(setup)?;
    // SAFETY: it takes no pointers.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } != 0 {
        return setup.skip(&format!("no lease here: {}", io::Error::last_os_error()));
    }
    setup.hold([claim])
}

/// Maps a file and keeps its descriptor as well: one owner, used in two ways.
pub(super) fn mapped_too(setup: &Setup) -> Result<()> {
    let (file, mut claim) = reading(setup)?;
    claim.also = vec!["mmap".to_owned()];
    let _mapping = Mapping::of(&file, 0)?;
    setup.hold([claim])
}

/// Maps pages of one open file, and closes its descriptor: one reference.
fn mapped(setup: &Setup, pages: &[u64]) -> Result<()> {
    let file = File::open(setup.path())?;
    let mappings: io::Result<Vec<_>> = pages.iter().map(|page| Mapping::of(&file, *page)).collect();
    let _mappings = mappings?;
    drop(file);
    setup.hold([Claim::new("mmap")])
}

/// Maps a file and closes its descriptor.
pub(super) fn mapped_once(setup: &Setup) -> Result<()> {
    mapped(setup, &[0])
}

/// Maps three places of one open file: every other page, so that the kernel cannot merge them.
pub(super) fn mapped_thrice(setup: &Setup) -> Result<()> {
    mapped(setup, &[4, 2, 0])
}

/// Maps each of its files, as a program does with its libraries: many alike of one process, one entry with their sum.
pub(super) fn mapped_each(setup: &Setup) -> Result<()> {
    let mut mappings = Vec::new();
    for path in &setup.paths {
        mappings.push(Mapping::of(&File::open(path)?, 0)?);
    }
    let mut claim = Claim::new("mmap");
    claim.arguments = (0..setup.paths.len()).collect();
    claim.refs = setup.paths.len() as u64;
    claim.overlay_refs = claim.refs;
    setup.hold([claim])
}

/// One process that blocks in many ways: `hold-several FILE SECOND THIRD DIRECTORY SOCKET`. It reads and writes the
/// same file, has another mapped without a descriptor, is in the directory, and listens on the socket.
pub(super) fn several(setup: &Setup) -> Result<()> {
    let on = |argument: usize, mut claim: Claim| {
        claim.arguments = vec![argument];
        claim
    };
    let reader = File::open(&setup.paths[0])?;
    let writer = OpenOptions::new().write(true).open(&setup.paths[0])?;
    let mapped = File::open(&setup.paths[1])?;
    let _mapping = Mapping::of(&mapped, 0)?;
    drop(mapped);
    // An open directory and the working directory are two references on one place.
    let directory = File::open(&setup.paths[3])?;
    std::env::set_current_dir(&setup.paths[3])?;
    let listener = UnixListener::bind(&setup.paths[4])?;
    let third = File::open(&setup.paths[2])?;
    let _again = third.try_clone()?;
    setup.hold([
        Claim::fd(reader.as_raw_fd() as u32, "read").regular(),
        Claim::fd(writer.as_raw_fd() as u32, "write").regular(),
        on(1, Claim::new("mmap")),
        on(2, Claim::fd(third.as_raw_fd() as u32, "read").regular()),
        on(3, Claim::fd(directory.as_raw_fd() as u32, "read")),
        on(3, Claim::new("cwd")),
        on(4, bound(&listener, "listening")?),
    ])
}

/// Descriptors besides the one of [`crowd`].
const CROWD: u64 = 99_999;
/// With fewer it is no crowd.
const CROWD_MIN: u64 = 10_000;
/// Other descriptors of a program.
const OTHERS: u64 = 100;

/// One file among 100,000 descriptors, each of a file of its own; fewer where the limit may not be raised.
pub(super) fn crowd(setup: &Setup) -> Result<()> {
    let crowd = crowd_size();
    // Nobody but this test decides there.
    ensure!(
        crowd == CROWD || !harness::in_machine(),
        "no more than {crowd} descriptors in a machine"
    );
    if crowd < CROWD_MIN {
        return setup.skip(&format!("no more than {crowd} descriptors"));
    }
    let mut files = Vec::new();
    for _ in 0..crowd {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => return setup.skip(&format!("{} files: {error}", files.len())),
        }
    }
    let file = File::open(setup.path())?;
    eprintln!("{crowd} descriptors and one");
    setup.hold([Claim::fd(file.as_raw_fd().cast_unsigned(), "read").regular()])
}

/// As many as the limit allows.
fn crowd_size() -> u64 {
    let set = |limit| {
        let (current, maximum) = (Some(limit), Some(limit));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })
    };
    if set(CROWD + OTHERS).is_ok() {
        return CROWD;
    }
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(CROWD);
    match set(limit) {
        Ok(()) => limit.saturating_sub(OTHERS).min(CROWD),
        Err(_) => 0,
    }
}
