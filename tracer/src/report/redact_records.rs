//! The same for records, before they are exported.

use super::Redactor;
use crate::{kernel::Reference, stream::Record};

impl Redactor {
    /// A record.
    pub fn record(&self, record: &mut Record) {
        match record {
            Record::Umount(umount) => {
                self.process(&mut umount.caller);
                self.target(&mut umount.target);
                if let Some(passed) = &mut umount.passed {
                    *passed = self.text(passed);
                }
            }
            Record::Opened(opened) => self.process(&mut opened.by),
            Record::Entered(entered) => {
                if let Some(container) = &mut entered.container {
                    self.container(container);
                }
            }
            Record::Named(named) => named.path = self.text(&named.path),
            Record::Snapshot(sample) => {
                let snapshot = &mut sample.snapshot;
                let found = snapshot.references.iter_mut().chain(&mut snapshot.candidates);
                for Reference { holder, .. } in found {
                    self.holder(holder);
                }
                for opened in &mut sample.ledger {
                    self.process(&mut opened.by);
                }
            }
            Record::Refused(refused) => {
                self.process(&mut refused.caller);
                self.target(&mut refused.target);
                for holder in refused.holders.iter_mut().chain(&mut refused.bystanders) {
                    self.holder(holder);
                }
            }
            Record::Detached(detached) => {
                self.process(&mut detached.caller);
                self.target(&mut detached.target);
                for holder in &mut detached.holders {
                    self.holder(holder);
                }
                for opened in &mut detached.ledger {
                    self.process(&mut opened.by);
                }
            }
            Record::Slow(slow) => {
                self.process(&mut slow.caller);
                self.target(&mut slow.target);
            }
            Record::Lost(lost) => {
                for noise in &mut lost.noise {
                    self.process(&mut noise.by);
                }
            }
            // Every type is named here, so that one that is added is thought of.
            Record::Start(_)
            | Record::Closed(_)
            | Record::Gone(_)
            | Record::Freed(_)
            | Record::Tick { .. }
            | Record::End { .. } => {}
        }
    }
}
