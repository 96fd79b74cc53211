//! How long the main loop may be in one step: pure, with a clock from outside.

use std::time::Duration;

use super::steps::{Seen, Step};

/// After this time ebusy reports a long step.
const SAY: Duration = Duration::from_secs(10);
/// After this time ebusy is ended.
const END: Duration = Duration::from_mins(1);
/// These times once a signal has asked ebusy to end.
const SAY_ASKED: Duration = Duration::from_secs(2);
const END_ASKED: Duration = Duration::from_secs(10);
/// The most that one look may add: while the whole process is stopped, or the machine sleeps, nothing is stuck.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The action to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Report that it has been in the same step for this long.
    Long(Duration),
    /// End it: it has been in the same step for too long.
    End(Duration),
    /// A reported step is over, after this long.
    Over(Duration),
}

/// State from earlier looks.
#[derive(Debug, Default)]
pub(super) struct Patience {
    turn: u64,
    stood: Duration,
    said: bool,
}

impl Patience {
    /// One look, this long after the last; `asked` by a signal to end, and if a reader of stdout or stderr makes ebusy
    /// wait.
    pub(super) fn look(
        &mut self,
        passed: Duration,
        seen: Option<&Seen>,
        asked: bool,
        unread: bool,
    ) -> Verdict {
        let Some(seen) = seen.filter(|seen| seen.turn == self.turn) else {
            let over = std::mem::take(&mut self.said).then_some(self.stood);
            self.stood = Duration::ZERO;
            self.turn = seen.map_or(self.turn, |seen| seen.turn);
            return over.map_or(Verdict::Fine, Verdict::Over);
        };
        if seen.step == Step::Waiting && !asked {
            return Verdict::Fine;
        }
        self.stood += passed.min(LOOK_MAX);
        let in_haste = asked && !seen.step.is_harmless();
        let (say, end) = if in_haste {
            (SAY_ASKED, END_ASKED)
        } else {
            (SAY, END)
        };
        let may_last = (seen.step.may_last() || unread) && !asked;
        if self.stood >= end && !may_last {
            return Verdict::End(self.stood);
        }
        if self.stood >= say && !std::mem::replace(&mut self.said, true) {
            return Verdict::Long(self.stood);
        }
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Patience, Verdict};
    use crate::watchdog::steps::{Seen, Step};

    const LOOK: Duration = Duration::from_millis(500);

    fn at(turn: u64, step: Step) -> Seen {
        Seen {
            turn,
            step,
            subject: Vec::new(),
        }
    }

    /// Everything but `Fine`, with the second at which it was said.
    fn said(
        patience: &mut Patience,
        seconds: u64,
        seen: &Seen,
        asked: bool,
        unread: bool,
    ) -> Vec<(u64, Verdict)> {
        (1..=seconds * 2)
            .map(|look| (look / 2, patience.look(LOOK, Some(seen), asked, unread)))
            .filter(|(_, verdict)| *verdict != Verdict::Fine)
            .take(3)
            .collect()
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_step_is_named_after_10_s_and_ended_after_60() {
        let mut patience = Patience::default();
        let found = said(&mut patience, 61, &at(2, Step::Mounts), false, false);
        // The first look only learns the step.
        assert_eq!(found[0], (10, Verdict::Long(secs(10))));
        assert!(matches!(found[1], (60, Verdict::End(_))), "{found:?}");
    }

    #[test]
    fn one_that_goes_on_is_not_ended() {
        let mut patience = Patience::default();
        for turn in 1..100 {
            assert_eq!(
                said(&mut patience, 9, &at(turn * 2, Step::Mounts), false, false),
                []
            );
        }
        let found = said(&mut patience, 12, &at(500, Step::Mounts), false, false);
        assert_eq!(found, [(10, Verdict::Long(secs(10)))]);
        let over = patience.look(LOOK, Some(&at(502, Step::Events)), false, false);
        assert!(
            matches!(over, Verdict::Over(stood) if stood > secs(10)),
            "{over:?}"
        );
        // A change of the step while it is read counts as progress.
        assert_eq!(patience.look(LOOK, None, false, false), Verdict::Fine);
    }

    #[test]
    fn nothing_to_do_and_a_reader_that_pauses_are_no_reason_to_end() {
        let mut patience = Patience::default();
        assert_eq!(said(&mut patience, 600, &at(2, Step::Waiting), false, false), []);
        let found = said(&mut patience, 600, &at(4, Step::Writing), false, false);
        assert!(matches!(found[..], [(_, Verdict::Long(_))]), "{found:?}");
        let found = said(&mut patience, 600, &at(6, Step::References), false, true);
        assert!(
            matches!(found[..], [(_, Verdict::Over(_)), (_, Verdict::Long(_))]),
            "{found:?}"
        );
    }

    #[test]
    fn the_kernel_has_its_time_at_the_end() {
        let mut patience = Patience::default();
        let found = said(&mut patience, 61, &at(2, Step::Unloading), true, false);
        assert_eq!(found[0], (10, Verdict::Long(secs(10))));
        assert!(matches!(found[1], (60, Verdict::End(_))), "{found:?}");
    }

    #[test]
    fn one_that_is_asked_to_end_and_does_not_is_ended_soon() {
        for step in [Step::Waiting, Step::Writing, Step::Slow] {
            let found = said(&mut Patience::default(), 11, &at(2, step), true, true);
            assert_eq!(found[0], (2, Verdict::Long(secs(2))), "{step:?}");
            assert!(matches!(found[1], (10, Verdict::End(_))), "{found:?}");
        }
    }

    #[test]
    fn time_in_which_the_watchdog_did_not_run_either_counts_for_little() {
        let mut patience = Patience::default();
        let step = at(2, Step::Slow);
        patience.look(LOOK, Some(&step), false, false);
        for _ in 0..9 {
            assert_eq!(
                patience.look(secs(3600), Some(&step), false, false),
                Verdict::Fine
            );
        }
        assert_eq!(
            patience.look(secs(3600), Some(&step), false, false),
            Verdict::Long(secs(10))
        );
    }
}
