//! Who unmounts again by rule, without being asked, and when.

use crate::{
    identity::{MountOwner, mount_claim},
    model::{Process, Retry, RetrySource, Target},
    text::short_name,
};

/// Who comes back, and after how many seconds at the most.
#[derive(Debug, Clone, Copy)]
struct Rule {
    by: &'static str,
    within: u64,
}

/// Its CRI plugin, `internal/cri/server/events/events.go`: 1 s, doubled, at most 5 min, for ever. Whoever uses
/// containerd otherwise gets the error and decides.
const CONTAINERD: Rule = Rule {
    by: "containerd",
    within: 300,
};
/// `pkg/util/goroutinemap/exponentialbackoff` of kubernetes: 500 ms, doubled, at most 2 min 2 s.
const KUBELET: Rule = Rule {
    by: "kubelet",
    within: 122,
};

/// Who comes back after this caller was refused.
pub(crate) fn retries_by_rule(caller: &Process, target: &Target) -> Option<Retry> {
    let mut parents = caller.parents.iter().map(|parent| parent.comm.as_bytes());
    let rule = if of_cri(target) && caller.comm.as_bytes().starts_with(b"containerd") {
        CONTAINERD
    } else if parents.any(|comm| comm == b"kubelet") {
        KUBELET
    } else {
        return None;
    };
    Some(Retry {
        by: rule.by.to_owned(),
        source: RetrySource::Rule,
        pauses: Vec::new(),
        next: None,
        within: Some(rule.within),
    })
}

/// Who unmounts a target once it is free, and when.
#[must_use]
pub fn after(target: &Target) -> String {
    let of_pod = || {
        let owner = mount_claim(target.path.as_bytes()).and_then(|claim| claim.owner);
        matches!(owner, Some(MountOwner::Pod { .. }))
    };
    let rule = if of_cri(target) {
        CONTAINERD
    } else if of_pod() {
        KUBELET
    } else {
        return "run the umount again".to_owned();
    };
    format!(
        "{} tries again by itself, within {}",
        who(rule.by),
        pause(rule.within)
    )
}

/// The same of one that was refused, as [`retries_by_rule`] has it.
pub(crate) fn by_itself(retry: &Retry) -> Option<String> {
    let within = retry.within.filter(|_| retry.source == RetrySource::Rule)?;
    Some(format!(
        "{} retries by itself, within {}",
        who(&retry.by),
        pause(within)
    ))
}

fn of_cri(target: &Target) -> bool {
    let namespace = target.container.as_ref().and_then(|of| of.namespace.as_deref());
    namespace == Some("k8s.io")
}

fn who(by: &str) -> String {
    if by == KUBELET.by {
        return "the kubelet".to_owned();
    }
    short_name(by.as_bytes())
}

fn pause(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::{after, by_itself, pause, retries_by_rule};
    use crate::model::{Parent, Process, Retry, RetrySource, Target, samples};

    #[test]
    fn pauses() {
        assert_eq!([30, 122, 300].map(pause), ["30 s", "2 min 2 s", "5 min"]);
    }

    #[test]
    fn who_comes_back_is_told_alike_before_and_after() {
        let containerd = Process {
            comm: "containerd-shim".into(),
            ..Process::default()
        };
        let kubelet = Process {
            comm: "umount".into(),
            parents: vec![Parent {
                pid: 7,
                comm: "kubelet".into(),
                ..Parent::default()
            }],
            ..Process::default()
        };
        let plain = Target {
            path: "/srv/volume".into(),
            ..Target::default()
        };
        let volume = Target {
            path: "/var/lib/kubelet/pods/0f1f6b3c-2a5e-4b58-9d6a-0c1d2e3f4a5b/volumes/kubernetes.io~csi/data/mount".into(),
            ..Target::default()
        };
        let told = |caller: &Process, target: &Target| {
            let retry = retries_by_rule(caller, target);
            (retry.as_ref().and_then(by_itself), after(target))
        };
        assert_eq!(
            told(&containerd, &samples::target()),
            (
                Some("containerd retries by itself, within 5 min".to_owned()),
                "containerd tries again by itself, within 5 min".to_owned()
            )
        );
        assert_eq!(
            told(&kubelet, &volume),
            (
                Some("the kubelet retries by itself, within 2 min 2 s".to_owned()),
                "the kubelet tries again by itself, within 2 min 2 s".to_owned()
            )
        );
        assert_eq!(
            told(&containerd, &plain),
            (None, "run the umount again".to_owned())
        );
    }

    #[test]
    fn what_was_seen_is_no_rule() {
        let retry = Retry {
            by: "containerd".to_owned(),
            source: RetrySource::Observed,
            pauses: vec![10.0],
            next: None,
            within: Some(300),
        };
        assert_eq!(by_itself(&retry), None);
    }
}
