//! The AF_XDP port: a network interface of the host, its frames straight in packet memory.
//!
//! An XDP program on the interface (see `program.rs`) gives the frames that are ours to one socket per
//! queue; everything else goes on to the kernel, the host's own SSH included: what is ours is told by maps, which
//! change while it runs. While addresses are ours the interface is promiscuous, because they may be at MAC addresses
//! that are not its own. The program is held by a
//! descriptor in [`AfXdp`]: it is gone when that is dropped or the process ends, however.
//!
//! [`AfXdp`] belongs to the thread that opens ports; each [`AfXdpQueue`] to a worker. Of the host's
//! configuration one thing is changed while a port takes everything: VLAN tags stay in received frames (`rxvlan off`).
//! Two things are up to the operator:
//! - Frames that a veth's other end sends with offloaded checksums arrive with partial ones, and
//!   AF_XDP says nothing about it: switch them off there (`ethtool -K DEV tx off`). Every received frame
//!   counts as `Unverified`.
//! - With fewer queues than the interface has, frames that the NIC puts on the others stay with the host.

mod bpf;
mod program;
mod queue;
mod ring;
mod socket;

pub use queue::AfXdpQueue;

use super::PortSlot;
use super::interface::Interface;
use crate::limits::BUFFERS_PER_PORT;
use crate::packet::memory::{Class, Memory};
use crate::packet::tunnel::Encapsulation;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use socket::{Copying, RING, Socket};
use std::collections::BTreeSet;
use std::io::Error as IoError;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// The largest MTU of an interface whose frames lie in one buffer each, bytes: a frame, the kernel's 256 bytes before
/// it and, in native mode, its 320 behind must fit a page.
pub const LARGEST_MTU_OF_ONE: u32 = 3500;

/// The largest MTU of an interface, bytes, where the kernel knows frames of several buffers (6.6 and later).
pub const LARGEST_MTU: u32 = 9600;

/// Ethernet header and one VLAN tag: what a link carries beyond its MTU, as in the kernel.
const LINK_HEADER: usize = 18;

/// Tunnel ends whose packets a port can take.
pub const ENDPOINTS: usize = 64;

/// Addresses that a port can take packets for.
pub const ADDRESSES: usize = 4096;

/// Which XDP hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Native if the driver can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's stack: works everywhere, slower.
    Generic,
}

/// What an AF_XDP port should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AfXdpSettings {
    /// The interface, in the caller's network namespace.
    pub interface: String,
    /// Queues to use, from queue 0; 0: all.
    pub queues: u32,
    /// Which hook.
    pub mode: Mode,
    /// Every frame is ours (and the interface promiscuous meanwhile), instead of only those to
    /// [`AfXdp::set_endpoints`] and [`AfXdp::set_addresses`].
    pub take_all: bool,
}

/// Why an AF_XDP port does not open.
#[derive(Debug, thiserror::Error)]
pub enum AfXdpError {
    /// There is no such interface here.
    #[error("there is no interface {0:?}. `ip link` shows those there are.")]
    NoInterface(String),
    /// It is a loopback, a tunnel or the like.
    #[error("{0:?} is not an Ethernet interface. Use the one below it.")]
    NotEthernet(String),
    /// Frames would be too large.
    #[error(
        "the MTU of {interface:?} (or of its veth peer) is too large: {mtu}{}. Set it to {most} or less (ip link set \
         {interface} mtu {most}).",
        if *most == LARGEST_MTU { "" } else { " for this kernel or driver, which has no frames of several buffers" }
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU, bytes.
        mtu: u32,
        /// What it may be here.
        most: u32,
    },
    /// It has not that many queues.
    #[error(
        "{interface:?} has {receive} receive and {transmit} transmit queues, {wanted} of both are needed. \
         Use fewer, or change their number (ethtool -L {interface})."
    )]
    Queues {
        /// The interface.
        interface: String,
        /// Receive queues it has.
        receive: u32,
        /// Transmit queues it has.
        transmit: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// Somebody's program is there.
    #[error(
        "{0:?} carries another XDP program already. Stop the program that put it there, or remove it: \
         ip link set {0} xdp off."
    )]
    OtherProgram(String),
    /// A queue is bound.
    #[error("queue {queue} of {interface:?} is used by another program's AF_XDP socket. Stop that program.")]
    QueueInUse {
        /// The interface.
        interface: String,
        /// Which queue.
        queue: u32,
    },
    /// Too many endpoints.
    #[error("{0} tunnel endpoints on one interface; {ENDPOINTS} are possible. Use fewer addresses or UDP ports.")]
    TooManyEndpoints(usize),
    /// Too many addresses.
    #[error("{0} addresses on one interface; {ADDRESSES} are possible. Use fewer, or take all of its frames.")]
    TooManyAddresses(usize),
    /// We may not.
    #[error(
        "{doing} is not permitted. Run the switch as root or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and \
         CAP_IPC_LOCK."
    )]
    NotPermitted {
        /// What we were doing.
        doing: &'static str,
    },
    /// Packet memory cannot be locked.
    #[error("packet memory cannot be locked. Raise the limit (LimitMEMLOCK=infinity), or give CAP_IPC_LOCK.")]
    MemoryLocked,
    /// The kernel or driver cannot.
    #[error("{doing} on {interface:?} failed: {source}. {remedy}")]
    System {
        /// What we were doing.
        doing: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel says.
        source: IoError,
        /// What to do.
        remedy: &'static str,
    },
}

/// The opener's part of the port. Dropping it takes the XDP program off the interface: from then on
/// all frames are the host's. Do that first, then close the queues.
pub struct AfXdp {
    /// The interface.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU when the port was opened, bytes.
    pub mtu: u32,
    /// How it works, one line: "native, 2 queues, copy".
    pub detail: String,
    /// What of its traffic is ours. `None`: everything.
    ours: Option<Mutex<Ours>>,
    watched: Vec<Weak<OwnedFd>>,
    /// Hold the program on the interface and the interface promiscuous.
    link: OwnedFd,
    promiscuous: Mutex<Option<OwnedFd>>,
    /// It took VLAN tags off before.
    took_tags_off: bool,
    /// The interface itself.
    device: Arc<Interface>,
}

/// Tells whether the interface of a port is still there.
#[derive(Clone)]
pub struct AfXdpWatch {
    device: Arc<Interface>,
    index: u32,
}

/// The interface that a port was opened on is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "interface {0:?} was deleted, or moved to another network namespace. Make it again, and the port is opened on it; or \
     remove the port."
)]
pub struct AfXdpLoss(String);

impl AfXdpWatch {
    /// What has become of it; `None`: it is there.
    #[must_use]
    pub fn loss(&self) -> Option<AfXdpLoss> {
        (!self.device.has_index(self.index)).then(|| AfXdpLoss(self.device.name().to_owned()))
    }
}

impl Drop for AfXdp {
    fn drop(&mut self) {
        if self.took_tags_off {
            // It fails only if the interface is gone.
            let _ = self.device.take_tags_off(true);
        }
        // It fails only if the interface is gone, and the program with it.
        let _ = bpf::detach(&self.link);
    }
}

/// A map of the program, and what it holds.
struct Held<T> {
    map: OwnedFd,
    set: BTreeSet<T>,
}

impl<T: Ord + Copy> Held<T> {
    fn new(key: usize, entries: usize) -> Result<Self, IoError> {
        let map = bpf::create_map(bpf::MAP_TYPE_HASH, key, 1, entries as u32)?;
        Ok(Self { map, set: BTreeSet::new() })
    }

    /// From now on exactly these. First out, then in: the map has room for no more than it may hold.
    fn change<const K: usize>(&mut self, wanted: &BTreeSet<T>, key: impl Fn(T) -> [u8; K]) -> Result<(), IoError> {
        for &gone in self.set.clone().difference(wanted) {
            bpf::remove(&self.map, key(gone))?;
            self.set.remove(&gone);
        }
        for &new in wanted {
            if !self.set.contains(&new) {
                bpf::set(&self.map, key(new), [1])?;
                self.set.insert(new);
            }
        }
        Ok(())
    }
}

struct Ours {
    endpoints: Held<(Ipv4Addr, Encapsulation)>,
    addresses: Held<Ipv4Addr>,
}

impl AfXdp {
    /// Opens the port: binds its queues and puts the program on the interface. A queue that was closed
    /// just now is waited for, up to two seconds.
    ///
    /// # Errors
    /// See [`AfXdpError`]. Nothing is left behind.
    pub fn open(
        slot: PortSlot,
        settings: &AfXdpSettings,
        memory: &'static Memory,
    ) -> Result<(Self, Vec<AfXdpQueue>), AfXdpError> {
        let name = &settings.interface;
        let missing = |_| AfXdpError::NoInterface(name.clone());
        let interface = Interface::named(name).map_err(missing)?;
        let index = interface.index().map_err(missing)?;
        let mac = interface.mac().map_err(missing)?.ok_or_else(|| AfXdpError::NotEthernet(name.clone()))?;
        let mtu = interface.mtu().map_err(missing)?;
        let most = if socket::knows_several() { LARGEST_MTU } else { LARGEST_MTU_OF_ONE };
        if mtu > most {
            return Err(AfXdpError::MtuTooLarge { interface: name.clone(), mtu, most });
        }
        let (receive, transmit) = interface.queues();
        let wanted = if settings.queues == 0 { receive } else { settings.queues };
        if wanted > receive.min(transmit) {
            return Err(AfXdpError::Queues { interface: name.clone(), receive, transmit, wanted });
        }
        let failed = |doing, remedy| {
            move |source: IoError| match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => AfXdpError::NotPermitted { doing },
                _ => AfXdpError::System { doing, interface: name.clone(), source, remedy },
            }
        };
        let kernel = "Linux 6.1 or later with CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL is needed.";
        let sockets = bpf::create_map(bpf::MAP_TYPE_XSK, 4, 4, wanted)
            .map(Arc::new)
            .map_err(failed("creating a map of sockets", kernel))?;
        let (instructions, ours) = if settings.take_all {
            (program::take_all(&sockets), None)
        } else {
            let endpoints = Held::new(program::ENDPOINT, ENDPOINTS);
            let endpoints = endpoints.map_err(failed("creating a map of endpoints", kernel))?;
            let addresses = Held::new(program::ADDRESS, ADDRESSES);
            let addresses = addresses.map_err(failed("creating a map of addresses", kernel))?;
            let program = program::take_ours(&sockets, &endpoints.map, &addresses.map);
            (program, Some(Mutex::new(Ours { endpoints, addresses })))
        };
        let put = |several| {
            let loaded = bpf::load(&instructions, several).map_err(failed("loading the XDP program", kernel))?;
            attach(name, index, mtu, settings.mode, &loaded)
        };
        let mut several = mtu > LARGEST_MTU_OF_ONE;
        let mut attached = put(several);
        if let Err(AfXdpError::MtuTooLarge { .. }) = attached
            && !several
            && most == LARGEST_MTU
        {
            // A veth's peer may send frames that are longer than the interface's own.
            several = true;
            attached = put(several);
        }
        let (link, native) = attached?;

        let copying = if native { Copying::Avoid } else { Copying::Always };
        let share = (BUFFERS_PER_PORT / 2).min(memory.total(Class::Chunk) as u32 / 4) / wanted;
        let mut queues = Vec::with_capacity(wanted as usize);
        let mut watched = Vec::with_capacity(wanted as usize);
        let mut zero_copy = true;
        for queue in 0..wanted {
            let socket =
                Socket::bind(memory, index, queue, copying, several).map_err(|error| match error.raw_os_error() {
                    Some(libc::EBUSY) => AfXdpError::QueueInUse { interface: name.clone(), queue },
                    Some(libc::ENOBUFS) => AfXdpError::MemoryLocked,
                    _ => failed("binding an AF_XDP socket", kernel)(error),
                })?;
            bpf::set(&sockets, queue.to_ne_bytes(), bpf::descriptor_number(socket.descriptor()))
                .map_err(failed("registering an AF_XDP socket", kernel))?;
            zero_copy &= socket.zero_copy;
            watched.push(socket.watch());
            let (map, target) = (Arc::clone(&sockets), share.clamp(1, RING));
            queues.push(AfXdpQueue::new(slot, socket, map, memory, target, mtu as usize + LINK_HEADER));
        }
        let promiscuous = if settings.take_all {
            Some(make_promiscuous(index).map_err(failed("making the interface promiscuous", kernel))?)
        } else {
            None
        };
        // AF_XDP does not see a tag that lies beside the frame. What a driver cannot do otherwise, or does not say, is not
        // in our hands: then untagged frames arrive all the same.
        let took_tags_off = settings.take_all && interface.take_tags_off(false).unwrap_or(false);
        let detail = format!(
            "{}, {}{} queue{}, {}",
            if native { "native" } else { "generic" },
            if wanted < receive { format!("{wanted} of ") } else { String::new() },
            receive,
            if receive == 1 { "" } else { "s" },
            if zero_copy { "zero-copy" } else { "copy" },
        );
        let port = Self {
            interface: name.clone(),
            index,
            mac,
            mtu,
            detail,
            ours,
            watched,
            link,
            promiscuous: Mutex::new(promiscuous),
            took_tags_off,
            device: Arc::new(interface),
        };
        Ok((port, queues))
    }

    /// Asked from time to time, see [`AfXdpWatch`].
    #[must_use]
    pub fn watch(&self) -> AfXdpWatch {
        AfXdpWatch { device: Arc::clone(&self.device), index: self.index }
    }

    /// Frames that the kernel dropped because the worker did not keep up or the port had no buffers
    /// left. No worker saw them: they are in no other count.
    #[must_use]
    pub fn missed(&self) -> u64 {
        socket::missed(&self.watched)
    }

    /// Changes which tunnel packets are ours, while it runs: those to one of these local addresses, of this kind, at most
    /// [`ENDPOINTS`]. Nothing at first. Without effect on a port that takes everything.
    ///
    /// # Errors
    /// There are too many (then nothing changed), or the kernel refuses.
    pub fn set_endpoints(&self, wanted: &BTreeSet<(Ipv4Addr, Encapsulation)>) -> Result<(), AfXdpError> {
        let Some(ours) = &self.ours else { return Ok(()) };
        if wanted.len() > ENDPOINTS {
            return Err(AfXdpError::TooManyEndpoints(wanted.len()));
        }
        let mut ours = ours.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = ours.endpoints.change(wanted, |(address, kind)| program::endpoint(address, kind));
        changed.map_err(|source| self.failed("changing the tunnel endpoints", source))
    }

    /// Changes which addresses are ours, while it runs: IPv4 packets to one of these, at most [`ADDRESSES`], and ARP
    /// that asks for one. None at first. Without effect on a port that takes everything.
    ///
    /// # Errors
    /// There are too many (then nothing changed), or the kernel refuses.
    pub fn set_addresses(&self, wanted: &BTreeSet<Ipv4Addr>) -> Result<(), AfXdpError> {
        let Some(ours) = &self.ours else { return Ok(()) };
        if wanted.len() > ADDRESSES {
            return Err(AfXdpError::TooManyAddresses(wanted.len()));
        }
        let mut ours = ours.lock().unwrap_or_else(PoisonError::into_inner);
        let mut promiscuous = self.promiscuous.lock().unwrap_or_else(PoisonError::into_inner);
        if promiscuous.is_none() && !wanted.is_empty() {
            let held = make_promiscuous(self.index);
            *promiscuous = Some(held.map_err(|source| self.failed("making the interface promiscuous", source))?);
        }
        let changed = ours.addresses.change(wanted, |address| address.octets());
        if ours.addresses.set.is_empty() {
            *promiscuous = None;
        }
        changed.map_err(|source| self.failed("changing the addresses", source))
    }

    fn failed(&self, doing: &'static str, source: IoError) -> AfXdpError {
        let remedy = "Close the port and open it again.";
        AfXdpError::System { doing, interface: self.interface.clone(), source, remedy }
    }
}

/// Puts the program on the interface; gives the link and whether it is native.
fn attach(name: &str, index: u32, mtu: u32, mode: Mode, loaded: &OwnedFd) -> Result<(OwnedFd, bool), AfXdpError> {
    let doing = "attaching the XDP program";
    let fail = |source: IoError, native: bool| match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => AfXdpError::OtherProgram(name.to_owned()),
        Some(libc::EPERM | libc::EACCES) => AfXdpError::NotPermitted { doing },
        Some(libc::ERANGE) => AfXdpError::MtuTooLarge { interface: name.to_owned(), mtu, most: LARGEST_MTU_OF_ONE },
        Some(libc::ENODEV) => AfXdpError::NoInterface(name.to_owned()),
        _ => AfXdpError::System {
            doing,
            interface: name.to_owned(),
            source,
            remedy: if native {
                "The driver may have no native XDP: use mode generic or auto."
            } else {
                "The kernel needs generic XDP: use another interface."
            },
        },
    };
    // A switch that was killed and started again may meet its own program for a moment.
    let attach = |mode| {
        let mut left = 5;
        loop {
            match bpf::attach(loaded, index, mode) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) && left > 0 => {
                    left -= 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    };
    if mode != Mode::Generic {
        match attach(bpf::NATIVE).map_err(|error| fail(error, true)) {
            Ok(link) => return Ok((link, true)),
            // The driver cannot, or not with these settings.
            Err(AfXdpError::System { .. }) if mode == Mode::Auto => {}
            Err(error) => return Err(error),
        }
    }
    attach(bpf::GENERIC).map(|link| (link, false)).map_err(|error| fail(error, false))
}

/// Frames to any address reach the program while the descriptor lives.
fn make_promiscuous(index: u32) -> Result<OwnedFd, IoError> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    /// `struct packet_mreq`
    #[repr(C)]
    struct Membership {
        interface: i32,
        kind: u16,
        length: u16,
        address: [u8; 8],
    }
    let membership =
        Membership { interface: index as i32, kind: libc::PACKET_MR_PROMISC as u16, length: 0, address: [0; 8] };
    // SAFETY: PACKET_ADD_MEMBERSHIP takes this structure.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            std::ptr::from_ref(&membership).cast(),
            size_of::<Membership>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(socket) } else { Err(IoError::last_os_error()) }
}
