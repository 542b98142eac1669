//! The port against a driver of our own, which plays by the rules in the first tests and by none in the last.

use super::exchange::Lane;
use super::memory::tests::file;
use super::memory::{GuestMemory, Place, Region};
use super::message::{Message, request};
use super::queue::VhostUserQueue;
use super::ring::{Broken, Direction, Layout, Ring};
use super::session::Session;
use crate::drop::{DropCounters, DropReason};
use crate::packet::frame::{Checksum, Frame, Gso, GsoKind};
use crate::packet::memory::Memory;
use crate::packet::pool::Pool;
use crate::port::{Offloads, PortQueue, PortSlot, Refused};
use proptest::prelude::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SIZE: u16 = 64;
/// Where rings and buffers lie: guest addresses. User addresses are these and [`USER`].
const RING: u64 = 0x4000;
const BUFFERS: u64 = 0x40000;
const BUFFER: u64 = 2048;
const BYTES: u64 = 0x200_000;
const USER: u64 = 0x7f00_0000_0000;

const VERSION_1: u64 = 1 << 32;
const MERGEABLE: u64 = 1 << 15;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const PROTOCOL: u64 = 1 << 30;
const CHECKSUM: u64 = 2;
const TSO: u64 = 1 << 7 | 1 << 8;

/// A guest's memory with rings in it, and what the driver knows of them.
struct Driver {
    memory: GuestMemory,
    file: OwnedFd,
    kicks: Vec<OwnedFd>,
    calls: Vec<OwnedFd>,
    /// Of each ring: available and used so far.
    done: Vec<(u16, u16)>,
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

fn take_event(event: &OwnedFd) -> bool {
    rustix::io::read(event, &mut [0; 8]).is_ok()
}

const PLACE: Place = Place { guest: 0, user: USER, bytes: BYTES, offset: 0 };

impl Driver {
    fn new(rings: usize) -> Self {
        let file = file(BYTES);
        let mut memory = GuestMemory::default();
        memory.add(Region::map(PLACE, &file).unwrap()).unwrap();
        let events = || (0..rings).map(|_| event()).collect();
        Self { memory, file, kicks: events(), calls: events(), done: vec![(0, 0); rings] }
    }

    fn layout(ring: usize) -> Layout {
        let base = RING * (1 + ring as u64) + USER;
        Layout { size: SIZE, descriptors: base, available: base + 0x1000, used: base + 0x2000, ..Layout::default() }
    }

    fn put<const N: usize>(&self, address: u64, bytes: [u8; N]) {
        self.memory.write(address, &bytes).unwrap();
    }

    fn get<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read(address, &mut bytes).unwrap();
        bytes
    }

    /// Writes one descriptor of a table.
    fn descriptor(&self, table: u64, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.put(table + 16 * u64::from(index), bytes);
    }

    /// Makes a chain available; gives whether the device wants to know.
    fn available(&mut self, ring: usize, head: u16, event_index: bool) -> bool {
        let layout = Self::layout(ring);
        let (available, used) = (layout.available - USER, layout.used - USER);
        let index = self.done[ring].0;
        self.put(available + 4 + 2 * u64::from(index % SIZE), head.to_le_bytes());
        self.done[ring].0 = index.wrapping_add(1);
        self.put(available + 2, self.done[ring].0.to_le_bytes());
        if event_index {
            u16::from_le_bytes(self.get(used + 4 + 8 * u64::from(SIZE))) == index
        } else {
            u16::from_le_bytes(self.get(used)) & 1 == 0
        }
    }

    /// What the device gave back since the last call: head and bytes.
    fn used(&mut self, ring: usize) -> Vec<(u32, u32)> {
        let used = Self::layout(ring).used - USER;
        let now = u16::from_le_bytes(self.get(used + 2));
        let mut all = Vec::new();
        while self.done[ring].1 != now {
            let entry: [u8; 8] = self.get(used + 4 + 8 * u64::from(self.done[ring].1 % SIZE));
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            all.push((word(0), word(4)));
            self.done[ring].1 = self.done[ring].1.wrapping_add(1);
        }
        all
    }

    /// Offers receive buffers 0 to `count`, of so many bytes each.
    fn offer(&mut self, ring: usize, count: u16, bytes: u32) {
        for index in 0..count {
            let address = BUFFERS + BUFFER * u64::from(index);
            self.descriptor(Self::layout(ring).descriptors - USER, index, address, bytes, 2, 0);
            self.available(ring, index, false);
        }
    }

    /// Sends a frame in pieces of at most `piece` bytes, from descriptor `first` on.
    fn send(&mut self, ring: usize, first: u16, header: &[u8], frame: &[u8], piece: usize, indirect: bool) {
        let bytes = [header, frame].concat();
        let table = if indirect { BUFFERS - 0x4000 } else { Self::layout(ring).descriptors - USER };
        let count = bytes.len().div_ceil(piece) as u16;
        for (index, part) in bytes.chunks(piece).enumerate() {
            let index = index as u16;
            let area = if indirect { 0x14_0000 } else { BUFFERS + BUFFER * 64 * (1 + ring as u64) };
            let address = area + BUFFER * u64::from(first + index);
            self.memory.write(address, part).unwrap();
            let place = if indirect { index } else { first + index };
            let next = if index + 1 < count { 1 } else { 0 };
            self.descriptor(table, place, address, part.len() as u32, next, place + 1);
        }
        if indirect {
            self.descriptor(Self::layout(ring).descriptors - USER, first, table, 16 * u32::from(count), 4, 0);
        }
        self.available(ring, first, false);
    }
}

/// A port and its driver, as a front end sets them up.
struct Port {
    driver: Driver,
    // Before the session, which would wait for them if a test fails.
    queues: Vec<VhostUserQueue>,
    session: Session,
    lanes: Arc<[Lane]>,
    pool: Pool,
    frames: Vec<Frame>,
    drops: DropCounters,
    refused: Refused,
}

const SLOT: PortSlot = PortSlot::NONE;

fn message(request: u32, words: &[u64], files: Vec<OwnedFd>) -> Message {
    let payload = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Message { request, need_reply: true, payload, files }
}

fn state(ring: usize, value: u32) -> u64 {
    u64::from(value) << 32 | ring as u64
}

impl Port {
    fn new(pairs: usize, workers: usize, features: u64) -> Self {
        let control = Arc::new(event());
        let lanes: Arc<[Lane]> = (0..workers).map(|_| Lane::new(control.clone()).unwrap()).collect();
        let idle =
            Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: true, chains: true, max_frame: 1518 };
        let queues = (0..workers).map(|lane| VhostUserQueue::new(SLOT, lanes.clone(), lane, idle)).collect();
        let mut port = Self {
            driver: Driver::new(2 * pairs),
            session: Session::new("test", pairs, 1518, lanes.clone()),
            queues,
            lanes,
            pool: Pool::new(Memory::map(256, 64).unwrap()),
            frames: Vec::new(),
            drops: DropCounters::default(),
            refused: Refused::new(),
        };
        assert_eq!(port.say(request::GET_QUEUE_NUM, &[], vec![]), pairs as u64);
        let offered = port.say(request::GET_FEATURES, &[], vec![]);
        assert_eq!(offered & features, features);
        let protocol = port.say(request::GET_PROTOCOL_FEATURES, &[], vec![]);
        port.say(request::SET_PROTOCOL_FEATURES, &[protocol], vec![]);
        port.say(request::SET_FEATURES, &[features | PROTOCOL], vec![]);
        port.share_memory();
        for ring in 0..2 * pairs {
            port.set_up(ring, 0);
        }
        port
    }

    fn share_memory(&mut self) {
        let file = self.driver.file.try_clone().unwrap();
        let table = [1, PLACE.guest, PLACE.bytes, PLACE.user, PLACE.offset];
        assert_eq!(self.say(request::SET_MEM_TABLE, &table, vec![file]), 0);
    }

    fn set_up(&mut self, ring: usize, next: u32) {
        let Layout { descriptors, available, used, .. } = Driver::layout(ring);
        let kick = self.driver.kicks[ring].try_clone().unwrap();
        let call = self.driver.calls[ring].try_clone().unwrap();
        for (request, words, files) in [
            (request::SET_VRING_NUM, vec![state(ring, SIZE.into())], vec![]),
            (request::SET_VRING_BASE, vec![state(ring, next)], vec![]),
            (request::SET_VRING_ADDR, vec![ring as u64, descriptors, used, available, 0], vec![]),
            (request::SET_VRING_CALL, vec![ring as u64], vec![call]),
            (request::SET_VRING_KICK, vec![ring as u64], vec![kick]),
            (request::SET_VRING_ENABLE, vec![state(ring, 1)], vec![]),
        ] {
            assert_eq!(self.say(request, &words, files), 0, "{request}");
        }
    }

    /// Says something, while workers look after their queues; gives the reply's first word. (Before that is agreed on,
    /// there is none.)
    fn say(&mut self, request: u32, words: &[u64], files: Vec<OwnedFd>) -> u64 {
        let reply = self.attended(|session| session.handle(message(request, words, files)).0);
        reply.map_or(0, |reply| u64::from_ne_bytes(reply[..8].try_into().unwrap()))
    }

    /// Does what needs the workers.
    fn attended<T: Send>(&mut self, work: impl FnOnce(&mut Session) -> T + Send) -> T {
        let done = AtomicBool::new(false);
        let (session, queues, pool) = (&mut self.session, &mut self.queues, &mut self.pool);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    queues.iter_mut().for_each(|queue| queue.service(pool));
                    std::thread::yield_now();
                }
            });
            let given = work(session);
            done.store(true, Ordering::Relaxed);
            worker.join().unwrap();
            given
        })
    }

    fn receive(&mut self, queue: usize) -> Vec<Vec<u8>> {
        self.queues[queue].receive(&mut self.pool, &mut self.frames, 64, &mut self.drops);
        self.frames.iter().map(Frame::to_vec).collect()
    }

    fn transmit(&mut self, queue: usize, frames: Vec<Frame>) -> Vec<DropReason> {
        let mut frames = frames;
        self.queues[queue].transmit(&mut self.pool, &mut frames, &mut self.refused);
        assert!(frames.is_empty());
        let refused = std::mem::take(&mut self.refused);
        refused.into_iter().map(|(frame, reason)| (self.pool.free(frame), reason).1).collect()
    }

    fn frame(&mut self, bytes: &[u8]) -> Frame {
        self.pool.frame(SLOT, bytes).unwrap()
    }

    fn free(&mut self) {
        self.frames.drain(..).for_each(|frame| self.pool.free(frame));
    }

    /// Whether a worker that is about to sleep would be woken at once.
    fn wakes(&self, queue: usize) -> bool {
        assert!(self.queues[queue].descriptor().is_some());
        self.is_woken(queue)
    }

    /// Likewise one that sleeps already.
    fn is_woken(&self, queue: usize) -> bool {
        let mut polled = [PollFd::new(self.lanes[queue].epoll(), PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).unwrap() == 1
    }

    fn kick(&self, ring: usize) {
        rustix::io::write(&self.driver.kicks[ring], &1_u64.to_ne_bytes()).unwrap();
    }

    fn close(mut self) {
        self.free();
        let (queues, pool) = (&mut self.queues, &mut self.pool);
        queues.iter_mut().for_each(|queue| queue.close(pool));
        assert_eq!(self.pool.outstanding(), 0);
    }
}

/// Ethernet, IPv4, TCP.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 54 + payload];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 6;
    frame[46] = 0x50;
    frame.iter_mut().skip(54).enumerate().for_each(|(at, byte)| *byte = at as u8);
    frame
}

#[test]
fn frames_pass_both_ways() {
    let mut port = Port::new(1, 1, VERSION_1 | INDIRECT | CHECKSUM);
    assert!(port.session.connected().up, "{:?}", port.session.connected());
    let frame = tcp(1000);
    port.driver.send(1, 0, &[0; 12], &frame, 4096, false);
    port.driver.send(1, 1, &[0; 12], &frame, 5, true);
    port.driver.send(1, 2, &[0; 12], &frame[..700], 100, false);
    assert_eq!(port.receive(0), [frame.clone(), frame.clone(), frame[..700].to_vec()]);
    assert_eq!(port.driver.used(1), [(0, 0), (1, 0), (2, 0)]);
    assert!(take_event(&port.driver.calls[1]), "the driver learns that its buffers are back");
    port.driver.offer(0, 2, 2048);
    let frames = std::mem::take(&mut port.frames);
    assert_eq!(port.transmit(0, frames), [DropReason::TransmitFull], "two buffers, three frames");
    assert_eq!(port.driver.used(0), [(0, 1066), (1, 1066)]);
    assert_eq!(port.driver.get::<1066>(BUFFERS)[12..], frame);
    assert_eq!(port.driver.get::<12>(BUFFERS), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert!(take_event(&port.driver.calls[0]));
    let counters = port.queues[0].counters();
    assert_eq!((counters.received_packets, counters.sent_packets, counters.sent_bytes), (3, 2, 2108));
    port.close();
}

#[test]
fn large_segments_cross_whole_in_several_buffers() {
    let mut port = Port::new(1, 1, VERSION_1 | MERGEABLE | CHECKSUM | TSO);
    let frame = tcp(6000);
    // NEEDS_CSUM and DATA_VALID, which a guest has no business to say; TCPv4 in segments of 1448.
    let header = [3, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    port.driver.send(1, 0, &header, &frame, 2000, false);
    assert_eq!(port.receive(0), std::slice::from_ref(&frame));
    let partial = Checksum::Partial { start: 34, offset: 16 };
    let gso = Gso { kind: GsoKind::Tcp4, size: 1448, tunnel: 0 };
    assert_eq!((port.frames[0].checksum, port.frames[0].gso), (partial, Some(gso)));
    let offloads = port.queues[0].offloads();
    assert!(offloads.checksum && offloads.tcp_segmentation && !offloads.udp_segmentation);
    port.driver.offer(0, 4, 2048);
    let frames = std::mem::take(&mut port.frames);
    assert_eq!(port.transmit(0, frames), []);
    assert_eq!(port.driver.used(0), [(0, 2048), (1, 2048), (2, 1970)]);
    let seen: [u8; 6066] = port.driver.get(BUFFERS);
    assert_eq!(seen[..12], [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 3, 0]);
    assert_eq!(seen[12..], frame);
    // One buffer is left: half a frame is not sent, and takes none.
    let frame = port.frame(&frame);
    assert_eq!(port.transmit(0, vec![frame]), [DropReason::TransmitFull]);
    let frame = port.frame(&[1; 60]);
    assert_eq!(port.transmit(0, vec![frame]), []);
    assert_eq!(port.driver.used(0), [(3, 72)]);
    port.close();
}

#[test]
fn a_driver_without_offloads_gets_none() {
    let mut port = Port::new(1, 1, 0);
    let offloads = port.queues[0].offloads();
    assert!(!offloads.checksum && !offloads.tcp_segmentation);
    port.driver.offer(0, 2, 200);
    let (mut short, long) = (port.frame(&[7; 60]), port.frame(&[7; 300]));
    short.checksum = Checksum::Complete;
    assert_eq!(port.transmit(0, vec![long, short]), [DropReason::TooBig]);
    // A header of ten bytes that says nothing.
    assert_eq!(
        (port.driver.used(0), port.driver.get::<11>(BUFFERS)),
        (vec![(0, 70)], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7])
    );
    port.close();
}

#[test]
fn the_driver_notifies_only_a_worker_that_sleeps() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let event_index = features & EVENT_IDX != 0;
        let mut port = Port::new(1, 1, features);
        assert!(!port.wakes(0), "nothing is there");
        assert!(!port.is_woken(0));
        port.driver.send(1, 0, &[0; 12], &[1; 60], 4096, false);
        assert!(!port.is_woken(0), "it sleeps until it is notified");
        port.kick(1);
        assert!(port.is_woken(0));
        assert_eq!(port.receive(0).len(), 1);
        port.free();
        // Now it is awake: frames come without a notification.
        port.driver.descriptor(Driver::layout(1).descriptors - USER, 1, BUFFERS, 72, 0, 0);
        assert!(!port.driver.available(1, 1, event_index));
        // Had it not seen that one before it slept, it would not sleep.
        assert!(port.wakes(0));
        assert_eq!(port.receive(0).len(), 1);
        port.free();
        assert!(!port.wakes(0));
        assert!(port.driver.available(1, 1, event_index), "it sleeps");
        port.receive(0);
        port.close();
    }
}

#[test]
fn nothing_is_lost_when_a_ring_is_stopped_and_goes_on() {
    let mut port = Port::new(1, 1, VERSION_1);
    for round in 0..3_u16 {
        for index in 0..50 {
            port.driver.send(1, index, &[0; 12], &[index as u8; 60], 4096, false);
        }
        assert_eq!(port.receive(0).len(), 50);
        port.free();
        let base = port.say(request::GET_VRING_BASE, &[1], vec![]);
        assert_eq!(base, state(1, u32::from(50 * (round + 1))));
        assert!(!port.session.connected().up);
        port.driver.send(1, 0, &[0; 12], &[9; 60], 4096, false);
        assert_eq!(port.receive(0).len(), 0, "it is stopped");
        port.driver.done[1].0 -= 1;
        port.share_memory();
        port.set_up(1, (base >> 32) as u32);
        assert!(port.session.connected().up);
    }
    assert_eq!(port.driver.used(1).len(), 150);
    port.close();
}

#[test]
fn queue_pairs_are_shared_out_among_workers() {
    // As many as workers: each has its own.
    let mut port = Port::new(2, 2, VERSION_1);
    for pair in 0..2 {
        port.driver.offer(2 * pair, 4, 2048);
        port.driver.send(2 * pair + 1, 0, &[0; 12], &[pair as u8; 60], 4096, false);
    }
    for queue in 0..2 {
        assert_eq!(port.receive(queue), [vec![queue as u8; 60]]);
        port.free();
        let frame = port.frame(&[1; 60]);
        assert_eq!(port.transmit(queue, vec![frame]), []);
        assert_eq!(port.driver.used(2 * queue).len(), 1);
    }
    // The guest uses one pair of two: both workers send by it.
    port.say(request::SET_VRING_ENABLE, &[state(2, 0)], vec![]);
    port.say(request::SET_VRING_ENABLE, &[state(3, 0)], vec![]);
    assert_eq!(port.session.connected().detail, "1 of 2 queue pairs");
    for queue in 0..2 {
        let frame = port.frame(&[1; 60]);
        assert_eq!(port.transmit(queue, vec![frame]), []);
        assert_eq!((port.driver.used(0).len(), port.driver.used(2).len()), (1, 0));
    }
    port.close();
    // More than workers: one serves several.
    let mut port = Port::new(3, 1, VERSION_1);
    for pair in 0..3 {
        port.driver.send(2 * pair + 1, 0, &[0; 12], &[pair as u8; 60], 4096, false);
    }
    assert_eq!(port.receive(0).len(), 3);
    port.close();
}

#[test]
fn a_ring_that_breaks_the_rules_is_stopped_and_set_up_anew() {
    let mut port = Port::new(1, 1, VERSION_1);
    port.driver.offer(0, 4, 2048);
    // A good one, then a chain that leads into itself.
    port.driver.send(1, 0, &[0; 12], &[1; 60], 4096, false);
    port.driver.descriptor(Driver::layout(1).descriptors - USER, 5, BUFFERS, 10, 1, 5);
    port.driver.available(1, 5, false);
    assert_eq!(port.receive(0).len(), 1, "what came before counts");
    port.free();
    assert_eq!((port.driver.used(1), port.drops.total(DropReason::BadRing)), (vec![(0, 0)], 1));
    port.driver.send(1, 1, &[0; 12], &[1; 60], 4096, false);
    assert_eq!((port.receive(0).len(), port.drops.total(DropReason::BadRing)), (0, 1), "it is not looked at any more");
    port.attended(Session::note_broken);
    let connected = port.session.connected();
    assert!(!connected.up && connected.detail.contains("ring 1 is stopped: a frame in more than"), "{connected:?}");
    // The other one works on.
    let frame = port.frame(&[1; 60]);
    assert_eq!(port.transmit(0, vec![frame]), []);
    port.driver.descriptor(Driver::layout(0).descriptors - USER, 1, BYTES - 10, 2048, 2, 0);
    let frames = (0..2).map(|_| port.frame(&[1; 60])).collect();
    assert_eq!(port.transmit(0, frames), [DropReason::BadRing; 2]);
    // The driver starts again.
    for ring in 0..2 {
        port.driver.put(Driver::layout(ring).available - USER + 2, [0; 2]);
        port.driver.put(Driver::layout(ring).used - USER + 2, [0; 2]);
        port.driver.done[ring] = (0, 0);
        port.set_up(ring, 0);
    }
    assert!(port.session.connected().up, "{:?}", port.session.connected());
    port.driver.send(1, 0, &[0; 12], &[1; 60], 4096, false);
    assert_eq!(port.receive(0).len(), 1);
    port.close();
}

#[test]
fn memory_that_is_cut_short_stops_the_rings() {
    let mut port = Port::new(1, 1, VERSION_1);
    port.driver.send(1, 0, &[0; 12], &[1; 60], 4096, false);
    rustix::fs::ftruncate(&port.driver.file, 4096).unwrap();
    assert_eq!(port.receive(0).len(), 0);
    // What it found are zeroes: a ring of nothing. The next look tells.
    port.receive(0);
    assert_eq!(port.drops.total(DropReason::BadRing), 1);
    let frame = port.frame(&[1; 60]);
    assert_eq!(port.transmit(0, vec![frame]), [DropReason::BadRing]);
    port.close();
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let mut port = Port::new(1, 1, VERSION_1);
    let file = || rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).unwrap();
    for (what, request, words, files) in [
        ("features that were not offered", request::SET_FEATURES, vec![1 << 34], vec![]),
        ("no payload", request::SET_VRING_NUM, vec![], vec![]),
        ("a ring that does not exist", request::SET_VRING_NUM, vec![state(2, 64)], vec![]),
        ("a size of no power of two", request::SET_VRING_NUM, vec![state(0, 65)], vec![]),
        ("nothing at all", request::SET_VRING_NUM, vec![state(0, 0)], vec![]),
        ("memory without its file", request::SET_MEM_TABLE, vec![1, 0, 4096, 0, 0], vec![]),
        ("more memory than there is", request::SET_MEM_TABLE, vec![1, 0, 1 << 40, 0, 0], vec![file()]),
        ("more regions than words", request::SET_MEM_TABLE, vec![8, 0, 4096, 0, 0], vec![file()]),
        ("no eventfd", request::SET_VRING_KICK, vec![0], vec![file()]),
        ("no descriptor", request::SET_VRING_CALL, vec![0], vec![]),
        ("what nobody offered", 6, vec![0], vec![]),
        ("memory that is not there", request::REM_MEM_REG, vec![0, 5, 6, 7, 8], vec![]),
    ] {
        assert_eq!(port.say(request, &words, files), 1, "{what}");
    }
    assert!(port.session.connected().up);
    port.driver.send(1, 0, &[0; 12], &[1; 60], 4096, false);
    assert_eq!(port.receive(0).len(), 1);
    port.close();
}

#[test]
fn control_does_not_wait_for_workers_that_are_gone() {
    let mut port = Port::new(1, 1, VERSION_1);
    port.queues.clear();
    let file = port.driver.file.try_clone().unwrap();
    let table = [1, PLACE.guest, PLACE.bytes, PLACE.user, PLACE.offset];
    assert!(port.session.handle(message(request::SET_MEM_TABLE, &table, vec![file])).1.is_ok());
    // Nor for one that never came, once the port is to be closed.
    let port = Port::new(1, 1, VERSION_1);
    port.lanes.iter().for_each(Lane::end);
    drop(port.session);
}

/// Kinds of address, length and flags, and the next descriptor.
type Raw = (u8, u8, u8, u16);

/// A ring of a random driver (descriptors, heads, index; whether the device writes): any bytes in it, indices that are
/// near each other.
fn hostile() -> impl Strategy<Value = (Vec<Raw>, Vec<u16>, u16, bool)> {
    let descriptor = (0_u8..8, 0_u8..6, 0_u8..8, 0_u16..12);
    (
        proptest::collection::vec(descriptor, 16),
        proptest::collection::vec(0_u16..20, 16),
        prop_oneof![4 => 0_u16..16, 1 => any::<u16>()],
        any::<bool>(),
    )
}

/// Address, length and flags of few kinds, most of them wrong.
fn entry((address, length, flags, _): Raw) -> (u64, u32, u16) {
    let address = match address {
        0 => 0,
        1 => BYTES - 8,
        2 => u64::MAX - 3,
        3 => BYTES,
        4 => RING,
        _ => BUFFERS + u64::from(address) * 4096,
    };
    let length = [0, 1, 16, 160, 5000, u32::MAX][usize::from(length)];
    (address, length, u16::from(flags))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is in a ring, looking at it ends, and gives no more than a frame may have.
    #[test]
    fn a_hostile_ring_neither_panics_nor_leads_outside((descriptors, heads, index, write) in hostile()) {
        let driver = Driver::new(1);
        let layout = Layout { size: 16, indirect: true, ..Driver::layout(0) };
        for (place, raw) in descriptors.iter().enumerate() {
            let (address, length, flags) = entry(*raw);
            driver.descriptor(layout.descriptors - USER, place as u16, address, length, flags, raw.3);
        }
        for (place, head) in heads.iter().enumerate() {
            driver.put(layout.available - USER + 4 + 2 * place as u64, head.to_le_bytes());
        }
        driver.put(layout.available - USER + 2, index.to_le_bytes());
        let ring = Ring::new(Arc::new(driver.memory.clone()), &layout, 0, None).unwrap();
        let direction = if write { Direction::ToDriver } else { Direction::FromDriver };
        match ring.available() {
            Err(broken) => prop_assert_eq!(broken, Broken::Ahead(index, 16)),
            Ok(count) => {
                prop_assert!(count <= 16);
                let mut pieces = Vec::new();
                for ahead in 0..count {
                    let before = pieces.len();
                    if let Ok((_, bytes)) = ring.chain(ahead, direction, &mut pieces) {
                        let sum: usize = pieces[before..].iter().map(|piece| piece.1 as usize).sum();
                        prop_assert_eq!(sum, bytes);
                    }
                    prop_assert!(pieces.len() <= crate::limits::vhost_user::DESCRIPTORS_PER_FRAME);
                }
            }
        }
    }

    /// Nor do a queue's own functions panic or leak, and it goes on afterwards if it is told to.
    #[test]
    fn a_queue_survives_any_driver(
        rings in proptest::collection::vec(hostile(), 2),
        mergeable in any::<bool>(),
        noise in proptest::collection::vec(any::<u8>(), 0..256),
        length in prop_oneof![60_usize..100, 1400_usize..1600, 40_000_usize..65_000],
    ) {
        let mut port = Port::new(1, 1, VERSION_1 | INDIRECT | if mergeable { MERGEABLE } else { 0 });
        port.driver.memory.write(BUFFERS, &noise).unwrap();
        for (ring, (descriptors, heads, index, write)) in rings.iter().enumerate() {
            let layout = Driver::layout(ring);
            for (place, raw) in descriptors.iter().enumerate() {
                let (address, length, mut flags) = entry(*raw);
                if *write {
                    // The right direction, so that it gets further.
                    flags = flags & !2 | if ring == 0 { 2 } else { 0 };
                }
                port.driver.descriptor(layout.descriptors - USER, place as u16, address, length, flags, raw.3);
            }
            for (place, head) in heads.iter().enumerate() {
                port.driver.put(layout.available - USER + 4 + 2 * place as u64, head.to_le_bytes());
            }
            port.driver.put(layout.available - USER + 2, index.to_le_bytes());
        }
        for _ in 0..3 {
            port.receive(0);
            port.free();
            let frames = (0..3).map(|_| port.frame(&vec![5; length])).collect();
            port.transmit(0, frames);
        }
        let _ = port.wakes(0);
        port.attended(Session::note_broken);
        port.close();
    }

    /// Nor does a front end get further with any message.
    #[test]
    fn a_session_survives_any_message(
        messages in proptest::collection::vec((0_u32..45, proptest::collection::vec(0_u64..5, 0..7), any::<bool>()), 0..20),
    ) {
        let mut port = Port::new(1, 1, VERSION_1);
        for (request, words, file) in messages {
            let files = if file { vec![event()] } else { vec![] };
            let _reply = port.attended(|session| session.handle(message(request, &words, files)));
            port.receive(0);
            port.free();
        }
        let _ = port.session.connected();
        port.close();
    }
}
