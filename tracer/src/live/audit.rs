//! Reads what an audit looks at, and has it judged.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fs,
    sync::Arc,
};

use tracer_common::ABSENT;

use super::{
    host::{Host, own_namespace},
    identities::Identities,
    mounts::{Hidden, Mounted, MountsView},
};
use crate::{
    advice::advise_audit,
    audit::{Evidence, Limits, Owner, Plan, Space, State, View, findings, plan, settings},
    identity::{Containers, MountOwner, WatchPatterns, membership, mount_claim},
    kernel::{Kernel, Mount, NamespaceDescriptor, Place, Reader, Superblock, Survey, Task, survey},
    model::{Audit, Detached, Holder, Keeper, Process, Target, Text, Tier},
    watchdog::{self, Step},
};

/// Holders that are identified from /proc at the most; the others keep what the kernel told.
const IDENTIFIED_MAX: usize = 512;

/// Looks at the whole host, once.
#[must_use]
pub fn audit(host: &Host, reader: &Reader, identities: &Identities, patterns: &WatchPatterns) -> Audit {
    let _step = watchdog::within(Step::Auditing, &[]);
    let kernel = host.kernel(reader);
    let mut audit = Audit::of(host.clock.now(), Tier::Tracepoint);
    let mut mounts = MountsView::read(kernel, host.task());
    identities
        .containers()
        .learn_all(mounts.paths_of(own_namespace()));
    let hidden = mounts.add_hidden(kernel);
    if hidden.is_none() {
        audit.blind.extend(["detached", "namespaces"].map(str::to_owned));
        let gap = "the kernel's list of file systems was not found: mounts in no namespace, and namespaces without a \
            process, were not looked for";
        audit.gaps.push(gap.to_owned());
    }
    if let Some(reason) = host.counts_unknown() {
        audit.blind.push("now".to_owned());
        audit.gaps.push(format!("references cannot be counted: {reason}"));
    }
    if !mounts.complete {
        audit
            .gaps
            .push("the mount tables changed under the walk".to_owned());
    }
    // Later than the mounts: who is in no namespace now has left it, not yet to come.
    let tasks = kernel.tasks(host.task()).all;
    let look = Look::new(kernel, identities, &tasks, mounts, hidden.unwrap_or_default());
    let plan = plan(&look.view, &|path| patterns.is_match(path), &|_, mounted| {
        look.owners.of(mounted)
    });
    let evidence = look.evidence(&plan, &mut audit.gaps);
    let view = &look.view;
    findings(&mut audit, view, &plan, &evidence, &|at| {
        look.target(&plan, &view.spaces[at.0], &view.spaces[at.0].mounts[at.1])
    });
    let of = |space: &Space| space.mounts.len() as u64;
    audit.settings = settings(&limits(
        view.spaces.iter().map(of).max().unwrap_or(0),
        view.spaces.len() as u64,
    ));
    advise_audit(&mut audit);
    audit
}

/// The settings that matter.
#[must_use]
pub fn limits(mounts: u64, namespaces: u64) -> Limits {
    let read = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Limits {
        may_detach_mounts: read("fs/may_detach_mounts"),
        mount_max: read("fs/mount-max"),
        max_mnt_namespaces: read("user/max_mnt_namespaces"),
        mounts,
        namespaces,
    }
}

/// A look at the host.
struct Look<'a> {
    kernel: Kernel<'a>,
    identities: &'a Identities,
    tasks: &'a [Task],
    owners: Owners<'a>,
    view: View,
    superblocks: RefCell<HashMap<u64, Option<Superblock>>>,
}

impl<'a> Look<'a> {
    fn new(
        kernel: Kernel<'a>,
        identities: &'a Identities,
        tasks: &'a [Task],
        mounts: MountsView,
        hidden: Hidden,
    ) -> Self {
        let nsfs = nsfs(kernel, &mounts);
        let view = View {
            spaces: spaces(kernel, identities, tasks, mounts),
            anonymous: hidden.anonymous,
            detached: hidden.detached,
            nsfs,
        };
        let owners = Owners::new(kernel, identities.containers(), tasks, view.nsfs.clone());
        Self {
            kernel,
            identities,
            tasks,
            owners,
            view,
            superblocks: RefCell::default(),
        }
    }

    fn superblock(&self, superblock: u64) -> Option<Superblock> {
        let mut known = self.superblocks.borrow_mut();
        let read = || self.kernel.superblock(superblock);
        known.entry(superblock).or_insert_with(read).clone()
    }

    fn target(&self, plan: &Plan, space: &Space, mounted: &Mounted) -> Target {
        let mount = &mounted.mount;
        let superblock = self.superblock(mount.superblock);
        let path = Text::from(mounted.path.clone());
        Target {
            path_base64: path.base64_if_lossy(),
            path,
            mount_id: Some(mount.id),
            fs_type: superblock.as_ref().map(|superblock| superblock.fs_type.clone()),
            source: self.kernel.device_name(mount).map(Text::from),
            device: superblock.map(|superblock| superblock.device),
            mount_namespace: Some(space.number),
            propagation: plan.propagation(mount.address),
            container: mounted.container(self.identities.containers()),
        }
    }

    /// Looks for references, and for what keeps namespaces.
    fn evidence(&self, plan: &Plan, gaps: &mut Vec<String>) -> Evidence {
        let (kernel, view) = (self.kernel, &self.view);
        let roles = plan.roles(view);
        let namespaces: HashSet<u64> = view.spaces.iter().map(|space| space.address).collect();
        let placed = view.spaces.iter().flat_map(|space| &space.mounts);
        let counted: Vec<&Mount> = placed
            .map(|mounted| &mounted.mount)
            .chain(&view.detached)
            .filter(|mount| roles.contains_key(&mount.address))
            .collect();
        let before = kernel.counts(&counted);
        let Survey {
            references,
            namespaces,
            gaps: cut_short,
        } = survey(kernel, self.tasks, &roles, &namespaces);
        let after = kernel.counts(&counted);
        gaps.extend(cut_short);

        let mut evidence = Evidence {
            own_pid: std::process::id(),
            ..Evidence::default()
        };
        let of_detached: HashSet<u64> = view.detached.iter().map(|mount| mount.address).collect();
        for (mount, counts) in counted.into_iter().zip(before.into_iter().zip(after)) {
            // A lookup that passes by has a reference for a moment.
            let Some(count) = counts.0.zip(counts.1).map(|(before, after)| before.min(after)) else {
                continue;
            };
            let children = if kernel.layout.children_counted {
                plan.children(mount.address)
            } else {
                0
            };
            // The table that a mount is in has one reference on it.
            let table = u64::from(!of_detached.contains(&mount.address));
            let extra = u64::try_from(count).unwrap_or(0);
            let extra = extra.saturating_sub(table + children);
            evidence.extra.insert(mount.address, extra);
        }
        for (index, mut reference) in references.into_iter().enumerate() {
            if let Some(process) = reference
                .holder
                .process
                .as_mut()
                .filter(|_| index < IDENTIFIED_MAX)
            {
                *process = self.identities.complete(kernel, process, reference.start);
            }
            let holders: &mut Vec<Holder> = evidence.holders.entry(reference.mount).or_default();
            holders.push(reference.holder);
        }
        for descriptor in namespaces {
            let keepers = evidence.keepers.entry(descriptor.namespace).or_default();
            keepers.push(self.keeper(descriptor));
        }
        self.detached(&mut evidence);
        evidence
    }

    fn keeper(&self, descriptor: NamespaceDescriptor) -> Keeper {
        let task = self.tasks.iter().find(|task| task.tid == descriptor.pid);
        let process = task.map(|task| process(self.kernel, self.identities, task));
        Keeper {
            kind: "fd".to_owned(),
            process,
            fd: Some(descriptor.fd),
            path: None,
            mount_namespace: None,
        }
    }

    /// Detached mounts that are there still: every umount passes through that state.
    fn detached(&self, evidence: &mut Evidence) {
        let addresses: Vec<u64> = self.view.detached.iter().map(|mount| mount.address).collect();
        let again = self.kernel.mounts(&addresses);
        for (mount, again) in self.view.detached.iter().zip(again) {
            let stays = again
                .is_some_and(|again| again.is_same(mount) && self.kernel.place(&again) == Place::Detached);
            let count = self.kernel.counts(&[mount]).pop().flatten();
            if !stays || count.is_some_and(|count| count <= 0) {
                continue;
            }
            let superblock = self.superblock(mount.superblock);
            let is_tmpfs = superblock
                .as_ref()
                .is_some_and(|superblock| superblock.fs_type == "tmpfs");
            let bytes = is_tmpfs
                .then(|| self.kernel.tmpfs_used(mount.superblock))
                .flatten();
            let known = Detached {
                mount_id: mount.id,
                fs_type: superblock.as_ref().map(|superblock| superblock.fs_type.clone()),
                source: self.kernel.device_name(mount).map(Text::from),
                device: superblock.map(|superblock| superblock.device),
                below: 0,
                mounted_elsewhere: false,
                bytes,
                holders: Vec::new(),
                unexplained: None,
                fixes: Vec::new(),
            };
            evidence.detached.insert(mount.address, known);
        }
    }
}

/// What the mounts of nsfs stand for.
fn nsfs(kernel: Kernel<'_>, mounts: &MountsView) -> HashMap<u64, u64> {
    let superblocks: HashSet<u64> = mounts
        .all()
        .map(|(_, mounted)| mounted.mount.superblock)
        .collect();
    let superblocks: Vec<u64> = superblocks.into_iter().collect();
    let superblocks = kernel.of_type(&superblocks, "nsfs");
    let (addresses, roots): (Vec<u64>, Vec<u64>) = mounts
        .all()
        .map(|(_, mounted)| &mounted.mount)
        .filter(|mount| superblocks.contains(&mount.superblock))
        .map(|mount| (mount.address, mount.root))
        .unzip();
    let found = kernel.namespaces_of_dentries(&roots);
    addresses
        .into_iter()
        .zip(found)
        .filter_map(|(mount, common)| Some((mount, common?)))
        .collect()
}

/// The namespaces with who is in them.
fn spaces(kernel: Kernel<'_>, identities: &Identities, tasks: &[Task], mounts: MountsView) -> Vec<Space> {
    let by_proxy = kernel.mount_namespaces(tasks);
    let mut members: HashMap<u64, HashMap<u32, &Task>> = HashMap::new();
    for task in tasks {
        if let Some(namespace) = by_proxy.get(&task.nsproxy).filter(|address| **address != 0) {
            let of = members.entry(*namespace).or_default();
            of.entry(task.tgid).or_insert(task);
        }
    }
    let host = tasks
        .iter()
        .find(|task| task.tid == 1)
        .and_then(|task| by_proxy.get(&task.nsproxy))
        .copied();
    let offset = kernel.layout.table.mnt_ns_common;
    let mut spaces: Vec<(Option<u64>, Space)> = Vec::with_capacity(mounts.namespaces.len());
    for namespace in mounts.namespaces {
        let of = members.get(&namespace.address);
        // Kernel threads are in the host's.
        let first = of.and_then(|of| {
            of.values()
                .min_by_key(|task| (task.mm == 0, task.start, task.tid))
        });
        if first.is_none() && !still(kernel, &namespace.mounts, namespace.address) {
            continue;
        }
        let process = first.map(|task| process(kernel, identities, task));
        let space = Space {
            address: namespace.address,
            common: if offset == ABSENT {
                0
            } else {
                namespace.address.wrapping_add(u64::from(offset))
            },
            number: namespace.number,
            host: host == Some(namespace.address),
            pod_uid: process.as_ref().and_then(|process| pod_uid(process.pid)),
            first: process,
            processes: of.map_or(0, |of| of.len() as u64),
            mounts: Arc::unwrap_or_clone(namespace).mounts,
        };
        spaces.push((first.map(|task| task.start), space));
    }
    spaces.sort_by_key(|(start, space)| (!space.host, start.is_none(), *start, space.number));
    spaces.into_iter().map(|(_, space)| space).collect()
}

/// Whether a namespace that nobody is in is there still.
fn still(kernel: Kernel<'_>, mounts: &[Mounted], address: u64) -> bool {
    let root = mounts
        .first()
        .and_then(|mounted| kernel.mount(mounted.mount.address));
    root.is_some_and(|root| root.namespace == address)
}

fn process(kernel: Kernel<'_>, identities: &Identities, task: &Task) -> Process {
    let comm = kernel.comms(&[task.address]).pop().flatten();
    let bare = Process {
        pid: task.tgid,
        comm: comm.map_or_else(Text::default, Text::from),
        ..Process::default()
    };
    identities.complete(kernel, &bare, task.start)
}

/// The uid of a process's pod. The text of `cgroup` takes no reference on any mount.
fn pod_uid(pid: u32) -> Option<String> {
    membership(&fs::read(format!("/proc/{pid}/cgroup")).ok()?).pod_uid
}

/// Whose the mounts of containers are, and what became of them.
struct Owners<'a> {
    containers: &'a Containers,
    alive: HashMap<String, usize>,
    pods: HashSet<String>,
    /// `ns_common` of the network namespaces that processes are in.
    networks: HashSet<u64>,
    nsfs: HashMap<u64, u64>,
    known: RefCell<Option<Known>>,
}

/// What runtimes have files of.
struct Known {
    ids: HashSet<String>,
    pods: HashSet<String>,
}

impl<'a> Owners<'a> {
    fn new(kernel: Kernel<'_>, containers: &'a Containers, tasks: &[Task], nsfs: HashMap<u64, u64>) -> Self {
        let t = &kernel.layout.table;
        let mut networks = HashSet::new();
        if t.nsproxy_net_ns != ABSENT && t.net_ns_common != ABSENT {
            let proxies: HashSet<u64> = tasks
                .iter()
                .map(|task| task.nsproxy)
                .filter(|at| *at != 0)
                .collect();
            let proxies: Vec<u64> = proxies.into_iter().collect();
            let found = kernel
                .memory
                .words(&proxies, t.nsproxy_net_ns)
                .into_iter()
                .flatten();
            networks.extend(found.map(|net| net.wrapping_add(u64::from(t.net_ns_common))));
        }
        let leaders = tasks.iter().filter(|task| task.tid == task.tgid && task.mm != 0);
        Self {
            containers,
            alive: containers.containers_alive(),
            pods: leaders.filter_map(|task| pod_uid(task.tgid)).collect(),
            networks,
            nsfs,
            known: RefCell::default(),
        }
    }

    fn of(&self, mounted: &Mounted) -> Owner {
        let claim = mount_claim(&mounted.path);
        let container = mounted.container(self.containers);
        let of = claim.as_ref().and_then(|claim| claim.owner.clone());
        let pod_uid = match &of {
            Some(MountOwner::Pod { uid }) => Some(uid.clone()),
            _ => None,
        };
        let state = match (&of, &container) {
            (Some(MountOwner::Pod { uid }), _) => {
                self.state(self.pods.contains(uid), |known| known.pods.contains(uid))
            }
            (Some(MountOwner::NetworkNamespace { name }), None) => self.network(name, mounted),
            (Some(_), Some(container)) if !container.id.is_empty() => {
                let id = &container.id;
                self.state(self.alive.contains_key(id), |known| known.ids.contains(id))
            }
            _ => State::Unknown,
        };
        Owner {
            what: claim.map(|claim| claim.what),
            container,
            pod_uid,
            state,
        }
    }

    fn state(&self, alive: bool, is_known: impl Fn(&Known) -> bool) -> State {
        if alive {
            return State::Alive;
        }
        let mut known = self.known.borrow_mut();
        let known = known.get_or_insert_with(|| self.read_known());
        if is_known(known) {
            State::Stuck
        } else {
            State::Gone
        }
    }

    fn read_known(&self) -> Known {
        let all = self.containers.all();
        Known {
            pods: all.iter().filter_map(|found| found.pod_uid.clone()).collect(),
            ids: all.into_iter().map(|found| found.container.id).collect(),
        }
    }

    /// A network namespace that a runtime made, which no container has and no process is in. What people make with
    /// `ip netns add` may well be empty.
    fn network(&self, name: &str, mounted: &Mounted) -> State {
        let by_runtime = name.strip_prefix("cni-").is_some_and(|rest| rest.len() == 36)
            || (name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match self.nsfs.get(&mounted.mount.address) {
            Some(common) if by_runtime && !self.networks.is_empty() => {
                if self.networks.contains(common) {
                    State::Alive
                } else {
                    State::Gone
                }
            }
            _ => State::Unknown,
        }
    }
}
