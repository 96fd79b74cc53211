//! Holder programs, and the harness of the tests that run ebusy against real umounts.
//!
//! - A **holder program** (a row of [`holders`]) takes one kind of reference on a mount and prints a list of
//!   [`claim::Claim`]s; [`hold`] is its side, [`holder`] the test's.
//! - A **suite of tests** (`tests/suites`) starts with [`harness::main`], which moves into a mount namespace of its own
//!   with `/` shared, mounts a [`scratch::Scratch`], runs [`ebusy`], and compares its [`report`] with the claims by
//!   [`expect`].
//!
//! `EBUSY_BIN` names the ebusy binary, `EBUSY_HOLDERS` the directory of the holder programs (both default to the
//! directory that cargo builds into), `EBUSY_PROBE` forces a probe tier.

pub mod adversary;
pub mod aio;
pub mod audit;
pub mod capture;
pub mod claim;
pub mod containerd;
pub mod cri;
pub mod ebusy;
pub mod engines;
pub mod expect;
pub mod ext2;
pub mod fanotify;
pub mod follower;
pub mod fuse;
pub mod guard;
pub mod harness;
pub mod hold;
pub mod holder;
pub mod holders;
pub mod image;
pub mod landlock;
pub mod layered;
pub mod many;
pub mod mapper;
pub mod namespace;
pub mod observer;
pub mod pairs;
pub mod pause;
pub mod process;
pub mod recording;
pub mod report;
pub mod schema;
pub mod scratch;
pub mod slow_disk;
pub mod soak;
pub mod socket;
pub mod steps;
pub mod swap;
pub mod terminal;
pub mod umounter;
pub mod uring;
pub mod zoo;
