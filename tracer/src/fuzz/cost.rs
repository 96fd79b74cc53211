//! What reading something costs: an input of 1 KiB may take 64 MiB and a second, and a longer one as much more.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, which counts: for `#[global_allocator]` of whoever asks for costs.
#[derive(Debug)]
pub struct Counting;

// SAFETY: the system's allocator does what is asked of it; this only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = layout.size() as u64;
        ALLOCATED.fetch_add(size, Relaxed);
        PEAK.fetch_max(HELD.fetch_add(size, Relaxed).wrapping_add(size), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What something cost. Memory is 0 where [`Counting`] is not the allocator.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Bytes that were allocated, freed or not.
    pub allocated: u64,
    /// Bytes that were held at once, beside what was there before.
    pub peak: u64,
    /// Time of this thread on a CPU.
    pub time: Duration,
}

/// Does something, and says what it cost; of the whole process.
pub fn cost<T>(run: impl FnOnce() -> T) -> (T, Cost) {
    let (allocated, held) = (ALLOCATED.load(Relaxed), HELD.load(Relaxed));
    PEAK.store(held, Relaxed);
    let begun = on_cpu();
    let result = run();
    let cost = Cost {
        allocated: ALLOCATED.load(Relaxed) - allocated,
        peak: PEAK.load(Relaxed).saturating_sub(held),
        time: on_cpu().saturating_sub(begun),
    };
    (result, cost)
}

fn on_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Cost {
    /// What an input of that size may cost.
    const ALLOCATED_MAX: u64 = 64 << 20;
    const TIME_MAX: Duration = Duration::from_secs(1);

    /// Panics where an input of that size cost too much.
    ///
    /// # Panics
    ///
    /// That is how a fuzzer is told.
    pub fn check(&self, size: usize) {
        let kibibytes = size.div_ceil(1024).max(1) as u32;
        let allocated = Self::ALLOCATED_MAX.saturating_mul(u64::from(kibibytes));
        // Without optimisation all takes longer.
        let slower = if cfg!(debug_assertions) { 8 } else { 1 };
        let time = Self::TIME_MAX.saturating_mul(kibibytes).saturating_mul(slower);
        assert!(
            self.allocated <= allocated && self.time <= time,
            "an input of {size} bytes cost {self:?}"
        );
    }
}
