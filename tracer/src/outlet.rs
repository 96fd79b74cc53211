//! Text on its way to an output that may not accept it: a reader that has gone or stands still, a full disk.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::confine;

/// Writes all of it, or returns the error; calls `taken` for each part. Waits for the reader, even if the descriptor is
/// non-blocking: another process that shares it may have set that.
pub(crate) fn write_all(
    to: BorrowedFd<'_>,
    mut bytes: &[u8],
    mut taken: impl FnMut(usize),
) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => {
                taken(length);
                bytes = bytes.get(length..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&to, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Texts that wait to be written.
#[derive(Debug, Default)]
struct Text {
    /// Number of texts that are missing before it.
    missing: u64,
    bytes: Vec<u8>,
}

/// Shared state of the two threads.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Text>,
    /// Bytes of those.
    bytes: usize,
    /// One is being written.
    writing: bool,
    /// Bytes that were written so far.
    taken: u64,
    /// Texts that were not written.
    lost: u64,
    /// The number of these that found no room since the last that did.
    missing: u64,
    /// The last error.
    error: Option<io::ErrorKind>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes in a thread of its own, so that the caller never waits. Text for which there is no room, or which cannot be
/// written, is lost and counted.
#[derive(Debug)]
pub(crate) struct Outlet {
    shared: Arc<Shared>,
    room: usize,
}

/// The result of the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Texts that were not written.
    pub(crate) lost: u64,
    /// The last error, if a write failed and was not just unread.
    pub(crate) error: Option<io::ErrorKind>,
}

impl Outlet {
    /// With room for this many waiting bytes; `gap` makes the words for texts that are missing before the next one.
    pub(crate) fn new(
        to: impl AsFd + Send + 'static,
        room: usize,
        gap: Option<fn(u64) -> String>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("ebusy-write".to_owned())
            .spawn(move || {
                // It only writes to open descriptors.
                let _ = confine::no_capabilities();
                confine::write_only_below(&[]);
                write(to.as_fd(), &theirs, gap);
            })?;
        Ok(Self { shared, room })
    }

    /// Takes a text, or counts it as lost.
    pub(crate) fn send(&self, text: Vec<u8>) {
        let mut queue = self.shared.queue();
        if queue.bytes + text.len() > self.room {
            queue.lost += 1;
            queue.missing += 1;
            return;
        }
        queue.bytes += text.len();
        let missing = std::mem::take(&mut queue.missing);
        queue.waiting.push_back(Text { missing, bytes: text });
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// The result of the writes so far.
    pub(crate) fn outcome(&self) -> Outcome {
        let queue = self.shared.queue();
        Outcome {
            lost: queue.lost,
            error: queue.error,
        }
    }

    /// Waits until everything is written, as long as the reader takes some of it within `patience`. The rest is lost.
    pub(crate) fn finish(&self, patience: Duration) -> Outcome {
        let mut queue = self.shared.queue();
        while queue.writing || !queue.waiting.is_empty() {
            let taken = queue.taken;
            let pending =
                |queue: &mut Queue| (queue.writing || !queue.waiting.is_empty()) && queue.taken == taken;
            let waited = self.shared.changed.wait_timeout_while(queue, patience, pending);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queue = now;
            if timeout.timed_out() {
                queue.lost += queue.waiting.len() as u64 + u64::from(queue.writing);
                queue.waiting.clear();
                queue.writing = false;
                queue.bytes = 0;
            }
        }
        Outcome {
            lost: queue.lost,
            error: queue.error,
        }
    }
}

/// Writes forever: the thread ends with the process.
fn write(to: BorrowedFd<'_>, shared: &Shared, gap: Option<fn(u64) -> String>) {
    // A partly written line is not continued.
    let mut torn = false;
    // The unreported losses before the next one.
    let mut missing = 0;
    loop {
        let mut text = {
            let idle = |queue: &mut Queue| queue.waiting.is_empty();
            let queue = shared.changed.wait_while(shared.queue(), idle);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            let text = queue.waiting.pop_front().unwrap_or_default();
            queue.writing = true;
            missing += text.missing;
            text.bytes
        };
        let length = text.len();
        if let Some(gap) = gap.filter(|_| missing > 0) {
            text.splice(..0, gap(missing).into_bytes());
        }
        if torn {
            text.insert(0, b'\n');
        }
        let mut written = 0;
        let result = write_all(to, &text, |part| {
            written += part;
            shared.queue().taken += part as u64;
            shared.changed.notify_all();
        });
        let whole = result.is_ok();
        if whole {
            torn = false;
        } else if written > 0 {
            torn = text.get(written - 1) != Some(&b'\n');
        }
        let mut queue = shared.queue();
        queue.bytes = queue.bytes.saturating_sub(length);
        // Nobody waits for it any more to count it.
        let given_up = !std::mem::take(&mut queue.writing);
        match result {
            Ok(()) => missing = 0,
            Err(error) => {
                missing += 1;
                queue.lost += u64::from(!given_up);
                queue.error = Some(error.kind());
            }
        }
        drop(queue);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _, os::fd::OwnedFd, time::Duration};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::{Outlet, write_all};

    const SOON: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn pipe() -> (File, OwnedFd) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (File::from(read), write)
    }

    fn full() -> File {
        File::options().write(true).open("/dev/full").unwrap()
    }

    #[test]
    fn what_is_read_is_all_there() {
        let (mut read, write) = pipe();
        let outlet = Outlet::new(write, 1 << 20, None).unwrap();
        for number in 0..100 {
            outlet.send(format!("{number}\n").into_bytes());
        }
        assert_eq!(outlet.finish(PATIENCE).lost, 0);
        let mut bytes = [0; 290];
        read.read_exact(&mut bytes).unwrap();
        assert!(bytes.starts_with(b"0\n1\n"));
        assert!(bytes.ends_with(b"98\n99\n"));
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_text_and_no_time() {
        let (_read, write) = pipe();
        let outlet = Outlet::new(write, 1 << 20, None).unwrap();
        for _ in 0..200 {
            outlet.send(vec![b'x'; 10_000]);
        }
        let outcome = outlet.finish(SOON);
        // A pipe takes 64 KiB.
        assert!((190..=200).contains(&outcome.lost), "{outcome:?}");
        assert_eq!(outcome.error, None);
        assert_eq!(outlet.finish(SOON), outcome);
    }

    #[test]
    fn a_slow_reader_is_waited_for() {
        let (mut read, write) = pipe();
        let outlet = Outlet::new(write, 1 << 20, None).unwrap();
        outlet.send(vec![b'x'; 300_000]);
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 300_000];
            read.read_exact(&mut bytes).map(|()| bytes.len())
        });
        assert_eq!(outlet.finish(PATIENCE).lost, 0);
        assert_eq!(reader.join().unwrap().unwrap(), 300_000);
    }

    #[test]
    fn a_reader_that_has_gone_and_a_full_disk_are_counted() {
        let (read, write) = pipe();
        drop(read);
        let gone = Outlet::new(write, 1 << 20, None).unwrap();
        let full = Outlet::new(full(), 1 << 20, None).unwrap();
        for (outlet, why) in [
            (gone, std::io::ErrorKind::BrokenPipe),
            (full, std::io::ErrorKind::StorageFull),
        ] {
            outlet.send(b"one\n".to_vec());
            outlet.send(b"two\n".to_vec());
            let outcome = outlet.finish(PATIENCE);
            assert_eq!((outcome.lost, outcome.error), (2, Some(why)));
        }
    }

    #[test]
    fn what_is_missing_is_said_where_it_is_missing() {
        let (mut read, write) = pipe();
        let outlet = Outlet::new(write, 200_000, Some(|lost| format!("[{lost}]\n"))).unwrap();
        // Text that the pipe does not take waits, and text that finds no room behind it is lost.
        for _ in 0..10 {
            outlet.send(vec![b'x'; 150_000]);
        }
        let mut bytes = vec![0; 150_000];
        read.read_exact(&mut bytes).unwrap();
        assert_eq!(outlet.finish(PATIENCE).lost, 9);
        outlet.send(b"after\n".to_vec());
        outlet.finish(PATIENCE);
        let mut end = [0; 10];
        read.read_exact(&mut end).unwrap();
        assert_eq!(&end, b"[9]\nafter\n");
    }

    #[test]
    fn a_descriptor_that_does_not_block_is_waited_for() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::empty()).unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            File::from(read).read_to_end(&mut bytes).map(|_| bytes.len())
        });
        write_all(std::os::fd::AsFd::as_fd(&write), &vec![b'x'; 500_000], |_| {}).unwrap();
        drop(write);
        assert_eq!(reader.join().unwrap().unwrap(), 500_000);
    }
}
