//! Finds the controller of a pod: from the labels that it sets and the form of the pod's name.
//!
//! Anybody can set a label, and anybody can choose a name. Only where both agree is a controller named; a name alone
//! proves nothing.

use std::collections::BTreeMap;

use crate::model::Owner;

/// The characters of names that Kubernetes makes up (k8s.io/apimachinery `util/rand`): no vowels, no digits that look
/// like letters.
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Characters of a made-up end of a name.
const SUFFIX: usize = 5;
/// Length of a controller's name that fits before the made-up end (k8s.io/apiserver `storage/names`).
const STEM_MAX: usize = 57;

/// The kubelet's facts about a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodNotes {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// The controller of a pod, with the source of that.
pub(super) fn owner(notes: &PodNotes, pod: &str) -> Option<Owner> {
    let owner = |kind: &str, name: &str, source: String| {
        Some(Owner {
            kind: kind.to_owned(),
            name: name.to_owned(),
            source,
        })
    };
    // The kubelet's own mark; pods from the API server have "api".
    let from = "kubernetes.io/config.source";
    if let Some("file" | "http") = notes.annotations.get(from).map(String::as_str) {
        return owner("StaticPod", pod, format!("annotation {from}"));
    }
    let rules: [(&str, &str, Rule); 7] = [
        ("statefulset.kubernetes.io/pod-name", "StatefulSet", ordinal),
        ("batch.kubernetes.io/job-name", "Job", beginning),
        ("job-name", "Job", beginning),
        ("workflows.argoproj.io/workflow", "Workflow", beginning),
        ("pod-template-hash", "Deployment", template),
        ("rollouts-pod-template-hash", "Rollout", template),
        ("controller-revision-hash", "DaemonSet", revision),
    ];
    rules.iter().find_map(|(label, kind, rule)| {
        let name = rule(notes.labels.get(*label)?, pod)?;
        owner(kind, name, format!("label {label}, pod name"))
    })
}

/// From the value of a label and the name of a pod, the name of the controller, if they agree.
type Rule = for<'a> fn(&'a str, &'a str) -> Option<&'a str>;

/// `db-0`
fn ordinal<'a>(value: &'a str, pod: &'a str) -> Option<&'a str> {
    let (stem, number) = pod.rsplit_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (value == pod && is_number).then_some(stem)
}

/// The label has the controller's name, with which the pod's name begins.
fn beginning<'a>(value: &'a str, pod: &'a str) -> Option<&'a str> {
    let begins = value.get(..STEM_MAX).unwrap_or(value);
    (!value.is_empty() && pod.starts_with(begins)).then_some(value)
}

/// `web-7d9c5b8f6-qx2vl`: the set of replicas between is named after the Deployment and the hash.
fn template<'a>(hash: &'a str, pod: &'a str) -> Option<&'a str> {
    let replicas = without_suffix(pod)?;
    let name = replicas.strip_suffix(hash)?.strip_suffix('-')?;
    (!hash.is_empty() && !name.is_empty()).then_some(name)
}

/// `agent-x7k2p`. Other controllers set the same label, to their own name and the hash.
fn revision<'a>(hash: &'a str, pod: &'a str) -> Option<&'a str> {
    let stem = without_suffix(pod)?;
    // A name as long as that may have been cut.
    (is_generated(hash) && stem.len() < STEM_MAX).then_some(stem)
}

fn without_suffix(pod: &str) -> Option<&str> {
    let (stem, suffix) = pod.rsplit_once('-')?;
    (suffix.len() == SUFFIX && is_generated(suffix)).then_some(stem)
}

fn is_generated(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| GENERATED.contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PodNotes, owner};

    fn notes(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> PodNotes {
        let owned = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        PodNotes {
            labels: owned(labels),
            annotations: owned(annotations),
        }
    }

    fn of(pod: &str, labels: &[(&str, &str)]) -> Option<(String, String)> {
        owner(&notes(labels, &[]), pod).map(|owner| (owner.kind, owner.name))
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what may be nothing")]
    fn some(kind: &str, name: &str) -> Option<(String, String)> {
        Some((kind.to_owned(), name.to_owned()))
    }

    #[test]
    fn controllers_by_label_and_name() {
        let revision = ("controller-revision-hash", "59cb8f6d4b");
        assert_eq!(of("agent-x7k2p", &[revision]), some("DaemonSet", "agent"));
        let template = ("pod-template-hash", "7d9c5b8f6");
        assert_eq!(of("web-7d9c5b8f6-qx2vl", &[template]), some("Deployment", "web"));
        let rollout = ("rollouts-pod-template-hash", "7d9c5b8f6");
        assert_eq!(of("web-7d9c5b8f6-qx2vl", &[rollout]), some("Rollout", "web"));
        let ordinal = ("statefulset.kubernetes.io/pod-name", "db-12");
        assert_eq!(
            of("db-12", &[("controller-revision-hash", "db-59cb8f6d4b"), ordinal]),
            some("StatefulSet", "db")
        );
        assert_eq!(of("once-2bcdf", &[("job-name", "once")]), some("Job", "once"));
        let argo = ("workflows.argoproj.io/workflow", "wf-build-7h2kq");
        assert_eq!(of("wf-build-7h2kq", &[argo]), some("Workflow", "wf-build-7h2kq"));
        let found = owner(&notes(&[template], &[]), "web-7d9c5b8f6-qx2vl").unwrap();
        assert_eq!(found.source, "label pod-template-hash, pod name");
    }

    #[test]
    fn a_static_pod() {
        let source = |value: &str| notes(&[], &[("kubernetes.io/config.source", value)]);
        let found = owner(&source("file"), "etcd-node1").unwrap();
        assert_eq!(
            (found.kind.as_str(), found.name.as_str()),
            ("StaticPod", "etcd-node1")
        );
        assert_eq!(owner(&source("api"), "etcd-node1"), None);
    }

    #[test]
    fn a_label_that_the_name_does_not_bear_out_says_nothing() {
        for (pod, label, value) in [
            ("agent-x7k2p", "app", "agent"),
            ("agent", "pod-template-hash", ""),
            ("agent-x7k2p", "pod-template-hash", ""),
            ("web-qx2vl", "pod-template-hash", "7d9c5b8f6"),
            ("-7d9c5b8f6-qx2vl", "pod-template-hash", "7d9c5b8f6"),
            ("agent-aaaaa", "controller-revision-hash", "59cb8f6d4b"),
            // A `CloneSet` of OpenKruise.
            ("agent-x7k2p", "controller-revision-hash", "agent-59cb8f6d4b"),
            ("db-0", "statefulset.kubernetes.io/pod-name", "db-1"),
            ("db-x", "statefulset.kubernetes.io/pod-name", "db-x"),
            ("other-2bcdf", "job-name", "once"),
        ] {
            assert_eq!(of(pod, &[(label, value)]), None, "{pod} {label}={value}");
        }
        let cut = format!("{}-x7k2p", "a".repeat(57));
        assert_eq!(of(&cut, &[("controller-revision-hash", "59cb8f6d4b")]), None);
        let job = "b".repeat(60);
        assert_eq!(
            of(&format!("{}-x7k2p", &job[..57]), &[("job-name", &job)]),
            some("Job", &job)
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(pod: String, label: String) {
            for name in ["pod-template-hash", "controller-revision-hash", "job-name", "statefulset.kubernetes.io/pod-name"] {
                let _ = of(&pod, &[(name, &label)]);
            }
        }
    }
}
