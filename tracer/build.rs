//! Compiles the kernel programs and leaves the object in `$OUT_DIR/ebusy-bpf.o`, where the library embeds it.
//!
//! `EBUSY_BPF` overrides the compiler: `debian`, `nightly`, `nightly-YYYY-MM-DD`, or the whole path of an object.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

use object::build::elf;
use toolchain::Toolchain;

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

const PACKAGE: &str = "tracer-ebpf";
const PROGRAM: &str = "ebusy-bpf";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // Not by returning it: a backtrace of this script would bury what to do.
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let root = here.parent().context("the package has no parent directory")?;
    let toolchain = match toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(missing) => bail!(
            "cannot compile the kernel programs: {missing}; `cargo xtask setup` installs what is missing or says how"
        ),
    };
    rerun_if_changed(root, &toolchain);
    let object = match &toolchain {
        Toolchain::Object(path) => path.clone(),
        Toolchain::Debian(linker) => {
            debian(root, &out, linker).with_context(|| format!("compiling {PACKAGE} by {toolchain}"))?
        }
        Toolchain::Nightly(name, _) => {
            nightly(root, &out, name).with_context(|| format!("compiling {PACKAGE} by {toolchain}"))?
        }
    };
    let embedded = out.join(format!("{PROGRAM}.o"));
    without_debug_information(&object, &embedded)
        .with_context(|| format!("copying {} to {}", object.display(), embedded.display()))
}

/// The linker makes BTF of the debug information; the kernel, and so the program, has no use for what it was made of,
/// which is three quarters of the object.
fn without_debug_information(object: &Path, embedded: &Path) -> Result<()> {
    let whole = fs::read(object).context("reading it")?;
    let mut elf = elf::Builder::read(whole.as_slice()).context("reading it as ELF")?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    elf.delete_orphans();
    // The linker keeps the names of sections with those of symbols.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = elf::SectionData::SectionString;
    let mut rest = Vec::new();
    elf.write(&mut rest).context("writing it as ELF")?;
    fs::write(embedded, rest).context("writing it")
}

/// Everything that the object depends on, and everything that the choice of the compiler depends on.
fn rerun_if_changed(root: &Path, toolchain: &Toolchain) {
    println!("cargo::rerun-if-env-changed={}", toolchain::CHOICE);
    let inputs = [
        "Cargo.lock",
        "Cargo.toml",
        "tracer-common/Cargo.toml",
        "tracer-common/src",
        "tracer-ebpf/Cargo.toml",
        "tracer-ebpf/src",
        "xtask/src/toolchain.rs",
    ];
    let inputs = inputs.iter().map(|input| root.join(input));
    let tools = match toolchain.clone() {
        Toolchain::Debian(linker) => vec![toolchain::DEBIAN_RUSTC.into(), linker],
        Toolchain::Nightly(_, linker) => vec![linker],
        Toolchain::Object(path) => vec![path],
    };
    for path in inputs.chain(tools) {
        // A path that does not exist would run this script at every build.
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

/// Debian's compiler is a stable one: `RUSTC_BOOTSTRAP` lets it take the assembly syntax that aya-ebpf uses.
fn debian(root: &Path, out: &Path, linker: &Path) -> Result<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    let arch = if arch.starts_with("riscv64") {
        "riscv64"
    } else {
        &arch
    };
    // One for all profiles of this package, and for its lints: the programs are the same, and compiled once.
    let target_dir = toolchain::target_directory()
        .unwrap_or_else(|| out.to_path_buf())
        .join("bpf");
    let mut path = OsString::from(linker.parent().context("the linker has no directory")?);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());

    let mut command = toolchain::bare(toolchain::DEBIAN_CARGO);
    command
        .args(["build", "--release", "--package", PACKAGE, "--bin", PROGRAM])
        .args(["--target", toolchain::TARGET, "--color", "never", "--target-dir"])
        .arg(&target_dir)
        .current_dir(root)
        .env("PATH", path)
        .env("RUSTC", toolchain::DEBIAN_RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf"),
        );
    let output = command
        .output()
        .with_context(|| format!("starting {}", toolchain::DEBIAN_CARGO))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let hint = if text.contains("linking with") {
            "\nif the linker could not read the bitcode, it was built for another LLVM: \
             `cargo xtask setup --force` builds it again"
        } else {
            ""
        };
        bail!("{} in {}:\n{text}{hint}", output.status, root.display());
    }
    if text.contains("warning") {
        for line in text.lines() {
            println!("cargo::warning={line}");
        }
    }
    Ok(target_dir.join(toolchain::TARGET).join("release").join(PROGRAM))
}

/// `aya-build` knows how a nightly builds `core` and the programs.
fn nightly(root: &Path, out: &Path, name: &str) -> Result<PathBuf> {
    let root_dir = root.join(PACKAGE);
    let package = aya_build::Package {
        name: PACKAGE,
        root_dir: root_dir
            .to_str()
            .context("the path of the workspace is not UTF-8")?,
        ..aya_build::Package::default()
    };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(name))?;
    Ok(out.join(PROGRAM))
}
