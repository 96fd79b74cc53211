//! Kernel programs of ebusy.
fn main(){}
