//! ebusy: names every reference that made an umount fail with "device or resource busy".

pub mod btf;
pub mod cli;
pub mod identity;
pub mod incident;
pub mod kernel;
pub mod live;
pub mod model;
pub mod probe;
pub mod render;
pub mod stream;
