//! Captures in common formats: JSON lines of all events and incidents, and a trace for the Perfetto UI.
//!
//! Both are written while the capture is read, with memory that does not grow with it. Kernel addresses become keys
//! that show only which two are the same.

mod event;
mod jsonl;
mod perfetto;
mod proto;

#[cfg(test)]
pub(crate) use self::event::Line;
pub use self::{event::EVENT_SCHEMA, jsonl::Jsonl, perfetto::Perfetto};
