//! ebusy: names every reference that made an umount fail with "device or resource busy".

pub mod btf;
pub mod kernel;
pub mod identity;
pub mod model;
pub mod probe;
pub mod render;
