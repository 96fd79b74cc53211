//! Recorded streams of real refusals give the incidents that were reported live: the analysis is a function of the
//! stream alone. `docs/testing.md` says how a capture is added.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use tracer::{incident::Output, model::Incident, stream::replay};

fn captures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "stream"))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn closed(capture: &Path) -> Vec<Incident> {
    let (output, result) = replay(BufReader::new(File::open(capture).unwrap()));
    result.unwrap_or_else(|error| panic!("{}: {error}", capture.display()));
    output
        .into_iter()
        .filter_map(|output| match output {
            Output::Closed(incident) => Some(*incident),
            Output::Open(_) => None,
        })
        .collect()
}

#[test]
fn a_replayed_capture_gives_what_was_reported_live() {
    for capture in captures() {
        let live = fs::read_to_string(capture.with_extension("json")).unwrap();
        let live: Vec<Incident> = live
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(closed(&capture), live, "{}", capture.display());
    }
}

#[test]
fn the_books_of_every_capture_balance() {
    for capture in captures() {
        for incident in closed(&capture) {
            let books = &incident.references;
            let explained: u64 = incident
                .holders
                .iter()
                .filter(|holder| holder.counted)
                .map(|holder| holder.refs)
                .sum();
            assert_eq!(explained, books.explained, "{}", capture.display());
            assert_eq!(
                (books.counted, books.unexplained, books.overexplained),
                (Some(explained), Some(0), 0),
                "{}",
                capture.display()
            );
        }
    }
}

#[test]
fn a_cut_capture_gives_everything_before_the_cut() {
    for capture in captures() {
        let bytes = fs::read(&capture).unwrap();
        let (_, result) = replay(&bytes[..bytes.len() - 10]);
        assert!(result.is_err(), "{}", capture.display());
        let (output, _) = replay(&bytes[..bytes.len() / 2]);
        assert!(output.len() <= closed(&capture).len() * 2);
    }
}
