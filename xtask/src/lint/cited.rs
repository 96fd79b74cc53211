//! Checks that the files and functions named in the documentation exist: `kernel/walk.rs`, and `kernel/walk.rs`:
//! `files`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::say;

/// Folders to search for a cited file: the first that has it counts.
const FROM: [&str; 7] = [
    "",
    "tracer/src",
    "tracer-ebpf/src",
    "tests/tests/suites",
    "tests/src",
    "tests/tests",
    "tracer/src/text/command",
];

/// Lists each missing one; returns true if there is none.
pub(crate) fn check(root: &Path) -> Result<bool> {
    let mut all = true;
    for page in pages(root)? {
        let text = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
        for (index, line) in text.lines().enumerate() {
            for cited in cited(line) {
                if let Some(what) = missing(root, &cited) {
                    say(&format!("{}:{}: there is no {what}", page.display(), index + 1));
                    all = false;
                }
            }
        }
    }
    Ok(all)
}

fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let docs = root.join("docs");
    let entries = fs::read_dir(&docs).with_context(|| format!("reading {}", docs.display()))?;
    let mut pages: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|page| root.join(page)));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    Ok(pages)
}

/// A cited file, with a function if the page names one.
#[derive(Debug, PartialEq)]
struct Cited<'t> {
    file: &'t str,
    name: Option<&'t str>,
}

/// The citations in a line: the name of a Rust file in backticks, and the name in backticks after a colon behind it.
fn cited(line: &str) -> Vec<Cited<'_>> {
    let parts: Vec<&str> = line.split('`').collect();
    let is_code = |index: usize| index % 2 == 1 && index + 1 < parts.len();
    let is_name =
        |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (0..parts.len())
        .filter(|index| is_code(*index))
        .filter(|index| {
            let is_path = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
            Path::new(parts[*index])
                .extension()
                .is_some_and(|extension| extension == "rs")
                && parts[*index].chars().all(is_path)
        })
        .map(|index| Cited {
            file: parts[index],
            name: (parts[index + 1] == ": " && is_code(index + 2))
                .then(|| parts[index + 2])
                .filter(is_name),
        })
        .collect()
}

fn missing(root: &Path, cited: &Cited<'_>) -> Option<String> {
    let mut places = FROM.iter().map(|from| root.join(from).join(cited.file));
    let Some(file) = places.find(|file| file.is_file()) else {
        return Some(format!("file {}", cited.file));
    };
    let name = cited.name?;
    let text = fs::read_to_string(file).unwrap_or_default();
    let forms = [
        format!("fn {name}("),
        format!("fn {name}<"),
        format!("const {name}:"),
        format!("static {name}:"),
    ];
    let is_there = forms.iter().any(|form| text.contains(form));
    (!is_there).then(|| format!("{name} in {}", cited.file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_functions() {
        let line = "by `live/session.rs`: `drain` or `stream/mod.rs`, `decode` and `{a,b}.rs`: `tell_losses`";
        let of = |file, name| Cited { file, name };
        assert_eq!(
            cited(line),
            [of("live/session.rs", Some("drain")), of("stream/mod.rs", None)]
        );
        assert_eq!(cited("an open `live/session.rs"), []);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("tracer/src/live");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("session.rs"), "pub fn drain(&mut self) {}").unwrap();
        let look = |line: &str| cited(line).iter().find_map(|cited| missing(root.path(), cited));
        assert_eq!(look("`live/session.rs`: `drain`"), None);
        assert_eq!(
            look("`live/session.rs`: `take`").as_deref(),
            Some("take in live/session.rs")
        );
        assert_eq!(look("`live/look.rs`").as_deref(), Some("file live/look.rs"));
    }
}
