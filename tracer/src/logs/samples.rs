//! Real lines, from public issues, with their names changed where they were somebody's.

use jiff::tz::TimeZone;

use super::{BusyError, LogClock, LogCounts, LogLine, LogReader};
use crate::model::Timestamp;

const ID: &str = "cb2f65ddcc4aa630d20c69e0acb4d50824eff73327c8ffa8028f4db48758b5ec";

fn clock() -> LogClock {
    LogClock {
        // 2025-08-14
        now: Timestamp::from_nanos(1_755_129_600_000_000_000),
        boot: Some(Timestamp::from_nanos(1_755_000_000_000_000_000)),
        zone: TimeZone::UTC,
    }
}

pub(super) fn read(log: &[u8]) -> (Vec<LogLine>, LogCounts) {
    let mut reader = LogReader::new(log, clock());
    let lines = reader.by_ref().map(|line| line.unwrap()).collect();
    (lines, reader.counts())
}

pub(super) fn one(log: &str) -> LogLine {
    let (mut lines, _) = read(log.as_bytes());
    assert_eq!(lines.len(), 1, "{log}\n{lines:#?}");
    lines.remove(0)
}

/// Time, source, error, target.
fn brief(log: &str) -> (String, String, BusyError, String) {
    let line = one(log);
    (
        line.time.map_or_else(|| "-".to_owned(), |time| time.to_string()),
        line.source.unwrap_or_else(|| "-".to_owned()),
        line.error,
        line.target
            .map_or_else(|| "-".to_owned(), |target| target.to_str_lossy().into_owned()),
    )
}

fn check(log: &str, time: &str, source: &str, error: BusyError, target: &str) {
    let expected = (time.to_owned(), source.to_owned(), error, target.to_owned());
    assert_eq!(brief(log), expected, "{log}");
}

fn backoff() -> String {
    format!(
        r#"time="2025-02-07T11:37:40.033235013Z" level=error msg="Failed to handle backOff event container_id:\"{ID}\"  id:\"{ID}\"  pid:19929  exited_at:{{seconds:1738926507  nanos:20155314}} for {ID}" error="failed to handle container TaskExit event: failed to stop container: failed to delete task: failed rootfs umount: failedto unmount target /run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/rootfs: device or resource busy: unknown""#
    )
}

const WHEN: &str = "2025-02-07T11:37:40.033235013Z";

fn rootfs() -> String {
    format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/rootfs")
}

/// containerd/containerd#11353, in every wrapping that such a line comes in.
#[test]
fn containerd() {
    use BusyError::Umount;
    let log = backoff();
    let line = one(&log);
    assert_eq!(line.container_id.as_deref(), Some(ID));
    let rootfs = rootfs();
    check(&log, WHEN, "-", Umount, &rootfs);
    let json = |text: &str| serde_json::to_string(text).unwrap();
    for (before, source) in [
        ("Feb  7 11:37:40 ip-10-0-203-200 containerd: ", "containerd"),
        ("Feb 07 11:37:40.123456 node containerd[602]: ", "containerd"),
        ("2025-02-07T11:37:41+0000 node containerd[602]: ", "containerd"),
        ("2025-02-07T11:37:41.5+00:00 node containerd[602]: ", "containerd"),
        ("Fri 2025-02-07 11:37:41 UTC node containerd[602]: ", "containerd"),
        ("1738928261.020155 node containerd[602]: ", "containerd"),
        ("[ 447.193907] node containerd[602]: ", "containerd"),
        ("2025-02-07T11:37:41.033235013Z stderr F ", "-"),
        ("2025-02-07T11:37:41.033235013Z ", "-"),
    ] {
        // A whole time of the program itself counts, not the one of who wrote it down.
        check(&format!("{before}{log}"), WHEN, source, Umount, &rootfs);
    }
    let docker = format!(
        r#"{{"log":{},"stream":"stderr","time":"2025-02-07T11:37:41Z"}}"#,
        json(&format!("{log}\n"))
    );
    check(&docker, WHEN, "-", Umount, &rootfs);
    let journal = format!(
        r#"{{"__REALTIME_TIMESTAMP":"1738928261000000","SYSLOG_IDENTIFIER":"containerd","_PID":"602","MESSAGE":{}}}"#,
        json(&log)
    );
    check(&journal, WHEN, "containerd", Umount, &rootfs);
    let bytes: Vec<String> = log.bytes().map(|byte| byte.to_string()).collect();
    let journal = format!(r#"{{"_COMM":"containerd","MESSAGE":[{}]}}"#, bytes.join(","));
    check(&journal, WHEN, "containerd", Umount, &rootfs);
    let logrus = format!(
        r#"{{"level":"warning","msg":"failed to cleanup rootfs mount","error":"failed to unmount target {rootfs}: device or resource busy","time":"{WHEN}"}}"#
    );
    check(&logrus, WHEN, "-", Umount, &rootfs);
    // containerd/containerd#2462, k3s-io/k3s#1962
    check(
        "containerd: unmounting temp mounts: failed to unmount target /var/lib/containerd/tmpmounts/containerd-mount980710714: device or resource busy",
        "-",
        "-",
        Umount,
        "/var/lib/containerd/tmpmounts/containerd-mount980710714",
    );
    check(
        &format!(
            r#"time="2020-06-27T12:39:31.345753560+08:00" level=error msg="forceful unmount of rootfs {ID}" error="failed to unmount target /run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/rootfs: device or resource busy""#
        ),
        "2020-06-27T04:39:31.345753560Z",
        "-",
        Umount,
        &format!("/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/rootfs"),
    );
}

/// kubernetes/kubernetes#36983, #93415, #37546, rook/rook#2255, rancher/rancher#16477.
#[test]
fn kubelet() {
    use BusyError::{Remove, Umount};
    let uid = "4389375b-acab-11e6-ac07-fa163e411bde";
    let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~cinder/ubuntu");
    let klog = "E1117 10:25:41.898748   29955 nestedpendingoperations.go:253] ";
    let when = "2024-11-17T10:25:41.898748000Z";
    let tear = format!(
        r#"{klog}Operation for "\"kubernetes.io/cinder/ubuntu\" (\"{uid}\")" failed. No retries permitted until 2016-11-17 10:27:41.898715848 +0000 UTC (durationBeforeRetry 2m0s). Error: UnmountVolume.TearDown failed for volume "ubuntu" (volume.spec.Name: "ubuntu") pod "{uid}" (UID: "{uid}") with: remove {path}: device or resource busy"#
    );
    check(&tear, when, "-", Remove, &path);
    assert_eq!(one(&tear).pod_uid.as_deref(), Some(uid));
    check(
        &format!("Nov 17 10:25:42 node kubelet[37577]: {tear}"),
        when,
        "kubelet",
        Remove,
        &path,
    );
    let quoted = format!(
        r#"{klog}Operation for "x" failed. Error: "UnmountVolume.TearDown failed for volume \"pvc\" pod \"{uid}\" (UID: \"{uid}\") : remove {path}: device or resource busy""#
    );
    check(&quoted, when, "-", Remove, &path);
    let renamed = format!("{klog}with: rename {path} {path}.deleting~341193038: device or resource busy");
    check(&renamed, when, "-", Remove, &path);
    let structured = format!(
        r#"{klog}"Error syncing pod, skipping" err="failed to \"KillContainer\": failed to unmount target {}: device or resource busy" pod="ci/wf-build-7h2kq" podUID="{uid}""#,
        rootfs()
    );
    check(&structured, when, "-", Umount, &rootfs());
    let line = one(&structured);
    assert_eq!(
        line.pod.as_deref().zip(line.pod_namespace.as_deref()),
        Some(("wf-build-7h2kq", "ci"))
    );
    let json = format!(
        r#"{{"ts":1738928260033.235,"caller":"pod.go:1","msg":"Cleanup failed","err":"unmount failed: exit status 32\nUnmounting arguments: {path}\nOutput: umount: {path}: target is busy.\n"}}"#
    );
    check(&json, "2025-02-07T11:37:40.033235000Z", "-", Umount, &path);
    // The same over several lines: those that follow have the time of the first.
    let (lines, counts) = read(format!("{klog}unmount failed: exit status 32\nUnmounting arguments: {path}\nOutput: umount: {path}: target is busy.\n").as_bytes());
    assert_eq!((lines.len(), lines[0].line, counts.lines), (1, 3, 3));
    assert_eq!(lines[0].time.unwrap().to_string(), when);
    let (two, _) = read(format!("Nov 28 17:55:57 kube-78 kubelet[37577]: E1128 17:55:57.093968   37577 kubelet.go:2596] Failed cleaning pods: [remove {path}: device or resource busy, remove {path}2: device or resource busy]").as_bytes());
    assert_eq!(
        two.iter()
            .map(|line| line.target.clone().unwrap())
            .collect::<Vec<_>>(),
        [path.as_str().into(), format!("{path}2").into()]
    );
    let rook = format!(
        r#"Nov 02 19:29:53 node kubelet-wrapper[3132]: E1102 19:29:53.513044    3132 driver-call.go:237] Failed to unmarshal output for command: unmount, output: "... {{\"status\":\"Failure\",\"message\":\"failed to unmount cephfs volume at {path}: Unmount failed: exit status 32\\nUnmounting arguments: {path}\\nOutput: umount: {path}: target is busy\\n        (In some cases useful info about processes that\\n         use the device is found by lsof(8) or fuser(1).)\\n\\n\"}}\n", error: invalid character"#
    );
    check(
        &rook,
        "2024-11-02T19:29:53.513044000Z",
        "kubelet-wrapper",
        Umount,
        &path,
    );
}

/// home-assistant/supervisor#4568, moby#31195, containers/podman#20183, docker/compose#10607.
#[test]
fn docker_podman_and_cri_o() {
    use BusyError::{Mount, Remove};
    let merged = format!("/mnt/data/docker/overlay2/{ID}/merged");
    let dockerd = format!(
        r#"Sep 21 09:47:21 homeassistant dockerd[222952]: time="2023-09-21T09:47:21.037908669Z" level=error msg="Handler for DELETE /v1.42/containers/{ID} returned error: container {ID}: driver \"overlay2\" failed to remove root filesystem: unlinkat {merged}: device or resource busy""#
    );
    check(
        &dockerd,
        "2023-09-21T09:47:21.037908669Z",
        "dockerd",
        Remove,
        &merged,
    );
    assert_eq!(one(&dockerd).container_id.as_deref(), Some(ID));
    let podman = "/home/u/.local/share/containers/storage/overlay/6393565c/merged";
    check(
        &format!(
            r#"Error: removing storage for container "fefaeb3391e2": removing mount point "{podman}": device or resource busy"#
        ),
        "-",
        "-",
        Remove,
        podman,
    );
    let crio = format!(
        r#"Sep 10 15:35:31 node crio[84998]: time="2024-09-10 15:35:31.021027125+08:00" level=error msg="Failed to cleanup (probably retrying): failed to cleanup container storage: removing mount point \"{podman}\": device or resource busy" id=5c1afc50 name=/runtime.v1.RuntimeService/CreateContainer"#
    );
    check(&crio, "2024-09-10T07:35:31.021027125Z", "crio", Remove, podman);
    check(
        &format!(
            "Error response from daemon: error creating overlay mount to {merged}: device or resource busy"
        ),
        "-",
        "-",
        Mount,
        &merged,
    );
    check(
        &format!("rm: cannot remove '{merged}': Device or resource busy"),
        "-",
        "-",
        Remove,
        &merged,
    );
    check(
        "rnode-4 systemd-logind: Failed to remove runtime directory /run/user/0: Device or resource busy",
        "-",
        "-",
        Remove,
        "/run/user/0",
    );
}

/// systemd/systemd#8932, #26304, PR #17228; openzfs/zfs#16255, canonical/lxd#4656.
#[test]
fn umount_systemd_and_zfs() {
    use BusyError::{Device, Umount, UmountFailed};
    let (lines, _) = read(
        b"May 08 16:59:03 coyote systemd[1]: Unmounting /var/log...\n\
          May 08 16:59:03 coyote umount[2626]: umount: /var/log: target is busy.\n\
          May 08 16:59:03 coyote systemd[1]: var-log.mount: Mount process exited, code=exited status=32\n\
          May 08 16:59:03 coyote systemd[1]: Failed unmounting /var/log.\n\
          Feb 02 00:52:50 zen systemd[1]: Failed unmounting mnt-DATA.mount - /mnt/DATA.\n",
    );
    let said: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line.line,
                line.error,
                line.target.as_ref().unwrap().to_str_lossy().into_owned(),
            )
        })
        .collect();
    let expected = [
        (2, Umount, "/var/log"),
        (4, UmountFailed, "/var/log"),
        (5, UmountFailed, "/mnt/DATA"),
    ];
    assert_eq!(
        said,
        expected.map(|(line, error, path)| (line, error, path.to_owned()))
    );
    check("umount: /mnt/x y: target is busy.", "-", "-", Umount, "/mnt/x y");
    check(
        "umount.nfs: /mnt/nas/music: device is busy",
        "-",
        "-",
        Umount,
        "/mnt/nas/music",
    );
    check(
        "Dec 22 01:14:48 testsuite systemd[29]: Failed to umount /run/systemd/unit-root/proc, ignoring: Device or resource busy",
        "2024-12-22T01:14:48.000000000Z",
        "systemd",
        Umount,
        "/run/systemd/unit-root/proc",
    );
    check(
        "cannot destroy 'vmpool/vms/lxc/winapps-1': dataset is busy",
        "-",
        "-",
        Device,
        "vmpool/vms/lxc/winapps-1",
    );
    check(
        r#"Oct 16 11:19:55 stramonio lxd.daemon[30691]: t=2019-10-16T11:19:55+0100 lvl=dbug msg="Failure for task operation: Failed to run: zfs destroy -r mypool/lxd/containers/b: cannot destroy 'mypool/lxd/containers/b': dataset is busy""#,
        "2019-10-16T10:19:55.000000000Z",
        "lxd.daemon",
        Device,
        "mypool/lxd/containers/b",
    );
}

/// concourse/concourse#4964, coreos/bugs#2279.
#[test]
fn the_kernel() {
    use BusyError::OverlayInUse;
    let text = "overlayfs: lowerdir is in-use as upperdir/workdir";
    for (log, time) in [
        (format!("[  447.193907] {text}"), "2025-08-12T12:07:27.193907000Z"),
        (
            format!("<3>[  447.193907] {text}"),
            "2025-08-12T12:07:27.193907000Z",
        ),
        (
            format!("3,1234,447193907,-;{text}"),
            "2025-08-12T12:07:27.193907000Z",
        ),
        (
            format!("[Fri Feb  7 11:37:40 2025] {text}"),
            "2025-02-07T11:37:40.000000000Z",
        ),
        (format!("[  +0.002284] {text}"), "-"),
        (
            format!("2025-02-07T11:37:40,033235+00:00 {text}"),
            "2025-02-07T11:37:40.033235000Z",
        ),
    ] {
        let found = brief(&log);
        assert_eq!(
            (found.0.as_str(), found.2, found.3.as_str()),
            (time, OverlayInUse, "-"),
            "{log}"
        );
    }
    check(
        "Jul 05 19:46:21 pizero kernel: overlayfs: upperdir is in-use by another mount, accessing files from both mounts will result in undefined behavior.",
        "2025-07-05T19:46:21.000000000Z",
        "kernel",
        OverlayInUse,
        "-",
    );
}

#[test]
fn what_is_not_about_anything_busy() {
    let (lines, counts) = read(
        b"all is well\xff\n{\"log\":\"fine\"}\n{broken\n\0\0\0\0\n\
          failed to unmount target /x: invalid argument\nE1117 \n[]\n<>\n[1.2.3] x\nThe CPU is busy\n",
    );
    assert_eq!(
        (lines.as_slice(), counts.lines, counts.relevant),
        (&[][..], 10, 0)
    );
}

#[test]
fn hostile_lines() {
    let line = one("\0\0\0umount: /mnt/\x1b[31m\u{202e}: target is busy");
    // Colours are those of who logged it far more often than those of a name; a mount of that name is found all the same.
    assert_eq!(line.target.unwrap().as_bytes(), "/mnt/\u{202e}".as_bytes());
    let raw = "/mnt/\x1b[31m\u{202e}: target is busy";
    assert!(line.paths.contains(&raw.into()), "{:?}", line.paths);
    let (lines, _) = read(b"umount: /mnt/\xff\xfe: target is busy");
    assert_eq!(lines[0].target.as_ref().unwrap().as_bytes(), b"/mnt/\xff\xfe");
    // Go writes what is no UTF-8 as \x.
    let (lines, _) = read(br#"msg="umount: /mnt/\xff\u00e9\"q: target is busy""#);
    assert_eq!(
        lines[0].target.as_ref().unwrap().as_bytes(),
        b"/mnt/\xff\xc3\xa9\"q"
    );
    let mut huge = b"umount: /a: target is busy ".to_vec();
    huge.resize(10 << 20, b'"');
    huge.extend(b"\numount: /b: target is busy\n");
    let (lines, counts) = read(&huge);
    assert_eq!((lines.len(), counts.cut, counts.lines), (2, 1, 2));
    assert!(lines[0].message.as_bytes().len() <= super::MESSAGE);
    let nested = "\"device or resource busy".repeat(1000);
    assert!(read(nested.as_bytes()).0.len() <= 16);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(log in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let (_, counts) = read(&log);
        proptest::prop_assert!(counts.lines <= 401);
    }

    #[test]
    fn no_text_makes_it_panic(log in "([\\[{<\"=:;, ]|time=|device or resource busy|target is busy|umount: |/x|E1117 1|Feb 7 |MESSAGE|[0-9a-z\u{e9}\n\\\\']){0,60}") {
        read(log.as_bytes());
    }
}
