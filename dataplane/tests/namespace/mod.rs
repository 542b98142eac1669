//! Network namespaces for tests: made by the test, unique by process and count, removed when dropped.
//! And a worker of a few lines that forwards between two queues.

#![allow(dead_code, reason = "every test binary uses its own part")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weft_dataplane::drop::DropCounters;
use weft_dataplane::packet::frame::Frame;
use weft_dataplane::packet::memory::Memory;
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::port::{PortQueue, QueueCounters, Refused};

/// A network namespace that `ip netns` knows.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("weft-test-{}-{count}", std::process::id()) };
        run(&["ip", "netns", "add", &namespace.name]);
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `ip` inside, and gives what it prints.
    pub fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["ip", "-n", &self.name];
        all.extend(arguments.split(' '));
        run(&all)
    }

    /// Whether `ip` with these arguments succeeds.
    pub fn try_ip(&self, arguments: &str) -> bool {
        Command::new("ip").args(["-n", &self.name]).args(arguments.split(' ')).output().unwrap().status.success()
    }

    /// Runs a program inside, and gives what it prints.
    pub fn command(&self, arguments: &str) -> String {
        let mut all = vec!["ip", "netns", "exec", &self.name];
        all.extend(arguments.split(' '));
        run(&all)
    }

    /// Runs a program inside that may fail, and gives what it prints.
    pub fn run_any(&self, arguments: &str) -> String {
        let output =
            Command::new("ip").args(["netns", "exec", &self.name]).args(arguments.split(' ')).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Whether a program inside succeeds.
    pub fn try_command(&self, arguments: &str) -> bool {
        let arguments = arguments.split(' ');
        Command::new("ip").args(["netns", "exec", &self.name]).args(arguments).output().unwrap().status.success()
    }

    /// A veth pair with an end in each, both up, without checksum offload (its frames lie in memory
    /// with partial checksums, which AF_XDP would not complete).
    pub fn veth(&self, end: &str, other: &Namespace, other_end: &str, queues: u32) {
        self.ip(&format!(
            "link add {end} numrxqueues {queues} numtxqueues {queues} type veth peer name {other_end} numrxqueues {queues} numtxqueues {queues} netns {}",
            other.name
        ));
        for (namespace, end) in [(self, end), (other, other_end)] {
            namespace.ip(&format!("link set {end} up"));
            namespace.command(&format!("ethtool -K {end} tx off"));
        }
    }

    /// Starts a thread that lives and dies inside.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = format!("/var/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let namespace = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// Does something inside and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs a program that must succeed; gives what it prints.
pub fn run(arguments: &[&str]) -> String {
    let output: Output = Command::new(arguments[0])
        .args(&arguments[1..])
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}. Install it.", arguments[0]));
    assert!(output.status.success(), "{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `condition` holds, at most five seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not within five seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends; what the queue gives back is counted by who is charged, and freed.
pub fn transmit(queue: &mut dyn PortQueue, pool: &mut Pool, frames: &mut Vec<Frame>, drops: &mut DropCounters) {
    let mut refused = Refused::new();
    queue.transmit(pool, frames, &mut refused);
    assert!(frames.is_empty(), "a queue takes all");
    for (frame, reason) in refused {
        drops.count(frame.charged(), reason);
        pool.free(frame);
    }
}

/// What a forwarder saw.
pub struct Forwarded {
    pub drops: DropCounters,
    pub largest: usize,
    pub large: u64,
    pub frames: u64,
    pub outstanding: i64,
    /// Of each queue, the left ones first.
    pub counters: Vec<QueueCounters>,
}

/// A thread that forwards between queues: from each of `left` to one of `right` and back.
pub struct Forwarder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Forwarded>,
}

impl Forwarder {
    pub fn start(memory: &'static Memory, left: Vec<Box<dyn PortQueue>>, right: Vec<Box<dyn PortQueue>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || forward(memory, left, right, &stopped)) }
    }

    /// Stops it and closes the queues.
    pub fn stop(self) -> Forwarded {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn forward(
    memory: &'static Memory,
    left: Vec<Box<dyn PortQueue>>,
    right: Vec<Box<dyn PortQueue>>,
    stop: &AtomicBool,
) -> Forwarded {
    let mut pool = Pool::new(memory);
    let split = left.len();
    let mut queues: Vec<Box<dyn PortQueue>> = left.into_iter().chain(right).collect();
    let mut seen = Forwarded {
        drops: DropCounters::default(),
        largest: 0,
        large: 0,
        frames: 0,
        outstanding: 0,
        counters: Vec::new(),
    };
    let mut frames = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut any = false;
        for from in 0..queues.len() {
            let received = queues[from].receive(&mut pool, &mut frames, 64, &mut seen.drops);
            if received == 0 {
                continue;
            }
            any = true;
            for frame in &frames {
                seen.largest = seen.largest.max(frame.len());
                seen.large += u64::from(frame.gso.is_some());
                seen.frames += 1;
            }
            let to = if from < split { split + from % (queues.len() - split) } else { (from - split) % split };
            transmit(&mut *queues[to], &mut pool, &mut frames, &mut seen.drops);
        }
        queues.iter_mut().for_each(|queue| queue.service(&mut pool));
        if !any {
            let mut polled: Vec<PollFd> = queues
                .iter()
                .map(|queue| PollFd::from_borrowed_fd(queue.descriptor().unwrap(), PollFlags::IN))
                .collect();
            let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
        }
    }
    queues.iter_mut().for_each(|queue| queue.close(&mut pool));
    seen.counters = queues.iter().map(|queue| queue.counters()).collect();
    seen.outstanding = pool.outstanding();
    seen
}
