//! Loading and attaching.

use std::{fmt, os::fd::AsFd as _};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{HashMap as BpfHashMap, MapData, RingBuf},
    programs::{FEntry, FExit, TracePoint},
};
use tracer_common::{Config, Watched};

use super::{
    LossReader,
    tier::{Choice, FENTRY_HOOKS, FentryHook, Purpose, TRACEPOINT_HOOKS, Tier},
    tracefs::{Attached, Tracefs, attach},
};
use crate::{
    btf::Btf,
    kernel::{KernelLayout, Reader},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ebusy-bpf.o"));

/// The kernel's side of the table of watched mounts.
pub struct WatchedMaps {
    /// Mounts by address.
    pub mounts: BpfHashMap<MapData, u64, Watched>,
    /// Superblocks by address.
    pub superblocks: BpfHashMap<MapData, u64, u8>,
}

impl fmt::Debug for WatchedMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedMaps").finish_non_exhaustive()
    }
}

/// The running probes of one tier.
pub struct Probes {
    /// The tier.
    pub tier: Tier,
    /// Kernel memory.
    pub reader: Reader,
    /// Refused umounts.
    pub refusals: RingBuf<MapData>,
    /// Everything else.
    pub events: RingBuf<MapData>,
    /// The table of watched mounts.
    pub watched: WatchedMaps,
    /// Loss counters.
    pub losses: LossReader,
    /// Hooks that are not there, and why.
    pub missing: Vec<String>,
    _attached: Vec<Attached>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes")
            .field("tier", &self.tier)
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

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
    Reader::load(object(layout, Config::default())?)
}

/// Loads the tier that was asked for, or the best that loads; says why the better ones did not.
pub fn load(
    choice: Choice,
    btf: &Btf,
    layout: &KernelLayout,
    history: bool,
) -> Result<(Probes, Vec<Refused>)> {
    let tiers: &[Tier] = match &choice {
        Choice::Auto => &Tier::ALL,
        Choice::Only(tier) => std::slice::from_ref(tier),
    };
    let mut refused = Vec::new();
    for tier in tiers {
        match load_tier(*tier, btf, layout, history) {
            Ok(probes) => return Ok((probes, refused)),
            Err(error) => {
                log::debug!("tier {tier}: {error:#}");
                refused.push(Refused { tier: *tier, error });
            }
        }
    }
    let reasons: Vec<String> = refused
        .iter()
        .map(|refused| format!("{}: {}", refused.tier, refused.reason()))
        .collect();
    bail!(
        "no probe tier loads on this kernel; `ebusy doctor` says what each needs:\n  {}",
        reasons.join("\n  ")
    )
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
    let watched = WatchedMaps {
        mounts: BpfHashMap::try_from(map("WATCHED")?)?,
        superblocks: BpfHashMap::try_from(map("WATCHED_SUPERBLOCKS")?)?,
    };
    let losses = LossReader::new(map("LOSSES")?)?;
    let mut missing = Vec::new();
    let wanted = |purpose: Purpose| history || purpose != Purpose::History;
    let attached = match tier {
        Tier::Fentry => attach_fentry(&mut ebpf, btf, wanted, &mut missing)?,
        Tier::Tracepoint => attach_tracepoints(&mut ebpf, wanted, &mut missing)?,
    };
    let reader = Reader::load(ebpf)?;
    Ok(Probes {
        tier,
        reader,
        refusals,
        events,
        watched,
        losses,
        missing,
        _attached: attached,
    })
}

/// A hook that is missing is an error for refusals, and a note for the rest.
fn hook(purpose: Purpose, name: &str, missing: &mut Vec<String>, result: Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if purpose == Purpose::Refusals => Err(error.context(format!("hook {name}"))),
        Err(error) => {
            missing.push(format!("{name}: {error:#}"));
            Ok(())
        }
    }
}

fn attach_fentry(
    ebpf: &mut Ebpf,
    types: &Btf,
    wanted: impl Fn(Purpose) -> bool,
    missing: &mut Vec<String>,
) -> Result<Vec<Attached>> {
    let btf = AyaBtf::from_sys_fs().context("reading the kernel's BTF")?;
    for FentryHook {
        program: name,
        function,
        at_return,
        params,
        purpose,
    } in FENTRY_HOOKS
    {
        if !wanted(*purpose) || (params.is_some() && types.function_params(function) != *params) {
            continue;
        }
        let result = (|| {
            let program = ebpf.program_mut(name).context("not in the BPF object")?;
            if *at_return {
                let program: &mut FExit = program.try_into()?;
                program.load(function, &btf)?;
                program.attach()?;
            } else {
                let program: &mut FEntry = program.try_into()?;
                program.load(function, &btf)?;
                program.attach()?;
            }
            Ok(())
        })();
        hook(*purpose, function, missing, result)?;
    }
    Ok(Vec::new())
}

fn attach_tracepoints(
    ebpf: &mut Ebpf,
    wanted: impl Fn(Purpose) -> bool,
    missing: &mut Vec<String>,
) -> Result<Vec<Attached>> {
    let tracefs = Tracefs::open()?;
    let mut attached = Vec::new();
    for (name, purpose) in TRACEPOINT_HOOKS.iter().filter(|hook| wanted(hook.1)) {
        let result = (|| {
            let Some(event) = tracefs.syscall_event(name)? else {
                bail!("this kernel has no tracepoint syscalls:{name} (CONFIG_FTRACE_SYSCALLS)");
            };
            let program = ebpf.program_mut(name).context("not in the BPF object")?;
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            attached.push(attach(program.fd()?.as_fd(), event)?);
            Ok(())
        })();
        hook(*purpose, name, missing, result)?;
    }
    Ok(attached)
}
