//! What a thread is at in the kernel: /proc/PID/task/TID/stack.

use std::{fs::File, io::Read as _};

/// Bytes of the file at the most.
const TEXT_MAX: u64 = 16 << 10;
/// Functions at the most.
const FUNCTIONS_MAX: usize = 48;
/// Length of a name at the most (`KSYM_NAME_LEN` is 512; nobody reads that).
const NAME_MAX: usize = 128;

/// What is always there while a thread is in umount2, or does what that left to do on its way back.
const OF_UMOUNT: [&str; 5] = [
    "__x64_sys_umount",
    "ksys_umount",
    "path_umount",
    "task_work_run",
    "cleanup_mnt",
];

/// The functions that a thread is in, innermost first, as long as it is in an umount2. Empty while it runs on a CPU, where
/// the kernel does not show them. `None` where nothing can be read.
pub(super) fn of_umount(pid: u32, tid: u32) -> Option<Vec<String>> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/task/{tid}/stack")).ok()?;
    file.take(TEXT_MAX).read_to_end(&mut text).ok()?;
    let functions = functions(&text);
    let known = functions.iter().any(|name| OF_UMOUNT.contains(&name.as_str()));
    Some(if known { functions } else { Vec::new() })
}

/// `[<0>] name+0x12/0x34 [module]`, one a line.
pub(super) fn functions(text: &[u8]) -> Vec<String> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let rest = line.trim().strip_prefix("[<")?.split_once(">] ")?.1;
            let name = rest.split(['+', ' ']).next()?;
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
            (!name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(plain)).then(|| name.to_owned())
        })
        .take(FUNCTIONS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FUNCTIONS_MAX, NAME_MAX, functions};

    #[test]
    fn names_alone_are_taken() {
        let text = b"[<0>] request_wait_answer+0xf1/0x210 [fuse]\n[<0>] ovl_sync_fs.isra.0+0x1/0x2\n\
                     [<ffffffff81234567>] cleanup_mnt+0x1/0x2\n";
        assert_eq!(
            functions(text),
            ["request_wait_answer", "ovl_sync_fs.isra.0", "cleanup_mnt"]
        );
        let hostile =
            b"[<0>] \n[<0>] \x1b[31mred+0x1/0x2\n[<0>] a\xff+0\ncleanup_mnt\n[<0> x\n[<0>] 0xffffffff\n";
        assert_eq!(functions(hostile), ["0xffffffff"]);
    }

    proptest! {
        #[test]
        fn any_text_gives_short_plain_names(text in prop::collection::vec(any::<u8>(), 0..2000)) {
            let lines = b"[<0>] a+0\n".repeat(60);
            for name in functions(&[text, lines].concat()) {
                prop_assert!(name.len() <= NAME_MAX && name.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }

    #[test]
    fn a_deep_stack_is_cut() {
        assert_eq!(functions(&b"[<0>] a+0\n".repeat(100)).len(), FUNCTIONS_MAX);
    }
}
