//! Swapping to a path, for a while.

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::guard::Guard;

/// The size of an area: close to the minimum that the kernel accepts.
const PAGES: u32 = 64;
const PAGE: usize = 4096;

/// A path that the kernel swaps to as long as this value, or its process, is there.
#[derive(Debug)]
pub struct Swap(#[expect(dead_code, reason = "its end is what matters")] Guard);

impl Swap {
    /// Begins to swap to a file or device that has [`area`] in it.
    pub fn on(path: &Path) -> Result<Self> {
        let text = CString::new(path.as_os_str().as_bytes())?;
        let end: PathBuf = path.to_owned();
        let guard = Guard::start(move || {
            if let Ok(text) = CString::new(end.as_os_str().as_bytes()) {
                // SAFETY: the path ends with a null.
                unsafe { libc::swapoff(text.as_ptr()) };
            }
        })?;
        // SAFETY: the path ends with a null.
        if unsafe { libc::swapon(text.as_ptr(), 0) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(Self(guard))
    }

    /// The reason if ebusy cannot see swap by reference: the kernel hides the addresses of its areas.
    #[must_use]
    pub fn hidden() -> Option<&'static str> {
        let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let shown = symbols
            .lines()
            .any(|line| line.ends_with(" swap_info") && !line.starts_with("0000000000000000 "));
        (!shown).then_some("the kernel shows no address of its swap areas")
    }
}

/// An empty swap area (`union swap_header` of linux/swap.h): version, last page, and the signature.
#[must_use]
pub fn area() -> Vec<u8> {
    let mut area = vec![0; PAGES as usize * PAGE];
    area[1024..1028].copy_from_slice(&1_u32.to_ne_bytes());
    area[1028..1032].copy_from_slice(&(PAGES - 1).to_ne_bytes());
    area[PAGE - 10..PAGE].copy_from_slice(b"SWAPSPACE2");
    area
}
