//! What is written is read again, and what is damaged costs itself alone.

use std::{fs, path::Path};

use super::{Anchor, CaptureError, Header, Reader, Writer, format::BLOCK_HEADER};
use crate::{
    identity::BootClock,
    incident::replay,
    model::Tier,
    stream::{Closed, Record, Start},
};

fn start(run: &str) -> Start {
    Start {
        version: "1".to_owned(),
        kernel: "6.12".to_owned(),
        tier: Tier::Fentry,
        clock: BootClock::sample(),
        history: true,
        run: Some(run.to_owned()),
    }
}

fn closed(time: u64) -> Record {
    Record::Closed(Closed { time, file: time })
}

/// A segment with these records, each in a block of its own.
fn segment(run: &str, number: u64, times: std::ops::Range<u64>) -> Vec<u8> {
    let header = Header {
        segment: number,
        first_record: times.start - 1,
        ..Header::here(start(run))
    };
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    for time in times {
        writer.push(&closed(time)).unwrap();
        writer.flush().unwrap();
    }
    writer.finish().unwrap()
}

fn write(folder: &Path, number: u64, bytes: &[u8]) {
    fs::write(folder.join(format!("ebusy-{number:08}.zst")), bytes).unwrap();
}

/// What was read: times of closes, `0` for a start, `-n` for `n` in all that are missing; and the errors.
fn read(reader: &mut Reader) -> (Vec<i64>, Vec<String>) {
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    for item in reader {
        match item {
            Ok(Record::Start(_)) => records.push(0),
            Ok(Record::Closed(closed)) => records.push(closed.time as i64),
            Ok(Record::Lost(lost)) => records.push(-(lost.losses.of_history() as i64)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => errors.push(error.to_string()),
        }
    }
    (records, errors)
}

fn read_file(bytes: &[u8]) -> (Vec<i64>, Vec<String>, super::Notes) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1, bytes);
    let mut reader = Reader::open(&folder.path().join("ebusy-00000001.zst")).unwrap();
    let (records, errors) = read(&mut reader);
    (records, errors, reader.notes().clone())
}

/// Where the blocks begin.
fn blocks(bytes: &[u8]) -> Vec<usize> {
    let marker = super::format::MARKER;
    (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(&marker))
        .collect()
}

#[test]
fn what_is_written_is_read() {
    let bytes = segment("a", 1, 1..5);
    let (records, errors, notes) = read_file(&bytes);
    assert_eq!(records, [0, 1, 2, 3, 4]);
    assert_eq!(errors, [""; 0]);
    assert_eq!(notes.lines(), [""; 0]);
    assert_eq!((notes.segments, notes.runs), (1, 1));
}

#[test]
fn a_step_of_the_wall_clock_is_told_and_moves_no_time() {
    const S: i64 = 1_000_000_000;
    let folder = tempfile::tempdir().unwrap();
    let clock = BootClock {
        offset_nanos: 1_795_000_000 * S,
    };
    // Times of day by which the wall clock is ahead of the clock that the run began with; less than a step is none.
    for (number, ahead) in [(1, 0), (2, S / 10), (3, 3600 * S), (4, -2 * S), (5, -2 * S)] {
        let boot_nanos = number * 10 * S as u64;
        let header = Header {
            segment: number,
            first_record: number - 1,
            clock: Some(Anchor {
                boot_nanos,
                realtime_nanos: clock.timestamp(boot_nanos).as_nanos() + ahead,
            }),
            ..Header::here(Start { clock, ..start("a") })
        };
        let mut writer = Writer::new(Vec::new(), &header).unwrap();
        writer.push(&closed(boot_nanos)).unwrap();
        write(folder.path(), number, &writer.finish().unwrap());
    }
    let mut reader = Reader::open(folder.path()).unwrap();
    let (records, errors) = read(&mut reader);
    assert_eq!(records, [0, 10 * S, 20 * S, 30 * S, 40 * S, 50 * S]);
    assert_eq!(errors, [""; 0]);
    let steps: Vec<i64> = reader.notes().steps.iter().map(|step| step.nanos).collect();
    assert_eq!(steps, [3600 * S, -3602 * S]);
    let lines = reader.notes().lines();
    assert!(
        lines.len() == 2 && lines[0].contains("stepped by +3600.000 s"),
        "{lines:?}"
    );
    // Who has only what came later is told the same in one.
    for number in 1..4 {
        fs::remove_file(folder.path().join(format!("ebusy-{number:08}.zst"))).unwrap();
    }
    let mut reader = Reader::open(folder.path()).unwrap();
    read(&mut reader);
    let steps: Vec<i64> = reader.notes().steps.iter().map(|step| step.nanos).collect();
    assert_eq!(steps, [-2 * S]);
}

#[test]
fn a_segment_is_a_file_of_zstd() {
    let bytes = segment("a", 1, 1..5);
    let lines = zstd::stream::decode_all(&bytes[..]).unwrap();
    assert_eq!(
        lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count(),
        4
    );
}

#[test]
fn a_flipped_bit_costs_its_block_and_is_told_with_the_place() {
    let bytes = segment("a", 1, 1..6);
    let blocks = blocks(&bytes);
    // In the header and in the frame of the third block.
    for at in [blocks[2], blocks[2] + 20, blocks[2] + BLOCK_HEADER + 3] {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        let (records, errors, notes) = read_file(&bad);
        assert_eq!(records, [0, 1, 2, -1, 4, 5], "{at}");
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains(&format!("byte {}", blocks[2])), "{errors:?}");
        assert!(errors[0].contains("1 records lost"), "{errors:?}");
        assert_eq!((notes.damaged, notes.lost_records), (1, 1));
    }
}

#[test]
fn whatever_is_flipped_or_cut_the_rest_reads_and_nothing_is_made_up() {
    let bytes = segment("a", 1, 1..6);
    let first = blocks(&bytes)[0];
    for at in first..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0xff;
        let (records, ..) = read_file(&bad);
        let whole = records.iter().filter(|record| **record > 0).count();
        assert!(whole >= 4, "{at}: {records:?}");
        let (records, errors, notes) = read_file(&bytes[..at]);
        let whole = blocks(&bytes)
            .iter()
            .skip(1)
            .filter(|next| **next <= at)
            .count()
            .min(5);
        assert_eq!(records.len(), whole + 1, "{at}");
        assert_eq!(errors, [""; 0]);
        assert_eq!(notes.unclosed.len(), 1);
        assert_eq!(
            notes.torn.len(),
            usize::from(!blocks(&bytes).contains(&at)),
            "{at}"
        );
    }
}

#[test]
fn zeros_at_the_end_are_a_block_that_never_came_to_the_disk() {
    let mut bytes = segment("a", 1, 1..3);
    let end = blocks(&bytes)[2];
    bytes.truncate(end);
    bytes.resize(end + 5000, 0);
    let (records, errors, notes) = read_file(&bytes);
    assert_eq!((records, errors), (vec![0, 1, 2], vec![]));
    assert_eq!((notes.torn.len(), notes.torn[0].bytes), (1, 5000));
}

#[test]
fn garbage_between_blocks_is_passed_over() {
    let bytes = segment("a", 1, 1..4);
    let at = blocks(&bytes)[1];
    let bad = [&bytes[..at], &vec![7; 200_000], &bytes[at..]].concat();
    let (records, errors, _) = read_file(&bad);
    assert_eq!(records, [0, 1, 2, 3]);
    assert!(
        errors[0].contains("200000 bytes skipped, 0 records lost"),
        "{errors:?}"
    );
}

#[test]
fn files_that_are_no_capture_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let whole = segment("a", 1, 1..3);
    let file = folder.path().join("x");
    let error = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Reader::open(&file).unwrap_err()
    };
    assert!(matches!(error(b""), CaptureError::Empty { .. }));
    assert!(matches!(error(b"\x7fELF\0\0"), CaptureError::Foreign { .. }));
    assert!(matches!(error(b"{\"a\":1}\n"), CaptureError::Start { .. }));
    assert!(matches!(
        error(&whole[..7]),
        CaptureError::Truncated { offset: 7, .. }
    ));
    assert!(matches!(
        error(&whole[..100]),
        CaptureError::Truncated { offset: 100, .. }
    ));
    let mut future = whole.clone();
    future[16] = 200;
    assert!(matches!(
        error(&future),
        CaptureError::Version { version: 200, .. }
    ));
    let mut bad = whole.clone();
    bad[30] ^= 1;
    assert!(matches!(error(&bad), CaptureError::Header { offset: 24, .. }));
    let mut long = whole;
    long[7] = 0xff;
    assert!(matches!(error(&long), CaptureError::Header { offset: 4, .. }));
    assert!(matches!(
        Reader::open(&folder.path().join("none")),
        Err(CaptureError::Read { .. })
    ));
    assert!(matches!(
        Reader::open(folder.path()),
        Err(CaptureError::NoSegments { .. })
    ));
}

#[test]
fn a_folder_is_read_in_order_with_its_gaps() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 9, &segment("a", 9, 1..3));
    write(folder.path(), 10, &segment("a", 10, 3..5));
    write(folder.path(), 12, &segment("a", 12, 8..9));
    write(folder.path(), 13, &segment("b", 13, 1..2));
    fs::write(folder.path().join("ebusy-00000011.zst"), "something else").unwrap();
    let mut reader = Reader::open(folder.path()).unwrap();
    assert_eq!(reader.header().segment, 9);
    let (records, errors) = read(&mut reader);
    assert_eq!(records, [0, 1, 2, 3, 4, -3, 8, 0, 1]);
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].contains("00000011.zst: byte 0: this is no capture"),
        "{errors:?}"
    );
    let notes = reader.notes();
    assert_eq!(
        (notes.gaps.len(), notes.gaps[0].records, notes.runs),
        (1, Some(3), 2)
    );
    assert_eq!(reader.progress().0, reader.progress().1);
}

#[test]
fn records_and_blocks_of_a_newer_version_are_counted_and_skipped() {
    let mut writer = Writer::new(Vec::new(), &Header::here(start("a"))).unwrap();
    writer.push(&closed(1)).unwrap();
    let mut bytes = writer.finish().unwrap();
    let mut blocks = super::format::Blocks::new().unwrap();
    let lines = b"{\"record\":\"weather\",\"rain\":true}\n";
    bytes.extend(
        blocks
            .encode(super::format::BlockKind::Records, 1, 1, lines)
            .unwrap(),
    );
    bytes.extend(
        blocks
            .encode(super::format::BlockKind::Unknown, 2, 1, lines)
            .unwrap(),
    );
    let (records, errors, notes) = read_file(&bytes);
    assert_eq!((records, errors), (vec![0, 1], vec![]));
    assert_eq!((notes.unknown_records, notes.unknown_blocks), (1, 1));
}

#[test]
fn a_broken_record_is_told_and_lost() {
    let mut bytes = Writer::new(Vec::new(), &Header::here(start("a")))
        .unwrap()
        .finish()
        .unwrap();
    let mut blocks = super::format::Blocks::new().unwrap();
    let lines = b"{\"record\":\"closed\",\"time\":\"x\"}\n{\"record\":\"closed\",\"time\":2,\"file\":2}\n";
    bytes.extend(
        blocks
            .encode(super::format::BlockKind::Records, 0, 2, lines)
            .unwrap(),
    );
    let (mut records, errors, notes) = read_file(&bytes);
    records.sort_unstable();
    assert_eq!(records, [-1, 0, 2]);
    assert!(errors[0].contains("record 1 of the block"), "{errors:?}");
    assert_eq!(notes.lost_records, 1);
}

#[test]
fn a_capture_of_another_architecture_reads_and_says_so() {
    let mut header = Header::here(start("a"));
    header.architecture = Some("s390x".to_owned());
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    writer.push(&closed(1)).unwrap();
    let (records, _, notes) = read_file(&writer.finish().unwrap());
    assert_eq!(records, [0, 1]);
    assert_eq!(notes.lines(), ["the capture was written on s390x"]);
}

#[test]
fn runs_are_analysed_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1, &segment("a", 1, 1..3));
    write(folder.path(), 2, &segment("b", 2, 1..3));
    let (output, errors) = replay(Reader::open(folder.path()).unwrap());
    assert!(output.is_empty() && errors.is_empty());
}
