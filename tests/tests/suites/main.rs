//! All tests on real mounts: `suites SUITE [ARGUMENT]...` runs those of one suite, with the arguments of any test
//! executable (`--exact`, `--list`, ...); `suites --list-suites` prints the names of the suites.
//!
//! A suite is a process of its own: it enters a mount namespace before any thread starts, which the standard harness
//! cannot, and some check at the end that ebusy reported nothing else.

use std::process::ExitCode;

mod adversary;
mod advice;
mod audit;
mod commands;
mod confined;
mod containerd;
mod detached;
mod devices;
mod direct;
mod entering;
mod environment;
mod footprint;
mod hostile;
mod incidents;
mod inherited;
mod innocents;
mod kinds;
mod ledger;
mod lockdown;
mod noise;
mod operations;
mod outcomes;
mod pasted;
mod peers;
mod record;
mod runtimes;
mod scenarios;
mod slots;
mod slow;
mod targets;
mod tiers;
mod together;
mod untrusted;
mod verbs;
mod waiting;
mod ways;
mod writing;

/// Tests that run in one process.
struct Suite {
    name: &'static str,
    run: fn() -> ExitCode,
}

const fn suite(name: &'static str, run: fn() -> ExitCode) -> Suite {
    Suite { name, run }
}

const SUITES: &[Suite] = &[
    suite("adversary", adversary::main),
    suite("advice", advice::main),
    suite("audit", audit::main),
    suite("commands", commands::main),
    suite("confined", confined::main),
    suite("containerd", containerd::main),
    suite("detached", detached::main),
    suite("devices", devices::main),
    suite("direct", direct::main),
    suite("entering", entering::main),
    suite("environment", environment::main),
    suite("footprint", footprint::main),
    suite("hostile", hostile::main),
    suite("incidents", incidents::main),
    suite("inherited", inherited::main),
    suite("innocents", innocents::main),
    suite("kinds", kinds::main),
    suite("ledger", ledger::main),
    suite("lockdown", lockdown::main),
    suite("noise", noise::main),
    suite("operations", operations::main),
    suite("outcomes", outcomes::main),
    suite("pasted", pasted::main),
    suite("peers", peers::main),
    suite("record", record::main),
    suite("runtimes", runtimes::main),
    suite("scenarios", scenarios::main),
    suite("slots", slots::main),
    suite("slow", slow::main),
    suite("tiers", tiers::main),
    suite("together", together::main),
    suite("untrusted", untrusted::main),
    suite("targets", targets::main),
    suite("verbs", verbs::main),
    suite("waiting", waiting::main),
    suite("ways", ways::main),
    suite("writing", writing::main),
];

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("--list-suites") {
        for suite in SUITES {
            println!("{}", suite.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(suite) = SUITES
        .iter()
        .find(|suite| argument.as_deref() == Some(suite.name))
    {
        return (suite.run)();
    }
    let names: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
    match argument {
        Some(argument) => eprintln!("there is no suite {argument}; one of: {}", names.join(", ")),
        None => eprintln!("the name of a suite is needed, one of: {}", names.join(", ")),
    }
    ExitCode::from(2)
}
