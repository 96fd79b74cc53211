//! Steps that many tests take.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    ebusy::{Watch, who},
    expect::Expectation,
    follower, harness,
    holder::{Holding, PATIENCE},
    namespace::Namespace,
    pause,
    report::Incident,
    scratch::{FileSystem, Scratch},
};

/// Containerd's pause between two attempts.
pub const PAUSE: Duration = Duration::from_millis(50);

/// A mount, and a watch of it alone.
pub fn watched(file_system: FileSystem) -> Result<(Scratch, Watch)> {
    let scratch = Scratch::new(file_system)?;
    let watch = Watch::targets(&[scratch.path()])?;
    Ok((scratch, watch))
}

/// Has a file of the mount opened.
pub fn hold_fd(scratch: &Scratch, namespace: Namespace, name: &str) -> Result<Holding> {
    Holding::start("hold-fd", namespace, &[scratch.join(name)])
}

/// Tries to unmount it; every attempt is refused.
pub fn refused(scratch: &Scratch, attempts: usize) -> Result<()> {
    for attempt in 0..attempts {
        if attempt > 0 {
            pause::takes(PAUSE, "what containerd waits between two attempts");
        }
        ensure!(!scratch.umount()?, "attempt {attempt} was not refused");
    }
    Ok(())
}

/// References left on a mount after a refused umount, as a watching ebusy reports them: any system call that could tell
/// would be another attempt.
pub fn references(scratch: &Scratch) -> Result<u64> {
    let busy = follower::catch_up()?;
    Ok(busy.get(&scratch.mount_id()).copied().unwrap_or(0))
}

/// Waits until the kernel, too, has dropped its references: for some kinds it does that after the holder.
pub fn until_references(scratch: &Scratch, left: u64) -> Result<()> {
    pause::until(PATIENCE, || {
        let now = references(scratch)?;
        Ok((now <= left).then_some(()))
    })
    .with_context(|| format!("more than {left} references are left"))
}

/// Releases all holders once ebusy has looked; then the umount succeeds.
pub fn release(scratch: &Scratch, holdings: impl IntoIterator<Item = Holding>) -> Result<()> {
    harness::settle()?;
    for holding in holdings {
        holding.release()?;
    }
    ensure!(scratch.umount()?, "still busy after the release");
    Ok(())
}

/// Releases all holders; then the umount succeeds, and the watch has reported exactly this incident.
pub fn told(
    expectation: &Expectation<'_>,
    watch: Watch,
    holdings: impl IntoIterator<Item = Holding>,
) -> Result<Incident> {
    release(expectation.scratch, holdings)?;
    let incident = watch.finish_with_one()?;
    expectation.check(&incident)?;
    Ok(incident)
}

/// Checks `who` first, then does the same as `check`.
pub fn told_and_asked(
    expectation: &Expectation<'_>,
    watch: Watch,
    holdings: impl IntoIterator<Item = Holding>,
) -> Result<()> {
    let (code, answers) = who(expectation.scratch.path())?;
    told(expectation, watch, holdings)?;
    expectation.check_who(code, &answers).context("who")
}

/// Asserts that the watch has reported nothing.
pub fn nothing_told(watch: Watch) -> Result<()> {
    let (incidents, _) = watch.finish()?;
    ensure!(incidents.is_empty(), "{incidents:#?}");
    Ok(())
}
