//! All programs of the package in one: the name that it is started by says which one it is.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    ebusy_tests::holders::main()
}
