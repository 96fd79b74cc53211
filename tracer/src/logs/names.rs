//! Whose something is, as far as a message says: ids of containers, pods.

use super::text::is_word;
use crate::{
    identity::{MountOwner, is_pod_uid, mount_claim},
    model::Text,
};

/// Containers that one message names.
const IDS_MAX: usize = 8;
/// Bytes of a name of a pod, a namespace or a container.
const NAME_MAX: usize = 253;

/// Whose it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// The container that was meant, and then the others.
    pub(super) containers: Vec<String>,
    pub(super) pod: Option<String>,
    pub(super) pod_namespace: Option<String>,
    pub(super) pod_uid: Option<String>,
}

/// Names of fields that have the id of a container, in the order in which they count; the second says whether a name that
/// is no number is one as well, as containerd and kata allow.
const CONTAINER_FIELDS: [(&str, bool); 15] = [
    ("container_id", true),
    ("containerid", true),
    ("container-id", true),
    ("container.id", true),
    ("container", true),
    ("containers/", false),
    ("container ", false),
    ("container_uuid", false),
    ("id", false),
    ("sandbox ", false),
    ("sandboxid", true),
    ("sandbox_id", true),
    ("sandbox", true),
    ("podsandboxid", true),
    ("cid", false),
];

/// From the path, else from what the message calls it.
pub(super) fn names(message: &[u8], target: Option<&Text>) -> Names {
    let mut names = Names::default();
    match target.and_then(|target| mount_claim(target.as_bytes())?.owner) {
        Some(
            MountOwner::Task { id, .. }
            | MountOwner::Sandbox { id, .. }
            | MountOwner::Storage { id, .. }
            | MountOwner::Docker { id, .. },
        ) => names.containers.push(id),
        Some(MountOwner::Pod { uid }) => names.pod_uid = Some(uid),
        _ => {}
    }
    let text = String::from_utf8_lossy(message).replace('\\', "");
    let fields = Fields::of(&text);
    // The shims of containerd call their container so, and others all sorts of things.
    let of_shim = text.contains("shim");
    for (field, any) in CONTAINER_FIELDS {
        let any = any || field == "id" && of_shim;
        let found = fields.values(field).filter_map(|value| container_id(value, any));
        found.for_each(|id| add(&mut names.containers, id));
    }
    for id in ids_in(&text) {
        add(&mut names.containers, id);
    }
    (names.pod_namespace, names.pod) = pod(&fields, &text);
    if names.pod_uid.is_none() {
        names.pod_uid = pod_uid(&fields, &text);
    }
    names
}

fn add(ids: &mut Vec<String>, id: &str) {
    if ids.len() < IDS_MAX && !ids.iter().any(|known| known == id) {
        ids.push(id.to_owned());
    }
}

/// A number of 64 digits, or of the 12 that Docker prints; where `any`, a name.
fn container_id(value: &str, any: bool) -> Option<&str> {
    // `containerd://ID`, `ID:shm`, `k8s.io/ID`.
    let value = value.rsplit("//").next()?.split([':', '/']).next()?;
    let hex = value.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = hex && matches!(value.len(), 12 | 64);
    let name = any
        && (1..=76).contains(&value.len())
        && value.bytes().all(is_word)
        && value.bytes().any(|byte| byte.is_ascii_lowercase())
        && !is_pod_uid(value);
    (number || name).then_some(value)
}

/// Ids wherever they stand, but in a path: there they can be those of layers. `docker-8:1-1234-ID` is the device of one.
fn ids_in(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>, signs: &[u8]| {
        byte.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !signs.contains(byte))
    };
    text.split(|char: char| !char.is_ascii_hexdigit())
        .filter(|part| part.len() == 64)
        .filter(move |part| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            let before = start.checked_sub(1).and_then(|at| bytes.get(at));
            // That of an image has the name of its algorithm before it.
            ends(before, b"/_:") && ends(bytes.get(start + 64), b"/_")
        })
        .take(IDS_MAX)
}

/// Namespace and pod.
fn pod(fields: &Fields<'_>, text: &str) -> (Option<String>, Option<String>) {
    let one = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| fields.values(name).find(|value| is_name(value)))
    };
    if let Some((namespace, pod)) = fields.values("pod").find_map(|value| value.split_once('/'))
        && is_name(namespace)
        && is_name(pod)
    {
        return (Some(namespace.to_owned()), Some(pod.to_owned()));
    }
    // `pod "NAME_NAMESPACE(UID)"` of older kubelets.
    let older = text.split([' ', '"', '\'']).find_map(|word| {
        let (name, uid) = word.split_once('(')?;
        let (pod, namespace) = name.split_once('_')?;
        (is_pod_uid(uid.get(..36)?) && is_name(pod) && is_name(namespace)).then_some((namespace, pod))
    });
    if let Some((namespace, pod)) = older {
        return (Some(namespace.to_owned()), Some(pod.to_owned()));
    }
    let pod = one(&["podname", "pod_name", "pod"]).filter(|pod| !is_pod_uid(pod));
    let namespace = one(&["podnamespace", "pod_namespace", "namespace"]);
    match (namespace, pod) {
        (Some(namespace), Some(pod)) => (Some(namespace.to_owned()), Some(pod.to_owned())),
        _ => (None, None),
    }
}

fn pod_uid(fields: &Fields<'_>, text: &str) -> Option<String> {
    let named = ["poduid", "pod_uid", "uid", "pod"]
        .into_iter()
        .find_map(|name| fields.values(name).find(|value| is_pod_uid(value)));
    let after = |key: &str| text.split_once(key)?.1.get(..36).filter(|uid| is_pod_uid(uid));
    let uid = named.or_else(|| after("(UID: \"")).or_else(|| after("pod \""))?;
    Some(uid.to_owned())
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

/// Values with what stands before them: `name=value`, `name: "value"`, `"name":"value"`, `name "value"`.
struct Fields<'t> {
    all: Vec<(String, &'t str)>,
}

/// Fields of one message.
const FIELDS_MAX: usize = 256;

impl<'t> Fields<'t> {
    fn of(text: &'t str) -> Self {
        let mut all = Vec::new();
        let mut word = 0..0;
        let mut at = 0;
        while all.len() < FIELDS_MAX
            && let Some(length) = text
                .get(at..)
                .and_then(|rest| rest.find(|char: char| !is_word_char(char)))
        {
            let sign = at + length;
            if length > 0 {
                word = at..sign;
            }
            let next = text[sign..].chars().next().map_or(1, char::len_utf8);
            at = sign + next;
            let Some(rest) = text.get(at..) else { break };
            let name = text.get(word.clone()).unwrap_or_default();
            // How a value follows the name that ends right here.
            let value = match text.as_bytes()[sign] {
                b'=' | b':' if word.end + 1 >= sign => Some(rest.trim_start_matches([' ', '"', '\''])),
                b' ' if word.end == sign
                    && (rest.starts_with('"') || name.ends_with("ontainer") || name.ends_with("andbox")) =>
                {
                    Some(rest.trim_start_matches(['"', '\'']))
                }
                b'/' if word.end == sign && name == "containers" => Some(rest),
                _ => None,
            };
            let spaced = text.as_bytes()[sign] == b' ' && value.is_some();
            if let Some(value) = value.filter(|_| !name.is_empty() && name.len() <= 64) {
                let end = value
                    .find([' ', '"', '\'', ',', ')', '}', ']', '\n', ';'])
                    .unwrap_or(value.len());
                let value = value[..end].trim_end_matches(':');
                let mut name = name.to_ascii_lowercase();
                match text.as_bytes()[sign] {
                    b'/' => name.push('/'),
                    b' ' if spaced && name.ends_with("container") => "container ".clone_into(&mut name),
                    b' ' if spaced && name.ends_with("sandbox") => "sandbox ".clone_into(&mut name),
                    _ => {}
                }
                if !value.is_empty() && value.len() <= 300 {
                    all.push((name, value));
                }
            }
        }
        Self { all }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'t str> {
        self.all
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| *value)
    }
}

fn is_word_char(char: char) -> bool {
    char.is_ascii() && is_word(char as u8)
}

#[cfg(test)]
mod tests {
    use super::names;

    const ID: &str = "cb2f65ddcc4aa630d20c69e0acb4d50824eff73327c8ffa8028f4db48758b5ec";
    const UID: &str = "b90018a9-9120-49b8-ab80-7f372f55b46a";

    #[test]
    fn ids_of_containers_in_every_form() {
        for text in [
            "container=<ID>",
            "container_id:\"<ID>\"",
            "containerID=containerd://<ID>",
            "\"containerID\": \"<ID>\"",
            "container <ID>: busy",
            "container \"<ID>\" is busy",
            "Cannot destroy container <ID>: busy",
            "StopPodSandbox \"<ID>\" failed",
            "sandbox=<ID> pid=3",
            "id=<ID>",
            "Handler for DELETE /v1.42/containers/<ID> returned",
            "for <ID>, busy",
            "device docker-253:1-1234-<ID> busy",
            "sandbox: \"<ID>\"",
        ] {
            let found = names(text.replace("<ID>", ID).as_bytes(), None);
            assert_eq!(found.containers, [ID], "{text}");
        }
        assert_eq!(
            names(b"container=test-kata sandbox=hi", None).containers,
            ["test-kata", "hi"]
        );
        assert_eq!(
            names(b"container 0123456789ab", None).containers,
            ["0123456789ab"]
        );
        for text in [
            "overlay2/<ID>/merged",
            "sha256:<ID>",
            "id=5c1afc50-1f",
            "container failed",
            "container: busy",
        ] {
            let found = names(text.replace("<ID>", ID).as_bytes(), None).containers;
            assert!(found.iter().all(|id| id == "busy"), "{text}: {found:?}");
        }
    }

    #[test]
    fn pods_in_every_form() {
        for text in [
            "pod=\"shop/web-1\"",
            "pod=shop/web-1",
            "pod \"web-1_shop(UID)\"",
            "podName=web-1 namespace=shop",
            "\"pod\":\"shop/web-1\"",
            "pod: \"shop/web-1\"",
        ] {
            let found = names(text.replace("UID", UID).as_bytes(), None);
            let found = found.pod_namespace.zip(found.pod);
            assert_eq!(found, Some(("shop".to_owned(), "web-1".to_owned())), "{text}");
        }
        for text in [
            "podUID=UID",
            "podUID=\"UID\"",
            "(UID: \"UID\")",
            "pod \"UID\"",
            "\"pod_uid\":\"UID\"",
        ] {
            let text = text
                .replace("\"UID\"", &format!("\"{UID}\""))
                .replace("=UID", &format!("={UID}"));
            assert_eq!(
                names(text.as_bytes(), None).pod_uid.as_deref(),
                Some(UID),
                "{text}"
            );
        }
        assert_eq!(names("pod \u{e9}\"x".as_bytes(), None).pod, None);
    }
}
