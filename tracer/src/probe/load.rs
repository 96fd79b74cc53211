//! Loading and attaching.

use std::{cell::OnceCell, fmt, os::fd::AsFd as _};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{HashMap as BpfHashMap, MapData, RingBuf},
    programs::{FEntry, FExit, KProbe, TracePoint},
};
use tracer_common::{Config, UmountCall, Watched};

use super::{
    LossReader,
    attach::{Outcome, attach_each},
    bpf::kprobe_misses,
    detach::drop_at_once,
    kprobe::Kprobes,
    ledger::LedgerMaps,
    lockdown,
    sources::Sources,
    tier::{At, Choice, FENTRY_HOOKS, FunctionHook, History, KPROBE_HOOKS, Purpose, TRACEPOINT_HOOKS},
    tracefs::{Attached, Tracefs, attach},
};
use crate::{
    btf::Btf,
    kernel::{KernelLayout, Reader},
    model::Tier,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ebusy-bpf.o"));

/// The kernel's side of the table of watched mounts.
pub struct WatchedMaps {
    /// Mounts by address.
    pub mounts: BpfHashMap<MapData, u64, Watched>,
    /// Superblocks by address.
    pub superblocks: BpfHashMap<MapData, u64, u8>,
    /// Mounts that are newer than the last look, by address, with their `mnt_id`.
    pub new: BpfHashMap<MapData, u64, u32>,
}

impl fmt::Debug for WatchedMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedMaps").finish_non_exhaustive()
    }
}

/// Umounts between their entry and their return, by thread: those of the host's superuser, and those of others.
pub struct UnderWay([BpfHashMap<MapData, u32, UmountCall>; 2]);

impl UnderWay {
    /// All of them, those of the host first; one that is just being entered is left out.
    #[must_use]
    pub fn all(&self) -> Vec<(u32, UmountCall)> {
        let calls = self.0.iter().flat_map(BpfHashMap::iter).filter_map(Result::ok);
        calls.filter(|(_, call)| call.entered != 0).collect()
    }
}

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderWay").finish_non_exhaustive()
    }
}

/// The running probes of one tier.
pub struct Probes {
    /// The tier.
    pub tier: Tier,
    /// Kernel memory.
    pub reader: Reader,
    /// Refused umounts of the host's superuser.
    pub refusals: RingBuf<MapData>,
    /// Everything else that it does.
    pub events: RingBuf<MapData>,
    /// What all others do.
    pub others: RingBuf<MapData>,
    /// Who those are.
    pub sources: Sources,
    /// The table of watched mounts.
    pub watched: WatchedMaps,
    /// The ledger of open files; only where the tier sees them by their `struct file`.
    pub ledger: Option<LedgerMaps>,
    /// Umounts between entry and return.
    pub under_way: UnderWay,
    /// Loss counters.
    pub losses: LossReader,
    /// Hooks that are not there, and why.
    pub missing: Vec<String>,
    /// Whether a refusal tells what the kernel compared.
    pub counts: bool,
    /// Every open and every close on a watched mount is seen, but for what was lost.
    pub history: bool,
    attached: Vec<Attached>,
    kprobes: Option<Kprobes>,
}

impl Probes {
    /// What kprobes missed, by function.
    #[must_use]
    pub fn missed(&self) -> Vec<(String, u64)> {
        let by_link = self.attached.iter().filter_map(|attached| {
            let missed = kprobe_misses(attached.link.as_ref()?.as_fd())?;
            Some((attached.name.clone(), missed))
        });
        let by_event = self
            .kprobes
            .iter()
            .flat_map(|kprobes| kprobes.missed(&self.attached));
        by_link
            .chain(by_event)
            .filter(|(_, missed)| *missed > 0)
            .map(|(name, missed)| (format!("{name}: missed by the kprobe"), missed))
            .collect()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        drop_at_once(std::mem::take(&mut self.attached));
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes")
            .field("tier", &self.tier)
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

/// No tier loads that sees refusals.
#[derive(Debug, thiserror::Error)]
#[error(
    "no probe tier loads that sees refused umounts; `ebusy doctor` says what each needs, and `ebusy who PATH` may still \
     tell who has files open:\n  {}", .0.join("\n  ")
)]
pub struct NoTier(pub Vec<String>);

/// Why a tier does not load.
#[derive(Debug)]
pub struct Refused {
    /// The tier.
    pub tier: Tier,
    /// The reason.
    pub error: anyhow::Error,
}

impl Refused {
    /// The reason without what the verifier says of the program, which fills screens (`-vv` logs it).
    #[must_use]
    pub fn reason(&self) -> String {
        let reason = format!("{:#}", self.error);
        reason
            .split_once(". Verifier output:")
            .map_or(reason.as_str(), |(before, _)| before)
            .to_owned()
    }
}

fn object(layout: &KernelLayout, config: Config) -> Result<Ebpf> {
    EbpfLoader::new()
        .override_global("LAYOUT", &layout.table, true)
        .override_global("CONFIG", &config, true)
        .load(OBJECT)
        .context("creating the BPF maps (needs root, or CAP_BPF and CAP_PERFMON)")
}

/// Loads the reader without any hook: what `who` needs.
pub fn reader_only(layout: &KernelLayout) -> Result<Reader> {
    lockdown::check()?;
    Reader::load(object(layout, Config::default())?)
}

/// Loads the tier that was asked for, or the best that loads; says why the better ones did not.
pub fn load(
    choice: Choice,
    btf: &Btf,
    layout: &KernelLayout,
    history: History,
) -> Result<(Probes, Vec<Refused>)> {
    if let Err(locked) = lockdown::check() {
        return Err(NoTier(vec![locked.to_string()]).into());
    }
    let tiers: &[Tier] = match &choice {
        Choice::Auto => &Tier::LOADED,
        Choice::Only(tier) => std::slice::from_ref(tier),
    };
    let mut refused = Vec::new();
    for tier in tiers {
        match load_tier(*tier, btf, layout, history.at(*tier)) {
            Ok(probes) => return Ok((probes, refused)),
            Err(error) => {
                log::debug!("tier {tier}: {error:#}");
                refused.push(Refused { tier: *tier, error });
            }
        }
    }
    let reasons = refused
        .iter()
        .map(|refused| format!("{}: {}", refused.tier, refused.reason()))
        .collect();
    Err(NoTier(reasons).into())
}

fn load_tier(tier: Tier, btf: &Btf, layout: &KernelLayout, history: bool) -> Result<Probes> {
    let config = Config {
        own_tgid: std::process::id(),
    };
    let mut ebpf = object(layout, config)?;
    let mut map = |name: &str| {
        ebpf.take_map(name)
            .with_context(|| format!("the BPF object has no map {name}"))
    };
    let refusals = RingBuf::try_from(map("REFUSALS")?)?;
    let events = RingBuf::try_from(map("EVENTS")?)?;
    let others = RingBuf::try_from(map("OTHERS")?)?;
    let sources = Sources::new(map("SOURCES")?, map("MOUNTS_CHANGED")?)?;
    let watched = WatchedMaps {
        mounts: BpfHashMap::try_from(map("WATCHED")?)?,
        superblocks: BpfHashMap::try_from(map("WATCHED_SUPERBLOCKS")?)?,
        new: BpfHashMap::try_from(map("NEW_MOUNTS")?)?,
    };
    let ledger = (matches!(tier, Tier::Fentry | Tier::Kprobe) && history)
        .then(|| {
            let open = [map("LEDGER")?, map("OTHERS_LEDGER")?];
            LedgerMaps::new(open, [map("CLOSED")?, map("OTHERS_CLOSED")?])
        })
        .transpose()?;
    let under_way = UnderWay([
        BpfHashMap::try_from(map("UNDER_WAY")?)?,
        BpfHashMap::try_from(map("OTHERS_UNDER_WAY")?)?,
    ]);
    let losses = LossReader::new(map("LOSSES")?)?;
    let wanted = |purpose: Purpose| history || purpose != Purpose::History;
    let mut attached = Vec::new();
    let kprobes = OnceCell::new();
    let outcome = match tier {
        Tier::Fentry => attach_fentry(&mut ebpf, btf, wanted, &kprobes, &mut attached)?,
        Tier::Kprobe => attach_kprobes(
            &mut ebpf,
            wanted,
            kprobes.get_or_init(Kprobes::new),
            &mut attached,
        )?,
        Tier::Tracepoint => attach_tracepoints(&mut ebpf, wanted, &mut attached)?,
        Tier::Proc => bail!("/proc does not show refused umounts"),
    };
    let reader = Reader::load(ebpf)?;
    Ok(Probes {
        tier,
        reader,
        refusals,
        events,
        others,
        sources,
        watched,
        ledger,
        under_way,
        losses,
        missing: outcome.missing,
        counts: outcome.counts,
        // The kprobes see an open before it is known to have succeeded.
        history: outcome.history && tier == Tier::Fentry,
        attached,
        kprobes: kprobes.into_inner(),
    })
}

fn attach_fentry(
    ebpf: &mut Ebpf,
    types: &Btf,
    wanted: impl Fn(Purpose) -> bool,
    kprobes: &OnceCell<Kprobes>,
    attached: &mut Vec<Attached>,
) -> Result<Outcome> {
    let btf = AyaBtf::from_sys_fs().context("reading the kernel's BTF")?;
    let hooks: Vec<&FunctionHook> = FENTRY_HOOKS
        .iter()
        .filter(|hook| wanted(hook.purpose) && fits(hook, types.function_params(hook.function)))
        .filter(|hook| hook.purpose != Purpose::Operations || is_there(types, hook.function))
        .collect();
    attach_each(
        &hooks,
        |hook| (hook.function, hook.purpose),
        |hook| {
            let params = types.function_params(hook.function);
            if let (Some(known), Some(params)) = (hook.params, params)
                && known != params
            {
                bail!("it has {params} parameters on this kernel, which ebusy does not know");
            }
            let Err(error) = attach_traced(ebpf, hook, &btf) else {
                return Ok(());
            };
            let Some(kprobe) = hook.clone else {
                return Err(error);
            };
            let program = kprobe_program(ebpf, kprobe).map_err(|_| error.context("no kprobe either"))?;
            let kprobes = kprobes.get_or_init(Kprobes::new);
            attached.push(kprobes.attach_or_clone(program.fd()?, hook.function, hook.at)?);
            Ok(())
        },
    )
}

/// Whether this kernel has a system call (`mount_setattr` since 5.12); where none of them is found, all are tried.
fn is_there(types: &Btf, function: &str) -> bool {
    types.function_params(function).is_some() || types.function_params("__x64_sys_mount").is_none()
}

/// Whether a hook is the one for a function of so many parameters; one of several stays where none is, to say so.
fn fits(hook: &FunctionHook, params: Option<usize>) -> bool {
    let Some(known) = hook.params else { return true };
    let mut variants = FENTRY_HOOKS
        .iter()
        .filter(|other| other.function == hook.function)
        .map(|other| other.params)
        .peekable();
    let first = variants.peek().copied();
    params == Some(known) || first == Some(hook.params) && variants.all(|variant| variant != params)
}

fn attach_traced(ebpf: &mut Ebpf, hook: &FunctionHook, btf: &AyaBtf) -> Result<()> {
    let program = ebpf.program_mut(hook.program).context("not in the BPF object")?;
    match hook.at {
        At::Entry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(hook.function, btf)?;
            program.attach()?;
        }
        At::Return => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook.function, btf)?;
            program.attach()?;
        }
    }
    Ok(())
}

fn attach_kprobes(
    ebpf: &mut Ebpf,
    wanted: impl Fn(Purpose) -> bool,
    kprobes: &Kprobes,
    attached: &mut Vec<Attached>,
) -> Result<Outcome> {
    attach_each(
        KPROBE_HOOKS.iter().filter(|hook| wanted(hook.purpose)),
        |hook| (hook.function, hook.purpose),
        |hook| {
            let program = kprobe_program(ebpf, hook.program)?.fd()?;
            attached.push(match hook.clone {
                Some(_) => kprobes.attach_or_clone(program, hook.function, hook.at)?,
                None => kprobes.attach(program, hook.function, hook.at)?,
            });
            Ok(())
        },
    )
}

fn kprobe_program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e KProbe> {
    let program = ebpf.program_mut(name).context("not in the BPF object")?;
    let program: &mut KProbe = program.try_into()?;
    program.load()?;
    Ok(program)
}

fn attach_tracepoints(
    ebpf: &mut Ebpf,
    wanted: impl Fn(Purpose) -> bool,
    attached: &mut Vec<Attached>,
) -> Result<Outcome> {
    let tracefs = Tracefs::open()?;
    attach_each(
        TRACEPOINT_HOOKS.iter().filter(|hook| wanted(hook.1)),
        |hook| *hook,
        |(name, purpose)| {
            let Some(event) = tracefs.event("syscalls", name)? else {
                if *purpose != Purpose::Refusals {
                    // A system call that this kernel or machine has not (mount_setattr before 5.12, open on arm64).
                    return Ok(());
                }
                bail!("this kernel has no tracepoint syscalls:{name} (CONFIG_FTRACE_SYSCALLS)");
            };
            let program = ebpf.program_mut(name).context("not in the BPF object")?;
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            attached.push(attach(program.fd()?.as_fd(), event, name)?);
            Ok(())
        },
    )
}
