//! Pods by the interface that the kubelet uses: a containerd with its CRI plugin, and the few calls that tests need.
//!
//! The calls are made by curl: a request of gRPC is a POST of HTTP/2 with a message of Protocol Buffers, and the numbers
//! of its fields (k8s.io/cri-api `runtime/v1/api.proto`) never change.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    containerd::{self, Containerd},
    engines::{end_children, find},
    holder::PATIENCE,
    image, pause,
};

/// containerd's namespace of the pods.
pub const NAMESPACE: &str = "k8s.io";

/// A message of Protocol Buffers.
#[derive(Debug, Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn map(self, field: u64, pairs: &[(&str, &str)]) -> Self {
        pairs.iter().fold(self, |whole, (key, value)| {
            whole.message(field, &Self::default().text(1, key).text(2, value))
        })
    }
}

/// A pod on the host's network.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields are those of Kubernetes")]
pub struct Pod<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub uid: &'a str,
    pub labels: &'a [(&'a str, &'a str)],
    pub annotations: &'a [(&'a str, &'a str)],
    pub privileged: bool,
    pub host_pid: bool,
}

/// How a volume receives mounts of the host.
#[derive(Debug, Clone, Copy)]
pub enum Propagation {
    /// `None` of Kubernetes.
    Private,
    /// `HostToContainer`.
    HostToContainer,
}

/// A container of a pod, of the tests' image.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// Its name in the pod.
    pub name: &'a str,
    /// Its command.
    pub command: &'a [&'a str],
    /// Propagation of the host's `/` at `/host`, if it is mounted.
    pub host: Option<Propagation>,
}

impl Pod<'_> {
    fn namespaces(self) -> Message {
        // The host's network; the host's pid namespace, or one for each container.
        let pid = if self.host_pid { 2 } else { 1 };
        Message::default().number(1, 2).number(2, pid)
    }

    fn config(self) -> Message {
        let metadata = Message::default()
            .text(1, self.name)
            .text(2, self.uid)
            .text(3, self.namespace);
        let security = Message::default()
            .message(1, &self.namespaces())
            .number(6, u64::from(self.privileged));
        let linux = Message::default()
            .text(1, &format!("/{}", containerd::NAMESPACE))
            .message(2, &security);
        Message::default()
            .message(1, &metadata)
            .map(6, self.labels)
            .map(7, self.annotations)
            .message(8, &linux)
    }

    fn container(self, spec: Spec<'_>) -> Message {
        let security = Message::default()
            .number(2, u64::from(self.privileged))
            .message(3, &self.namespaces());
        let mut config = Message::default()
            .message(1, &Message::default().text(1, spec.name))
            .message(2, &Message::default().text(1, image::NAME));
        for word in spec.command {
            config = config.text(3, word);
        }
        if let Some(propagation) = spec.host {
            let mount = Message::default()
                .text(1, "/host")
                .text(2, "/")
                .number(5, propagation as u64);
            config = config.message(7, &mount);
        }
        // The kubelet puts these on every container; the pod's own labels are those of the sandbox.
        let labels = [
            ("io.kubernetes.container.name", spec.name),
            ("io.kubernetes.pod.name", self.name),
            ("io.kubernetes.pod.namespace", self.namespace),
            ("io.kubernetes.pod.uid", self.uid),
        ];
        config
            .map(9, &labels)
            .message(15, &Message::default().message(2, &security))
    }
}

/// A containerd with pods.
#[derive(Debug)]
pub struct Node {
    /// The runtime.
    pub containerd: Containerd,
    sandboxes: Vec<String>,
}

/// The reason if pods cannot run here.
#[must_use]
pub fn missing() -> Option<String> {
    containerd::missing().or_else(|| find("curl").is_none().then(|| "no curl".to_owned()))
}

impl Node {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let containerd = Containerd::with_cri(NAMESPACE)?;
        let node = Self {
            containerd,
            sandboxes: Vec::new(),
        };
        // The plugin learns of an imported image a moment later.
        let status = Message::default().message(1, &Message::default().text(1, image::NAME));
        pause::until(PATIENCE, || {
            let answer = node.call("ImageService/ImageStatus", &status, PATIENCE)?;
            Ok((!answer.is_empty()).then_some(()))
        })
        .with_context(|| format!("the image does not appear\n{}", node.containerd.log()))?;
        Ok(node)
    }

    fn call(&self, method: &str, request: &Message, patience: Duration) -> Result<Vec<u8>> {
        let at = |name: &str| self.containerd.directory().join(name);
        let mut framed = vec![0];
        framed.extend((request.0.len() as u32).to_be_bytes());
        framed.extend(&request.0);
        fs::write(at("request"), framed)?;
        let _ = fs::remove_file(at("answer"));
        let output = Command::new(find("curl").context("curl")?)
            .args([
                "--silent",
                "--show-error",
                "--http2-prior-knowledge",
                "--max-time",
            ])
            .arg(patience.as_secs().to_string())
            .arg("--unix-socket")
            .arg(at("c.sock"))
            .args([
                "--header",
                "content-type: application/grpc",
                "--header",
                "te: trailers",
            ])
            .arg("--data-binary")
            .arg(format!("@{}", at("request").display()))
            .arg("--dump-header")
            .arg(at("headers"))
            .arg("--output")
            .arg(at("answer"))
            .arg(format!("http://localhost/runtime.v1.{method}"))
            .stdin(Stdio::null())
            .output()
            .context("curl")?;
        let headers = fs::read_to_string(at("headers")).unwrap_or_default();
        if !output.status.success() || !headers.lines().any(|line| line == "grpc-status: 0") {
            bail!(
                "{method}: {headers}{}\n{}",
                String::from_utf8_lossy(&output.stderr),
                self.containerd.log()
            );
        }
        let answer = fs::read(at("answer")).unwrap_or_default();
        Ok(answer.get(5..).unwrap_or_default().to_vec())
    }

    /// Makes a pod; the answer is the id of its sandbox.
    pub fn pod(&mut self, pod: Pod<'_>) -> Result<String> {
        let request = Message::default().message(1, &pod.config());
        let id = first_text(&self.call("RuntimeService/RunPodSandbox", &request, PATIENCE)?)?;
        self.sandboxes.push(id.clone());
        Ok(id)
    }

    /// Starts a container in a pod; the answer is its id.
    pub fn container(&self, sandbox: &str, pod: Pod<'_>, spec: Spec<'_>) -> Result<String> {
        let request = Message::default()
            .text(1, sandbox)
            .message(2, &pod.container(spec))
            .message(3, &pod.config());
        let id = first_text(&self.call("RuntimeService/CreateContainer", &request, PATIENCE)?)?;
        let request = Message::default().text(1, &id);
        self.call("RuntimeService/StartContainer", &request, PATIENCE)?;
        Ok(id)
    }

    /// The bundle of a container.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        let state = self
            .containerd
            .directory()
            .join("state/io.containerd.runtime.v2.task");
        state.join(NAMESPACE).join(id)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for sandbox in std::mem::take(&mut self.sandboxes) {
            let request = Message::default().text(1, &sandbox);
            for method in ["StopPodSandbox", "RemovePodSandbox"] {
                let _ = self.call(
                    &format!("RuntimeService/{method}"),
                    &request,
                    Duration::from_secs(10),
                );
            }
        }
        end_children(&["containerd-shim", "sleep", "sh"]);
    }
}

/// The first field of an answer, which must be a text of less than 128 bytes.
fn first_text(answer: &[u8]) -> Result<String> {
    let (head, rest) = answer.split_first_chunk::<2>().context("an answer")?;
    ensure!(head[0] == 1 << 3 | 2, "no text in {answer:?}");
    let text = rest.get(..usize::from(head[1])).context("a whole answer")?;
    Ok(String::from_utf8(text.to_vec())?)
}
