//! SIGUSR1: how far is it? Answered once all that had happened by then is looked at.

use std::{io, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::watch::{TICK, summary};
use crate::{
    identity::boot_nanos,
    live::Session,
    text::{said, say::say},
};

/// Before the first look whether there is nothing left to look at; what takes longer is not worth more than usual.
const PAUSE: Duration = Duration::from_millis(5);

/// Whoever asks by a signal.
pub(super) struct Status {
    signal: Signal,
    /// When, boot clock, ns.
    asked: Option<u64>,
    pause: Duration,
}

impl Status {
    /// Takes the signal, which would end the process otherwise.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            signal: signal(SignalKind::user_defined1())?,
            asked: None,
            pause: PAUSE,
        })
    }

    /// Returns when the session is to let time pass for the sake of an answer.
    pub(super) async fn due(&mut self) {
        if self.asked.is_some() {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(TICK);
        } else {
            self.signal.recv().await;
            self.asked = Some(boot_nanos());
            self.pause = PAUSE;
        }
    }

    /// Answers on stderr, if somebody asked and all is looked at: what is busy still, then the summary.
    pub(super) fn answer(&mut self, session: &Session) {
        if !self.asked.is_some_and(|asked| session.has_caught_up(asked)) {
            return;
        }
        self.asked = None;
        for busy in session.still_busy() {
            say!(
                "still busy: {} (mount {}): {} {}",
                said(busy.path.as_bytes()),
                busy.mount_id,
                busy.references,
                if busy.references == 1 {
                    "reference"
                } else {
                    "references"
                }
            );
        }
        say!("{}", summary(session, "now"));
    }
}
