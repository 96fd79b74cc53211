//! QEMU: the machine's own; else installed; else unpacked beside the build, which needs no root and tolerates packages
//! from other archives (a newer `qemu-utils` keeps apt from installing it).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    apt::{self, Private},
    say,
    setup::{ByHand, in_path},
    workspace::Workspace,
};

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

const PACKAGES: [&str; 2] = ["qemu-system-x86", "xz-utils"];

const FORMAT: &str = "1";

/// The emulator to start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Emulator {
    /// The folder to which it was unpacked; `None` for the machine's own.
    root: Option<PathBuf>,
}

impl Emulator {
    /// Finds it, installs it, or unpacks it.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self> {
        let system = || [QEMU, "xz"].into_iter().find(|program| !in_path(program));
        let own = Self { root: None };
        let Some(missing) = system() else { return Ok(own) };
        let unpacked = workspace.target.join("qemu");
        let by_hand = |why: String| ByHand {
            why,
            commands: vec![format!(
                "sudo apt-get install --no-install-recommends {}",
                PACKAGES.join(" ")
            )],
        };
        if !apt::available() || missing == "xz" && !apt::can_install() {
            let why = format!("virtual machines need {missing}, which is not installed");
            return Err(by_hand(why).into());
        }
        let there = Self {
            root: Some(unpacked.clone()),
        };
        if fs::read_to_string(unpacked.join("stamp")).is_ok_and(|stamp| stamp == FORMAT) {
            return Ok(there);
        }
        if apt::can_install() {
            match apt::install(&PACKAGES) {
                Ok(()) => return Ok(own),
                Err(err) => say(&format!("{err:#}; unpacking it beside the build")),
            }
        }
        Private::open(&unpacked.join("apt"), &[])?.unpack_with_dependencies(PACKAGES[0], &unpacked)?;
        let output = there
            .command()
            .arg("--version")
            .output()
            .with_context(|| format!("starting {}", there.program().display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(by_hand(format!("{QEMU} as unpacked does not start: {said}")).into());
        }
        let stamp = unpacked.join("stamp");
        fs::write(&stamp, FORMAT).with_context(|| format!("writing {}", stamp.display()))?;
        Ok(there)
    }

    /// The program.
    pub(crate) fn program(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join("usr/bin").join(QEMU),
            None => PathBuf::from(QEMU),
        }
    }

    /// A command that starts it: an unpacked one needs the paths of its libraries, modules and firmware.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        if let Some(root) = &self.root {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|part| root.join(part));
            command
                .env("LD_LIBRARY_PATH", env::join_paths(&libraries).unwrap_or_default())
                .env("QEMU_MODULE_DIR", libraries[0].join("qemu"));
            for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        command
    }
}

/// The name under which a directory's emulator is known, for messages.
impl std::fmt::Display for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program: &Path = &self.program();
        write!(f, "{}", program.display())
    }
}

#[cfg(test)]
mod tests {
    use super::Emulator;

    #[test]
    fn an_unpacked_one_finds_its_own_parts() {
        let own = Emulator { root: None }.command();
        assert_eq!((own.get_args().count(), own.get_envs().count()), (0, 0));
        let unpacked = Emulator {
            root: Some("/x".into()),
        };
        let command = unpacked.command();
        assert_eq!(command.get_program(), "/x/usr/bin/qemu-system-x86_64");
        assert!(command.get_args().any(|arg| arg == "/x/usr/share/seabios"));
        let modules = command.get_envs().find(|(name, _)| *name == "QEMU_MODULE_DIR");
        assert_eq!(
            modules.and_then(|(_, value)| value),
            Some("/x/usr/lib/x86_64-linux-gnu/qemu".as_ref())
        );
    }
}
