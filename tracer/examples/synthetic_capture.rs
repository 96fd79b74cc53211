//! Writes a capture of a busy node that never was, to measure `report` and `export` on and to look at their output:
//!
//!     cargo run --example synthetic_capture -- FILE [EVENTS]
//!
//! Opens and closes on many mounts for three days, and every 20,000 events an incident; the same for the same number.

#![expect(clippy::unwrap_used, reason = "an example stops where it fails")]

use std::{fs::File, io::BufWriter};

use tracer::{
    capture::{Header, Writer},
    identity::BootClock,
    kernel::{MountState, Reference, Snapshot},
    model::{
        Access, Container, EvidenceSource, Holder, Kind, Owner, Parent, Process, Propagation, Target, Text,
        Through, Tier,
    },
    stream::{Closed, Gone, MountKey, Opened, Record, Sample, Start, Umount},
};

/// Three days.
const LENGTH: u64 = 3 * 86_400 * 1_000_000_000;
const EVERY: u64 = 20_000;
const NODE_AGENT: usize = 0;

/// Reproducible noise (xorshift).
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

fn hex(noise: &mut Noise) -> String {
    let words: Vec<String> = (0..4)
        .map(|_| format!("{:016x}", noise.below(u64::MAX)))
        .collect();
    words.concat()
}

fn pod(noise: &mut Noise, namespace: &str, pod: &str, name: &str, owner: Option<(&str, &str)>) -> Container {
    Container {
        runtime: Some("containerd".into()),
        id: hex(noise),
        name: Some(name.into()),
        namespace: Some("k8s.io".into()),
        pod: Some(pod.into()),
        pod_namespace: Some(namespace.into()),
        image: Some(format!("registry.example/{name}:1.4")),
        owner: owner.map(|(kind, name)| Owner {
            kind: kind.into(),
            name: name.into(),
            source: "pod labels".into(),
        }),
        ..Container::default()
    }
}

struct Node {
    noise: Noise,
    agents: Vec<Process>,
    step: u64,
}

impl Node {
    fn new(events: u64) -> Self {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let workloads = [
            (
                "node-agent",
                "monitoring",
                "node-agent-x7k2p",
                "agent",
                Some(("DaemonSet", "node-agent")),
            ),
            (
                "log-shipper",
                "logging",
                "shipper-8qz4d",
                "shipper",
                Some(("DaemonSet", "log-shipper")),
            ),
            ("scan<b>d", "security", "scanner-5", "scan", None),
        ];
        let mut agents: Vec<Process> = workloads
            .iter()
            .enumerate()
            .map(|(index, (comm, namespace, name, container, owner))| Process {
                pid: 4000 + index as u32,
                tid: Some(4000 + index as u32),
                comm: (*comm).into(),
                exe: Some(format!("/usr/bin/{comm}").into()),
                uid: Some(0),
                mount_namespace: Some(4_026_533_000 + index as u32),
                container: Some(pod(&mut noise, namespace, name, container, *owner)),
                ..Process::default()
            })
            .collect();
        agents.push(Process {
            pid: 812,
            tid: Some(812),
            comm: "bash".into(),
            exe: Some("/bin/bash".into()),
            uid: Some(1000),
            mount_namespace: Some(4_026_531_841),
            unit: Some("session-4.scope".into()),
            ..Process::default()
        });
        Self {
            noise,
            agents,
            step: LENGTH / events.max(1),
        }
    }

    /// An open and its close.
    fn open(&mut self, number: u64, time: u64) -> [Record; 2] {
        let agent = self.noise.below(3) as usize;
        let file = 0xffff_8880_0000_0000 + self.noise.below(100_000) * 256;
        let opened = Opened {
            time,
            file,
            mount: 0xffff_8881_0000_0000 + self.noise.below(200) * 512,
            dentry: 0xffff_8882_0000_0000 + self.noise.below(100_000) * 192,
            by: Process {
                exe: None,
                container: None,
                ..self.agents[agent].clone()
            },
            name: number,
            mode: 1,
            inode_mode: 0o100_644,
            ..Opened::default()
        };
        let closed = Closed {
            time: time + self.step / 2,
            file,
        };
        [Record::Opened(Box::new(opened)), Record::Closed(closed)]
    }

    /// An incident from its first refusal to its end.
    fn incident(&mut self, number: u64, begin: u64) -> Vec<Record> {
        let id = 900 + (number % 50_000) as u32;
        let mount = MountKey {
            address: 0xffff_8883_0000_0000 + number * 512,
            id,
            unique: Some(1 << 31 | number),
        };
        let name = format!("build-{}", self.noise.below(40));
        let of = pod(&mut self.noise, "ci", &name, "main", Some(("Job", &name)));
        let target = Target {
            path: format!(
                "/run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/rootfs",
                of.id
            )
            .into(),
            mount_id: Some(id),
            fs_type: Some("overlay".into()),
            source: Some("overlay".into()),
            device: Some("0:52".into()),
            mount_namespace: Some(4_026_531_841),
            propagation: Some(Propagation::Shared),
            container: Some(of),
            ..Target::default()
        };
        let attempts = 2 + self.noise.below(48);
        let mut records = Vec::new();
        let mut time = begin;
        for attempt in 0..attempts {
            time += 50_000_000 + self.noise.below(4_000_000);
            records.push(Record::Umount(Box::new(umount(mount, &target, time, -16))));
            if attempt % 8 == 0 {
                records.push(self.snapshot(mount, number, begin, time));
            }
        }
        if !number.is_multiple_of(5) {
            records.push(Record::Umount(Box::new(umount(
                mount,
                &target,
                time + 900_000_000,
                0,
            ))));
            records.push(Record::Gone(Gone {
                mount,
                time: time + 901_000_000,
            }));
        }
        records.push(Record::Tick {
            time: time + 31_000_000_000,
        });
        records
    }

    fn snapshot(&mut self, mount: MountKey, number: u64, begin: u64, attempt: u64) -> Record {
        let copy = mount.address + 256;
        let holders = 1 + number % 3;
        let references = (0..=holders)
            .map(|index| {
                let which = if index == 0 {
                    NODE_AGENT
                } else {
                    ((number + index) % 4) as usize
                };
                let private = index == holders;
                Reference {
                    mount: if private { mount.address + 300 } else { copy },
                    object: 0xffff_8884_0000_0000 + number * 8 + index,
                    dentry: 0,
                    start: begin,
                    writes: false,
                    holder: holder(&self.agents[which], index, private),
                }
            })
            .collect();
        let state = |address, count| MountState {
            address,
            mount_id: mount.id,
            namespace: Some(4_026_531_841),
            counts: [Some(count); 2],
            children: 0,
            covering: 0,
        };
        Record::Snapshot(Box::new(Sample {
            source: 0,
            mount,
            attempt,
            snapshot: Snapshot {
                started: attempt + 1_000_000,
                finished: attempt + 9_000_000,
                target: state(mount.address, 1),
                slots: vec![state(copy, 1 + 2 * holders as i32)],
                references,
                candidates: Vec::new(),
                children_counted: true,
                gaps: Vec::new(),
            },
            ledger: vec![Opened {
                time: begin - 300_000_000,
                file: 0xffff_8884_0000_0000 + number * 8,
                mount: copy,
                by: self.agents[NODE_AGENT].clone(),
                ..Opened::default()
            }],
        }))
    }
}

fn umount(mount: MountKey, target: &Target, time: u64, ret: i64) -> Umount {
    Umount {
        source: 0,
        entered: time - 300_000,
        checked: None,
        returned: time,
        ret,
        flags: 0,
        caller: Process {
            pid: 19_871,
            tid: Some(19_880),
            comm: "containerd-shim".into(),
            uid: Some(0),
            parents: vec![Parent {
                pid: 1,
                comm: "systemd".into(),
                start_time: None,
            }],
            mount_namespace: Some(4_026_531_841),
            ..Process::default()
        },
        passed: None,
        mount: Some(mount),
        target: target.clone(),
        shown: true,
        remount: false,
        busy_check: None,
        compared: None,
    }
}

fn holder(of: &Process, index: u64, private: bool) -> Holder {
    let paths = [
        "/var/log/app.log",
        "/srv/data/index.db",
        "/tmp/<script>alert(1)</script>",
        "/etc/passwd",
    ];
    let path = Text::from(paths[(index % 4) as usize]);
    Holder {
        kind: if index == 2 { Kind::Cwd } else { Kind::Fd },
        also: Vec::new(),
        refs: 2,
        process: Some(of.clone()),
        held_by: None,
        reason: None,
        fd: (index != 2).then_some(30 + index as u32),
        access: (index != 2).then_some(Access::Read),
        shared_with: Vec::new(),
        seen_as: Some(format!("/host{}", path.to_str_lossy()).into()),
        path,
        path_base64: None,
        deleted: false,
        seen_as_base64: None,
        mount_id: Some(990),
        mount_namespace: of.mount_namespace,
        through: if private {
            Through::PrivateCopy
        } else {
            Through::PropagatedCopy
        },
        counted: false,
        propagation: Some(Propagation::new(false, !private)),
        opened: None,
        opened_by: None,
        entered: None,
        attempts_blocked: 0,
        takes_along: None,
        evidence: vec![EvidenceSource::Snapshot],
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap();
    let events: u64 = arguments.next().map_or(200_000, |text| text.parse().unwrap());
    let mut node = Node::new(events);
    let header = Header::of(Start {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: "6.12.0".to_owned(),
        tier: Tier::Fentry,
        clock: BootClock {
            offset_nanos: 1_795_000_000_000_000_000,
        },
        history: true,
        run: Some("synthetic".to_owned()),
    });
    let mut writer = Writer::new(BufWriter::new(File::create(path).unwrap()), &header).unwrap();
    let mut written = 0;
    let (mut time, mut next) = (1_000_000_000, EVERY / 2);
    while written < events {
        if written >= next {
            for record in node.incident(next / EVERY + 1, time) {
                writer.push(&record).unwrap();
                written += 1;
                time = record.time().unwrap_or(time);
            }
            next += EVERY;
        }
        for record in node.open(written, time) {
            writer.push(&record).unwrap();
            written += 1;
        }
        time += 2 * node.step;
    }
    writer.push(&Record::End { time }).unwrap();
    writer.finish().unwrap();
}
