//! Holders that live for a moment: `flicker PATH`.
//!
//! One child after the other opens the file, keeps it for 0 to 3 ms, and exits. It prints `{"ready":true}`, and at the
//! end of its input `{"pids":[..]}`: all that ever held.

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

use anyhow::Context as _;
use ebusy_tests::hold::wait_for_end;

fn main() -> anyhow::Result<()> {
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
        let pid = spawn(&path, Duration::from_micros(500 * (pids.len() as u64 % 7)))?;
        pids.push(pid);
        // SAFETY: the child is ours, and the status is not asked for.
        unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
    }
    println!("{}", serde_json::json!({ "pids": pids }));
    reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))?
}

fn spawn(path: &PathBuf, pause: Duration) -> anyhow::Result<libc::pid_t> {
    // SAFETY: the child opens a file, sleeps and exits; the other thread holds no lock that it needs.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => {
            let file = File::open(path);
            thread::sleep(pause);
            // SAFETY: nothing is to be flushed or dropped; the kernel closes the file.
            unsafe { libc::_exit(i32::from(file.is_err())) }
        }
        pid => Ok(pid),
    }
}
