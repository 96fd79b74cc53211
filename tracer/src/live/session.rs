//! One run of ebusy: takes what the probes send, looks where it has to, and feeds the analysis.

mod appeared;
mod caught_up;
mod clearing;
mod detached;
mod entering;
mod look;
mod operations;
mod others;
mod slow;
mod umounts;

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tracer_common::HOST;

use super::{
    host::{Host, own_namespace},
    identities::Identities,
    ledger::Ledger,
    mounts::MountsView,
    options::{Options, Watching},
    stuck::stuck,
    watched::WatchTable,
};
use crate::{
    capture::{Destination, Header, Recorder, run_name},
    confine,
    identity::{Containers, boot_nanos},
    incident::{Analyzer, Output},
    kernel::Mount,
    probe::{Losses, Probes, load, skipped_runs},
    render::escape,
    stream::{DecodeError, Gone, Lost, MountKey, Noise, Raw, Record, Start, decode},
    watchdog::{self, Step},
};

/// Records of others taken at once at the most: more than their ring has room for.
const OTHERS_AT_ONCE: usize = 1 << 15;
/// Records taken from the event ring before refusals get their turn again.
const EVENTS_AT_ONCE: usize = 20_000;
/// Refusals taken at once at the most: many times what the ring has room for, but whoever makes them as fast as they are
/// taken does not keep ebusy here.
const REFUSALS_AT_ONCE: usize = 1 << 16;
/// `UMOUNT_NOFOLLOW` of umount2(2).
const UMOUNT_NOFOLLOW: u32 = 8;

/// How long the record of an umount may take to arrive after its mount has gone.
const GRACE: Duration = Duration::from_millis(500);

/// How long after its mount has gone an umount that is under way may be the one that did it: one that
/// hangs may be of something else.
const LATE: Duration = Duration::from_secs(30);

/// How long a look is kept that was replaced, at the least: longer than an umount goes on after its mount has gone.
const BEFORE_AGE: Duration = Duration::from_secs(1);

/// A look at the mounts is not trusted for longer than this.
const VIEW_AGE: Duration = Duration::from_secs(5);

/// A target whose last refused attempt wants a snapshot.
#[derive(Debug)]
struct Pending {
    mount: Mount,
    attempt: u64,
    /// On whose account it was refused.
    source: u64,
}

/// A target that is gone from the tables.
#[derive(Debug)]
struct Vanished {
    /// When it was found so, in nanoseconds of the boot clock.
    found: u64,
    /// Since when no umount is under way that may have done it.
    since: Instant,
}

impl Vanished {
    fn since_found(&self) -> Duration {
        Duration::from_nanos(boot_nanos().saturating_sub(self.found))
    }
}

/// One run.
#[derive(Debug)]
pub struct Session {
    host: Host,
    probes: Probes,
    identities: Identities,
    options: Options,
    recorder: Option<Recorder>,
    analyzer: Analyzer,
    view: MountsView,
    /// A look before the last ones, and when it was replaced: a mount goes from the tables some time before its umount is
    /// told, and there may be looks meanwhile.
    view_before: Option<(MountsView, Instant)>,
    /// When the last look was over (boot clock, ns).
    view_until: u64,
    /// When the last look at the mounts began.
    view_from: u64,
    view_stale: bool,
    view_next: Instant,
    view_read: Instant,
    table: WatchTable,
    appeared: appeared::Appeared,
    ledger: Ledger,
    pending: HashMap<MountKey, Pending>,
    /// Targets that were found gone without an umount that did it.
    vanished: HashMap<MountKey, Vanished>,
    sample_next: Instant,
    /// The time of the last event taken from its ring, if more were left there.
    behind: Option<u64>,
    /// Targets of open incidents that were looked at once.
    sampled: HashSet<MountKey>,
    causes: operations::Causes,
    loops: clearing::LoopDevices,
    detached: detached::DetachedMounts,
    slow: slow::SlowUmounts,
    others: others::Others,
    own_losses: Losses,
    told_losses: Losses,
    own_umounts: u64,
    output: Vec<Output>,
}

impl Session {
    /// Loads the probes, looks at the mounts, and tests itself.
    pub fn start(mut options: Options) -> Result<(Self, Watching)> {
        let step = watchdog::within(Step::Loading, &[]);
        let mut host = Host::new()?;
        let (probes, refused) = load(options.probe, &host.btf, &host.layout, options.history)?;
        host.attach(&probes.reader)?;
        drop(step);
        confine::while_starting(options.command);
        let containers = Arc::new(Containers::new("/proc", "/"));
        let start = Start {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: host.release.clone(),
            tier: probes.tier,
            clock: host.clock,
            history: probes.history,
            run: Some(run_name()),
        };
        let capture = options.capture.take();
        let view = MountsView::read(host.kernel(&probes.reader), host.task());
        containers.learn_all(view.paths_of(own_namespace()));
        let now = Instant::now();
        let mut session = Self {
            appeared: appeared::Appeared::at_start(&view),
            identities: Identities::new(host.clock, containers, options.cmdline),
            analyzer: Analyzer::new(start.clone()),
            host,
            probes,
            options,
            recorder: None,
            view,
            view_before: None,
            view_until: boot_nanos(),
            view_from: 0,
            view_stale: false,
            view_next: now,
            view_read: now,
            table: WatchTable::default(),
            ledger: Ledger::default(),
            pending: HashMap::new(),
            vanished: HashMap::new(),
            sample_next: now,
            behind: None,
            sampled: HashSet::new(),
            causes: operations::Causes::default(),
            loops: clearing::LoopDevices::default(),
            detached: detached::DetachedMounts::default(),
            slow: slow::SlowUmounts::default(),
            others: others::Others::default(),
            own_losses: Losses::default(),
            told_losses: Losses::default(),
            own_umounts: 0,
            output: Vec::new(),
        };
        if session.options.command {
            session.table.watch_new_mounts(&session.view);
        }
        session.update_table();
        if let Some(destination) = capture.and_then(|capture| session.apart(capture).transpose()) {
            session.recorder = Some(Recorder::start(destination?, Header::here(start.clone()))?);
        }
        session.push(Record::Start(start));
        session.probes.losses.begin()?;
        let self_test = session.self_test().err().map(|error| format!("{error:#}"));
        let kernel = session.host.kernel(&session.probes.reader);
        let watching = Watching {
            refused,
            missing: session.probes.missing.clone(),
            targets: session.table.targets,
            mounts: session.table.len(),
            stuck: stuck(kernel, session.identities.containers(), &session.view),
            self_test,
        };
        Ok((session, watching))
    }

    /// A capture on a watched mount would refuse its umount.
    fn apart(&self, destination: Destination) -> Result<Option<Destination>> {
        let id = destination.folder.mount_id()?;
        if !id.is_some_and(|id| self.table.has(id)) {
            return Ok(Some(destination));
        }
        let path = escape(destination.folder.path().as_os_str().as_encoded_bytes());
        let why = format!("{path} is on a mount that is watched, and would keep it busy");
        if !destination.optional {
            bail!("{why}: choose a folder elsewhere");
        }
        log::warn!("no evidence is kept: {why}; choose a folder elsewhere with --capture");
        if let Err(error) = destination.folder.remove() {
            log::warn!("{path} stays: {error}");
        }
        Ok(None)
    }

    /// Whether that mount is watched.
    #[must_use]
    pub fn watches(&self, mount_id: u32) -> bool {
        self.table.has(mount_id)
    }

    /// The analysis so far.
    #[must_use]
    pub fn analyzer(&self) -> &Analyzer {
        &self.analyzer
    }

    /// What records the stream.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// The same, for whoever ends it.
    pub fn take_recorder(&mut self) -> Option<Recorder> {
        self.recorder.take()
    }

    /// The tier in use.
    #[must_use]
    pub fn tier(&self) -> crate::model::Tier {
        self.probes.tier
    }

    /// Who did more than there is room for, so far.
    #[must_use]
    pub fn noisy(&self) -> &[Noise] {
        &self.others.told
    }

    /// What was lost so far, less what single sources lost of their own.
    #[must_use]
    pub fn losses(&self) -> &Losses {
        &self.told_losses
    }

    /// Descriptors that become readable when there is something to do: refusals, events, what others do.
    pub fn descriptors(&self) -> Result<[OwnedFd; 3]> {
        let duplicate = |raw| {
            // SAFETY: the ring owns the descriptor and outlives this borrow.
            let fd = unsafe { BorrowedFd::borrow_raw(raw) };
            fd.try_clone_to_owned()
                .context("duplicating the descriptor of a ring")
        };
        Ok([
            duplicate(self.probes.refusals.as_raw_fd())?,
            duplicate(self.probes.events.as_raw_fd())?,
            duplicate(self.probes.others.as_raw_fd())?,
        ])
    }

    /// An umount that fails harmlessly must be seen: `/proc/self` is no mountpoint.
    fn self_test(&mut self) -> Result<()> {
        let before = self.own_umounts;
        let result = rustix::mount::unmount("/proc/self", rustix::mount::UnmountFlags::empty());
        anyhow::ensure!(result.is_err(), "umount of /proc/self did not fail");
        let until = Instant::now() + Duration::from_secs(1);
        while self.own_umounts == before {
            self.drain()?;
            anyhow::ensure!(
                Instant::now() < until,
                "an umount of our own was not seen within 1 s"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn push(&mut self, record: Record) {
        if let Some(recorder) = &mut self.recorder {
            recorder.push(&record, self.analyzer.is_quiet());
        }
        let output = self.analyzer.push(record);
        self.output.extend(output);
    }

    /// Takes all that is in the rings, looks where a refusal asks for it, and returns what the analysis says.
    pub fn drain(&mut self) -> Result<Vec<Output>> {
        let _step = watchdog::within(Step::Events, &[]);
        let mut succeeded = false;
        // Refusals first: then all opens and closes before each of them are there as well. Those after one do no harm,
        // as the analysis goes by their times.
        let mut records = take(&mut self.probes.refusals, REFUSALS_AT_ONCE, &mut self.own_losses);
        let last = records.last().map_or(0, Raw::time);
        loop {
            let events = take(&mut self.probes.events, EVENTS_AT_ONCE, &mut self.own_losses);
            let full = events.len() == EVENTS_AT_ONCE;
            self.behind = events.last().filter(|_| full).map(Raw::time);
            records.extend(events);
            if self.behind.is_none_or(|time| time >= last) {
                break;
            }
        }
        let others = take(&mut self.probes.others, OTHERS_AT_ONCE, &mut self.own_losses);
        records.append(&mut self.take_others(others));
        records.sort_by_key(Raw::time);
        for raw in records {
            succeeded |= self.raw(raw);
        }
        self.sample_pending(HOST);
        succeeded |= self.turns_of_others();
        if succeeded {
            // An incident that ends is told with what was lost.
            self.tell_losses()?;
            self.check_gone();
        }
        if self.view_stale && Instant::now() >= self.view_next {
            self.refresh_view();
        }
        Ok(std::mem::take(&mut self.output))
    }

    /// Lets time pass.
    pub fn tick(&mut self) -> Result<Vec<Output>> {
        // Where a kernel has no hook for new mounts (7.2 inlined it), and for what no hook sees.
        self.view_stale |= self.view_read.elapsed() > VIEW_AGE;
        let mut output = self.drain()?;
        self.check_gone();
        self.learn_containers();
        self.follow_operations(false);
        self.follow_loops();
        self.follow_detached(false);
        self.follow_slow(false);
        // All that was lost until then is told before.
        let time = boot_nanos();
        self.tell_losses()?;
        self.push(Record::Tick { time });
        output.append(&mut self.output);
        Ok(output)
    }

    /// Unloads the kernel programs: the kernel waits for all CPUs to leave them.
    pub fn close(self) {
        let _step = watchdog::within(Step::Unloading, &[]);
        drop(self);
    }

    /// Ends the run.
    pub fn end(&mut self) -> Result<Vec<Output>> {
        // A last attempt that was not looked at yet.
        self.sample_next = Instant::now();
        let now = boot_nanos();
        let mut output = self.drain()?;
        // All that has happened is in the books, not only as much as is taken at once.
        while self.behind.is_some_and(|time| time < now) {
            output.append(&mut self.drain()?);
        }
        output.append(&mut self.tick()?);
        self.last_turns_of_others();
        self.tell_losses()?;
        self.follow_operations(true);
        self.follow_loops();
        self.follow_detached(true);
        self.follow_slow(true);
        self.push(Record::End { time: boot_nanos() });
        output.append(&mut self.output);
        Ok(output)
    }

    fn tell_losses(&mut self) -> Result<()> {
        let _step = watchdog::within(Step::Losses, &[]);
        let mut losses = self.probes.losses.read()?;
        for (what, count) in &self.own_losses.0 {
            losses.add(what.clone(), *count);
        }
        for (what, count) in skipped_runs(self.probes.reader.ebpf()) {
            losses.add(what, count);
        }
        for (what, count) in self.probes.missed() {
            losses.add(what, count);
        }
        losses.add("watch table: full", self.table.full + self.table.crowded);
        for (what, skipped) in self.skipped() {
            losses.add(what, skipped.get(&HOST).copied().unwrap_or(0));
        }
        losses.add("loop devices: too many to follow", self.loops.skipped);
        losses.add("containers: too many to read about", self.appeared.skipped);
        self.ledger.lost(&losses);
        let noise = self.noise();
        if losses != self.told_losses || noise != self.others.told {
            self.told_losses = losses.clone();
            self.others.told.clone_from(&noise);
            let time = boot_nanos();
            self.push(Record::Lost(Lost { time, losses, noise }));
        }
        Ok(())
    }

    /// Enters one record; whether it was an umount that succeeded.
    fn raw(&mut self, raw: Raw) -> bool {
        match raw {
            Raw::Umount(umount) => {
                let succeeded = umount.ret == 0;
                self.umount(&umount);
                return succeeded;
            }
            Raw::Closed(closed) => self.push(Record::Closed(closed)),
            Raw::Opened(opened) => self.push(Record::Opened(opened)),
            Raw::Namespace {
                time,
                operation,
                by,
                start,
                source,
            } => self.entered((time, operation, source), *by, start),
            Raw::MountChanged { source, .. } => {
                self.probes.sources.look_at_mounts(source);
                self.view_stale = true;
            }
            Raw::Operation(operation) => self.operation(&operation),
        }
        false
    }

    /// Tells which targets of open incidents are not mounted any more.
    fn check_gone(&mut self) {
        let _step = watchdog::within(Step::Gone, &[]);
        let targets: Vec<MountKey> = self.analyzer.open_targets().collect();
        self.sampled.retain(|mount| targets.contains(mount));
        let kernel = self.host.kernel(&self.probes.reader);
        let gone: Vec<MountKey> = targets
            .into_iter()
            .filter(|key| {
                let now = kernel.mount(key.address);
                !now.is_some_and(|now| now.id == key.id && now.unique == key.unique && now.namespace != 0)
            })
            .collect();
        self.vanished.retain(|mount, _| gone.contains(mount));
        let under_way: Vec<(u64, u64)> = if gone.is_empty() {
            Vec::new()
        } else {
            let calls = self.probes.under_way.all().into_iter();
            calls.map(|(_, call)| (call.source, call.entered)).collect()
        };
        for mount in gone {
            let vanished = self.vanished.entry(mount).or_insert_with(|| Vanished {
                found: boot_nanos(),
                since: Instant::now(),
            });
            let late = vanished.since_found() > LATE;
            // Nobody but the host takes away what the host could unmount: an umount of somebody else may hang for ever.
            let of_host = self.analyzer.source_of(mount) == Some(HOST);
            let mut may_be_it = under_way.iter().filter(|(source, _)| !of_host || *source == HOST);
            if !late && may_be_it.any(|(_, entered)| *entered <= vanished.found) {
                vanished.since = Instant::now();
            }
            let since = vanished.since;
            // The mount goes before the umount returns, and before its record is here.
            if !self.analyzer.was_removed(mount) && since.elapsed() < GRACE {
                continue;
            }
            self.vanished.remove(&mount);
            self.pending.remove(&mount);
            self.view_stale = true;
            self.push(Record::Gone(Gone {
                mount,
                time: boot_nanos(),
            }));
        }
    }

    fn refresh_view(&mut self) {
        let began = Instant::now();
        self.view_from = boot_nanos();
        let kernel = self.host.kernel(&self.probes.reader);
        let view = MountsView::again(kernel, self.host.task(), &self.view);
        self.others.crowded_mounts(&view.crowded);
        let before = std::mem::replace(&mut self.view, view);
        self.note_left(&before);
        self.view_until = boot_nanos();
        let old = |(_, replaced): &(MountsView, Instant)| replaced.elapsed() > BEFORE_AGE;
        if self.view_before.as_ref().is_none_or(old) {
            self.view_before = Some((before, began));
        }
        self.appeared.update(&self.view);
        self.view_stale = false;
        self.view_read = began;
        self.update_table();
        let took = began.elapsed();
        self.view_next = Instant::now() + (took * 4).clamp(Duration::from_millis(5), Duration::from_secs(5));
        log::debug!(
            "looked at {} mount namespaces in {took:?}",
            self.view.namespaces.len()
        );
    }

    /// The same if somebody asks who may ask as often as they like: not before it is due.
    fn refresh_view_for(&mut self, source: u64) {
        if source == HOST || Instant::now() >= self.view_next {
            self.refresh_view();
        }
    }

    fn update_table(&mut self) {
        let kernel = self.host.kernel(&self.probes.reader);
        self.table.update(
            kernel,
            &self.view,
            &self.options.patterns,
            &mut self.probes.watched,
        );
    }
}

/// Takes records from a ring; what cannot be decoded is counted.
fn take(ring: &mut aya::maps::RingBuf<aya::maps::MapData>, most: usize, losses: &mut Losses) -> Vec<Raw> {
    let mut records = Vec::new();
    while records.len() < most {
        let Some(item) = ring.next() else { break };
        match decode(&item) {
            Ok(record) => records.push(record),
            Err(DecodeError::Kind(kind)) => losses.add(format!("decode: unknown kind {kind}"), 1),
            Err(error @ DecodeError::Length { .. }) => losses.add(format!("decode: {error}"), 1),
        }
    }
    records
}
