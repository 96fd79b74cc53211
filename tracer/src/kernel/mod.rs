//! The kernel's own structures, read as they are: mounts, propagation, tasks, open files, mappings.

#[macro_use]
mod needs;

mod accounting;
mod aio;
mod binfmt;
mod budget;
mod cached_name;
mod census;
mod child_mount;
mod closing;
mod collectors;
mod context;
mod count;
mod dentry;
mod describe;
mod everywhere;
mod export;
mod fanotify;
mod file;
mod found;
mod fuzzed;
mod layout;
mod listing;
mod loop_device;
mod mapping;
mod memory;
mod module;
mod mount;
mod net;
mod orphan;
mod own_inode;
mod path_walk;
mod per_cpu;
mod process;
mod propagation;
mod reader;
#[doc(hidden)]
pub mod recording;
mod reference;
mod second_look;
mod snapshot;
mod socket;
mod subject;
mod superblock;
mod survey;
mod swap;
mod system_call;
mod task;
#[cfg(test)]
mod testing;
mod uprobe;
mod uring;
mod uring_request;
mod user_memory;
mod walk;
mod ways;

pub use self::{
    budget::Budget,
    cached_name::CachedName,
    collectors::kinds_not_shown,
    context::Kernel,
    dentry::{PathText, Paths},
    everywhere::{AllMounts, Place},
    file::{Descriptor, PathAddress, access},
    layout::{KernelLayout, LayoutError},
    listing::Listing,
    mapping::MappedFile,
    memory::{Batch, Chain, End, KernelMemory, Links, RecordedMemory},
    mount::{Mount, Superblock},
    per_cpu::PerCpu,
    process::ProcessFacts,
    propagation::Slots,
    reader::{Marks, Reader},
    reference::Reference,
    snapshot::{MountState, Snapshot, snapshot},
    subject::LedgerFile,
    superblock::{OverlayDirectories, block_types, device_numbers},
    survey::{NamespaceDescriptor, Survey, survey},
    task::{Task, Tasks},
    user_memory::UserMemory,
    ways::Ways,
};
pub(crate) use self::{dentry::shortened, fuzzed::fuzzed, mount::MOUNTS_MAX};
