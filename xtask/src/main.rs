//! Set-up, build, tests and virtual machines of ebusy: `cargo xtask --help`.

use std::{ffi::OsString, io, process::ExitCode};

use clap::{Parser, Subcommand};

use phases::Phases;
use workspace::Workspace;

mod apt;
mod command;
mod events;
mod flaky;
mod follow;
mod interrupt;
mod junit;
mod leftover;
mod lint;
mod machines;
mod matrix;
mod phases;
mod results;
mod run;
mod setup;
mod soak;
mod sources;
mod suites;
mod table;
mod test;
mod toolchain;
mod tools;
mod unit;
mod vm;
mod workspace;

/// Set-up, build, tests and virtual machines of ebusy
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what compiles the kernel programs
    Setup {
        /// Build the linker again
        #[arg(long)]
        force: bool,
        /// Install the emulator for `vm` and `test` as well
        #[arg(long)]
        vm: bool,
    },
    /// Make the static release program; its path is the last line
    Build,
    /// Set up if needed, build, and run ebusy with these arguments
    Run {
        /// For ebusy
        #[arg(last = true, value_name = "ARGUMENT")]
        args: Vec<OsString>,
    },
    /// Run all tests: units, real mounts on this host, other kernels in virtual machines
    Test(test::TestArgs),
    /// Record under load and faults (as root), and print whether all that happened was recorded or counted as lost
    Soak {
        /// For how long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Run a static program under another kernel
    Vm(vm::VmArgs),
    /// Check format, lints and licences
    Lint,
    /// Write docs/schema from the types that ebusy writes
    Schema,
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    match perform(&verb) {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            eprintln!("xtask: {err:#}");
            if is_full(&err) {
                say(
                    "no space is left; all below target/ is made again: type `cargo clean`, or `rm -r target/vm` for the kernels",
                );
            }
            ExitCode::from(2)
        }
    }
}

fn perform(verb: &Verb) -> anyhow::Result<u8> {
    let workspace = Workspace::discover()?;
    match verb {
        Verb::Setup { force, vm } => {
            let mut phases = Phases::of_this_run(&workspace);
            let toolchain = phases.time("set-up", || setup::toolchain(*force))?;
            say(&format!("the kernel programs are compiled by {toolchain}"));
            if *vm {
                let emulator = phases.time("set-up", || vm::Emulator::find(&workspace))?;
                say(&format!("virtual machines run by {emulator}"));
            }
            phases.save_if_part()?;
            Ok(0)
        }
        Verb::Build => {
            let program = run::build(&workspace, run::Profile::Release)?;
            println!("{}", program.display());
            Ok(0)
        }
        Verb::Run { args } => run::run(&workspace, args),
        Verb::Test(args) => test::main(&workspace, args),
        Verb::Soak { minutes } => soak::main(&workspace, *minutes),
        Verb::Vm(args) => vm::main(&workspace, args),
        Verb::Lint => lint::main(&workspace),
        Verb::Schema => {
            // The unit test that compares the files can write them: only it is compiled with the necessary derives.
            let test = ["--package", "tracer", "--lib", "schema::"];
            command::run(workspace.cargo("test").args(test).env("EBUSY_WRITE_SCHEMA", "1"))?;
            Ok(0)
        }
    }
}

/// True if a disk or a quota is full.
fn is_full(err: &anyhow::Error) -> bool {
    let kinds = err.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    kinds
        .map(io::Error::kind)
        .any(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// A line of progress, on stderr: stdout is for results.
fn say(text: &str) {
    eprintln!("xtask: {text}");
}
