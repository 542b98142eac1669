//! Several queues of a port in the hands of one worker: to the worker they are one queue.

use crate::drop::DropCounters;
use crate::packet::frame::Frame;
use crate::packet::pool::Pool;
use crate::port::{Offloads, PortQueue, QueueCounters, Refused};
use rustix::event::epoll;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the module comment. Never empty.
pub(super) struct QueueSet {
    queues: Vec<Box<dyn PortQueue>>,
    /// Readable when one of the queues is; `None`: one of them must be polled.
    any: Option<OwnedFd>,
    /// Whose turn it is to receive.
    next: usize,
}

impl QueueSet {
    /// One queue for all of these; `None` if there are none.
    pub(super) fn of(mut queues: Vec<Box<dyn PortQueue>>) -> Option<Box<dyn PortQueue>> {
        if queues.len() < 2 {
            return queues.pop();
        }
        // Without descriptors the worker looks for frames from time to time: slower, but right.
        let any = watch_all(&queues).inspect_err(|error| tracing::warn!(%error, "the port's queues are polled")).ok();
        Some(Box::new(Self { queues, any: any.flatten(), next: 0 }))
    }
}

fn watch_all(queues: &[Box<dyn PortQueue>]) -> std::io::Result<Option<OwnedFd>> {
    let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for queue in queues {
        let Some(descriptor) = queue.descriptor() else { return Ok(None) };
        epoll::add(&any, descriptor, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(Some(any))
}

impl PortQueue for QueueSet {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let mut received = 0;
        for _ in 0..self.queues.len() {
            if received < budget {
                self.next = (self.next + 1) % self.queues.len();
                received += self.queues[self.next].receive(pool, frames, budget - received, drops);
            }
        }
        received
    }

    /// By the first queue: order is kept.
    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, refused: &mut Refused) {
        self.queues[0].transmit(pool, frames, refused);
    }

    fn service(&mut self, pool: &mut Pool) {
        self.queues.iter_mut().for_each(|queue| queue.service(pool));
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.any.as_ref().map(AsFd::as_fd)
    }

    fn offloads(&self) -> Offloads {
        self.queues[0].offloads()
    }

    fn counters(&self) -> QueueCounters {
        let mut sum = QueueCounters::default();
        for counters in self.queues.iter().map(|queue| queue.counters()) {
            sum.received_packets += counters.received_packets;
            sum.received_bytes += counters.received_bytes;
            sum.sent_packets += counters.sent_packets;
            sum.sent_bytes += counters.sent_bytes;
        }
        sum
    }

    fn close(&mut self, pool: &mut Pool) {
        self.any = None;
        self.queues.iter_mut().for_each(|queue| queue.close(pool));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::memory::Memory;
    use crate::port::PortSlot;
    use crate::port::memory::pair;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(queue: &dyn PortQueue) -> bool {
        let mut descriptors = [PollFd::from_borrowed_fd(queue.descriptor().unwrap(), PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn two_queues_work_as_one() {
        let slot = PortSlot::new(3);
        let ((first, one), (second, two)) = (pair(slot).unwrap(), pair(slot).unwrap());
        let mut set = QueueSet::of(vec![Box::new(first), Box::new(second)]).unwrap();
        let mut pool = Pool::new(Memory::map(512, 64).unwrap());
        let (mut frames, mut drops) = (Vec::new(), DropCounters::default());
        assert!(!readable(&*set));
        for _ in 0..3 {
            one.send(vec![1; 60]).unwrap();
            two.send(vec![2; 60]).unwrap();
        }
        assert!(readable(&*set));
        assert_eq!(set.receive(&mut pool, &mut frames, 4, &mut drops), 4);
        assert_eq!(set.receive(&mut pool, &mut frames, 64, &mut drops), 2);
        assert_eq!(frames.iter().filter(|frame| frame.head()[0] == 2).count(), 3);
        assert!(!readable(&*set));
        set.transmit(&mut pool, &mut frames, &mut Refused::new());
        assert_eq!((one.take_all().len(), two.take_all().len()), (6, 0));
        assert_eq!((set.counters().received_packets, set.counters().sent_packets), (6, 6));
        set.close(&mut pool);
        assert_eq!(pool.outstanding(), 0);
    }
}
