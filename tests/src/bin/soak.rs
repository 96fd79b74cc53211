//! `soak [MINUTES]`: a recorder under load and faults; prints the balance. `cargo xtask soak` runs it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ebusy_tests::{
    namespace,
    soak::{Soak, check},
};

fn main() -> Result<()> {
    let minutes = std::env::args().nth(1).map_or(Ok(1), |minutes| minutes.parse());
    let minutes: u64 = minutes.context("a number of minutes")?;
    // Before any thread starts.
    namespace::enter_isolated().context("entering a mount namespace (as root)")?;
    let report = Soak {
        duration: Duration::from_secs(minutes * 60),
        rounds: 6,
        containers: true,
    }
    .run()?;
    println!("{report}");
    check(&report)
}
