//! `who` and `who -` find the intended mount by path, link, device and log line, and give the right answer for anything
//! that is no mount.

use std::{fs, os::unix::fs::symlink, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy,
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    report::Who,
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test(
            "all_mounts_of_a_stack_are_answered",
            all_mounts_of_a_stack_are_answered,
        ),
        harness::test("a_device_is_its_mounts", a_device_is_its_mounts),
        harness::test(
            "a_path_inside_is_the_mount_that_it_is_on",
            a_path_inside_is_the_mount_that_it_is_on,
        ),
        harness::test("links_are_followed_in_mounts", links_are_followed_in_mounts),
        harness::test(
            "lines_in_any_form_find_their_mount",
            lines_in_any_form_find_their_mount,
        ),
        harness::test(
            "a_path_in_a_field_or_a_line_before",
            a_path_in_a_field_or_a_line_before,
        ),
        harness::test(
            "a_mount_that_was_left_is_the_reason",
            a_mount_that_was_left_is_the_reason,
        ),
        harness::test("references_are_the_answer", references_are_the_answer),
        harness::test("what_is_no_mount_is_not_free", what_is_no_mount_is_not_free),
    ])
}

/// True if one of the answers is about that path and names that holder.
fn names(answers: &[Who], path: &Path, holding: &Holding) -> Result<bool> {
    for who in answers {
        let here = who.target.path_bytes()? == path.as_os_str().as_encoded_bytes();
        if here
            && who
                .holders
                .iter()
                .any(|holder| holder.process.as_ref().is_some_and(|of| of.pid == holding.pid()))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn answered(what: impl AsRef<Path>, path: &Path, holding: &Holding) -> Result<()> {
    let what = what.as_ref();
    let (code, answers) = ebusy::who(what)?;
    ensure!(
        code == 1 && names(&answers, path, holding)?,
        "who {}: exit {code}, {answers:#?}",
        what.display()
    );
    Ok(())
}

/// As after a restart of the kubelet: the volume is mounted once more on top, and the lower one is held.
fn all_mounts_of_a_stack_are_answered() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    mount_bind(scratch.path(), scratch.path())?;
    let (code, answers) = ebusy::who(scratch.path())?;
    unmount(scratch.path(), UnmountFlags::empty())?;
    ensure!(
        code == 1
            && answers.len() == 2
            && answers[0].holders.is_empty()
            && names(&answers, scratch.path(), &holding)?,
        "exit {code}: {answers:#?}"
    );
    ensure!(!scratch.umount()?, "the lower one is not held");
    holding.release()?;
    Ok(Verdict::Passed)
}

fn a_device_is_its_mounts() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    answered(scratch.source(), scratch.path(), &holding)?;
    let (code, answers) = ebusy::who_of_log(&format!("umount: {}: target is busy.\n", scratch.source()))?;
    ensure!(
        code == 1 && names(&answers, scratch.path(), &holding)?,
        "exit {code}: {answers:#?}"
    );
    holding.release()?;
    Ok(Verdict::Passed)
}

fn a_path_inside_is_the_mount_that_it_is_on() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for inside in ["file", "no/such/file"] {
        answered(scratch.join(inside), scratch.path(), &holding)?;
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

/// Absolute and relative ones, one after the other, in a mount that is no root: by path and by log line.
fn links_are_followed_in_mounts() -> Result<Verdict> {
    let outer = Scratch::new(FileSystem::Tmpfs)?;
    fs::create_dir_all(outer.join("data/target"))?;
    let target = outer.join("data/target");
    mount("held", &target, "tmpfs", MountFlags::empty(), None)?;
    let file = target.join("file");
    fs::write(&file, "")?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[file])?;
    symlink("data", outer.join("relative"))?;
    symlink(outer.join("relative"), outer.join("absolute"))?;
    symlink("absolute/../absolute/target", outer.join("whole"))?;
    for link in ["relative/target", "absolute/target", "whole"] {
        let link = outer.join(link);
        // The path of a recent umount is in the dentry cache.
        fs::symlink_metadata(&link)?;
        answered(&link, &target, &holding)?;
        let (code, answers) = ebusy::who_of_log(&format!("umount: {}: target is busy.\n", link.display()))?;
        ensure!(
            code == 1 && names(&answers, &target, &holding)?,
            "exit {code}: {answers:#?}"
        );
    }
    holding.release()?;
    unmount(&target, UnmountFlags::empty())?;
    Ok(Verdict::Passed)
}

fn lines_in_any_form_find_their_mount() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for form in [
        "msg=\"Failed to unmount 7b2f65dd overlay: @P@ - device or resource busy\"",
        "failed to unmount @P@ with error device or resource busy",
        "unmount @P@ failed: device or resource busy",
        "unmount @P@, EBUSY",
        "umount @P@ => busy",
        "umount args: [@P@]: target is busy",
        "unmount(@P@): resource busy",
        "unmounting overlay:@P@ (via fuse): device or resource busy",
        "could not unmount @P@ because the device is busy",
        "\x1b[31mumount\x1b[0m: \x1b[1m@P@\x1b[0m: target is busy",
        "umount: can't unmount @P@: Resource busy",
        "Could not unmount @P@, exit status 32",
        "OSError: [Errno 16] Device or resource busy: '@P@'",
        "lxc c1 20250716184838.001 ERROR conf - conf.c:x:1201 - Device or resource busy - Failed to unmount \"@P@\"",
    ] {
        explains(form, &scratch, &holding)?;
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

/// The holder is named for a line of this form, with the path in place of `@P@`.
fn explains(form: &str, scratch: &Scratch, holding: &Holding) -> Result<()> {
    let line = form.replace("@P@", &scratch.path().display().to_string());
    let (code, answers) = ebusy::who_of_log(&format!("{line}\n")).with_context(|| line.clone())?;
    ensure!(
        code == 1 && names(&answers, scratch.path(), holding)?,
        "{line}: exit {code}, {answers:#?}"
    );
    Ok(())
}

fn a_path_in_a_field_or_a_line_before() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for form in [
        "level=warning msg=\"Could not umount\" error=\"device or resource busy\" host-path=@P@ pid=1",
        "{\"level\":\"error\",\"msg\":\"unmount failed\",\"error\":\"device or resource busy\",\"path\":\"@P@\"}",
        "E0203 04:05:15.1 1 node.go:88] \"Unmount failed\" err=\"device or resource busy\" targetPath=\"@P@\"",
        "Error: failed to umount @P@\n\nCaused by:\n    Device or resource busy (os error 16)",
        "{\n  \"msg\": \"umount: @P@: target is busy\"\n}",
    ] {
        explains(form, &scratch, &holding)?;
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

/// Nobody uses it; its directory could not be removed because it is mounted.
fn a_mount_that_was_left_is_the_reason() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let target = scratch.path().display();
    for line in [
        format!("Remove target directory {target} failed: \"remove {target}: device or resource busy\"\n"),
        format!("rmdir: failed to remove '{target}': Device or resource busy\n"),
        format!("OSError: [Errno 16] Device or resource busy: '/etc/x' -> '{target}'\n"),
    ] {
        let (code, answers) = ebusy::who_of_log(&line)?;
        let [who] = &answers[..] else {
            anyhow::bail!("{line}: exit {code}, {answers:#?}");
        };
        let umount = format!("umount {target}");
        let advised = who
            .fixes
            .iter()
            .any(|fix| fix.command.as_deref() == Some(umount.as_str()));
        ensure!(
            code == 1 && who.leftover && advised,
            "{line}: exit {code}, {who:#?}"
        );
    }
    // As an umount, it is free.
    let (code, _) = ebusy::who_of_log(&format!("umount: {target}: target is busy.\n"))?;
    ensure!(code == 0, "exit {code}");
    Ok(Verdict::Passed)
}

fn references_are_the_answer() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let other = tempfile::tempdir()?;
    mount_bind(scratch.path(), other.path())?;
    let line = format!(
        "the device mount path \"{}\" is still mounted by other references [{}]\n",
        scratch.path().display(),
        other.path().display()
    );
    let answer = ebusy::who_of_log(&line);
    unmount(other.path(), UnmountFlags::empty())?;
    let (code, answers) = answer?;
    let left = answers
        .iter()
        .find(|who| who.leftover)
        .context("no mount is the reason")?;
    ensure!(
        code == 1
            && answers.len() == 2
            && left.target.path_bytes()? == other.path().as_os_str().as_encoded_bytes(),
        "exit {code}: {answers:#?}"
    );
    Ok(Verdict::Passed)
}

/// Exit status 3 if it cannot be matched, 4 if it is not there any more, and never 0.
fn what_is_no_mount_is_not_free() -> Result<Verdict> {
    let pod =
        "/var/lib/kubelet/pods/b90018a9-9120-49b8-ab80-7f372f55b46a/volumes/kubernetes.io~csi/pvc/mount";
    for (line, expected) in [
        (
            "error=\"unlinkat /sys/fs/cgroup/systemd/etc/etc: device or resource busy\"",
            3,
        ),
        (
            "write /sys/fs/cgroup/kubepods.slice/cgroup.procs: device or resource busy",
            3,
        ),
        ("open /dev/net/tun: device or resource busy", 3),
        ("umount: /no/such: target is busy", 3),
        ("umount: /no/such failed: target is busy", 3),
        ("EBUSY: device or resource busy", 3),
        ("cannot destroy 'no/such': dataset is busy", 3),
        (pod, 4),
    ] {
        let log = match line.strip_prefix("/var") {
            Some(_) => format!("umount: {line}: target is busy\n"),
            None => format!("{line}\n"),
        };
        let finished = ebusy::asked_of_log(&log)?;
        ensure!(
            finished.status.code() == Some(expected) && finished.stdout.is_empty(),
            "{line}: {finished:?}"
        );
    }
    let finished = ebusy::run(ebusy::command("who")?.arg("/no/such"))?;
    ensure!(finished.status.code() == Some(4), "{finished:?}");
    Ok(Verdict::Passed)
}
