//! Derives a process's container from its cgroup: the text of /proc/PID/cgroup, v1, v2 and both at once.
//!
//! A cgroup path is a claim, not a proof: the owner of a cgroup may make others below it, with any name. The runtime's
//! own record of the container has the requested cgroup, from the root of the tree on; a process in that cgroup is in
//! that container. Where there is no record, an unmistakable name (64 hexadecimal digits in one of the runtimes' forms)
//! is taken as a claim, any other (`/default/web` of a plain containerd) as none.

/// A container that a cgroup path seems to belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupClaim {
    /// The runtime, if the form of the path shows it.
    pub runtime: Option<&'static str>,
    /// containerd's namespace, if the path has it.
    pub namespace: Option<String>,
    /// The runtime's id.
    pub id: String,
    /// The claim counts only if there is a bundle of that name.
    pub needs_bundle: bool,
}

/// The contents of /proc/PID/cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Candidates, the most credible first.
    pub claims: Vec<CgroupClaim>,
    /// The uid of the Kubernetes pod, with dashes.
    pub pod_uid: Option<String>,
    /// The systemd unit of the host that the process runs in.
    pub unit: Option<String>,
    /// The components of its path in each hierarchy.
    paths: Vec<Vec<String>>,
}

impl Membership {
    /// True if it is in the cgroup that a runtime was configured to make (`linux.cgroupsPath` of the OCI's runtime
    /// specification): a path from the root, or `slice:prefix:name` where systemd makes it (runc,
    /// `libcontainer/cgroups/systemd/common.go`). One that is relative to the runtime's own cgroup says too little.
    pub(super) fn is_in(&self, cgroups_path: &str) -> bool {
        place(cgroups_path).is_some_and(|place| self.starts_with(&place))
    }

    /// True if it is in the parent of that cgroup: a pod's.
    pub(super) fn is_beside(&self, cgroups_path: &str) -> bool {
        place(cgroups_path)
            .and_then(|mut place| place.pop().map(|_| place))
            .is_some_and(|pod| !pod.is_empty() && self.starts_with(&pod))
    }

    fn starts_with(&self, place: &[String]) -> bool {
        self.paths.iter().any(|path| path.starts_with(place))
    }
}

/// The components of a configured cgroup.
fn place(cgroups_path: &str) -> Option<Vec<String>> {
    let owned = |parts: Vec<&str>| parts.into_iter().map(str::to_owned).collect::<Vec<_>>();
    if cgroups_path.starts_with('/') {
        let parts = owned(components(cgroups_path.as_bytes()).collect());
        return (!parts.is_empty()).then_some(parts);
    }
    let mut fields = cgroups_path.split(':');
    let (slice, prefix, name) = (fields.next()?, fields.next()?, fields.next()?);
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let mut parts = slices(slice)?;
    parts.push(match prefix {
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    });
    Some(parts)
}

/// `a-b.slice` is in `a.slice`.
fn slices(slice: &str) -> Option<Vec<String>> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(Vec::new());
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

/// More pairs than that are not tried.
const MAX_UNSURE: usize = 8;
/// Containers in containers.
const MAX_NESTED: usize = 8;

/// Reads the text of /proc/PID/cgroup.
#[must_use]
pub fn membership(text: &[u8]) -> Membership {
    let mut found = Membership {
        unit: systemd_unit(text),
        ..Membership::default()
    };
    let mut unsure = Vec::new();
    for (_, path) in lines(text) {
        let parts: Vec<&str> = components(path).collect();
        if found.pod_uid.is_none() {
            found.pod_uid = parts.iter().rev().find_map(|part| pod_uid(part));
        }
        if found.claims.is_empty() {
            // Containers nest (a node in a container, pods in the node): the innermost is the one it runs in.
            let all = (0..parts.len()).rev().filter_map(|index| certain(&parts, index));
            found.claims.extend(all.take(MAX_NESTED));
        }
        let owned: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
        if !found.paths.contains(&owned) {
            found.paths.push(owned);
        }
        for pair in parts.windows(2).rev() {
            let claim = unsure_pair(pair);
            unsure.extend(claim.filter(|claim| !unsure.contains(claim) && unsure.len() < MAX_UNSURE));
        }
    }
    if found.claims.is_empty() {
        found.claims = unsure;
    }
    found
}

/// The systemd unit of the host in the text of /proc/PID/cgroup: the first component of the path that is a unit, except
/// slices. A process in a container has none that the host's systemd knows, unless the container is a scope.
#[must_use]
pub fn systemd_unit(text: &[u8]) -> Option<String> {
    // systemd's own hierarchy comes first: on a hybrid host the unified one may be unused.
    let own = lines(text).find(|(controllers, _)| *controllers == b"name=systemd");
    let unified = lines(text).find(|(controllers, _)| controllers.is_empty());
    [own, unified]
        .into_iter()
        .flatten()
        .find_map(|(_, path)| components(path).find_map(unit_name))
}

/// `(controllers, path)` of each line.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let _hierarchy = fields.next()?;
        let controllers = fields.next()?;
        let path = fields.next()?;
        // The kernel marks the path of a cgroup that was removed with processes still exiting.
        Some((controllers, path.strip_suffix(b" (deleted)").unwrap_or(path)))
    })
}

/// The components of a path that are text: cgroups of runtimes are plain text.
fn components(path: &[u8]) -> impl Iterator<Item = &str> {
    path.split(|byte| *byte == b'/')
        .filter_map(|part| std::str::from_utf8(part).ok())
        .filter(|part| !part.is_empty() && *part != ".." && *part != ".")
}

fn unit_name(part: &str) -> Option<String> {
    const SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    // systemd puts an underscore before names that would collide with files of the cgroup file system.
    let name = part.strip_prefix('_').unwrap_or(part);
    SUFFIXES
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        .then(|| name.to_owned())
}

/// The container that the component at `index` names beyond doubt.
fn certain(parts: &[&str], index: usize) -> Option<CgroupClaim> {
    let part = *parts.get(index)?;
    let parent = index
        .checked_sub(1)
        .and_then(|index| parts.get(index))
        .copied()
        .unwrap_or("");
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    let (prefix, id) = stem.rsplit_once('-').unwrap_or(("", stem));
    if !is_full_id(id) {
        return None;
    }
    let runtime = match prefix {
        "cri-containerd" | "nerdctl" => Some("containerd"),
        "crio" => Some("cri-o"),
        "docker" => Some("docker"),
        "libpod" => Some("podman"),
        // The monitor beside the container, in a cgroup of its own: it is not part of the container.
        "crio-conmon" | "libpod-conmon" => return None,
        "" if parent == "docker" => Some("docker"),
        "" if parent == "libpod_parent" => Some("podman"),
        "" => None,
        _ if stem.len() < part.len() => None,
        _ => return None,
    };
    Some(CgroupClaim {
        runtime,
        namespace: None,
        id: id.to_owned(),
        needs_bundle: false,
    })
}

/// `/namespace/id`: the cgroups of a plain containerd's containers.
fn unsure_pair(pair: &[&str]) -> Option<CgroupClaim> {
    let [namespace, id] = pair else { return None };
    let plain = |name: &str| !is_unit_or_slice(name) && is_containerd_name(name);
    (plain(namespace) && plain(id)).then(|| CgroupClaim {
        runtime: Some("containerd"),
        namespace: Some((*namespace).to_owned()),
        id: (*id).to_owned(),
        needs_bundle: true,
    })
}

fn is_unit_or_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some() || unit_name(name).is_some()
}

/// The uid in `pod<uid>` (cgroupfs) or `kubepods-burstable-pod<uid>.slice` (systemd, with underscores).
fn pod_uid(part: &str) -> Option<String> {
    let stem = part.strip_suffix(".slice").unwrap_or(part);
    let uid = if let Some(uid) = stem.strip_prefix("pod") {
        uid
    } else {
        stem.rsplit_once("-pod")?.1
    };
    let uid = uid.replace('_', "-");
    is_pod_uid(&uid).then_some(uid)
}

/// A UUID, or the 32 digits that static pods have (a hash of their manifest).
pub(crate) fn is_pod_uid(text: &str) -> bool {
    let bytes = text.as_bytes();
    match bytes.len() {
        36 => bytes.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        }),
        32 => bytes.iter().all(u8::is_ascii_hexdigit),
        _ => false,
    }
}

/// The 64 hexadecimal digits that all runtimes but a plain containerd use.
pub(super) fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A namespace or id as containerd allows it; a lone dot cannot pass as a path component.
pub(super) fn is_containerd_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 76
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CgroupClaim, membership, systemd_unit};

    const ID: &str = "9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5";
    const OUTER: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    const UID: &str = "0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e";

    fn fill(text: &str) -> String {
        let text = text.replace("UID_", &UID.replace('-', "_")).replace("UID", UID);
        text.replace("OUTER", OUTER).replace("ID", ID)
    }

    /// `(runtime, id)` of the most credible claim, which needs no bundle.
    fn sure(text: &str) -> (Option<&'static str>, String) {
        let found = membership(fill(text).as_bytes());
        assert!(!found.claims[0].needs_bundle, "{found:?}");
        (found.claims[0].runtime, found.claims[0].id.clone())
    }

    #[test]
    fn what_the_runtime_was_told_has_to_agree() {
        let of = |path: &str| membership(format!("0::{path}\n").as_bytes());
        let scope = "kubepods-besteffort-podaa.slice:cri-containerd:9c41";
        let pod = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podaa.slice";
        for (path, told, is_in, is_beside) in [
            (format!("{pod}/cri-containerd-9c41.scope"), scope, true, true),
            (format!("{pod}/cri-containerd-9c41.scope/init"), scope, true, true),
            (format!("{pod}/cri-containerd-9c41.scope-x"), scope, false, true),
            (format!("{pod}/crio-9c41.scope"), scope, false, true),
            (format!("/x{pod}/cri-containerd-9c41.scope"), scope, false, false),
            (
                "/system.slice/docker-9c.scope".to_owned(),
                ":docker:9c",
                true,
                true,
            ),
            (
                "/a.slice/docker-9c.scope".to_owned(),
                "a.slice:docker:9c",
                true,
                true,
            ),
            ("/docker-9c.scope".to_owned(), "-.slice:docker:9c", true, false),
            ("/default/web".to_owned(), "/default/web", true, true),
            ("/default/web2".to_owned(), "/default/web", false, true),
            ("/user.slice/default/web".to_owned(), "/default/web", false, false),
            ("/web".to_owned(), "/web", true, false),
            // Relative to the runtime's own cgroup, and invalid paths.
            ("/default/web".to_owned(), "default/web", false, false),
            ("/default/web".to_owned(), "/", false, false),
            ("/default/web".to_owned(), "", false, false),
            ("/a/b".to_owned(), "a:b", false, false),
        ] {
            let found = of(&path);
            assert_eq!(
                (found.is_in(told), found.is_beside(told)),
                (is_in, is_beside),
                "{path} {told}"
            );
        }
        // One of the hierarchies is enough: a process in a runtime's own cgroup of any hierarchy was put there.
        let text = "12:pids:/default/web\n1:name=systemd:/system.slice/x.service\n";
        assert!(membership(text.as_bytes()).is_in("/default/web"));
    }

    #[test]
    fn every_runtime_on_v2_with_systemd() {
        let pod = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice";
        for (text, runtime) in [
            (format!("{pod}/cri-containerd-ID.scope\n"), Some("containerd")),
            (format!("{pod}/crio-ID.scope\n"), Some("cri-o")),
            (format!("{pod}/crio-ID.scope/container\n"), Some("cri-o")),
            (format!("{pod}/docker-ID.scope\n"), Some("docker")),
            ("0::/system.slice/docker-ID.scope\n".to_owned(), Some("docker")),
            (
                "0::/system.slice/docker-ID.scope/init.scope\n".to_owned(),
                Some("docker"),
            ),
            (
                "0::/system.slice/nerdctl-ID.scope\n".to_owned(),
                Some("containerd"),
            ),
            (
                "0::/machine.slice/libpod-ID.scope/container\n".to_owned(),
                Some("podman"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container"
                    .to_owned(),
                Some("podman"),
            ),
            ("0::/machine.slice/other-runtime-ID.scope\n".to_owned(), None),
        ] {
            assert_eq!(sure(&text), (runtime, ID.to_owned()), "{text}");
        }
        let found = membership(fill(&format!("{pod}/cri-containerd-ID.scope\n")).as_bytes());
        assert_eq!(found.pod_uid.as_deref(), Some(UID));
    }

    #[test]
    fn every_runtime_with_cgroupfs() {
        for (text, runtime) in [
            ("0::/kubepods/besteffort/podUID/ID\n", None),
            ("0::/kubepods/podUID/ID\n", None),
            ("0::/docker/ID\n", Some("docker")),
            ("0::/libpod_parent/libpod-ID\n", Some("podman")),
            ("0::/kubepods/podUID/crio-ID\n", Some("cri-o")),
            ("0::/k8s.io/ID\n", None),
            ("0::/../../podUID/ID\n", None),
            ("0::/kubepods/podUID/ID (deleted)\n", None),
        ] {
            assert_eq!(sure(text), (runtime, ID.to_owned()), "{text}");
        }
        let found = membership(fill("0::/kubepods/besteffort/podUID/ID\n").as_bytes());
        assert_eq!(found.pod_uid.as_deref(), Some(UID));
    }

    #[test]
    fn v1_and_hybrid() {
        let text = "12:pids:/kubepods/burstable/podUID/ID\n11:memory:/kubepods/burstable/podUID/ID\n\
            1:name=systemd:/kubepods/burstable/podUID/ID\n0::/system.slice/containerd.service\n";
        assert_eq!(sure(text), (None, ID.to_owned()));
        // With the systemd driver; only some of the hierarchies know of the container.
        let text =
            "5:devices:/\n4:memory:/kubepods.slice/kubepods-podUID_.slice/cri-containerd-ID.scope\n0::/\n";
        assert_eq!(sure(text), (Some("containerd"), ID.to_owned()));
        assert_eq!(membership(fill(text).as_bytes()).pod_uid.as_deref(), Some(UID));
    }

    #[test]
    fn a_static_pod_has_a_hash_for_a_uid() {
        let hash = "a3a2c1d4e5f60718293a4b5c6d7e8f90";
        let text = format!("0::/kubepods.slice/kubepods-pod{hash}.slice/cri-containerd-{ID}.scope\n");
        assert_eq!(membership(text.as_bytes()).pod_uid.as_deref(), Some(hash));
    }

    #[test]
    fn the_innermost_container_is_the_one() {
        let text = "0::/docker/OUTER/kubelet/kubepods/besteffort/podUID/ID\n";
        assert_eq!(sure(text), (None, ID.to_owned()));
        let text = "0::/system.slice/docker-OUTER.scope/kubelet.slice/kubelet-kubepods.slice/\
            kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope\n";
        assert_eq!(sure(text), (Some("containerd"), ID.to_owned()));
    }

    #[test]
    fn monitors_are_not_the_container() {
        for text in [
            "0::/machine.slice/libpod-conmon-ID.scope\n",
            "0::/kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope\n",
        ] {
            assert!(membership(fill(text).as_bytes()).claims.is_empty(), "{text}");
        }
        let unit = systemd_unit(fill("0::/machine.slice/libpod-conmon-ID.scope\n").as_bytes());
        assert_eq!(unit.unwrap(), format!("libpod-conmon-{ID}.scope"));
    }

    #[test]
    fn plain_containerd_needs_a_bundle() {
        let claim = |namespace: &str, id: &str| CgroupClaim {
            runtime: Some("containerd"),
            namespace: Some(namespace.to_owned()),
            id: id.to_owned(),
            needs_bundle: true,
        };
        assert_eq!(
            membership(b"0::/default/web-1\n").claims,
            [claim("default", "web-1")]
        );
        // Deepest first; a cgroup that the container made itself comes before it.
        assert_eq!(
            membership(b"5:pids:/default/web/child\n0::/\n").claims,
            [claim("web", "child"), claim("default", "web")]
        );
        for text in [
            &b"0::/\n"[..],
            b"0::/init.scope\n",
            b"0::/system.slice/cron.service\n",
            b"0::/a/-x\n",
            b"",
        ] {
            assert!(membership(text).claims.is_empty(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn units() {
        for (text, unit) in [
            ("0::/system.slice/kubelet.service\n", Some("kubelet.service")),
            (
                "1:name=systemd:/system.slice/cron.service\n0::/\n",
                Some("cron.service"),
            ),
            (
                "1:name=systemd:/\n0::/system.slice/cron.service\n",
                Some("cron.service"),
            ),
            (
                "0::/system.slice/system-getty.slice/getty@tty1.service\n",
                Some("getty@tty1.service"),
            ),
            (
                "0::/user.slice/user-0.slice/session-3.scope\n",
                Some("session-3.scope"),
            ),
            (
                "0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n",
                Some("user@0.service"),
            ),
            ("0::/system.slice/_notify.service\n", Some("notify.service")),
            ("0::/init.scope\n", Some("init.scope")),
            ("0::/.service\n", None),
            ("8:pids:/a.service\n", None),
            ("0::/\n", None),
        ] {
            assert_eq!(systemd_unit(text.as_bytes()).as_deref(), unit, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = membership(&text);
        }

        #[test]
        fn no_cgroups_path_makes_it_panic(path in ".{0,80}") {
            let found = membership(b"0::/a.slice/b\n");
            let _ = (found.is_in(&path), found.is_beside(&path));
        }

        #[test]
        fn no_path_makes_it_panic_or_leave_its_directory(text in "(0|1):(|pids|name=systemd):(/[a-z.\u{e9}-]{0,9}){0,9}\n") {
            for claim in membership(text.as_bytes()).claims {
                prop_assert!(!claim.id.contains('/') && !claim.id.starts_with('.'));
                prop_assert!(claim.namespace.is_none_or(|name| !name.contains('/') && !name.starts_with('.')));
            }
        }
    }
}
