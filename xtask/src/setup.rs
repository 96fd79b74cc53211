//! Installs the toolchain of the kernel programs: a compiler with `core` for the BPF target, and `bpf-linker` built for
//! the same LLVM. Where it cannot, it prints the commands to type.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    apt, command, say,
    toolchain::{self, LINKER_VERSION, Toolchain},
};

/// The versions of LLVM that this linker can be built for.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Debian's packages of a recent compiler (kept for its browsers), with `core` for the BPF target.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// The steps that the set-up cannot do here, with the commands for them.
#[derive(Debug)]
pub(crate) struct ByHand {
    pub(crate) why: String,
    pub(crate) commands: Vec<String>,
}

impl fmt::Display for ByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; type:", self.why)?;
        for command in &self.commands {
            write!(f, "\n  {command}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ByHand {}

/// The two ways to a compiler.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Compiler {
    Debian,
    Nightly,
}

/// Finds the toolchain, or installs it. `force` builds the linker anew: its LLVM must be the compiler's.
pub(crate) fn toolchain(force: bool) -> Result<Toolchain> {
    match toolchain::find() {
        Ok(found) if !force || matches!(found, Toolchain::Object(_)) => return Ok(found),
        Ok(_) => {}
        Err(missing) => say(&format!(
            "setting up the compiler of the kernel programs: {missing}"
        )),
    }
    let compiler = compiler()?;
    let llvm = llvm(compiler)?;
    if force || toolchain::linker(llvm).is_none() {
        linker(compiler, llvm)?;
    }
    toolchain::find()
        .map_err(|missing| by_hand(format!("the set-up ended, and still {missing}"), compiler, llvm).into())
}

/// True if the user's choice allows a compiler.
fn allowed(compiler: Compiler) -> bool {
    let choice = env::var(toolchain::CHOICE).unwrap_or_default();
    match compiler {
        Compiler::Debian => ["", "auto", "debian"].contains(&choice.as_str()),
        Compiler::Nightly => ["", "auto"].contains(&choice.as_str()) || choice.starts_with("nightly"),
    }
}

fn nightly_name() -> String {
    env::var(toolchain::CHOICE)
        .ok()
        .filter(|name| name.starts_with("nightly"))
        .unwrap_or_else(|| "nightly".to_owned())
}

fn compiler() -> Result<Compiler> {
    let nightly = nightly_name();
    if allowed(Compiler::Debian) && toolchain::debian_compiler() {
        return Ok(Compiler::Debian);
    }
    if allowed(Compiler::Nightly) && toolchain::nightly_sources(&nightly) {
        return Ok(Compiler::Nightly);
    }
    let mut reasons = Vec::new();
    if allowed(Compiler::Debian) && apt::available() {
        if apt::can_install() {
            match apt::install(&DEBIAN_PACKAGES) {
                Ok(()) => return Ok(Compiler::Debian),
                Err(err) => reasons.push(format!("{err:#}")),
            }
        } else {
            reasons.push("packages can be installed by root only".to_owned());
        }
    }
    if allowed(Compiler::Nightly) {
        say(&format!("installing the sources of core for rustup's {nightly}"));
        let mut command = toolchain::bare("rustup");
        command.args([
            "toolchain",
            "install",
            &nightly,
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]);
        command.arg("--no-self-update");
        match command::run(&mut command) {
            Ok(()) if toolchain::nightly_sources(&nightly) => return Ok(Compiler::Nightly),
            Ok(()) => reasons.push(format!("rustup installed no sources for {nightly}")),
            Err(err) => reasons.push(format!("{err:#}")),
        }
    }
    let way = if apt::available() && allowed(Compiler::Debian) {
        Compiler::Debian
    } else {
        Compiler::Nightly
    };
    let why = format!(
        "cannot install a compiler for the kernel programs ({})",
        reasons.join("; ")
    );
    Err(by_hand(why, way, 22).into())
}

/// Builds the linker for the LLVM of the compiler.
fn linker(compiler: Compiler, llvm: u32) -> Result<()> {
    if !LINKER_LLVM.contains(&llvm) {
        return Err(by_hand(
            format!(
                "bpf-linker {LINKER_VERSION} cannot read what LLVM {llvm} writes, which the compiler has"
            ),
            compiler,
            *LINKER_LLVM.end(),
        )
        .into());
    }
    if apt::can_install() {
        let packages = llvm_packages(llvm);
        let installed = apt::install(&packages.iter().map(String::as_str).collect::<Vec<_>>());
        // An LLVM from elsewhere serves as well.
        if llvm_prefix(llvm).is_none() {
            installed?;
        }
    }
    let Some(prefix) = llvm_prefix(llvm) else {
        let why =
            format!("bpf-linker needs the development files of LLVM {llvm}, which cannot be installed here");
        return Err(by_hand(why, compiler, llvm).into());
    };
    say(&format!(
        "building bpf-linker {LINKER_VERSION} for LLVM {llvm}: a minute or two"
    ));
    let root = toolchain::linker_root(llvm).context("cargo has no target directory")?;
    let mut command = install("bpf-linker", LINKER_VERSION, &root);
    command
        .args([
            "--force",
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .env("LLVM_PREFIX", &prefix);
    command::run(&mut command).with_context(|| format!("building bpf-linker for {}", prefix.display()))
}

fn llvm_packages(llvm: u32) -> [String; 3] {
    [
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".to_owned(),
    ]
}

/// The major version of the compiler's LLVM.
fn llvm(compiler: Compiler) -> Result<u32> {
    let mut rustc = match compiler {
        Compiler::Debian => toolchain::bare(toolchain::DEBIAN_RUSTC),
        Compiler::Nightly => toolchain::nightly_rustc(&nightly_name()),
    };
    toolchain::llvm(&mut rustc).context("the compiler does not say which LLVM it has")
}

/// The folder of this LLVM's development files.
fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    [
        format!("/usr/lib/llvm-{llvm}/bin/llvm-config"),
        format!("llvm-config-{llvm}"),
        "llvm-config".to_owned(),
    ]
    .iter()
    .find_map(|program| {
        let ask = |what: &str| {
            let output = Command::new(program)
                .arg(what)
                .stderr(Stdio::null())
                .output()
                .ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let version = ask("--version")?;
        let major: u32 = version.split('.').next()?.parse().ok()?;
        let prefix = PathBuf::from(ask("--prefix")?);
        // The program alone comes without the headers and libraries.
        (major == llvm && prefix.join("include/llvm-c/Core.h").is_file()).then_some(prefix)
    })
}

fn by_hand(why: String, compiler: Compiler, llvm: u32) -> ByHand {
    let mut commands = Vec::new();
    let debian = apt::available();
    if debian {
        let mut packages: Vec<String> = llvm_packages(llvm).into();
        if compiler == Compiler::Debian {
            packages.splice(0..0, DEBIAN_PACKAGES.map(str::to_owned));
        }
        commands.push("sudo apt-get update".to_owned());
        commands.push(format!(
            "sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        ));
    }
    if compiler == Compiler::Nightly {
        commands.push(format!(
            "rustup toolchain install {} --profile minimal --component rust-src",
            nightly_name()
        ));
    }
    let prefix = if debian {
        format!("/usr/lib/llvm-{llvm}")
    } else {
        commands.push(format!(
            "# install LLVM {llvm} with its development files, by the means of this system"
        ));
        "$(llvm-config --prefix)".to_owned()
    };
    commands.push(format!(
        "LLVM_PREFIX={prefix} cargo install bpf-linker --version {LINKER_VERSION} --locked --debug \
         --no-default-features --features llvm-{llvm}"
    ));
    ByHand { why, commands }
}

/// Compiles a program of the registry into `bin` of a folder, for this host and without the workspace's own flags.
///
/// Unoptimised, which takes half as long: it mostly calls LLVM, or runs for a second.
pub(crate) fn install(package: &str, version: &str, root: &Path) -> Command {
    let mut command = toolchain::bare("cargo");
    command
        .args(["install", package, "--version", version, "--locked", "--root"])
        .arg(root)
        .arg("--debug")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_ENCODED_RUSTFLAGS", "");
    command
}

/// True if a program of this name is in the search path.
pub(crate) fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Programs of root are not in every PATH.
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
        || ["/usr/sbin", "/sbin"]
            .iter()
            .any(|directory| Path::new(directory).join(program).is_file())
}
