//! Restricts where a thread may write (landlock(7)), thread by thread: the main loop of a run that looks at processes
//! is not restricted, as Landlock also hides the namespaces and stacks of other processes in /proc.

use std::os::fd::BorrowedFd;

use anyhow::{Context as _, Result};
use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, LandlockStatus, PathBeneath, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _,
};

/// The known version: an older kernel restricts less.
const KNOWN: ABI = ABI::V5;

/// This thread, and those that it starts, may write to open files, and make and remove files in these folders only.
/// Returns the kernel's support for that.
pub(super) fn write_only_below(folders: &[BorrowedFd<'_>]) -> Result<LandlockStatus> {
    let writing = AccessFs::from_write(KNOWN);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writing)?
        .create()
        .context("making a Landlock ruleset")?;
    for folder in folders {
        rules = rules.add_rule(PathBeneath::new(folder, writing))?;
    }
    Ok(rules.restrict_self()?.landlock)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write as _,
        os::fd::AsFd as _,
        thread,
    };

    use landlock::LandlockStatus;

    use super::write_only_below;

    #[test]
    fn a_thread_writes_in_its_folder_and_nowhere_else() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for folder in ["ours", "theirs"] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("old"), "old").unwrap();
        }
        let folder = File::open(at("ours")).unwrap();
        let mut open = File::create(at("theirs/open")).unwrap();
        thread::scope(|scope| {
            let confined = scope.spawn(|| {
                if !matches!(
                    write_only_below(&[folder.as_fd()]).unwrap(),
                    LandlockStatus::Available { .. }
                ) {
                    return;
                }
                fs::write(at("ours/new"), "new").unwrap();
                fs::rename(at("ours/new"), at("ours/old")).unwrap();
                fs::remove_file(at("ours/old")).unwrap();
                assert!(fs::write(at("theirs/new"), "new").is_err());
                assert!(fs::write(at("theirs/old"), "new").is_err());
                assert!(fs::remove_file(at("theirs/old")).is_err());
                assert!(fs::rename(at("theirs/old"), at("ours/x")).is_err());
                assert!(fs::create_dir(at("theirs/folder")).is_err());
                // Files opened before stay usable, and reading is not restricted.
                open.write_all(b"new").unwrap();
                assert_eq!(fs::read(at("theirs/old")).unwrap(), b"old");
            });
            confined.join().unwrap();
        });
        fs::write(at("theirs/old"), "this thread is not confined").unwrap();
    }
}
