//! The result of an audit: the plan, with the references that were found.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    plan::{At, CopyAt, Plan},
    view::{State, View},
    workload::{groups, workload},
};
use crate::model::{
    Audit, CopiedMount, Detached, Holder, Keeper, KeptNamespace, Leaked, LeakedPlace, Now, Own, Target, Text,
};

/// The references on the mounts of a plan.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// By address of the mount.
    pub holders: HashMap<u64, Vec<Holder>>,
    /// References beyond those of mount tables, by address of the mount; missing if they cannot be counted.
    pub extra: HashMap<u64, u64>,
    /// The file system of a detached mount: type, source, device.
    pub detached: HashMap<u64, Detached>,
    /// Descriptors that keep namespaces, by the address of the namespace.
    pub keepers: HashMap<u64, Vec<Keeper>>,
    /// ebusy's own process id.
    pub own_pid: u32,
}

impl Evidence {
    fn on(&self, mount: u64) -> Vec<Holder> {
        self.holders.get(&mount).cloned().unwrap_or_default()
    }

    fn in_use(&self, mount: u64) -> bool {
        self.holders
            .get(&mount)
            .is_some_and(|holders| !holders.is_empty())
    }

    /// References of a mount that have no holder.
    fn unexplained(&self, mount: u64) -> Option<u64> {
        let holders = self.holders.get(&mount).map_or(&[][..], Vec::as_slice);
        let explained: u64 = holders.iter().map(|holder| holder.refs).sum();
        Some(self.extra.get(&mount)?.saturating_sub(explained))
    }
}

/// Fills in the sections that follow from view, plan and evidence; `describe` describes a mount.
pub fn findings(
    audit: &mut Audit,
    view: &View,
    plan: &Plan,
    evidence: &Evidence,
    describe: &dyn Fn(At) -> Target,
) {
    let address = |at: At| view.get(at).1.mount.address;
    audit.watched = plan.targets.len() as u64;
    audit.mount_namespaces = view.spaces.len() as u64;
    audit.now = now(view, plan, evidence, describe);
    audit.leaked = leaked(view, plan, evidence, describe);
    let copied = |copy: &CopyAt| {
        let (space, mounted) = view.get(copy.at);
        let path = Text::from(mounted.path.clone());
        CopiedMount {
            target: describe(plan.targets[copy.target].at),
            path_base64: path.base64_if_lossy(),
            path,
            mount_id: mounted.mount.id,
            mount_namespace: space.number,
            propagation: plan.propagation(mounted.mount.address),
            holders: evidence.on(mounted.mount.address),
        }
    };
    let home = |copy: &CopyAt| plan.targets[copy.target].at.0;
    let in_use = |at: At| evidence.in_use(address(at));
    audit.can_pin = groups(view, &plan.pins, home, copied, in_use);
    // Copies of a gone container's mount are places of a leak.
    let leaks: Vec<CopyAt> = plan
        .leaks
        .iter()
        .filter(|copy| !plan.is_gone(copy.target))
        .copied()
        .collect();
    audit.can_leak = groups(view, &leaks, home, copied, in_use);
    audit.detached = detached(view, evidence);
    audit.namespaces = namespaces(view, plan, evidence);
    audit.own = Some(own(evidence));
}

/// Stuck mounts, and those whose umount would be refused because of others than their own container.
fn now(view: &View, plan: &Plan, evidence: &Evidence, describe: &dyn Fn(At) -> Target) -> Vec<Now> {
    let mut found: Vec<Now> = Vec::new();
    for target in &plan.targets {
        let (_, mounted) = view.get(target.at);
        let owner = &target.owner;
        if owner.state == State::Gone {
            continue;
        }
        let all = || std::iter::once(mounted.mount.address).chain(target.slots.iter().copied());
        let mut holders: Vec<Holder> = all().flat_map(|mount| evidence.on(mount)).collect();
        let own = |holder: &Holder| {
            let process = holder.process.as_ref();
            let container = process.and_then(|process| process.container.as_ref());
            owner.state == State::Alive && owner.is(container, None)
        };
        let every = holders.len();
        holders.retain(|holder| !own(holder));
        let counts: Vec<Option<u64>> = all().map(|mount| evidence.unexplained(mount)).collect();
        let unexplained = counts.iter().copied().sum::<Option<u64>>();
        let stuck = owner.state == State::Stuck;
        let busy = !holders.is_empty() || (every == 0 && unexplained.is_some_and(|count| count > 0));
        if stuck || busy {
            found.push(Now {
                target: describe(target.at),
                stuck,
                holders,
                unexplained,
                fixes: Vec::new(),
            });
        }
    }
    found.sort_by(|a, b| (!a.stuck, &a.target.path).cmp(&(!b.stuck, &b.target.path)));
    found
}

/// Mounts whose container is gone, with their private copies.
fn leaked(view: &View, plan: &Plan, evidence: &Evidence, describe: &dyn Fn(At) -> Target) -> Vec<Leaked> {
    let mut found = Vec::new();
    for (index, target) in plan.targets.iter().enumerate() {
        if !plan.is_gone(index) {
            continue;
        }
        let copies = plan
            .leaks
            .iter()
            .filter(|copy| copy.target == index)
            .map(|copy| copy.at);
        let places = std::iter::once(target.at)
            .chain(copies)
            .map(|at| {
                let (space, mounted) = view.get(at);
                LeakedPlace {
                    mount: describe(at),
                    workload: (!space.host).then(|| workload(space)),
                    holders: evidence.on(mounted.mount.address),
                }
            })
            .collect();
        found.push(Leaked {
            what: target.owner.what.clone().unwrap_or_else(|| "mount".to_owned()),
            container: target.owner.container.clone(),
            pod_uid: target.owner.pod_uid.clone(),
            places,
            fixes: Vec::new(),
        });
    }
    found
}

/// Detached mounts; a mount that went with one above it is listed there.
fn detached(view: &View, evidence: &Evidence) -> Vec<Detached> {
    let all: HashMap<u64, u64> = view
        .detached
        .iter()
        .filter(|mount| mount.parent != mount.address)
        .map(|mount| (mount.address, mount.parent))
        .collect();
    let is_detached: HashSet<u64> = view.detached.iter().map(|mount| mount.address).collect();
    // The uppermost one that is detached; a ring of parents would be damage, and ends the walk.
    let top = |mut mount: u64| {
        let mut seen = HashSet::new();
        while let Some(parent) = all.get(&mount)
            && is_detached.contains(parent)
            && seen.insert(mount)
        {
            mount = *parent;
        }
        mount
    };
    let mut below: HashMap<u64, Vec<u64>> = HashMap::new();
    for mount in &view.detached {
        let above = top(mount.address);
        if above != mount.address {
            below.entry(above).or_default().push(mount.address);
        }
    }
    let hidden: HashSet<u64> = below.values().flatten().copied().collect();
    let superblocks: HashSet<u64> = view
        .spaces
        .iter()
        .flat_map(|space| &space.mounts)
        .map(|mounted| mounted.mount.superblock)
        .collect();
    let shown = view
        .detached
        .iter()
        .filter(|mount| !hidden.contains(&mount.address));
    let mut found: Vec<Detached> = shown
        .filter_map(|mount| {
            let members = below.get(&mount.address).map_or(&[][..], Vec::as_slice);
            let all = || std::iter::once(mount.address).chain(members.iter().copied());
            let mounted_elsewhere = superblocks.contains(&mount.superblock);
            let known = evidence.detached.get(&mount.address)?;
            Some(Detached {
                below: members.len() as u64,
                mounted_elsewhere,
                bytes: known.bytes.filter(|_| !mounted_elsewhere),
                holders: all().flat_map(|mount| evidence.on(mount)).collect(),
                unexplained: all().map(|mount| evidence.unexplained(mount)).sum(),
                ..known.clone()
            })
        })
        .collect();
    found.sort_by_key(|detached| (std::cmp::Reverse(detached.bytes), detached.mount_id));
    found
}

/// Namespaces without a process.
fn namespaces(view: &View, plan: &Plan, evidence: &Evidence) -> Vec<KeptNamespace> {
    let mut found = Vec::new();
    for (index, space) in view.spaces.iter().enumerate() {
        if space.processes > 0 {
            continue;
        }
        let mut kept_by = evidence.keepers.get(&space.address).cloned().unwrap_or_default();
        let mut seen = BTreeSet::new();
        for other in &view.spaces {
            for mounted in &other.mounts {
                let keeps = view.nsfs.get(&mounted.mount.address) == Some(&space.common);
                // One bind mount, and its copies in other namespaces.
                if keeps && space.common != 0 && seen.insert(mounted.path.clone()) {
                    kept_by.push(Keeper {
                        kind: "bind_mount".to_owned(),
                        process: None,
                        fd: None,
                        path: Some(Text::from(mounted.path.clone())),
                        mount_namespace: Some(other.number),
                    });
                }
            }
        }
        found.push(KeptNamespace {
            number: space.number,
            mounts: space.mounts.len() as u64,
            watched: plan.copies.get(&index).copied().unwrap_or(0),
            kept_by,
            fixes: Vec::new(),
        });
    }
    found
}

/// ebusy's own references on all these.
fn own(evidence: &Evidence) -> Own {
    let is_own = |process: Option<u32>| process == Some(evidence.own_pid);
    let references = evidence
        .holders
        .values()
        .flatten()
        .filter(|holder| {
            is_own(holder.process.as_ref().map(|process| process.pid))
                || holder
                    .shared_with
                    .iter()
                    .any(|sharer| sharer.pid == evidence.own_pid)
        })
        .map(|holder| holder.refs)
        .sum();
    let descriptors = evidence.keepers.values().flatten();
    let namespaces = descriptors.filter(|keeper| is_own(keeper.process.as_ref().map(|process| process.pid)));
    Own {
        references,
        namespaces: namespaces.count() as u64,
    }
}
