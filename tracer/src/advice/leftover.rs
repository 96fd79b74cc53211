//! What was removed, renamed or mounted over while something was still mounted there: that mount is the reason.

use crate::{
    model::{Fix, Target},
    text::Command,
};

/// The umount that was left out.
pub(super) fn of_leftover(target: &Target) -> Fix {
    let text =
        "unmount it: as long as it is mounted, its directory cannot be removed, renamed or mounted again";
    Fix::command(text, Command::new(&["umount"]).path(target.path.as_bytes()), "")
}
