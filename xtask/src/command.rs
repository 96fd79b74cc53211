//! Runs other programs, with their output on stderr: stdout is for results.

use std::{
    io,
    os::fd::AsFd as _,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs a program to its end; its failure is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a program to its end.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    let stderr = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("copying stderr")?;
    command
        .stdin(Stdio::null())
        .stdout(stderr)
        .status()
        .with_context(|| format!("starting `{}`", line(command)))
}

/// The command as typed in a shell, without its environment.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}
