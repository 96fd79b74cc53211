//! Which tests run under which kernels, at which tiers.

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

/// What runs in machines: tests that need nothing but ebusy and the holder programs.
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
    // A kernel that preempts (7.2) may skip a run of these programs: what is lost is counted.
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
    // The same as kretprobes.
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
    // Advice about what is the whole system's: the host's is left alone.
    Plan {
        test: "advice",
        tier: "tracepoint",
        kernels: &["6.1"],
        only: "system::",
        ..PLAN
    },
    // The ledger knows who opened what the block device alone has; the list of a polled ring has three forms.
    Plan {
        test: "direct",
        kernels: &["5.10", "6.12", "7.2"],
        ..PLAN
    },
    // What keeps the caller after the kernel's function has returned.
    Plan {
        test: "slow",
        tier: "fentry",
        kernels: &["7.2"],
        ..PLAN
    },
    // What is read of the caller's memory at the entry.
    Plan {
        test: "slow",
        tier: "tracepoint",
        kernels: &["5.10"],
        ..PLAN
    },
    // Processes and page tables, as each kernel has them.
    Plan {
        test: "waiting",
        tier: "tracepoint",
        kernels: &KERNELS,
        only: "_memory_",
        ..PLAN
    },
    // Whose credentials a call has, and what instructions of old kernels count: all storms by the hooks of the oldest and
    // of the newest, the one of umounts by the others. What is on disk beside one is the host's to test.
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
    // What of it each kernel has: filters and capabilities of each thread, and the rights that Landlock takes from others.
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
    // Somebody who disturbs: by the hooks of each kernel, and by tracepoints on the oldest and the newest.
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
    // Lists of mounts that differ between kernels. The advice that those with this in their names follow needs nothing of
    // util-linux, which a machine has not.
    Plan {
        test: "audit",
        tier: "tracepoint",
        kernels: &["5.10", "7.2"],
        only: "_a_",
        ..PLAN
    },
    // What may happen to a recorder, and what only a machine of its own stands: steps of the wall clock.
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
    // As many as a test may have nowhere else.
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
