//! Commands pasted into all installed shells get exactly the intended arguments.

use std::{
    io::Write as _,
    process::{Command as Process, Stdio},
    sync::OnceLock,
};

use proptest::prelude::*;

use super::Command;

/// Shells, each with what makes it read a paste: the last one as a terminal's, with history expansion on.
const SHELLS: [&[&str]; 8] = [
    &["sh"],
    &["bash"],
    &["dash"],
    &["busybox", "sh"],
    &["zsh", "-f"],
    &["mksh"],
    &["ksh"],
    &["bash", "--norc", "--noprofile", "-o", "history", "-H", "-s"],
];

/// Those that are installed; those that are not are named once.
fn shells() -> &'static [&'static [&'static str]] {
    static THERE: OnceLock<Vec<&[&str]>> = OnceLock::new();
    THERE.get_or_init(|| {
        let mut there = Vec::new();
        for shell in SHELLS {
            match run(shell, "exit 0\n") {
                Some(_) => there.push(shell),
                None => println!("skipped, not installed: {}", shell.join(" ")),
            }
        }
        there
    })
}

/// The output of a shell that reads these lines from its input, as from a paste into a terminal.
fn run(shell: &[&str], lines: &str) -> Option<Vec<u8>> {
    let (program, arguments) = shell.split_first()?;
    let mut child = Process::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("HISTFILE", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(lines.as_bytes()).ok()?;
    Some(child.wait_with_output().ok()?.stdout)
}

/// Any bytes as a name: those of shells are likely, and most of the others cannot be typed.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let special = "[ '\"$`\\\\!;&|<>(){}*?~#=%^\\[\\]a-z/.-]{0,24}";
    prop_oneof![
        6 => special.prop_map(String::into_bytes),
        2 => "\\PC{0,12}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..24),
        1 => Just(b"'$(touch x)'\\''!!`id`'".to_vec()),
    ]
}

/// Every name that can be typed, as a word of its own, as a path and after a word of ebusy's.
fn commands(names: &[Vec<u8>]) -> Vec<(Command, Vec<u8>)> {
    let mut all = Vec::new();
    for name in names {
        let path = [b"/", name.as_slice()].concat();
        let made = [
            (Command::new(&["show"]).name(name), name.clone()),
            (Command::new(&["show"]).path(&path), path),
            (
                Command::new(&["show"]).joined("--pid=", name),
                [b"--pid=", name.as_slice()].concat(),
            ),
        ];
        all.extend(
            made.into_iter()
                .filter_map(|(command, word)| Some((command?, word))),
        );
    }
    all
}

/// Pastes commands into every shell, behind a program that prints its arguments.
pub(crate) fn check(commands: &[Command]) -> Result<(), TestCaseError> {
    let mut lines = "show() { for word; do printf '%s\\0' \"$word\"; done; }\n".to_owned();
    let mut expected = Vec::new();
    for command in commands {
        let text = command.to_string();
        prop_assert!(!text.contains(char::is_control), "{text}");
        lines.extend(["show ", &text, "\n"]);
        for word in command.arguments() {
            expected.extend_from_slice(word.as_bytes());
            expected.push(0);
        }
    }
    for shell in shells() {
        let written = run(shell, &lines);
        prop_assert_eq!(
            written.as_deref(),
            Some(expected.as_slice()),
            "{:?}: {}",
            shell,
            lines
        );
    }
    Ok(())
}

proptest! {
    // Each case has many names, because a shell starts slowly.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_shell_gets_the_arguments_that_were_meant(names in proptest::collection::vec(name(), 1..40)) {
        let commands = commands(&names);
        for (command, word) in &commands {
            // The name is one exact word, or there is no command.
            prop_assert_eq!(command.arguments()[1].as_bytes(), word.as_slice());
        }
        let commands: Vec<Command> = commands.into_iter().map(|(command, _)| command).collect();
        check(&commands)?;
    }
}
