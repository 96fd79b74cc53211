//! What frees a mount, for people and for programs.

use serde::{Deserialize, Serialize};

/// Something to do about a holder. ebusy does none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fix {
    /// All of it in one sentence, as in `advice`.
    pub text: String,
    /// What sort of thing it is.
    pub action: FixAction,
    /// For a shell, as root, in the mount namespace that the target is in.
    pub command: Option<String>,
    /// What that ends or disturbs beside the reference.
    pub interrupts: Option<String>,
    /// What follows: who unmounts, and when.
    pub then: Option<String>,
    /// The command whose exit status 0 means that nothing blocks any more.
    pub check: Option<String>,
}

/// What sort of thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FixAction {
    /// The command frees it.
    Command,
    /// The command frees it where the others were ignored, and leaves no time to save anything. Not among the words.
    Force,
    /// There is no command for it: something has to be closed, or configured in another way.
    Change,
    /// It goes away by itself.
    Wait,
    /// The command frees nothing, but tells more: where nobody was found.
    Look,
    /// What does not help, and why.
    Note,
}
