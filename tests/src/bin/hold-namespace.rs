//! Keeps a private mount namespace that no process is in, by a descriptor; it holds nothing.

use std::{fs::File, os::fd::AsFd as _};

use ebusy_tests::{hold::Setup, namespace::Namespace};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const SELF: &str = "/proc/self/ns/mnt";

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let home = File::open(SELF)?;
    Namespace::Private.enter()?;
    let _away = File::open(SELF)?;
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    setup.hold(Vec::new())
}
