//! Frames for a switch on real ports: as many as one core can send into an interface, or a few at a time.

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Frames of one system call.
const BATCH: usize = 64;

/// A packet socket on an interface of the calling thread's network namespace, that goes past queueing disciplines.
///
/// # Errors
/// There is no such interface, or we lack CAP_NET_RAW.
pub fn packet_socket(interface: &str) -> Result<OwnedFd> {
    // Protocol 0: it receives nothing.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let index = rustix::net::netdevice::name_to_index(&socket, interface).context(interface.to_owned())?;
    let one: libc::c_int = 1;
    // SAFETY: all zeroes is a valid address; it is filled below.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    // SAFETY: PACKET_QDISC_BYPASS takes an int, bind an address of this length.
    unsafe {
        let set = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            std::ptr::from_ref(&one).cast(),
            size_of::<libc::c_int>() as u32,
        );
        let bound =
            libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as u32);
        if set != 0 || bound != 0 {
            return Err(std::io::Error::last_os_error()).context("binding a packet socket");
        }
    }
    Ok(socket)
}

/// Sends the frames in turn, again and again, until told to stop.
///
/// # Errors
/// The interface is gone.
pub fn flood(interface: &str, frames: &[Vec<u8>], stop: &AtomicBool) -> Result<()> {
    let socket = packet_socket(interface)?;
    let mut pieces: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    // SAFETY: all zeroes is a valid message; the piece is set here.
    let mut messages: Vec<libc::mmsghdr> = pieces
        .iter_mut()
        .map(|piece| unsafe {
            let mut message: libc::mmsghdr = std::mem::zeroed();
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let count = (messages.len() - next).min(BATCH);
        // SAFETY: the messages, and the frames that they name, live on; sending does not write to them but their lengths.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages[next..].as_mut_ptr(), count as u32, 0) };
        if sent < 0 {
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => continue,
                _ => return Err(error).context("sending"),
            }
        }
        next += sent as usize;
        if next >= messages.len() {
            next = 0;
        }
    }
    Ok(())
}
