//! What one host has asked for in reactive networks: the ports elsewhere that it is told of, until they are not used
//! any more.
//!
//! Invariants: bounded ([`limits::SUBSCRIPTIONS_PER_HOST`]; the one that was used longest ago makes room); a port that
//! is unplugged, or comes to the host itself, is forgotten at the next [`Subscriptions::of_use`]. Kept in memory alone:
//! a controller that starts anew takes them from the switch's rules, see `demand.rs`.

use crate::limits;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// The ports that a host subscribes to.
#[derive(Debug, Default)]
pub struct Subscriptions(BTreeMap<Uuid, Use>);

#[derive(Debug)]
struct Use {
    /// Packets that the switch had delivered when it was last looked at.
    packets: u64,
    /// When that was last more than before; at first, when the port was asked for.
    used: Instant,
}

impl Subscriptions {
    /// Subscribes to a port; to one that is subscribed to already it is a use.
    pub fn add(&mut self, port: Uuid, now: Instant) {
        if let Some(known) = self.0.get_mut(&port) {
            known.used = now;
            return;
        }
        if self.0.len() >= limits::SUBSCRIPTIONS_PER_HOST
            && let Some(oldest) = self.0.iter().min_by_key(|(_, one)| one.used).map(|(&port, _)| port)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(port, Use { packets: 0, used: now });
    }

    /// The ports, without those that are of no use any more.
    pub fn of_use(&mut self, is_of_use: impl Fn(Uuid) -> bool) -> BTreeSet<Uuid> {
        self.0.retain(|&port, _| is_of_use(port));
        self.0.keys().copied().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Takes what the switch has delivered to each port, and ends the subscriptions that nothing used for
    /// [`limits::SUBSCRIPTION_IDLE_SECONDS`]; says whether there are any such.
    pub fn observe(&mut self, delivered: &HashMap<Uuid, u64>, now: Instant) -> bool {
        for (port, one) in &mut self.0 {
            // A rule that was installed anew counts from 0.
            if let Some(&packets) = delivered.get(port)
                && packets != one.packets
            {
                *one = Use { packets, used: now };
            }
        }
        let before = self.0.len();
        let idle = Duration::from_secs(limits::SUBSCRIPTION_IDLE_SECONDS);
        self.0.retain(|_, one| now.duration_since(one.used) < idle);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_nothing_uses_ends() {
        let start = Instant::now();
        let (busy, idle) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut all = Subscriptions::default();
        all.add(busy, start);
        all.add(idle, start);
        let half = SECOND * u32::try_from(limits::SUBSCRIPTION_IDLE_SECONDS / 2).unwrap();
        assert!(!all.observe(&[(busy, 5), (idle, 0)].into(), start + half));
        assert!(all.observe(&[(busy, 5), (idle, 0)].into(), start + half * 2));
        assert_eq!(all.of_use(|_| true), [busy].into());
        assert!(!all.observe(&[(busy, 6)].into(), start + half * 2));
        assert!(!all.observe(&HashMap::new(), start + half * 3), "of what the switch does not tell, nothing follows");
        assert!(all.observe(&[(busy, 6)].into(), start + half * 4));
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn the_one_used_longest_ago_makes_room() {
        let start = Instant::now();
        let port = |number: usize| Uuid::from_u128(number as u128);
        let mut all = Subscriptions::default();
        (0..limits::SUBSCRIPTIONS_PER_HOST).for_each(|number| all.add(port(number), start + SECOND));
        all.add(port(7), start);
        all.add(port(limits::SUBSCRIPTIONS_PER_HOST), start + SECOND);
        let kept = all.of_use(|_| true);
        assert!(kept.len() == limits::SUBSCRIPTIONS_PER_HOST && !kept.contains(&port(7)));
    }

    #[test]
    fn what_is_of_no_use_is_forgotten() {
        let mut all = Subscriptions::default();
        all.add(Uuid::from_u128(1), Instant::now());
        assert!(all.of_use(|_| false).is_empty() && all.count() == 0);
    }
}
