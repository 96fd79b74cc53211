//! ebusy: names every reference that made an umount fail with "device or resource busy".

#![deny(
    clippy::print_stderr,
    reason = "`say!` does not end the process where nobody reads it"
)]

pub mod advice;
pub mod audit;
pub mod btf;
pub mod by_proc;
pub mod capture;
pub mod cli;
mod confine;
pub mod export;
#[doc(hidden)]
pub mod fuzz;
pub mod identity;
pub mod incident;
pub mod kernel;
pub mod live;
pub mod logs;
pub mod model;
mod outlet;
mod owned;
pub mod probe;
pub mod render;
pub mod report;
#[cfg(test)]
mod schema;
mod stderr;
pub mod stream;
pub mod text;
mod watchdog;
