//! Registers an interpreter with binfmt_misc that is kept open (flag `F`): the path is to be a copy of a program.

use std::os::unix::ffi::OsStrExt as _;

use ebusy_tests::{
    claim::Claim,
    guard::{Guard, detached, write_below},
    hold::Setup,
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Ok(root) = detached("binfmt_misc") else {
        return setup.skip("this kernel has no binfmt_misc");
    };
    let name = format!("ebusy-test-{}", std::process::id());
    let _guard = Guard::start(|| {
        let _ = write_below(&root, &name, b"-1");
    })?;
    let mut entry = format!(":{name}:M::{name}::").into_bytes();
    entry.extend_from_slice(setup.path().as_os_str().as_bytes());
    entry.extend_from_slice(b":F");
    if let Err(error) = write_below(&root, "register", &entry) {
        return setup.skip(&format!("nothing can be registered: {error:#}"));
    }
    let claim = Claim::new("binfmt_misc")
        .without_process()
        .held_by(name)
        .regular();
    setup.hold(vec![claim])
}
