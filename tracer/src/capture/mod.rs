//! Captures: the stream of records on disk, in a format of its own (`docs/capture-format.md`), written while ebusy
//! watches, and read on any machine.

mod disk;
mod error;
mod folder;
mod format;
pub(crate) mod frames;
mod line;
mod lines;
mod names;
mod notes;
mod opened;
mod place;
mod queue;
mod reader;
mod recorder;
mod segment;
mod shared;
mod shares;
mod state;
mod writer;

#[cfg(test)]
mod recorder_tests;
#[cfg(test)]
mod tests;

pub use self::{
    error::CaptureError,
    folder::{Folder, Limits, is_part, is_segment_name},
    format::{Anchor, BLOCK, BLOCK_MAX, Header, VERSION, run_name},
    notes::{Gap, Notes, Place, Step},
    opened::Opened,
    reader::Reader,
    recorder::Recorder,
    shared::{Destination, Standing},
    writer::Writer,
};
