//! All programs of the package in one executable; the name that it is started by selects one.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    ebusy_tests::holders::main()
}
