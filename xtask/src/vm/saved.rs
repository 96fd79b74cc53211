//! Machines that were saved when they were ready: a boot takes seconds, a start from a saved state half of one.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    instance::Instance,
    qemu::{Accelerator, Machine},
};

/// Change this when the saved files change.
const FORMAT: &str = "1";

/// The file of a saved machine, and the parts that it must match.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    state: PathBuf,
    stamp: PathBuf,
    key: String,
}

impl Saved {
    /// The saved machine for this kernel and root. A different emulator, kernel or root makes a different one.
    pub(super) fn of(
        cache: &Path,
        kernel: &str,
        machine: &Machine,
        accelerator: Accelerator,
        root: &[u8],
    ) -> Self {
        let emulator = machine.emulator.command().arg("--version").output();
        let mut hasher = DefaultHasher::new();
        root.hash(&mut hasher);
        fs::read(&machine.kernel).unwrap_or_default().hash(&mut hasher);
        emulator
            .map(|output| output.stdout)
            .unwrap_or_default()
            .hash(&mut hasher);
        let key = format!(
            "{FORMAT} {} {} {} {:016x}",
            accelerator.name(),
            machine.memory,
            machine.append,
            hasher.finish()
        );
        let mut name = kernel.to_owned();
        for word in machine.append.split_whitespace() {
            name.push('-');
            name.push_str(&word.replace(|letter: char| !letter.is_alphanumeric(), "-"));
        }
        Self {
            state: cache.join(format!("{name}.state")),
            stamp: cache.join(format!("{name}.state-of")),
            key,
        }
    }

    /// Its state and the kernel's release, if there is one.
    pub(super) fn get(&self) -> Option<(&Path, String)> {
        let stamp = fs::read_to_string(&self.stamp).ok()?;
        let (key, release) = stamp.split_once('\n')?;
        (key == self.key && self.state.is_file()).then(|| (self.state.as_path(), release.to_owned()))
    }

    /// Writes the state of a machine that is ready, which ends it.
    pub(super) fn write(&self, instance: Instance, release: &str) -> Result<()> {
        self.forget();
        let file = self.state.with_extension(format!("state-{}", std::process::id()));
        let result = instance.save(&file).and_then(|()| self.keep(&file, release));
        if result.is_err() {
            let _ = fs::remove_file(&file);
        }
        result
    }

    fn keep(&self, written: &Path, release: &str) -> Result<()> {
        fs::rename(written, &self.state)
            .and_then(|()| fs::write(&self.stamp, format!("{}\n{release}", self.key)))
            .with_context(|| format!("keeping {}", self.state.display()))
    }

    /// Removes it, so that it is not used again.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.stamp);
        let _ = fs::remove_file(&self.state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(cache: &Path, key: &str) -> Saved {
        Saved {
            state: cache.join("6.1.state"),
            stamp: cache.join("6.1.state-of"),
            key: key.to_owned(),
        }
    }

    #[test]
    fn only_the_same_machine_is_restored() {
        let cache = tempfile::tempdir().unwrap();
        let machine = saved(cache.path(), "one");
        assert!(machine.get().is_none());
        let written = cache.path().join("6.1.state-1");
        fs::write(&written, "state").unwrap();
        machine.keep(&written, "6.1.0-1").unwrap();
        assert_eq!(machine.get().unwrap().1, "6.1.0-1");
        assert!(saved(cache.path(), "other").get().is_none());
        fs::remove_file(cache.path().join("6.1.state")).unwrap();
        assert!(machine.get().is_none());
    }
}
