//! One AF_XDP socket: its four rings, and the UMEM it shares with the process's other sockets.
//!
//! The first socket registers the packet memory as UMEM; later ones, of any queue of any interface,
//! share it with one that lives (`XDP_SHARED_UMEM`, whose flags come from the first). Sockets that copy
//! and sockets that do not cannot share, nor can those for frames of one buffer and of several: each kind has its own
//! registration of the same memory.

use super::bpf;
use super::ring::{Consumer, Producer};
use crate::limits::CHUNK_BYTES;
use crate::packet::memory::Memory;
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with, sockopt,
};
use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Entries of each ring.
pub(super) const RING: u32 = 1024;

/// A queue that was just closed is busy until the kernel has cleaned it up: tens of milliseconds.
const BUSY_TRIES: u32 = 40;
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// A socket that others can share the UMEM of, while it lives.
struct Registration {
    memory: *const Memory,
    kind: Kind,
    socket: Weak<OwnedFd>,
}

// SAFETY: the pointer is only compared.
unsafe impl Send for Registration {}

/// Held while a socket is shared with or closed, so that closing one means that it is closed.
static REGISTRATIONS: Mutex<Vec<Registration>> = Mutex::new(Vec::new());

fn registrations() -> MutexGuard<'static, Vec<Registration>> {
    REGISTRATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a socket may move frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    /// Without copying if the driver can, else by copying.
    Avoid,
    /// Always: all that generic XDP can.
    Always,
}

/// What sockets that share a registration have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    zero_copy: bool,
    /// Frames of several buffers pass.
    several: bool,
}

/// Whether the kernel knows frames of several buffers (`XDP_USE_SG`), as it does from 6.6 on: it says so before it
/// misses the interface.
pub(super) fn knows_several() -> bool {
    let Ok(socket) = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None) else { return false };
    bind(&socket, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_USE_SG, 0, 0)) == Err(Errno::NODEV)
}

/// See the module comment.
pub(super) struct Socket {
    descriptor: Arc<OwnedFd>,
    interface: u32,
    queue: u32,
    pub receive: Consumer<XdpDesc>,
    pub transmit: Producer<XdpDesc>,
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
    pub zero_copy: bool,
    /// Frames of several buffers pass.
    pub several: bool,
}

impl Socket {
    /// Binds to one queue of an interface; `several`: frames of several buffers are to pass, see [`knows_several`].
    pub fn bind(memory: &'static Memory, interface: u32, queue: u32, copying: Copying, several: bool) -> Result<Self> {
        for attempt in 1.. {
            match Self::try_bind(memory, interface, queue, copying, several) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempt < BUSY_TRIES => {
                    std::thread::sleep(BUSY_WAIT);
                }
                result => return result,
            }
        }
        unreachable!("the last attempt returns")
    }

    fn try_bind(memory: &'static Memory, interface: u32, queue: u32, copying: Copying, several: bool) -> Result<Self> {
        if copying == Copying::Avoid {
            match Self::bind_as(memory, interface, queue, Kind { zero_copy: true, several }) {
                // The driver cannot (EOPNOTSUPP, on some EINVAL), or cannot now.
                Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {}
                result => return result,
            }
        }
        Self::bind_as(memory, interface, queue, Kind { zero_copy: false, several })
    }

    fn bind_as(memory: &'static Memory, interface: u32, queue: u32, kind: Kind) -> Result<Self> {
        let mut registrations = registrations();
        registrations.retain(|registration| registration.socket.strong_count() > 0);
        let shared = registrations
            .iter()
            .filter(|registration| std::ptr::eq(registration.memory, memory) && registration.kind == kind)
            .find_map(|registration| registration.socket.upgrade());
        let socket = Self::new(memory, interface, queue, kind, shared)?;
        registrations.push(Registration { memory, kind, socket: Arc::downgrade(&socket.descriptor) });
        Ok(socket)
    }

    fn new(
        memory: &'static Memory,
        interface: u32,
        queue: u32,
        kind: Kind,
        shared: Option<Arc<OwnedFd>>,
    ) -> Result<Self> {
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        if shared.is_none() {
            let (start, bytes) = memory.umem();
            let registration = XdpUmemReg {
                addr: start.as_ptr() as u64,
                len: bytes as u64,
                chunk_size: CHUNK_BYTES as u32,
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            };
            sockopt::set_xdp_umem_reg(&socket, registration)?;
        }
        sockopt::set_xdp_umem_fill_ring_size(&socket, RING)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, RING)?;
        sockopt::set_xdp_rx_ring_size(&socket, RING)?;
        sockopt::set_xdp_tx_ring_size(&socket, RING)?;
        let offsets = sockopt::xdp_mmap_offsets(&socket)?;
        let receive = Consumer::map(&socket, XDP_PGOFF_RX_RING, &offsets.rx, RING)?;
        let transmit = Producer::map(&socket, XDP_PGOFF_TX_RING, &offsets.tx, RING)?;
        let fill = Producer::map(&socket, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, RING)?;
        let completion = Consumer::map(&socket, XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, RING)?;
        match shared {
            Some(shared) => {
                let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, interface, queue);
                bind(&socket, &SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: (*shared).as_fd() })?;
            }
            None => {
                let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
                flags |= if kind.zero_copy { SocketAddrXdpFlags::XDP_ZEROCOPY } else { SocketAddrXdpFlags::XDP_COPY };
                flags.set(SocketAddrXdpFlags::XDP_USE_SG, kind.several);
                bind(&socket, &SocketAddrXdp::new(flags, interface, queue))?;
            }
        }
        let (descriptor, Kind { zero_copy, several }) = (Arc::new(socket), kind);
        Ok(Self { descriptor, interface, queue, receive, transmit, fill, completion, zero_copy, several })
    }

    /// For [`missed`].
    pub fn watch(&self) -> Weak<OwnedFd> {
        Arc::downgrade(&self.descriptor)
    }

    /// For poll(2): readable when frames wait.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        (*self.descriptor).as_fd()
    }

    /// Has the kernel look at the transmit ring. Copying, it sends at most 32 frames and then says
    /// `AGAIN`.
    pub fn wake_transmit(&self) -> std::result::Result<(), Errno> {
        send(&*self.descriptor, &[], SendFlags::DONTWAIT).map(drop)
    }

    /// Has a sleeping driver look at the fill ring. It can only fail for now: the next round asks again.
    pub fn wake_receive(&self) {
        let _ = recv(&*self.descriptor, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
    }

    /// Closes the socket. When this returns the kernel touches no chunk of its rings any more; if it
    /// gives false, it may (a driver that does not copy and did not let go of the queue in time).
    pub fn close(self, sockets: &OwnedFd, memory: &'static Memory) -> bool {
        let Self { descriptor, interface, queue, zero_copy, .. } = self;
        // Closing the last descriptor would do all this, but a child process that is about to `exec`
        // may have a copy: so no frame is sent here any more, and those on their way have arrived when
        // every reader of kernel structures has passed.
        let _ = bpf::remove(sockets, queue.to_ne_bytes());
        wait_for_readers();
        {
            let _nobody_shares_it_now = registrations();
            drop(descriptor);
        }
        if !zero_copy {
            return true;
        }
        // Drivers let go of their queue later. Only then can it be bound to again, or the interface is
        // gone.
        match Self::bind(memory, interface, queue, Copying::Always, false) {
            Ok(_) => true,
            Err(error) => error.raw_os_error() != Some(libc::EBUSY),
        }
    }
}

/// Frames of these sockets that the kernel dropped because they had no chunk or no place in the receive
/// ring for it. Sockets that are closed count no more.
pub(super) fn missed(sockets: &[Weak<OwnedFd>]) -> u64 {
    let _nobody_closes_one_now = registrations();
    let statistics = |socket: &Weak<OwnedFd>| sockopt::xdp_statistics(&*socket.upgrade()?).ok();
    sockets
        .iter()
        .filter_map(statistics)
        .map(|statistics| statistics.rx_dropped + statistics.rx_ring_full.unwrap_or(0))
        .sum()
}

/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is the kernel's `synchronize_rcu`. Kernels with `nohz_full`
/// refuse; a pause of many times the kernel's longest packet batch stands in.
fn wait_for_readers() {
    const GLOBAL: libc::c_long = 1;
    // SAFETY: it takes two numbers and touches no memory of ours.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
}
