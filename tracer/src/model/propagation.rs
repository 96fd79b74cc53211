//! How a mount receives what happens to others.

named! {
    /// How mounts and umounts get from one mount to another.
    Propagation {
        /// They do not.
        Private => "private",
        /// From its master to it.
        Slave => "slave",
        /// Between it and its peers.
        Shared => "shared",
        /// From its master to it and its peers.
        SharedSlave => "shared+slave",
        /// They do not, and it cannot be bind-mounted: of mounts that a runtime was asked for.
        Unbindable => "unbindable",
    }
}

impl Propagation {
    /// By whether it has peers, and whether it has a master.
    #[must_use]
    pub fn new(shared: bool, slave: bool) -> Self {
        match (shared, slave) {
            (true, false) => Self::Shared,
            (false, true) => Self::Slave,
            (true, true) => Self::SharedSlave,
            (false, false) => Self::Private,
        }
    }

    /// What happens at a master happens to it, but not the other way round.
    #[must_use]
    pub fn has_master(self) -> bool {
        matches!(self, Self::Slave | Self::SharedSlave)
    }
}
