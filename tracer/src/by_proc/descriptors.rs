//! Open files on a mount, by `/proc/PID/task/TID/fdinfo`: its `mnt_id` is that of the file's own mount, in whatever
//! namespace.

use std::{fs, io::Read as _, os::unix::ffi::OsStrExt as _, path::Path};

use crate::watchdog::{self, Step};

/// Descriptors on one mount that are looked for at the most.
const DESCRIPTORS_MAX: usize = 4096;
/// Descriptors among which those of one open file are looked for: every one is compared with every other.
const COMPARED_MAX: usize = 512;
/// `mnt_id` is in the first lines; what follows may be long (epoll, `io_uring`).
const FDINFO_MAX: u64 = 512;

/// A descriptor in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) fd: u32,
    /// `O_*`.
    pub(super) flags: u32,
}

/// The descriptors of all processes on a mount, those of one open file together.
pub(super) fn descriptors(proc: &Path, mount_id: u32, own_pid: u32) -> Vec<Vec<Descriptor>> {
    let mut found = Vec::new();
    for pid in numbers(proc).filter(|pid| *pid != own_pid) {
        let _step = watchdog::within_process(Step::Descriptors, pid);
        let tasks = proc.join(pid.to_string()).join("task");
        let mut leader_has_table = false;
        for tid in leader_first(pid, numbers(&tasks)) {
            // Threads share the table of their leader, unless they left it or it has ended.
            if tid != pid && leader_has_table && !has_own_table(pid, tid) {
                continue;
            }
            let process = tasks.join(tid.to_string());
            for fd in numbers(&process.join("fdinfo")) {
                leader_has_table |= tid == pid;
                let Some((flags, id)) = fdinfo(&process, fd) else {
                    continue;
                };
                if id == mount_id && found.len() < DESCRIPTORS_MAX {
                    found.push(Descriptor { pid, tid, fd, flags });
                }
            }
        }
    }
    if found.len() >= DESCRIPTORS_MAX {
        log::warn!("more than {DESCRIPTORS_MAX} descriptors on the mount: the others are left out");
    }
    group(found, same_file)
}

fn leader_first(pid: u32, tids: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut tids: Vec<u32> = tids.collect();
    tids.sort_by_key(|tid| (*tid != pid, *tid));
    tids
}

/// Names of a directory that are numbers.
fn numbers(directory: &Path) -> impl Iterator<Item = u32> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// `flags` and `mnt_id` of a descriptor that has a path. Others are on no mount that can be unmounted, and the text of
/// some waits for their process: that of an epoll for its lock, which the process keeps while it takes a page from a
/// file system that does not answer.
fn fdinfo(process: &Path, fd: u32) -> Option<(u32, u32)> {
    let name = fs::read_link(process.join("fd").join(fd.to_string())).ok()?;
    if !name.as_os_str().as_bytes().starts_with(b"/") {
        return None;
    }
    let mut text = Vec::new();
    let path = process.join("fdinfo").join(fd.to_string());
    let file = fs::File::open(path).ok()?;
    file.take(FDINFO_MAX).read_to_end(&mut text).ok()?;
    flags_and_mount(&text)
}

/// `flags` (octal) and `mnt_id` of the text of fdinfo; the kernel's own lines come first.
fn flags_and_mount(text: &[u8]) -> Option<(u32, u32)> {
    let field = |name: &[u8]| {
        let line = text
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(name))?;
        Some(std::str::from_utf8(line).ok()?.trim())
    };
    let flags = u32::from_str_radix(field(b"flags:")?, 8).ok()?;
    Some((flags, field(b"mnt_id:")?.parse().ok()?))
}

/// Any text as that of fdinfo: for fuzzing.
pub(crate) fn fuzzed(bytes: &[u8]) {
    let _ = flags_and_mount(bytes);
}

/// Puts those of one open file together, in the order in which they were found.
fn group(
    descriptors: Vec<Descriptor>,
    same: impl Fn(Descriptor, Descriptor) -> bool,
) -> Vec<Vec<Descriptor>> {
    let mut groups: Vec<Vec<Descriptor>> = Vec::new();
    for descriptor in descriptors {
        let known = groups
            .iter_mut()
            .take(COMPARED_MAX)
            .find(|group| group[0].flags == descriptor.flags && same(group[0], descriptor));
        match known {
            Some(group) => group.push(descriptor),
            None => groups.push(vec![descriptor]),
        }
    }
    groups
}

/// Whether two descriptors are of one open file, as far as the kernel tells (`CONFIG_KCMP`).
fn same_file(a: Descriptor, b: Descriptor) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    kcmp(a.tid, b.tid, KCMP_FILE, a.fd, b.fd) == Some(0)
}

fn has_own_table(leader: u32, tid: u32) -> bool {
    const KCMP_FILES: libc::c_int = 2;
    kcmp(leader, tid, KCMP_FILES, 0, 0).is_some_and(|order| order != 0)
}

/// The order of two objects of the kernel, 0 if they are one; it takes no reference on either.
fn kcmp(a: u32, b: u32, what: libc::c_int, a_index: u32, b_index: u32) -> Option<i64> {
    // SAFETY: five numbers.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            a as libc::pid_t,
            b as libc::pid_t,
            what,
            libc::c_ulong::from(a_index),
            libc::c_ulong::from(b_index),
        )
    };
    (order >= 0).then_some(order)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{Descriptor, flags_and_mount, group, same_file};

    #[test]
    fn fields_of_fdinfo() {
        let text = b"pos:\t0\nflags:\t02100000\nmnt_id:\t29\nino:\t7\n";
        assert_eq!(flags_and_mount(text), Some((0o2_100_000, 29)));
        assert_eq!(flags_and_mount(b"pos:\t0\nflags:\t09\n"), None);
        assert_eq!(flags_and_mount(b"\xff\n"), None);
    }

    #[test]
    fn descriptors_of_one_file_are_one() {
        use std::os::fd::AsRawFd as _;
        let file = File::open("/dev/null").unwrap();
        let duplicate = file.try_clone().unwrap();
        let other = File::open("/dev/null").unwrap();
        let own = std::process::id();
        let of = |file: &File| Descriptor {
            pid: own,
            tid: own,
            fd: file.as_raw_fd() as u32,
            flags: 0,
        };
        let all = vec![of(&file), of(&other), of(&duplicate)];
        let pairs = |a: Descriptor, b: Descriptor| {
            let shared = [of(&file), of(&duplicate)];
            shared.contains(&a) && shared.contains(&b)
        };
        assert_eq!(
            group(all, pairs),
            [vec![of(&file), of(&duplicate)], vec![of(&other)]]
        );
        // A kernel may do without kcmp; then each is on its own.
        if same_file(of(&file), of(&file)) {
            assert!(same_file(of(&file), of(&duplicate)) && !same_file(of(&file), of(&other)));
        }
    }
}
