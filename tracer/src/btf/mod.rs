//! The running kernel's own description of its structures: a parser of BTF and a resolver of dotted paths.
//!
//! BPF programs written in Rust carry no CO-RE relocations, so every offset that ebusy uses is looked up here,
//! in the kernel that it runs on. Nothing is baked in, and nothing is guessed: two different definitions of one
//! name are refused, and so is a field whose size is not the expected one.
//!
//! BTF comes from the kernel, but also from foreign files (captures, fixtures), so no input may make this code panic,
//! recurse without end or take more than linear time in its size.

mod cut;
mod error;
#[cfg(test)]
mod hostile;
mod kind;
mod parse;
mod resolve;
mod spec;
#[cfg(test)]
mod testing;

use std::{fs, io, path::Path, sync::Arc};

pub use self::{
    error::{BtfError, ResolveError},
    parse::Btf,
    resolve::{Bits, Field, FieldKind},
    spec::{Resolved, resolve_all},
};
pub use tracer_common::{ABSENT, FieldEntry as FieldSpec};

/// The file with the types of the kernel's built-in code.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

impl Btf {
    /// The types of the running kernel.
    pub fn running_kernel() -> Result<Self, BtfError> {
        Self::parse(read(Path::new(KERNEL_BTF))?)
    }

    /// The types of a module of the running kernel, on top of the kernel's own.
    pub fn module(name: &str, kernel: Arc<Self>) -> Result<Self, BtfError> {
        // A name with a slash would leave the directory.
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(BtfError::NoModule {
                name: name.to_owned(),
            });
        }
        match fs::read(Path::new("/sys/kernel/btf").join(name)) {
            Ok(bytes) => Self::parse_split(bytes, kernel),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BtfError::NoModule {
                name: name.to_owned(),
            }),
            Err(source) => Err(BtfError::Read {
                path: format!("/sys/kernel/btf/{name}"),
                source,
            }),
        }
    }
}

/// Reads the kernel's BTF; the errors say how to fix the problem.
fn read(path: &Path) -> Result<Vec<u8>, BtfError> {
    let shown = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // /sys/kernel is there in every mounted sysfs, whatever the kernel was built with.
            if Path::new("/sys/kernel").exists() {
                Err(BtfError::NotBuilt { path: shown })
            } else {
                Err(BtfError::NoSysfs { path: shown })
            }
        }
        Err(source) => Err(BtfError::Read { path: shown, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_says_what_mends_it() {
        let error = read(Path::new("/sys/kernel/btf/no-such-kernel")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("CONFIG_DEBUG_INFO_BTF=y") || text.contains("mount -t sysfs"),
            "{text}"
        );
    }

    #[test]
    fn a_module_name_cannot_leave_the_directory() {
        let kernel = Arc::new(testing::Builder::new().parse());
        for name in ["", "../vmlinux", "a/b", "."] {
            let error = Btf::module(name, Arc::clone(&kernel)).unwrap_err();
            assert!(matches!(error, BtfError::NoModule { .. }), "{error}");
        }
    }
}
