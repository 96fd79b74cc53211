//! Lines as programs write them, with what is to be read of each.

use jiff::tz::TimeZone;

use super::{LogClock, LogLine, LogReader, plain};
use crate::model::Timestamp;

const ID: &str = "cb2f65ddcc4aa630d20c69e0acb4d50824eff73327c8ffa8028f4db48758b5ec";
const ID2: &str = "a33a873392383639067a305d4a46f607134a4f3feea0777ca68c5e0482ffda53";
const UID: &str = "b90018a9-9120-49b8-ab80-7f372f55b46a";

/// What stands for long names.
const NAMES: [(&str, &str); 12] = [
    (
        "@VOL@",
        "/var/lib/kubelet/pods/@UID@/volumes/kubernetes.io~csi/pvc-1/mount",
    ),
    (
        "@GLOBAL@",
        "/var/lib/kubelet/plugins/kubernetes.io/csi/pv/pvc-1/globalmount",
    ),
    (
        "@ROOTFS@",
        "/run/containerd/io.containerd.runtime.v2.task/k8s.io/@ID@/rootfs",
    ),
    ("@MERGED@", "/var/lib/docker/overlay2/@ID2@/merged"),
    ("@PODMAN@", "/var/lib/containers/storage/overlay/@ID2@/merged"),
    (
        "@NETNS@",
        "/var/run/netns/cni-49ddd103-d374-1f86-7324-13abaeb9c910",
    ),
    ("@ID@", ID),
    ("@ID2@", ID2),
    ("@UID@", UID),
    ("@ESC@", "\x1b"),
    ("@CR@", "\r"),
    ("@NUL@", "\0"),
];

/// Mounts of any host.
const HOST: [&str; 12] = [
    "/",
    "/dev",
    "/dev/shm",
    "/proc",
    "/run",
    "/sys",
    "/sys/fs/cgroup",
    "/sys/kernel/tracing",
    "/var",
    "/var/lib",
    "/tmp",
    "/var/lib/kubelet",
];

/// Some lines, and what they say.
struct Case {
    source: String,
    log: String,
    /// Operation, target, container and time.
    expected: Vec<[String; 4]>,
}

fn cases() -> Vec<Case> {
    let files = [
        include_str!("corpus/runtimes.txt"),
        include_str!("corpus/kubernetes.txt"),
        include_str!("corpus/systems.txt"),
        include_str!("corpus/envelopes.txt"),
    ];
    files.into_iter().flat_map(of_file).collect()
}

fn of_file(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let line = NAMES
            .iter()
            .fold(line.to_owned(), |line, (name, value)| line.replace(name, value));
        if let Some(header) = line.strip_prefix("== ") {
            let mut fields = header.split('|').map(|field| field.trim().to_owned());
            let source = fields.next().unwrap();
            if !source.is_empty() {
                cases.push(Case {
                    source,
                    log: String::new(),
                    expected: Vec::new(),
                });
            }
            let fields: Vec<String> = fields.collect();
            let case = cases.last_mut().unwrap();
            if let Ok(fields) = <[String; 4]>::try_from(fields) {
                case.expected.push(fields);
            }
        } else if let Some(case) = cases.last_mut() {
            case.log.push_str(&line);
            case.log.push('\n');
        }
    }
    cases
}

fn lines(log: &str) -> Vec<LogLine> {
    let clock = LogClock {
        // 2025-08-14T00:00:00Z
        now: Timestamp::from_nanos(1_755_129_600_000_000_000),
        boot: Some(Timestamp::from_nanos(1_755_000_000_000_000_000)),
        zone: TimeZone::UTC,
    };
    LogReader::new(log.as_bytes(), clock)
        .map(Result::unwrap)
        .collect()
}

fn brief(line: &LogLine) -> [String; 4] {
    let target = line
        .target
        .as_ref()
        .map(|target| target.to_str_lossy().into_owned());
    [
        line.error.name().to_owned(),
        target.unwrap_or_else(|| "-".to_owned()),
        line.container_id.clone().unwrap_or_else(|| "-".to_owned()),
        line.time.map_or_else(|| "-".to_owned(), |time| time.to_string()),
    ]
}

/// Times are compared as such: one may be written with more digits.
fn expected(mut case: [String; 4]) -> [String; 4] {
    if let Ok(time) = case[3].parse::<jiff::Timestamp>() {
        case[3] = Timestamp::from_nanos(i64::try_from(time.as_nanosecond()).unwrap()).to_string();
    }
    case
}

/// Whatever a line says, what it means is found among the mounts that there are; and where it is not mounted, nothing else
/// is taken for it, and only what has a form of its own is said to be gone.
#[test]
fn no_line_is_a_false_all_clear() {
    for case in cases() {
        for line in lines(&case.log) {
            let Some(target) = line.target.as_ref().map(|target| plain(target.as_bytes())) else {
                continue;
            };
            let wanted: Vec<Vec<u8>> = case.expected.iter().map(|of| plain(of[1].as_bytes())).collect();
            let mounted = |path: &[u8]| {
                let host = HOST.iter().any(|mount| mount.as_bytes() == path);
                (host || wanted.iter().any(|wanted| wanted == path)).then_some(())
            };
            let found = line.known(mounted).map(|known| known.path);
            assert!(
                found.is_some_and(|found| wanted.contains(&found)),
                "{}: {:?}",
                case.source,
                line.target
            );
            // Where only the mounts of the host are there, none of them is what was meant.
            if !HOST.iter().any(|mount| mount.as_bytes() == target) {
                let found = line.known(|path| HOST.iter().find(|mount| mount.as_bytes() == path));
                assert!(
                    found.as_ref().is_none_or(|known| !known.is_target),
                    "{}: {found:?}",
                    case.source
                );
            }
        }
    }
}

#[test]
fn real_lines_are_read_as_a_person_would() {
    let cases = cases();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in &cases {
        let found: Vec<_> = lines(&case.log).iter().map(brief).collect();
        let wanted: Vec<_> = case.expected.iter().cloned().map(expected).collect();
        seen += wanted.len().max(1);
        if found != wanted {
            wrong.push(format!(
                "{}\n  is     {found:?}\n  should {wanted:?}",
                case.source
            ));
        }
    }
    let right = cases.len() - wrong.len();
    assert!(seen >= 200, "only {seen} lines");
    assert!(
        wrong.is_empty(),
        "{right} of {} right:\n{}",
        cases.len(),
        wrong.join("\n")
    );
}
