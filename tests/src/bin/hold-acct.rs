//! Turns process accounting on, for a pid namespace of its own. Only the backing file of an overlay blocks, and
//! that not on every kernel.

use std::{ffi::CString, os::unix::ffi::OsStrExt as _};

use ebusy_tests::{claim::Claim, hold::Setup, process::ForkedChild};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    if !blocks() {
        return setup.skip("process accounting does not block on this kernel");
    }
    let path = CString::new(setup.path().as_os_str().as_bytes())?;
    // SAFETY: only children are affected.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
    // SAFETY: the path ends with a null.
    let child = ForkedChild::blocked_in(libc::SYS_rt_sigtimedwait, move || unsafe {
        if libc::acct(path.as_ptr()) == 0 {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigwaitinfo(&raw const set, std::ptr::null_mut());
        }
    });
    let Ok(child) = child else {
        return setup.skip("no process accounting");
    };
    setup.hold(vec![
        Claim::new("accounting")
            .without_process()
            .held_by(format!("/proc/{}/ns/pid", child.pid())),
    ])
}

/// Up to Linux 6.12 (KERNEL.md 8).
fn blocks() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) <= (Some(6), Some(12))
}
