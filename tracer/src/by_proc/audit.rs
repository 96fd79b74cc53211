//! What an audit can say by mountinfo and cgroups alone: what is stuck or has leaked in ebusy's own namespace.

use super::ProcMounts;
use crate::{
    advice::advise_audit,
    audit::settings,
    identity::{Containers, WatchPatterns},
    live::limits,
    model::{Audit, Now, Tier, Timestamp},
};

impl ProcMounts {
    /// The sections that can be told, and which cannot.
    #[must_use]
    pub fn audit(&self, containers: &Containers, patterns: &WatchPatterns, time: Timestamp) -> Audit {
        let alive = containers.containers_alive();
        let stuck = self
            .of_containers(containers)
            .filter(|(_, container)| !alive.contains_key(&container.id))
            .map(|(line, _)| Now {
                target: self.target(line, containers),
                stuck: true,
                holders: Vec::new(),
                unexplained: None,
                fixes: Vec::new(),
            })
            .collect();
        let watched = self.lines.iter().filter(|line| patterns.is_match(&line.path));
        let blind = [
            "now",
            "can_pin",
            "can_leak",
            "leaked",
            "detached",
            "namespaces",
            "own",
        ];
        let mut audit = Audit {
            schema: Audit::SCHEMA.to_owned(),
            time,
            probe: Tier::Proc,
            blind: blind.map(str::to_owned).into(),
            gaps: Vec::new(),
            watched: watched.count() as u64,
            mount_namespaces: 1,
            now: stuck,
            can_pin: Vec::new(),
            can_leak: Vec::new(),
            leaked: Vec::new(),
            detached: Vec::new(),
            namespaces: Vec::new(),
            settings: settings(&limits(self.lines.len() as u64, 0)),
            own: None,
        };
        advise_audit(&mut audit);
        audit
    }
}
