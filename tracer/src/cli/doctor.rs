//! `ebusy doctor`: what this kernel allows, what is missing, and the command that mends it.

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tracer_common::ABSENT;

use super::{Common, Format, exit, output::Results};
use crate::{
    btf::{Btf, Resolved},
    by_proc::BLIND,
    confine,
    identity::WatchPatterns,
    kernel::{KernelLayout, Reader, Ways, kinds_not_shown},
    live::{Host, MountsView, Options, Session, enter_host_namespace, own_namespace},
    model::Tier,
    probe::{Choice, History, Lockdown, Tracefs, load, reader_only},
    render::escape,
    watchdog::{self, Step},
};

#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Leave the table of kernel field offsets out
    #[arg(long)]
    short: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    /// `ok`, `warn` or `fail`.
    state: &'static str,
    name: String,
    found: String,
    /// The command that mends it.
    mend: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report<'r> {
    schema: &'static str,
    version: &'static str,
    kernel: String,
    tier: Option<&'static str>,
    checks: Vec<Check>,
    offsets: Vec<Offset<'r>>,
}

#[derive(Debug, Serialize)]
struct Offset<'r> {
    name: &'r str,
    path: Option<&'r str>,
    #[serde(rename = "offset")]
    bytes: Option<u32>,
    size: u32,
    error: Option<&'r str>,
    required: bool,
}

#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, state: &'static str, name: &str, found: impl Into<String>, mend: Option<&str>) {
        self.0.push(Check {
            state,
            name: name.to_owned(),
            found: found.into(),
            mend: mend.map(str::to_owned),
        });
    }

    fn result<T>(
        &mut self,
        name: &str,
        result: Result<T>,
        found: impl Fn(&T) -> String,
        mend: &str,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.add("ok", name, found(&value), None);
                Some(value)
            }
            Err(error) => {
                self.add(
                    "fail",
                    name,
                    format!("{error:#}"),
                    (!mend.is_empty()).then_some(mend),
                );
                None
            }
        }
    }
}

impl Doctor {
    pub(super) fn run(self, common: &Common) -> Result<u8> {
        let mut results = Results::redacted(common, false)?;
        let mut checks = Checks::default();
        let root = rustix::process::geteuid().is_root();
        if root {
            watchdog::start()?;
        }
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let state = if root { "ok" } else { "fail" };
        checks.add(
            state,
            "root",
            if root { "yes" } else { "no" },
            (!root).then_some("sudo ebusy doctor"),
        );
        checks.add("ok", "kernel", kernel.clone(), None);
        capabilities(&mut checks);
        let locked = lockdown(&mut checks);
        let btf = checks.result(
            "type information (BTF)",
            Btf::running_kernel().context("reading the kernel's types"),
            |_| "/sys/kernel/btf/vmlinux".to_owned(),
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
        );
        let btf = btf.map(Arc::new);
        let layout = btf.as_deref().map(KernelLayout::resolve);
        if let Some(layout) = &layout {
            let there = layout
                .fields
                .iter()
                .filter(|field| field.offset != ABSENT)
                .count();
            let all = layout.fields.len();
            let result = layout.check().map_err(anyhow::Error::from);
            checks.result(
                "kernel fields",
                result,
                |()| format!("{there} of {all}, no required one missing"),
                "",
            );
            kinds(&mut checks, layout);
        }
        let mut tier = None;
        if locked {
            // Each of them would fail for this one reason.
        } else if root && let (Some(btf), Some(layout)) = (&btf, &layout) {
            namespaces(&mut checks);
            tier = programs(&mut checks, btf, layout);
            if tier.is_some() {
                let result = self_test(common.probe);
                checks.result("self-test", result, Clone::clone, "report it with this output");
            }
        } else if !root {
            checks.add(
                "warn",
                "probe tiers",
                "not tried: that needs root",
                Some("sudo ebusy doctor"),
            );
        }
        // After the last move to another namespace, for which there may be no other thread.
        confinement(&mut checks);
        let failed = checks.0.iter().any(|check| check.state == "fail");
        // Fields of modules that are not loaded are missing without harm.
        let modules = btf
            .as_ref()
            .map(|btf| Ways::new(Arc::clone(btf), 0).module_fields());
        let fields = layout
            .iter()
            .flat_map(|layout| &layout.fields)
            .chain(modules.iter().flatten());
        let report = Report {
            schema: "ebusy.doctor/1",
            version: env!("CARGO_PKG_VERSION"),
            kernel,
            tier: tier.map(Tier::name),
            checks: checks.0,
            offsets: fields.map(offset).collect(),
        };
        match common.format {
            Format::Json => results.json(&report)?,
            Format::Text | Format::Html => results.text(&text(&report, self.short)),
        }
        let found = match (report.tier, failed) {
            (None, _) => exit::UNKNOWN,
            (Some(_), true) => exit::FOUND,
            (Some(_), false) => exit::OK,
        };
        results.finish(found)
    }
}

fn offset(field: &Resolved) -> Offset<'_> {
    Offset {
        name: field.name,
        path: field.path,
        bytes: (field.offset != ABSENT).then_some(field.offset),
        size: field.size,
        error: field.error.as_deref(),
        required: field.required,
    }
}

/// What the verifier said of a program fills screens; JSON has it.
fn without_verifier_log(found: &str) -> &str {
    found
        .split_once(". Verifier output:")
        .map_or(found, |(before, _)| before)
}

fn text(report: &Report<'_>, short: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    for check in &report.checks {
        let found = escape(without_verifier_log(&check.found).as_bytes());
        lines.push(format!("{:4} {}: {found}", check.state, check.name));
        if let Some(mend) = &check.mend {
            lines.push(format!("       mend: {mend}"));
        }
    }
    lines.push(match report.tier {
        Some(tier) => format!("ebusy {} works here at tier {tier}", report.version),
        None => format!(
            "ebusy {} sees no refused umount here; tier proc, for `ebusy who PATH`, is left: {BLIND}",
            report.version
        ),
    });
    if !short && !report.offsets.is_empty() {
        lines.push("kernel fields (offset, size, path):".to_owned());
        for field in &report.offsets {
            let place = field
                .bytes
                .map_or_else(|| "-".to_owned(), |offset| offset.to_string());
            let need = if field.required { "" } else { " (optional)" };
            let path = field.path.or(field.error).unwrap_or("not in this kernel");
            lines.push(format!(
                "  {:24} {place:>6} {:>4}  {path}{need}",
                field.name, field.size
            ));
        }
    }
    lines.join("\n")
}

/// Kinds of reference that this kernel has not, or does not show.
fn kinds(checks: &mut Checks, layout: &KernelLayout) {
    let hidden = kinds_not_shown(layout);
    if hidden.is_empty() {
        checks.add("ok", "kinds of reference", "all that ebusy knows", None);
        return;
    }
    let names = hidden
        .iter()
        .map(|(kind, fields)| format!("{} ({})", kind.name(), fields.join(", ")));
    let names: Vec<String> = names.collect();
    let found = format!(
        "this kernel has none of these, or ebusy cannot see them, as its type information lacks the fields in brackets: {}",
        names.join("; ")
    );
    checks.add("warn", "kinds of reference", found, None);
}

/// What ebusy gives up while it runs.
fn confinement(checks: &mut Checks) {
    let trial = confine::trial();
    let state = if trial.whole { "ok" } else { "warn" };
    checks.add(state, "confinement", trial.found, trial.mend);
}

/// Capabilities that loading and looking need, with their numbers (uapi/linux/capability.h).
fn capabilities(checks: &mut Checks) {
    const NEEDED: [(&str, u32, &str); 6] = [
        ("CAP_BPF", 39, "BPF programs"),
        ("CAP_PERFMON", 38, "tracing programs and kernel memory"),
        (
            "CAP_SYS_ADMIN",
            21,
            "the host's mount namespace, and programs where CAP_BPF does not exist",
        ),
        ("CAP_SYS_CHROOT", 18, "the host's mount namespace"),
        ("CAP_SYS_PTRACE", 19, "namespaces of other users' processes"),
        ("CAP_DAC_READ_SEARCH", 2, "bundles of other users' containers"),
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        checks.add("warn", "capabilities", "/proc/self/status does not say", None);
        return;
    };
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(_, bit, _)| effective >> bit & 1 == 0)
        .map(|(name, _, why)| format!("{name} ({why})"))
        .collect();
    if missing.is_empty() {
        checks.add("ok", "capabilities", "all that are needed", None);
    } else {
        let mend = "run as root on the host, or in a privileged container";
        checks.add(
            "fail",
            "capabilities",
            format!("missing {}", missing.join(", ")),
            Some(mend),
        );
    }
}

/// Whether the kernel is locked down so far that nothing of it can be read.
fn lockdown(checks: &mut Checks) -> bool {
    match Lockdown::now() {
        Ok(Some(Lockdown::Confidentiality)) => {
            checks.add(
                "fail",
                "lockdown",
                "confidentiality: nobody may read the kernel's memory, place kprobes or open tracefs; no refused umount is \
                 seen, and no count",
                Some(
                    "boot with lockdown=integrity in place of lockdown=confidentiality (a running kernel cannot be unlocked): \
                     grubby --update-kernel=ALL --args=lockdown=integrity, or GRUB_CMDLINE_LINUX in /etc/default/grub and \
                     update-grub",
                ),
            );
            return true;
        }
        Ok(Some(state)) => checks.add("ok", "lockdown", state.to_string(), None),
        Ok(None) => checks.add("ok", "lockdown", "not in this kernel", None),
        Err(error) => checks.add("warn", "lockdown", format!("not known: {error:#}"), None),
    }
    false
}

fn namespaces(checks: &mut Checks) {
    for (name, what, mend) in [
        (
            "pid",
            "/proc shows what the kernel counts",
            "run in the host's pid namespace (hostPID: true)",
        ),
        ("mnt", "ebusy moves into that of pid 1 by itself", ""),
    ] {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).ok();
        let label = format!("{name} namespace");
        match fs::read_link(format!("/proc/1/ns/{name}")) {
            Ok(host) if Some(&host) == own.as_ref() => {
                checks.add("ok", &label, "the same as that of pid 1", None);
            }
            Ok(_) if mend.is_empty() => {
                checks.add("ok", &label, format!("another than that of pid 1: {what}"), None);
            }
            Ok(_) => checks.add("warn", &label, "another than that of pid 1", Some(mend)),
            Err(error) => checks.add("ok", &label, format!("that of pid 1 is hidden ({error})"), None),
        }
    }
}

/// Tries what loads; the best tier.
fn programs(checks: &mut Checks, btf: &Btf, layout: &KernelLayout) -> Option<Tier> {
    let mounted = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];
    let found = if mounted.iter().any(|path| Path::new(path).is_dir()) {
        "mounted"
    } else {
        "mounted privately"
    };
    checks.result(
        "tracefs",
        Tracefs::open(),
        |_| found.to_owned(),
        "mount -t tracefs tracefs /sys/kernel/tracing",
    );
    let loading = watchdog::within(Step::Loading, b"that read kernel memory");
    let reader = reader_only(layout);
    drop(loading);
    checks.result(
        "reader (raw tracepoint programs, BPF_PROG_TEST_RUN)",
        reader,
        |_| "loads".to_owned(),
        "use Linux 5.10 or later with CONFIG_BPF_SYSCALL=y and CONFIG_BPF_EVENTS=y",
    )?;
    let mut best = None;
    for tier in Tier::LOADED {
        let _step = watchdog::within(Step::Loading, format!("of tier {tier}").as_bytes());
        match load(Choice::Only(tier), btf, layout, History::On) {
            Ok((probes, _)) => {
                best = best.or(Some(tier));
                let missing: Vec<String> = probes
                    .missing
                    .iter()
                    .map(|hook| format!("without {hook}"))
                    .collect();
                let found = if missing.is_empty() {
                    "loads, all hooks".to_owned()
                } else {
                    missing.join("; ")
                };
                checks.add("ok", &format!("tier {tier}"), found, None);
            }
            Err(error) => {
                // A better tier that this kernel refuses is no defect while a lesser one works.
                let reason = format!("{error:#}");
                let reason = reason.lines().nth(1).unwrap_or(&reason).trim();
                let reason = reason
                    .strip_prefix(&format!("{tier}: "))
                    .unwrap_or(reason)
                    .to_owned();
                let mend = match tier {
                    Tier::Fentry => {
                        "needs CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y"
                    }
                    Tier::Kprobe => "needs CONFIG_KPROBE_EVENTS=y",
                    Tier::Proc => "",
                    Tier::Tracepoint => "needs CONFIG_FTRACE_SYSCALLS=y",
                };
                checks.add("warn", &format!("tier {tier}"), reason, Some(mend));
            }
        }
    }
    best
}

/// Proves the table of offsets on what is known otherwise: our own task, and the mounts of our own namespace.
fn self_test(choice: Choice) -> Result<String> {
    enter_host_namespace()?;
    let mut host = Host::new()?;
    let reader = reader_only(&host.layout)?;
    host.attach(&reader)?;
    let looking = watchdog::within(Step::Mounts, &[]);
    own_task(&host, &reader)?;
    let mounts = own_mounts(&host, &reader)?;
    drop(looking);
    let counts = host
        .counts_unknown()
        .map_or_else(|| "counts readable".to_owned(), |why| format!("no counts: {why}"));
    let (_, watching) = Session::start(Options {
        probe: choice,
        history: History::On,
        patterns: WatchPatterns::with(&[])?,
        all: false,
        cmdline: false,
        command: false,
        slow: None,
        capture: None,
    })?;
    ensure!(
        watching.self_test.is_none(),
        "{}",
        watching.self_test.unwrap_or_default()
    );
    Ok(format!(
        "passed: own task, {mounts} mounts as in mountinfo, {counts}, an umount of our own seen"
    ))
}

fn own_task(host: &Host, reader: &Reader) -> Result<()> {
    let kernel = host.kernel(reader);
    let tasks = kernel.tasks(host.task());
    let own = std::process::id();
    let read = kernel.memory.half(host.task(), host.layout.table.task_tgid);
    ensure!(
        read == Some(own),
        "our own pid {own} reads as {read:?} at {:#x}",
        host.task()
    );
    let task = tasks.all.iter().find(|task| task.tgid == own && task.tid == own);
    let task =
        task.with_context(|| format!("our own pid {own} is not among the {} tasks", tasks.all.len()))?;
    let comm = kernel.comms(&[task.address]).pop().flatten().unwrap_or_default();
    let expected = fs::read("/proc/self/comm").context("reading /proc/self/comm")?;
    ensure!(
        comm == expected.trim_ascii_end(),
        "our own name reads as {:?}",
        escape(&comm)
    );
    Ok(())
}

fn own_mounts(host: &Host, reader: &Reader) -> Result<usize> {
    // The mounts of a busy host may change between the two looks.
    let mut difference = String::new();
    for _ in 0..5 {
        let view = MountsView::read(host.kernel(reader), host.task());
        let own = own_namespace().and_then(|number| view.namespace(number));
        let own = own.context("our own mount namespace was not found")?;
        let read: HashSet<u32> = own.mounts.iter().map(|mounted| mounted.mount.id).collect();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        let listed: HashSet<u32> = mountinfo
            .lines()
            .filter_map(|line| line.split(' ').next()?.parse().ok())
            .collect();
        // mountinfo leaves out what is above our root.
        if listed.is_subset(&read) {
            return Ok(listed.len());
        }
        difference = format!(
            "mounts {:?} of mountinfo were not found",
            listed.difference(&read).collect::<Vec<_>>()
        );
    }
    anyhow::bail!("{difference}")
}
