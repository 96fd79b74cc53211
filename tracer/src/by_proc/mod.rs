//! The proc tier: what /proc tells where no kernel program loads. Descriptors and child mounts are exact, by mount id;
//! everything else is not seen, and said so.
//!
//! Nothing here opens or follows `/proc/PID/{fd,cwd,root,exe,map_files,mountinfo}`, which take references on mounts, and
//! keep them where they would refuse the next umount. `fdinfo` takes one on the open file while it is read, and the text of
//! the link in `fd` one on its path while it is written (fs/proc/fd.c, 5.10 to 7.2): both for microseconds.

mod audit;
mod descriptors;
mod mountinfo;

use std::{collections::HashSet, path::Path};

use anyhow::{Context as _, Result};

use self::{
    descriptors::{Descriptor, descriptors},
    mountinfo::{Line, parse},
};
use crate::{
    advice::advise_who,
    identity::{Containers, ProcessReader},
    kernel::access,
    model::{
        Books, Container, EvidenceSource, Holder, Kind, Sharer, TakesAlong, Target, Text, Through, Tier,
        Timestamp, Who,
    },
};

pub(crate) use self::{descriptors::fuzzed, mountinfo::parse as parse_mountinfo};

/// What this tier does not see, in one sentence.
pub const BLIND: &str = "only descriptors and child mounts are seen, in this mount namespace; not working and root \
    directories, programs, mappings, sockets, what the kernel holds, copies in other namespaces, or counts";

/// The mounts of the namespace that ebusy is in.
#[derive(Debug)]
pub struct ProcMounts {
    lines: Vec<Line>,
    namespace: Option<u32>,
}

impl ProcMounts {
    /// Reads ebusy's own mountinfo.
    pub fn read(namespace: Option<u32>) -> Result<Self> {
        let text = std::fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        let lines = parse(&text);
        Ok(Self { lines, namespace })
    }

    /// The topmost mount at a path.
    #[must_use]
    pub fn at(&self, path: &[u8]) -> Option<&Line> {
        self.lines.iter().rev().find(|line| line.path == path)
    }

    /// All mountpoints.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(|line| line.path.as_slice())
    }

    /// The mounts of containers, with these.
    pub fn of_containers<'m>(
        &'m self,
        containers: &'m Containers,
    ) -> impl Iterator<Item = (&'m Line, Container)> {
        self.lines.iter().filter_map(|line| {
            let container = containers.container_of_mount_path(&line.path)?;
            (!container.id.is_empty()).then_some((line, container))
        })
    }

    fn target(&self, line: &Line, containers: &Containers) -> Target {
        let parent = self.lines.iter().find(|other| other.id == line.parent);
        let path = Text::from(line.path.clone());
        Target {
            path_base64: path.base64_if_lossy(),
            path,
            mount_id: Some(line.id),
            fs_type: Some(line.fs_type.clone()),
            source: Some(Text::from(line.source.clone())),
            device: Some(line.device.clone()),
            mount_namespace: self.namespace,
            propagation: parent.map(|parent| parent.propagation),
            container: containers.container_of_mount_path(&line.path),
        }
    }

    /// Who holds a mount, as far as /proc tells.
    #[must_use]
    pub fn who(&self, line: &Line, processes: &ProcessReader, proc: &Path, time: Timestamp) -> Who {
        let children = self
            .lines
            .iter()
            .filter(|child| child.parent == line.id && child.id != line.id);
        let mut holders: Vec<Holder> = children.map(|child| self.child(line, child)).collect();
        for shared in descriptors(proc, line.id, std::process::id()) {
            holders.extend(self.descriptor(line, &shared, processes));
        }
        let target = self.target(line, processes.containers());
        let books = Books {
            explained: holders.iter().map(|holder| holder.refs).sum(),
            sampled_at: Some(time),
            ..Books::default()
        };
        let tier = Tier::Proc;
        let mut who = Who {
            schema: Who::SCHEMA.to_owned(),
            time,
            leftover: false,
            target,
            references: books,
            holders,
            candidates: Vec::new(),
            bystanders: Vec::new(),
            probe: tier,
            since: None,
            fixes: Vec::new(),
        };
        advise_who(&mut who);
        who
    }

    fn holder(&self, line: &Line, kind: Kind) -> Holder {
        Holder {
            kind,
            also: Vec::new(),
            refs: 1,
            process: None,
            held_by: None,
            reason: None,
            fd: None,
            access: None,
            shared_with: Vec::new(),
            path: Text::default(),
            path_base64: None,
            deleted: false,
            seen_as: None,
            seen_as_base64: None,
            mount_id: Some(line.id),
            mount_namespace: self.namespace,
            through: Through::Target,
            counted: true,
            propagation: Some(line.propagation),
            opened: None,
            opened_by: None,
            entered: None,
            attempts_blocked: 0,
            evidence: vec![EvidenceSource::Snapshot],
            takes_along: None,
        }
    }

    fn child(&self, line: &Line, child: &Line) -> Holder {
        let inside = child.path.strip_prefix(line.path.as_slice());
        let path = Text::from(match inside {
            // Below the root, the prefix is the slash itself; on top of the mount, there is nothing left.
            Some(inside) if inside.first() == Some(&b'/') => inside.to_vec(),
            Some([]) | None => b"/".to_vec(),
            Some(inside) => [b"/", inside].concat(),
        });
        Holder {
            path_base64: path.base64_if_lossy(),
            path,
            seen_as: Some(Text::from(child.path.clone())),
            held_by: Some(Text::from(child.source.clone())),
            takes_along: Some(TakesAlong {
                below: self.below(child),
                peers: 0,
            }),
            ..self.holder(line, Kind::ChildMount)
        }
    }

    /// How many mounts are below a mount.
    fn below(&self, mount: &Line) -> u64 {
        let mut found = HashSet::from([mount.id]);
        let mut above = vec![mount.id];
        while let Some(parent) = above.pop() {
            let children = self.lines.iter().filter(|line| line.parent == parent);
            above.extend(children.map(|line| line.id).filter(|id| found.insert(*id)));
        }
        found.len() as u64 - 1
    }

    /// One open file with all who share it; `None` if they are gone meanwhile.
    fn descriptor(&self, line: &Line, shared: &[Descriptor], processes: &ProcessReader) -> Option<Holder> {
        let (first, others) = shared.split_first()?;
        let tid = (first.tid != first.pid).then_some(first.tid);
        let sharers = others.iter().filter_map(|other| {
            let process = processes.read(other.pid, None, None)?;
            Some(Sharer {
                pid: other.pid,
                comm: process.comm,
                fd: Some(other.fd),
            })
        });
        Some(Holder {
            process: Some(processes.read(first.pid, tid, None)?),
            fd: Some(first.fd),
            access: Some(access(first.flags)),
            shared_with: sharers.collect(),
            ..self.holder(line, Kind::Fd)
        })
    }
}
