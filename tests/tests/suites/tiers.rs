//! Each probe tier sees its events, and a blind one says so.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy,
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    report::Who,
    schema,
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("proc_names_descriptors::tmpfs", || {
            proc_names_descriptors(FileSystem::Tmpfs)
        }),
        harness::test("proc_names_descriptors::overlay", || {
            proc_names_descriptors(FileSystem::Overlay)
        }),
        harness::test("proc_is_blind_to_directories", proc_is_blind_to_directories),
        harness::test("proc_is_blind_to_copies", proc_is_blind_to_copies),
        harness::test("proc_does_not_see_refusals", proc_does_not_see_refusals),
    ])
}

fn proc(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(ebusy::binary()?);
    command
        .args(arguments)
        .args(["--probe", "proc", "--format", "json"]);
    Ok(command)
}

fn who(scratch: &Scratch) -> Result<(Option<i32>, Who)> {
    let finished = ebusy::run(proc(&["who"])?.arg(scratch.path()))?;
    ensure!(
        finished.stderr.contains("not working"),
        "it does not say what it does not see: {}",
        finished.stderr
    );
    let answer = schema::read(str::from_utf8(&finished.stdout)?).with_context(|| format!("{finished:?}"))?;
    Ok((finished.status.code(), answer))
}

/// Nothing found at a tier that sees little is not "free".
fn could_not_tell(scratch: &Scratch) -> Result<()> {
    let (code, answer) = who(scratch)?;
    ensure!(
        code == Some(3) && answer.holders.is_empty(),
        "{code:?} {answer:?}"
    );
    ensure!(answer.references.counted.is_none(), "{answer:?}");
    Ok(())
}

fn proc_names_descriptors(file_system: FileSystem) -> Result<Verdict> {
    let scratch = Scratch::new(file_system)?;
    could_not_tell(&scratch)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let (code, answer) = who(&scratch)?;
    ensure!(code == Some(1) && answer.probe == "proc", "{code:?} {answer:?}");
    ensure!(answer.target.mount_id == Some(scratch.mount_id()), "{answer:?}");
    let [holder] = answer.holders.as_slice() else {
        anyhow::bail!("not one holder: {answer:?}");
    };
    let pid = holder.process.as_ref().map(|process| process.pid);
    ensure!(
        holder.kind == "fd" && pid == Some(holding.claimed.ready.pid),
        "{holder:?}"
    );
    ensure!(
        holder.through == "target" && holder.mount_id == Some(scratch.mount_id()),
        "{holder:?}"
    );
    holding.release()?;
    could_not_tell(&scratch)?;
    ensure!(scratch.umount()?, "still busy");
    Ok(Verdict::Passed)
}

fn proc_is_blind_to_directories() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = Holding::start("hold-cwd", Namespace::Same, &[scratch.path().to_owned()])?;
    could_not_tell(&scratch)?;
    holding.release()?;
    Ok(Verdict::Passed)
}

/// Its file is on another mount: nobody is blamed for the target.
fn proc_is_blind_to_copies() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Private, "file")?;
    could_not_tell(&scratch)?;
    holding.release()?;
    Ok(Verdict::Passed)
}

fn proc_does_not_see_refusals() -> Result<Verdict> {
    let finished = ebusy::run(proc(&["watch"])?.args(["--", "true"]))?;
    finished.expect_code(3)?;
    ensure!(finished.stderr.contains("refused umounts"), "{finished:?}");
    Ok(Verdict::Passed)
}
