//! The least that forwards between two interfaces over AF_XDP: what arrives on one leaves by the other, MAC addresses
//! swapped, both directions, copied by the kernel. What a switch's worker costs is measured against this loop.
//!
//! It shares no code with the switch on purpose. Its habits are the switch's: rings of 1,024, batches of 64, a system
//! call for 64 frames to send, sleep after 16 rounds without a frame unless told to spin.

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpDescOptions, XdpRingOffset, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with, sockopt};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const RING: u32 = 1024;
const BATCH: u32 = 64;
const CHUNK: usize = 4096;
const CHUNKS: usize = 4 * RING as usize;
const IDLE_ROUNDS: u32 = 16;

/// What the loop is told, and tells.
#[derive(Default)]
pub struct Control {
    /// It is to end.
    pub stop: AtomicBool,
    /// It is to leave the core to others.
    pub paused: AtomicBool,
    /// Frames handed to the kernel so far.
    pub forwarded: AtomicU64,
}

/// The bpf(2) system call.
///
/// # Safety
/// The attribute is the command's, and what its pointers point to lives until the call returns.
unsafe fn bpf<T>(command: libc::c_long, attribute: &T) -> Result<libc::c_long> {
    // SAFETY: the caller's.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) } {
        result @ 0.. => Ok(result),
        _ => Err(std::io::Error::last_os_error()).context("bpf"),
    }
}

/// # Safety
/// As [`bpf`], and the command gives a descriptor.
unsafe fn bpf_descriptor<T>(command: libc::c_long, attribute: &T) -> Result<OwnedFd> {
    // SAFETY: the caller's; the kernel just gave us this descriptor.
    unsafe { bpf(command, attribute).map(|descriptor| OwnedFd::from_raw_fd(descriptor as i32)) }
}

/// Puts a program on an interface that gives every frame of queue 0 to a socket; gives what holds it there, and whether
/// it is native.
fn redirect_to(socket: &OwnedFd, interface: u32) -> Result<([OwnedFd; 2], bool)> {
    let (map_kind, key, value, entries, flags) = (17_u32, 4_u32, 4_u32, 1_u32, 0_u32);
    // SAFETY: the attribute of BPF_MAP_CREATE begins with these numbers.
    let map = unsafe { bpf_descriptor(0, &[map_kind, key, value, entries, flags])? };
    let (zero, number) = (0_u32, socket.as_raw_fd() as u32);
    let element = [map.as_raw_fd() as u64, std::ptr::from_ref(&zero) as u64, std::ptr::from_ref(&number) as u64, 0];
    // SAFETY: key and value live until the call returns.
    unsafe { bpf(2, &element)? };
    // r2 = queue; r1 = map; r3 = XDP_PASS; r0 = bpf_redirect_map(r1, r2, r3); exit.
    let slot = |code: u8, registers: u8, offset: i16, immediate: i32| -> u64 {
        u64::from(code) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(immediate as u32) << 32
    };
    let program = [
        slot(0x61, 0x12, 16, 0),
        slot(0x18, 0x11, 0, map.as_raw_fd()),
        0,
        slot(0xb7, 0x03, 0, 2),
        slot(0x85, 0, 0, 51),
        slot(0x95, 0, 0, 0),
    ];
    let license = c"Apache-2.0";
    let load = [6 | (program.len() as u64) << 32, program.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0];
    // SAFETY: the attribute of BPF_PROG_LOAD begins with these; program and license live until the call returns.
    let program = unsafe { bpf_descriptor(5, &load).context("loading the XDP program")? };
    for (mode, native) in [(4, true), (2, false)] {
        let attribute = [program.as_raw_fd() as u32, interface, 37, mode];
        // SAFETY: the attribute of BPF_LINK_CREATE begins with these numbers.
        match unsafe { bpf_descriptor(28, &attribute) } {
            Ok(link) => return Ok(([map, link], native)),
            Err(error) if !native => return Err(error.context("attaching the XDP program")),
            Err(_) => {}
        }
    }
    unreachable!("the last attempt returns")
}

/// One ring; which side we are is up to the caller.
struct Ring {
    base: *mut u8,
    producer: usize,
    consumer: usize,
    entries: usize,
    /// Our own index.
    next: u32,
}

impl Ring {
    fn map(socket: &OwnedFd, page_offset: u64, offsets: &XdpRingOffset, entry: usize) -> Result<Self> {
        let bytes = offsets.desc as usize + RING as usize * entry;
        // SAFETY: a fresh mapping at an address that the kernel chooses. It lives as long as the process.
        let base = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED | MapFlags::POPULATE, socket, page_offset)?
        };
        Ok(Self {
            base: base.cast(),
            producer: offsets.producer as usize,
            consumer: offsets.consumer as usize,
            entries: offsets.desc as usize,
            next: 0,
        })
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel's offsets are in the mapping and aligned.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    fn place<T>(&self, index: u32) -> *mut T {
        // SAFETY: the mapping has as many entries as the ring.
        unsafe { self.base.add(self.entries).cast::<T>().add((index & (RING - 1)) as usize) }
    }

    /// Entries that the kernel has put and we have not taken.
    fn waiting(&self) -> u32 {
        self.word(self.producer).load(Ordering::Acquire).wrapping_sub(self.next).min(RING)
    }

    fn take<T: Copy>(&mut self) -> T {
        // SAFETY: it is in the mapping, and entries are plain numbers.
        let entry = unsafe { self.place::<T>(self.next).read_volatile() };
        self.next = self.next.wrapping_add(1);
        entry
    }

    fn release(&self) {
        self.word(self.consumer).store(self.next, Ordering::Release);
    }

    /// Entries that we have put and the kernel has not taken.
    fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.word(self.consumer).load(Ordering::Acquire)).min(RING)
    }

    fn put<T>(&mut self, entry: T) {
        // SAFETY: it is in the mapping, and ours until published.
        unsafe { self.place::<T>(self.next).write_volatile(entry) };
        self.next = self.next.wrapping_add(1);
    }

    fn publish(&self) {
        self.word(self.producer).store(self.next, Ordering::Release);
    }
}

/// One interface.
struct Side {
    socket: OwnedFd,
    receive: Ring,
    transmit: Ring,
    fill: Ring,
    completion: Ring,
    _program: [OwnedFd; 2],
}

impl Side {
    fn open(interface: &str, umem: *mut u8, shared: Option<&OwnedFd>, sends_at_once: u32) -> Result<Self> {
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let asking = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let index = rustix::net::netdevice::name_to_index(&asking, interface).context(interface.to_owned())?;
        if shared.is_none() {
            let registration = XdpUmemReg {
                addr: umem as u64,
                len: (CHUNKS * CHUNK) as u64,
                chunk_size: CHUNK as u32,
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
        let receive = Ring::map(&socket, XDP_PGOFF_RX_RING, &offsets.rx, size_of::<XdpDesc>())?;
        let transmit = Ring::map(&socket, XDP_PGOFF_TX_RING, &offsets.tx, size_of::<XdpDesc>())?;
        let fill = Ring::map(&socket, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, 8)?;
        let completion = Ring::map(&socket, XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, 8)?;
        if sends_at_once > 32 {
            // XDP_MAX_TX_SKB_BUDGET (Linux 6.18); kernels that do not know it keep to 32.
            // SAFETY: the option takes an int.
            let _older = unsafe {
                let place = std::ptr::from_ref(&sends_at_once).cast();
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, 9, place, 4)
            };
        }
        // Who had the queue a moment ago may not have let go of it.
        let mut left = 40;
        loop {
            let bound = match shared {
                None => {
                    let flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP | SocketAddrXdpFlags::XDP_COPY;
                    bind(&socket, &SocketAddrXdp::new(flags, index, 0))
                }
                Some(first) => {
                    let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, index, 0);
                    bind(&socket, &SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: first.as_fd() })
                }
            };
            match bound {
                Ok(()) => break,
                Err(Errno::BUSY) if left > 0 => {
                    left -= 1;
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                Err(error) => bail!("binding an AF_XDP socket to {interface}: {error}"),
            }
        }
        let (program, _native) = redirect_to(&socket, index)?;
        Ok(Self { socket, receive, transmit, fill, completion, _program: program })
    }

    /// Has the kernel send what is in the ring.
    fn kick(&self) {
        while self.transmit.pending() > 0 {
            match send(&self.socket, &[], SendFlags::DONTWAIT) {
                // Some are sent, and there are more.
                Err(Errno::AGAIN) => {}
                _ => return,
            }
        }
    }
}

/// Runs the loop until it is told to stop, in the network namespace of the calling thread. `ready` is called once it
/// forwards.
///
/// # Errors
/// If a socket or program cannot be had.
pub fn run(interfaces: [&str; 2], spin: bool, control: &Control, ready: &dyn Fn()) -> Result<()> {
    // SAFETY: a fresh mapping.
    let umem = unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        mmap_anonymous(std::ptr::null_mut(), CHUNKS * CHUNK, protection, MapFlags::PRIVATE | MapFlags::POPULATE)?
    };
    let umem = umem.cast::<u8>();
    let first = Side::open(interfaces[0], umem, None, 64)?;
    let second = Side::open(interfaces[1], umem, Some(&first.socket), 64)?;
    let mut sides = [first, second];
    for (place, side) in sides.iter_mut().enumerate() {
        for chunk in 0..RING as usize {
            side.fill.put(((place * RING as usize + chunk) * CHUNK) as u64);
        }
        side.fill.publish();
    }
    ready();
    let mut idle = 0;
    while !control.stop.load(Ordering::Relaxed) {
        if control.paused.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(5));
            continue;
        }
        let mut moved = 0;
        for from in 0..2 {
            let [one, two] = &mut sides;
            let (side, other) = if from == 0 { (one, two) } else { (two, one) };
            // What the other side has sent goes back to be received into.
            let done = other.completion.waiting();
            for _ in 0..done {
                let address: u64 = other.completion.take();
                side.fill.put(address / CHUNK as u64 * CHUNK as u64);
            }
            if done > 0 {
                other.completion.release();
                side.fill.publish();
            }
            let count = side.receive.waiting().min(BATCH).min(RING - other.transmit.pending());
            for _ in 0..count {
                let XdpDesc { addr, len, .. } = side.receive.take::<XdpDesc>();
                // SAFETY: the kernel gave us this frame, which lies in the UMEM, and at least 12 bytes of it are there.
                unsafe {
                    let frame = umem.add(addr as usize);
                    std::ptr::swap_nonoverlapping(frame, frame.add(6), 6);
                }
                other.transmit.put(XdpDesc { addr, len, options: XdpDescOptions::empty() });
            }
            if count > 0 {
                side.receive.release();
                other.transmit.publish();
                other.kick();
                moved += count;
            }
        }
        if moved > 0 {
            idle = 0;
            control.forwarded.fetch_add(moved.into(), Ordering::Relaxed);
            continue;
        }
        idle += 1;
        if idle > IDLE_ROUNDS && !spin {
            let mut descriptors = [0, 1].map(|side: usize| PollFd::new(&sides[side].socket, PollFlags::IN));
            // Whatever it says, the loop looks for itself.
            let _ = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 }));
        }
    }
    Ok(())
}
