//! Steps that many tests take.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{harness, holder::Holding, namespace::Namespace, scratch::Scratch};

/// The pause of containerd between two attempts.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Has a file of the mount opened.
pub fn hold_fd(scratch: &Scratch, namespace: Namespace, name: &str) -> Result<Holding> {
    Holding::start("hold-fd", namespace, &[scratch.join(name)])
}

/// Tries to unmount it; every attempt is refused.
pub fn refused(scratch: &Scratch, attempts: usize) -> Result<()> {
    for attempt in 0..attempts {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        ensure!(!scratch.umount()?, "attempt {attempt} was not refused");
    }
    Ok(())
}

/// Lets everybody go, once ebusy has had the time to look; the umount succeeds.
pub fn release(scratch: &Scratch, holdings: impl IntoIterator<Item = Holding>) -> Result<()> {
    harness::settle();
    for holding in holdings {
        holding.release()?;
    }
    ensure!(scratch.umount()?, "still busy after the release");
    Ok(())
}
