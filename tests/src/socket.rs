//! UNIX sockets for the holder programs.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use anyhow::Result;
use rustix::{
    fs::fstat,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};

use crate::claim::Claim;

/// The name that a socket has in `/proc/PID/fd`.
pub fn name(socket: impl AsFd) -> Result<String> {
    Ok(format!("socket:[{}]", fstat(socket)?.st_ino))
}

/// Sends descriptors.
pub fn send(socket: impl AsFd, files: &[BorrowedFd<'_>]) -> Result<()> {
    let message = SendAncillaryMessage::ScmRights(files);
    let mut space = vec![MaybeUninit::uninit(); message.size()];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    anyhow::ensure!(buffer.push(message), "too many descriptors");
    sendmsg(socket, &[IoSlice::new(b".")], &mut buffer, SendFlags::empty())?;
    Ok(())
}

/// A listener that is on no file system, and a connection that it has not accepted.
pub fn unaccepted() -> Result<(UnixListener, UnixStream)> {
    let address = SocketAddr::from_abstract_name(format!("ebusy-{}", std::process::id()))?;
    let listener = UnixListener::bind_addr(&address)?;
    let client = UnixStream::connect_addr(&address)?;
    Ok((listener, client))
}

/// Claims a socket that is bound to the first path; `way` is its `held_by`.
pub fn bound(socket: impl AsFd, way: &str) -> Result<Claim> {
    let mut claim = Claim::new("unix_socket").held_by(format!("{way}, {}", name(&socket)?));
    claim.owners[0].fd = Some(socket.as_fd().as_raw_fd() as u32);
    Ok(claim)
}

/// The first path is in flight from the calling process to the socket `by`, which comes with `receiver`.
pub fn in_flight(receiver: impl AsFd, by: &str) -> Claim {
    let pid = std::process::id();
    let mut claim = Claim::new("scm_rights")
        .held_by(format!("{by}, sent by {pid}"))
        .regular();
    claim.owners[0].fd = Some(receiver.as_fd().as_raw_fd() as u32);
    claim
}
