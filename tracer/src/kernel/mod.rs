//! The kernel's own structures, read as they are: mounts, propagation, tasks, open files, mappings.

mod context;
mod count;
mod dentry;
mod describe;
mod file;
mod layout;
mod mapping;
mod memory;
mod mount;
mod propagation;
mod reader;
mod snapshot;
mod task;
#[cfg(test)]
mod testing;
mod walk;

pub use self::{
    context::Kernel,
    count::PerCpu,
    dentry::Paths,
    file::{Descriptor, PathAddress, access},
    layout::{KernelLayout, LayoutError},
    mapping::MappedFile,
    memory::{Batch, Chain, KernelMemory, RecordedMemory},
    mount::{Mount, Superblock},
    propagation::Slots,
    reader::{Marks, Reader},
    snapshot::{MountState, Reference, Snapshot, snapshot},
    task::{Task, Tasks},
};
