//! `ebusy report` and `ebusy export` as people run them: on captures of real refusals, without root.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tracer::{
    capture::{Header, Reader, Writer},
    stream::Record,
};

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

fn capture(name: &str) -> String {
    captures().join(name).to_str().unwrap().to_owned()
}

fn ebusy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ebusy"))
        .args(arguments)
        .env("TZ", "UTC")
        .env_remove("EBUSY_CAPTURE")
        .output()
        .unwrap()
}

/// What it printed; it must have ended so.
fn printed(arguments: &[&str], status: i32) -> String {
    let output = ebusy(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn failed(arguments: &[&str], status: i32) -> String {
    let output = ebusy(arguments);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn records(path: &str) -> Vec<Record> {
    Reader::open(Path::new(path))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// A segment with the records of a capture.
fn segment(records: &[Record]) -> Vec<u8> {
    let Some(Record::Start(start)) = records.first() else {
        panic!("no start")
    };
    let mut writer = Writer::new(Vec::new(), &Header::of(start.clone())).unwrap();
    for record in &records[1..] {
        writer.push(record).unwrap();
        writer.flush().unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn the_reports_of_the_captures() {
    let mut names: Vec<PathBuf> = fs::read_dir(captures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "stream" || extension == "zst")
        })
        .collect();
    names.sort();
    assert!(names.len() >= 5);
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = printed(&["report", path.to_str().unwrap(), "--commands"], 0);
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn what_an_older_version_wrote_gives_the_same_report_in_the_format_of_today() {
    let old = capture("slave-copy-7.2-fentry.stream");
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("ebusy-00000001-x.zst"),
        segment(&records(&old)),
    )
    .unwrap();
    for format in ["text", "json"] {
        let new = folder.path().to_str().unwrap();
        assert_eq!(
            printed(&["report", new, "--format", format], 0),
            printed(&["report", &old, "--format", format], 0)
        );
    }
}

#[test]
fn json_is_what_was_reported_live() {
    for name in ["slave-copy-6.1-fentry", "slave-copy-7.2-tracepoint"] {
        let live = fs::read_to_string(captures().join(format!("{name}.json"))).unwrap();
        let live: Vec<Value> = live
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let told = printed(
            &["report", &capture(&format!("{name}.stream")), "--format", "json"],
            0,
        );
        let told: Vec<Value> = told
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(told.len(), live.len());
        for (told, live) in told.iter().zip(&live) {
            // Fields may have been added since.
            for (field, value) in live.as_object().unwrap() {
                if value.is_string() || value.is_number() {
                    assert_eq!(&told[field], value, "{name}: {field}");
                }
            }
        }
    }
}

#[test]
fn filters_choose_and_say_when_nothing_is_left() {
    let path = capture("slave-copy-7.2-fentry.stream");
    for wanted in [
        &["--target", "/tmp/*"][..],
        &["--holder", "112"],
        &["--holder", "demo-h*"],
        &["--kind", "fd", "--kind", "cwd"],
        &["--outcome", "released"],
        &["--since", "1h"],
        &["--since", "2026-11-23T14:00:00Z", "--until", "2026-11-23 15:00"],
        &["1"],
    ] {
        let arguments = [&["report", path.as_str()], wanted].concat();
        assert!(printed(&arguments, 0).starts_with("#1  2026-11-23"), "{wanted:?}");
    }
    for unwanted in [
        &["--target", "/srv/*"][..],
        &["--holder", "1"],
        &["--container", "*"],
        &["--kind", "cwd"],
        &["--outcome", "gave_up"],
        &["--since", "2026-11-24T14:00:00Z"],
        &["--until", "2026-11-22"],
    ] {
        let arguments = [&["report", path.as_str()], unwanted].concat();
        let output = ebusy(&arguments);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(0), 0),
            "{unwanted:?}"
        );
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("none of the 1 incidents") && error.contains("2026-11-23T14:39"),
            "{error}"
        );
    }
    assert!(failed(&["report", &path, "7"], 2).contains("no incident 7"));
    assert!(failed(&["report", &path, "--since", "soon"], 2).contains("2h"));
    assert!(failed(&["report", &path, "--outcome", "happy"], 2).contains("still_busy"));
}

#[test]
fn what_is_no_capture_is_told_with_file_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (path, words) in [
        (file("empty", b""), "byte 0"),
        (file("foreign", b"\x7fELF and so on"), "byte 0"),
        (
            file("lines", b"{\"record\":\"tick\",\"time\":1}\n"),
            "start record",
        ),
        (
            folder.path().join("missing").to_str().unwrap().to_owned(),
            "no such capture",
        ),
        (folder.path().to_str().unwrap().to_owned(), "no segment"),
    ] {
        for verb in [&["report", &path][..], &["export", &path, "--to", "jsonl"]] {
            let error = failed(verb, 2);
            assert!(error.contains(words) && error.contains(&path), "{error}");
        }
    }
}

#[test]
fn damage_is_told_and_everything_else_is_reported() {
    let path = capture("slave-copy-7.2-fentry.stream");
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = segment(&records(&path));
    let file = folder.path().join("ebusy-00000001-x.zst");
    let length = bytes.len();
    bytes[length / 3] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let output = ebusy(&["report", file]);
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("ebusy-00000001-x.zst: ") && error.contains("byte "),
        "{error}"
    );
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("EBUSY  /tmp/ebusy-demo")
    );
    let html = printed(&["report", file, "--format", "html"], 3);
    assert!(html.contains("The capture is damaged"));
    assert!(printed(&["report", file, "--summary"], 3).contains("DAMAGE"));
    // A file that was cut: the recorder was killed.
    fs::write(file, &bytes[..length / 2]).unwrap();
    let output = ebusy(&["report", file]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("still busy when ebusy stopped")
    );
}

/// A capture in which everything that somebody could name is a secret.
fn secrets(folder: &Path) -> String {
    let text = fs::read_to_string(capture("slave-copy-7.2-fentry.stream")).unwrap();
    let container = r#"{"runtime":"containerd","id":"SECRETid","name":"SECRETname","namespace":"SECRETspace","pod":"SECRETpod","pod_namespace":"SECRETns","image":"SECRETimage","owner":{"kind":"Job","name":"SECRETjob","source":"label"},"privileged":null,"host_pid":null,"host_paths":["/SECRETvolume"],"host_mounts":[{"path":"/SECRETmount","destination":"/SECRETat","propagation":null}]}"#;
    let requester = format!(
        r#""cmdline":["SECRETargument","--x=/SECRETvalue"],"requester":{{"pid":7,"comm":"sh","unit":"SECRETby.service","container":{container}}}"#
    );
    // Types that the capture has not, or that have more by now.
    let part = |record: &str, name: &str| {
        let line = text
            .lines()
            .rfind(|line| line.contains(&format!("\"record\":\"{record}\"")))
            .unwrap();
        serde_json::from_str::<Value>(line).unwrap()[name].to_string()
    };
    let holder =
        serde_json::from_str::<Value>(&part("snapshot", "snapshot")).unwrap()["references"][0]["holder"]
            .to_string();
    let (caller, target, mount) = (
        part("umount", "caller"),
        part("umount", "target"),
        part("umount", "mount"),
    );
    let more = format!(
        r#"{{"record":"entered","time":11800000000,"operation":"setns","pid":7,"comm":"sh","namespace":5,"from":4,"container":null}}
{{"record":"detached","cause":1,"mount":{mount},"detached":11800000000,"caller":{caller},"target":{target},"holders":[{holder}],"counted":1,"looked":11800000001}}
{{"record":"tick","time":13411216134}}
"#
    );
    let end = text.rfind("{\"record\":\"end\"").unwrap();
    let text = [&text[..end], &more, &text[end..]].concat();
    let text = text
        .replace("/tmp/ebusy-demo", "/SECRETdir/SECRETmountpoint")
        .replace("app.log", "SECRETfile")
        .replace("\"source\":\"ebusy-demo\"", "\"source\":\"/dev/SECRETdevice\"")
        .replace("\"exe\":null", "\"exe\":\"/opt/SECRETexe\"")
        .replace("\"unit\":null", "\"unit\":\"SECRETunit.service\"")
        .replace("\"cmdline\":null", &requester)
        .replace("\"deleted\":false", "\"deleted\":false,\"held_by\":\"SECRETby\",\"reason\":\"SECRETwhy\",\"path_base64\":\"U0VDUkVU\",\"seen_as_base64\":\"U0VDUkVU\"")
        .replace("\"shown\":true", "\"shown\":true,\"passed\":\"./SECRETpassed\"")
        .replace("\"container\":null", &format!("\"container\":{container}"));
    let path = folder.join("secrets.stream");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_redacted_report_has_no_path_no_pod_and_no_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = secrets(folder.path());
    let log = folder.path().join("SECRETlog");
    fs::write(&log, "time=\"2026-11-23T14:39:36Z\" level=error msg=\"failed to unmount target /SECRETdir/SECRETmountpoint: device or resource busy\"\n").unwrap();
    let log = log.to_str().unwrap();
    for arguments in [
        &["report", &path, "--commands"][..],
        &["report", &path, "--format", "json"],
        &["report", &path, "--format", "html", "--log", log],
        &["report", &path, "--format", "json", "--log", log],
        &["report", &path, "--summary", "--log", log],
        &["report", &path, "--summary", "--format", "json"],
        &["export", &path, "--to", "jsonl"],
        &["export", &path, "--to", "perfetto"],
    ] {
        let found = |arguments: &[&str]| {
            let output = ebusy(arguments);
            assert_eq!(output.status.code(), Some(0), "{arguments:?}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.len() > 100, "{arguments:?}");
            [
                text.contains("SECRET"),
                text.contains("U0VDUkVU"),
                text.contains("secret"),
            ]
            .contains(&true)
        };
        assert!(found(arguments), "nothing to hide: {arguments:?}");
        assert!(!found(&[arguments, &["--redact"]].concat()), "{arguments:?}");
    }
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    let path = capture("slave-copy-7.2-fentry.stream");
    let folder = tempfile::tempdir().unwrap();
    let hostile = folder.path().join("hostile.stream");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &hostile,
        text.replace("app.log", "<img src=http://x onerror=alert(1)>\\u202e"),
    )
    .unwrap();
    let html = printed(&["report", hostile.to_str().unwrap(), "--format", "html"], 0);
    assert!(html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"));
    assert!(html.contains("default-src 'none'"));
    assert!(!html.contains("<img") && !html.contains("<script") && !html.contains('\u{202e}'));
    assert!(html.contains("&lt;img src=http://x onerror=alert(1)&gt;\\u{202e}"));
    for part in [
        "could not be unmounted",
        "<svg",
        "refused attempts",
        "1 counted = 1 explained + 0 unexplained",
        "kill 112",
        "How to read this page",
    ] {
        assert!(html.contains(part), "{part}");
    }
    for tag in ["section", "svg", "table", "dl", "div", "details"] {
        let (begun, ended) = (
            html.matches(&format!("<{tag}")).count(),
            html.matches(&format!("</{tag}>")).count(),
        );
        assert_eq!(begun, ended, "{tag}");
    }
}

#[test]
fn the_page_words_an_incident_by_its_operation() {
    let html = printed(
        &["report", &capture("detached-6.12-fentry.zst"), "--format", "html"],
        0,
    );
    assert_eq!(html.matches("could not be unmounted").count(), 1);
    assert_eq!(html.matches("was detached and lived on: sleep").count(), 1);
    assert!(html.contains("/mnt/volume, detached</td>"));
    // Of what was not refused there are no times of refusals.
    assert_eq!(html.matches("<svg viewBox").count(), 1);
}

#[test]
fn a_log_is_matched_with_the_incidents() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("messages");
    fs::write(
        &log,
        "time=\"2026-11-23T14:39:36.600000000Z\" level=error msg=\"failed to unmount target /tmp/ebusy-demo: device or resource busy\"\n\
         time=\"2026-11-23T14:39:36.700000000Z\" level=error msg=\"failed to unmount target /srv/other: device or resource busy\"\n",
    )
    .unwrap();
    let path = capture("slave-copy-7.2-fentry.stream");
    let text = printed(&["report", &path, "--log", log.to_str().unwrap()], 0);
    assert!(
        text.contains("messages line 1") && text.contains("-> #1"),
        "{text}"
    );
    assert!(
        text.contains("messages line 2") && text.contains("no refusal of that target was seen"),
        "{text}"
    );
    let from_stdin = Command::new(env!("CARGO_BIN_EXE_ebusy"))
        .args(["report", &path, "--log", "-"])
        .env("TZ", "UTC")
        .stdin(fs::File::open(&log).unwrap())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&from_stdin.stdout),
        text.replace("messages line", "- line")
    );
}

#[test]
fn a_log_says_since_when_the_mount_of_a_container_was_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let id = "9c41d0e7a2f4b35d8e6f70123456789abcdef0123456789abcdef0123456789a";
    let of_container = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/rootfs");
    let line = |time: &str, path: &str| {
        format!(
            "time=\"2026-11-23T{time}Z\" level=error msg=\"failed to unmount target {path}: device or resource busy\"\n"
        )
    };
    let since = |path: &str| -> Value {
        let stream = fs::read_to_string(capture("slave-copy-7.2-fentry.stream")).unwrap();
        let capture = folder.path().join("capture.stream");
        fs::write(&capture, stream.replace("/tmp/ebusy-demo", path)).unwrap();
        let log = folder.path().join("messages");
        let lines = [
            line("14:20:00", "/srv/other"),
            line("14:31:00", path),
            line("14:30:00", path),
            line("14:39:36.600000000", path),
        ];
        fs::write(&log, lines.concat()).unwrap();
        let [capture, log] = [&capture, &log].map(|path| path.to_str().unwrap());
        let text = printed(&["report", capture, "--format", "json", "--log", log], 0);
        let mut values = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let incident = values
            .find(|value| value["schema"] == "ebusy.incident/1")
            .unwrap();
        assert_eq!(incident["target"]["path"], path);
        incident["since"].clone()
    };
    assert_eq!(
        since(&of_container),
        serde_json::json!({ "time": "2026-11-23T14:30:00.000000000Z", "source": "log" })
    );
    // At another path something else may have been mounted then.
    assert_eq!(since("/srv/volume"), Value::Null);
}

#[test]
fn an_export_says_where_a_thread_came_from_and_whose_namespace_it_entered() {
    let folder = tempfile::tempdir().unwrap();
    let path = secrets(folder.path());
    let entered = |more: &[&str]| -> Value {
        let text = printed(&[&["export", &path, "--to", "jsonl"], more].concat(), 0);
        let mut lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.rfind(|line| line["type"] == "entered").unwrap()
    };
    let event = entered(&[]);
    assert_eq!(event["mount_namespace"], 5);
    assert_eq!(event["from"], 4);
    assert_eq!(event["container"]["pod"], "SECRETpod");
    let event = entered(&["--redact"]);
    assert_eq!(
        (&event["from"], &event["operation"]),
        (&4.into(), &"setns".into())
    );
    assert!(!event["container"]["pod"].as_str().unwrap().contains("SECRET"));
    // What older streams do not have is unknown.
    let old = printed(
        &[
            "export",
            &capture("slave-copy-7.2-fentry.stream"),
            "--to",
            "jsonl",
        ],
        0,
    );
    let old = old.lines().find(|line| line.contains("\"entered\",")).unwrap();
    assert!(old.contains("\"from\":null,\"container\":null"), "{old}");
}

#[test]
fn an_export_as_json_lines_has_every_event_and_incident() {
    let path = capture("slave-copy-7.2-fentry.stream");
    let text = printed(&["export", &path, "--to", "jsonl"], 0);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = records(&path)
        .iter()
        .filter(|record| record.name() != "tick")
        .count();
    let events = lines
        .iter()
        .filter(|line| line["schema"] == "ebusy.event/1")
        .count();
    let incidents = lines
        .iter()
        .filter(|line| line["schema"] == "ebusy.incident/1")
        .count();
    assert_eq!((events, incidents), (told, 1));
    // No kernel address leaves.
    assert!(!text.contains("18380306391"));
}
