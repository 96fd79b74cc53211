//! The monitor of a running machine (QMP): a line of JSON each way.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// How long the emulator may take to answer. It answers while the machine runs, but on a loaded host.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a machine may take to be written.
const SAVE_LIMIT: Duration = Duration::from_mins(2);

/// How long its state may take to be read.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// A connection to the monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects by a socket whose other end is the emulator's.
    pub(super) fn open(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
        };
        // A greeting comes first.
        monitor.read()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Executes a command and returns its result.
    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{line}")
            .with_context(|| format!("sending {command} to the emulator"))?;
        loop {
            let mut answer = self.read().with_context(|| format!("waiting for {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            // Events come between.
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self
            .stream
            .read_line(&mut line)
            .context("reading from the emulator")?;
        if read == 0 {
            bail!("the emulator has closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Loads a saved state and lets the machine continue from it.
    pub(super) fn go_on(&mut self) -> Result<()> {
        self.wait("query-status", LOAD_LIMIT, |status| Ok(status != "inmigrate"))?;
        self.execute("cont", &json!({})).map(drop)
    }

    /// Polls until the status is this one.
    fn wait(&mut self, query: &str, limit: Duration, is_it: impl Fn(&str) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let state = self.execute(query, &json!({}))?;
            let status = state.get("status").and_then(Value::as_str).unwrap_or_default();
            if is_it(status).with_context(|| state.to_string())? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{query}: {status} after {} s", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the machine and hands its whole state to a shell command.
    pub(super) fn save(&mut self, to: &str) -> Result<()> {
        self.execute("stop", &json!({}))?;
        // The usual limit is for a network that others use as well.
        self.execute("migrate-set-parameters", &json!({ "max-bandwidth": 1_u64 << 40 }))?;
        self.execute("migrate", &json!({ "uri": format!("exec:{to}") }))?;
        self.wait("query-migrate", SAVE_LIMIT, |status| match status {
            "completed" => Ok(true),
            "failed" | "cancelled" => bail!("the machine was not saved"),
            _ => Ok(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::UnixStream,
        thread,
    };

    use super::Monitor;

    /// Answers each command with one of these.
    fn emulator(answers: &'static [&'static str]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut lines = BufReader::new(theirs.try_clone().unwrap()).lines();
            let mut theirs = theirs;
            writeln!(theirs, "{{\"QMP\": {{}}}}").unwrap();
            for answer in ["{\"return\": {}}"].iter().chain(answers) {
                lines.next();
                writeln!(theirs, "{answer}").unwrap();
            }
        });
        ours
    }

    #[test]
    fn events_come_between() {
        let stream = emulator(&[
            "{\"return\": {\"status\": \"inmigrate\"}}",
            "{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"paused\"}}",
            "{\"return\": {}}",
        ]);
        Monitor::open(stream).unwrap().go_on().unwrap();
    }

    #[test]
    fn a_refusal_and_an_end_are_errors() {
        let stream = emulator(&["{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}"]);
        let mut monitor = Monitor::open(stream).unwrap();
        assert!(monitor.go_on().unwrap_err().to_string().contains("no"));
        assert!(monitor.go_on().is_err());
    }

    #[test]
    fn a_machine_that_cannot_be_saved_says_why() {
        let stream = emulator(&[
            "{\"return\": {}}",
            "{\"return\": {}}",
            "{\"return\": {}}",
            "{\"return\": {\"status\": \"active\"}}",
            "{\"return\": {\"status\": \"failed\", \"error-desc\": \"disk full\"}}",
        ]);
        let error = Monitor::open(stream).unwrap().save("cat").unwrap_err();
        assert!(format!("{error:#}").contains("disk full"));
    }
}
