//! Docker and Podman with folders of their own.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid},
};
use tempfile::TempDir;

use crate::{holder::PATIENCE, image, pause};

/// The image's name for both engines.
pub const IMAGE: &str = "localhost/ebusy-test:latest";

/// A program in the search path.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // runc and dockerd are in a folder for root, which is not in every PATH.
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// dockerd and docker.
    Docker,
    /// podman and conmon.
    Podman,
}

impl Kind {
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &[
                "docker",
                "dockerd",
                "containerd",
                "containerd-shim-runc-v2",
                "runc",
                "busybox",
            ],
            Self::Podman => &["podman", "conmon", "runc", "busybox"],
        }
    }

    /// The reason if it cannot run here.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        if let Some(program) = self.programs().iter().find(|program| find(program).is_none()) {
            return Some(format!("no {program}"));
        }
        // A program that was unpacked for another release of the system does not start.
        let output = command(self.programs()[0]).ok()?.arg("--version").output();
        match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// A program with the libraries that were unpacked beside it.
fn command(program: &str) -> Result<Command> {
    let path = find(program).with_context(|| program.to_owned())?;
    let libraries = path
        .ancestors()
        .nth(2)
        .map(|root| root.join("lib/x86_64-linux-gnu"));
    let mut command = Command::new(path);
    if let Some(libraries) = libraries.filter(|libraries| !libraries.starts_with("/usr")) {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    let search = env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{search}:/usr/sbin:/sbin"))
        .stdin(Stdio::null());
    Ok(command)
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    daemon: Option<Child>,
    containers: Vec<String>,
    directory: TempDir,
}

impl Engine {
    /// Starts it, with the image imported. Call this in a mount namespace of the test's own.
    pub fn start(kind: Kind) -> Result<Self> {
        set_child_subreaper(Pid::from_raw(std::process::id() as i32))?;
        let directory = tempfile::Builder::new().prefix("ebusy-engine-").tempdir()?;
        let mut engine = Self {
            kind,
            daemon: None,
            containers: Vec::new(),
            directory,
        };
        match kind {
            Kind::Docker => engine.start_docker()?,
            Kind::Podman => engine.configure_podman()?,
        }
        let archive = engine.root_archive()?;
        engine.run(&["import", &archive.display().to_string(), IMAGE])?;
        Ok(engine)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn start_docker(&mut self) -> Result<()> {
        let daemon = command("dockerd")?
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
            ])
            .args(["--bridge=none", "--storage-driver", "overlay2"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args([
                "--data-root",
                &self.path("data"),
                "--exec-root",
                &self.path("exec"),
            ])
            .args([
                "--pidfile",
                &self.path("pid"),
                "--host",
                &format!("unix://{}", self.path("s")),
            ])
            .stdout(Stdio::null())
            .stderr(File::create(self.path("log"))?)
            .spawn()
            .context("start dockerd")?;
        self.daemon = Some(daemon);
        pause::until(PATIENCE, || Ok(self.run(&["version"]).ok().map(drop)))
            .with_context(|| format!("dockerd does not answer: {:?}", self.run(&["version"])))
    }

    fn configure_podman(&self) -> Result<()> {
        let program = |name: &str| {
            find(name)
                .map(|path| path.display().to_string())
                .with_context(|| name.to_owned())
        };
        let configuration = format!(
            "[containers]\napparmor_profile = \"\"\n[engine]\nruntime = \"runc\"\nevents_logger = \"file\"\n\
             conmon_path = [{:?}]\n[engine.runtimes]\nrunc = [{:?}]\n",
            program("conmon")?,
            program("runc")?
        );
        fs::write(self.path("containers.conf"), configuration)?;
        // The first place where it looks for the policy of image signatures.
        let home = self.directory.path().join(".config/containers");
        fs::create_dir_all(&home)?;
        fs::write(
            home.join("policy.json"),
            r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
        )?;
        Ok(())
    }

    fn client(&self) -> Result<Command> {
        Ok(match self.kind {
            Kind::Docker => {
                let mut command = command("docker")?;
                command.args(["--host", &format!("unix://{}", self.path("s"))]);
                command
            }
            Kind::Podman => {
                let mut command = command("podman")?;
                command
                    .env("HOME", self.directory.path())
                    .env("CONTAINERS_CONF", self.path("containers.conf"))
                    .args(["--root", &self.path("storage"), "--runroot", &self.path("run")])
                    .args(["--tmpdir", &self.path("tmp"), "--storage-driver", "overlay"])
                    .args(["--cgroup-manager", "cgroupfs"]);
                command
            }
        })
    }

    /// Runs a command of the engine, which must succeed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        image::output(self.client()?.args(arguments)).with_context(|| {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            format!("{:?} {arguments:?} {last:?}", self.kind)
        })
    }

    /// Starts a container without a network; the answer is its id.
    pub fn container(&mut self, name: &str, options: &[&str], words: &[&str]) -> Result<String> {
        let mut arguments = vec!["run", "--detach", "--network", "none", "--name", name];
        if self.kind == Kind::Podman {
            // Its default limits may be above those of this machine.
            arguments.extend(["--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256"]);
            arguments.extend(["--log-driver", "none"]);
        }
        arguments.extend(options);
        arguments.push(IMAGE);
        arguments.extend(words);
        self.containers.push(name.to_owned());
        Ok(self.run(&arguments)?.trim().to_owned())
    }

    /// A container's root file system on the host.
    pub fn rootfs(&self, name: &str) -> Result<PathBuf> {
        let merged = self.run(&["inspect", "--format", "{{.GraphDriver.Data.MergedDir}}", name])?;
        Ok(PathBuf::from(merged.trim()))
    }

    /// The folder that containers see below `/host`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn root_archive(&self) -> Result<PathBuf> {
        let root = self.directory.path().join("image");
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("var/log"))?;
        fs::copy(find("busybox").context("busybox")?, root.join("bin/busybox"))?;
        for name in ["sh", "sleep"] {
            symlink("busybox", root.join("bin").join(name))?;
        }
        fs::write(root.join(image::FILE.trim_start_matches('/')), "started\n")?;
        let archive = self.directory.path().join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&root)
            .arg(".");
        image::output(&mut tar)?;
        Ok(archive)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for name in std::mem::take(&mut self.containers) {
            let _ = self.run(&["rm", "--force", &name]);
        }
        if let Some(mut daemon) = self.daemon.take() {
            // It ends its own containerd.
            if let Some(pid) = Pid::from_raw(daemon.id() as i32) {
                let _ = kill_process(pid, Signal::TERM);
            }
            let _ = pause::until(Duration::from_secs(20), || Ok(daemon.try_wait()?));
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        end_children(&["containerd-shim", "containerd", "conmon", "sleep", "sh"]);
        detach_below(self.directory.path());
    }
}

/// Ends the processes with these names that this process has adopted; nobody else waits for them.
pub fn end_children(names: &[&str]) {
    // This process adopts the container's processes when their shim ends.
    for _ in 0..3 {
        for (pid, comm) in children() {
            if names.iter().any(|name| comm == *name)
                && let Some(pid) = Pid::from_raw(pid)
            {
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        }
    }
}

fn children() -> Vec<(i32, String)> {
    let own = format!("PPid:\t{}", std::process::id());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let is_own = status.lines().any(|line| line == own);
            let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
            is_own.then(|| (pid, comm.trim().to_owned()))
        })
        .collect()
}

/// Unmounts everything that a runtime left mounted in its folders, so that they can be removed.
pub fn detach_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| Path::new(point).starts_with(directory)) {
        let _ = unmount(point, UnmountFlags::DETACH);
    }
}
