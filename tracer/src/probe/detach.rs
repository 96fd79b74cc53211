//! Takes programs off their events. For each the kernel waits until no CPU is in it any more: a few times 10 ms on a quiet
//! machine, and so more than a second for all of them, one after the other. Part of that waiting it can do for several at
//! once.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

/// How many are closed at once. One of them has the lock of the kernel under which the last part is done (`event_mutex`);
/// the others have waited for their first part by the time they get it.
const AT_ONCE: usize = 8;
/// What such a thread needs of a stack.
const STACK: usize = 64 << 10;

/// Drops all of them, which close descriptors, and waits for that.
pub(super) fn drop_at_once<T: Send>(all: Vec<T>) {
    let threads = AT_ONCE.min(all.len());
    let left = Mutex::new(all);
    let close = || {
        while let Some(one) = next(&left) {
            drop(one);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            let thread = thread::Builder::new()
                .name("ebusy-detach".to_owned())
                .stack_size(STACK);
            // Without it, this one has more to do.
            if thread.spawn_scoped(scope, close).is_err() {
                break;
            }
        }
        close();
    });
}

fn next<T>(left: &Mutex<Vec<T>>) -> Option<T> {
    left.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, Mutex},
        thread::{self, ThreadId},
    };

    use super::{AT_ONCE, drop_at_once};

    /// Ends only while so many others do.
    struct Slow<'a>(&'a Barrier, &'a Mutex<Vec<ThreadId>>);

    impl Drop for Slow<'_> {
        fn drop(&mut self) {
            self.0.wait();
            self.1.lock().unwrap().push(thread::current().id());
        }
    }

    #[test]
    fn all_are_dropped_and_so_many_at_once() {
        let (barrier, dropped) = (Barrier::new(AT_ONCE), Mutex::new(Vec::new()));
        for count in [0, AT_ONCE, 3 * AT_ONCE] {
            drop_at_once((0..count).map(|_| Slow(&barrier, &dropped)).collect());
            assert_eq!(std::mem::take(&mut *dropped.lock().unwrap()).len(), count);
        }
    }
}
