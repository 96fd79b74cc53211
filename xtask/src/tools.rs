//! Programs that the tests on real containers need: taken from the machine, else unpacked beside the build. They
//! are not installed: a package of containerd starts a service and displaces Docker's.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{apt::Private, say, setup::in_path, workspace::Workspace};

/// Programs and the packages that have them.
const TOOLS: [(&str, &str); 5] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

/// Engines, for the tests that cannot do without one: programs and the packages that have them, with all that those
/// depend on.
const ENGINES: [(&str, &str); 3] = [("curl", "curl"), ("dockerd", "docker.io"), ("podman", "podman")];

/// Programs in advice that busybox lacks, or whose options it does not know (`umount -N`), with their packages.
const ADVISED: [(&str, &str); 5] = [
    ("accton", "acct"),
    ("exportfs", "nfs-kernel-server"),
    ("getent", "libc-bin"),
    ("nsenter", "util-linux"),
    ("umount", "mount"),
];

const FORMAT: &str = "1";

/// The search path of tests: the machine's own, then the directories of unpacked tools. Engines come with all their
/// dependencies, and are fetched only on request.
pub(crate) fn search_path(workspace: &Workspace, engines: bool) -> Result<OsString> {
    let own = env::var_os("PATH").unwrap_or_default();
    let unpacked = workspace.target.join("tools");
    let directories: Vec<PathBuf> = ["usr/bin", "usr/sbin", "bin", "sbin"]
        .iter()
        .map(|part| unpacked.join(part))
        .collect();
    let mut missing: Vec<_> = TOOLS
        .iter()
        .filter(|(program, _)| !in_path(program))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        fetch(&unpacked, &missing)?;
    }
    let missing = ENGINES.iter().filter(|(program, _)| engines && !in_path(program));
    for (program, package) in missing {
        if let Err(error) = fetch_engine(&unpacked, package) {
            // Its tests say that they cannot run.
            say(&format!("no {program} for the tests: {error:#}"));
        }
    }
    let path = env::split_paths(&own)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(directories);
    env::join_paths(path).context("making the search path of the tests")
}

/// Files that a machine needs to run the tools in advice: paths there and here, with the libraries.
pub(crate) fn advised(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    let unpacked = workspace.target.join("tools/advised");
    let own = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&own)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(["usr/bin", "usr/sbin", "bin", "sbin"].map(|part| unpacked.join(part)))
        .collect();
    let find = |program: &str| {
        let mut found = directories.iter().map(|directory| directory.join(program));
        found.find(|path| path.is_file())
    };
    let missing = ADVISED.iter().filter(|(program, _)| find(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        let apt = Private::open(&workspace.target.join("tools/apt"), &[])?;
        apt.unpack(&packages, &unpacked)?;
    }
    let mut files = BTreeMap::new();
    for (program, package) in ADVISED {
        let path = find(program).with_context(|| format!("the package {package} has no {program}"))?;
        for library in libraries(&path)? {
            files.insert(library.clone(), PathBuf::from(library));
        }
        // At busybox's own path, which it then leaves out.
        files.insert(format!("/bin/{program}"), path);
    }
    Ok(files)
}

/// The dynamic loader of a program, and the libraries that it is linked with.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.with_context(|| format!("starting ldd {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "ldd {}: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `name => /path (address)`, or `/path (address)`.
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(str::to_owned)
    };
    Ok(text.lines().filter_map(path).collect())
}

fn fetch(unpacked: &Path, packages: &[&str]) -> Result<()> {
    let stamp = unpacked.join("stamp");
    let wanted = format!("{FORMAT} {}", packages.join(" "));
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    let apt = Private::open(&unpacked.join("apt"), &[])?;
    apt.unpack(packages, unpacked)?;
    for (program, _) in TOOLS.iter().filter(|(_, package)| packages.contains(package)) {
        let found = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|part| unpacked.join(part).join(program));
        let Some(found) = found.iter().find(|path| path.is_file()) else {
            bail!("the packages have no {program}")
        };
        // A missing library shows here, and not as a strange failure of a test.
        let flag = if *program == "containerd-shim-runc-v2" {
            "-v"
        } else {
            "--help"
        };
        let output = Command::new(found)
            .arg(flag)
            .output()
            .with_context(|| format!("starting {}", found.display()))?;
        if !output.status.success() {
            bail!(
                "{} does not start here: {}",
                found.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))
}

fn fetch_engine(unpacked: &Path, package: &str) -> Result<()> {
    let stamp = unpacked.join(format!("stamp-{package}"));
    if stamp.is_file() {
        return Ok(());
    }
    let apt = Private::open(&unpacked.join("apt"), &[])?;
    apt.unpack_with_dependencies(package, unpacked)?;
    fs::write(&stamp, FORMAT).with_context(|| format!("writing {}", stamp.display()))
}
