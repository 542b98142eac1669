//! The TAP port: the switch holds the descriptor, the endpoint is the kernel's interface, usually in
//! the network namespace of an instance or container.
//!
//! Frames carry a virtio-net header (see [`super::virtio`]), so that checksums stay partial and 64 KB
//! segments cross as one frame. The interface is created where it belongs, never moved, and lives as
//! long as the queues' descriptors: it is gone when the port is closed or the process is, however it
//! died. The descriptors also keep its namespace alive if that is removed meanwhile: [`TapWatch`] tells that
//! the interface, or the name of its namespace, is gone.
//!
//! [`Tap::open`] is for the thread that opens ports, a [`TapWatch`] for who looks after them; a [`TapQueue`]
//! belongs to one worker.

use super::interface::{Interface, is_name};
use super::virtio;
use super::{Offloads, PortQueue, PortSlot, QueueCounters, Refused};
use crate::drop::{DropCounters, DropReason};
use crate::limits::SEGMENTS;
use crate::packet::frame::Frame;
use crate::packet::pool::Pool;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io::{Error as IoError, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ethernet header and one VLAN tag: what a link carries beyond its MTU, as in the kernel.
pub(super) const LINK_HEADER: usize = 18;

/// The largest MTU of a TAP, bytes: the kernel's.
pub const LARGEST_MTU: u32 = 65_521;

/// What a TAP port should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapSettings {
    /// The interface's name, 1 to 15 bytes.
    pub interface: String,
    /// The network namespace it is created in, as `ip netns` knows it; `None`: the caller's.
    pub netns: Option<String>,
    /// Its Ethernet address (not the switch's); `None`: the kernel chooses.
    pub mac: Option<[u8; 6]>,
    /// Bytes, 68 to [`LARGEST_MTU`].
    pub mtu: u32,
    /// How many queues, 1 to 256; the kernel spreads flows over them.
    pub queues: usize,
}

impl Default for TapSettings {
    fn default() -> Self {
        Self { interface: String::new(), netns: None, mac: None, mtu: 1500, queues: 1 }
    }
}

/// Why a TAP port does not open.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Settings that can never be right.
    #[error("{field}: {problem}. {remedy}")]
    Settings {
        /// Which setting.
        field: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The kernel has no TAP driver, or the container hides it.
    #[error("/dev/net/tun cannot be opened: {0}. Load the driver (modprobe tun), or give the container this device.")]
    NoDriver(IoError),
    /// The namespace is not there.
    #[error("there is no network namespace {0:?}. Create it first: ip netns add {0}.")]
    NoNamespace(String),
    /// Somebody has the name already.
    #[error("an interface {name:?} exists already{place}. Delete it (ip link del {name}) or choose another name.")]
    NameTaken {
        /// The interface.
        name: String,
        /// " in network namespace …", or nothing.
        place: String,
    },
    /// We may not.
    #[error("{doing} is not permitted. Run the switch as root or with CAP_NET_ADMIN and CAP_SYS_ADMIN.")]
    NotPermitted {
        /// What we were doing.
        doing: String,
    },
    /// Anything else.
    #[error("{doing} failed: {source}.")]
    System {
        /// What we were doing.
        doing: String,
        /// What the kernel says.
        source: IoError,
    },
}

impl TapError {
    fn from_system(doing: impl Into<String>, source: impl Into<IoError>) -> Self {
        let (doing, source) = (doing.into(), source.into());
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { doing },
            _ => Self::System { doing, source },
        }
    }
}

/// Why a TAP is not any more what it was opened as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapLoss {
    /// Somebody deleted the interface.
    #[error(
        "interface {0:?} was deleted. It is made anew in a moment; its addresses must then be set anew, as a DHCP \
         client does when it is started again."
    )]
    Deleted(String),
    /// Nobody can enter the namespace by this name any more.
    #[error(
        "network namespace {0:?} was removed. Make it again (ip netns add {0}), and the interface is made in it; or \
         remove the port."
    )]
    NamespaceRemoved(String),
}

/// Device and inode number: what tells one file from another.
type FileIdentity = (u64, u64);

/// Tells whether a TAP is still there. That its interface was deleted shows once its worker has tried to receive.
#[derive(Clone, Debug)]
pub struct TapWatch {
    interface: String,
    deleted: Arc<AtomicBool>,
    /// The namespace that was entered, by name.
    namespace: Option<(String, FileIdentity)>,
}

impl TapWatch {
    /// What has become of it; `None`: it is as it was opened.
    #[must_use]
    pub fn loss(&self) -> Option<TapLoss> {
        if self.deleted.load(Ordering::Relaxed) {
            return Some(TapLoss::Deleted(self.interface.clone()));
        }
        let (name, entered) = self.namespace.as_ref()?;
        let same = match rustix::fs::stat(namespace_path(name)) {
            Ok(found) => (found.st_dev, found.st_ino) == *entered,
            Err(error) => error != Errno::NOENT,
        };
        (!same).then(|| TapLoss::NamespaceRemoved(name.clone()))
    }
}

/// Where `ip netns` keeps the namespaces it knows.
fn namespace_path(name: &str) -> String {
    format!("/var/run/netns/{name}")
}

/// What the opener keeps of the port; dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Tap {
    /// The kernel's interface.
    pub interface: String,
    /// Its index in its namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// How it works, one line: "1 queue, checksum, TSO, USO".
    pub detail: String,
    /// See [`TapWatch`].
    pub watch: TapWatch,
}

impl Tap {
    /// Creates the interface, in its namespace, with its address and MTU, and sets it up. The caller's
    /// own namespace does not change: this happens on a thread of its own.
    ///
    /// # Errors
    /// See [`TapError`]. Nothing is left behind.
    pub fn open(slot: PortSlot, settings: &TapSettings) -> Result<(Self, Vec<TapQueue>), TapError> {
        check(settings)?;
        std::thread::scope(|scope| {
            let opener = std::thread::Builder::new()
                .name("tap-open".to_owned())
                .spawn_scoped(scope, || open_here(slot, settings))
                .map_err(|error| TapError::from_system("starting a thread", error))?;
            opener.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn check(settings: &TapSettings) -> Result<(), TapError> {
    let refuse = |field, problem: String, remedy| Err(TapError::Settings { field, problem, remedy });
    if !is_name(&settings.interface) {
        let problem = format!("{:?} cannot be an interface's name", settings.interface);
        return refuse("interface", problem, "Use 1 to 15 letters, digits, dashes and the like; no '/', ':' or '%'.");
    }
    if let Some(name) = &settings.netns
        && (name.is_empty() || name.contains('/') || name == "." || name == "..")
    {
        let problem = format!("{name:?} cannot be a namespace's name");
        return refuse("netns", problem, "Give a name that `ip netns list` shows.");
    }
    if !(68..=LARGEST_MTU).contains(&settings.mtu) {
        return refuse("mtu", format!("{} is out of range", settings.mtu), "Give 68 to 65521 bytes.");
    }
    if settings.mac.is_some_and(|mac| mac[0] & 1 != 0 || mac == [0; 6]) {
        return refuse(
            "mac",
            "it is not a station's address".to_owned(),
            "Give one with an even first byte, not zero.",
        );
    }
    if !(1..=256).contains(&settings.queues) {
        return refuse("queues", format!("{} is out of range", settings.queues), "Give 1 to 256.");
    }
    Ok(())
}

/// The rest of [`Tap::open`], on a thread that may change its namespace.
fn open_here(slot: PortSlot, settings: &TapSettings) -> Result<(Tap, Vec<TapQueue>), TapError> {
    let name = &settings.interface;
    let mut place = String::new();
    let mut entered = None;
    if let Some(netns) = &settings.netns {
        let path = namespace_path(netns);
        let namespace =
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
                Errno::NOENT => TapError::NoNamespace(netns.clone()),
                error => TapError::from_system(format!("opening {path}"), error),
            })?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| {
            match error {
                // A file without a namespace mounted on it: what a broken `ip netns add` leaves.
                Errno::INVAL => TapError::NoNamespace(netns.clone()),
                error => TapError::from_system(format!("entering network namespace {netns:?}"), error),
            }
        })?;
        let found = rustix::fs::fstat(&namespace)
            .map_err(|error| TapError::from_system(format!("looking at {path}"), error))?;
        entered = Some((netns.clone(), (found.st_dev, found.st_ino)));
        place = format!(" in network namespace {netns:?}");
    }
    let interface = Interface::named(name).map_err(|error| TapError::from_system("opening a socket", error))?;
    if interface.index().is_ok() {
        return Err(TapError::NameTaken { name: name.clone(), place });
    }
    let mut descriptors = Vec::with_capacity(settings.queues);
    let mut datagrams = true;
    for queue in 0..settings.queues {
        let (descriptor, took) = open_queue(settings, queue == 0).map_err(|error| match error {
            TapError::System { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => {
                TapError::NameTaken { name: name.clone(), place: place.clone() }
            }
            error => error,
        })?;
        datagrams &= took;
        descriptors.push(descriptor);
    }
    let failed = |doing: &str| {
        let doing = format!("{doing} {name:?}{place}");
        move |error| TapError::from_system(doing, error)
    };
    if let Some(mac) = settings.mac {
        interface.set_mac(mac).map_err(failed("setting the address of"))?;
    }
    interface.set_mtu(settings.mtu).map_err(failed("setting the MTU of"))?;
    interface.set_up().map_err(failed("setting up"))?;
    let deleted = Arc::new(AtomicBool::new(false));
    let tap = Tap {
        watch: TapWatch { interface: name.clone(), deleted: deleted.clone(), namespace: entered },
        interface: name.clone(),
        index: interface.index().map_err(failed("looking for"))?,
        mac: interface.mac().map_err(failed("asking for the address of"))?.unwrap_or_default(),
        detail: format!(
            "{} queue{}, checksum, TSO{}",
            settings.queues,
            if settings.queues == 1 { "" } else { "s" },
            if datagrams { ", USO" } else { "" }
        ),
    };
    let offloads = Offloads {
        checksum: true,
        tcp_segmentation: true,
        udp_segmentation: datagrams,
        chains: true,
        max_frame: settings.mtu as usize + LINK_HEADER,
    };
    let queue = |descriptor| TapQueue {
        slot,
        descriptor: Some(descriptor),
        deleted: false,
        watch: deleted.clone(),
        offloads,
        counters: QueueCounters::default(),
    };
    Ok((tap, descriptors.into_iter().map(queue).collect()))
}

/// One descriptor of the interface, the `first` of which creates it; and whether the kernel hands over
/// (and takes) UDP segmentation, which it does from 6.2 on.
fn open_queue(settings: &TapSettings, first: bool) -> Result<(OwnedFd, bool), TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tun = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|error| match error {
        Errno::PERM | Errno::ACCESS => TapError::from_system("opening /dev/net/tun", error),
        error => TapError::NoDriver(error.into()),
    })?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, &byte) in request.ifr_name.iter_mut().zip(settings.interface.as_bytes()) {
        *place = byte as libc::c_char;
    }
    let mut mode = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if settings.queues > 1 {
        mode |= libc::IFF_MULTI_QUEUE;
    }
    if first {
        // Never adopt a persistent TAP of somebody else's.
        mode |= libc::IFF_TUN_EXCL;
    }
    request.ifr_ifru.ifru_flags = mode as libc::c_short;
    let doing = || format!("creating interface {:?}", settings.interface);
    // SAFETY: TUNSETIFF takes an `ifreq`.
    unsafe { control(&tun, libc::TUNSETIFF, std::ptr::from_mut(&mut request).cast()) }
        .map_err(|error| TapError::from_system(doing(), error))?;
    let mut size = virtio::HEADER_BYTES as libc::c_int;
    let mut little: libc::c_int = 1;
    // SAFETY: both take a pointer to an int.
    unsafe {
        control(&tun, libc::TUNSETVNETHDRSZ, std::ptr::from_mut(&mut size).cast())
            .map_err(|error| TapError::from_system("setting the header size of the TAP", error))?;
        control(&tun, libc::TUNSETVNETLE, std::ptr::from_mut(&mut little).cast())
            .map_err(|error| TapError::from_system("setting the byte order of the TAP", error))?;
    }
    let segmentation = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let datagrams = segmentation | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let offload = |features: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its flags in place of the pointer.
        unsafe { control(&tun, libc::TUNSETOFFLOAD, std::ptr::without_provenance_mut(features as usize)) }
    };
    let took = offload(datagrams).is_ok();
    if !took {
        offload(segmentation).map_err(|error| TapError::from_system("setting the offloads of the TAP", error))?;
    }
    Ok((tun, took))
}

/// # Safety
/// `argument` is what the request takes.
unsafe fn control(tun: &OwnedFd, request: libc::Ioctl, argument: *mut libc::c_void) -> Result<(), IoError> {
    // SAFETY: the caller's.
    match unsafe { libc::ioctl(tun.as_raw_fd(), request, argument) } {
        0.. => Ok(()),
        _ => Err(IoError::last_os_error()),
    }
}

/// One queue of a TAP. See the module comment.
pub struct TapQueue {
    slot: PortSlot,
    /// `None` once it is closed.
    descriptor: Option<OwnedFd>,
    /// Somebody deleted the interface. The descriptor is then an eventfd that is never readable: the
    /// TAP's own would be readable for ever.
    deleted: bool,
    /// Told so, once: the [`TapWatch`]'s.
    watch: Arc<AtomicBool>,
    offloads: Offloads,
    counters: QueueCounters,
}

/// An empty frame stretched over all of its buffer, and how long that is.
fn stretched(mut frame: Frame) -> (Frame, usize) {
    let room = frame.tailroom();
    assert!(frame.set_len(room), "an empty frame takes its tail room");
    (frame, room)
}

impl PortQueue for TapQueue {
    /// A frame is read into a chunk and what does not fit there into a run behind it, so that small
    /// frames cost a chunk and all headers lie in the first segment.
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let Some(descriptor) = self.descriptor.as_ref().filter(|_| !self.deleted) else { return 0 };
        let before = frames.len();
        let mut deleted = false;
        // Taken at the first large frame that could come, kept from frame to frame, given back at the
        // end: hundreds of idle TAPs hold no runs.
        let mut spare: Option<(Frame, usize)> = None;
        let mut chunk: Option<(Frame, usize)> = None;
        // Refused frames count too, else a flood of them would hold the worker here.
        for _ in 0..budget {
            let Some((mut head, head_room)) = chunk.take().or_else(|| pool.chunk(self.slot).map(stretched)) else {
                break;
            };
            if spare.is_none() {
                spare = pool.run(self.slot).map(stretched);
            }
            let mut header = [0; virtio::HEADER_BYTES];
            let (tail, tail_room) = match &mut spare {
                Some((run, room)) => (run.head_mut(), *room),
                None => (&mut [][..], 0),
            };
            // The kernel cuts what does not fit, and does not say so: a byte more than there is room for
            // tells.
            let mut excess = [0];
            let mut parts = [
                IoSliceMut::new(&mut header),
                IoSliceMut::new(head.head_mut()),
                IoSliceMut::new(tail),
                IoSliceMut::new(&mut excess),
            ];
            let read = match rustix::io::readv(descriptor, &mut parts) {
                Ok(read) => read,
                Err(Errno::INTR) => {
                    chunk = Some((head, head_room));
                    continue;
                }
                // Nothing more, usually.
                Err(error) => {
                    deleted = error == Errno::BADFD;
                    chunk = Some((head, head_room));
                    break;
                }
            };
            let length = read.saturating_sub(virtio::HEADER_BYTES);
            self.counters.received_packets += 1;
            self.counters.received_bytes += length as u64;
            if length > head_room + tail_room {
                drops.count(self.slot, DropReason::NoBuffer);
                chunk = Some((head, head_room));
                continue;
            }
            let in_head = length.min(head_room);
            let (checksum, gso) = match virtio::read(&header, &head.head()[..in_head], length) {
                Ok(state) if length > 0 => state,
                _ => {
                    drops.count(self.slot, DropReason::Malformed);
                    chunk = Some((head, head_room));
                    continue;
                }
            };
            assert!(head.set_len(in_head), "shorter than it was");
            if length > head_room
                && let Some((mut run, _)) = spare.take()
            {
                assert!(run.set_len(length - head_room), "shorter than it was");
                head.append(run);
            }
            (head.checksum, head.gso) = (checksum, gso);
            frames.push(head);
        }
        for (unused, _) in chunk.into_iter().chain(spare) {
            pool.free(unused);
        }
        if deleted {
            self.deleted = true;
            self.watch.store(true, Ordering::Relaxed);
            self.descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        }
        frames.len() - before
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, refused: &mut Refused) {
        for frame in frames.drain(..) {
            let descriptor = self.descriptor.as_ref().filter(|_| !self.deleted);
            match descriptor.map_or(Err(DropReason::PortDown), |descriptor| send(descriptor, &frame)) {
                Ok(()) => {
                    self.counters.sent_packets += 1;
                    self.counters.sent_bytes += frame.len() as u64;
                    pool.free(frame);
                }
                Err(reason) => refused.push((frame, reason)),
            }
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    /// The last queue takes the interface with it.
    fn close(&mut self, _pool: &mut Pool) {
        self.descriptor = None;
    }
}

fn send(descriptor: &OwnedFd, frame: &Frame) -> Result<(), DropReason> {
    // Who runs the queue segments these first; a TAP would take the outer headers for the segments'.
    if frame.gso.is_some_and(|gso| gso.tunnel > 0) {
        return Err(DropReason::TooBig);
    }
    let header = virtio::write(frame);
    if !frame.is_chained() {
        return write(descriptor, &[IoSlice::new(&header), IoSlice::new(frame.head())], frame.len());
    }
    let mut parts = [IoSlice::new(&[]); SEGMENTS + 1];
    parts[0] = IoSlice::new(&header);
    let mut count = 1;
    for segment in frame.segments() {
        *parts.get_mut(count).ok_or(DropReason::TooBig)? = IoSlice::new(segment);
        count += 1;
    }
    write(descriptor, &parts[..count], frame.len())
}

/// One frame of so many bytes, in parts.
fn write(descriptor: &OwnedFd, parts: &[IoSlice<'_>], length: usize) -> Result<(), DropReason> {
    loop {
        return match rustix::io::writev(descriptor, parts) {
            Ok(_) => Ok(()),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Err(DropReason::TransmitFull),
            // Down, or deleted.
            Err(Errno::IO | Errno::BADFD) => Err(DropReason::PortDown),
            Err(_) if length < 14 => Err(DropReason::Truncated),
            // The kernel found the frame or its header wanting.
            Err(_) => Err(DropReason::Malformed),
        };
    }
}
