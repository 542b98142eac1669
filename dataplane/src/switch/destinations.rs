//! Destinations in reactive networks that no rule knows: the fabric's rules punt what is sent there, the controller is
//! asked, and the frames wait for its answer.
//!
//! ```text
//!            first frame            told to the controller            "known": the frames go through the tables again
//!   (none) ─────────────► asked: up to 8 frames wait ──────────────────────► released, for 1 s
//!     ▲                        │ 2 s without an answer: they drop                        │
//!     │                        │ "unknown": they drop                                    │
//!     └────────────────────────┴───► refused: what comes drops, for 5 s ─────────────────┘
//! ```
//!
//! *Released* keeps a controller that is wrong from being asked in a circle: what is punted all the same drops.
//!
//! Invariants: each destination is asked for once while it is asked; what ports can make wait or be asked is bounded
//! (`limits::destination`), for each port by itself too. Workers come here with every punted frame of this kind, under
//! a lock that is held for a few look-ups: what is known never comes here. Without a controller everything is as with
//! a slow one.

use crate::drop::DropReason;
use crate::limits::destination as limits;
use crate::worker::{Course, Injected};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;
use weft_proto::v1::{self, Destination};
use weft_proto::{PUNT_ADDRESS, PUNT_STATION};

/// The rule that did not know it, and the address or MAC.
type Key = (u64, Vec<u8>);

/// See the module comment.
#[derive(Default)]
pub struct Destinations {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// In the order in which they began; of each key the last one counts.
    ends: VecDeque<(u64, Key)>,
    /// What the controller has to be told.
    fresh: VecDeque<Destination>,
    /// Of all frames that wait.
    bytes: usize,
    ports: HashMap<u32, Share>,
    /// Frames that waited in vain.
    unanswered: u64,
}

struct Entry {
    state: State,
    /// When it ends, microseconds of [`crate::clock`].
    until: u64,
}

enum State {
    Asked { in_port: u32, frames: Vec<Injected> },
    Refused,
    Released,
}

/// What one port has asked for.
#[derive(Default)]
struct Share {
    asked: usize,
    /// Of this second.
    began: u64,
    in_second: usize,
}

impl Destinations {
    /// Takes a punted frame.
    ///
    /// # Errors
    /// Why it goes nowhere: nobody has its destination, or too much waits already.
    ///
    /// # Panics
    /// If a thread panicked under the lock.
    pub fn take(&self, packet: v1::PacketIn, now: u64) -> Result<(), DropReason> {
        let target = match packet.reason {
            // Of an Ethernet frame without tags (RFC 826): a rule for ARP has found it to be whole.
            PUNT_ADDRESS => packet.frame.get(38..42),
            PUNT_STATION => packet.frame.get(..6),
            _ => None,
        };
        let target = target.ok_or(DropReason::NoListener)?.to_vec();
        let frame = Injected { in_port: packet.in_port, bytes: packet.frame, course: Course::Tables };
        let asked = self.lock().take((packet.cookie, target), frame, now)?;
        if asked {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something to ask.
    pub async fn asked(&self) {
        self.wake.notified().await;
    }

    /// What to ask the controller next: at most [`limits::QUESTIONS`]; empty: nothing.
    ///
    /// # Panics
    /// If a thread panicked under the lock.
    pub fn questions(&self) -> Vec<Destination> {
        let mut inner = self.lock();
        let count = inner.fresh.len().min(limits::QUESTIONS);
        let some = inner.fresh.drain(..count).collect();
        if !inner.fresh.is_empty() {
            self.wake.notify_one();
        }
        some
    }

    /// The controller was lost, or has come: what waits is asked once more.
    ///
    /// # Panics
    /// If a thread panicked under the lock.
    pub fn ask_again(&self) {
        let mut inner = self.lock();
        let asked = inner.entries.iter().filter_map(|((cookie, target), entry)| match entry.state {
            State::Asked { in_port, .. } => Some(Destination { in_port, cookie: *cookie, target: target.clone() }),
            State::Refused | State::Released => None,
        });
        let asked = asked.collect();
        inner.fresh = asked;
        if !inner.fresh.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Takes the controller's answer; gives the frames to handle once more.
    ///
    /// # Panics
    /// If a thread panicked under the lock.
    pub fn answered(&self, answer: v1::Reached, now: u64) -> Vec<Injected> {
        let mut inner = self.lock();
        inner.tidy(now);
        let mut frames = Vec::new();
        for known in answer.known {
            frames.extend(inner.settle((known.cookie, known.target), State::Released, now + limits::RELEASED));
        }
        for unknown in answer.unknown {
            let lost = inner.settle((unknown.cookie, unknown.target), State::Refused, now + limits::REFUSED);
            inner.unanswered += lost.len() as u64;
        }
        frames
    }

    /// Frames that waited and were not sent: nobody had the destination, or the controller did not say in time.
    ///
    /// # Panics
    /// If a thread panicked under the lock.
    pub fn unanswered(&self, now: u64) -> u64 {
        let mut inner = self.lock();
        inner.tidy(now);
        inner.unanswered
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }
}

impl Inner {
    /// Says whether the destination is asked for from now on.
    fn take(&mut self, key: Key, frame: Injected, now: u64) -> Result<bool, DropReason> {
        self.tidy(now);
        let room = self.bytes + frame.bytes.len() <= limits::BYTES;
        match self.entries.get_mut(&key).map(|entry| &mut entry.state) {
            Some(State::Asked { frames, .. }) if room && frames.len() < limits::FRAMES => {
                self.bytes += frame.bytes.len();
                frames.push(frame);
                return Ok(false);
            }
            Some(State::Asked { .. }) => return Err(DropReason::PuntOverrun),
            Some(State::Refused | State::Released) => return Err(DropReason::UnknownDestination),
            None => {}
        }
        let in_port = frame.in_port;
        let share = self.ports.entry(in_port).or_default();
        if now.saturating_sub(share.began) >= 1_000_000 {
            (share.began, share.in_second) = (now, 0);
        }
        let within = share.asked < limits::ASKED_PER_PORT && share.in_second < limits::PER_PORT_AND_SECOND;
        if !room || !within || self.entries.len() >= limits::ENTRIES {
            return Err(DropReason::PuntOverrun);
        }
        share.asked += 1;
        share.in_second += 1;
        self.bytes += frame.bytes.len();
        self.fresh.push_back(Destination { in_port, cookie: key.0, target: key.1.clone() });
        self.put(key, State::Asked { in_port, frames: vec![frame] }, now + limits::PATIENCE);
        Ok(true)
    }

    fn put(&mut self, key: Key, state: State, until: u64) {
        // Few, and of three lengths: sorted by when they end.
        let place = self.ends.partition_point(|(end, _)| *end <= until);
        self.ends.insert(place, (until, key.clone()));
        self.entries.insert(key, Entry { state, until });
    }

    /// What was asked is answered; gives the frames that waited. What is not asked (any more) stays as it is.
    fn settle(&mut self, key: Key, state: State, until: u64) -> Vec<Injected> {
        if !matches!(self.entries.get(&key), Some(Entry { state: State::Asked { .. }, .. })) {
            return Vec::new();
        }
        let frames = self.remove(&key);
        self.put(key, state, until);
        frames
    }

    /// Removes an entry; gives the frames that waited.
    fn remove(&mut self, key: &Key) -> Vec<Injected> {
        let Some(Entry { state: State::Asked { in_port, frames }, .. }) = self.entries.remove(key) else {
            return Vec::new();
        };
        self.bytes -= frames.iter().map(|frame| frame.bytes.len()).sum::<usize>();
        if let Some(share) = self.ports.get_mut(&in_port) {
            share.asked -= 1;
        }
        frames
    }

    /// Ends what has to end.
    fn tidy(&mut self, now: u64) {
        while self.ends.front().is_some_and(|(end, _)| *end <= now)
            && let Some((end, key)) = self.ends.pop_front()
        {
            if self.entries.get(&key).is_some_and(|entry| entry.until == end) {
                self.unanswered += self.remove(&key).len() as u64;
            }
        }
        if self.fresh.len() > limits::ENTRIES {
            // Nobody asks: what has ended need not be asked.
            let entries = &self.entries;
            self.fresh.retain(|one| entries.contains_key(&(one.cookie, one.target.clone())));
        }
        if self.ports.len() > limits::ENTRIES {
            self.ports.retain(|_, share| share.asked > 0 || now.saturating_sub(share.began) < 1_000_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1000;

    fn to(last: u8) -> v1::PacketIn {
        let frame = [vec![2, 0, 0, 0, 0, last], vec![0; 54]].concat();
        v1::PacketIn { in_port: 7, cookie: 5, reason: PUNT_STATION, frame, ..Default::default() }
    }

    fn known(all: &[Destination]) -> v1::Reached {
        v1::Reached { known: all.to_vec(), ..Default::default() }
    }

    #[test]
    fn frames_wait_for_an_answer_that_is_asked_for_once() {
        let all = Destinations::default();
        assert_eq!((all.take(to(1), 0), all.take(to(1), 0), all.take(to(2), 0)), (Ok(()), Ok(()), Ok(())));
        let questions = all.questions();
        let targets: Vec<_> = questions.iter().map(|one| (one.in_port, one.cookie, one.target[5])).collect();
        assert_eq!(targets, [(7, 5, 1), (7, 5, 2)]);
        assert!(all.questions().is_empty());
        let frames = all.answered(known(&questions[..1]), MILLISECOND);
        assert!(frames.len() == 2 && frames.iter().all(|frame| frame.in_port == 7 && frame.bytes == to(1).frame));
        assert!(all.answered(known(&questions[..1]), MILLISECOND).is_empty(), "an answer counts once");
        // Should the rule not be there, nobody is asked in a circle.
        assert_eq!(all.take(to(1), 2 * MILLISECOND), Err(DropReason::UnknownDestination));
        assert_eq!(all.take(to(1), 2 * MILLISECOND + limits::RELEASED), Ok(()));
        assert_eq!(all.lock().bytes, 120, "the one to 1, and the one to 2");
    }

    #[test]
    fn an_arp_request_asks_for_its_target() {
        let all = Destinations::default();
        let mut arp = to(1);
        arp.reason = PUNT_ADDRESS;
        arp.frame[38..42].copy_from_slice(&[10, 0, 0, 9]);
        all.take(arp.clone(), 0).unwrap();
        assert_eq!(all.questions()[0].target, [10, 0, 0, 9]);
        arp.frame.truncate(41);
        assert_eq!(all.take(arp, 0), Err(DropReason::NoListener));
    }

    #[test]
    fn unknown_destinations_drop_for_a_while() {
        let all = Destinations::default();
        all.take(to(1), 0).unwrap();
        assert!(all.answered(v1::Reached { unknown: all.questions(), ..Default::default() }, 0).is_empty());
        assert_eq!(all.take(to(1), limits::REFUSED - 1), Err(DropReason::UnknownDestination));
        assert!(all.questions().is_empty());
        assert_eq!(all.take(to(1), limits::REFUSED), Ok(()));
        assert_eq!((all.questions().len(), all.unanswered(limits::REFUSED)), (1, 1));
    }

    #[test]
    fn without_a_controller_frames_wait_in_vain_and_are_counted() {
        let all = Destinations::default();
        for _ in 0..limits::FRAMES {
            all.take(to(1), 0).unwrap();
        }
        assert_eq!(all.take(to(1), 0), Err(DropReason::PuntOverrun));
        assert_eq!(all.questions().len(), 1);
        assert_eq!(all.unanswered(limits::PATIENCE - 1), 0);
        // It comes: what still waits is asked once more, and what does not is not.
        all.take(to(2), MILLISECOND).unwrap();
        all.ask_again();
        assert_eq!(all.questions().len(), 2);
        assert_eq!(all.unanswered(limits::PATIENCE), limits::FRAMES as u64);
        all.ask_again();
        assert_eq!(all.questions().len(), 1);
        assert_eq!(all.lock().bytes, 60);
    }

    #[test]
    fn a_port_that_scans_leaves_room_for_others() {
        let all = Destinations::default();
        let scan = |number: u16, now| {
            let mut packet = to(0);
            packet.frame[4..6].copy_from_slice(&number.to_be_bytes());
            all.take(packet, now)
        };
        let taken = (0..1000).filter(|&number| scan(number, 0).is_ok()).count();
        assert_eq!(taken, limits::ASKED_PER_PORT.min(limits::PER_PORT_AND_SECOND));
        assert_eq!(all.take(v1::PacketIn { in_port: 8, ..to(1) }, 0), Ok(()));
        // Answered at once, it may go on, at its rate.
        let mut asked = 0;
        for number in 1000..2000 {
            all.answered(v1::Reached { unknown: all.questions(), ..Default::default() }, 1);
            asked += usize::from(scan(number, 1).is_ok());
        }
        assert_eq!(asked + taken, limits::PER_PORT_AND_SECOND);
        all.unanswered(10 * limits::REFUSED);
        assert!(all.lock().entries.is_empty() && all.lock().ends.is_empty() && all.lock().bytes == 0);
    }
}
