//! Ports that frames come from: recorded ones in phases, or made ones; as fast as they are taken, or evenly.

use crate::rig::on_cpu;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use weft_dataplane::drop::DropCounters;
use weft_dataplane::packet::frame::Frame;
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::port::{Offloads, PortQueue, PortSlot, QueueCounters, Refused};

/// Frames of one phase.
pub type Frames = Vec<[u8; 60]>;
/// Makes the frame of this number.
pub type Next = Box<dyn FnMut(u64, &mut [u8; 60]) + Send>;

/// How ports are told what to do.
#[derive(Default)]
pub struct Control {
    /// Which phase of recorded frames is on, from 1.
    pub phase: AtomicUsize,
    /// Ports that have sent all of it.
    pub done: AtomicUsize,
    /// Frames to make.
    pub limit: AtomicU64,
    /// Frames made.
    pub made: AtomicU64,
    /// Whether who has a pace keeps it.
    pub paced: AtomicUsize,
}

/// Frames come evenly on the worker's own time, and wait in a ring; what does not fit is lost.
pub struct Pace {
    every: f64,
    ring: u64,
    come: Option<u64>,
    waiting: u64,
    /// Frames that came, and those of them that were lost.
    pub counts: Arc<(AtomicU64, AtomicU64)>,
}

impl Pace {
    /// One frame in so many nanoseconds.
    pub fn new(every: u32, ring: u64) -> Self {
        Self { every: every.into(), ring, come: None, waiting: 0, counts: Arc::default() }
    }

    fn take(&mut self, most: usize) -> usize {
        let come = (on_cpu() / self.every) as u64;
        let new = come - self.come.replace(come).unwrap_or(come);
        self.counts.0.fetch_add(new, Relaxed);
        self.counts.1.fetch_add((self.waiting + new).saturating_sub(self.ring), Relaxed);
        let all = (self.waiting + new).min(self.ring);
        let taken = all.min(most as u64);
        self.waiting = all - taken;
        taken as usize
    }
}

/// A port; it discards what is sent by it.
pub struct Replay {
    pub slot: PortSlot,
    phases: Vec<Frames>,
    next: Option<Next>,
    pub pace: Option<Pace>,
    /// The phase that it is in, and how far; `None`: it has told that it is done.
    phase: usize,
    at: Option<usize>,
    made: u64,
    control: Arc<Control>,
    counters: QueueCounters,
}

impl Replay {
    fn new(number: usize, control: &Arc<Control>) -> Self {
        Self {
            slot: PortSlot::new(number),
            phases: Vec::new(),
            next: None,
            pace: None,
            phase: 0,
            at: Some(0),
            made: 0,
            control: control.clone(),
            counters: QueueCounters::default(),
        }
    }

    /// A port of recorded frames.
    pub fn recorded(number: usize, phases: Vec<Frames>, control: &Arc<Control>) -> Self {
        Self { phases, ..Self::new(number, control) }
    }

    /// A port of frames that are made.
    pub fn made(number: usize, next: Next, control: &Arc<Control>) -> Self {
        Self { next: Some(next), ..Self::new(number, control) }
    }

    fn receive_made(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize) {
        let Some(next) = &mut self.next else { return };
        let left = self.control.limit.load(Relaxed).saturating_sub(self.made);
        for _ in 0..left.min(budget as u64) {
            let mut bytes = [0; 60];
            next(self.made, &mut bytes);
            let Some(frame) = pool.frame(self.slot, &bytes) else { break };
            frames.push(frame);
            self.made += 1;
        }
        self.control.made.store(self.made, Relaxed);
    }

    fn receive_recorded(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize) {
        let phase = self.control.phase.load(Relaxed);
        if phase != self.phase {
            (self.phase, self.at) = (phase, Some(0));
        }
        let Some(recorded) = phase.checked_sub(1).and_then(|index| self.phases.get(index)) else { return };
        let repeats = phase == self.phases.len();
        for _ in 0..budget {
            let Some(at) = &mut self.at else { return };
            if *at == recorded.len() && (!repeats || recorded.is_empty()) {
                self.at = None;
                self.control.done.fetch_add(1, Relaxed);
                return;
            }
            let Some(frame) = pool.frame(self.slot, &recorded[*at % recorded.len()]) else { return };
            *at = *at % recorded.len() + 1;
            frames.push(frame);
        }
    }
}

impl PortQueue for Replay {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, _drops: &mut DropCounters) -> usize {
        let before = frames.len();
        let budget = match &mut self.pace {
            Some(pace) if self.control.paced.load(Relaxed) > 0 => pace.take(budget),
            _ => budget,
        };
        if self.next.is_some() {
            self.receive_made(pool, frames, budget);
        } else {
            self.receive_recorded(pool, frames, budget);
        }
        self.counters.received_packets += (frames.len() - before) as u64;
        frames.len() - before
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, _refused: &mut Refused) {
        self.counters.sent_packets += frames.len() as u64;
        frames.drain(..).for_each(|frame| pool.free(frame));
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn offloads(&self) -> Offloads {
        Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: true, chains: true, max_frame: 1514 }
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn close(&mut self, _pool: &mut Pool) {}
}
