//! A real containerd with folders of its own, and containers in it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid},
};
use tempfile::TempDir;

use crate::{
    engines::{detach_below, find},
    holder::PATIENCE,
    image, pause,
};

/// The containerd namespace of the tests; also the name of their cgroups.
pub const NAMESPACE: &str = "ebusy-test";

/// Directories that containerd, runc and the shim use outside of their configured folders.
const RUN: &str = "/run/containerd";

/// The required programs, and the Debian packages that have them.
const NEEDED: [(&str, &str); 5] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    daemon: Child,
    containers: Vec<Container>,
    directory: TempDir,
    namespace: &'static str,
}

/// A container that was started.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its root file system on the host.
    pub rootfs: PathBuf,
    /// The process id of its first process.
    pub init: u32,
    /// The process id of its shim.
    pub shim: u32,
}

/// Tries to install missing programs; returns the reason if containerd cannot run here.
pub fn missing() -> Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING
        .get_or_init(|| {
            let packages = missing_packages();
            if packages.is_empty() {
                return None;
            }
            match install(&packages) {
                Ok(()) if missing_packages().is_empty() => None,
                Ok(()) => Some(format!("no {}", packages.join(", "))),
                Err(error) => Some(format!("no {}: {error:#}", packages.join(", "))),
            }
        })
        .clone()
}

fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> = NEEDED
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = find("apt-get").context("and no apt-get")?;
    let run = |arguments: &[&str]| {
        image::output(
            Command::new(&apt)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(arguments),
        )
        .map(drop)
    };
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    // The lists may be missing or old.
    run(&arguments).or_else(|_| run(&["update"]).and_then(|()| run(&arguments)))
}

impl Containerd {
    /// Starts it, with the image imported. Call this in a mount namespace of the test's own.
    pub fn start() -> Result<Self> {
        Self::with(
            "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
            "",
            NAMESPACE,
        )
    }

    /// Starts it with the plugin that the kubelet talks to, which keeps its containers in this namespace.
    pub fn with_cri(namespace: &'static str) -> Result<Self> {
        let plugin = "[plugins.\"io.containerd.grpc.v1.cri\"]\ndisable_apparmor = true\n\
            restrict_oom_score_adj = true\nsandbox_image = ";
        Self::with("", &format!("{plugin}{:?}\n", image::NAME), namespace)
    }

    fn with(head: &str, plugins: &str, namespace: &'static str) -> Result<Self> {
        // Shims are orphans; adopt them in place of the machine's first process.
        set_child_subreaper(Pid::from_raw(std::process::id() as i32))?;
        fs::create_dir_all(RUN)?;
        // The files of the machine's own containerd stay unseen and unharmed.
        mount("ebusy-run", RUN, "tmpfs", MountFlags::empty(), None).context(RUN)?;

        let directory = tempfile::Builder::new().prefix("ebusy-ctd-").tempdir()?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{head}\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n{plugins}",
            path("root"),
            path("state"),
            path("c.sock"),
            path("t.sock"),
        );
        fs::write(path("config.toml"), config)?;
        let mut containerd = Self {
            daemon: daemon(directory.path())?,
            containers: Vec::new(),
            directory,
            namespace,
        };
        containerd.wait_until_it_answers()?;
        let images = containerd.directory.path().join("image");
        fs::create_dir(&images)?;
        let archive = image::archive(&find("busybox").context("busybox")?, &images)?;
        containerd.ctr_ok(&["image", "import", &archive.display().to_string()])?;
        Ok(containerd)
    }

    /// Kills it while its containers run, and starts it again: it takes them over.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon.wait()?;
        self.daemon = daemon(self.directory.path())?;
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        pause::until(PATIENCE, || {
            if self.ctr(&["version"])?.status.success() {
                return Ok(Some(()));
            }
            ensure!(self.daemon.try_wait()?.is_none(), "containerd ended");
            Ok(None)
        })
        .with_context(|| format!("containerd does not answer\n{}", self.log()))
    }

    /// Its folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs `ctr`.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(find("ctr").context("ctr")?)
            .args([
                "--address",
                &self.directory.path().join("c.sock").display().to_string(),
            ])
            .args(["--namespace", self.namespace])
            .args(arguments)
            .output()
            .context("ctr")
    }

    /// Runs `ctr`, which must succeed.
    pub fn ctr_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ctr(arguments)?;
        if !output.status.success() {
            bail!(
                "ctr {arguments:?}: {}\n{}",
                String::from_utf8_lossy(&output.stderr),
                self.log()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a container that sleeps, with annotations as Kubernetes gives them.
    pub fn run(&mut self, id: &str, annotations: &[(&str, &str)]) -> Result<Container> {
        let mut arguments = vec!["run".to_owned(), "--detach".to_owned(), "--null-io".to_owned()];
        // The usual one is hidden from ebusy, which looks in the host's mount namespace.
        let state = self.directory.path().join("runc");
        arguments.extend(["--runc-root".to_owned(), state.display().to_string()]);
        for (name, value) in annotations {
            arguments.extend(["--annotation".to_owned(), format!("{name}={value}")]);
        }
        arguments.extend([image::NAME, id, "/bin/sleep", "1000"].map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.ctr_ok(&arguments)?;
        let bundle = self
            .directory
            .path()
            .join("state/io.containerd.runtime.v2.task")
            .join(NAMESPACE)
            .join(id);
        let init: u32 = fs::read_to_string(bundle.join("init.pid"))?.trim().parse()?;
        let container = Container {
            id: id.to_owned(),
            rootfs: bundle.join("rootfs"),
            init,
            shim: parent(init)?,
        };
        self.containers.push(container.clone());
        Ok(container)
    }

    /// Kills a container's process, and waits until containerd knows.
    pub fn kill(&self, container: &Container) -> Result<()> {
        self.ctr_ok(&["task", "kill", "--signal", "SIGKILL", &container.id])?;
        pause::until(PATIENCE, || {
            let tasks = self.ctr_ok(&["task", "list"])?;
            let mut lines = tasks.lines().filter(|line| line.starts_with(&container.id));
            Ok(lines.all(|line| line.contains("STOPPED")).then_some(()))
        })
        .with_context(|| format!("container {} does not stop", container.id))
    }
}

/// Starts the program; it appends to the log.
fn daemon(directory: &Path) -> Result<Child> {
    let path = std::env::var("PATH").unwrap_or_default();
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))?;
    Command::new(find("containerd").context("containerd")?)
        .arg("--config")
        .arg(directory.join("config.toml"))
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start containerd")
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for container in std::mem::take(&mut self.containers) {
            // A proper stop first, which also removes the cgroups; after a successful test nothing is left.
            let _ = self.ctr(&["task", "kill", "--signal", "SIGKILL", &container.id]);
            let _ = self.ctr(&["task", "delete", "--force", &container.id]);
            let _ = self.ctr(&["container", "delete", &container.id]);
            kill_if(container.init, "sleep");
            kill_if(container.shim, "containerd-shim");
            // This process adopted it; nobody else waits for it.
            let _ = waitpid(Pid::from_raw(container.shim as i32), WaitOptions::empty());
            let _ = unmount(&container.rootfs, UnmountFlags::DETACH);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        detach_below(self.directory.path());
        let _ = unmount(RUN, UnmountFlags::DETACH);
        remove_cgroups();
    }
}

/// Kills a process if it is still the same: its id may belong to another by now.
fn kill_if(pid: u32, comm: &str) {
    let is_still = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == comm);
    if is_still && let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// runc removes a container's cgroup, but not the one above it.
fn remove_cgroups() {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else {
        return;
    };
    let folders = hierarchies
        .flatten()
        .map(|entry| entry.path())
        .chain([PathBuf::from("/sys/fs/cgroup")]);
    for folder in folders {
        let _ = fs::remove_dir(Path::new(&folder).join(NAMESPACE));
    }
}

fn parent(pid: u32) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .context("PPid")?;
    Ok(line.trim().parse()?)
}
