//! Text for people, on stderr. Nothing depends on a reader: text that cannot be written is lost, and a long-running
//! program does not wait for it either. `eprintln!` of the standard library would end the process then.

use std::{io, os::fd::AsFd as _, sync::OnceLock, time::Duration};

use crate::outlet::{Outlet, write_all};

/// Bytes that may wait for the reader of stderr.
const ROOM: usize = 256 << 10;
/// Limit for the last output.
const PATIENCE: Duration = Duration::from_millis(500);

static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// From now on ebusy does not wait for the reader of stderr. Starts a thread.
pub(crate) fn without_waiting() -> io::Result<()> {
    if OUTLET.get().is_none() {
        let gap = |lost| format!("ebusy: {lost} messages are missing here: stderr did not take them\n");
        let _ = OUTLET.set(Outlet::new(io::stderr(), ROOM, Some(gap))?);
    }
    Ok(())
}

/// Prints it, if the reader accepts it.
pub(crate) fn write(text: String) {
    match OUTLET.get() {
        Some(outlet) => outlet.send(text.into_bytes()),
        None => {
            let _ = write_all(io::stderr().as_fd(), text.as_bytes(), |_| {});
        }
    }
}

/// Waits until the last output is read, before the process ends.
pub(crate) fn finish() {
    if let Some(outlet) = OUTLET.get() {
        outlet.finish(PATIENCE);
    }
}

/// Log messages go the same way.
#[derive(Debug)]
pub(crate) struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
