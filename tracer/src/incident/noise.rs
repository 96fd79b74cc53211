//! What sources lost that did more than they have room for, where that touches an incident: files that they opened may be
//! what blocked; other calls are missing only among their own.

use crate::{
    model::{self, Incident},
    stream::Noise,
};

impl Noise {
    /// What is missing in the history of opens.
    pub(super) fn of_history(&self) -> u64 {
        self.touching(None)
    }

    /// What was lost of what may belong to an incident that is on the account of this source, or of another one.
    fn touching(&self, source: Option<u64>) -> u64 {
        let own = source == Some(self.source);
        let losses = self.losses.0.iter();
        losses
            .filter(|(what, _)| own || is_of_opens(what))
            .fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }
}

fn is_of_opens(what: &str) -> bool {
    ["open:", "history:", "capture: opened "]
        .iter()
        .any(|part| what.starts_with(part))
}

/// Says in an incident which sources it may be wrong about.
pub(super) fn tell(noise: &[Noise], incident: &mut Incident) {
    incident.noise = noise
        .iter()
        .map(|noise| model::Noise {
            lost: noise.touching(Some(incident.source)),
            by: noise.by.clone(),
        })
        .filter(|noise| noise.lost > 0)
        .collect();
    incident.noise.sort_by_key(|noise| std::cmp::Reverse(noise.lost));
    let lost = incident.noise.iter().map(|noise| noise.lost);
    incident.lost_events = lost.fold(incident.lost_events, u64::saturating_add);
    incident.noise.truncate(NAMED_MAX);
}

/// Sources that are named in an incident at the most.
const NAMED_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::tell;
    use crate::{model::samples, probe::Losses, stream::Noise};

    #[test]
    fn opens_touch_every_incident_and_calls_those_of_their_source() {
        let noise = |source, what: &str, count| {
            let mut losses = Losses::default();
            losses.add(what, count);
            Noise {
                source,
                losses,
                ..Noise::default()
            }
        };
        let all = [
            noise(7, "umount: more than one source may", 5),
            noise(8, "open: more than one source may", 3),
        ];
        let touched = |source| {
            let mut incident = samples::incident(Vec::new());
            incident.source = source;
            tell(&all, &mut incident);
            (incident.lost_events, incident.noise.len())
        };
        assert_eq!(touched(0), (3, 1));
        assert_eq!(touched(7), (8, 2));
        assert_eq!(touched(8), (3, 1));
    }
}
