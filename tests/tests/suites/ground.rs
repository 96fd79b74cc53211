//! The ground that the other tests stand on: each holder program makes umount2 fail where the kernel's rules say so,
//! and no longer once it has let go. This needs no ebusy.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use ebusy_tests::{
    harness::{self, Verdict},
    namespace::Namespace,
    scratch::{FileSystem, Scratch},
    zoo::{ROWS, Row},
};

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for row in ROWS {
        for file_system in row.file_systems.iter().copied() {
            for namespace in [
                Namespace::Same,
                Namespace::Shared,
                Namespace::Slave,
                Namespace::Private,
            ] {
                let name = format!("{}::{}::{}", row.name, file_system.name(), namespace.name());
                tests.push(harness::test(name, move || check(row, file_system, namespace)));
            }
        }
    }
    harness::main(tests)
}

fn check(row: &Row, file_system: FileSystem, namespace: Namespace) -> Result<Verdict> {
    let blocks = match namespace {
        Namespace::Same => true,
        Namespace::Shared | Namespace::Slave | Namespace::Nested | Namespace::User => row.copy_blocks,
        Namespace::Private => false,
    };
    // In a peer namespace a new mount on the copy appears on the target as well.
    let blocks = blocks || (namespace == Namespace::Shared && !row.copy_blocks);
    let scratch = Scratch::new(file_system)?;
    let holding = row.hold_at_once(&scratch, namespace)?;
    let unmounted = scratch.umount()?;
    ensure!(
        unmounted != blocks,
        "umount2 {}",
        if unmounted { "succeeded" } else { "was refused" }
    );
    row.release(&scratch, holding)?;
    if !unmounted {
        ensure!(scratch.umount()?, "still busy after the release");
    }
    Ok(Verdict::Passed)
}
