//! The only place where a test sleeps: until a condition holds, or, explicitly, to show that nothing happens.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::harness;

/// Between two looks.
const POLL: Duration = Duration::from_millis(2);

/// Polls until there is an answer; fails after the limit. The last look begins after the limit.
pub fn until<T>(patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let late = Instant::now() >= deadline;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if late {
            bail!("not so after {} ms", patience.as_millis());
        }
        thread::sleep(POLL);
    }
}

/// Lets time pass in which something must not change. No event ends this, so the time is lost: say `why`.
pub fn nothing_happens_for(time: Duration, why: &'static str) {
    debug_assert!(!why.is_empty());
    thread::sleep(time);
}

/// Lets time pass that is part of the test: the rhythm of a caller, a timeout, the duration of an umount.
pub fn takes(time: Duration, what: &'static str) {
    debug_assert!(!what.is_empty());
    thread::sleep(time);
}

/// Gives a worker of the kernel time to take its work, for which there is no event.
pub fn kernel_works() {
    thread::sleep(Duration::from_millis(if harness::in_machine() {
        1000
    } else {
        300
    }));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::until;

    #[test]
    fn waits_until_it_is_so() {
        let mut looks = 0;
        let found = until(Duration::from_secs(10), || {
            looks += 1;
            Ok((looks == 3).then_some("it"))
        });
        assert_eq!((found.unwrap(), looks), ("it", 3));
        assert!(until(Duration::ZERO, || Ok(None::<()>)).is_err());
        assert!(
            until(Duration::from_secs(10), || anyhow::bail!("broken")
                as anyhow::Result<Option<()>>)
            .is_err()
        );
    }
}
