//! Followers: each follows one kind of thing from the first record of it to its end, looks where it has to, and writes what
//! it found to the stream.

mod all;
mod detached;
mod follower;
mod loops;
mod operations;
mod slow;
mod umounts;

pub(super) use self::{all::Followers, follower::Follower};
