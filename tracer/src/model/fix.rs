//! What frees a mount, for people and for programs.

use serde::Serialize;

use crate::text::Command;

/// Something to do about a holder. ebusy does none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fix {
    /// What to do, in a sentence, without the command.
    pub text: String,
    /// What sort of thing it is.
    pub action: FixAction,
    /// For a shell, as root, in the mount namespace that the target is in. There is none where a name in it could not
    /// be typed safely.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub command: Option<Command>,
    /// What that ends or disturbs beside the reference.
    pub interrupts: Option<String>,
    /// What follows: who unmounts, and when.
    pub then: Option<String>,
    /// The command whose exit status 0 means that nothing blocks any more.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub check: Option<Command>,
}

/// What sort of thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FixAction {
    /// The command frees it.
    Command,
    /// The command frees it where the others were ignored, and leaves no time to save anything. Only in JSON.
    Force,
    /// There is no command for it: something has to be closed, or configured in another way.
    Change,
    /// It goes away by itself.
    Wait,
    /// The command frees nothing, but tells more: where nobody was found.
    Look,
    /// What does not help, and why. Only in JSON.
    Note,
}

impl Fix {
    fn new(action: FixAction, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            action,
            command: None,
            interrupts: None,
            then: None,
            check: None,
        }
    }

    /// Something for which there is no command.
    pub(crate) fn change(text: impl Into<String>) -> Self {
        Self::new(FixAction::Change, text)
    }

    /// It goes away by itself.
    pub(crate) fn wait(text: impl Into<String>) -> Self {
        Self::new(FixAction::Wait, text)
    }

    /// What does not help, and why.
    pub(crate) fn note(text: impl Into<String>) -> Self {
        Self::new(FixAction::Note, text)
    }

    /// What the command does, and what that interrupts; where a name cannot be typed, only the words are left.
    pub(crate) fn command(text: impl Into<String>, command: Option<Command>, interrupts: &str) -> Self {
        match command {
            Some(command) => Self {
                command: Some(command),
                interrupts: Some(interrupts.to_owned()).filter(|text| !text.is_empty()),
                ..Self::new(FixAction::Command, text)
            },
            None => Self::change(text),
        }
    }

    /// The command frees nothing, but tells more.
    pub(crate) fn look(text: impl Into<String>, command: Command) -> Self {
        Self {
            command: Some(command),
            ..Self::new(FixAction::Look, text)
        }
    }

    /// Whether it is for people as well: the rest would only be in the way of what helps.
    #[must_use]
    pub fn is_for_people(&self) -> bool {
        !matches!(self.action, FixAction::Note | FixAction::Force)
    }

    /// The sentence with what it interrupts, before the command.
    #[must_use]
    pub fn words(&self) -> String {
        let colon = if self.command.is_some() { ":" } else { "" };
        match &self.interrupts {
            Some(interrupts) => format!("{} ({interrupts}){colon}", self.text),
            None => format!("{}{colon}", self.text),
        }
    }
}
