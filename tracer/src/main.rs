//! The binary `ebusy`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tracer::cli::main())
}
