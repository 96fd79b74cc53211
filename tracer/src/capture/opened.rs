//! The files of a capture, all of them open: whoever reads them, which are anybody's bytes, needs to open nothing more.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{error::CaptureError, names::segment_number, place};

/// Descriptors besides those of a capture.
const OTHERS: u64 = 64;

/// A capture that is open.
#[derive(Debug)]
pub struct Opened {
    pub(super) path: PathBuf,
    /// In order. What cannot be opened is told when it is its turn.
    pub(super) files: VecDeque<(PathBuf, io::Result<File>)>,
}

impl Opened {
    /// Opens a folder of segments, or one segment.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let failed = |error| CaptureError::Read {
            file: path.to_owned(),
            offset: 0,
            error,
        };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let files = if metadata.is_dir() {
            segments(path).map_err(failed)?
        } else {
            vec![path.to_owned()]
        };
        make_room(files.len() as u64 + OTHERS);
        let mut opened = VecDeque::with_capacity(files.len());
        for file in files {
            let found = place::open_file(&file);
            if let Err(error) = &found
                && error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
            {
                let few = "more segments than files that may be open at once; raise the limit with: ulimit -n 100000";
                return Err(failed(io::Error::other(few)));
            }
            opened.push_back((file, found));
        }
        Ok(Self {
            path: path.to_owned(),
            files: opened,
        })
    }

    /// Each file by itself, the last one first.
    pub fn last_first(&self) -> impl Iterator<Item = Self> {
        self.files.iter().rev().filter_map(|(path, file)| {
            let file = file.as_ref().ok()?.try_clone();
            Some(Self {
                path: path.clone(),
                files: VecDeque::from([(path.clone(), file)]),
            })
        })
    }
}

/// Lets so many files be open at once, as far as that may be.
fn make_room(files: u64) {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= files) {
        return;
    }
    let wanted = |current| Rlimit {
        current: Some(current),
        maximum: now.maximum.map(|maximum| maximum.max(current)),
    };
    // Above its maximum is only for root.
    if setrlimit(Resource::Nofile, wanted(files)).is_err()
        && let Some(maximum) = now.maximum
    {
        let _ = setrlimit(Resource::Nofile, wanted(maximum));
    }
}

/// The segments in a folder, in the order of their numbers.
fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = segment_number(entry.file_name().as_bytes()) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
