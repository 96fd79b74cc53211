//! Names that others chose are never run, shown as a command, or obeyed by a terminal: the tests paste advice as people
//! do, look for commands in a page, and read errors about files with hostile names from stderr.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, Finished, who},
    harness::{self, Verdict},
    holder::Helper,
    report::{Fix, Who},
    scratch::{FileSystem, Scratch},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Makes the file `pwned` in the working directory, with any kind of quotes around it.
const RUNS: &str = ";: > pwned;#";

/// Characters that must not reach a terminal.
const FORBIDDEN: [char; 5] = ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{200b}'];

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("block_of_advice", block_of_advice),
        harness::test("names_that_cannot_be_typed", names_that_cannot_be_typed),
        harness::test("process_called_like_a_command", process_called_like_a_command),
        harness::test("errors_about_files", errors_about_files),
    ])
}

/// The text output of a verb.
fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(ebusy::run(command)?.stdout)?)
}

/// A mount on top of the target, whose directory has this name.
struct OnTop {
    scratch: Scratch,
    child: PathBuf,
}

impl OnTop {
    fn new(name: &OsStr) -> Result<Self> {
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let child = scratch.path().join(name);
        fs::create_dir(&child)?;
        mount("child", &child, "tmpfs", MountFlags::empty(), None)?;
        Ok(Self { scratch, child })
    }

    fn answer(&self) -> Result<Who> {
        let (code, answers) = who(self.scratch.path())?;
        ensure!(code == 1, "who ended with {code}");
        answers.into_iter().next().context("an answer")
    }
}

impl Drop for OnTop {
    fn drop(&mut self) {
        let _ = unmount(&self.child, UnmountFlags::DETACH);
    }
}

/// Pastes lines into a shell, in a directory of its own; returns true if a part of a name was run, `None` if there is
/// no such shell.
fn runs(shell: &[&str], lines: &str) -> Result<Option<bool>> {
    let place = TempDir::new()?;
    let started = Command::new(shell[0])
        .args(&shell[1..])
        .current_dir(place.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut shell) = started else {
        return Ok(None);
    };
    // A shell that gives up on a line reads no more.
    let _ = shell.stdin.take().context("a pipe")?.write_all(lines.as_bytes());
    shell.wait()?;
    Ok(Some(place.path().join("pwned").exists()))
}

const SHELLS: [&[&str]; 5] = [&["sh"], &["bash"], &["dash"], &["busybox", "sh"], &["zsh", "-f"]];

/// Pasting any lines of FIX, words or commands, does nothing but the intended umount.
fn block_of_advice() -> Result<Verdict> {
    let mut missing = Vec::new();
    for before in ["", "'", "\"", "''\"", "$(: > pwned)`: > pwned`", "a  b'"] {
        // Long enough to be cut within a sentence.
        let name = format!("{before}{RUNS}{}'{RUNS}{}", "a".repeat(60), "z".repeat(60));
        for shell in SHELLS {
            let on_top = OnTop::new(OsStr::new(&name))?;
            let text = text(ebusy::command("who")?.arg(on_top.scratch.path()))?;
            let advice: Vec<&str> = text
                .lines()
                .skip_while(|line| !line.starts_with("FIX"))
                .map(|line| line.get(7..).unwrap_or_default())
                .collect();
            let command = on_top.answer()?.fixes[0].command.clone().context("a command")?;
            ensure!(
                advice.iter().any(|line| line.trim_start() == command),
                "not whole on a line: {command}\n{text}"
            );
            // A shell that reads no terminal gives up on words with brackets.
            let ranges = (0..advice.len()).flat_map(|from| (from..advice.len()).map(move |to| from..=to));
            for range in ranges {
                let lines = format!("{}\n", advice[range].join("\n"));
                match runs(shell, &lines)? {
                    Some(runs) => ensure!(!runs, "{}: a name was run:\n{lines}", shell.join(" ")),
                    None => missing.push(shell.join(" ")),
                }
            }
            ensure!(
                missing.contains(&shell.join(" ")) || on_top.scratch.umount()?,
                "{}: the umount was not done:\n{advice:#?}",
                shell.join(" ")
            );
        }
    }
    missing.sort();
    missing.dedup();
    println!("not installed: {missing:?}");
    Ok(Verdict::Passed)
}

fn names_that_cannot_be_typed() -> Result<Verdict> {
    for name in [
        &b"a\nreboot"[..],
        b"\x1b[2Ja",
        b"a\xffb",
        "a\u{202e}b".as_bytes(),
        "a\u{a0}b".as_bytes(),
        "\u{9b}2J".as_bytes(),
    ] {
        let on_top = OnTop::new(OsStr::from_bytes(name))?;
        for format in ["text", "json"] {
            let printed = text(
                ebusy::command("who")?
                    .args(["--format", format])
                    .arg(on_top.scratch.path()),
            )?;
            ensure!(
                !printed.contains(FORBIDDEN) && printed.contains("fixes") == (format == "json"),
                "{printed:?}"
            );
        }
        let who = on_top.answer()?;
        let umount = who
            .fixes
            .iter()
            .find(|fix| fix.text.contains("mounted on top"))
            .with_context(|| format!("{who:#?}"))?;
        ensure!(
            umount.command.is_none()
                && umount.text.contains("/proc/self/mountinfo")
                && umount
                    .text
                    .contains(on_top.scratch.path().to_str().context("UTF-8")?),
            "{umount:?}"
        );
        let commands = who.fixes.iter().filter_map(|fix| fix.command.as_deref());
        for command in commands {
            ensure!(
                !command.contains(['\n', '\u{1b}', '\u{202e}', '\u{a0}', '\u{9b}']),
                "{command:?}"
            );
        }
    }
    Ok(Verdict::Passed)
}

/// A process with an open file and a name of its choice.
fn called(comm: &str, file: &Path) -> Result<Helper> {
    let script = "exec 3<\"$1\"; printf %s \"$2\" > /proc/$$/comm; echo ready; read line || exit 0";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(file).arg(comm);
    let helper = Helper::from_command(&mut command)?;
    ensure!(helper.line()?.contains("ready"), "not ready");
    Ok(helper)
}

/// The commands that a page sets apart.
fn commands_of(page: &str) -> Vec<String> {
    let blocks = page.split("<pre><code>").skip(1);
    blocks
        .filter_map(|block| Some(block.split_once("</code></pre>")?.0.to_owned()))
        .collect()
}

fn process_called_like_a_command() -> Result<Verdict> {
    for comm in ["x: kill -9 1 (", "x: umount -l / ", "kill -9 1", "</code><pre>"] {
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let mut helper = called(comm, &scratch.join("file"))?;
        let kill = format!("kill {}", helper.pid());
        let text = text(ebusy::command("who")?.arg(scratch.path()))?;
        let quoted = format!("have '{comm}' close the file, or end it:");
        ensure!(
            text.contains(&quoted) && text.lines().any(|line| line.trim() == kill),
            "{text}"
        );
        let (_, answers) = who(scratch.path())?;
        let first: &Fix = answers[0].fixes.first().context("advice")?;
        ensure!(first.command.as_deref() == Some(&kill), "{first:?}");
        let captures = TempDir::new()?;
        let capture = captures.path().join("capture");
        let mut watch = ebusy::command("watch")?;
        watch
            .arg("--target")
            .arg(scratch.path())
            .arg("--capture")
            .arg(&capture);
        ebusy::run(watch.arg("--").arg("umount").arg(scratch.path()))?;
        let report = ebusy::run(
            Command::new(ebusy::binary()?)
                .args(["--format", "html", "report"])
                .arg(&capture),
        )?;
        let commands = commands_of(str::from_utf8(&report.stdout)?);
        ensure!(commands == [kill], "{commands:?} {}", report.stderr);
        helper.end_input();
        helper.finish()?;
    }
    Ok(Verdict::Passed)
}

/// Errors, also those of clap, contain file names that others chose.
fn errors_about_files() -> Result<Verdict> {
    let place = TempDir::new()?;
    let evil = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\u{200b}\nebusy: all is well";
    let file = place.path().join(evil);
    let broken = place.path().join(format!("{evil}.zst"));
    fs::write(
        &broken,
        [&b"{\"type\":\"start\",\"host\":\""[..], evil.as_bytes(), b"\"}\n"].concat(),
    )?;
    let log = format!("umount: /mnt/{}: target is busy\n", evil.replace('\n', " "));
    let run = |arguments: &[&OsStr], input: &str| -> Result<Finished> {
        let mut command = Command::new(ebusy::binary()?);
        let input_file = place.path().join("input");
        fs::write(&input_file, input)?;
        command.args(arguments).stdin(fs::File::open(&input_file)?);
        let running = ebusy::Running::reading(&mut command, fs::File::open(&input_file)?)?;
        let status = running.wait()?;
        running.finished(status)
    };
    let of = |text: &'static str| OsStr::new(text);
    let (file, broken) = (file.as_os_str(), broken.as_os_str());
    for arguments in [
        &[of("report"), file][..],
        &[of("report"), broken],
        &[of("export"), file],
        &[of("export"), broken],
        &[of("who"), file],
        &[of("who"), of("-")],
        &[of("--target"), file, of("watch"), of("--"), of("true")],
        &[of("report"), broken, of("--log"), file],
        &[of("-o"), file, of("nothing")],
        &[OsStr::new(evil)],
        &[of("watch"), of("--slow"), OsStr::new(evil)],
        &[of("watch"), OsStr::new("--\u{1b}[2J")],
    ] {
        let finished = run(arguments, &log)?;
        let said = format!("{}{}", String::from_utf8(finished.stdout)?, finished.stderr);
        ensure!(!said.contains(FORBIDDEN), "{arguments:?}: {said:?}");
        ensure!(
            !said.lines().any(|line| line == "ebusy: all is well"),
            "{arguments:?}: {said:?}"
        );
        ensure!(!said.contains("panicked"), "{said}");
    }
    Ok(Verdict::Passed)
}
