//! Who may walk the tables, and for how long: deficit round robin over ingress ports, by time.
//!
//! A walk takes as long as dozens of packets that hit the cache. So packets that miss must not take the time of those
//! that hit, nor one port's misses the time of another's, whatever a walk costs: few rules or many, tracked or not.
//!
//! - If no packet that hits has had to wait lately ([`PRESSED_NANOSECONDS`]), every packet that misses walks.
//! - Otherwise walks may take what time they have *earned*. It is earned as time passes, in equal parts by the ports that
//!   had misses in the round before.
//! - While packets that hit have to wait (a queue was [pressed](Credits::received)), one part in
//!   [`WALKS_WHILE_PRESSED`] of the time is earned; otherwise all of it. So a flood is served with all the time there
//!   is if nobody else wants it, and with what the others leave if they do, but at least with that part.
//! - A port keeps what it does not use, up to [`MISSES_PER_BATCH`] walks of the length that they had lately. So who was
//!   quiet may begin a batch of flows at once, whatever others do.
//! - A walk is charged with what it took, by the clock: the walk's own reads of it are the only ones that a packet
//!   causes. That an older entry is still good is charged by the comparisons it took.
//!
//! What a port cannot pay is dropped under `MissBudget` before anything is done about it. That costs what receiving,
//! parsing and looking up a packet costs, which is shared out by the batches in which queues take turns.

use crate::limits::{BATCH, COMPARISONS_PER_WALK, MISSES_PER_BATCH, PRESSED_NANOSECONDS, WALKS_WHILE_PRESSED};
use crate::port::PortSlot;

/// What a walk is taken to last before there was any, nanoseconds.
const UNKNOWN: u64 = 20_000;
/// So many times what is usual is no walk: the thread was not running. A walk that became so long is usual soon.
const UNUSUAL: u64 = 4;

/// One port's.
#[derive(Clone, Copy, Default)]
struct Credit {
    /// What it may still spend, nanoseconds; below zero it owes.
    left: i64,
    /// How much was earned by each when it was last given its part.
    earned: u64,
    /// The last round in which the port had frames.
    seen: u64,
    /// The last round in which it had misses.
    missed: u64,
}

/// See the module comment. Times are in nanoseconds.
pub(super) struct Credits {
    ports: Vec<Credit>,
    round: u64,
    /// When the round began.
    now: u64,
    /// What each port that misses has earned so far.
    earned: u64,
    /// How long a walk takes, lately.
    walk: u64,
    /// Ports that had misses in this round.
    missing: u64,
    /// Whether packets that hit wait.
    pressed: bool,
    /// Until when it counts that some did.
    calm: u64,
}

impl Credits {
    /// For so many ports.
    pub fn new(ports: usize) -> Self {
        // All that a port may keep, as it has done nothing yet.
        let quiet = Credit { left: i64::MAX, ..Credit::default() };
        Self {
            ports: vec![quiet; ports],
            round: 0,
            now: 0,
            earned: 0,
            walk: UNKNOWN,
            missing: 0,
            pressed: false,
            calm: 0,
        }
    }

    /// A round begins.
    pub fn begin(&mut self, now: u64) {
        let passed = now.saturating_sub(std::mem::replace(&mut self.now, now));
        let part = if self.pressed { passed / WALKS_WHILE_PRESSED } else { passed };
        self.earned += part / self.missing.max(1);
        self.round += 1;
        (self.missing, self.pressed) = (0, false);
    }

    /// A queue gave so many frames, of which so many hit. If there may be more, and they are not nearly all
    /// misses, others must not keep it waiting.
    pub fn received(&mut self, frames: usize, hits: usize) {
        if frames >= BATCH && hits >= BATCH / 4 {
            (self.pressed, self.calm) = (true, self.now + PRESSED_NANOSECONDS);
        }
    }

    /// The port has frames in this round; gives whether these are the first.
    pub fn appears(&mut self, slot: PortSlot) -> bool {
        let round = self.round;
        self.ports.get_mut(slot.index()).is_some_and(|port| std::mem::replace(&mut port.seen, round) != round)
    }

    /// A packet of the port misses. Whether anything may be done about it.
    pub fn is_left(&mut self, slot: PortSlot) -> bool {
        let most = self.most();
        let Some(port) = self.ports.get_mut(slot.index()) else { return false };
        self.missing += u64::from(std::mem::replace(&mut port.missed, self.round) != self.round);
        let part = self.earned - std::mem::replace(&mut port.earned, self.earned);
        port.left = port.left.saturating_add_unsigned(part).min(most);
        port.left > 0 || self.now >= self.calm
    }

    /// What a port may keep, and owe.
    fn most(&self) -> i64 {
        (self.walk * MISSES_PER_BATCH as u64) as i64
    }

    /// Charges a port with a walk that took so long.
    pub fn charge(&mut self, slot: PortSlot, took: u64) {
        let took = took.min(self.walk * UNUSUAL);
        self.walk = ((self.walk * 15 + took) / 16).max(100);
        self.spend(slot, took);
    }

    /// Charges it with comparisons, of which [`COMPARISONS_PER_WALK`] cost as much as a walk.
    pub fn charge_comparisons(&mut self, slot: PortSlot, comparisons: usize) {
        self.spend(slot, self.walk * comparisons as u64 / COMPARISONS_PER_WALK as u64);
    }

    fn spend(&mut self, slot: PortSlot, took: u64) {
        let most = self.most();
        if let Some(port) = self.ports.get_mut(slot.index()) {
            port.left = port.left.min(most).saturating_sub_unsigned(took).max(-most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nanoseconds that parts of a packet's way take.
    const HIT: u64 = 100;
    const DROP: u64 = 80;

    /// A port whose frames come evenly and wait in a ring.
    struct Source {
        /// Nanoseconds between two frames.
        every: u64,
        /// All miss, or all hit.
        misses: bool,
        waiting: u64,
        come: u64,
        served: u64,
    }

    impl Source {
        fn new(every: u64, misses: bool) -> Self {
            Self { every, misses, waiting: 0, come: 0, served: 0 }
        }

        fn rate(&self, time: u64) -> f64 {
            self.served as f64 * self.every as f64 / time as f64
        }
    }

    /// A worker's rounds for so long, its walks of this length, the rings of this size.
    fn run(sources: &mut [Source], walk: u64, ring: u64, time: u64) {
        let (mut credits, mut now) = (Credits::new(8), 0);
        while now < time {
            credits.begin(now);
            now += 50;
            for (index, source) in sources.iter_mut().enumerate() {
                let slot = PortSlot::new(index + 1);
                let come = now / source.every;
                source.waiting = (source.waiting + come - source.come).min(ring);
                source.come = come;
                let batch = source.waiting.min(BATCH as u64);
                source.waiting -= batch;
                credits.received(batch as usize, if source.misses { 0 } else { batch as usize });
                for _ in 0..batch {
                    if !source.misses {
                        now += HIT;
                        source.served += 1;
                    } else if credits.is_left(slot) {
                        now += walk;
                        credits.charge(slot, walk);
                        source.served += 1;
                    } else {
                        now += DROP;
                    }
                }
            }
        }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_flood_of_misses_leaves_a_victim_its_rate() {
        for walk in [1_000, 2_000, 4_000, 20_000] {
            for ring in [256, 4096] {
                // The victim wants half the core, the attacker four times what the core could walk.
                let mut sources = [Source::new(walk / 4, true), Source::new(2 * HIT, false)];
                run(&mut sources, walk, ring, SECOND);
                let (flood, victim) = (&sources[0], sources[1].rate(SECOND));
                assert!(victim >= 0.95, "{victim} with walks of {walk} ns and a ring of {ring}");
                let walked = flood.served * walk;
                assert!(walked >= SECOND / 8, "walks had {walked} ns of the {SECOND}");
            }
        }
    }

    #[test]
    fn a_flood_alone_is_served_with_all_the_time_there_is() {
        let mut sources = [Source::new(1000, true)];
        run(&mut sources, 4_000, 4096, SECOND);
        assert!(sources[0].served > 240_000, "{} of 250,000", sources[0].served);
        // And so are two.
        let mut sources = [Source::new(1000, true), Source::new(1000, true)];
        run(&mut sources, 4_000, 4096, SECOND);
        assert!(sources.iter().all(|source| source.served > 120_000));
    }

    #[test]
    fn who_begins_few_flows_is_not_held_up_by_who_begins_many() {
        // 5,000 flows a second beside a flood, and a victim that wants half the core.
        let mut sources = [Source::new(1000, true), Source::new(200_000, true), Source::new(2 * HIT, false)];
        run(&mut sources, 4_000, 1024, SECOND);
        assert!(sources[1].rate(SECOND) > 0.99 && sources[2].rate(SECOND) > 0.8);
    }

    #[test]
    fn a_quiet_port_may_begin_a_batch_at_once_and_no_more_than_it_has_earned() {
        let (slot, mut credits) = (PortSlot::new(1), Credits::new(8));
        let walks = |credits: &mut Credits| {
            let mut walks = 0;
            while credits.is_left(slot) {
                credits.charge(slot, UNKNOWN);
                walks += 1;
            }
            walks
        };
        let mut now = SECOND;
        credits.begin(now);
        credits.received(BATCH, BATCH);
        assert_eq!(walks(&mut credits), MISSES_PER_BATCH);
        // A fifth, and then all of the time.
        for (round, part) in [(10 * WALKS_WHILE_PRESSED, 10), (7, 7)] {
            now += UNKNOWN * round;
            credits.begin(now);
            assert_eq!(walks(&mut credits), part);
        }
        // In the end it does not matter any more.
        now += PRESSED_NANOSECONDS;
        credits.begin(now);
        assert!((0..1000).all(|_| {
            credits.charge(slot, UNKNOWN);
            credits.is_left(slot)
        }));
    }
}
