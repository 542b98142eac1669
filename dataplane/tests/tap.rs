//! TAP ports on real network namespaces, with the kernel's TCP at both ends.

mod namespace;

use namespace::{Forwarder, Namespace, eventually, transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_dataplane::drop::{DropCounters, DropReason};
use weft_dataplane::packet::frame::{Checksum, Frame, Gso, GsoKind};
use weft_dataplane::packet::memory::{Class, Memory};
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::port::tap::{Tap, TapError, TapLoss, TapQueue, TapSettings};
use weft_dataplane::port::{PortQueue, PortSlot};

fn settings(interface: &str, namespace: &Namespace) -> TapSettings {
    TapSettings { interface: interface.into(), netns: Some(namespace.name.clone()), ..TapSettings::default() }
}

fn open_one(slot: usize, settings: &TapSettings) -> (Tap, TapQueue) {
    let (tap, mut queues) = Tap::open(PortSlot::new(slot), settings).unwrap();
    assert_eq!(queues.len(), 1);
    (tap, queues.remove(0))
}

#[test]
fn tcp_between_two_taps_moves_large_segments_untouched() {
    const BYTES: usize = 32 << 20;
    let (left, right) = (Namespace::new(), Namespace::new());
    let (tap, left_queue) = open_one(0, &TapSettings { mac: Some([2, 0, 0, 0, 0, 1]), ..settings("eth0", &left) });
    let (_, right_queue) = open_one(1, &TapSettings { mtu: 1400, ..settings("eth0", &right) });
    assert_eq!((tap.interface.as_str(), tap.mac), ("eth0", [2, 0, 0, 0, 0, 1]));
    assert!(tap.detail.starts_with("1 queue, checksum, TSO"), "{}", tap.detail);
    left.ip("addr add 10.1.0.1/24 dev eth0");
    right.ip("addr add 10.1.0.2/24 dev eth0");
    assert!(right.ip("link show eth0").contains("mtu 1400"));

    let memory = Memory::map(1024, 128).unwrap();
    let forwarder = Forwarder::start(memory, vec![Box::new(left_queue)], vec![Box::new(right_queue)]);
    left.ip("addr add fd00::1/64 dev eth0 nodad");
    right.ip("addr add fd00::2/64 dev eth0 nodad");
    let sent: Arc<Vec<u8>> = Arc::new((0..BYTES).map(|at| (at / 7) as u8).collect());
    for address in ["10.1.0.2:5000", "[fd00::2]:5000"] {
        let listener = right.run(move || TcpListener::bind(address).unwrap());
        let server = right.spawn(move || {
            let mut got = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
            got
        });
        let started = Instant::now();
        let bytes = Arc::clone(&sent);
        left.run(move || TcpStream::connect(address).unwrap().write_all(&bytes).unwrap());
        let got = server.join().unwrap();
        println!("TAP to TAP, {address}: {:.1} Gbit/s", BYTES as f64 * 8e-9 / started.elapsed().as_secs_f64());
        assert!(got == *sent, "{} bytes arrived, changed", got.len());
    }

    let seen = forwarder.stop();
    assert!(seen.large > 0 && seen.largest > 60_000, "{} large frames, up to {}", seen.large, seen.largest);
    assert!(seen.frames < (2 * BYTES / 1460) as u64, "{} frames: they were segmented", seen.frames);
    let drops: Vec<_> = seen.drops.iter().collect();
    assert_eq!((drops.as_slice(), seen.outstanding), (&[][..], 0));
    assert!(!left.try_ip("link show eth0"), "closing the queue removes the interface");
}

#[test]
fn udp_sent_in_one_call_crosses_as_one_frame() {
    const SIZE: usize = 1000;
    let (left, right) = (Namespace::new(), Namespace::new());
    let (tap, left_queue) = open_one(0, &settings("eth0", &left));
    let (_, right_queue) = open_one(1, &settings("eth0", &right));
    left.ip("addr add 10.1.0.1/24 dev eth0");
    right.ip("addr add 10.1.0.2/24 dev eth0");
    let offered = left_queue.offloads().udp_segmentation;
    assert_eq!(offered, tap.detail.ends_with("USO"), "{}", tap.detail);
    let forwarder =
        Forwarder::start(Memory::map(1024, 128).unwrap(), vec![Box::new(left_queue)], vec![Box::new(right_queue)]);
    let receiver = right.run(|| UdpSocket::bind("10.1.0.2:5000").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let sent: Vec<u8> = (0..30 * SIZE).map(|at| (at / 3) as u8).collect();
    let bytes = sent.clone();
    left.run(move || {
        let sender = UdpSocket::bind("10.1.0.1:0").unwrap();
        let size = SIZE as libc::c_int;
        // SAFETY: UDP_SEGMENT takes an int.
        let set = unsafe {
            libc::setsockopt(
                sender.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                std::ptr::from_ref(&size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(set, 0);
        sender.send_to(&bytes, "10.1.0.2:5000").unwrap();
    });
    let mut got = Vec::new();
    for _ in 0..30 {
        let mut datagram = [0; 2000];
        let length = receiver.recv(&mut datagram).unwrap();
        assert_eq!(length, SIZE);
        got.extend_from_slice(&datagram[..length]);
    }
    assert!(got == sent);
    let seen = forwarder.stop();
    // Kernels before 6.2 segment it themselves.
    assert_eq!(seen.large > 0, offered);
    assert_eq!((seen.drops.iter().count(), seen.outstanding), (0, 0));
}

#[test]
fn small_frames_take_a_chunk_and_large_ones_a_run_behind_it() {
    let namespace = Namespace::new();
    let (_, mut queue) = open_one(0, &TapSettings { mtu: 9000, ..settings("eth0", &namespace) });
    let (_, mut other) = open_one(1, &TapSettings { mtu: 9000, ..settings("eth1", &namespace) });
    // What enters the kernel by one TAP is bridged out of the other.
    namespace.ip("link add br0 type bridge");
    namespace.ip("link set br0 mtu 9000 up");
    namespace.ip("link set eth0 master br0");
    namespace.ip("link set eth1 master br0");
    let mut pool = Pool::new(Memory::map(256, 64).unwrap());
    let mut drops = DropCounters::default();
    let frame = |length: usize| {
        let mut bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        bytes[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
        bytes
    };
    for length in [60, 1514, 3840, 3841, 9014] {
        let bytes = frame(length);
        let mut got: Vec<Frame> = Vec::new();
        eventually("a bridged frame arrives", || {
            let mut sent = vec![pool.frame(PortSlot::new(0), &bytes).unwrap()];
            transmit(&mut queue, &mut pool, &mut sent, &mut drops);
            std::thread::sleep(Duration::from_millis(5));
            other.receive(&mut pool, &mut got, 64, &mut drops);
            got.iter().any(|frame| frame.to_vec() == bytes)
        });
        let found = got.iter().find(|frame| frame.to_vec() == bytes).unwrap();
        assert_eq!(found.segments().count(), 1 + usize::from(length > 3840));
        assert_eq!(found.head().len(), length.min(3840));
        got.into_iter().for_each(|frame| pool.free(frame));
    }
    assert_eq!((pool.held(PortSlot::new(0)), pool.held(PortSlot::new(1))), (0, 0), "idle TAPs hold nothing");
    assert_eq!(drops.iter().count(), 0);

    // Headers that the kernel would refuse, and a port that is down.
    let mut bad =
        vec![pool.frame(PortSlot::new(7), &frame(60)).unwrap(), pool.frame(PortSlot::new(7), &[0; 9]).unwrap()];
    bad[0].checksum = Checksum::Partial { start: 50, offset: 20 };
    transmit(&mut queue, &mut pool, &mut bad, &mut drops);
    namespace.ip("link set eth0 down");
    let mut late = vec![pool.frame(PortSlot::new(7), &frame(60)).unwrap()];
    transmit(&mut queue, &mut pool, &mut late, &mut drops);
    let mut tunnelled = vec![pool.frame(PortSlot::new(7), &frame(3000)).unwrap()];
    tunnelled[0].gso = Some(Gso { kind: GsoKind::Tcp4, size: 1400, tunnel: 50 });
    transmit(&mut queue, &mut pool, &mut tunnelled, &mut drops);
    let mut counted: Vec<_> = drops.iter().map(|(port, reason, count)| (port.index(), reason, count)).collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            (7, DropReason::Truncated, 1),
            (7, DropReason::Malformed, 1),
            (7, DropReason::PortDown, 1),
            (7, DropReason::TooBig, 1)
        ]
    );
    queue.close(&mut pool);
    other.close(&mut pool);
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn without_runs_large_frames_are_counted_and_small_ones_pass() {
    let (left, right) = (Namespace::new(), Namespace::new());
    let (_, left_queue) = open_one(0, &settings("eth0", &left));
    let (_, right_queue) = open_one(1, &settings("eth0", &right));
    left.ip("addr add 10.1.0.1/24 dev eth0");
    right.ip("addr add 10.1.0.2/24 dev eth0");
    let memory = Memory::map(1024, 0).unwrap();
    let forwarder = Forwarder::start(memory, vec![Box::new(left_queue)], vec![Box::new(right_queue)]);
    let listener = right.run(|| TcpListener::bind("10.1.0.2:5000").unwrap());
    let server = right.spawn(move || std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap());
    // TCP falls back to what passes, in time.
    left.run(|| TcpStream::connect("10.1.0.2:5000").unwrap().write_all(&[7; 200_000]).unwrap());
    assert_eq!(server.join().unwrap(), 200_000);
    let seen = forwarder.stop();
    assert!(seen.drops.total(DropReason::NoBuffer) > 0);
    assert_eq!(seen.drops.iter().count(), 1);
    assert_eq!((seen.outstanding, memory.total(Class::Run)), (0, 0));
}

#[test]
fn several_queues_are_one_interface() {
    let namespace = Namespace::new();
    let (tap, queues) =
        Tap::open(PortSlot::new(0), &TapSettings { queues: 3, ..settings("eth0", &namespace) }).unwrap();
    assert_eq!(queues.len(), 3);
    assert!(tap.detail.starts_with("3 queues"), "{}", tap.detail);
    assert!(namespace.try_ip("link show eth0"));
    drop(queues);
    assert!(!namespace.try_ip("link show eth0"));
}

#[test]
fn the_interface_may_be_deleted_at_any_time() {
    let namespace = Namespace::new();
    let (tap, mut queue) = open_one(0, &settings("eth0", &namespace));
    let mut pool = Pool::new(Memory::map(64, 64).unwrap());
    let mut drops = DropCounters::default();
    let mut frames = Vec::new();
    let readable = |queue: &TapQueue| {
        let mut polled = [PollFd::from_borrowed_fd(queue.descriptor().unwrap(), PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    };
    assert_eq!(tap.watch.loss(), None);
    namespace.ip("link del eth0");
    assert!(readable(&queue), "the worker learns of it");
    while queue.receive(&mut pool, &mut frames, 64, &mut drops) > 0 {}
    assert!(!readable(&queue), "but only once");
    assert_eq!(tap.watch.loss(), Some(TapLoss::Deleted("eth0".into())));
    frames.drain(..).for_each(|frame| pool.free(frame));
    frames.push(pool.frame(PortSlot::new(1), &[0; 60]).unwrap());
    transmit(&mut queue, &mut pool, &mut frames, &mut drops);
    assert_eq!(drops.iter().collect::<Vec<_>>(), [(PortSlot::new(1), DropReason::PortDown, 1)]);
    queue.close(&mut pool);
    assert_eq!((pool.outstanding(), queue.descriptor().is_none()), (0, true));
}

#[test]
fn errors_say_what_to_do() {
    let namespace = Namespace::new();
    namespace.ip("link add taken type bridge");
    let refused = |settings: &TapSettings| Tap::open(PortSlot::new(0), settings).err().expect("refused");
    let taken = refused(&settings("taken", &namespace));
    assert!(matches!(taken, TapError::NameTaken { .. }));
    assert!(taken.to_string().contains("ip link del taken"), "{taken}");
    let (_, queue) = open_one(0, &settings("mine", &namespace));
    assert!(matches!(refused(&settings("mine", &namespace)), TapError::NameTaken { .. }));
    drop(queue);
    let lost = TapSettings { netns: Some("weft-no-such".into()), ..settings("eth0", &namespace) };
    assert!(refused(&lost).to_string().contains("ip netns add weft-no-such"), "{}", refused(&lost));
    for (field, bad) in [
        ("interface", settings("much-too-long-name", &namespace)),
        ("interface", settings("tap%d", &namespace)),
        ("netns", TapSettings { netns: Some("../../proc/1/ns".into()), ..settings("eth0", &namespace) }),
        ("mtu", TapSettings { mtu: 67, ..settings("eth0", &namespace) }),
        ("mtu", TapSettings { mtu: 65_522, ..settings("eth0", &namespace) }),
        ("mac", TapSettings { mac: Some([1, 0, 0, 0, 0, 0]), ..settings("eth0", &namespace) }),
        ("queues", TapSettings { queues: 0, ..settings("eth0", &namespace) }),
    ] {
        assert!(refused(&bad).to_string().starts_with(field), "{}", refused(&bad));
    }
    assert!(!namespace.try_ip("link show eth0"), "what failed left nothing behind");
}

/// The test runs itself as the process that is killed.
#[test]
fn the_interface_goes_when_the_process_is_killed() {
    const HOLD: &str = "WEFT_TEST_HOLD_TAP";
    if let Ok(netns) = std::env::var(HOLD) {
        let settings = TapSettings { interface: "eth0".into(), netns: Some(netns), ..TapSettings::default() };
        let _held = Tap::open(PortSlot::new(0), &settings).unwrap();
        loop {
            std::thread::park();
        }
    }
    let namespace = Namespace::new();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_interface_goes_when_the_process_is_killed"])
        .env(HOLD, &namespace.name)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the holder opens its TAP", || namespace.try_ip("link show eth0"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("the interface is gone", || !namespace.try_ip("link show eth0"));
}
