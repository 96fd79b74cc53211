//! Kernel memory together with the layout that makes sense of it.

use super::{layout::KernelLayout, memory::KernelMemory, per_cpu::PerCpu, ways::Ways};

/// What every walk needs.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    /// The memory.
    pub memory: &'a dyn KernelMemory,
    /// Where the fields are.
    pub layout: &'a KernelLayout,
    /// Where per-CPU values are.
    pub per_cpu: &'a PerCpu,
    /// Ways to what no task leads to.
    pub ways: &'a Ways,
}

impl std::fmt::Debug for Kernel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("per_cpu", self.per_cpu)
            .finish_non_exhaustive()
    }
}
