//! Innocents look like users of the mount but do not make its umount fail. Each stands beside one real holder. ebusy
//! blames only the holder, and the umount succeeds once that has released it, with the innocent still there.

use std::{
    any::Any,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Error},
    mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    ptr,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{Watch, who},
    expect::{Expectation, Expected},
    fanotify::Group,
    harness::{self, Verdict},
    holder::{Holding, PATIENCE, Skip, program},
    landlock,
    layered::{Bind, Layered},
    namespace::Namespace,
    process::Mapping,
    report::Holder,
    scratch::{FileSystem, Scratch},
};
use rustix::{
    fs::{CWD, MemfdFlags, Mode, OFlags, inotify, memfd_create, open, openat},
    mount::{FsPickFlags, OpenTreeFlags, UnmountFlags, fspick, mount_bind, open_tree, unmount},
};
use tempfile::TempDir;

use FileSystem::{Overlay, Tmpfs};

/// A process that does not block.
struct Case {
    name: &'static str,
    file_systems: &'static [FileSystem],
    take: fn(&Scratch) -> Result<Innocent>,
}

const fn case(name: &'static str, take: fn(&Scratch) -> Result<Innocent>) -> Case {
    Case {
        name,
        file_systems: &[Tmpfs, Overlay],
        take,
    }
}

/// The layers of an overlay may be on the target: only on a file system that can be an upper layer.
const fn layers(name: &'static str, take: fn(&Scratch) -> Result<Innocent>) -> Case {
    Case {
        file_systems: &[Tmpfs],
        ..case(name, take)
    }
}

const CASES: &[Case] = &[
    case("private_fd", |s| private(s, "hold-fd", "file")),
    case("private_fd_deleted", |s| private(s, "hold-fd-deleted", "upper")),
    case("private_fd_path", |s| private(s, "hold-fd-path", "file")),
    case("private_fd_directory", |s| private(s, "hold-fd-directory", ".")),
    case("private_mmap", |s| private(s, "hold-mmap", "file")),
    case("private_cwd", |s| private(s, "hold-cwd", "dir")),
    case("private_root", |s| private(s, "hold-root", ".")),
    case("private_exe", |s| {
        s.install(&program("hold-idle")?)?;
        private(s, "hold-exe", "hold-idle")
    }),
    case("private_stopped", |s| private(s, "hold-fd-stopped", "file")),
    case("private_child_mount", |s| {
        unseen("hold-child-mount", Namespace::Private, s.join("dir"))
    }),
    case("private_namespace_without_process", |s| {
        unseen("hold-namespace", Namespace::Same, s.join("file"))
    }),
    case("cwd_moved_to_private", |s| {
        Ok(bystander(Holding::start(
            "hold-cwd-moved",
            Namespace::Same,
            &[s.join("dir")],
        )?))
    }),
    case("same_path_in_another_namespace", |s| {
        unseen("hold-fd-on-top", Namespace::Private, s.join("."))
    }),
    case("idle_peer", |s| idle(s, Namespace::Shared)),
    case("idle_slave", |s| idle(s, Namespace::Slave)),
    case("idle_slave_of_a_slave", |s| idle(s, Namespace::Nested)),
    case("idle_user_namespace", |s| idle(s, Namespace::User)),
    case("cover_of_a_slave_copy", |s| {
        unseen("hold-fd-on-top", Namespace::Slave, s.join("."))
    }),
    case("detached_clone", detached_clone),
    case("detached_clone_with_a_file", detached_clone_with_a_file),
    case("former_mount", former_mount),
    case("bind_of_a_directory", |s| {
        Ok(Innocent::nothing(Bind::of(&s.join("dir"))?))
    }),
    case("bind_of_a_directory_with_a_file", |s| {
        let bind = Bind::of(&s.join("dir"))?;
        let file = File::open(bind.path().join("file"))?;
        Ok(Innocent::own(1, (file, bind)))
    }),
    case("second_mount_of_the_file_system", second_mount),
    case("file_system_context", |s| {
        Ok(Innocent::nothing(fspick(
            CWD,
            s.path(),
            FsPickFlags::FSPICK_CLOEXEC,
        )?))
    }),
    case("inotify", |s| {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, s.join("file"), inotify::WatchFlags::ALL_EVENTS)?;
        inotify::add_watch(&watch, s.path(), inotify::WatchFlags::ALL_EVENTS)?;
        Ok(Innocent::nothing(watch))
    }),
    case("fanotify_inode", |s| fanotify(&s.join("file"), 0)),
    case("fanotify_mount", |s| fanotify(s.path(), libc::FAN_MARK_MOUNT)),
    case("fanotify_file_system", |s| {
        fanotify(s.path(), libc::FAN_MARK_FILESYSTEM)
    }),
    case("landlock_rule", landlock),
    layers("overlay_lower_layer", |s| {
        Ok(Innocent::nothing(Layered::over(s, false)?))
    }),
    layers("overlay_upper_layer", |s| {
        Ok(Innocent::nothing(Layered::over(s, true)?))
    }),
    layers("file_of_the_lower_layer", |s| {
        let overlay = Layered::over(s, false)?;
        Ok(Innocent::own(
            0,
            (File::open(overlay.path().join("file"))?, overlay),
        ))
    }),
    layers("file_of_the_upper_layer", |s| {
        let overlay = Layered::over(s, true)?;
        Ok(Innocent::own(
            0,
            (File::create(overlay.path().join("new"))?, overlay),
        ))
    }),
    layers("mapping_of_the_lower_layer", |s| {
        let overlay = Layered::over(s, false)?;
        let mapping = Mapping::of(&File::open(overlay.path().join("file"))?, 0)?;
        Ok(Innocent::own(0, (Sendable(mapping), overlay)))
    }),
    case("pages_in_a_pipe", pages_in_a_pipe),
    case("zombie", |s| {
        unseen("hold-zombie", Namespace::Same, s.join("file"))
    }),
    case("unix_client", unix_client),
    case("closed_and_opened_elsewhere", closed_and_opened_elsewhere),
    case("closed_by_close_range", closed_twice),
    case("cwd_of_the_parent", |s| {
        unseen("hold-cwd", Namespace::Same, s.directory().to_owned())
    }),
    case("neighbour_of_the_same_prefix", |s| {
        let path = s.directory().join("target-2");
        fs::write(&path, "x")?;
        Ok(Innocent::nothing(File::open(path)?))
    }),
    case("directory_below_the_mount", |s| {
        let bind = Bind::of(s.directory())?;
        let file = File::open(bind.path().join("target"))?;
        Ok(Innocent::nothing((file, bind)))
    }),
    case("memory_file", |s| {
        let name = s.join("file").to_string_lossy().into_owned();
        Ok(Innocent::nothing(memfd_create(name, MemfdFlags::CLOEXEC)?))
    }),
    case("former_symbolic_link", |s| {
        let link = s.directory().join("link");
        std::os::unix::fs::symlink(s.join("file"), &link)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Innocent::nothing(open(link, flags, Mode::empty())?))
    }),
];

pub(crate) fn main() -> ExitCode {
    let mut tests = Vec::new();
    for case in CASES {
        for file_system in case.file_systems.iter().copied() {
            let name = format!("{}::{}", case.name, file_system.name());
            tests.push(harness::test(name, move || is_not_accused(case, file_system)));
        }
    }
    tests.push(harness::test("nothing_else", nothing_else));
    let status = harness::main(tests);
    // It is a static, which nobody drops.
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
    status
}

/// Objects that do not block, and the bystanders that ebusy must show beside the holders.
struct Innocent {
    keep: Box<dyn Any + Send>,
    bystanders: Vec<Expected>,
    /// Minimum number of bystander entries of this process.
    own: Option<usize>,
}

impl Innocent {
    fn nothing(keep: impl Any + Send) -> Self {
        Self {
            keep: Box::new(keep),
            bystanders: Vec::new(),
            own: None,
        }
    }

    /// This process uses the file system through another mount, and may be shown as a bystander.
    fn own(least: usize, keep: impl Any + Send) -> Self {
        Self {
            own: Some(least),
            ..Self::nothing(keep)
        }
    }

    /// Takes out the bystanders that are this process's; what is left is compared.
    fn without_own(&self, bystanders: &mut Vec<Holder>) -> Result<()> {
        let Some(least) = self.own else { return Ok(()) };
        let before = bystanders.len();
        let mut wrong = Vec::new();
        bystanders.retain(|holder| {
            let own = holder
                .process
                .as_ref()
                .is_some_and(|process| process.pid == std::process::id());
            if own && (holder.through != "private_copy" || holder.counted) {
                wrong.push(holder.clone());
            }
            !own
        });
        ensure!(wrong.is_empty(), "{wrong:#?}");
        ensure!(
            before - bystanders.len() >= least,
            "this process is missing: {bystanders:#?}"
        );
        Ok(())
    }
}

/// The watch, and the directory below which everything is mounted.
struct Shared {
    watch: Watch,
    parent: TempDir,
    /// Expected incidents.
    incidents: usize,
}

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

fn shared<T>(run: impl FnOnce(&mut Shared) -> Result<T>) -> Result<T> {
    let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        let parent = tempfile::Builder::new().prefix("ebusy-innocents-").tempdir()?;
        let watch = Watch::targets(&[parent.path().join("*/target")])?;
        *guard = Some(Shared {
            watch,
            parent,
            incidents: 0,
        });
    }
    run(guard.as_mut().context("it has just been started")?)
}

fn is_not_accused(case: &Case, file_system: FileSystem) -> Result<Verdict> {
    let scratch = shared(|shared| Scratch::within(shared.parent.path(), OsStr::new("target"), file_system))?;
    let innocent = (case.take)(&scratch)?;
    let holder = Holding::start("hold-fd", Namespace::Same, &[scratch.join("second")])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    shared(|shared| {
        shared.incidents += 1;
        Ok(())
    })?;
    let (code, mut answers) = who(scratch.path())?;
    harness::settle()?;
    let expectation = Expectation {
        bystanders: innocent.bystanders.clone(),
        ..Expectation::released(&scratch, vec![Expected::on_target(&holder)])
    };
    holder.release()?;
    ensure!(scratch.umount()?, "refused because of the innocent");
    let mut incident = shared(|shared| shared.watch.wait_for_incident(scratch.path(), PATIENCE))?;
    for answer in &mut answers {
        innocent.without_own(&mut answer.bystanders).context("who")?;
    }
    innocent.without_own(&mut incident.bystanders)?;
    expectation.check(&incident)?;
    expectation.check_who(code, &answers).context("who")?;
    drop(innocent.keep);
    Ok(Verdict::Passed)
}

/// Asserts that ebusy reported exactly the expected incidents.
fn nothing_else() -> Result<Verdict> {
    let Some(shared) = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return Ok(Verdict::Passed);
    };
    let (incidents, _) = shared.watch.finish()?;
    let paths: Vec<_> = incidents.iter().map(|incident| &incident.target.path).collect();
    ensure!(
        incidents.len() == shared.incidents,
        "{} expected: {paths:#?}",
        shared.incidents
    );
    Ok(Verdict::Passed)
}

/// It uses a copy of the mount that the umount does not look at.
fn bystander(holding: Holding) -> Innocent {
    Innocent {
        bystanders: vec![Expected::bystander(&holding)],
        ..Innocent::nothing(holding)
    }
}

fn private(scratch: &Scratch, program: &str, path: &str) -> Result<Innocent> {
    Ok(bystander(Holding::start(
        program,
        Namespace::Private,
        &[scratch.join(path)],
    )?))
}

/// It uses nothing of the file system at all.
fn unseen(program: &str, namespace: Namespace, path: PathBuf) -> Result<Innocent> {
    Ok(Innocent::nothing(Holding::start(program, namespace, &[path])?))
}

/// A copy that nobody uses: the process in its namespace has a file of the parent open.
fn idle(scratch: &Scratch, namespace: Namespace) -> Result<Innocent> {
    let file = scratch.directory().join("elsewhere");
    fs::write(&file, "x")?;
    unseen("hold-fd", namespace, file)
}

fn clone_of(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

fn detached_clone(scratch: &Scratch) -> Result<Innocent> {
    Ok(Innocent::own(1, clone_of(scratch.path())?))
}

fn detached_clone_with_a_file(scratch: &Scratch) -> Result<Innocent> {
    let clone = clone_of(scratch.path())?;
    let file = openat(&clone, "file", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Innocent::own(2, (file, clone)))
}

/// A mount that was in the same place before, and was detached with a file open on it.
fn former_mount(scratch: &Scratch) -> Result<Innocent> {
    mount_bind(scratch.path(), scratch.path())?;
    let file = File::open(scratch.join("file"))?;
    unmount(scratch.path(), UnmountFlags::DETACH)?;
    Ok(Innocent::own(1, file))
}

/// The whole file system, a second time: same device number, same inodes.
fn second_mount(scratch: &Scratch) -> Result<Innocent> {
    let bind = Bind::of(scratch.path())?;
    let mut holding = Holding::start("hold-cwd", Namespace::Same, &[bind.path().join("dir")])?;
    holding.claimed.paths = vec![scratch.join("dir")];
    Ok(Innocent {
        bystanders: vec![Expected::bystander(&holding)],
        ..Innocent::nothing((holding, bind))
    })
}

/// A mapping that is dropped with the case, on any thread.
struct Sendable(#[expect(dead_code, reason = "it is there to be dropped")] Mapping);

// SAFETY: the address is that of the process, not of a thread.
unsafe impl Send for Sendable {}

/// A mark, and no event.
fn fanotify(path: &Path, scope: u32) -> Result<Innocent> {
    let group = Group::marking(path, libc::FAN_CLASS_NOTIF, scope, libc::FAN_MODIFY)?;
    Ok(Innocent::nothing(group.context("no fanotify")?))
}

/// A rule on a directory of the mount, in a set that restricts nobody.
fn landlock(scratch: &Scratch) -> Result<Innocent> {
    let directory = open(scratch.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let Some(rules) = landlock::rules_on(directory.as_fd()).context("landlock")? else {
        let skip = "this kernel has no landlock".to_owned();
        return Err(Skip { skip }.into());
    };
    Ok(Innocent::nothing(rules))
}

/// Pages of a file, not its description.
fn pages_in_a_pipe(scratch: &Scratch) -> Result<Innocent> {
    let (reader, writer) = io::pipe()?;
    let file = File::open(scratch.join("file"))?;
    // SAFETY: null pointers mean the descriptors' own positions.
    let moved = unsafe {
        libc::splice(
            file.as_raw_fd(),
            ptr::null_mut(),
            writer.as_raw_fd(),
            ptr::null_mut(),
            4096,
            0,
        )
    };
    ensure!(moved > 0, "splice: {}", Error::last_os_error());
    drop(file);
    Ok(Innocent::nothing((reader, writer)))
}

/// The end that connected; the ends that have the path are closed.
fn unix_client(scratch: &Scratch) -> Result<Innocent> {
    let path = scratch.join("socket");
    let listener = UnixListener::bind(&path)?;
    let client = UnixStream::connect(&path)?;
    drop(listener.accept()?);
    drop(listener);
    Ok(Innocent::nothing(client))
}

/// This process reuses the number of a descriptor for another file.
fn closed_and_opened_elsewhere(scratch: &Scratch) -> Result<Innocent> {
    let file = File::open(scratch.join("file"))?;
    let number = file.as_raw_fd();
    let elsewhere = scratch.directory().join("file");
    fs::write(&elsewhere, "x")?;
    let replacement = File::open(elsewhere)?;
    // SAFETY: both are open; `file` stays the owner of the number.
    let copied = unsafe { libc::dup2(replacement.as_raw_fd(), number) };
    ensure!(copied == number, "dup2");
    Ok(Innocent::nothing(file))
}

/// Opened many times, and closed by another call than close(2).
fn closed_twice(scratch: &Scratch) -> Result<Innocent> {
    for _ in 0..50 {
        let file = File::open(scratch.join("file"))?;
        let copy = file.as_fd().try_clone_to_owned()?;
        let number = copy.as_raw_fd() as libc::c_uint;
        mem::forget(copy);
        // SAFETY: it closes the one descriptor that was given up above.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, number, number, 0) };
        ensure!(closed == 0, "close_range");
    }
    Ok(Innocent::nothing(()))
}
