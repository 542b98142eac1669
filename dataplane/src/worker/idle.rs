//! A worker between packets: what need not be done for each of them, and how it sleeps when there are none.

use super::Worker;
use crate::drop::DropReason;
use crate::limits::CACHE_IDLE_MICROSECONDS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long it sleeps at most, so that counters reach rules in time: nanoseconds.
const SLEEP_NANOSECONDS: i64 = 200_000_000;
/// Likewise while a port has no descriptor to wait on.
const ASK_NANOSECONDS: i64 = 1_000_000;
/// Microseconds between two rounds of housekeeping.
const HOUSEKEEPING_MICROSECONDS: u64 = 100_000;
/// Entries whose counts are brought to the rules in one round of it: a fraction of a millisecond.
const FLUSHED_AT_ONCE: usize = 4096;
/// Microseconds in which all records of connections are looked at.
const EXPIRY_MICROSECONDS: u64 = 500_000;

impl Worker {
    /// What need not be done per packet.
    pub(super) fn tidy(&mut self) {
        let elapsed = self.now.saturating_sub(self.tidied);
        if elapsed < HOUSEKEEPING_MICROSECONDS {
            return;
        }
        self.tidied = self.now;
        // What few entries have counted reaches its rules at once; of many, within two seconds, lest packets wait.
        self.cache.flush_some((self.cache.len() / 16).max(FLUSHED_AT_ONCE));
        // Every entry is looked at once a second or so.
        let share = self.cache.len() / 8 + 64;
        self.cache.sweep(share, self.now.saturating_sub(CACHE_IDLE_MICROSECONDS));
        // What other workers gave to this one must expire too, should no packet of it ever come.
        self.connections.adopt();
        let slots = self.connections.slots() as u64;
        let share = slots * elapsed.min(EXPIRY_MICROSECONDS) / EXPIRY_MICROSECONDS + 64;
        self.connections.expire(self.now, share as usize);
        self.connections.fragments.expire(self.now);
        let late = self.waiting.expire(self.now);
        self.give_up(late, DropReason::FragmentTimeout);
        self.tidy_neighbours();
        self.tidy_announcements();
    }

    pub(super) fn sleep(&mut self) {
        if !self.outgoing.links.park() {
            return;
        }
        self.progress.asleep();
        let mut nanoseconds = SLEEP_NANOSECONDS;
        {
            let mut descriptors = vec![PollFd::new(&*self.wake, PollFlags::IN)];
            for (slot, descriptor) in self.outgoing.descriptors() {
                if self.outgoing.numbers[slot.index()] == 0 {
                    // Its frames are not taken yet: they must not keep the worker awake.
                    continue;
                }
                match descriptor {
                    Some(descriptor) => descriptors.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN)),
                    None => nanoseconds = ASK_NANOSECONDS,
                }
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
            // Interrupted or timed out: the loop looks for itself.
            let _ = poll(&mut descriptors, Some(&timeout));
            if descriptors[0].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            }
        }
        self.outgoing.links.awake();
        self.progress.awake();
        self.look_at_version();
    }
}
