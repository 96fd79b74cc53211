//! The command that `watch` runs: made before ebusy moves to the host's mount namespace, so that it keeps the one, and
//! the directory, that the user is in; started once the probes are in place.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, set_child_subreaper,
        waitpid,
    },
};

use super::inherited::ForCommand;
use crate::{
    render::escape,
    text::say::say,
    watchdog::{self, Step},
};

/// A command that waits for its start.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    go: File,
    status: File,
    name: OsString,
}

impl Child {
    /// Forks; the new process waits. No thread but the watchdog may have been started.
    pub(super) fn prepare(command: &[OsString]) -> Result<Self> {
        let arguments: Vec<CString> = command
            .iter()
            .map(|argument| CString::new(argument.as_bytes()).context("an argument of the command has a NUL"))
            .collect::<Result<_>>()?;
        let (Some(program), Some(name)) = (arguments.first(), command.first()) else {
            bail!("no command after --")
        };
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC).context("making a pipe")?;
        let (status, report) = pipe_with(PipeFlags::CLOEXEC).context("making a pipe")?;
        let mut pointers: Vec<*const libc::c_char> =
            arguments.iter().map(|argument| argument.as_ptr()).collect();
        pointers.push(std::ptr::null());
        // What the command starts and leaves behind stays our descendant: its umounts are to be shown.
        set_child_subreaper(Pid::from_raw(1)).context("becoming the reaper of the command's children")?;
        let inherited = ForCommand::new()?;
        // SAFETY: the child has a copy of this thread only. Until it executes the command it takes no lock that the
        // watchdog could have had at that moment: it reads and writes pipes, sets what the command is to have, and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop((go, status));
            let mut byte = [0];
            // Without the byte ebusy has failed, and has said so.
            if File::from(wait).read_exact(&mut byte).is_err() {
                // SAFETY: ends this process without running anything of the copied one.
                unsafe { libc::_exit(1) };
            }
            inherited.restore();
            // SAFETY: the strings and the array end with NUL and null, and live until the call.
            unsafe { libc::execvp(program.as_ptr(), pointers.as_ptr()) };
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            let _ = File::from(report).write_all(&errno.to_ne_bytes());
            // SAFETY: as above.
            unsafe { libc::_exit(127) };
        }
        let pid = Pid::from_raw(pid).with_context(|| format!("fork: {}", std::io::Error::last_os_error()))?;
        drop((wait, report));
        Ok(Self {
            pid,
            go: File::from(go),
            status: File::from(status),
            name: name.clone(),
        })
    }

    /// Lets it run; `Err` with the exit status to use where it cannot be executed.
    pub(super) fn start(mut self) -> Result<std::result::Result<Running, u8>> {
        // The command's program may be on a file system that does not answer.
        let _step = watchdog::within(Step::Command, self.name.as_bytes());
        // Somebody may have ended it while it waited: then it has a status, as any command.
        let _ = self.go.write_all(&[1]);
        drop(self.go);
        let mut errno = Vec::new();
        self.status
            .read_to_end(&mut errno)
            .context("starting the command")?;
        if let Ok(errno) = <[u8; 4]>::try_from(errno.as_slice()) {
            let error = std::io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            say!("ebusy: cannot run {}: {error}", escape(self.name.as_bytes()));
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return Ok(Err(if missing { super::exit::NOT_FOUND } else { 126 }));
        }
        let exited = pidfd_open(self.pid, PidfdFlags::empty()).context("watching the command")?;
        Ok(Ok(Running {
            pid: self.pid,
            exited,
        }))
    }
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Running {
    pid: Pid,
    /// Readable once it has exited.
    pub(super) exited: OwnedFd,
}

impl Running {
    /// Its status, as a shell would give it, if it has exited.
    pub(super) fn status(&self) -> Option<u8> {
        match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(status) => status.map(|(_, status)| shell_status(status)),
            // It is gone, and somebody else was told how.
            Err(error) => {
                log::warn!("the command ended, but not known how: {error}");
                Some(1)
            }
        }
    }

    /// Passes a signal on: the terminal sends it to both, but who sends it to ebusy means the job.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(self.pid, signal) {
            log::debug!("passing {signal:?} on to the command: {error}");
        }
    }

    /// Collects what the command left behind.
    pub(super) fn reap_others(&self) {
        // SAFETY: a plain system call; the structure is zeroed and of its type.
        unsafe {
            loop {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
                if libc::waitid(libc::P_ALL, 0, &raw mut info, flags) != 0 {
                    return;
                }
                let pid = info.si_pid();
                if pid == 0 || pid == self.pid.as_raw_nonzero().get() {
                    return;
                }
                libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG);
            }
        }
    }
}

fn shell_status(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => 1,
    }
}
