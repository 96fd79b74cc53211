//! A program whose children have its files for some milliseconds: `forker PATH [MS]`.
//!
//! At every line of its input it opens the file, forks a child, closes its own descriptor and prints
//! `{"child":PID}`. The child has the copy for that long, as between fork and exec, and ends.

use std::{fs::File, io, path::PathBuf, ptr, thread, time::Duration};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let path = PathBuf::from(arguments.next().context("a path is needed")?);
    let keep = match arguments.next() {
        Some(text) => text.to_str().context("a number is text")?.parse()?,
        None => 20,
    };
    println!("{{\"pid\":{}}}", std::process::id());
    for line in io::stdin().lines() {
        line?;
        let child = fork_with(File::open(&path)?, Duration::from_millis(keep))?;
        println!("{}", serde_json::json!({ "child": child }));
        // SAFETY: the child is ours, and the status is not asked for.
        unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    }
    Ok(())
}

fn fork_with(file: File, keep: Duration) -> io::Result<libc::pid_t> {
    // SAFETY: the process has one thread; the child sleeps and exits.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            thread::sleep(keep);
            // SAFETY: nothing is to be flushed or dropped; the kernel closes the file.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(file);
            Ok(child)
        }
    }
}
