//! Exports a directory by the NFS server, as mountd does: an entry in the kernel's cache of exports. No server runs.

use std::{fs, io, os::unix::ffi::OsStrExt as _, path::Path};

use ebusy_tests::{claim::Claim, guard::Guard, hold::Setup};

/// `NFSEXP_NOSUBTREECHECK` and `NFSEXP_FSID`, which what has no device needs.
const FLAGS: u32 = 0x400 | 0x2000;
/// When the entry expires, in seconds since the epoch: never.
const NEVER: u32 = i32::MAX as u32;

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    if !Path::new("/proc/net/rpc/nfsd.export").exists() {
        return setup.skip("this kernel has no NFS server");
    }
    let client = format!("ebusy-test-{}", std::process::id());
    let _guard = Guard::start(|| {
        for cache in ["nfsd.export", "auth.unix.ip"] {
            // The kernel wants a number, and drops everything.
            let _ = write(cache, "flush", b"1\n");
        }
    })?;
    // A client is known once an address is mapped to it.
    let address = format!("nfsd 192.0.2.1 {NEVER} {client}\n");
    write("auth.unix.ip", "channel", address.as_bytes())?;
    let mut export = format!("{client} ").into_bytes();
    export.extend_from_slice(setup.path().as_os_str().as_bytes());
    // Anonymous user and group, and the number of the file system.
    export.extend_from_slice(format!(" {NEVER} {FLAGS} 65534 65534 1\n").as_bytes());
    if let Err(error) = write("nfsd.export", "channel", &export) {
        return setup.skip(&format!("it cannot be exported: {error}"));
    }
    let mut claim = Claim::new("nfs_export").without_process();
    // Where the kernel does not describe its modules, the client is not found.
    if Path::new("/sys/kernel/btf/nfsd").exists() {
        claim = claim.held_by(client);
    }
    setup.hold(vec![claim])
}

fn write(cache: &str, name: &str, text: &[u8]) -> io::Result<()> {
    let path = Path::new("/proc/net/rpc").join(cache).join(name);
    io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(path)?, text)
}
