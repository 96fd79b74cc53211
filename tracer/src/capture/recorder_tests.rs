//! Recording into a folder: rotation, limits, what a new segment repeats.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Destination, Folder, Header, Limits, Reader, Recorder};
use crate::{
    identity::{BootClock, boot_nanos},
    model::{Holder, Outcome, Process, Target, Tier},
    probe::Losses,
    report::Analysis,
    stream::{Closed, Detached, Freed, Gone, Lost, MountKey, Record, Start, Umount},
};

fn start() -> Start {
    Start {
        version: "1".to_owned(),
        kernel: "6.12".to_owned(),
        tier: Tier::Fentry,
        clock: BootClock::sample(),
        history: true,
        run: Some(super::run_name()),
    }
}

fn recorder(folder: &Path, limits: Limits) -> Recorder {
    let mut folder = Folder::open(folder).unwrap();
    folder.take_over().unwrap();
    let destination = Destination {
        folder,
        limits,
        optional: false,
    };
    Recorder::start(destination, Header::here(start())).unwrap()
}

fn closed(time: u64) -> Record {
    // Numbers that do not compress well.
    let file = time.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Record::Closed(Closed { time, file })
}

fn refused(mount: u64, returned: u64) -> Record {
    Record::Umount(Box::new(Umount {
        source: 0,
        entered: returned - 1,
        checked: None,
        returned,
        ret: -16,
        flags: 0,
        caller: Process::default(),
        passed: None,
        mount: Some(key(mount)),
        target: Target::default(),
        shown: true,
        remount: false,
        busy_check: None,
        compared: None,
    }))
}

fn key(address: u64) -> MountKey {
    MountKey {
        address,
        id: 1,
        unique: None,
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "zst"))
        .collect();
    found.sort();
    found
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

fn names(path: &Path) -> Vec<&'static str> {
    Reader::open(path)
        .unwrap()
        .map(|record| record.unwrap().name())
        .collect()
}

#[test]
fn a_folder_is_never_over_its_limit_and_what_is_left_has_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits::new(1 << 20, None);
    let mut recorder = recorder(folder.path(), limits);
    let mut pushed = 0;
    for _ in 0..40 {
        for _ in 0..5000 {
            pushed += 1;
            recorder.push(&closed(pushed), false);
        }
        while recorder.standing().records + recorder.standing().not_written + 10_000 < pushed {
            assert!(size(folder.path()) <= limits.max_size);
        }
    }
    recorder.close();
    let standing = recorder.standing();
    assert!(size(folder.path()) <= limits.max_size, "{standing:?}");
    assert!(size(folder.path()) * 2 > limits.max_size, "{standing:?}");
    assert_eq!((standing.records, standing.not_written), (pushed, 0));
    assert!(standing.removed > 0 && standing.segments > 2, "{standing:?}");
    let mut reader = Reader::open(folder.path()).unwrap();
    let first = reader.header().first_record;
    assert!(first > 0);
    let times: Vec<u64> = reader
        .by_ref()
        .filter_map(|record| record.unwrap().time())
        .collect();
    assert!(times.into_iter().eq(first + 1..=pushed));
    assert_eq!(reader.notes().lines(), [""; 0]);
}

#[test]
fn a_new_segment_repeats_what_is_open_and_who_read_the_old_one_does_not_see_it_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut recorder = recorder(folder.path(), Limits::new(1 << 20, None));
    let now = boot_nanos();
    let mut losses = Losses::default();
    losses.add("open: event ring full", 3);
    recorder.push(&Record::Start(start()), true);
    for record in [
        refused(1, now),
        refused(1, now + 1),
        refused(1, now + 2),
        refused(2, now + 3),
        Record::Gone(Gone {
            mount: key(2),
            time: now + 4,
        }),
        Record::Lost(Lost {
            noise: Vec::new(),
            time: now + 5,
            losses,
        }),
    ] {
        recorder.push(&record, false);
    }
    recorder.reopen();
    while recorder.standing().segments < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    recorder.push(&closed(now + 6), false);
    recorder.close();
    let all = [
        "start", "umount", "umount", "umount", "umount", "gone", "lost", "closed",
    ];
    assert_eq!(names(folder.path()), all);
    let [first, second] = <[PathBuf; 2]>::try_from(segments(folder.path())).unwrap();
    assert_eq!(names(&second), ["start", "umount", "umount", "lost", "closed"]);
    fs::remove_file(first).unwrap();
    assert_eq!(
        names(folder.path()),
        ["start", "umount", "umount", "lost", "closed"]
    );
}

fn detached(cause: u64, detached: u64, looked: u64, pids: &[u32]) -> Record {
    let holder = |pid: &u32| Holder {
        refs: 1,
        process: Some(Process {
            pid: *pid,
            ..Process::default()
        }),
        ..Holder::default()
    };
    Record::Detached(Box::new(Detached {
        source: 0,
        cause,
        mount: key(cause),
        detached,
        caller: Process::default(),
        target: Target::default(),
        holders: pids.iter().map(holder).collect(),
        counted: Some(1),
        looked,
        gaps: Vec::new(),
        objects: Vec::new(),
        ledger: Vec::new(),
    }))
}

#[test]
fn a_mount_that_was_detached_before_the_first_segment_that_is_left_is_still_told() {
    const S: u64 = 1_000_000_000;
    let folder = tempfile::tempdir().unwrap();
    let mut recorder = recorder(folder.path(), Limits::new(1 << 20, None));
    // Longer ago than any refused umount is waited for.
    let then = boot_nanos().saturating_sub(3600 * S);
    for record in [
        detached(1, then, then, &[7]),
        detached(1, then, then + S, &[8]),
        detached(1, then, then + 2 * S, &[]),
        detached(2, then, then + 3 * S, &[9]),
        detached(3, then, then + 4 * S, &[5]),
        Record::Freed(Freed {
            cause: 3,
            time: then + 5 * S,
        }),
    ] {
        recorder.push(&record, false);
    }
    recorder.reopen();
    while recorder.standing().segments < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = then + 3600 * S;
    for record in [
        Record::Tick { time: now },
        Record::Freed(Freed {
            cause: 1,
            time: now + S,
        }),
        Record::End { time: now + 2 * S },
    ] {
        recorder.push(&record, false);
    }
    recorder.close();
    let outcomes = || {
        let mut analysis = Analysis::default();
        let mut findings = Vec::new();
        for record in Reader::open(folder.path()).unwrap() {
            findings.extend(analysis.push(record.unwrap()));
        }
        findings.extend(analysis.finish());
        let clock = analysis.clock().unwrap();
        let told = findings.iter().map(|finding| {
            let incident = &finding.incident;
            let pids: Vec<u32> = incident
                .holders
                .iter()
                .filter_map(|holder| Some(holder.process.as_ref()?.pid))
                .collect();
            let boot = clock.timestamp(then);
            assert_eq!(incident.started, boot);
            (incident.outcome, pids)
        });
        told.collect::<Vec<_>>()
    };
    let wanted = [
        (Some(Outcome::Released), vec![8]),
        (Some(Outcome::StillBusy), vec![9]),
    ];
    // The third one was gone before it was told, or before the segment.
    let whole = outcomes();
    let [first, second] = <[PathBuf; 2]>::try_from(segments(folder.path())).unwrap();
    assert_eq!(
        names(&second),
        [
            "start", "detached", "detached", "detached", "tick", "freed", "end"
        ]
    );
    fs::remove_file(first).unwrap();
    assert_eq!(outcomes(), wanted);
    assert_eq!(whole, wanted);
}

#[test]
fn files_are_for_their_owner_alone_and_a_second_recorder_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("capture");
    let mut first = recorder(&folder, Limits::new(1 << 20, None));
    let refused = format!("{:#}", Folder::open(&folder).unwrap_err());
    assert!(
        refused.contains(&format!("pid {}", std::process::id())),
        "{refused}"
    );
    first.push(&closed(1), false);
    first.close();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in segments(&folder) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(first);
    // The next run goes on with the numbers.
    let second = recorder(&folder, Limits::new(1 << 20, None));
    drop(second);
    assert_eq!(segments(&folder).len(), 2);
    let mut reader = Reader::open(&folder).unwrap();
    assert!(reader.by_ref().all(|record| record.is_ok()));
    assert_eq!((reader.notes().runs, reader.notes().segments), (2, 2));
    assert_eq!(reader.notes().lines(), [""; 0]);
}

#[test]
fn what_is_discarded_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("capture");
    let mut recorder = recorder(&folder, Limits::new(1 << 20, None));
    recorder.push(&closed(1), false);
    recorder.discard();
    assert!(!folder.exists());
}

#[test]
fn segments_that_are_too_old_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = recorder(folder.path(), Limits::new(1 << 20, None));
    first.push(&closed(1), false);
    drop(first);
    let limits = Limits {
        max_age: Some(Duration::from_millis(1)),
        ..Limits::new(1 << 20, None)
    };
    let mut second = recorder(folder.path(), limits);
    second.push(&closed(1), false);
    second.close();
    let left = segments(folder.path());
    assert!(
        left.iter()
            .all(|path| !path.to_string_lossy().contains("ebusy-00000001-")),
        "{left:?}"
    );
}

#[test]
fn of_quiet_ticks_in_a_row_the_last_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let mut recorder = recorder(folder.path(), Limits::new(1 << 20, None));
    let second = 1_000_000_000;
    for time in 1..=25 {
        recorder.push(&Record::Tick { time: time * second }, true);
    }
    recorder.push(&closed(26 * second), true);
    for time in 27..30 {
        recorder.push(&Record::Tick { time: time * second }, false);
    }
    recorder.close();
    let times: Vec<u64> = Reader::open(folder.path())
        .unwrap()
        .filter_map(|record| record.unwrap().time())
        .map(|time| time / second)
        .collect();
    assert_eq!(times, [1, 11, 21, 25, 26, 27, 28, 29]);
}
