//! Words of others made safe: to print, to put into a sentence, and to paste into a shell. Whatever ebusy writes for
//! people goes through here.

pub(crate) mod command;
mod escape;
pub mod json;
pub mod say;

#[cfg(test)]
pub(crate) use self::escape::is_deceptive;
pub(crate) use self::escape::{is_bare, said_always};
pub use self::{
    command::{Command, is_kubernetes_name, is_plain_name},
    escape::{escape, printable, said, said_path},
};
