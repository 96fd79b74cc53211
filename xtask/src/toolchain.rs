//! Finds a compiler and a linker for the kernel programs.
//!
//! `xtask` and the build script of `tracer` share this file (the latter includes it by path), so that what the
//! set-up installs is what the build looks for.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Environment variable that overrides the choice: `debian`, `nightly`, `nightly-YYYY-MM-DD`, or the whole path of
/// an object that was built elsewhere.
pub(crate) const CHOICE: &str = "EBUSY_BPF";

/// The target of the kernel programs on little-endian hosts; ebusy runs on no others.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Debian ships its compiler outside of rustup's reach, under fixed names.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The `cargo` that belongs to [`DEBIAN_RUSTC`].
pub(crate) const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// The linker's version. Each version knows a few versions of LLVM only.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// A way to get the object with the kernel programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Toolchain {
    /// Debian's compiler, which has a ready `core` for the target, and this linker.
    Debian(PathBuf),
    /// A rustup toolchain of this name that has the sources of `core`, and this linker.
    Nightly(String, PathBuf),
    /// An object that somebody else built.
    Object(PathBuf),
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian(linker) => write!(f, "Debian's {DEBIAN_RUSTC} with {}", linker.display()),
            Self::Nightly(name, linker) => write!(f, "rustup's {name} with {}", linker.display()),
            Self::Object(path) => write!(f, "the object {}", path.display()),
        }
    }
}

/// Missing parts, one reason each.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Takes the one in [`CHOICE`], else Debian's compiler, else a nightly.
///
/// Debian's comes first because its `core` and the linker's LLVM are from one archive; a nightly may have moved to
/// an LLVM that the installed linker cannot read.
pub(crate) fn find() -> Result<Toolchain, Missing> {
    match env::var(CHOICE) {
        Err(_) => find_any(),
        Ok(choice) if choice.is_empty() || choice == "auto" => find_any(),
        Ok(choice) if choice == "debian" => debian().map_err(|reason| Missing(vec![reason])),
        Ok(choice) if choice == "nightly" || choice.starts_with("nightly-") => {
            nightly(&choice).map_err(|reason| Missing(vec![reason]))
        }
        Ok(path) => {
            let path = PathBuf::from(path);
            // The build script and `xtask` run in different directories.
            if path.is_absolute() && path.is_file() {
                Ok(Toolchain::Object(path))
            } else {
                Err(Missing(vec![format!(
                    "{CHOICE}={} is neither debian, nightly, nor the whole path of an object",
                    path.display()
                )]))
            }
        }
    }
}

fn find_any() -> Result<Toolchain, Missing> {
    debian().or_else(|first| nightly("nightly").map_err(|second| Missing(vec![first, second])))
}

fn debian() -> Result<Toolchain, String> {
    if !debian_compiler() {
        return Err(format!("{DEBIAN_RUSTC} has no core library for {TARGET}"));
    }
    llvm(&mut bare(DEBIAN_RUSTC))
        .and_then(linker)
        .map(Toolchain::Debian)
        .ok_or_else(no_linker)
}

fn nightly(name: &str) -> Result<Toolchain, String> {
    if !nightly_sources(name) {
        return Err(format!(
            "rustup has no toolchain {name} with the component rust-src"
        ));
    }
    llvm(&mut nightly_rustc(name))
        .and_then(linker)
        .map(|linker| Toolchain::Nightly(name.to_owned(), linker))
        .ok_or_else(no_linker)
}

fn no_linker() -> String {
    "bpf-linker is not installed".to_owned()
}

/// Checks that Debian's compiler is here and has `core` for the target.
pub(crate) fn debian_compiler() -> bool {
    Path::new(DEBIAN_CARGO).is_file()
        && output(bare(DEBIAN_RUSTC).args(["--print", "target-libdir", "--target", TARGET]))
            .and_then(|dir| std::fs::read_dir(dir).ok())
            .is_some_and(|entries| {
                entries.flatten().any(|entry| {
                    let name = entry.file_name();
                    let name = name.to_string_lossy();
                    name.starts_with("libcore-") && name.ends_with(".rlib")
                })
            })
}

/// Checks that this rustup toolchain is installed and has the sources that `-Z build-std` needs.
pub(crate) fn nightly_sources(name: &str) -> bool {
    output(nightly_rustc(name).args(["--print", "sysroot"])).is_some_and(|root| {
        Path::new(&root)
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    })
}

/// The linker for this LLVM: the one that the set-up built for it, else one in the search path or in the folder of
/// `cargo install`, whose LLVM is unknown.
pub(crate) fn linker(llvm: u32) -> Option<PathBuf> {
    let home = home("CARGO_HOME", ".cargo");
    let path = env::var_os("PATH").unwrap_or_default();
    linker_root(llvm)
        .into_iter()
        .chain(home)
        .map(|root| root.join("bin"))
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("bpf-linker"))
        // One that cannot start (its LLVM was removed) counts as missing, and is built again.
        .find(|linker| linker.is_file() && output(bare(linker).arg("--version")).is_some())
}

/// Where the set-up installs the linker for this LLVM: it is built anew for another version of either, and only then.
pub(crate) fn linker_root(llvm: u32) -> Option<PathBuf> {
    Some(target_directory()?.join(format!("tools/bpf-linker-{LINKER_VERSION}-llvm-{llvm}")))
}

/// The folder where cargo built this program. Cargo marks its target directory, and those of targets in it, so that
/// backups skip them.
pub(crate) fn target_directory() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let marked = program
        .ancestors()
        .filter(|directory| directory.join("CACHEDIR.TAG").is_file());
    marked.last().map(Path::to_path_buf)
}

/// The major version of a compiler's LLVM.
pub(crate) fn llvm(rustc: &mut Command) -> Option<u32> {
    let text = output(rustc.arg("-vV"))?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// This rustup toolchain's compiler.
pub(crate) fn nightly_rustc(name: &str) -> Command {
    let mut command = bare("rustup");
    command.args(["run", name, "rustc"]);
    command
}

/// The path in this variable, else this directory of the user's.
pub(crate) fn home(variable: &str, directory: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(directory)))
}

/// A command without the variables of an outer cargo or rustup, which would redirect the compiler.
pub(crate) fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (key, _) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        let about_user = [
            "CARGO_HOME",
            "CARGO_NET_",
            "CARGO_HTTP_",
            "CARGO_REGISTR",
            "CARGO_SOURCE_",
            "CARGO_TERM_",
        ];
        let about_build = name.starts_with("CARGO")
            || name.starts_with("RUSTC")
            || name.starts_with("RUSTDOC")
            || name.starts_with("DEP_")
            || [
                "DEBUG",
                "HOST",
                "LD_LIBRARY_PATH",
                "MAKEFLAGS",
                "MFLAGS",
                "NUM_JOBS",
                "OPT_LEVEL",
                "OUT_DIR",
                "PROFILE",
                "RUSTFLAGS",
                "RUSTUP_TOOLCHAIN",
                "RUST_RECURSION_COUNT",
                "TARGET",
            ]
            .contains(&name);
        if about_build && !about_user.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&key);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
