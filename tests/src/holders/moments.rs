//! Children that have a file for a moment, one after the other.

use std::{
    fs::File,
    io,
    path::PathBuf,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{hold::wait_for_end, pause};

/// Holders that live for a moment: `flicker PATH`.
///
/// One child after the other opens the file, keeps it for 0 to 3 ms, and exits. It prints `{"ready":true}`, and at the
/// end of its input `{"pids":[..]}` with all that ever held.
pub(super) fn flicker() -> Result<()> {
    let path = PathBuf::from(std::env::args_os().nth(1).context("a path is needed")?);
    println!("{{\"ready\":true}}");
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    // The thread only reads standard input: it holds no lock that a forked child could need.
    let reader = thread::spawn(move || {
        let waited = wait_for_end();
        flag.store(true, Ordering::Release);
        waited
    });
    let mut pids = Vec::new();
    while !ended.load(Ordering::Acquire) {
        let keep = Duration::from_micros(500 * (pids.len() as u64 % 7));
        let child = fork(|| {
            let file = File::open(&path);
            pause::takes(keep, "it has the file for that long");
            i32::from(file.is_err())
        })?;
        pids.push(child);
        reap(child);
    }
    println!("{}", serde_json::json!({ "pids": pids }));
    reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))?
}

/// A program whose children have its files for some milliseconds: `forker PATH [MS]`.
///
/// At every line of its input it opens the file, forks a child, closes its own descriptor and prints
/// `{"child":PID}`. The child has the copy for that long, as between fork and exec, and ends.
pub(super) fn forker() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let path = PathBuf::from(arguments.next().context("a path is needed")?);
    let keep = match arguments.next() {
        Some(text) => text.to_str().context("a number is text")?.parse()?,
        None => 20,
    };
    println!("{{\"pid\":{}}}", std::process::id());
    for line in io::stdin().lines() {
        line?;
        let file = File::open(&path)?;
        let child = fork(|| {
            pause::takes(Duration::from_millis(keep), "it has the copy for that long");
            0
        })?;
        drop(file);
        println!("{}", serde_json::json!({ "child": child }));
        reap(child);
    }
    Ok(())
}

/// A child that only runs this and exits with its status.
fn fork(run: impl FnOnce() -> i32) -> io::Result<libc::pid_t> {
    // SAFETY: the child opens at most one file, sleeps and exits; no other thread holds a lock that it needs.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: there is nothing to flush or drop; the kernel closes the files.
        0 => unsafe { libc::_exit(run()) },
        child => Ok(child),
    }
}

fn reap(child: libc::pid_t) {
    // SAFETY: the child is ours, and the status is not asked for.
    unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
}
