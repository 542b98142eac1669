//! The least that forwards between two TAPs with virtio-net headers: what is read from one is written to the other, the
//! header untouched, so that checksums stay partial and 64 KB segments whole. What a switch makes of TCP between two
//! instances is measured against it.

use super::real_l2fwd::Control;
use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::Ordering;

/// Bytes before a frame.
static HEADER: libc::c_int = 10;
/// Frames read from one before the other has its turn.
const BATCH: usize = 64;

/// Creates the TAP in the network namespace of the calling thread.
///
/// # Errors
/// The name is taken, or we may not.
pub fn open(name: &str) -> Result<OwnedFd> {
    let tun = rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, &byte) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: the first takes an ifreq, the second an int, the third its flags in place of the pointer.
    let failed = unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) < 0
            || libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const HEADER) < 0
            || libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) < 0
    };
    if failed {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("making TAP {name}"));
    }
    Ok(tun)
}

/// Forwards between two TAPs until it is told to stop.
pub fn run(taps: [&OwnedFd; 2], control: &Control) {
    let mut buffer = vec![0; HEADER as usize + 65_536 + 1024];
    while !control.stop.load(Ordering::Relaxed) {
        let mut moved = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            for _ in 0..BATCH {
                let Ok(length) = rustix::io::read(taps[from], &mut buffer[..]) else { break };
                // What the other side cannot take is lost, as on a wire.
                let _full = rustix::io::write(taps[to], &buffer[..length]);
                moved += 1;
            }
        }
        if moved == 0 {
            let mut descriptors = taps.map(|tap| PollFd::new(tap, PollFlags::IN));
            let _ = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 }));
        }
        control.forwarded.fetch_add(moved, Ordering::Relaxed);
    }
}
