//! A pseudo-terminal, to see a program's output for people.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Command, ExitStatus, Stdio},
    ptr, thread,
};

use anyhow::{Context as _, Result};

/// Runs a command to its end with a terminal as its standard output and error; returns its output.
pub fn run(command: &mut Command) -> Result<(ExitStatus, Vec<u8>)> {
    let (ours, theirs) = open()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()
        .context("start in a terminal")?;
    // The command keeps copies of the other end; with them gone, reading ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let reader = thread::spawn(move || {
        let mut printed = Vec::new();
        // The end of a terminal is EIO, not an end of file.
        let _ = File::from(ours).read_to_end(&mut printed);
        printed
    });
    let status = child.wait()?;
    let printed = reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))?;
    Ok((status, printed))
}

/// True if there are pseudo-terminals here.
#[must_use]
pub fn is_available() -> bool {
    open().is_ok()
}

fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: both point to integers; no name, settings or size are asked for.
    let result = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            ptr::null_mut(),
            ptr::null(),
            ptr::null(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made both, and nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) })
}
