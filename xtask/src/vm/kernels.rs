//! The kernels of the test machines: Debian's, fetched as packages and kept.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{apt::Private, command, say};

/// Change this when the kept files of a kernel change.
const FORMAT: &str = "2";

/// Modules for the tests that Debian does not build in; one that a kernel does not have as a module is skipped.
const MODULES: [&str; 7] = [
    "overlay",
    "loop",
    "dm_mod",
    "fuse",
    "binfmt_misc",
    "unix_diag",
    "nfsd",
];

/// A release of Debian and its kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Release {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    suites: &'static [&'static str],
    /// Between these two a package's name has the version.
    image: (&'static str, &'static str),
    /// Prefixes of the packages of the same version that have the rest.
    rest: &'static [&'static str],
}

/// All kernels that ebusy is tested on. Versions change: the newest is taken.
pub(crate) const RELEASES: [Release; 4] = [
    Release {
        name: "5.10",
        suites: &["bullseye", "bullseye-security"],
        image: ("linux-image-5.10.0-", "-cloud-amd64"),
        rest: &[],
    },
    Release {
        name: "6.1",
        suites: &["bookworm", "bookworm-security"],
        image: ("linux-image-6.1.0-", "-cloud-amd64-unsigned"),
        rest: &[],
    },
    Release {
        name: "6.12",
        suites: &["trixie", "trixie-security"],
        image: ("linux-image-6.12.", "-cloud-amd64-unsigned"),
        rest: &[],
    },
    Release {
        name: "7.2",
        suites: &["sid"],
        image: ("linux-binary-unsigned-7.2.", "-cloud-amd64"),
        rest: &["linux-modules-7.2."],
    },
];

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    directory: PathBuf,
}

impl Kernel {
    /// From the cache, else from the archive.
    pub(crate) fn get(cache: &Path, name: &str, refresh: bool) -> Result<Self> {
        let Some(release) = RELEASES.iter().find(|release| release.name == name) else {
            let known: Vec<_> = RELEASES.iter().map(|release| release.name).collect();
            bail!("there is no test kernel {name}; known are {}", known.join(", "));
        };
        let kernel = Self {
            directory: cache.join(name),
        };
        let stamp = fs::read_to_string(kernel.directory.join("stamp")).unwrap_or_default();
        let mut lines = stamp.lines();
        let is_whole = lines.next() == Some(FORMAT) && lines.next_back() == Some(&wanted());
        if refresh || !is_whole {
            kernel
                .fetch(cache, release)
                .with_context(|| format!("fetching the test kernel {name}"))?;
        }
        Ok(kernel)
    }

    /// Its name on the command line.
    pub(crate) fn name(&self) -> &str {
        self.directory
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// The boot image.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// A static busybox of the same Debian release.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.directory.join("busybox")
    }

    /// The modules, each after those that it depends on.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        let path = self.directory.join("modules/order");
        let order = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(order
            .lines()
            .map(|name| self.directory.join("modules").join(name))
            .collect())
    }

    fn fetch(&self, cache: &Path, release: &Release) -> Result<()> {
        say(&format!("fetching the test kernel {}", release.name));
        let apt = Private::open(&cache.join("apt").join(release.name), release.suites)?;
        let (before, after) = release.image;
        let names = apt.names(before)?;
        let mut versions: Vec<_> = names
            .iter()
            .filter_map(|name| name.strip_prefix(before)?.strip_suffix(after))
            .filter(|version| is_version(version))
            .collect();
        versions.sort_by_key(|version| numbers(version));
        let mut failure = anyhow::anyhow!("the archive has no package {before}*{after}");
        // The lists may name one that the archive no longer has; the one before it serves as well.
        for version in versions.iter().rev().take(3) {
            let rest = release
                .rest
                .iter()
                .map(|before| format!("{before}{version}{after}"));
            let packages: Vec<_> = [format!("{before}{version}{after}")]
                .into_iter()
                .chain(rest)
                .collect();
            match self.unpack(&apt, &packages) {
                Ok(()) => return Ok(()),
                Err(err) => failure = err,
            }
        }
        Err(failure)
    }

    /// Unpacks beside the final place and moves it there last, so that the place never has a partial kernel.
    fn unpack(&self, apt: &Private, packages: &[String]) -> Result<()> {
        let scratch = self.directory.with_extension("partial");
        let unpacked = scratch.join("unpacked");
        if scratch.exists() {
            fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
        }
        let mut names: Vec<_> = packages.iter().map(String::as_str).collect();
        names.push("busybox-static");
        apt.unpack(&names, &unpacked)?;

        let files = files_below(&unpacked)?;
        let name_of = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let image = files
            .iter()
            .find(|path| name_of(path).starts_with("vmlinuz"))
            .context("no vmlinuz in the package")?;
        let busybox = files
            .iter()
            .find(|path| name_of(path) == "busybox")
            .context("no busybox in its package")?;
        fs::copy(image, scratch.join("vmlinuz"))?;
        fs::copy(busybox, scratch.join("busybox"))?;

        let modules = scratch.join("modules");
        fs::create_dir(&modules)?;
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for module in MODULES {
            add_module(module, &files, &modules, &mut seen, &mut order)?;
        }
        let order: Vec<_> = order.iter().map(|name| format!("{name}.ko")).collect();
        fs::write(modules.join("order"), order.join("\n"))?;
        fs::remove_dir_all(&unpacked)?;
        fs::write(
            scratch.join("stamp"),
            format!("{FORMAT}\n{}\n{}\n", packages.join("\n"), wanted()),
        )?;
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)
                .with_context(|| format!("removing {}", self.directory.display()))?;
        }
        fs::rename(&scratch, &self.directory)
            .with_context(|| format!("creating {}", self.directory.display()))?;
        say(&format!("got {}", packages[0]));
        Ok(())
    }
}

/// The line of a stamp that lists the requested modules.
fn wanted() -> String {
    format!("modules {}", MODULES.join(" "))
}

/// Adds a module after those that it depends on.
fn add_module(
    name: &str,
    files: &[PathBuf],
    into: &Path,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<()> {
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let plain = |path: &Path| {
        path.file_name()
            .is_some_and(|file| module_name(&file.to_string_lossy()) == Some(name.into()))
    };
    let Some(path) = files.iter().find(|path| plain(path)) else {
        return Ok(());
    };
    let data = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => decompress("xz", path)?,
        Some("zst") => decompress("zstd", path)?,
        _ => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
    };
    for dependency in depends(&data) {
        add_module(&dependency, files, into, seen, order)?;
    }
    fs::write(into.join(format!("{name}.ko")), data)?;
    order.push(name.to_owned());
    Ok(())
}

/// The name that the kernel knows a module's file by.
fn module_name(file: &str) -> Option<String> {
    let stem = [".ko", ".ko.xz", ".ko.zst"]
        .iter()
        .find_map(|suffix| file.strip_suffix(suffix))?;
    Some(stem.replace('-', "_"))
}

/// The `depends=` entry of the module's information section, which has strings that end with a zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    let mark = b"\0depends=";
    let Some(at) = module.windows(mark.len()).position(|window| window == mark) else {
        return Vec::new();
    };
    let value = module[at + mark.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn decompress(tool: &str, path: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(tool);
    command.args(["--decompress", "--stdout"]).arg(path);
    let output = command.output().with_context(|| {
        format!("starting {tool}, which unpacks modules; the package is xz-utils or zstd")
    })?;
    if !output.status.success() {
        bail!("`{}` ended with {}", command::line(&command), output.status);
    }
    Ok(output.stdout)
}

/// Only numbers: others are variants (`rt`, `16k`, `bpo`).
fn is_version(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit()) && !text.contains('-') && !text.contains("bpo")
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => directories.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_by_number() {
        let mut versions = ["9", "54", "13", "107+deb13", "99+deb13"];
        versions.sort_by_key(|version| numbers(version));
        assert_eq!(versions, ["9", "13", "54", "99+deb13", "107+deb13"]);
    }

    #[test]
    fn variants_are_no_versions() {
        assert!(is_version("54") && is_version("107+deb13") && is_version("13+deb14"));
        assert!(!is_version("rt-54"));
        assert!(!is_version("54-rt") && !is_version("9+bpo") && !is_version(""));
    }

    #[test]
    fn dependencies_of_a_module() {
        assert_eq!(
            depends(b"\x7fELF..\0license=GPL\0depends=nfs_acl,auth-rpcgss\0name=nfsd\0"),
            ["nfs_acl", "auth_rpcgss"]
        );
        assert_eq!(
            depends(b"license=GPL\0depends=\0name=loop\0"),
            Vec::<String>::new()
        );
        assert_eq!(depends(b"none"), Vec::<String>::new());
    }

    #[test]
    fn module_files() {
        assert_eq!(module_name("unix-diag.ko.xz").as_deref(), Some("unix_diag"));
        assert_eq!(module_name("loop.ko").as_deref(), Some("loop"));
        assert_eq!(module_name("modules.order"), None);
    }

    #[test]
    fn modules_come_after_their_dependencies() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, depends: &str| {
            let path = directory.path().join(name);
            fs::write(&path, format!("\0depends={depends}\0")).unwrap();
            path
        };
        let files = [file("a.ko", "b,c"), file("b.ko", "c"), file("c.ko", "")];
        let into = directory.path().join("into");
        fs::create_dir(&into).unwrap();
        let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
        for name in ["a", "c", "builtin"] {
            add_module(name, &files, &into, &mut seen, &mut order).unwrap();
        }
        assert_eq!(order, ["c", "b", "a"]);
        assert!(into.join("a.ko").is_file());
    }
}
