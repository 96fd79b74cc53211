//! Records what the walks read for a snapshot of the mount that the working directory is on: how
//! `tests/walks/*.zst` are made. It holds that mount itself, as `cwd`.
//!
//! In a virtual machine, so that nothing of a real host is in it (docs/testing.md). As root; the recording goes to
//! standard output, what was found to standard error.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use tracer::{
    btf::Btf,
    kernel::{
        Kernel, KernelLayout, PerCpu, Ways,
        recording::{Beginning, Recorder},
        snapshot,
    },
    probe::reader_only,
};

fn main() -> Result<()> {
    let layout = KernelLayout::resolve(&Btf::running_kernel()?);
    layout.check()?;
    let reader = reader_only(&layout)?;
    let per_cpu = PerCpu::find(&reader, &layout);
    let task = reader.marks(None)?.task;
    // Nothing is opened on the way: what no task leads to is not in it.
    let ways = Ways::default();
    let recorder = Recorder::new(&reader);
    let kernel = Kernel {
        memory: &recorder,
        layout: &layout,
        per_cpu: &per_cpu,
        ways: &ways,
    };
    let t = &layout.table;
    let target = kernel
        .memory
        .word(task, t.task_fs)
        .and_then(|fs| kernel.memory.word(fs, t.fs_pwd))
        .map(|mount| mount.wrapping_sub(u64::from(t.mount_mnt)))
        .context("no way to the working directory")?;
    let mount = kernel.mount(target).context("no mount")?;
    let found = snapshot(kernel, &mount, task, &[], || 0);
    for reference in &found.references {
        let holder = &reference.holder;
        let process = holder.process.as_ref();
        eprintln!(
            "{:?} {:?} {} {} {}",
            holder.through,
            holder.kind,
            process.map_or(0, |process| process.pid),
            process.map_or_else(Default::default, |process| process.comm.to_str_lossy()),
            holder.path.to_str_lossy()
        );
    }
    eprintln!("{:?} {:?}", found.target.counts, found.gaps);
    let beginning = Beginning {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        per_cpu: per_cpu.offsets.clone(),
        target,
        task,
    };
    io::stdout().write_all(&recorder.finish(&beginning)?)?;
    Ok(())
}
