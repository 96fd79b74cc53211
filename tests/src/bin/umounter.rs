//! Tries to unmount a path: `umounter PATH ATTEMPTS PAUSE_MS [detach|expire|force|nofollow]...`.
//!
//! It stops at the first success, prints `{"pid":..,"refused":..,"unmounted":..}`, and ends.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, bail};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let path = PathBuf::from(arguments.next().context("a path is needed")?);
    let mut number = || -> anyhow::Result<u64> {
        let argument = arguments.next().context("a number is needed")?;
        Ok(argument.to_str().context("a number is text")?.parse()?)
    };
    let (attempts, pause) = (number()?, Duration::from_millis(number()?));
    let mut flags = UnmountFlags::empty();
    for argument in arguments {
        flags |= match argument.to_str() {
            Some("detach") => UnmountFlags::DETACH,
            Some("expire") => UnmountFlags::EXPIRE,
            Some("force") => UnmountFlags::FORCE,
            Some("nofollow") => UnmountFlags::NOFOLLOW,
            _ => bail!("no such flag: {}", argument.display()),
        };
    }

    let mut refused = 0_u64;
    let mut unmounted = false;
    while refused < attempts && !unmounted {
        match unmount(&path, flags) {
            Ok(()) => unmounted = true,
            Err(Errno::BUSY) => {
                refused += 1;
                thread::sleep(pause);
            }
            Err(error) => return Err(error).context("umount2"),
        }
    }
    println!(
        "{{\"pid\":{},\"refused\":{refused},\"unmounted\":{unmounted}}}",
        std::process::id()
    );
    Ok(())
}
