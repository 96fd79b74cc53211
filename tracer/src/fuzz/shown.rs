//! What is shown has to be harmless.

/// Text that goes to a terminal: it ends lines, and does nothing else there.
pub(super) fn shown(text: &str) {
    let active = text
        .chars()
        .find(|char| *char != '\n' && (char.is_control() || crate::text::is_deceptive(*char)));
    assert!(active.is_none(), "{active:?} in {text:?}");
}
