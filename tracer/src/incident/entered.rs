//! Who came into which mount namespace, and when: how a holder got to the mount that it holds.

use std::collections::{HashMap, VecDeque};

use tracer_common::HOST;

use super::{kept::Kept, room::Skipped};
use crate::{
    identity::BootClock,
    model::{self, Holder, Kind, Process, WayIn},
    stream::{Entered, Opened},
};

/// Enterings kept at the most, and of one source that is not the host.
const KEPT_MAX: usize = 20_000;
const EACH_SOURCE_MAX: usize = KEPT_MAX / 8;
/// Of one thread: a program that goes through many containers may have opened files in the last few.
const EACH_MAX: usize = 16;

/// /proc has the start of a process in ticks of this length, ns (`USER_HZ`, 100 on every architecture but alpha).
const TICK: i64 = 10_000_000;
/// A thread that made a namespace by unshare is in it so soon, ns: the hooks see both.
const SAME_CALL: u64 = 1_000_000_000;

/// The latest enterings.
#[derive(Debug, Default)]
pub(super) struct Enterings {
    /// By thread, in order.
    threads: HashMap<u32, VecDeque<Entered>>,
    order: Kept<(u32, u64), KEPT_MAX, EACH_SOURCE_MAX>,
    /// Those that had to be forgotten, by source.
    forgotten: Skipped,
    /// Records were lost some time before.
    doubtful_until: u64,
}

impl Enterings {
    /// Records were lost before `now`.
    pub(super) fn lost(&mut self, now: u64) {
        self.doubtful_until = now;
    }

    /// A thread came into another namespace. Where it was before is told by its entering before, unless records were lost
    /// since.
    pub(super) fn push(&mut self, mut entered: Entered) {
        let doubtful = self.doubtful_until;
        let tid = entered.tid.unwrap_or(entered.pid);
        let thread = self.threads.entry(tid).or_default();
        let before = thread
            .back()
            .filter(|before| is_same(before, entered.pid, entered.start) && before.time > doubtful);
        // unshare makes the namespace (`copy_mnt_ns`) and moves the thread into it as setns does
        // (`switch_task_namespaces`; kernel/nsproxy.c, 5.10 to 7.2): one entering, of which the first record tells.
        let is_second = |before: &Entered| {
            before.operation != entered.operation
                && entered.operation == WayIn::Setns
                && before.namespace == entered.namespace
                && entered.time.saturating_sub(before.time) < SAME_CALL
        };
        if before.is_some_and(is_second) {
            return;
        }
        entered.from = entered.from.or(before.map(|before| before.namespace));
        let forgotten = self.order.push(entered.source, (tid, entered.time));
        thread.push_back(entered);
        if thread.len() > EACH_MAX {
            thread.pop_front();
        }
        // It may have been one too many of its thread.
        if let Some((source, (tid, time))) = forgotten
            && let Some(thread) = self.threads.get_mut(&tid)
        {
            if thread.pop_front_if(|oldest| oldest.time <= time).is_some() && source != HOST {
                *self.forgotten.entry(source).or_default() += 1;
            }
            if thread.is_empty() {
                self.threads.remove(&tid);
            }
        }
    }

    /// Those of others that had to be forgotten, by source. Where the host's are, nobody made noise.
    pub(super) fn forgotten(&self) -> &Skipped {
        &self.forgotten
    }

    /// The last time before `until` that a thread, or the first one of its process, came into a namespace.
    fn find(&self, process: &Process, start: u64, namespace: u32, until: u64) -> Option<&Entered> {
        let of_thread = |tid: u32| {
            let mut latest_first = self.threads.get(&tid)?.iter().rev();
            latest_first.find(|entered| {
                is_same(entered, process.pid, start)
                    && entered.namespace == namespace
                    && entered.time <= until
            })
        };
        process.tid.and_then(of_thread).or_else(|| of_thread(process.pid))
    }

    /// How a holder got to its mount: `opened` if its open was seen, `start` of its process, `found` when it was found.
    /// `None` where that is unknown, and where it was in that namespace for as long as ebusy has looked.
    pub(super) fn way_in(
        &self,
        holder: &Holder,
        opened: Option<&Opened>,
        (start, found): (u64, u64),
        clock: Option<BootClock>,
    ) -> Option<Box<model::Entered>> {
        let process = holder.process.as_ref()?;
        let held = holder.mount_namespace?;
        let at = |time: u64| Some(clock?.timestamp(time));
        let outside = |from: Option<u32>, time: Option<u64>| {
            let from = from.filter(|from| *from != held && is_by_path(holder.kind))?;
            Some(Box::new(model::Entered {
                time: time.and_then(at),
                operation: WayIn::Outside,
                namespace: held,
                from: Some(from),
                container: None,
                by: None,
            }))
        };
        let entered = |entered: &Entered| {
            Box::new(model::Entered {
                time: at(entered.time),
                operation: entered.operation,
                namespace: held,
                from: entered.from,
                container: entered.container.as_deref().cloned(),
                by: None,
            })
        };
        let inherited = || self.inherited(process, start, held, clock?);
        match opened.filter(|opened| opened.by.pid == process.pid && opened.start == start) {
            // Where it was when it opened the file: it may have gone elsewhere since.
            Some(opened) if opened.by.mount_namespace.is_none_or(|own| own == held) => {
                let own = self.find(&opened.by, start, held, opened.time);
                own.map(entered).or_else(inherited)
            }
            Some(opened) => outside(opened.by.mount_namespace, Some(opened.time)),
            None => self
                .find(process, start, held, found)
                .map(entered)
                .or_else(|| outside(process.mount_namespace, None))
                .or_else(inherited),
        }
    }

    /// The entering of the nearest ancestor that entered: who is in that namespace was born there after it. Of an
    /// ancestor whose start is not known, or that was somewhere else when it had the child, nothing is said.
    fn inherited(
        &self,
        process: &Process,
        start: u64,
        held: u32,
        clock: BootClock,
    ) -> Option<Box<model::Entered>> {
        if start == 0 || process.mount_namespace != Some(held) {
            return None;
        }
        // Whoever entered anything itself came from there.
        let mut born = start;
        if self
            .latest(process.pid, |entered| entered.start == start)
            .is_some()
        {
            return None;
        }
        for parent in &process.parents {
            let started = parent.start_time?.as_nanos();
            let is_it = |entered: &Entered| {
                let after = clock.timestamp(entered.start).as_nanos().saturating_sub(started);
                entered.start != 0 && (0..TICK).contains(&after) && entered.time <= born
            };
            if let Some(entered) = self.latest(parent.pid, is_it) {
                let setns = entered.operation == WayIn::Setns && entered.namespace == held;
                return setns.then(|| {
                    Box::new(model::Entered {
                        time: Some(clock.timestamp(entered.time)),
                        operation: entered.operation,
                        namespace: held,
                        from: entered.from,
                        container: entered.container.as_deref().cloned(),
                        by: Some(parent.clone()),
                    })
                });
            }
            // Its start is cut to clock ticks.
            let ticks = started.saturating_sub(clock.timestamp(0).as_nanos());
            born = u64::try_from(ticks.saturating_add(TICK)).ok()?;
        }
        None
    }

    /// The last entering of the first thread of a process: the one that setns(2) lets into mount namespaces, as no other
    /// may share its directories.
    fn latest(&self, pid: u32, is_it: impl Fn(&Entered) -> bool) -> Option<&Entered> {
        let of_thread = self.threads.get(&pid)?;
        of_thread
            .iter()
            .rev()
            .find(|entered| entered.pid == pid && is_it(entered))
    }
}

/// A pid comes again: only together with the start of the process it is the same.
fn is_same(entered: &Entered, pid: u32, start: u64) -> bool {
    entered.pid == pid && entered.start == start && start != 0
}

/// Whether such a reference is taken by a path or by a descriptor that leads there.
fn is_by_path(kind: Kind) -> bool {
    matches!(kind, Kind::Fd | Kind::Cwd | Kind::Root | Kind::Exe | Kind::Mmap)
}

#[cfg(test)]
mod tests {
    use super::{EACH_MAX, EACH_SOURCE_MAX, Enterings, KEPT_MAX};
    use crate::{
        identity::BootClock,
        model::{self, Container, Holder, Kind, Process, Timestamp, WayIn},
        stream::{Entered, Opened},
    };

    const HOST: u32 = 100;
    const POD: u32 = 200;
    const CLOCK: BootClock = BootClock { offset_nanos: 0 };

    fn entered(tid: u32, time: u64, namespace: u32) -> Entered {
        Entered {
            source: 0,
            time,
            operation: WayIn::Setns,
            pid: 7,
            tid: Some(tid),
            start: 5,
            comm: "nsenter".into(),
            namespace,
            from: None,
            container: None,
        }
    }

    fn holder(own: u32) -> Holder {
        Holder {
            process: Some(Process {
                pid: 7,
                tid: Some(7),
                mount_namespace: Some(own),
                ..Process::default()
            }),
            mount_namespace: Some(POD),
            ..Holder::default()
        }
    }

    fn opened(tid: u32, time: u64, namespace: u32) -> Opened {
        Opened {
            time,
            start: 5,
            by: Process {
                pid: 7,
                tid: Some(tid),
                mount_namespace: Some(namespace),
                ..Process::default()
            },
            ..Opened::default()
        }
    }

    fn way(of: &Enterings, holder: &Holder, opened: Option<&Opened>) -> Option<model::Entered> {
        of.way_in(holder, opened, (5, 1000), Some(CLOCK)).map(|way| *way)
    }

    #[test]
    fn the_last_entering_before_the_open_is_the_way_in() {
        let mut enterings = Enterings::default();
        for (time, namespace) in [(10, POD), (20, HOST), (30, POD), (40, HOST), (50, POD)] {
            let container = (namespace == POD).then(|| {
                Box::new(Container {
                    id: "9c41".to_owned(),
                    ..Container::default()
                })
            });
            let record = Entered {
                container,
                ..entered(8, time, namespace)
            };
            enterings.push(record);
        }
        let way = way(&enterings, &holder(HOST), Some(&opened(8, 35, POD))).unwrap();
        assert_eq!(way.time, Some(Timestamp::from_nanos(30)));
        assert_eq!(
            (way.operation, way.namespace, way.from),
            (WayIn::Setns, POD, Some(HOST))
        );
        assert_eq!(way.container.unwrap().id, "9c41");
    }

    #[test]
    fn another_process_with_the_same_pid_did_not_enter() {
        let mut enterings = Enterings::default();
        enterings.push(entered(7, 10, POD));
        assert!(way(&enterings, &holder(POD), None).is_some());
        let of_start = |start| enterings.way_in(&holder(POD), None, (start, 1000), Some(CLOCK));
        assert_eq!((of_start(6), of_start(0)), (None, None));
        // Nor did it before it was found.
        assert_eq!(enterings.way_in(&holder(POD), None, (5, 9), Some(CLOCK)), None);
    }

    #[test]
    fn outside_is_who_was_in_another_namespace() {
        let mut enterings = Enterings::default();
        let by_root = way(&enterings, &holder(HOST), Some(&opened(7, 35, HOST))).unwrap();
        assert_eq!(
            (by_root.operation, by_root.namespace, by_root.from),
            (WayIn::Outside, POD, Some(HOST))
        );
        assert_eq!(by_root.time, Some(Timestamp::from_nanos(35)));
        assert_eq!(way(&enterings, &holder(HOST), None).unwrap().time, None);
        // It was inside when it opened the file, and left afterwards.
        assert_eq!(way(&enterings, &holder(HOST), Some(&opened(7, 35, POD))), None);
        // Nothing is told of what nobody opened, nor where a number is missing.
        let other = |change: fn(&mut Holder)| {
            let mut holder = holder(HOST);
            change(&mut holder);
            way(&enterings, &holder, None)
        };
        assert_eq!(other(|holder| holder.kind = Kind::Loop), None);
        assert_eq!(other(|holder| holder.mount_namespace = None), None);
        assert_eq!(other(|holder| holder.process = None), None);
        let no_number = |holder: &mut Holder| holder.process.as_mut().unwrap().mount_namespace = None;
        assert_eq!(other(no_number), None);
        // One that entered at some time, and is outside when it is found, entered.
        enterings.push(entered(7, 10, POD));
        assert_eq!(
            way(&enterings, &holder(HOST), None).unwrap().operation,
            WayIn::Setns
        );
    }

    #[test]
    fn unshare_is_one_entering_though_both_hooks_tell_of_it() {
        let mut enterings = Enterings::default();
        enterings.push(entered(7, 10, HOST));
        enterings.push(Entered {
            operation: WayIn::Unshare,
            ..entered(7, 20, POD)
        });
        enterings.push(entered(7, 21, POD));
        let told = way(&enterings, &holder(POD), None).unwrap();
        assert_eq!((told.operation, told.from), (WayIn::Unshare, Some(HOST)));
        assert_eq!(told.time, Some(Timestamp::from_nanos(20)));
        // It left, and came back.
        enterings.push(entered(7, 30, HOST));
        enterings.push(entered(7, 40, POD));
        let told = way(&enterings, &holder(POD), None).unwrap();
        assert_eq!((told.operation, told.from), (WayIn::Setns, Some(HOST)));
    }

    #[test]
    fn a_child_has_the_way_in_of_the_ancestor_that_entered() {
        const S: u64 = 1_000_000_000;
        let mut enterings = Enterings::default();
        let by_shell = |start: u64, time: u64, namespace: u32| Entered {
            pid: 7,
            start,
            ..entered(7, time, namespace)
        };
        enterings.push(by_shell(5 * S + 3, 6 * S, HOST));
        enterings.push(by_shell(5 * S + 3, 7 * S, POD));
        let parent = |pid: u32, start: u64| model::Parent {
            pid,
            comm: "sh".into(),
            start_time: (start != 0).then(|| Timestamp::from_nanos(start as i64)),
        };
        let of = |own: u32, start: u64, parents: &[model::Parent]| {
            let mut holder = holder(own);
            let process = holder.process.as_mut().unwrap();
            (process.pid, process.tid) = (9, Some(9));
            process.parents = parents.to_vec();
            enterings.way_in(&holder, None, (start, 100 * S), Some(CLOCK))
        };
        let told = of(POD, 8 * S, &[parent(7, 5 * S)]).unwrap();
        assert_eq!((told.operation, told.from), (WayIn::Setns, Some(HOST)));
        assert_eq!(told.time, Some(Timestamp::from_nanos(7 * S as i64)));
        assert_eq!(told.by.unwrap().pid, 7);
        // A grandchild; and one of somebody who had the pid later, or whose start nobody knows.
        let [child, later, unknown] = [8 * S, 9 * S, 0].map(|start| [parent(8, start), parent(7, 5 * S)]);
        assert!(of(POD, 9 * S, &child).is_some());
        assert_eq!(of(POD, 9 * S, &[parent(7, 6 * S)]), None);
        assert_eq!(of(POD, 9 * S, &unknown), None);
        assert!(of(POD, 10 * S, &later).is_some());
        // Born before its parent entered, or not in that namespace.
        assert_eq!(of(POD, 6 * S + S / 2, &[parent(7, 5 * S)]), None);
        assert_eq!(of(POD, 5 * S + S / 2, &[parent(7, 5 * S)]), None);
        assert_eq!(
            of(HOST, 8 * S, &[parent(7, 5 * S)]).unwrap().operation,
            WayIn::Outside
        );
        // The nearest one decides.
        enterings.push(Entered {
            pid: 8,
            start: 8 * S,
            operation: WayIn::Unshare,
            ..entered(8, 8 * S + 1, POD)
        });
        let mut holder = holder(POD);
        let process = holder.process.as_mut().unwrap();
        (process.pid, process.tid) = (9, Some(9));
        process.parents = child.to_vec();
        let nearest = enterings.way_in(&holder, None, (9 * S, 100 * S), Some(CLOCK));
        assert_eq!(nearest, None);
    }

    #[test]
    fn after_a_loss_nobody_knows_where_it_came_from() {
        let mut enterings = Enterings::default();
        enterings.push(entered(7, 10, HOST));
        enterings.lost(20);
        enterings.push(entered(7, 30, POD));
        assert_eq!(way(&enterings, &holder(POD), None).unwrap().from, None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut enterings = Enterings::default();
        for time in 0..100 {
            enterings.push(entered(7, time, POD));
        }
        assert_eq!(enterings.threads[&7].len(), EACH_MAX);
        for tid in 0..2 * KEPT_MAX as u32 {
            enterings.push(entered(1000 + tid, 1000, POD));
        }
        assert_eq!(
            (enterings.order.iter().count(), enterings.threads.len()),
            (KEPT_MAX, KEPT_MAX)
        );
        assert!(!enterings.threads.contains_key(&7) && enterings.forgotten().is_empty());
    }

    #[test]
    fn who_makes_noise_is_forgotten_first() {
        let mut enterings = Enterings::default();
        enterings.push(entered(7, 10, POD));
        let by = |source, tid| Entered {
            source,
            ..entered(tid, 1000, POD)
        };
        enterings.push(by(9, 8));
        let noise = 2 * KEPT_MAX as u32;
        for tid in 0..noise {
            enterings.push(by(65_534, 1000 + tid));
        }
        assert!(way(&enterings, &holder(POD), None).is_some());
        assert!(enterings.threads.contains_key(&8));
        let lost = u64::from(noise) - EACH_SOURCE_MAX as u64;
        assert_eq!(*enterings.forgotten(), [(65_534, lost)].into());
    }
}
