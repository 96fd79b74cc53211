//! The analysis of a recorded stream.

use super::{run::Output, track::Analyzer};
use crate::stream::Record;

/// Replays a stream; gives all that could be read in spite of errors, and those.
pub fn replay<E>(records: impl IntoIterator<Item = Result<Record, E>>) -> (Vec<Output>, Vec<E>) {
    let mut analyzer: Option<Analyzer> = None;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    for record in records {
        match (&mut analyzer, record) {
            (_, Err(error)) => errors.push(error),
            (Some(analyzer), Ok(record)) => output.extend(analyzer.push(record)),
            (None, Ok(Record::Start(start))) => analyzer = Some(Analyzer::new(start)),
            // A reader begins with the start, whatever is damaged.
            (None, Ok(_)) => {}
        }
    }
    (output, errors)
}
