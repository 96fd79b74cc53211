//! One process that is in the way in many ways: `hold-several FILE SECOND THIRD DIRECTORY SOCKET`. It reads and writes
//! the same file, has another mapped without a descriptor, is in the directory, and listens on the socket.

use std::{
    env,
    fs::{File, OpenOptions},
    os::{fd::AsRawFd as _, unix::net::UnixListener},
};

use ebusy_tests::{claim::Claim, hold::Setup, process::Mapping, socket::bound};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let on = |argument: usize, mut claim: Claim| {
        claim.arguments = vec![argument];
        claim
    };
    let reader = File::open(&setup.paths[0])?;
    let writer = OpenOptions::new().write(true).open(&setup.paths[0])?;
    let mapped = File::open(&setup.paths[1])?;
    let _mapping = Mapping::of(&mapped, 0)?;
    drop(mapped);
    // A directory that is open and the working directory are two references, of one place.
    let directory = File::open(&setup.paths[3])?;
    env::set_current_dir(&setup.paths[3])?;
    let listener = UnixListener::bind(&setup.paths[4])?;
    let third = File::open(&setup.paths[2])?;
    let _again = third.try_clone()?;
    let claims = vec![
        Claim::fd(reader.as_raw_fd() as u32, "read").regular(),
        Claim::fd(writer.as_raw_fd() as u32, "write").regular(),
        on(1, Claim::new("mmap")),
        on(2, Claim::fd(third.as_raw_fd() as u32, "read").regular()),
        on(3, Claim::fd(directory.as_raw_fd() as u32, "read")),
        on(3, Claim::new("cwd")),
        on(4, bound(&listener, "listening")?),
    ];
    setup.hold(claims)
}
