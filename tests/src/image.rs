//! A container image made of one static busybox, as an archive that `ctr image import` reads.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Its name.
pub const NAME: &str = "docker.io/library/ebusy-test:latest";

/// The file in it that holders open, from its root.
pub const FILE: &str = "/var/log/app.log";

/// Makes the archive in a directory.
pub fn archive(busybox: &Path, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("var/log"))?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for name in ["sh", "sleep"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    fs::write(root.join(FILE.trim_start_matches('/')), "started\n")?;

    let layer = directory.join("layer.tar");
    tar(&root, &layer, &["."])?;
    let digest = output(Command::new("sha256sum").arg(&layer))?;
    let digest = digest.split_whitespace().next().context("a digest")?;
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "1000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    fs::write(directory.join("config.json"), config.to_string())?;
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    fs::write(directory.join("manifest.json"), manifest.to_string())?;
    let archive = directory.join("image.tar");
    tar(
        directory,
        &archive,
        &["manifest.json", "config.json", "layer.tar"],
    )?;
    Ok(archive)
}

fn tar(directory: &Path, archive: &Path, names: &[&str]) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .arg("--create")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(directory)
        .args(names);
    output(&mut command).map(drop)
}

/// Runs a command that must succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| name.clone())?;
    ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
