//! The tests that run under each kernel, and their tiers.

/// The kernels that the tests run under besides the host's.
pub(crate) const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];

/// A suite of the package in a machine.
pub(crate) struct Plan {
    pub(crate) test: &'static str,
    pub(crate) tier: &'static str,
    pub(crate) kernels: &'static [&'static str],
    /// Words for the kernel's command line.
    pub(crate) append: &'static str,
    /// Part of the names of those that run; empty for all.
    pub(crate) only: &'static str,
}

const PLAN: Plan = Plan {
    test: "",
    tier: "fentry",
    kernels: &KERNELS,
    append: "",
    only: "",
};

/// The tests in machines: those that need only ebusy and the holder programs.
pub(crate) const MATRIX: [Plan; 28] = [
    Plan {
        test: "kinds",
        tier: "fentry",
        kernels: &KERNELS,
        ..PLAN
    },
    Plan {
        test: "kinds",
        tier: "tracepoint",
        kernels: &KERNELS,
        ..PLAN
    },
    // A kernel that preempts (7.2) may skip a run of these programs: the loss is counted.
    Plan {
        test: "kinds",
        tier: "kprobe",
        kernels: &KERNELS,
        ..PLAN
    },
    // Where every open and close is seen.
    Plan {
        test: "ledger",
        tier: "fentry",
        kernels: &["5.10", "7.2"],
        ..PLAN
    },
    // The kernel's own functions for system calls.
    Plan {
        test: "operations",
        tier: "fentry",
        kernels: &["5.10", "7.2"],
        only: "_private_copy",
        ..PLAN
    },
    // The same functions, by kretprobes.
    Plan {
        test: "operations",
        tier: "kprobe",
        kernels: &["6.12"],
        only: "_private_copy",
        ..PLAN
    },
    // By the hooks of the kernel's own functions.
    Plan {
        test: "detached",
        kernels: &["7.2"],
        ..PLAN
    },
    Plan {
        test: "entering",
        kernels: &["6.1"],
        ..PLAN
    },
    // An ioctl, too; and device-mapper, which the host may not have.
    Plan {
        test: "devices",
        tier: "fentry",
        kernels: &["5.10", "7.2"],
        ..PLAN
    },
    // Advice that affects the whole system: not on the host.
    Plan {
        test: "advice",
        tier: "tracepoint",
        kernels: &["6.1"],
        only: "system::",
        ..PLAN
    },
    // The ledger knows the opener of a file that only the block device has; the list of a polled ring has three forms.
    Plan {
        test: "direct",
        kernels: &["5.10", "6.12", "7.2"],
        ..PLAN
    },
    // Delays of the caller after the kernel's function has returned.
    Plan {
        test: "slow",
        tier: "fentry",
        kernels: &["7.2"],
        ..PLAN
    },
    // Reads of the caller's memory at the entry.
    Plan {
        test: "slow",
        tier: "tracepoint",
        kernels: &["5.10"],
        ..PLAN
    },
    // Processes and page tables differ between kernels.
    Plan {
        test: "waiting",
        tier: "tracepoint",
        kernels: &KERNELS,
        only: "_memory_",
        ..PLAN
    },
    // The credentials of a call, and the counting instructions of old kernels: all storms by the hooks of the oldest
    // and of the newest, the one of umounts by the others. The host tests the disk beside a storm.
    Plan {
        test: "noise",
        tier: "tracepoint",
        kernels: &["5.10"],
        only: "beside_a_storm_of",
        ..PLAN
    },
    Plan {
        test: "noise",
        tier: "fentry",
        kernels: &["7.2"],
        only: "beside_a_storm_of",
        ..PLAN
    },
    Plan {
        test: "noise",
        tier: "fentry",
        kernels: &["6.1"],
        only: "beside_a_storm_of_umounts",
        ..PLAN
    },
    Plan {
        test: "noise",
        tier: "kprobe",
        kernels: &["6.12"],
        only: "beside_a_storm_of_umounts",
        ..PLAN
    },
    // Kernels support different parts: filters and capabilities of each thread, and the rights that Landlock removes.
    Plan {
        test: "confined",
        only: "_its_threads",
        ..PLAN
    },
    Plan {
        test: "confined",
        kernels: &["5.10", "7.2"],
        only: "report_has_no_rights",
        ..PLAN
    },
    // The adversary: by the hooks of each kernel, and by tracepoints on the oldest and the newest.
    Plan {
        test: "adversary",
        tier: "fentry",
        kernels: &KERNELS,
        only: "record_",
        ..PLAN
    },
    Plan {
        test: "adversary",
        tier: "tracepoint",
        kernels: &["5.10", "7.2"],
        only: "watch_",
        ..PLAN
    },
    // Many causes at once.
    Plan {
        test: "together",
        tier: "fentry",
        kernels: &["6.1", "7.2"],
        only: "all::",
        ..PLAN
    },
    // Lists of mounts that differ between kernels. Tests with this in their names follow advice that does not need
    // util-linux, which a machine lacks.
    Plan {
        test: "audit",
        tier: "tracepoint",
        kernels: &["5.10", "7.2"],
        only: "_a_",
        ..PLAN
    },
    // Faults of a recorder, and steps of the wall clock, which only a machine of its own can take.
    Plan {
        test: "record",
        tier: "fentry",
        kernels: &["6.1"],
        only: "record_",
        ..PLAN
    },
    // 32-bit callers, which the tracepoint tier of the host does not see.
    Plan {
        test: "ways",
        tier: "fentry",
        kernels: &["6.12"],
        only: "entry_of_32_bits",
        ..PLAN
    },
    // More than a test may have anywhere else.
    Plan {
        test: "hostile",
        tier: "tracepoint",
        kernels: &["6.12"],
        only: "one_of_100_000_descriptors",
        ..PLAN
    },
    // Before Linux 5.14 the kernel refuses the reads one by one, later the programs.
    Plan {
        test: "lockdown",
        tier: "auto",
        kernels: &["5.10", "6.12"],
        append: "lockdown=confidentiality",
        ..PLAN
    },
];
