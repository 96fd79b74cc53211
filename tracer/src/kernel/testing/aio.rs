//! Requests of AIO in recorded memory: as they are, done meanwhile, without an end.

use proptest::prelude::*;

use super::{BASE, FILE_DENTRY, INIT, MM, Machine, TARGET, at};
use crate::{
    kernel::{Reference, Snapshot, snapshot},
    model::{AIO_REQUEST, Kind, Text},
};

const TABLE: u64 = at(70);
const CONTEXT: u64 = at(72);
pub(super) const REQUEST: u64 = at(74);
pub(super) const AIO_FILE: u64 = at(76);
/// Where the context is in its table.
const SLOT: u64 = 2;
const WORKER_THREAD: u64 = at(78);

impl Machine {
    /// The process with an address space has a context without requests.
    fn aio_context(&mut self) {
        let t = self.layout.table;
        for page in 70..82 {
            self.memory.write(at(page), &[0; 0x1000]);
        }
        self.set(MM, t.mm_aio, TABLE);
        self.set(TABLE, t.aio_table_count, 4);
        self.set(TABLE, t.aio_table + SLOT as u32 * 8, CONTEXT);
        self.set(CONTEXT, t.aio_context_number, SLOT);
        self.ring(CONTEXT + u64::from(t.aio_context_requests), &[]);
        self.set(REQUEST, t.aio_request_context, CONTEXT);
        self.set(REQUEST, t.aio_request_file, AIO_FILE);
    }

    /// It has a request that waits, of a file of that mount.
    pub(super) fn aio_request(&mut self, mount: u64) {
        self.aio_context();
        let t = self.layout.table;
        self.file(AIO_FILE, mount);
        let head = CONTEXT + u64::from(t.aio_context_requests);
        self.ring(head, &[REQUEST + u64::from(t.aio_request_link)]);
    }
}

/// What is held by requests.
pub(super) fn of_requests(snapshot: &Snapshot) -> Vec<&Reference> {
    let by = Some(Text::from(AIO_REQUEST.to_owned()));
    let references = snapshot.references.iter();
    references
        .filter(|reference| reference.holder.held_by == by)
        .collect()
}

#[test]
fn a_request_is_of_who_has_the_address_space() {
    let mut machine = Machine::new();
    machine.aio_request(TARGET);
    let found = machine.snapshot();
    assert_eq!(found.gaps, Vec::<String>::new());
    let [reference] = of_requests(&found)[..] else {
        panic!("{found:#?}");
    };
    let holder = &reference.holder;
    let pid = holder.process.as_ref().map(|process| process.pid);
    assert_eq!(
        (reference.mount, reference.object, holder.kind, pid, holder.fd),
        (TARGET, AIO_FILE, Kind::Kernel, Some(1), None)
    );
    assert_eq!((holder.refs, holder.also.len()), (1, 0));
}

#[test]
fn a_file_with_a_descriptor_and_a_request_is_one_reference() {
    let mut machine = Machine::new();
    machine.aio_request(TARGET);
    let t = machine.layout.table;
    machine.set(REQUEST, t.aio_request_file, super::FILE);
    let found = machine.snapshot();
    let of_file: Vec<&Reference> = found
        .references
        .iter()
        .filter(|reference| reference.object == super::FILE)
        .collect();
    let [reference] = of_file[..] else {
        panic!("{found:#?}");
    };
    let holder = &reference.holder;
    assert_eq!(
        (holder.kind, &holder.also[..], holder.refs),
        (Kind::Fd, &[Kind::Kernel][..], 1)
    );
    let pids: Vec<u32> = holder.shared_with.iter().map(|sharer| sharer.pid).collect();
    assert_eq!(
        (holder.process.as_ref().map(|process| process.pid), pids),
        (Some(40), vec![1])
    );
}

#[test]
fn what_does_not_lead_back_is_no_request() {
    let t = Machine::new().layout.table;
    // A context that is elsewhere in its table, and a request of another context.
    for (structure, offset, word) in [
        (CONTEXT, t.aio_context_number, SLOT + 1),
        (REQUEST, t.aio_request_context, CONTEXT + 0x40),
        (REQUEST, t.aio_request_file, 0),
        (TABLE, t.aio_table + SLOT as u32 * 8, 0x7fff_0000_1000),
        (TABLE, t.aio_table_count, SLOT),
        (MM, t.mm_aio, 0x7fff_0000_1000),
    ] {
        let mut machine = Machine::new();
        machine.aio_request(TARGET);
        machine.set(structure, offset, word);
        let found = machine.snapshot();
        assert!(of_requests(&found).is_empty(), "{offset}: {found:#?}");
    }
}

#[test]
fn what_has_no_end_is_cut_short_and_told() {
    const CHANGED: &str = "the requests of AIO changed under the walk";
    let t = Machine::new().layout.table;
    let link = REQUEST + u64::from(t.aio_request_link);
    for (at, word) in [
        // The list leads to itself, not to its head; or nowhere.
        (link, link),
        (link, 0xffff_9999_0000_0000),
        (TABLE + u64::from(t.aio_table_count), u64::from(u32::MAX)),
    ] {
        let mut machine = Machine::new();
        machine.aio_request(TARGET);
        machine.memory.write_word(at, word);
        let found = machine.snapshot();
        assert_eq!(found.gaps, [CHANGED], "{at:x}");
        assert!(of_requests(&found).len() <= 1, "{found:#?}");
    }
}

/// A kernel thread of a workqueue that does something.
fn worker(machine: &mut Machine, work: u64) {
    let t = machine.layout.table;
    let (kthread, worker) = (at(80), at(81));
    // A thread without an address space is one of the kernel.
    machine.set(super::THREAD, t.task_worker, kthread);
    machine.set(kthread, t.kthread_data, worker);
    machine.set(worker, t.worker_task, super::THREAD);
    machine.set(worker, t.worker_work, work);
}

#[test]
fn a_request_that_a_worker_syncs_is_of_who_asked() {
    let mut machine = Machine::new();
    machine.aio_context();
    machine.file(AIO_FILE, TARGET);
    let work = REQUEST + u64::from(machine.layout.table.aio_request_sync);
    worker(&mut machine, work);
    let found = machine.snapshot();
    let pids: Vec<Option<u32>> = of_requests(&found)
        .iter()
        .map(|reference| reference.holder.process.as_ref().map(|process| process.pid))
        .collect();
    assert_eq!(pids, [Some(1)], "{found:#?}");
    // It does something else by now.
    worker(&mut machine, WORKER_THREAD);
    assert!(of_requests(&machine.snapshot()).is_empty());
}

#[test]
fn a_kernel_that_does_not_tell_where_requests_are_is_told() {
    let mut machine = Machine::new();
    machine.aio_request(TARGET);
    machine.layout.table.aio_context_requests = tracer_common::ABSENT;
    assert_eq!(
        machine.snapshot().gaps,
        ["requests of AIO: the kernel's type information lacks them"]
    );
    // Without any AIO there is nothing to tell.
    machine.layout.table.mm_aio = tracer_common::ABSENT;
    assert_eq!(machine.snapshot().gaps, Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// Whatever is in memory, the walk ends, and a file that is named is one that a request can have.
    #[test]
    fn damaged_requests_do_no_harm(damage in prop::collection::vec((40u64 * 512..82 * 512, any::<prop::sample::Index>()), 1..20)) {
        let mut machine = Machine::new();
        machine.aio_request(TARGET);
        let target = machine.target();
        for (word, value) in damage {
            machine.memory.write_word(BASE + word * 8, BASE + (40 * 512 + value.index(42 * 512) as u64) * 8);
        }
        let found = snapshot(machine.kernel(), &target, INIT, &[], || 0);
        for reference in of_requests(&found) {
            prop_assert!(reference.holder.refs <= 3 && reference.holder.process.is_some());
            prop_assert_ne!(reference.object, FILE_DENTRY);
        }
    }
}
