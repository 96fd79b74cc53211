//! Live kernel memory: runs the reader programs by `BPF_PROG_TEST_RUN` and takes the bytes from the mapped arena.

use std::{
    cell::RefCell,
    ffi::c_void,
    fmt,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::Map,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tracer_common::{ARENA_SLOTS, Arena, MAX_READ, READ_FAULT, READ_OK};

use super::{
    budget::Budget,
    memory::{Batch, End, KernelMemory, Links},
};

/// The reader programs of a loaded object, with their arena.
pub struct Reader {
    ebpf: Ebpf,
    arena: RefCell<Mapping>,
    budget: Budget,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// Names of the reader programs.
const PROGRAMS: [&str; 3] = ["read_batch", "chase", "marks"];

/// Addresses that only the kernel knows.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// The `struct bpf_array` of the per-CPU mark.
    pub map: u64,
    /// Its value on `cpu`.
    pub value: u64,
    /// The CPU that the program ran on.
    pub cpu: u32,
    /// Our own `task_struct`.
    pub task: u64,
    /// Our process id as the host sees it.
    pub tgid: u32,
}

impl Reader {
    /// Loads the reader programs of an object and maps their arena. The object goes with it: programs of it that
    /// are attached stay so while the reader lives.
    pub fn load(mut ebpf: Ebpf) -> Result<Self> {
        for name in PROGRAMS {
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("the BPF object has no program {name}"))?;
            let program: &mut RawTracePoint =
                program.try_into().with_context(|| format!("program {name}"))?;
            program
                .load()
                .with_context(|| format!("loading the reader program {name}"))?;
        }
        let Some(Map::Array(arena)) = ebpf.take_map("ARENA") else {
            bail!("the BPF object has no array ARENA")
        };
        let arena = RefCell::new(Mapping::new(arena.fd().as_fd())?);
        Ok(Self {
            ebpf,
            arena,
            budget: Budget::default(),
        })
    }

    /// The object, to see its programs.
    #[must_use]
    pub fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    fn run(&self, name: &str, args: [u64; 4], cpu: Option<u32>) -> Result<usize> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("the BPF object has no program {name}"))?;
        let program: &RawTracePoint = program.try_into()?;
        let mut options = RawTracePointRunOptions { args: [0; 12], cpu };
        options.args[..4].copy_from_slice(&args);
        let result = program
            .test_run(options)
            .with_context(|| format!("running the reader program {name}"))?;
        Ok((result.return_value as usize).min(ARENA_SLOTS))
    }

    /// Runs `marks` on a CPU (`None`: on whichever we are).
    pub fn marks(&self, cpu: Option<u32>) -> Result<Marks> {
        let arena = self.arena.borrow_mut();
        let ran = self.run("marks", [0; 4], cpu)?;
        if ran != 5 {
            bail!("the reader gave {ran} marks, expected 5");
        }
        Ok(Marks {
            map: arena.address(0),
            value: arena.address(1),
            cpu: arena.address(2) as u32,
            task: arena.address(3),
            tgid: arena.address(4) as u32,
        })
    }
}

impl KernelMemory for Reader {
    fn read(&self, addresses: &[u64], offset: u32, len: usize) -> Batch {
        let mut arena = self.arena.borrow_mut();
        let mut batch = Batch::new(len, addresses.len());
        if len == 0 || len > MAX_READ || offset == tracer_common::ABSENT {
            for _ in addresses {
                batch.push(None);
            }
            return batch;
        }
        let shift = len.next_power_of_two().trailing_zeros();
        for chunk in addresses.chunks(Arena::slots(shift)) {
            for (slot, address) in chunk.iter().enumerate() {
                arena.set_address(slot, *address);
            }
            let args = [
                chunk.len() as u64,
                len as u64,
                u64::from(shift),
                u64::from(offset),
            ];
            let done = self.run("read_batch", args, None).unwrap_or_else(|error| {
                log::warn!("{error:#}");
                0
            });
            for slot in 0..chunk.len() {
                let readable = slot < done && arena.status(slot) == READ_OK;
                batch.push(readable.then(|| arena.data(slot << shift, len)));
            }
        }
        batch
    }

    fn links(&self, first: u64, offset: u32, stop: u64, most: usize) -> Links {
        let arena = self.arena.borrow_mut();
        let nothing = Links {
            nodes: Vec::new(),
            end: End::Fault,
        };
        if offset == tracer_common::ABSENT {
            return nothing;
        }
        let args = [first, u64::from(offset), stop, most as u64];
        match self.run("chase", args, None) {
            Ok(count) => Links {
                nodes: (0..count).map(|slot| arena.address(slot)).collect(),
                end: match arena.status(0) {
                    READ_OK => End::Stop,
                    READ_FAULT => End::Fault,
                    _ => End::More,
                },
            },
            Err(error) => {
                log::warn!("{error:#}");
                nothing
            }
        }
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// The memory-mapped value of the arena map.
struct Mapping {
    arena: NonNull<Arena>,
    len: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let len = size_of::<Arena>().next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }
        .context("mapping the reader's arena")?;
        let arena = NonNull::new(address.cast()).context("the reader's arena is mapped at null")?;
        Ok(Self { arena, len })
    }

    fn address(&self, slot: usize) -> u64 {
        assert!(slot < ARENA_SLOTS);
        // SAFETY: the mapping is as large as the arena and lives as long as we; the program has returned.
        unsafe {
            (&raw const (*self.arena.as_ptr()).address)
                .cast::<u64>()
                .add(slot)
                .read_volatile()
        }
    }

    fn set_address(&mut self, slot: usize, address: u64) {
        assert!(slot < ARENA_SLOTS);
        // SAFETY: as in `address`.
        unsafe {
            (&raw mut (*self.arena.as_ptr()).address)
                .cast::<u64>()
                .add(slot)
                .write_volatile(address);
        };
    }

    fn status(&self, slot: usize) -> u8 {
        assert!(slot < ARENA_SLOTS);
        // SAFETY: as in `address`.
        unsafe {
            (&raw const (*self.arena.as_ptr()).status)
                .cast::<u8>()
                .add(slot)
                .read_volatile()
        }
    }

    fn data(&self, start: usize, len: usize) -> &[u8] {
        assert!(start + len <= tracer_common::ARENA_BYTES + MAX_READ);
        // SAFETY: within the arena; the program that writes it has returned, and runs again only by `&mut self`
        // or behind the `RefCell` of the reader, after this slice was copied.
        unsafe {
            std::slice::from_raw_parts(
                (&raw const (*self.arena.as_ptr()).data).cast::<u8>().add(start),
                len,
            )
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of this length; nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.arena.as_ptr().cast::<c_void>(), self.len) } {
            log::debug!("unmapping the arena: {error}");
        }
    }
}
