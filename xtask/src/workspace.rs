//! The paths of the workspace, and calls of cargo.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{command, toolchain};

/// The workspace and its target directory.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    /// The directory of the workspace.
    pub(crate) root: PathBuf,
    /// The folder in which cargo builds, which `CARGO_TARGET_DIR` or a configuration may have moved.
    pub(crate) target: PathBuf,
}

/// An executable that cargo has built.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    /// The name of the program or test.
    pub(crate) name: String,
    /// The folder of its package.
    pub(crate) package: PathBuf,
    /// `bin`, `test`, `lib`, ...
    pub(crate) kind: String,
    /// It has the test harness.
    pub(crate) harness: bool,
    /// The file.
    pub(crate) path: PathBuf,
}

impl Workspace {
    /// The workspace of this program, which cargo has built and started.
    pub(crate) fn discover() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest)
            .parent()
            .context("xtask is not in a workspace")?
            .to_path_buf();
        let target = toolchain::target_directory().unwrap_or_else(|| root.join("target"));
        Ok(Self { root, target })
    }

    /// Cargo, as the user started it, in the workspace.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in env::vars_os() {
            let of_outer_cargo = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
            if name
                .to_str()
                .is_some_and(|name| of_outer_cargo.iter().any(|prefix| name.starts_with(prefix)))
            {
                command.env_remove(&name);
            }
        }
        command
            .env_remove("RUST_RECURSION_COUNT")
            .env_remove("LD_LIBRARY_PATH");
        if let Some(flags) = static_flags() {
            command
                .env("CARGO_ENCODED_RUSTFLAGS", flags)
                .env_remove("RUSTFLAGS");
        }
        command.arg(verb).current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Runs a prepared build and lists the executables that it made or found fresh.
    pub(crate) fn artifacts(command: &mut Command) -> Result<Vec<Artifact>> {
        command.args(["--message-format", "json-render-diagnostics"]);
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("starting `{}`", command::line(command)))?;
        if !output.status.success() {
            bail!("`{}` ended with {}", command::line(command), output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let messages = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(messages.filter_map(|message| artifact(&message)).collect())
    }

    /// One program: builds it if it is not fresh.
    pub(crate) fn program(&self, package: &str, name: &str, profile: &str) -> Result<PathBuf> {
        let mut command = self.cargo("build");
        command.args(["--package", package, "--bin", name, "--profile", profile]);
        let artifacts = Self::artifacts(&mut command)?;
        artifacts
            .into_iter()
            .find(|artifact| artifact.kind == "bin" && artifact.name == name)
            .map(|artifact| artifact.path)
            .with_context(|| format!("cargo built no program {name}"))
    }
}

/// The flags of the user's environment take the place of those in `.cargo/config.toml`, which make programs static.
fn static_flags() -> Option<OsString> {
    let mut flags = env::var_os("CARGO_ENCODED_RUSTFLAGS").or_else(|| {
        let flags = env::var("RUSTFLAGS").ok()?;
        Some(flags.split_whitespace().collect::<Vec<_>>().join("\x1f").into())
    })?;
    if !flags.is_empty() {
        flags.push("\x1f");
    }
    flags.push("-Ctarget-feature=+crt-static");
    Some(flags)
}

fn artifact(message: &Value) -> Option<Artifact> {
    Some(Artifact {
        path: PathBuf::from(message.get("executable")?.as_str()?),
        package: Path::new(message.get("manifest_path")?.as_str()?)
            .parent()?
            .to_path_buf(),
        name: message.pointer("/target/name")?.as_str()?.to_owned(),
        kind: message.pointer("/target/kind/0")?.as_str()?.to_owned(),
        harness: message.pointer("/profile/test")?.as_bool()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_cargo() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"name":"kinds"},
            "profile":{"test":true},"executable":"/t/deps/kinds-1","fresh":true}"#;
        let artifact = artifact(&serde_json::from_str(message).unwrap()).unwrap();
        assert_eq!(
            (artifact.name.as_str(), artifact.kind.as_str(), artifact.harness),
            ("kinds", "test", true)
        );
        assert_eq!(artifact.path, Path::new("/t/deps/kinds-1"));
        assert_eq!(artifact.package, Path::new("/w/tests"));
        let library =
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}"#;
        assert!(super::artifact(&serde_json::from_str(library).unwrap()).is_none());
    }
}
