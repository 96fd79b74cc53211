//! Where a capture may be, and what of it may be opened. Its folder is written by root, and evidence of other recorders
//! is removed from it: so nobody but root, and who asked for it, may be able to choose what its path leads to. What is
//! opened to be read is a file, so that nothing is waited for, and no device is opened.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Result, bail};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::owned::{Owners, Way, words};

/// Opens a folder, and makes it with 0700 if it is not there.
pub(super) fn open_folder(path: &Path) -> Result<OwnedFd> {
    let owners = Owners::invoker();
    let way = Way {
        root: Path::new("/"),
        owners: &owners,
        make: true,
        may_enter: &|_| true,
    };
    let found = way.to(&std::path::absolute(path)?)?;
    if let Some(who) = owners.others(&fstat(&found)?) {
        bail!(
            "{who} may write there, and so decide what is recorded; choose another folder, or give it to root alone \
             (chown and chmod 700)"
        );
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&found, ".", flags, Mode::empty())?)
}

/// Opens a file for reading; nothing else is opened, so that no FIFO is waited for, and no device notices.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let found = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    regular(&found)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
}

/// Whether that is a file, and no device or FIFO.
pub(super) fn regular(file: impl AsFd) -> io::Result<()> {
    match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::RegularFile => Ok(()),
        kind => Err(io::Error::other(format!(
            "this is not a file but {}; a capture that comes through a pipe has to be saved first",
            words(kind)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
        path::Path,
    };

    use super::{open_file, open_folder};

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        format!("{:#}", open_folder(path).unwrap_err())
    }

    #[test]
    fn a_folder_is_made_for_its_owner_and_links_of_ours_are_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("folder");
        open_folder(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        symlink("folder/../folder", scratch.path().join("relative")).unwrap();
        symlink(scratch.path(), scratch.path().join("absolute")).unwrap();
        for path in ["relative", "absolute/absolute/relative", "folder/.."] {
            open_folder(&scratch.path().join(path)).unwrap();
        }
        symlink("circle", scratch.path().join("circle")).unwrap();
        assert!(refused(&scratch.path().join("circle")).contains("too many"));
    }

    #[test]
    fn places_that_others_may_write_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("folder");
        open_folder(&folder).unwrap();
        mode(&folder, 0o1777);
        assert!(refused(&folder).contains("everybody may write there"));
        // Others may make names there, but not take ours.
        open_folder(&folder.join("ours")).unwrap();
        mode(&folder, 0o777);
        let error = refused(&folder.join("ours"));
        assert!(error.contains("folder may be written by everybody"), "{error}");
        mode(&folder, 0o700);
        open_folder(&folder.join("ours")).unwrap();
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let scratch = tempfile::tempdir().unwrap();
        let fifo = scratch.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let link = scratch.path().join("link");
        symlink("/dev/null", &link).unwrap();
        for (path, what) in [(&*fifo, "FIFO"), (&*link, "device"), (scratch.path(), "folder")] {
            let error = open_file(path).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert!(refused(&fifo).contains("not a folder but a FIFO"));
        let missing = open_file(&scratch.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }
}
