//! Holder programs, and the harness of the tests that run ebusy against real umounts.
//!
//! - A **holder program** (`src/bin/hold-*.rs`) takes one kind of reference on a mount and says what it took, as a
//!   list of [`claim::Claim`]s; [`hold`] is its side, [`holder`] that of the test.
//! - A **test binary** starts with [`harness::main`], which moves into a mount namespace of its own with `/` shared,
//!   mounts a [`scratch::Scratch`], runs [`ebusy`], and compares its [`report`] with the claims by [`expect`].
//!
//! `EBUSY_BIN` names the ebusy binary, `EBUSY_HOLDERS` the directory of the holder programs (both default to the
//! directory that cargo builds into), `EBUSY_PROBE` forces a probe tier.

pub mod claim;
pub mod containerd;
pub mod ebusy;
pub mod expect;
pub mod harness;
pub mod hold;
pub mod holder;
pub mod image;
pub mod namespace;
pub mod process;
pub mod report;
pub mod scratch;
pub mod steps;
pub mod terminal;
pub mod zoo;
