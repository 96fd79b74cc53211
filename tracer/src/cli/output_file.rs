//! The file of `-o`. It names processes and paths of other users, and is made by root in places that others may write:
//! so it is a new one that only its owner can read, made beside its place and then moved there. No link is followed,
//! nothing is opened that is there already, and what was there stays whole until all of the new one is written.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, fstat, openat, renameat, renameat_with,
        statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use crate::{capture, confine, render::escape};

/// Names that are tried for a file that is no other's.
const TRIES: usize = 16;

/// Files that are in use, and must not be replaced by results, nor become longer by them while they are read.
#[derive(Debug)]
pub(super) struct InUse {
    standard: Vec<(u64, u64)>,
    read: Vec<(u64, u64)>,
}

impl InUse {
    /// What stdin, stdout and stderr are.
    pub(super) fn standard() -> Self {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let regular = |descriptor: BorrowedFd<'_>| {
            let stat = fstat(descriptor).ok()?;
            is_regular(&stat).then(|| identity(&stat))
        };
        let read: Vec<_> = regular(stdin.as_fd()).into_iter().collect();
        let written = [regular(stdout.as_fd()), regular(stderr.as_fd())];
        Self {
            standard: written.into_iter().flatten().collect(),
            read,
        }
    }

    /// With what is read besides.
    pub(super) fn reading(mut self, path: &Path) -> Self {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        self.read
            .extend(metadata.map(|metadata| (metadata.dev(), metadata.ino())));
        self
    }

    /// Whether what is written to stdout is read again.
    pub(super) fn reads_stdout(&self) -> bool {
        let stat = fstat(io::stdout().as_fd());
        stat.is_ok_and(|stat| is_regular(&stat) && self.read.contains(&identity(&stat)))
    }

    fn has(&self, stat: &Stat) -> bool {
        let of = identity(stat);
        self.read.contains(&of) || self.standard.contains(&of)
    }
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// A file that is written, and not yet in its place.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: File,
    directory: OwnedFd,
    /// Its own name, until it has that which was asked for.
    temporary: Option<String>,
    name: PathBuf,
    shown: String,
    /// There was a file of that name.
    replaces: bool,
}

impl OutputFile {
    pub(super) fn create(path: &Path, in_use: &InUse) -> Result<Self> {
        let shown = escape(path.as_os_str().as_bytes());
        let name = path
            .file_name()
            .with_context(|| format!("-o {shown} is a folder; give a file"))?;
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty())
            .with_context(|| format!("-o {shown}: the folder {}", escape(parent.as_os_str().as_bytes())))?;
        ensure!(
            !capture::is_segment_name(name.as_bytes()),
            "-o {shown}: that is the name of a part of a capture; give another one"
        );
        let replaces = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error).with_context(|| format!("-o {shown}")),
            Ok(stat) => {
                replaceable(&directory, Path::new(name), &stat, in_use)
                    .with_context(|| format!("-o {shown}"))?;
                true
            }
        };
        let (file, temporary) = new(&directory).with_context(|| format!("making a file for -o {shown}"))?;
        Ok(Self {
            file,
            directory,
            temporary: Some(temporary),
            name: name.into(),
            shown,
            replaces,
        })
    }

    /// Gives it its name; nothing if it has it.
    pub(super) fn place(&mut self) -> Result<()> {
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        let (directory, name) = (&self.directory, &self.name);
        let placed = if self.replaces {
            renameat(directory, temporary, directory, name)
        } else {
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(directory, temporary, directory, name, flags) {
                // Not every file system knows how.
                Err(Errno::INVAL | Errno::NOSYS) => renameat(directory, temporary, directory, name),
                placed => placed,
            }
        };
        placed.with_context(|| format!("giving -o {} its name", self.shown))?;
        self.temporary = None;
        Ok(())
    }

    /// All is written: on the disk, too, which may only find out then that it is full.
    pub(super) fn finish(mut self) -> Result<()> {
        match rustix::fs::fdatasync(&self.file) {
            // Not every file system can.
            Ok(()) | Err(Errno::INVAL | Errno::ROFS) => {}
            Err(error) => return Err(error).with_context(|| format!("writing -o {}", self.shown)),
        }
        self.place()
    }

    /// What it takes to give it its name.
    pub(super) fn place_of(&self) -> confine::Output<'_> {
        let ours = fstat(&self.directory).is_ok_and(|stat| stat.st_uid == geteuid().as_raw());
        confine::Output {
            folder: self.directory.as_fd(),
            of_others: !ours,
        }
    }

    /// Its name, for people.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The file alone, once it has its name.
    pub(super) fn into_file(mut self) -> Result<File> {
        self.place()?;
        self.file.try_clone().context("copying a descriptor")
    }
}

impl AsFd for OutputFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(&self.directory, temporary, AtFlags::empty());
        }
    }
}

fn new(directory: &OwnedFd) -> io::Result<(File, String)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".ebusy-{:016x}", u64::from_ne_bytes(random));
        match openat(directory, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok((file.into(), name)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Whether results may take the place of what is there.
fn replaceable(directory: &OwnedFd, name: &Path, stat: &Stat, in_use: &InUse) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => {
            bail!("this is a symbolic link, which ebusy does not follow; give the file itself")
        }
        FileType::Directory => bail!("this is a folder; give a file"),
        _ => bail!(
            "this is not a file but a device, FIFO or socket; leave out -o, and redirect stdout with > there"
        ),
    }
    ensure!(
        !in_use.has(stat),
        "this file is in use by this very command; give another one"
    );
    // It may have been replaced meanwhile by what must not be opened, or be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // Who may not read it cannot be told what it is; the folder is theirs.
        Err(Errno::ACCESS | Errno::PERM) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    ensure!(
        !capture::is_part(&file),
        "this is a part of a capture; give another name"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write as _,
        os::unix::fs::{MetadataExt as _, symlink},
        path::Path,
    };

    use super::{InUse, OutputFile};

    fn write(path: &Path) -> anyhow::Result<()> {
        let mut file = OutputFile::create(path, &InUse::standard())?;
        file.file.write_all(b"new")?;
        file.finish()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        fs::hard_link(&path, folder.path().join("other")).unwrap();
        drop(OutputFile::create(&path, &InUse::standard()).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(folder.path().join("other")).unwrap(), b"old");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        write(&folder.path().join("fresh")).unwrap();
        assert_eq!(names(folder.path()), ["fresh", "other", "out"]);
    }

    #[test]
    fn links_fifos_folders_and_devices_are_refused_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "old").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let before = names(folder.path());
        for (name, why) in [
            ("link", "symbolic link"),
            ("dangling", "symbolic link"),
            ("folder", "a folder"),
            ("fifo", "FIFO"),
            ("ebusy-00000001-x.zst", "part of a capture"),
        ] {
            let error = format!("{:#}", write(&at(name)).unwrap_err());
            assert!(error.contains(why), "{name}: {error}");
        }
        assert!(format!("{:#}", write(Path::new("/dev/null")).unwrap_err()).contains("> there"));
        assert_eq!(names(folder.path()), before);
        assert_eq!(fs::read(at("victim")).unwrap(), b"old");
    }

    #[test]
    fn what_is_read_is_not_replaced_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (log, link) = (folder.path().join("log"), folder.path().join("hard"));
        fs::write(&log, "lines").unwrap();
        fs::hard_link(&log, &link).unwrap();
        let in_use = InUse::standard().reading(&log);
        for path in [&log, &link] {
            let error = format!("{:#}", OutputFile::create(path, &in_use).unwrap_err());
            assert!(error.contains("in use"), "{error}");
        }
    }

    #[test]
    fn a_capture_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let capture = crate::capture::Folder::open(&folder.path().join("capture")).unwrap();
        let lock = capture.path().join("lock");
        let error = format!("{:#}", write(&lock).unwrap_err());
        assert!(error.contains("part of a capture"), "{error}");
    }
}
