//! Holds what `open_tree` without `OPEN_TREE_CLONE` gives: a descriptor as with `O_PATH`, on the mount itself.

use std::os::fd::AsRawFd as _;

use ebusy_tests::{claim::Claim, hold::Setup};
use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let tree = open_tree(CWD, setup.path(), OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let claim = Claim::fd(tree.as_raw_fd() as u32, "path").opened_since(setup.began);
    setup.hold(vec![claim])
}
