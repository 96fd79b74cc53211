//! How an incident ended.

named! {
    /// How an incident ended.
    Outcome {
        /// A later umount of the target succeeded.
        Released => "released",
        /// The target was detached with `MNT_DETACH`.
        Detached => "detached",
        /// No attempt for 30 s while still mounted.
        GaveUp => "gave_up",
        /// The mount, or its namespace, is gone without an umount that was seen.
        Gone => "gone",
        /// ebusy stopped first.
        StillBusy => "still_busy",
        /// An umount2 that took long returned an error.
        Failed => "failed",
    }
}

impl Outcome {
    /// Whether nobody has to try again: the target is not mounted there any more, or what kept it is gone.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Released | Self::Detached | Self::Gone)
    }
}
