//! The protocol between the host and the init of a virtual machine. Both include this file.

/// Where the image keeps the modules, and their names in the order in which they are loaded.
pub(crate) const DIRECTORY: &str = "/vm";

/// The file with the names of the modules, one a line.
pub(crate) const MODULES: &str = "/vm/modules";

/// Starts every line of the init on the result port.
pub(crate) const MARK: &str = "ebusy-vm: ";

/// The machine is ready and waits for a job; the kernel's release follows.
pub(crate) const READY: &str = "ready ";

/// The program starts now.
pub(crate) const BEGIN: &str = "begin";

/// The program ended with this exit status, which follows.
pub(crate) const EXIT: &str = "exit ";

/// The program was ended by this signal, which follows.
pub(crate) const SIGNAL: &str = "signal ";

/// The machine could not be made ready; the reason follows.
pub(crate) const ERROR: &str = "error ";

/// The last line of a job.
pub(crate) const RUN: &str = "run";

/// A job is sent by a serial line, whose buffer in the kernel has 4 KiB: the rest may be lost.
#[allow(dead_code, reason = "the init only reads")]
const JOB_MAX: usize = 4000;

/// A program for the init to run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Config {
    /// Names and values.
    pub(crate) env: Vec<(String, String)>,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
}

impl Config {
    /// One item a line, and [`RUN`]; fails on items that this format cannot express.
    #[allow(dead_code, reason = "the init only reads")]
    pub(crate) fn render(&self) -> Result<String, String> {
        let env = self.env.iter().map(|(name, value)| format!("env {name}={value}"));
        let argv = self.argv.iter().map(|arg| format!("arg {arg}"));
        let mut text = String::new();
        for line in env.chain(argv).chain([RUN.to_owned()]) {
            if line.contains('\n') {
                return Err(format!(
                    "an argument for the virtual machine holds a newline: {line:?}"
                ));
            }
            text.push_str(&line);
            text.push('\n');
        }
        if text.len() > JOB_MAX {
            return Err(format!(
                "arguments and variables for the virtual machine have {} bytes, {JOB_MAX} are the most",
                text.len()
            ));
        }
        Ok(text)
    }

    /// The reverse of [`Config::render`].
    #[allow(dead_code, reason = "the host only writes, outside of its tests")]
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for line in text.lines().take_while(|line| *line != RUN) {
            match line.split_once(' ') {
                Some(("arg", arg)) => config.argv.push(arg.to_owned()),
                Some(("env", pair)) => match pair.split_once('=') {
                    Some((name, value)) => config.env.push((name.to_owned(), value.to_owned())),
                    None => return Err(format!("the job has a variable without a value: {pair}")),
                },
                _ => return Err(format!("the job has an unknown line: {line}")),
            }
        }
        Ok(config)
    }
}
