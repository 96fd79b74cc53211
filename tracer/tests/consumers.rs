//! What ebusy writes, read by those for whom it is written: a validator of JSON Schema, `DuckDB`, the classes of Perfetto,
//! Chromium. Each test says that it is skipped where its program is not installed (`docs/testing.md`).

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tracer::model::{
    Audit, Books, CopiedMount, Detached, Fix, FixAction, Group, Keeper, KeptNamespace, Leaked, LeakedPlace,
    Now, Own, Process, Propagation, Setting, Since, SinceSource, Target, Tier, Timestamp, Who, Workload,
};

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn capture() -> PathBuf {
    here().join("tests/captures/slave-copy-7.2-fentry.stream")
}

fn ebusy(arguments: &[&OsStr]) {
    let output = Command::new(env!("CARGO_BIN_EXE_ebusy"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn export(to: &str, file: &Path) {
    let [verb, to_flag, to, o] = ["export", "--to", to, "-o"].map(OsStr::new);
    ebusy(&[verb, capture().as_os_str(), to_flag, to, o, file.as_os_str()]);
}

fn report(format: &str, more: &[&str], file: &Path) {
    let [verb, flag, format, o] = ["report", "--format", format, "-o"].map(OsStr::new);
    let more: Vec<&OsStr> = more.iter().map(OsStr::new).collect();
    let capture = capture();
    let arguments = [
        &[verb, capture.as_os_str(), flag, format, o, file.as_os_str()],
        more.as_slice(),
    ]
    .concat();
    ebusy(&arguments);
}

/// Rust's harness shows what is written so also of a test that passes.
fn skip(name: &str, reason: &str) {
    let line = format!("skipped: {name}: {reason}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Runs a script of `tests/consumers` that needs a module; `None` where that is not installed.
fn python(name: &str, module: &str, script: &str, arguments: &[&Path]) -> Option<Value> {
    let there = Command::new("python3")
        .args(["-c", &format!("import {module}")])
        .output();
    if !there.is_ok_and(|output| output.status.success()) {
        skip(name, &format!("python3 has no module {module}"));
        return None;
    }
    let output = Command::new("python3")
        .arg(here().join("tests/consumers").join(script))
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_schemas_describe_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    export("jsonl", &file("events"));
    report("json", &["--summary"], &file("summary"));
    report("json", &["--redact"], &file("incident"));
    fs::write(
        file("log"),
        "failed to unmount target /tmp/ebusy-demo: device or resource busy\n",
    )
    .unwrap();
    report("json", &["--log", file("log").to_str().unwrap()], &file("match"));
    let who = Who {
        schema: Who::SCHEMA.to_owned(),
        time: Timestamp::from_nanos(1),
        leftover: false,
        target: Target::default(),
        references: Books::default(),
        holders: Vec::new(),
        candidates: Vec::new(),
        bystanders: Vec::new(),
        probe: Tier::Tracepoint,
        since: Some(Since {
            time: Timestamp::from_nanos(1),
            source: SinceSource::RuntimeState,
        }),
        fixes: Vec::new(),
    };
    // A path that is not UTF-8 has its bytes beside it.
    let who = Who {
        target: Target {
            path: b"/\xff".as_slice().into(),
            path_base64: Some("L/8=".to_owned()),
            ..who.target.clone()
        },
        ..who
    };
    fs::write(file("who"), serde_json::to_vec(&who).unwrap()).unwrap();
    let audit = serde_json::to_vec(&an_audit(&who.target)).unwrap();
    fs::write(file("audit"), audit).unwrap();
    let schemas = here().join("../docs/schema");
    let files = ["events", "summary", "incident", "match", "who", "audit"].map(file);
    let arguments: Vec<&Path> = std::iter::once(schemas.as_path())
        .chain(files.iter().map(PathBuf::as_path))
        .collect();
    let name = "the_schemas_describe_what_is_written";
    if let Some(counts) = python(name, "jsonschema", "schema.py", &arguments) {
        for schema in ["incident", "who", "event", "summary", "match", "audit"] {
            assert!(
                counts[format!("ebusy.{schema}/1")].as_u64() > Some(0),
                "{schema}: {counts}"
            );
        }
    }
}

/// One of everything.
fn an_audit(target: &Target) -> Audit {
    let workload = Workload {
        process: Some(Process::default()),
        processes: 2,
        same_namespace: false,
    };
    let copy = CopiedMount {
        target: target.clone(),
        path: b"/host/x".as_slice().into(),
        path_base64: None,
        mount_id: 7,
        mount_namespace: 8,
        propagation: Some(Propagation::Slave),
        holders: Vec::new(),
    };
    let group = Group {
        workload: workload.clone(),
        mount_namespaces: vec![8],
        mounts: 1,
        in_use: 0,
        copies: vec![copy],
        fixes: vec![Fix {
            text: "narrow its hostPath".to_owned(),
            action: FixAction::Change,
            command: None,
            interrupts: None,
            then: None,
            check: None,
        }],
    };
    let place = LeakedPlace {
        mount: target.clone(),
        workload: Some(workload),
        holders: Vec::new(),
    };
    Audit {
        schema: Audit::SCHEMA.to_owned(),
        time: Timestamp::from_nanos(1),
        probe: Tier::Tracepoint,
        blind: vec!["detached".to_owned()],
        gaps: vec!["the mount tables changed under the walk".to_owned()],
        watched: 1,
        mount_namespaces: 2,
        now: vec![Now {
            target: target.clone(),
            stuck: true,
            holders: Vec::new(),
            unexplained: None,
            fixes: Vec::new(),
        }],
        can_pin: vec![group.clone()],
        can_leak: vec![group],
        leaked: vec![Leaked {
            what: "shm".to_owned(),
            container: None,
            pod_uid: None,
            places: vec![place],
            fixes: Vec::new(),
        }],
        detached: vec![Detached {
            mount_id: 9,
            fs_type: Some("tmpfs".to_owned()),
            source: None,
            device: None,
            below: 0,
            mounted_elsewhere: false,
            bytes: Some(4096),
            holders: Vec::new(),
            unexplained: Some(0),
            fixes: Vec::new(),
        }],
        namespaces: vec![KeptNamespace {
            number: 10,
            mounts: 3,
            watched: 1,
            kept_by: vec![Keeper {
                kind: "fd".to_owned(),
                process: Some(Process::default()),
                fd: Some(3),
                path: None,
                mount_namespace: None,
            }],
            fixes: Vec::new(),
        }],
        settings: vec![Setting {
            name: "fs.mount-max".to_owned(),
            value: 100,
            used: Some(90),
            why: "near".to_owned(),
            fixes: Vec::new(),
        }],
        own: Some(Own {
            references: 0,
            namespaces: 0,
        }),
    }
}

#[test]
fn duckdb_reads_an_export() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    export("jsonl", &file);
    if let Some(found) = python("duckdb_reads_an_export", "duckdb", "duckdb_reads.py", &[&file]) {
        assert_eq!(
            found,
            serde_json::json!({"incidents": 1, "attempts": 30, "refused": 30, "holder": "demo-holder", "took": 1.59})
        );
    }
}

#[test]
fn perfetto_reads_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.pftrace");
    export("perfetto", &file);
    let script = "perfetto_reads.py";
    let Some(found) = python("perfetto_reads_a_trace", "perfetto.protos", script, &[&file]) else {
        return;
    };
    assert_eq!(
        found["tracks"],
        serde_json::json!([
            "/tmp/ebusy-demo",
            "incident 1",
            "holder demo-holder 112 fd 3",
            "bystander demo-bystander 113 fd 3",
            "attempts"
        ])
    );
    let slices = found["slices"].as_array().unwrap();
    let of = |category: &str| -> Vec<&Value> {
        slices
            .iter()
            .filter(|slice| slice["category"] == category)
            .collect()
    };
    assert_eq!(
        (of("incident").len(), of("holder").len(), of("bystander").len()),
        (1, 1, 1)
    );
    assert_eq!(of("attempt").len(), 30);
    let path = serde_json::json!(["/tmp/ebusy-demo", "incident 1", "attempts"]);
    assert!(of("attempt").iter().all(|slice| slice["track"] == path));
    assert_eq!(of("incident")[0]["length"], 1_587_116_559u64);
    let flows = found["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 30, "one to each attempt that it blocked");
    assert!(
        flows
            .iter()
            .all(|flow| *flow == serde_json::json!(["holder", "attempt"]))
    );
    assert_eq!(found["clocks"], 1);
}

#[test]
fn chromium_shows_the_page() {
    let name = "chromium_shows_the_page";
    let programs = ["chromium", "chromium-browser", "google-chrome"];
    let Some(program) = programs.into_iter().find(|program| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    }) else {
        return skip(name, "no chromium is installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let (page, picture) = (folder.path().join("r.html"), folder.path().join("r.png"));
    report("html", &[], &page);
    let run = |mode: &[String]| {
        Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--window-size=1200,1600",
                "--enable-logging=stderr",
            ])
            .arg(format!(
                "--user-data-dir={}",
                folder.path().join("profile").display()
            ))
            .args(mode)
            .arg(format!("file://{}", page.display()))
            .output()
            .unwrap()
    };
    let output = run(&["--dump-dom".to_owned()]);
    let dom = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && dom.contains("could not be unmounted"),
        "{dom}"
    );
    // What the policy forbids would be told.
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("Content Security Policy"), "{told}");
    let output = run(&[format!("--screenshot={}", picture.display())]);
    assert!(output.status.success());
    let png = fs::read(&picture).unwrap();
    assert!(
        png.starts_with(b"\x89PNG") && png.len() > 20_000,
        "{} bytes",
        png.len()
    );
}
