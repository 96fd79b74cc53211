//! Runs a test executable, and forwards its lines as they come. No test outlives this program.

use std::{
    io::{self, BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::interrupt;

/// How often to check if a quiet process has ended.
const LOOK: Duration = Duration::from_millis(200);

/// `Err` with the reason if it did not succeed.
pub(crate) fn follow(
    mut command: Command,
    limit: Duration,
    show: &mut dyn FnMut(&str),
) -> Result<Result<(), String>> {
    interrupt::hold();
    let line = crate::command::line(&command);
    let (pipe, writer) = io::pipe().context("making a pipe")?;
    // In the order in which they are written.
    command
        .stdin(Stdio::null())
        .stderr(writer.try_clone().context("copying a pipe")?)
        .stdout(writer);
    // SAFETY: between fork and exec this makes one system call, and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
    let mut child = command.spawn().with_context(|| format!("starting `{line}`"))?;
    // It has the writing ends, which keep the pipe open.
    drop(command);

    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + limit;
    let mut end = None;
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(line) => {
                show(&line);
                if Instant::now() < deadline {
                    continue;
                }
            }
            Err(RecvTimeoutError::Disconnected) if end.is_some() => break,
            Err(_) => {}
        }
        // Quiet for a moment. A process that a failed test left behind may keep the pipe: it is not waited for.
        if end.is_some() {
            break;
        }
        end = child
            .try_wait()
            .with_context(|| format!("waiting for `{line}`"))?;
        if end.is_none() && Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Err(format!("no end after {} s", limit.as_secs())));
        }
    }
    Ok(match end {
        Some(status) if !status.success() => Err(status.to_string()),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (Result<(), String>, Vec<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let end = follow(command, limit, &mut |line| lines.push(line.to_owned())).unwrap();
        (end, lines)
    }

    #[test]
    fn lines_and_the_end() {
        let (end, lines) = shell("echo a; echo b >&2; printf c; exit 3", Duration::from_secs(20));
        assert_eq!(lines, ["a", "b", "c"]);
        assert_eq!(end, Err("exit status: 3".to_owned()));
    }

    #[test]
    fn a_limit_and_a_child_that_keeps_the_pipe() {
        let (end, _) = shell("exec sleep 30", Duration::from_millis(300));
        assert_eq!(end, Err("no end after 0 s".to_owned()));
        let (end, lines) = shell("sleep 3 & echo a", Duration::from_secs(20));
        assert_eq!((end, lines.len()), (Ok(()), 1));
    }
}
