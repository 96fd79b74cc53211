//! Where results go: stdout, or the file of `-o`.

use std::{
    io::{self, IsTerminal as _, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use anyhow::{Result, ensure};

use super::{
    inherited,
    output_file::{InUse, OutputFile},
};
use crate::{
    confine,
    outlet::{Outlet, write_all},
};

/// Names of stdout: links, which are not followed elsewhere.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File(OutputFile),
}

impl Sink {
    pub(super) fn open(output: Option<&Path>, in_use: &InUse) -> Result<Self> {
        let file = output.filter(|path| STDOUT.iter().all(|name| *path != Path::new(name)));
        if let Some(path) = file {
            return Ok(Self::File(OutputFile::create(path, in_use)?));
        }
        ensure!(
            !in_use.reads_stdout(),
            "stdout is a file that is read; write the results to another one"
        );
        Ok(Self::Stdout)
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdout) && io::stdout().is_terminal()
    }

    /// All is written.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file) => file.finish(),
        }
    }

    /// Where the file of `-o` is.
    pub(super) fn output(&self) -> Option<confine::Output<'_>> {
        match self {
            Self::Stdout => None,
            Self::File(file) => Some(file.place_of()),
        }
    }

    /// What it is, for people.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Stdout => "stdout".to_owned(),
            Self::File(file) => format!("-o {}", file.shown()),
        }
    }

    /// From now on nobody waits for whoever reads it, and a file is in its place. Starts a thread.
    pub(super) fn without_waiting(self, room: usize) -> Result<Outlet> {
        Ok(match self {
            Self::Stdout => Outlet::new(io::stdout(), room, None)?,
            Self::File(file) => Outlet::new(file.into_file()?, room, None)?,
        })
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout => rustix::stdio::stdout(),
            Self::File(file) => file.as_fd(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if matches!(self, Self::Stdout) && inherited::was_closed(libc::STDOUT_FILENO) {
            return Err(rustix::io::Errno::BADF.into());
        }
        write_all(self.as_fd(), bytes, |_| {})?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
