//! Where a capture may be, and what of it may be opened. Its folder is written by root, and evidence of other recorders
//! is removed from it: so nobody but root, and who asked for it, may be able to choose what its path leads to. What is
//! opened to be read is a file, so that nothing is waited for, and no device is opened.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat},
    io::Errno,
    process::{getegid, geteuid},
};

use super::recorder::shown;

/// Links that are followed, as the kernel does it.
const LINKS_MAX: usize = 40;
const SET_STICKY: u32 = libc::S_ISVTX;

/// Who may decide where a capture is: root, and whoever runs ebusy, also by sudo.
#[derive(Debug)]
struct Trusted {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Trusted {
    fn here() -> Self {
        let by_sudo = |name| std::env::var(name).ok()?.parse().ok();
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        Self {
            users: [Some(0), Some(user), by_sudo("SUDO_UID")]
                .into_iter()
                .flatten()
                .collect(),
            groups: [Some(0), Some(group), by_sudo("SUDO_GID")]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    fn owns(&self, stat: &Stat) -> bool {
        self.users.contains(&stat.st_uid)
    }

    /// Who else may make and remove names there, in words.
    fn others(&self, stat: &Stat) -> Option<String> {
        if !self.owns(stat) {
            Some(format!("user {}, whose it is", stat.st_uid))
        } else if stat.st_mode & 0o002 != 0 {
            Some("everybody".to_owned())
        } else if stat.st_mode & 0o020 != 0 && !self.groups.contains(&stat.st_gid) {
            Some(format!("group {}", stat.st_gid))
        } else {
            None
        }
    }
}

/// Opens a folder, and makes it with 0700 if it is not there.
pub(super) fn open_folder(path: &Path) -> Result<OwnedFd> {
    open_trusting(path, &Trusted::here())
}

fn open_trusting(path: &Path, trusted: &Trusted) -> Result<OwnedFd> {
    let path = std::path::absolute(path)?;
    let mut walk = Walk {
        at: root()?,
        shown: PathBuf::from("/"),
        left: parts(&path),
        links: 0,
    };
    while let Some(part) = walk.left.pop_front() {
        walk.step(&part, trusted)?;
    }
    if let Some(who) = trusted.others(&fstat(&walk.at)?) {
        bail!(
            "{who} may write there, and so decide what is recorded; choose another folder, or give it to root alone \
             (chown and chmod 700)"
        );
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&walk.at, ".", flags, Mode::empty())?)
}

/// On the way to a folder.
#[derive(Debug)]
struct Walk {
    at: OwnedFd,
    shown: PathBuf,
    left: VecDeque<OsString>,
    links: usize,
}

fn root() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/", flags, Mode::empty())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    });
    parts.collect()
}

impl Walk {
    fn step(&mut self, part: &OsString, trusted: &Trusted) -> Result<()> {
        let here = fstat(&self.at)?;
        // In a sticky folder, such as /tmp, everybody may make names, and nobody may take those of others.
        let others = trusted
            .others(&here)
            .filter(|_| !(trusted.owns(&here) && here.st_mode & SET_STICKY != 0));
        if let Some(who) = others {
            bail!(
                "{} may be written by {who}, who could lead it elsewhere; choose a folder that only root may change, \
                 such as /var/lib/ebusy",
                shown(&self.shown)
            );
        }
        let next = self.shown.join(part);
        let found = self.look_up(part).with_context(|| shown(&next))?;
        let stat = fstat(&found)?;
        ensure!(
            part == ".." || here.st_mode & SET_STICKY == 0 || trusted.owns(&stat),
            "{} was made by user {}; choose another folder",
            shown(&next),
            stat.st_uid
        );
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.shown = next;
                self.at = found;
            }
            FileType::Symlink => {
                self.links += 1;
                ensure!(
                    self.links <= LINKS_MAX,
                    "{}: too many symbolic links",
                    shown(&next)
                );
                let target = readlinkat(&found, "", Vec::new()).with_context(|| shown(&next))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    self.at = root()?;
                    self.shown = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    self.left.push_front(part);
                }
            }
            kind => bail!("{} is not a folder but {}", shown(&next), words(kind)),
        }
        Ok(())
    }

    /// A name, made if it is the last one.
    fn look_up(&self, part: &OsString) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.at, part, flags, Mode::empty()) {
            Err(Errno::NOENT) if self.left.is_empty() => {
                match mkdirat(&self.at, part, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                openat(&self.at, part, flags, Mode::empty())
            }
            found => found,
        }
    }
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

fn words(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
        path::Path,
    };

    use super::{Trusted, open_file, open_folder, open_trusting};

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
    fn what_others_own_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("folder");
        open_folder(&folder).unwrap();
        // The same folder, seen by whoever trusts root alone, but by its number is not root.
        let trusted = |users: &[u32]| Trusted {
            users: users.to_vec(),
            groups: vec![0],
        };
        let own = fs::metadata(&folder).unwrap().uid();
        let root = fs::metadata("/").unwrap().uid();
        open_trusting(&folder, &trusted(&[root, own])).unwrap();
        let error = format!("{:#}", open_trusting(&folder, &trusted(&[own + 1])).unwrap_err());
        assert!(error.contains("may be written by user"), "{error}");
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
