//! `cargo xtask build` and `cargo xtask run`.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{say, setup, toolchain, workspace::Workspace};

/// Verbs that read the kernel. Those not named here, and `--help`, work for everybody.
const ROOT_VERBS: [&str; 5] = ["watch", "who", "audit", "record", "demo"];

/// Profile of the build.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    /// For a release: as fast and small as possible.
    Release,
    /// For a run on this host.
    Ci,
}

/// Makes the static program.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    setup::toolchain(false)?;
    let profile = match profile {
        Profile::Release => "release",
        Profile::Ci => "ci",
    };
    workspace.program("tracer", "ebusy", profile)
}

/// Builds, and becomes ebusy: its signals and its status are those of this process.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<u8> {
    let program = build(workspace, Profile::Ci)?;
    if let Some(verb) = needs_root(args)
        && !rustix::process::geteuid().is_root()
    {
        let words: Vec<_> = args.iter().map(|arg| quote(arg)).collect();
        say(&format!(
            "`ebusy {verb}` reads the kernel, which only root may; type:"
        ));
        eprintln!("  sudo {} {}", quote(program.as_os_str()), words.join(" "));
        return Ok(2);
    }
    let mut command = Command::new(&program);
    command.args(args);
    clean(&mut command, workspace);
    // Only returns if it fails.
    let err = command.exec();
    Err(err).with_context(|| format!("starting {}", program.display()))
}

/// Removes the variables that cargo has added for this program: `ebusy watch -- CMD` passes its environment to CMD.
fn clean(command: &mut Command, workspace: &Workspace) {
    let groups = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if ["CARGO", "RUST_RECURSION_COUNT", "RUSTUP_TOOLCHAIN"].contains(&text)
            || groups.iter().any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        let of_rustup = toolchain::home("RUSTUP_HOME", ".rustup");
        let foreign = |directory: &Path| {
            !directory.starts_with(&workspace.target)
                && !of_rustup
                    .as_ref()
                    .is_some_and(|rustup| directory.starts_with(rustup))
        };
        let kept: Vec<_> = env::split_paths(&path)
            .filter(|directory| foreign(directory))
            .collect();
        match env::join_paths(kept) {
            Ok(kept) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", kept),
            _ => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
}

/// The verb, if it needs root.
fn needs_root(args: &[OsString]) -> Option<&'static str> {
    let own = args.split(|arg| arg == "--").next().unwrap_or_default();
    if own.iter().any(|arg| arg == "-h" || arg == "--help") {
        return None;
    }
    ROOT_VERBS
        .into_iter()
        .find(|verb| own.first().is_some_and(|arg| arg == verb))
}

/// A word as a shell reads it.
fn quote(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:,@%+".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn verbs_that_need_root() {
        assert_eq!(needs_root(&args(&["watch", "--", "umount", "-h"])), Some("watch"));
        assert_eq!(needs_root(&args(&["demo"])), Some("demo"));
        assert_eq!(needs_root(&args(&["watch", "--help"])), None);
        assert_eq!(needs_root(&args(&["doctor"])), None);
        assert_eq!(needs_root(&args(&[])), None);
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quote(OsStr::new("--target=/a/b")), "--target=/a/b");
        assert_eq!(quote(OsStr::new("it's *")), r"'it'\''s *'");
        assert_eq!(quote(OsStr::new("")), "''");
    }
}
