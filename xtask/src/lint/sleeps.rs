//! Fixed pauses in the tests: each costs its time in every run, and is too short on some machine. Tests wait for an
//! event, or say by `pause::nothing_happens_for` that nothing may happen.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::sources;
use crate::say;

/// The module that names pauses: the only place for one.
const ALLOWED: &str = "tests/src/pause.rs";

/// Functions that pause.
const SLEEPS: [&str; 4] = ["sleep(", "sleep_until(", "park_timeout(", "nanosleep("];

/// Named functions that pause.
const NAMED: [&str; 3] = ["nothing_happens_for(", "takes(", "kernel_works("];

/// Lists the pauses without a name; returns true if there are none.
pub(crate) fn check(root: &Path) -> Result<bool> {
    let (mut bare, mut named) = (Vec::new(), 0);
    for file in sources(&root.join("tests"))? {
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file);
        let found = scan(name, &text);
        named += found.named;
        bare.extend(found.bare);
    }
    for line in &bare {
        say(&format!(
            "{line}: a fixed pause: wait for what it is for (tests/src/pause.rs)"
        ));
    }
    say(&format!("{named} named pauses in tests"));
    Ok(bare.is_empty())
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Found {
    /// `file:line`
    bare: Vec<String>,
    named: usize,
}

fn scan(file: &Path, text: &str) -> Found {
    let mut found = Found::default();
    if file == Path::new(ALLOWED) {
        return found;
    }
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        let calls_one_of = |names: &[&str]| names.iter().any(|name| calls(code, name));
        found.named += usize::from(calls_one_of(&NAMED));
        if calls_one_of(&SLEEPS) {
            found.bare.push(format!("{}:{number}", file.display()));
        }
    }
    found
}

/// True if the line calls this function: not one whose name only ends so, and not its definition.
fn calls(code: &str, function: &str) -> bool {
    code.match_indices(function).any(|(at, _)| {
        let before = &code[..at];
        !before.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
            && !before.ends_with("fn ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_by_line() {
        let text = "use std::thread;\n// thread::sleep(x)\nthread::sleep(x);\nlet a = may_sleep();\n\
                    pause::nothing_happens_for(SECOND, \"no incident\");\nrustix::thread::nanosleep(&t);\n\
                    fn sleep(x: u32) {}\ncommand(\"sleep 5\");\npause::kernel_works();\nmistakes(x);\n";
        let found = scan(Path::new("tests/tests/slow.rs"), text);
        assert_eq!(found.bare, ["tests/tests/slow.rs:3", "tests/tests/slow.rs:6"]);
        assert_eq!(found.named, 2);
        assert_eq!(scan(Path::new(ALLOWED), text), Found::default());
    }
}
