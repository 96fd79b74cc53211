//! The root of a test machine: init, busybox, modules, and the programs that jobs run.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{
    cpio::Archive,
    kernels::Kernel,
    protocol::{DIRECTORY, MODULES},
};

/// An image in the making.
#[derive(Debug)]
pub(crate) struct Image {
    archive: Archive,
}

impl Image {
    /// The common files of every machine.
    pub(crate) fn new(kernel: &Kernel, init: &Path) -> Result<Self> {
        let mut archive = Archive::default();
        for directory in [
            "bin", "dev", "etc", "opt", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin",
            "var",
        ] {
            archive.directory(directory);
        }
        archive.character_device("dev/console", 0o600, (5, 1));
        archive.file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        );
        archive.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
        archive.symlink("etc/mtab", "/proc/self/mounts");
        let mut image = Self { archive };
        image.add_program("init", init)?;
        image.add_program("bin/busybox", &kernel.busybox())?;
        image.archive.symlink("bin/sh", "busybox");
        let mut names = String::new();
        for module in kernel.modules()? {
            let data = fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
            let name = module
                .file_name()
                .context("a module without a name")?
                .to_string_lossy()
                .into_owned();
            image.archive.file(&format!("{DIRECTORY}/{name}"), 0o644, &data);
            names.push_str(&name);
            names.push('\n');
        }
        image
            .archive
            .file(MODULES.trim_start_matches('/'), 0o644, names.as_bytes());
        Ok(image)
    }

    /// A static program of the host, at this path of the machine.
    pub(crate) fn add_program(&mut self, path: &str, source: &Path) -> Result<()> {
        let data = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        if interpreter(&data) {
            bail!(
                "{} is linked dynamically and cannot start in the machine, which has no libraries; \
                 build it with `-C target-feature=+crt-static`",
                source.display()
            );
        }
        self.archive.file(path, 0o755, &data);
        Ok(())
    }

    /// A file with this content.
    pub(crate) fn add_file(&mut self, path: &str, data: &[u8]) {
        self.archive.file(path, 0o755, data);
    }

    /// The archive.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.archive.finish()
    }
}

/// True for a 64-bit little-endian ELF program that requests a dynamic loader.
fn interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, width: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(width)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | usize::from(*byte)),
        )
    };
    let headers = || {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        Some((0..count).filter_map(move |index| number(start.checked_add(index * size)?, 4)))
    };
    elf.starts_with(b"\x7fELF\x02\x01")
        && headers().is_some_and(|mut kinds| kinds.any(|kind| kind == PT_INTERP as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_dynamic_programs() {
        let mut elf = vec![0; 64 + 56 * 2];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64] = 1;
        assert!(!interpreter(&elf));
        elf[64 + 56] = 3;
        assert!(interpreter(&elf));
        assert!(!interpreter(b"#!/bin/sh\n"));
        assert!(!interpreter(&elf[..70]));
        elf[32..40].fill(0xff);
        assert!(!interpreter(&elf));
    }
}
