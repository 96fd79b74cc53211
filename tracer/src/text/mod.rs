//! Makes foreign strings safe: to print, to put into a sentence, and to paste into a shell. All output for people goes
//! through here.

pub(crate) mod command;
mod escape;
pub(crate) mod fit;
pub mod json;
mod line;
pub mod say;

pub use self::{
    command::{Command, is_kubernetes_name, is_plain_name},
    escape::{escape, printable, said, said_path},
};
pub(crate) use self::{
    escape::{is_bare, is_deceptive, said_always},
    line::{Line, name_in_text, short_name},
};
