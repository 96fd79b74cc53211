//! The way to a folder that only trusted users can have led elsewhere: root writes captures, and ebusy believes the
//! files of runtimes, so nobody else who may make names on the way may decide where these are.

use std::{
    collections::VecDeque,
    ffi::OsString,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat},
    io::Errno,
    process::{getegid, geteuid},
};

use crate::text::escape;

/// Maximum number of links, as in the kernel.
const LINKS_MAX: usize = 40;
const STICKY: u32 = libc::S_ISVTX;

/// The trusted users.
#[derive(Debug)]
pub(crate) struct Owners {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Owners {
    /// Root, which ebusy is.
    pub(crate) fn superuser() -> Self {
        Self {
            users: vec![0, geteuid().as_raw()],
            groups: Vec::new(),
        }
    }

    /// Root, and the user who runs ebusy, also by sudo.
    pub(crate) fn invoker() -> Self {
        let by_sudo = |name| std::env::var(name).ok()?.parse().ok();
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let all = |ids: [Option<u32>; 3]| ids.into_iter().flatten().collect();
        Self {
            users: all([Some(0), Some(user), by_sudo("SUDO_UID")]),
            groups: all([Some(0), Some(group), by_sudo("SUDO_GID")]),
        }
    }

    /// True if it is theirs.
    pub(crate) fn own(&self, stat: &Stat) -> bool {
        self.users.contains(&stat.st_uid)
    }

    /// The others who may make and remove names in a folder, in words.
    pub(crate) fn others(&self, stat: &Stat) -> Option<String> {
        if !self.own(stat) {
            Some(format!("user {}, whose it is", stat.st_uid))
        } else if stat.st_mode & 0o002 != 0 {
            Some("everybody".to_owned())
        } else if stat.st_mode & 0o020 != 0 && !self.groups.contains(&stat.st_gid) {
            Some(format!("group {}", stat.st_gid))
        } else {
            None
        }
    }

    /// The others who endanger names of trusted users: in a sticky folder, such as /tmp, everybody may make names, but
    /// nobody may remove those of others.
    fn others_lead(&self, stat: &Stat) -> Option<String> {
        self.others(stat)
            .filter(|_| !(self.own(stat) && stat.st_mode & STICKY != 0))
    }
}

/// Options of the walk.
pub(crate) struct Way<'w> {
    /// The folder for `/`.
    pub(crate) root: &'w Path,
    pub(crate) owners: &'w Owners,
    /// Makes the last folder, with 0700, if it is not there.
    pub(crate) make: bool,
    /// Decides if a path may be looked at, before any call to its file system.
    pub(crate) may_enter: &'w dyn Fn(&Path) -> bool,
}

impl Way<'_> {
    /// Opens a folder (`O_PATH`); an error names who could lead it elsewhere.
    pub(crate) fn to(&self, path: &Path) -> Result<OwnedFd> {
        let root = open_root(self.root)?;
        let mut walk = Walk {
            at: root.try_clone()?,
            root,
            passed: PathBuf::from("/"),
            left: parts(path),
            links: 0,
        };
        while let Some(part) = walk.left.pop_front() {
            walk.step(&part, self)?;
        }
        Ok(walk.at)
    }
}

#[derive(Debug)]
struct Walk {
    root: OwnedFd,
    at: OwnedFd,
    /// Its path, without links.
    passed: PathBuf,
    left: VecDeque<OsString>,
    links: usize,
}

fn open_root(root: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, root, flags, Mode::empty())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    });
    parts.collect()
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

impl Walk {
    fn step(&mut self, part: &OsString, way: &Way<'_>) -> Result<()> {
        let here = fstat(&self.at)?;
        if let Some(who) = way.owners.others_lead(&here) {
            bail!(
                "{} may be written by {who}, who could lead it elsewhere; choose a folder that only root may change, \
                 such as /var/lib/ebusy",
                shown(&self.passed)
            );
        }
        let up = part == "..";
        let mut next = self.passed.clone();
        if up {
            // The root is above itself.
            if !next.pop() {
                return Ok(());
            }
        } else {
            next.push(part);
        }
        ensure!((way.may_enter)(&next), "{} is not looked at", shown(&next));
        let found = self.look_up(part, way).with_context(|| shown(&next))?;
        let stat = fstat(&found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let theirs = kind == FileType::Symlink || here.st_mode & STICKY != 0;
        ensure!(
            up || !theirs || way.owners.own(&stat),
            "{} was made by user {}; choose another folder",
            shown(&next),
            stat.st_uid
        );
        match kind {
            FileType::Directory => {
                self.passed = next;
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
                    self.at = self.root.try_clone()?;
                    self.passed = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    self.left.push_front(part);
                }
            }
            kind => bail!("{} is not a folder but {}", shown(&next), words(kind)),
        }
        Ok(())
    }

    /// A name, made if it is the last one and may be made.
    fn look_up(&self, part: &OsString, way: &Way<'_>) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.at, part, flags, Mode::empty()) {
            Err(Errno::NOENT) if way.make && self.left.is_empty() => {
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

/// The type of a file, in words.
pub(crate) fn words(kind: FileType) -> &'static str {
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

    use super::{Owners, Way};

    fn walk(
        root: &Path,
        path: &str,
        owners: &Owners,
        may_enter: &dyn Fn(&Path) -> bool,
    ) -> anyhow::Result<u64> {
        let way = Way {
            root,
            owners,
            make: false,
            may_enter,
        };
        Ok(rustix::fs::fstat(way.to(Path::new(path))?)?.st_ino)
    }

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("/a", at("absolute")).unwrap();
        symlink("../../../a/b", at("a/up")).unwrap();
        symlink("..", at("a/b/parent")).unwrap();
        let owners = Owners::superuser();
        for (path, expected) in [
            ("/", ""),
            ("/..", ""),
            ("/a/../../a", "a"),
            ("/absolute/b", "a/b"),
            ("/a/up", "a/b"),
            // `..` of the link's target, not of the link.
            ("/a/up/..", "a"),
            ("/a/b/parent", "a"),
        ] {
            let found = walk(root.path(), path, &owners, &|_| true).unwrap();
            assert_eq!(found, inode(&at(expected)), "{path}");
        }
    }

    #[test]
    fn what_may_not_be_entered_is_not_looked_at() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        symlink("/a/b", root.path().join("link")).unwrap();
        let owners = Owners::superuser();
        let not_b = |path: &Path| path != Path::new("/a/b");
        for path in ["/a/b", "/a/b/..", "/link", "/a/../link"] {
            let error = walk(root.path(), path, &owners, &not_b).unwrap_err();
            assert_eq!(error.to_string(), "/a/b is not looked at", "{path}");
        }
        walk(root.path(), "/a", &owners, &not_b).unwrap();
    }

    #[test]
    fn who_is_not_trusted_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let mode = |path: &str, mode| fs::set_permissions(at(path), Permissions::from_mode(mode)).unwrap();
        fs::create_dir_all(at("a/b/c")).unwrap();
        let own = fs::metadata(at("a")).unwrap();
        let refused = |owners: &Owners| match walk(root.path(), "/a/b/c", owners, &|_| true) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let superuser = Owners::superuser();
        let invoker = Owners {
            users: vec![own.uid()],
            groups: vec![own.gid()],
        };
        for (bits, by_superuser, by_invoker) in [
            (0o755, "", ""),
            (0o775, "/a/b may be written by group", ""),
            (
                0o777,
                "/a/b may be written by everybody",
                "/a/b may be written by everybody",
            ),
            (0o1777, "", ""),
        ] {
            mode("a/b", bits);
            for (owners, expected) in [(&superuser, by_superuser), (&invoker, by_invoker)] {
                let found = refused(owners);
                assert!(
                    found.starts_with(expected) && found.is_empty() == expected.is_empty(),
                    "{bits:o}: {found}"
                );
            }
        }
        let nobody = Owners {
            users: vec![own.uid() + 1],
            groups: Vec::new(),
        };
        assert!(refused(&nobody).contains("may be written by user"));
    }
}
