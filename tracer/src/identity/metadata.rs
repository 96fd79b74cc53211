//! Facts about a container that containerd writes into no bundle: labels, the image, the kubelet's request. They are in
//! the database below containerd's root directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    boltdb::{Entries, Source, bucket},
    owner::PodNotes,
    trusted::Folder,
};

/// Below containerd's root directory (`metadata.go` of its bolt plugin).
const DATABASE: &str = "io.containerd.metadata.v1.bolt/meta.db";
/// Version of its schema: the outermost bucket.
const SCHEMA: &[u8] = b"v1";

/// Pairs of root and state directories, as packagers set them up.
const ROOTS: &[(&str, &str)] = &[
    ("/run/containerd", "/var/lib/containerd"),
    ("/run/k3s/containerd", "/var/lib/rancher/k3s/agent/containerd"),
    ("/run/k0s/containerd", "/var/lib/k0s/containerd"),
    (
        "/var/snap/microk8s/common/run/containerd",
        "/var/snap/microk8s/common/var/lib/containerd",
    ),
];

/// `NamespaceMode` of a namespace that is the host's (k8s.io/cri-api `runtime/v1/api.proto`).
const NODE: u64 = 2;

/// A container in the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) image: Option<String>,
    /// The request to the CRI plugin.
    pub(super) privileged: Option<bool>,
    pub(super) host_pid: Option<bool>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// The facts about a pod, if this is the pod's sandbox.
    pub(super) fn into_notes(self) -> PodNotes {
        PodNotes {
            labels: self.labels,
            annotations: self.annotations,
        }
    }
}

/// The root directory of the containerd that owns a bundle in a state directory. Every bundle has a link `work`, to
/// `<root>/io.containerd.runtime.v2.task/<namespace>/<id>`.
pub(super) fn root_of(folder: &Folder, state: &Path, bundle: &Path) -> Option<PathBuf> {
    let work = folder.link(&bundle.join("work"));
    let by_link = work.and_then(|work| work.ancestors().nth(3).map(Path::to_path_buf));
    by_link.or_else(|| {
        let known = ROOTS.iter().find(|(known, _)| Path::new(known) == state)?;
        Some(PathBuf::from(known.1))
    })
}

/// A container of the database below that root directory.
pub(super) fn read(root: &Folder, namespace: &str, id: &str) -> Option<Metadata> {
    find(&root.file(Path::new(DATABASE))?, namespace, id)
}

/// Reads a database with these bytes: for fuzzing.
pub(crate) fn of_bytes(bytes: &[u8]) -> bool {
    find(&bytes.to_vec(), "k8s.io", "9c41").is_some()
}

fn find(source: &impl Source, namespace: &str, id: &str) -> Option<Metadata> {
    let at = |more: &[&str]| {
        let mut path = vec![SCHEMA, namespace.as_bytes(), b"containers", id.as_bytes()];
        path.extend(more.iter().map(|key| key.as_bytes()));
        bucket(source, &path)
    };
    let container = at(&[])?;
    let extensions = at(&["extensions"]).unwrap_or_default();
    let asked = ["container", "sandbox"]
        .iter()
        .find_map(|what| {
            let name = format!("io.cri-containerd.{what}.metadata");
            let json = any_value(extensions.get(name.as_bytes())?)?;
            serde_json::from_slice::<Value>(json).ok()
        })
        .unwrap_or_default();
    let config = asked.pointer("/Metadata/Config").unwrap_or(&Value::Null);
    // Fields that are false or zero are left out.
    let asked_for = |what: &str| {
        config.get("metadata")?;
        Some(config.pointer(&format!("/linux/security_context{what}")))
    };
    Some(Metadata {
        labels: texts(at(&["labels"]).unwrap_or_default()),
        image: container.get(b"image".as_slice()).and_then(|name| text(name)),
        privileged: asked_for("/privileged").map(|value| value == Some(&Value::Bool(true))),
        host_pid: asked_for("/namespace_options/pid").map(|mode| mode.and_then(Value::as_u64) == Some(NODE)),
        annotations: strings(config.get("annotations")),
    })
}

fn texts(entries: Entries) -> BTreeMap<String, String> {
    let pair = |(key, value): (Vec<u8>, Vec<u8>)| {
        Some((String::from_utf8(key).ok()?, String::from_utf8(value).ok()?))
    };
    entries.into_iter().filter_map(pair).collect()
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8(bytes.to_vec()).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The entries of a JSON object that are strings.
pub(super) fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// `value` of a `google.protobuf.Any`: the second of its two fields of bytes.
fn any_value(mut message: &[u8]) -> Option<&[u8]> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        if key & 7 != 2 {
            return None;
        }
        let len = usize::try_from(varint(&mut message)?).ok()?;
        let (field, rest) = message.split_at_checked(len)?;
        if key >> 3 == 2 {
            return Some(field);
        }
        message = rest;
    }
    None
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::boltdb::testing::{Item, database, leaf};

    /// A container for the database: its id, image, labels, and the CRI plugin's data.
    pub(crate) type Sample = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
        Option<(&'static str, &'static str)>,
    );

    /// The database of a containerd with these containers.
    pub(crate) fn of(namespace: &str, containers: &[Sample]) -> Vec<u8> {
        let container = |(id, image, labels, asked): &Sample| {
            let labels = labels
                .iter()
                .map(|(key, value)| Item::Value(key, (*value).into()));
            let mut items = Vec::new();
            if let Some((extension, json)) = asked {
                let url = "github.com/containerd/cri/pkg/store/container/Metadata";
                let mut any = vec![0x0a, url.len() as u8];
                any.extend(url.as_bytes());
                any.push(0x12);
                let mut len = json.len();
                while len > 0x7f {
                    any.push((len & 0x7f | 0x80) as u8);
                    len >>= 7;
                }
                any.push(len as u8);
                any.extend(json.as_bytes());
                items.push(Item::Small(
                    "extensions".into(),
                    vec![Item::Value(extension, any)],
                ));
            }
            items.push(Item::Value("image", image.as_bytes().to_vec()));
            items.push(Item::Small("labels".into(), labels.collect()));
            Item::Small((*id).to_owned(), items)
        };
        let containers = Item::Small("containers".into(), containers.iter().map(container).collect());
        let namespace = Item::Small(namespace.to_owned(), vec![containers]);
        database(3, vec![leaf(3, &[Item::Small("v1".into(), vec![namespace])])])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{any_value, find, testing};

    const ASKED: &str = r#"{"Version":"v1","Metadata":{"ID":"aa","SandboxID":"bb","Config":{"metadata":{"name":"agent"},
        "annotations":{"kubernetes.io/config.source":"file","n":1},"linux":{"security_context":{"privileged":true,"namespace_options":{"network":2,"pid":2}}}}}}"#;

    #[test]
    fn what_the_fuzzer_starts_from_has_what_is_looked_for() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/boltdb");
        let read = |name: &str| std::fs::read(corpus.join(name)).unwrap();
        let found = find(&read("small"), "k8s.io", "9c41").unwrap();
        assert_eq!((found.privileged, found.host_pid), (Some(true), Some(true)));
        assert_eq!(found.labels["app"], "web");
        let found = find(&read("tree"), "k8s.io", "9c41").unwrap();
        assert_eq!(
            (found.image.as_deref(), found.labels["k"].as_str()),
            (Some("x"), "v")
        );
    }

    #[test]
    fn what_the_cri_plugin_keeps() {
        let labels = &[("io.kubernetes.container.name", "agent")];
        let file = testing::of(
            "k8s.io",
            &[
                (
                    "aa",
                    "busybox:1",
                    labels,
                    Some(("io.cri-containerd.container.metadata", ASKED)),
                ),
                (
                    "bb",
                    "pause:1",
                    &[],
                    Some((
                        "io.cri-containerd.sandbox.metadata",
                        "{\"Metadata\":{\"Config\":{\"metadata\":{}}}}",
                    )),
                ),
                ("cc", "x", &[], Some(("io.cri-containerd.sandbox.metadata", "{"))),
            ],
        );
        let found = find(&file, "k8s.io", "aa").unwrap();
        assert_eq!(
            (found.image.as_deref(), found.privileged),
            (Some("busybox:1"), Some(true))
        );
        assert_eq!(found.host_pid, Some(true));
        assert_eq!(found.labels["io.kubernetes.container.name"], "agent");
        assert_eq!(found.annotations.len(), 1);
        assert_eq!(found.annotations["kubernetes.io/config.source"], "file");
        assert_eq!(find(&file, "k8s.io", "bb").unwrap().privileged, Some(false));
        assert_eq!(find(&file, "k8s.io", "bb").unwrap().host_pid, Some(false));
        assert_eq!(find(&file, "k8s.io", "cc").unwrap().privileged, None);
        assert_eq!(
            (find(&file, "k8s.io", "dd"), find(&file, "moby", "aa")),
            (None, None)
        );
    }

    #[test]
    fn messages_that_are_none() {
        for bytes in [
            &b""[..],
            b"\x0a",
            b"\x0a\x7f",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x08\x01",
            &[0xff; 20],
        ] {
            assert_eq!(any_value(bytes), None, "{bytes:?}");
        }
        assert_eq!(any_value(b"\x12\x01x"), Some(&b"x"[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = any_value(&bytes);
        }
    }
}
