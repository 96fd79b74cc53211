//! What the host and the init of a virtual machine say to each other. Both include this file.

/// Where the image keeps the files of [`Config`] and the modules.
pub(crate) const DIRECTORY: &str = "/vm";

/// Starts every line of the init on the result port.
pub(crate) const MARK: &str = "ebusy-vm: ";

/// The machine is ready and the program starts now; the kernel's release follows.
pub(crate) const BEGIN: &str = "begin ";

/// The program ended with this exit status, which follows.
pub(crate) const EXIT: &str = "exit ";

/// The program was ended by this signal, which follows.
pub(crate) const SIGNAL: &str = "signal ";

/// The machine could not be made ready; the reason follows.
pub(crate) const ERROR: &str = "error ";

/// What the init does: load modules, in this order, then run a program.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Config {
    /// File names in [`DIRECTORY`].
    pub(crate) modules: Vec<String>,
    /// Names and values.
    pub(crate) env: Vec<(String, String)>,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
}

impl Config {
    /// One item a line; fails on what cannot be said in a line.
    #[allow(dead_code, reason = "the init only reads")]
    pub(crate) fn render(&self) -> Result<String, String> {
        let modules = self.modules.iter().map(|name| format!("module {name}"));
        let env = self.env.iter().map(|(name, value)| format!("env {name}={value}"));
        let argv = self.argv.iter().map(|arg| format!("arg {arg}"));
        let mut text = String::new();
        for line in modules.chain(env).chain(argv) {
            if line.contains('\n') {
                return Err(format!(
                    "an argument for the virtual machine holds a newline: {line:?}"
                ));
            }
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }

    /// The reverse of [`Config::render`].
    #[allow(dead_code, reason = "the host only writes, outside of its tests")]
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("module", name)) => config.modules.push(name.to_owned()),
                Some(("arg", arg)) => config.argv.push(arg.to_owned()),
                Some(("env", pair)) => match pair.split_once('=') {
                    Some((name, value)) => config.env.push((name.to_owned(), value.to_owned())),
                    None => {
                        return Err(format!(
                            "the configuration has a variable without a value: {pair}"
                        ));
                    }
                },
                _ => return Err(format!("the configuration has an unknown line: {line}")),
            }
        }
        Ok(config)
    }
}
