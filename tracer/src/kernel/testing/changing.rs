//! Kernel memory that changes under a walk, at every read of it in turn: processes end, others take their numbers and
//! their memory. Whenever that happens, nobody is named for what he never had.

use std::cell::Cell;

use super::{
    super::{Batch, Budget, Kernel, KernelMemory, Links, Reference, Snapshot, snapshot},
    FILE, FILE_DENTRY, HOLDER, HOST_ROOT, INIT, MM, Machine, TARGET, THREAD,
    aio::{AIO_FILE, REQUEST, of_requests},
    at,
};
use crate::{kernel::RecordedMemory, model::Kind};

/// One memory up to some read, another from then on.
struct ChangingMemory<'m> {
    before: &'m RecordedMemory,
    after: &'m RecordedMemory,
    change: usize,
    reads: Cell<usize>,
}

impl ChangingMemory<'_> {
    fn now(&self) -> &RecordedMemory {
        let reads = self.reads.get();
        self.reads.set(reads + 1);
        if reads < self.change {
            self.before
        } else {
            self.after
        }
    }
}

impl KernelMemory for ChangingMemory<'_> {
    fn read(&self, addresses: &[u64], offset: u32, len: usize) -> Batch {
        let mut batch = Batch::new(len, addresses.len());
        for address in addresses {
            batch.push(self.now().read(&[*address], offset, len).get(0));
        }
        batch
    }

    fn links(&self, first: u64, offset: u32, stop: u64, most: usize) -> Links {
        let next = |node| self.now().read(&[node], offset, 8).words().next().flatten();
        Links::follow(first, stop, most, next)
    }

    fn budget(&self) -> &Budget {
        self.before.budget()
    }
}

/// A snapshot for every read that the memory can change at.
fn snapshots(before: &Machine, after: &Machine) -> Vec<Snapshot> {
    let take = |change| {
        let memory = ChangingMemory {
            before: &before.memory,
            after: &after.memory,
            change,
            reads: Cell::new(0),
        };
        let kernel = Kernel {
            memory: &memory,
            ..before.kernel()
        };
        let found = snapshot(kernel, &before.target(), INIT, &[], || 0);
        (found, memory.reads.get())
    };
    let (_, reads) = take(usize::MAX);
    (0..=reads).map(|change| take(change).0).collect()
}

fn on_target(snapshot: &Snapshot) -> impl Iterator<Item = &Reference> {
    snapshot
        .references
        .iter()
        .filter(|reference| reference.mount == TARGET)
}

fn pid(reference: &Reference) -> u32 {
    reference.holder.process.as_ref().map_or(0, |process| process.pid)
}

/// The file that the second process has open is on a mount that nobody asks about.
fn elsewhere() -> Machine {
    let mut machine = Machine::new();
    machine.file(FILE, HOST_ROOT);
    machine
}

/// The second process has ended, and its memory is free.
fn ended(machine: &mut Machine) {
    let t = machine.layout.table;
    machine.ring(INIT + u64::from(t.task_tasks), &[]);
    for page in [21, 22, 23, 24, 26] {
        machine.memory.write(at(page), &[0; 0x1000]);
    }
}

/// A table of one descriptor.
fn table(machine: &mut Machine, files: u64, fd: u64, file: u64) {
    let t = machine.layout.table;
    let (table, array, bitmap) = (files + 0x400, files + 0x600, files + 0xf80);
    machine.memory.write(files, &[0; 0x1000]);
    machine.set(files, t.files_fdt, table);
    machine.set(table, t.fdt_max_fds, 128);
    machine.set(table, t.fdt_fd, array);
    machine.set(table, t.fdt_open_fds, bitmap);
    machine.memory.write_word(bitmap + fd / 64 * 8, 1 << (fd % 64));
    machine.memory.write_word(array + fd * 8, file);
}

#[test]
fn a_file_that_is_another_by_now_is_not_of_who_has_ended() {
    let before = elsewhere();
    let mut after = elsewhere();
    ended(&mut after);
    after.file(FILE, TARGET);
    table(&mut after, at(27), 3, FILE);
    after.set(INIT, after.layout.table.task_files, at(27));
    let found = snapshots(&before, &after);
    for snapshot in &found {
        assert!(
            on_target(snapshot).all(|reference| pid(reference) == 1),
            "{snapshot:#?}"
        );
    }
    // And those that look late enough find who has it now.
    assert_eq!(on_target(&found[0]).count(), 1, "{:#?}", found[0]);
}

#[test]
fn a_process_of_the_same_number_is_another() {
    const NEW: u64 = at(28);
    let before = elsewhere();
    let mut after = elsewhere();
    ended(&mut after);
    let t = after.layout.table;
    after.file(FILE, TARGET);
    // It has the number of the one that ended, and the memory of its thread.
    after.task(THREAD, 40, 40, at(24), 0);
    after.set(THREAD, t.task_start_boottime, 999);
    after.set(THREAD, t.task_group_leader, THREAD);
    after.set(THREAD, t.task_signal, NEW);
    after
        .memory
        .write(THREAD + u64::from(t.task_comm), b"another\0\0\0\0\0\0\0\0\0");
    table(&mut after, at(24), 70, FILE);
    let link = u64::from(t.task_tasks);
    after.ring(INIT + link, &[THREAD + link]);
    let node = u64::from(t.task_thread_node);
    after.ring(NEW + u64::from(t.signal_thread_head), &[THREAD + node]);
    for snapshot in snapshots(&before, &after) {
        for reference in on_target(&snapshot) {
            let process = reference.holder.process.as_ref().unwrap();
            let comm = process.comm.to_str_lossy();
            // Who is named has its start, or none of both: then /proc has no such process.
            assert!(
                reference.start == 999 && comm == "another" || comm.is_empty(),
                "{snapshot:#?}"
            );
        }
    }
}

#[test]
fn what_a_process_had_mapped_before_it_ran_another_program_is_not_its_own() {
    let mapped = at(32);
    let mut before = Machine::new();
    before.file(mapped, HOST_ROOT);
    let mut after = Machine::new();
    let t = after.layout.table;
    after.set(INIT, t.task_mm, at(45));
    after.memory.write(MM, &[0; 0x1000]);
    after.file(mapped, TARGET);
    table(&mut after, at(24), 70, mapped);
    for snapshot in snapshots(&before, &after) {
        let of_init = on_target(&snapshot).filter(|reference| pid(reference) == 1);
        assert_eq!(of_init.count(), 0, "{snapshot:#?}");
    }
}

#[test]
fn directories_are_those_of_who_has_them_now() {
    let directories = at(33);
    let with = |machine: &mut Machine, task: u64, mount: u64| {
        let t = machine.layout.table;
        let path = mount + u64::from(t.mount_mnt);
        machine.set(task, t.task_fs, directories);
        machine.set(directories, t.fs_pwd, path);
        machine.set(directories, t.fs_pwd + 8, FILE_DENTRY);
    };
    let mut before = elsewhere();
    with(&mut before, HOLDER, HOST_ROOT);
    let mut after = elsewhere();
    ended(&mut after);
    with(&mut after, INIT, TARGET);
    let found = snapshots(&before, &after);
    for snapshot in &found {
        assert!(
            on_target(snapshot).all(|reference| pid(reference) == 1),
            "{snapshot:#?}"
        );
    }
    let now = on_target(&found[0]).filter(|reference| reference.holder.kind == Kind::Cwd);
    assert_eq!(now.count(), 1, "{:#?}", found[0]);
}

#[test]
fn a_request_that_was_done_meanwhile_is_of_nobody() {
    let mut before = elsewhere();
    before.aio_request(HOST_ROOT);
    // Its file, and the memory of its request, are given away again: to another process, on the target.
    let mut after = elsewhere();
    let t = after.layout.table;
    after.aio_request(HOST_ROOT);
    after.file(AIO_FILE, TARGET);
    after.memory.write(REQUEST, &[0; 0x2000]);
    let list = before.layout.table.aio_context_requests;
    let head = after.kernel().memory.word(MM, t.mm_aio).unwrap();
    let context = after.kernel().memory.word(head, t.aio_table + 16).unwrap();
    after.ring(context + u64::from(list), &[]);
    table(&mut after, at(24), 70, AIO_FILE);
    for snapshot in snapshots(&before, &after) {
        assert!(of_requests(&snapshot).is_empty(), "{snapshot:#?}");
        assert!(
            on_target(&snapshot).all(|reference| pid(reference) == 40),
            "{snapshot:#?}"
        );
    }
}

#[test]
fn a_request_is_not_of_who_runs_another_program_by_now() {
    let mut before = elsewhere();
    before.aio_request(HOST_ROOT);
    let mut after = elsewhere();
    after.aio_request(TARGET);
    after.set(INIT, after.layout.table.task_mm, at(45));
    for snapshot in snapshots(&before, &after) {
        assert!(of_requests(&snapshot).is_empty(), "{snapshot:#?}");
    }
}
