//! A trace for the Perfetto UI: a track for each mount, below it one for each incident, below that its attempts and its
//! holders as slices, and an arrow from each holder to each refusal that it caused.
//!
//! The times of the trace are wall clock times, in nanoseconds: the boot clock restarts with every boot in a capture.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use prost::Message as _;

use super::proto::{
    Clock, ClockSnapshot, Data, DebugAnnotation, Trace, TracePacket, TrackDescriptor, TrackEvent, Value,
};
use crate::{
    incident::{Attempt, Span},
    model::{Holder, Incident, IncidentBody, Timestamp},
    render::escape,
    report::{Finding, of_holder},
};

/// Refusals that get an arrow from a holder: the first ones, and the last, which has the books.
const ARROWS: usize = 64;
/// Tracks for attempts of one target that overlap in time; more of them share the last one.
const LANES: usize = 8;
/// Mounts whose track is remembered; a mount that returns after this many others gets a second one.
const MOUNTS_MAX: usize = 100_000;

const BEGIN: i32 = 1;
const END: i32 = 2;
const BUILTIN_CLOCK_REALTIME: u32 = 1;
const BUILTIN_CLOCK_BOOTTIME: u32 = 6;
/// The one sequence of packets.
const SEQUENCE: u32 = 1;
const SEQ_INCREMENTAL_STATE_CLEARED: u32 = 1;

/// Writes a trace.
#[derive(Debug)]
pub struct Perfetto<W> {
    to: W,
    mounts: HashMap<(Option<u32>, Vec<u8>), u64>,
    uuid: u64,
    flow: u64,
    begun: bool,
    buffer: Vec<u8>,
}

impl<W: Write> Perfetto<W> {
    /// To a file.
    pub fn new(to: W) -> Self {
        Self {
            to,
            mounts: HashMap::new(),
            uuid: 0,
            flow: 0,
            begun: false,
            buffer: Vec::new(),
        }
    }

    /// Flushes the rest.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// An incident.
    pub fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let Finding { incident, timeline } = finding;
        if !self.begun {
            self.begun = true;
            self.clocks(incident.started)?;
        }
        let mount = self.mount(incident)?;
        let track = self.track(&format!("incident {}", incident.id), mount)?;
        let ended = incident.ended.unwrap_or(incident.started);
        let outcome = incident.outcome.map_or("open", |outcome| outcome.name());
        let attempts = incident.attempts();
        let name = match &incident.body {
            IncidentBody::Umount(_) => format!("{outcome}, {attempts} refused"),
            IncidentBody::Operation(refused) => {
                format!("{}, {outcome}, {attempts} refused", refused.operation.name())
            }
            IncidentBody::Detached => format!("detached, {outcome}"),
            IncidentBody::Slow(_) => format!("slow umount, {outcome}"),
        };
        self.begin(
            track,
            incident.started,
            TrackEvent {
                name: Some(name),
                categories: vec!["incident".to_owned()],
                debug_annotations: about(incident),
                ..TrackEvent::default()
            },
        )?;
        self.end(track, ended)?;
        let mut arrows: HashMap<usize, Vec<u64>> = HashMap::new();
        let attempts = ByReturn::new(&timeline.attempts);
        for (holder, span) in incident.holders.iter().zip(&timeline.holders) {
            let flows: Vec<u64> = attempts
                .blocked(span)
                .into_iter()
                .map(|attempt| {
                    self.flow += 1;
                    arrows.entry(attempt).or_default().push(self.flow);
                    self.flow
                })
                .collect();
            self.holder(track, holder, *span, "holder", flows)?;
        }
        for (holder, span) in incident.bystanders.iter().zip(&timeline.bystanders) {
            self.holder(track, holder, *span, "bystander", Vec::new())?;
        }
        self.attempts(track, &timeline.attempts, &arrows)
    }

    fn attempts(
        &mut self,
        incident: u64,
        attempts: &[Attempt],
        arrows: &HashMap<usize, Vec<u64>>,
    ) -> io::Result<()> {
        let mut lanes: Vec<(u64, Timestamp)> = Vec::new();
        for (index, attempt) in attempts.iter().enumerate() {
            let free = lanes.iter().position(|(_, until)| *until <= attempt.entered);
            let lane = match free {
                Some(lane) => lane,
                None if lanes.len() < LANES => {
                    lanes.push((self.track("attempts", incident)?, attempt.entered));
                    lanes.len() - 1
                }
                None => LANES - 1,
            };
            let Some((track, until)) = lanes.get_mut(lane) else {
                continue;
            };
            *until = attempt.returned.max(*until);
            let track = *track;
            self.begin(
                track,
                attempt.entered,
                TrackEvent {
                    name: Some("EBUSY".to_owned()),
                    categories: vec!["attempt".to_owned()],
                    terminating_flow_ids: arrows.get(&index).cloned().unwrap_or_default(),
                    ..TrackEvent::default()
                },
            )?;
            self.end(track, attempt.returned)?;
        }
        Ok(())
    }

    fn holder(
        &mut self,
        incident: u64,
        holder: &Holder,
        span: Span,
        category: &str,
        flow_ids: Vec<u64>,
    ) -> io::Result<()> {
        let name = holder_name(holder);
        let track = self.track(&format!("{category} {name}"), incident)?;
        let path = escape(holder.path.as_bytes());
        let mut annotations = vec![
            text("kind", holder.kind.name()),
            text("path", path.clone()),
            text("through", holder.through.name()),
            number("refs", holder.refs),
            number("attempts_blocked", holder.attempts_blocked),
            text("workload", escape(of_holder(holder).as_bytes())),
            text("begin", if span.begun { "seen" } else { "first found" }),
            text("end", if span.ended { "seen" } else { "last found" }),
        ];
        if let Some(process) = &holder.process {
            annotations.push(number("pid", u64::from(process.pid)));
        }
        self.begin(
            track,
            span.since,
            TrackEvent {
                name: Some(format!("{name}: {path}")),
                categories: vec![category.to_owned()],
                flow_ids,
                debug_annotations: annotations,
                ..TrackEvent::default()
            },
        )?;
        self.end(track, span.until)
    }

    /// The track of the target, made when it is first needed.
    fn mount(&mut self, incident: &Incident) -> io::Result<u64> {
        let target = &incident.target;
        let key = (target.mount_namespace, target.path.as_bytes().to_vec());
        if let Some(uuid) = self.mounts.get(&key) {
            return Ok(*uuid);
        }
        if self.mounts.len() >= MOUNTS_MAX {
            self.mounts.clear();
        }
        self.uuid += 1;
        let uuid = self.uuid;
        self.mounts.insert(key, uuid);
        self.descriptor(uuid, None, escape(target.path.as_bytes()))?;
        Ok(uuid)
    }

    fn track(&mut self, name: &str, parent: u64) -> io::Result<u64> {
        self.uuid += 1;
        self.descriptor(self.uuid, Some(parent), name.to_owned())?;
        Ok(self.uuid)
    }

    fn descriptor(&mut self, uuid: u64, parent: Option<u64>, name: String) -> io::Result<()> {
        self.packet(
            None,
            Data::TrackDescriptor(TrackDescriptor {
                uuid: Some(uuid),
                name: Some(name),
                parent_uuid: parent,
            }),
        )
    }

    fn begin(&mut self, track: u64, time: Timestamp, event: TrackEvent) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(BEGIN),
            track_uuid: Some(track),
            ..event
        };
        self.packet(Some(time), Data::TrackEvent(event))
    }

    fn end(&mut self, track: u64, time: Timestamp) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(END),
            track_uuid: Some(track),
            ..TrackEvent::default()
        };
        self.packet(Some(time), Data::TrackEvent(event))
    }

    /// Declares that the times of the trace are wall clock times.
    fn clocks(&mut self, time: Timestamp) -> io::Result<()> {
        let clock = |clock_id| Clock {
            clock_id: Some(clock_id),
            timestamp: Some(nanos(time)),
        };
        self.packet(
            Some(time),
            Data::ClockSnapshot(ClockSnapshot {
                clocks: vec![clock(BUILTIN_CLOCK_BOOTTIME), clock(BUILTIN_CLOCK_REALTIME)],
                primary_trace_clock: Some(BUILTIN_CLOCK_BOOTTIME),
            }),
        )
    }

    fn packet(&mut self, time: Option<Timestamp>, data: Data) -> io::Result<()> {
        let first = matches!(data, Data::ClockSnapshot(_));
        let trace = Trace {
            packet: vec![TracePacket {
                timestamp: time.map(nanos),
                trusted_packet_sequence_id: Some(SEQUENCE),
                sequence_flags: first.then_some(SEQ_INCREMENTAL_STATE_CLEARED),
                data: Some(data),
            }],
        };
        self.buffer.clear();
        trace.encode(&mut self.buffer).map_err(io::Error::other)?;
        self.to.write_all(&self.buffer)
    }
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(0)
}

/// The attempts of an incident, by when they returned: each holder is looked for among them.
struct ByReturn(Vec<(Timestamp, usize)>);

impl ByReturn {
    fn new(attempts: &[Attempt]) -> Self {
        let mut all: Vec<_> = (attempts.iter().enumerate())
            .map(|(index, attempt)| (attempt.returned, index))
            .collect();
        all.sort_unstable();
        Self(all)
    }

    /// Those that returned in the span of a holder: the first ones, and the last.
    fn blocked(&self, span: &Span) -> Vec<usize> {
        let from = self.0.partition_point(|(time, _)| *time < span.since);
        let to = self.0.partition_point(|(time, _)| *time <= span.until);
        let found = self.0.get(from..to).unwrap_or_default();
        let first = found
            .iter()
            .take(if found.len() > ARROWS { ARROWS - 1 } else { ARROWS });
        let last = found.last().filter(|_| found.len() > ARROWS);
        first.chain(last).map(|(_, index)| *index).collect()
    }
}

/// `node-agent 48211 fd 37`.
fn holder_name(holder: &Holder) -> String {
    let name = match &holder.process {
        Some(process) => format!("{} {}", escape(process.comm.as_bytes()), process.pid),
        None => "kernel".to_owned(),
    };
    match holder.fd {
        Some(fd) => format!("{name} fd {fd}"),
        None => format!("{name} {}", holder.kind.name()),
    }
}

fn about(incident: &Incident) -> Vec<DebugAnnotation> {
    let books = &incident.references;
    let mut annotations = vec![
        number("id", incident.id),
        number("attempts", incident.attempts()),
        number(
            "bursts",
            incident.body.refusals().map_or(0, |refusals| refusals.bursts),
        ),
        number("explained", books.explained),
        number("lost_events", incident.lost_events),
        text("probe", incident.probe.name()),
        text("caller", escape(incident.caller.comm.as_bytes())),
    ];
    let known = [("counted", books.counted), ("unexplained", books.unexplained)];
    for (name, value) in known {
        annotations.extend(value.map(|value| number(name, value)));
    }
    let advice = incident.fixes.iter().filter(|fix| fix.is_for_people());
    for (index, fix) in advice.enumerate() {
        annotations.push(text(&format!("advice {}", index + 1), fix.words()));
        let command = fix.command.as_ref();
        annotations
            .extend(command.map(|command| text(&format!("command {}", index + 1), command.to_string())));
    }
    annotations
}

fn text(name: &str, value: impl Into<String>) -> DebugAnnotation {
    DebugAnnotation {
        name: Some(name.to_owned()),
        value: Some(Value::String(value.into())),
    }
}

fn number(name: &str, value: u64) -> DebugAnnotation {
    DebugAnnotation {
        name: Some(name.to_owned()),
        value: Some(Value::Uint(value)),
    }
}
