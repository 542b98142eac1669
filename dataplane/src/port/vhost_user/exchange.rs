//! How rings come to workers and back.
//!
//! A port has a *lane* for each worker that serves it: one end, a queue of the port (`queue.rs`), is the worker's, the
//! other is the control thread's (`session.rs`). Rings go over in an [`Assignment`] and come back when the next one
//! comes: so a ring has one owner, and memory is never unmapped under a worker. A worker looks once a round at a number
//! that is written only when there is something to take. Control waits until it has been taken.

use super::ring::{Broken, Ring};
use crate::port::Offloads;
use rustix::event::{EventfdFlags, epoll, eventfd};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of a virtio-net header with `num_buffers`; without it has 10.
pub const LONG_HEADER: usize = 12;

/// What was agreed with a driver about frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Bytes of the header before each frame.
    pub header: usize,
    /// A frame to the driver may take several chains.
    pub mergeable: bool,
    /// The driver understands ECN in large segments.
    pub ecn: bool,
    /// What it takes.
    pub offloads: Offloads,
}

/// A ring with its number in the device.
#[derive(Debug)]
pub struct Numbered {
    /// 2n: the driver receives by it, 2n + 1: it sends.
    pub number: usize,
    /// The ring.
    pub ring: Ring,
    /// It is not looked at any more.
    pub broken: bool,
}

/// The ring by which frames go to the driver.
#[derive(Debug, Default)]
pub enum Transmit {
    /// There is none.
    #[default]
    None,
    /// This worker's own.
    Own(Numbered),
    /// The driver uses fewer rings than there are workers: some share one, under a lock that is taken once a batch.
    Shared(Arc<Mutex<Numbered>>),
}

/// What a worker has of a front end. The default is nothing.
#[derive(Debug, Default)]
pub struct Assignment {
    /// `None`: nothing was agreed.
    pub agreed: Option<Agreed>,
    /// By which frames come from the driver.
    pub receive: Vec<Numbered>,
    /// See [`Transmit`].
    pub transmit: Transmit,
    /// The front end gave no descriptor to wait on for one of `receive`.
    pub polled: bool,
}

/// See the module comment.
#[derive(Debug)]
pub struct Lane {
    /// How many assignments have been offered.
    offered: AtomicU64,
    exchange: Mutex<Exchange>,
    taken: Condvar,
    /// Readable when a ring may have something, or an assignment is there. Edges only: nobody reads the front end's
    /// descriptors, which could make us wait.
    epoll: OwnedFd,
    wake: OwnedFd,
    /// Rings that broke, for control; and what wakes it.
    broken: Mutex<Vec<(usize, Broken)>>,
    control: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct Exchange {
    offer: Option<Assignment>,
    returned: Assignment,
    /// How many offers were taken.
    taken: u64,
    /// The worker's end is gone.
    closed: bool,
    /// Control's end goes.
    ending: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic happens under these locks but what is whole at any moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    /// A lane whose worker has nothing. `control` is written to when a ring breaks.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(control: Arc<OwnedFd>) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let lane = Self {
            offered: AtomicU64::new(0),
            exchange: Mutex::default(),
            taken: Condvar::new(),
            epoll,
            wake,
            broken: Mutex::default(),
            control,
        };
        lane.watch(&lane.wake)?;
        Ok(lane)
    }

    /// Lets a descriptor wake the worker.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch(&self, descriptor: &OwnedFd) -> std::io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(0), flags)?)
    }

    /// No more.
    pub fn unwatch(&self, descriptor: &OwnedFd) {
        // It may not have been watched.
        let _ = epoll::delete(&self.epoll, descriptor);
    }

    /// Hands the worker an assignment, and gives the one that it had. Blocks until the worker has taken it or is gone;
    /// once the lane ends, only for a moment: a port that is not opened after all has no worker.
    pub fn exchange(&self, assignment: Assignment) -> Assignment {
        let mut exchange = lock(&self.exchange);
        if exchange.closed {
            return std::mem::take(&mut exchange.returned);
        }
        exchange.offer = Some(assignment);
        let offered = self.offered.fetch_add(1, Ordering::Release) + 1;
        self.wake();
        let mut patience = 2;
        while exchange.taken < offered && !exchange.closed {
            if exchange.ending && patience == 0 {
                // The offer stands. Whatever the worker has keeps its memory mapped until then.
                return Assignment::default();
            }
            patience = i32::max(patience - 1, 0);
            let waited = self.taken.wait_timeout(exchange, std::time::Duration::from_millis(100));
            exchange = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        exchange.offer = None;
        std::mem::take(&mut exchange.returned)
    }

    /// From now on nobody waits for the worker any more.
    pub fn end(&self) {
        lock(&self.exchange).ending = true;
    }

    /// Wakes the worker.
    pub fn wake(&self) {
        // Full means that it is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// What the worker waits on.
    pub fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// For the worker: how many assignments have been offered.
    pub fn offered(&self) -> u64 {
        self.offered.load(Ordering::Acquire)
    }

    /// For the worker: takes what is offered, and gives back what it had.
    pub fn take(&self, had: Assignment) -> Assignment {
        let mut exchange = lock(&self.exchange);
        exchange.taken = self.offered();
        exchange.returned = had;
        self.taken.notify_one();
        exchange.offer.take().unwrap_or_default()
    }

    /// For the worker: it goes.
    pub fn close(&self, had: Assignment) {
        let mut exchange = lock(&self.exchange);
        if !exchange.closed {
            exchange.closed = true;
            exchange.returned = had;
            self.taken.notify_one();
        }
    }

    /// For the worker: a ring broke. Seldom, hence the lock.
    pub fn report(&self, number: usize, broken: Broken) {
        lock(&self.broken).push((number, broken));
        let _ = rustix::io::write(&*self.control, &1_u64.to_ne_bytes());
    }

    /// The rings that broke since the last call.
    pub fn broken(&self) -> Vec<(usize, Broken)> {
        std::mem::take(&mut lock(&self.broken))
    }
}
