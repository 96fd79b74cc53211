//! Drops rights that ebusy no longer needs: capabilities, system calls, writing (docs/security.md, "What ebusy gives
//! up"). If a kernel does not support a part, ebusy continues and says so.

mod calls;
mod capabilities;
mod filter;
mod folders;

use std::{
    os::fd::BorrowedFd,
    sync::{Mutex, PoisonError},
};

use anyhow::Result;
use landlock::LandlockStatus;
use rustix::thread::CapabilitySet;

pub(crate) use self::capabilities::none as no_capabilities;
use self::{
    calls::{OUTPUT, REPORT, START, TRACE},
    filter::{Threads, install},
};

/// The parts that are not in force, reported once.
static MISSING: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// The programs are loaded, and ebusy gets ready for the first event; `command`: it watches a command.
pub(crate) fn while_starting(command: bool) {
    settle("capabilities are not given up", capabilities::give_up(command));
    settle(NO_FILTER, install(START | TRACE | OUTPUT, Threads::All));
}

/// `watch` and `record` have started.
pub(crate) fn once_started() {
    settle(NO_FILTER, install(TRACE, Threads::All));
}

/// From now on `who` and `audit` look at things, and do nothing else; `output`: and give the file of `-o` its name.
pub(crate) fn while_looking(output: bool) {
    settle("capabilities are not given up", capabilities::give_up(false));
    let when = if output { TRACE | OUTPUT } else { TRACE };
    settle(NO_FILTER, install(when, Threads::All));
}

/// From now on ebusy only reads open files, and writes results; `output`: to a file in this folder.
pub(crate) fn while_reading(output: Option<Output<'_>>) {
    let folder: Vec<_> = output.iter().map(|output| output.folder).collect();
    write_only_below(&folder);
    let kept = match &output {
        // The folder belongs to another user: root needs these to write there.
        Some(output) if output.of_others => CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER,
        _ => CapabilitySet::empty(),
    };
    settle("capabilities are not given up", capabilities::keep(kept));
    let when = if output.is_some() { REPORT | OUTPUT } else { REPORT };
    settle(NO_FILTER, install(when, Threads::All));
}

/// The folder of a file that is being written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output<'f> {
    pub(crate) folder: BorrowedFd<'f>,
    /// The user of ebusy may not write there without capabilities.
    pub(crate) of_others: bool,
}

/// From now on this thread writes only to open files, and makes and removes files only in these folders, if the kernel
/// has Landlock.
pub(crate) fn write_only_below(folders: &[BorrowedFd<'_>]) {
    match folders::write_only_below(folders) {
        Ok(LandlockStatus::Available { .. }) => {}
        Ok(status) => log::debug!("{}", without_landlock(&status)),
        Err(error) => settle("Landlock is not in force", Err(error)),
    }
}

const NO_FILTER: &str = "the filter of system calls is not in force";

fn settle(what: &'static str, result: Result<()>) {
    let Err(error) = result else { return };
    let mut missing = MISSING.lock().unwrap_or_else(PoisonError::into_inner);
    if !missing.contains(&what) {
        missing.push(what);
        log::warn!("{what}: {error:#}; ebusy goes on, with more rights than it needs");
    }
}

fn without_landlock(status: &LandlockStatus) -> &'static str {
    match status {
        LandlockStatus::NotEnabled => "Landlock is not enabled",
        LandlockStatus::NotImplemented => "this kernel has no Landlock",
        LandlockStatus::Available { .. } => "Landlock",
    }
}

/// The report of `doctor`.
#[derive(Debug)]
pub(crate) struct Trial {
    /// All parts are available.
    pub(crate) whole: bool,
    pub(crate) found: String,
    /// How to enable the rest.
    pub(crate) mend: Option<&'static str>,
}

/// Tries it in a thread that ends afterwards.
pub(crate) fn trial() -> Trial {
    let tried = std::thread::Builder::new().spawn(|| {
        let landlock = folders::write_only_below(&[]);
        (landlock, install(TRACE, Threads::One))
    });
    let (landlock, filter) = match tried.map(std::thread::JoinHandle::join) {
        Ok(Ok(tried)) => tried,
        Ok(Err(_)) => (Err(anyhow::anyhow!("a thread panicked")), Ok(())),
        Err(error) => (Err(error.into()), Ok(())),
    };
    let (filtered, filter) = match filter {
        Ok(()) => (true, "a filter of system calls".to_owned()),
        Err(error) => (false, format!("no filter of system calls: {error:#}")),
    };
    let (locked, landlock) = match landlock {
        Ok(LandlockStatus::Available { effective_abi, .. }) => {
            (true, format!("Landlock {}", effective_abi as i32))
        }
        Ok(status) => (false, without_landlock(&status).to_owned()),
        Err(error) => (false, format!("no Landlock: {error:#}")),
    };
    Trial {
        whole: filtered && locked,
        found: format!("{filter}, {landlock}"),
        mend: if !filtered {
            Some(
                "use a kernel with CONFIG_SECCOMP_FILTER=y, and let no container's own filter forbid seccomp(2)",
            )
        } else if !locked {
            Some(
                "use a kernel with CONFIG_SECURITY_LANDLOCK=y, and landlock in lsm= of its command line (Linux 5.13 on)",
            )
        } else {
            None
        },
    }
}
