//! The step of the main loop, readable without waiting for it: atomics, and no lock. Only the thread of the main loop
//! writes; a reader that comes in between sees nothing rather than half of it.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

/// Bytes kept of a step's object.
const SUBJECT_MAX: usize = 256;
const WORDS: usize = SUBJECT_MAX / 8;

/// The steps of the main loop.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: the next event may be long in coming.
    Waiting,
    /// Everything before the programs are loaded.
    Starting,
    /// A file or folder that the user named.
    Opening,
    /// Kernel programs.
    Loading,
    /// The command to watch.
    Command,
    /// Mounts of all namespaces.
    Mounts,
    /// Records of the kernel programs.
    Events,
    /// References of a mount.
    References,
    /// Who a process is.
    Process,
    /// Files of container runtimes.
    Runtimes,
    /// Descriptors of a process, by /proc.
    Descriptors,
    /// Symbolic links on a path.
    Links,
    /// Search for targets that are gone.
    Gone,
    /// System calls other than umount that were refused.
    Operations,
    /// Calls of others than the host's superuser.
    Others,
    /// Loop devices that await their release.
    Loops,
    /// Mounts that were detached.
    Detached,
    /// Umounts that take long.
    Slow,
    /// Counters of the kernel programs.
    Losses,
    /// Processes that could block future umounts.
    Auditing,
    /// Results, to stdout or a file.
    Writing,
    /// The rest of a recording.
    Closing,
    /// The end of the kernel programs.
    Unloading,
}

impl Step {
    const ALL: [Self; 23] = [
        Self::Waiting,
        Self::Starting,
        Self::Opening,
        Self::Loading,
        Self::Command,
        Self::Mounts,
        Self::Events,
        Self::References,
        Self::Process,
        Self::Runtimes,
        Self::Descriptors,
        Self::Links,
        Self::Gone,
        Self::Operations,
        Self::Others,
        Self::Loops,
        Self::Detached,
        Self::Slow,
        Self::Losses,
        Self::Auditing,
        Self::Writing,
        Self::Closing,
        Self::Unloading,
    ];

    /// Words that follow "while" or "stuck"; the step's object comes after them.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for events",
            Self::Starting => "starting",
            Self::Opening => "opening",
            Self::Loading => "loading the kernel programs",
            Self::Command => "starting the command",
            Self::Mounts => "reading the mounts of all namespaces",
            Self::Events => "reading what the kernel programs sent",
            Self::References => "reading the references of",
            Self::Process => "reading who this process is: pid",
            Self::Runtimes => "reading the files of container runtimes",
            Self::Descriptors => "reading /proc/PID/fdinfo of pid",
            Self::Links => "following the symbolic links of",
            Self::Gone => "checking which mounts are gone",
            Self::Operations => "looking for what blocks other system calls",
            Self::Others => "looking at what users did",
            Self::Loops => "following loop devices",
            Self::Detached => "following lazily unmounted mounts",
            Self::Slow => "following umounts that take long",
            Self::Losses => "reading the counters of the kernel programs",
            Self::Auditing => "auditing",
            Self::Writing => "writing the results",
            Self::Closing => "closing the recording",
            Self::Unloading => "unloading the kernel programs",
        }
    }

    /// It waits only for the kernel, which may be slow on a busy host, and for nothing that another process could
    /// delay. All output is written by then.
    pub(super) fn is_harmless(self) -> bool {
        self == Self::Unloading
    }

    /// Its length depends on ebusy's user: no events, a slow reader, the user's command.
    pub(super) fn may_last(self) -> bool {
        matches!(self, Self::Waiting | Self::Writing | Self::Command)
    }
}

/// The state of the main loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Increases with every step.
    pub(super) turn: u64,
    /// The step.
    pub(super) step: Step,
    /// Its object; only the beginning, if that is long.
    pub(super) subject: Vec<u8>,
}

/// The stored step.
#[derive(Debug)]
pub(super) struct Place {
    /// Odd while the rest is being written.
    turn: AtomicU64,
    step: AtomicU8,
    length: AtomicUsize,
    subject: [AtomicU64; WORDS],
}

impl Place {
    pub(super) const fn new() -> Self {
        Self {
            turn: AtomicU64::new(0),
            step: AtomicU8::new(Step::Starting as u8),
            length: AtomicUsize::new(0),
            subject: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// Replaces the step.
    pub(super) fn set(&self, step: Step, subject: &[u8]) {
        let subject = &subject[..subject.len().min(SUBJECT_MAX)];
        self.turn.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.step.store(step as u8, Ordering::Relaxed);
        self.length.store(subject.len(), Ordering::Relaxed);
        for (word, piece) in self.subject.iter().zip(subject.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..piece.len()].copy_from_slice(piece);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        self.turn.fetch_add(1, Ordering::Release);
    }

    /// Reads it; `None` while it changes: then the loop is not stuck.
    pub(super) fn see(&self) -> Option<Seen> {
        let turn = self.turn.load(Ordering::Acquire);
        let step = self.step.load(Ordering::Relaxed);
        let length = self.length.load(Ordering::Relaxed).min(SUBJECT_MAX);
        let words = self.subject.iter().map(|word| word.load(Ordering::Relaxed));
        let mut subject: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        fence(Ordering::Acquire);
        let whole = turn.is_multiple_of(2) && self.turn.load(Ordering::Relaxed) == turn;
        subject.truncate(length);
        let step = *Step::ALL.get(usize::from(step))?;
        whole.then_some(Seen { turn, step, subject })
    }
}

/// The main loop of this process.
pub(super) static MAIN: Place = Place::new();

/// A step that lasts as long as this value; afterwards the outer step continues.
#[derive(Debug)]
#[must_use = "the step ends when this is dropped"]
pub(crate) struct Within {
    around: Option<Seen>,
}

impl Drop for Within {
    fn drop(&mut self) {
        match &self.around {
            Some(around) => MAIN.set(around.step, &around.subject),
            None => MAIN.set(Step::Starting, &[]),
        }
    }
}

/// The main loop begins a step within the current one.
pub(crate) fn within(step: Step, subject: &[u8]) -> Within {
    let around = MAIN.see();
    MAIN.set(step, subject);
    Within { around }
}

/// Begins a step whose object is a number.
pub(crate) fn within_process(step: Step, pid: u32) -> Within {
    within(step, pid.to_string().as_bytes())
}

/// Sets the step for the time outside of all other steps.
pub(crate) fn base(step: Step) {
    MAIN.set(step, &[]);
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::{Place, SUBJECT_MAX, Seen, Step};

    #[test]
    fn every_step_is_in_its_place() {
        for (index, step) in Step::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, index);
            assert!(!step.words().is_empty());
        }
    }

    #[test]
    fn what_was_set_is_seen() {
        let place = Place::new();
        assert_eq!(place.see().map(|seen| seen.step), Some(Step::Starting));
        place.set(Step::References, b"/mnt/\xff data");
        let seen = place.see().unwrap();
        assert_eq!(
            (seen.step, seen.subject),
            (Step::References, b"/mnt/\xff data".to_vec())
        );
        place.set(Step::Opening, &[b'x'; 5000]);
        assert_eq!(place.see().unwrap().subject, [b'x'; SUBJECT_MAX]);
        place.set(Step::Waiting, b"");
        let Seen { turn, subject, .. } = place.see().unwrap();
        assert_eq!((turn, subject), (6, Vec::new()));
    }

    #[test]
    fn a_reader_never_sees_a_mixture() {
        let (place, done) = (Place::new(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..50_000_u32 {
                    let (step, byte) = if round % 2 == 0 {
                        (Step::Opening, b'a')
                    } else {
                        (Step::Links, b'b')
                    };
                    place.set(step, &[byte; 200]);
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                match place.see() {
                    Some(seen) if seen.step == Step::Opening => assert_eq!(seen.subject, [b'a'; 200]),
                    Some(seen) if seen.step == Step::Links => assert_eq!(seen.subject, [b'b'; 200]),
                    Some(seen) => assert_eq!(seen.turn, 0),
                    None => {}
                }
            }
        });
    }
}
