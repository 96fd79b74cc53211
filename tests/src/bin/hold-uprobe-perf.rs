//! Sets a uprobe by `perf_event_open(2)`, as tracers do.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Ok(kind) = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type") else {
        return setup.skip("this kernel has no uprobes for perf");
    };
    let event = match uprobe(kind.trim().parse()?, setup.path()) {
        Ok(event) => event,
        Err(error) => return setup.skip(&format!("no uprobe can be set: {error}")),
    };
    let mut claim = Claim::new("uprobe");
    claim.owners[0].fd = Some(event.as_raw_fd() as u32);
    setup.hold(vec![claim])
}

/// A uprobe near the start of a file.
fn uprobe(kind: u32, path: &Path) -> io::Result<OwnedFd> {
    /// `PERF_ATTR_SIZE_VER1`.
    const SIZE: usize = 72;
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // struct perf_event_attr (uapi/linux/perf_event.h): type, size; uprobe_path is at 56, probe_offset at 64.
    let mut attributes = [0_u8; SIZE];
    attributes[..4].copy_from_slice(&kind.to_ne_bytes());
    attributes[4..8].copy_from_slice(&(SIZE as u32).to_ne_bytes());
    attributes[56..64].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
    attributes[64..72].copy_from_slice(&16_u64.to_ne_bytes());
    // SAFETY: the attributes are as long as they say, and the path in them lives until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
