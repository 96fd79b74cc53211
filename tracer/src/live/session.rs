//! One run of ebusy: takes what the probes send, hands it to the followers, and returns what the analysis says.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tracer_common::HOST;

use super::{
    context::Context,
    entering::entered,
    follow::{Follower, Followers},
    host::Host,
    losses::LossAccount,
    options::{Options, Watching},
    others::{self, Others},
    refused::Asked,
    returned::Returned,
    still_busy::{StillBusy, still_busy},
    stuck::stuck,
};
use crate::{
    capture::{Destination, Header, Recorder, run_name},
    confine,
    identity::boot_nanos,
    incident::{Analyzer, Output},
    probe::{Losses, load},
    render::escape,
    stream::{DecodeError, Noise, Raw, RawOperation, RawUmount, Record, Start, decode},
    watchdog::{self, Step},
};

/// Records of others taken at once at the most: more than their ring has room for.
const OTHERS_AT_ONCE: usize = 1 << 15;
/// Records taken from the event ring before refusals get their turn again.
const EVENTS_AT_ONCE: usize = 20_000;
/// Refusals taken at once at the most: many times what the ring has room for, but whoever makes them as fast as they are
/// taken does not keep ebusy here.
const REFUSALS_AT_ONCE: usize = 1 << 16;

/// One run.
#[derive(Debug)]
pub struct Session {
    context: Context,
    followers: Followers,
    others: Others,
    losses: LossAccount,
    /// The time of the last event taken from its ring, if more were left there.
    behind: Option<u64>,
    own_umounts: u64,
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
        let start = Start {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: host.release.clone(),
            tier: probes.tier,
            clock: host.clock,
            history: probes.history,
            run: Some(run_name()),
        };
        let capture = options.capture.take();
        let mut session = Self {
            context: Context::new(host, probes, options, start.clone()),
            followers: Followers::default(),
            others: Others::default(),
            losses: LossAccount::default(),
            behind: None,
            own_umounts: 0,
        };
        if let Some(destination) = capture.and_then(|capture| session.apart(capture).transpose()) {
            session.context.recorder = Some(Recorder::start(destination?, Header::here(start.clone()))?);
        }
        session.context.push(Record::Start(start));
        session.context.probes.losses.begin()?;
        let self_test = session.self_test().err().map(|error| format!("{error:#}"));
        let context = &session.context;
        let watching = Watching {
            refused,
            missing: context.probes.missing.clone(),
            targets: context.table.targets,
            mounts: context.table.len(),
            stuck: stuck(
                context.kernel(),
                context.identities.containers(),
                &context.picture.view,
            ),
            self_test,
        };
        Ok((session, watching))
    }

    /// A capture on a watched mount would refuse its umount.
    fn apart(&self, destination: Destination) -> Result<Option<Destination>> {
        let id = destination.folder.mount_id()?;
        if !id.is_some_and(|id| self.context.table.has(id)) {
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
        self.context.table.has(mount_id)
    }

    /// The analysis so far.
    #[must_use]
    pub fn analyzer(&self) -> &Analyzer {
        &self.context.analyzer
    }

    /// What records the stream.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.context.recorder.as_ref()
    }

    /// The same, for whoever ends it.
    pub fn take_recorder(&mut self) -> Option<Recorder> {
        self.context.recorder.take()
    }

    /// The tier in use.
    #[must_use]
    pub fn tier(&self) -> crate::model::Tier {
        self.context.probes.tier
    }

    /// Who did more than there is room for, so far.
    #[must_use]
    pub fn noisy(&self) -> &[Noise] {
        self.losses.noise()
    }

    /// What was lost so far, less what single sources lost of their own.
    #[must_use]
    pub fn losses(&self) -> &Losses {
        self.losses.losses()
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
            duplicate(self.context.probes.refusals.as_raw_fd())?,
            duplicate(self.context.probes.events.as_raw_fd())?,
            duplicate(self.context.probes.others.as_raw_fd())?,
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

    /// Takes all that is in the rings, looks where a refusal asks for it, and returns what the analysis says.
    pub fn drain(&mut self) -> Result<Vec<Output>> {
        let _step = watchdog::within(Step::Events, &[]);
        let mut succeeded = false;
        for raw in self.take() {
            succeeded |= self.record(raw);
        }
        self.drained(HOST);
        succeeded |= self.turns_of_others();
        if succeeded {
            // An incident that ends is told with what was lost.
            self.tell_losses()?;
            self.followers.umounts.tell_gone(&mut self.context);
        }
        if self.context.picture.wants_look() {
            self.context.refresh();
        }
        Ok(self.context.take_output())
    }

    /// Lets time pass.
    pub fn tick(&mut self) -> Result<Vec<Output>> {
        self.context.picture.grow_old();
        let mut output = self.drain()?;
        self.context.learn_containers();
        self.ask(|follower, context| follower.tick(context, false));
        // All that was lost until then is told before.
        let time = boot_nanos();
        self.tell_losses()?;
        self.context.push(Record::Tick { time });
        output.append(&mut self.context.take_output());
        Ok(output)
    }

    /// Unloads the kernel programs: the kernel waits for all CPUs to leave them.
    pub fn close(self) {
        let _step = watchdog::within(Step::Unloading, &[]);
        drop(self);
    }

    /// Ends the run.
    pub fn end(&mut self) -> Result<Vec<Output>> {
        self.followers.umounts.rest_no_longer();
        let now = boot_nanos();
        let mut output = self.drain()?;
        // All that has happened is in the books, not only as much as is taken at once.
        while self.behind.is_some_and(|time| time < now) {
            output.append(&mut self.drain()?);
        }
        output.append(&mut self.tick()?);
        self.turns(Instant::now(), others::LAST);
        self.others.lose_rest();
        self.tell_losses()?;
        self.ask(|follower, context| follower.tick(context, true));
        self.context.push(Record::End { time: boot_nanos() });
        output.append(&mut self.context.take_output());
        Ok(output)
    }

    /// Whether nothing of what had happened at `asked` (boot clock, ns) is left in the rings or waits for a look: new
    /// mounts, refused umounts, mounts that were detached, loop devices that were told to go. What came later does not
    /// matter: there may always be more of that.
    #[must_use]
    pub fn has_caught_up(&self, asked: u64) -> bool {
        let is_later = |time: u64| time > asked;
        self.behind.is_none_or(is_later)
            && self.others.oldest().is_none_or(is_later)
            && self.context.picture.has_caught_up(asked)
            && self
                .followers
                .all()
                .iter()
                .all(|follower| follower.has_caught_up(&self.context, asked))
    }

    /// Counts the references of the targets of open incidents; those that have none are left out, and those that cannot
    /// be counted.
    #[must_use]
    pub fn still_busy(&self) -> Vec<StillBusy> {
        still_busy(&self.context)
    }

    /// Asks each follower for something.
    fn ask(&mut self, ask: impl Fn(&mut dyn Follower, &mut Context)) {
        for follower in self.followers.all_mut() {
            let _step = watchdog::within(follower.step(), &[]);
            ask(follower, &mut self.context);
        }
    }

    /// Takes all that is in the rings, in the order in which it happened.
    fn take(&mut self) -> Vec<Raw> {
        let probes = &mut self.context.probes;
        let own = &mut self.losses.own;
        // Refusals first: then all opens and closes before each of them are there as well. Those after one do no harm,
        // as the analysis goes by their times.
        let mut records = take(&mut probes.refusals, REFUSALS_AT_ONCE, own);
        let last = records.last().map_or(0, Raw::time);
        loop {
            let events = take(&mut probes.events, EVENTS_AT_ONCE, own);
            let full = events.len() == EVENTS_AT_ONCE;
            self.behind = events.last().filter(|_| full).map(Raw::time);
            records.extend(events);
            if self.behind.is_none_or(|time| time >= last) {
                break;
            }
        }
        let others = take(&mut probes.others, OTHERS_AT_ONCE, own);
        records.append(&mut self.others.take(others));
        records.sort_by_key(Raw::time);
        records
    }

    /// Gives each of the others a turn, for a while. Whether an umount succeeded.
    fn turns_of_others(&mut self) -> bool {
        let Some(most) = self.others.turn() else {
            return false;
        };
        let began = Instant::now();
        let succeeded = self.turns(began, most);
        self.others.rest_after(began.elapsed());
        succeeded
    }

    fn turns(&mut self, began: Instant, most: Duration) -> bool {
        let _step = watchdog::within(Step::Others, &[]);
        let mut succeeded = false;
        while began.elapsed() < most {
            let Some((source, raw)) = self.others.next() else {
                break;
            };
            succeeded |= self.record(raw);
            self.drained(source);
        }
        succeeded
    }

    fn drained(&mut self, source: u64) {
        self.ask(|follower, context| follower.drained(context, source));
    }

    fn tell_losses(&mut self) -> Result<()> {
        let _step = watchdog::within(Step::Losses, &[]);
        let all = self.followers.all();
        let skipped = all.iter().filter_map(|follower| follower.skipped());
        let loops = ("loop devices: too many to follow", self.followers.loops.skipped);
        self.losses
            .tell(&mut self.context, &self.others, skipped.collect(), &[loops])?;
        self.followers.umounts.lost(self.losses.losses());
        Ok(())
    }

    /// Hands out one record; whether it was an umount that succeeded.
    fn record(&mut self, raw: Raw) -> bool {
        match raw {
            Raw::Umount(umount) => {
                self.umount(&umount);
                return umount.ret == 0;
            }
            Raw::Closed(closed) => self.context.push(Record::Closed(closed)),
            Raw::Opened(opened) => self.context.push(Record::Opened(opened)),
            Raw::Namespace {
                time,
                operation,
                by,
                start,
                source,
            } => entered(&mut self.context, (time, operation, source), *by, start),
            Raw::MountChanged { source, .. } => {
                self.context.probes.sources.look_at_mounts(source);
                self.context.picture.mark_stale();
            }
            Raw::Operation(operation) => self.operation(&operation),
        }
        false
    }

    fn umount(&mut self, raw: &RawUmount) {
        if raw.caller.pid == std::process::id() {
            self.own_umounts += 1;
            return;
        }
        let umount = Returned::new(&mut self.context, raw);
        self.ask(|follower, context| follower.umount(context, &umount));
        let record = umount.record(&self.context);
        self.context.push(record);
    }

    fn operation(&mut self, raw: &RawOperation) {
        let Some(asked) = Asked::of(self.context.kernel(), raw) else {
            return;
        };
        self.ask(|follower, context| follower.operation(context, &asked, raw));
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
