//! Meters: rates that rules hold packets to (OpenFlow 1.3.5, 5.7). What exceeds the rate drops under `Meter`.
//!
//! **Sharing among workers.** A meter is one rate for all packets of all its rules, wherever they come in; but
//! nothing on the fast path is written by two cores. So each worker has a token bucket of its own, with a *part* of
//! the rate and of the burst; the parts of all workers sum to one. From time to time the switch asks what came to
//! each ([`parts`]), and shares the rate out anew in that proportion. With one worker this is exact. With several the
//! meter never passes more than its rate and burst (and one packet for each worker); while traffic moves from one
//! worker to another it passes less, until it is shared out again.
//!
//! **Large packets.** A packet passes while the bucket is not empty, and may leave it in debt. So a 64 KB segment
//! passes a meter of any burst, and the rate is right in the long run.
//!
//! Time is passed in, once per batch.

use std::collections::HashMap;
use weft_proto::METER_MAX;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, MeterUnit};

/// The part of a meter's rate that is shared out evenly, whatever came to whom: who had nothing can begin.
const EVEN: f64 = 0.1;

/// A meter, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// 1 to [`METER_MAX`].
    pub number: u32,
    /// Whether packets are counted; otherwise kilobits.
    pub packets: bool,
    /// Of these, a second; not 0.
    pub rate: u32,
    /// Of these, at once; 0: as many as a second gives.
    pub burst: u32,
}

impl Meter {
    /// From its message.
    ///
    /// # Errors
    /// What is wrong with it; the field is relative to the meter.
    pub fn from_message(message: &v1::Meter) -> Result<Self, Fault> {
        let number = number(message.meter, "meter")?;
        let packets = match MeterUnit::try_from(message.unit) {
            Ok(MeterUnit::Kilobits) => false,
            Ok(MeterUnit::Packets) => true,
            _ => {
                let remedy = "Use METER_UNIT_KILOBITS or METER_UNIT_PACKETS.";
                return Err(Fault::invalid("bad_unit", "unit", "the meter does not say what it counts", remedy));
            }
        };
        if message.rate == 0 {
            let remedy = "Give the rate per second; to let nothing pass, drop in the rule.";
            return Err(Fault::invalid("bad_rate", "rate", "the rate is 0", remedy));
        }
        Ok(Self { number, packets, rate: message.rate, burst: message.burst })
    }

    /// Its message.
    #[must_use]
    pub fn to_message(self) -> v1::Meter {
        let unit = if self.packets { MeterUnit::Packets } else { MeterUnit::Kilobits };
        v1::Meter { meter: self.number, unit: unit.into(), rate: self.rate, burst: self.burst }
    }

    /// Tokens a microsecond; a token is a bit or a packet.
    fn tokens(self) -> f64 {
        f64::from(self.rate) / if self.packets { 1e6 } else { 1e3 }
    }

    /// Tokens that a full bucket holds.
    fn depth(self) -> f64 {
        let burst = if self.burst == 0 { self.rate } else { self.burst };
        f64::from(burst) * if self.packets { 1.0 } else { 1e3 }
    }
}

/// Refuses a number that no meter can have.
///
/// # Errors
/// For 0 and reserved numbers.
pub fn number(number: u32, place: &str) -> Result<u32, Fault> {
    if (1..=METER_MAX).contains(&number) {
        return Ok(number);
    }
    let problem = format!("{number} is not the number of a meter");
    Err(Fault::invalid("bad_meter", place, problem, format!("Use 1 to {METER_MAX}.")))
}

/// The parts of a meter that workers get to whom so much came.
#[must_use]
pub fn parts(came: &[u64]) -> Vec<f64> {
    let (sum, workers) = (came.iter().sum::<u64>() as f64, came.len() as f64);
    let part = |&own: &u64| if sum == 0.0 { 1.0 / workers } else { EVEN / workers + (1.0 - EVEN) * own as f64 / sum };
    came.iter().map(part).collect()
}

/// What came to a meter, and what of it was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterCounters {
    /// What came.
    pub packets: u64,
    /// Likewise.
    pub bytes: u64,
    /// What of it was dropped.
    pub dropped_packets: u64,
    /// Likewise.
    pub dropped_bytes: u64,
}

impl std::ops::AddAssign for MeterCounters {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.dropped_packets += other.dropped_packets;
        self.dropped_bytes += other.dropped_bytes;
    }
}

/// A worker's token bucket.
struct Bucket {
    meter: Meter,
    /// Tokens a microsecond.
    rate: f64,
    depth: f64,
    tokens: f64,
    /// When it was last filled, microseconds of [`crate::clock`].
    filled: u64,
    counters: MeterCounters,
}

/// A worker's meters.
#[derive(Default)]
pub struct Meters {
    buckets: HashMap<u32, Bucket, foldhash::fast::RandomState>,
    /// The time of the batch, microseconds of [`crate::clock`].
    pub now: u64,
}

impl Meters {
    /// Has these meters from now on, each with a part of its rate; those there were keep counts and tokens.
    pub fn set(&mut self, meters: &[(Meter, f64)]) {
        let now = self.now;
        self.buckets.retain(|number, _| meters.iter().any(|(meter, _)| meter.number == *number));
        for &(meter, part) in meters {
            let (rate, depth) = (meter.tokens() * part, meter.depth() * part);
            let bucket = self.buckets.entry(meter.number).or_insert_with(|| Bucket {
                meter,
                rate,
                depth,
                tokens: depth,
                filled: now,
                counters: MeterCounters::default(),
            });
            bucket.fill(now);
            if bucket.meter != meter {
                bucket.tokens = depth;
            }
            (bucket.meter, bucket.rate, bucket.depth) = (meter, rate, depth);
            bucket.tokens = bucket.tokens.min(depth);
        }
    }

    /// Whether a packet of so many bytes may pass; it is counted.
    pub fn admit(&mut self, number: u32, bytes: usize) -> bool {
        // No rule of this version names a meter that is not there.
        let Some(bucket) = self.buckets.get_mut(&number) else { return true };
        bucket.fill(self.now);
        bucket.counters.packets += 1;
        bucket.counters.bytes += bytes as u64;
        if bucket.tokens > 0.0 {
            bucket.tokens -= if bucket.meter.packets { 1.0 } else { (bytes * 8) as f64 };
            return true;
        }
        bucket.counters.dropped_packets += 1;
        bucket.counters.dropped_bytes += bytes as u64;
        false
    }

    /// What they have counted.
    #[must_use]
    pub fn counters(&self) -> Vec<(u32, MeterCounters)> {
        self.buckets.iter().map(|(&number, bucket)| (number, bucket.counters)).collect()
    }
}

impl Bucket {
    fn fill(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.filled);
        self.tokens = (self.tokens + elapsed as f64 * self.rate).min(self.depth);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// Offers packets of so many bytes, so many a second, for some seconds; gives how many pass.
    fn passed(meters: &mut Meters, number: u32, bytes: usize, a_second: u64, seconds: u64) -> u64 {
        let begun = meters.now;
        let mut passed = 0;
        for packet in 0..a_second * seconds {
            meters.now = begun + packet * SECOND / a_second;
            passed += u64::from(meters.admit(number, bytes));
        }
        meters.now = begun + seconds * SECOND;
        passed
    }

    fn meter(packets: bool, rate: u32, burst: u32) -> Meter {
        Meter { number: 7, packets, rate, burst }
    }

    #[test]
    fn packets_pass_at_the_rate_and_a_burst_at_once() {
        let mut meters = Meters::default();
        meters.set(&[(meter(true, 100, 20), 1.0)]);
        let burst = (0..50).filter(|_| meters.admit(7, 1500)).count();
        assert_eq!(burst, 20, "all at one moment");
        assert!((997..=1001).contains(&passed(&mut meters, 7, 64, 1000, 10)));
        let counters = meters.counters()[0].1;
        assert_eq!(counters.packets, 50 + 10_000);
        assert_eq!(counters.bytes, 50 * 1500 + 10_000 * 64);
        assert!((10_000 - 1001 + 30..=10_000 - 997 + 30).contains(&counters.dropped_packets));
    }

    #[test]
    fn bits_pass_at_the_rate_however_large_the_packets_are() {
        for bytes in [100, 1500, 65_000] {
            let mut meters = Meters::default();
            // 80 Mbit/s are 10 MB/s; the burst is less than one large packet.
            meters.set(&[(meter(false, 80_000, 100), 1.0)]);
            let offered = 40_000_000 / bytes as u64;
            let bytes_passed = passed(&mut meters, 7, bytes, offered, 5) * bytes as u64;
            assert!((49_900_000..50_100_000).contains(&bytes_passed), "{bytes}: {bytes_passed}");
        }
    }

    #[test]
    fn a_changed_rate_holds_from_now_on_and_counts_go_on() {
        let mut meters = Meters::default();
        meters.set(&[(meter(true, 10, 1), 1.0)]);
        assert!((99..=101).contains(&passed(&mut meters, 7, 64, 1000, 10)));
        meters.set(&[(meter(true, 500, 1), 1.0)]);
        assert!((4990..=5010).contains(&passed(&mut meters, 7, 64, 1000, 10)));
        assert_eq!(meters.counters()[0].1.packets, 20_000);
        meters.set(&[]);
        assert!(meters.admit(7, 64), "no rule names it any more");
        assert_eq!(meters.counters(), []);
    }

    #[test]
    fn parts_follow_what_came_and_sum_to_one() {
        for came in [&[0, 0, 0][..], &[1, 0, 0], &[300, 100, 0, 0], &[5]] {
            let parts = parts(came);
            assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{parts:?}");
            assert!(parts.iter().all(|part| *part > 0.0), "{parts:?}");
        }
        let parts = parts(&[300, 100]);
        assert!((parts[0] - 0.725).abs() < 1e-9, "{parts:?}");
    }

    /// Workers whose share is set anew four times a second: what passes in all, and what would be right.
    #[test]
    fn several_workers_together_keep_the_rate() {
        const TICK: u64 = SECOND / 4;
        let meter = meter(true, 1000, 100);
        // Packets that come to each of four workers a tick; the traffic moves to another worker after 10 seconds.
        let loads = [[2500, 0, 0, 0], [0, 0, 2500, 0], [600, 600, 600, 600], [10, 10, 10, 2400]];
        let mut workers: Vec<Meters> = (0..4).map(|_| Meters::default()).collect();
        let mut part = parts(&[0; 4]);
        let (mut now, mut in_all) = (0, 0);
        for load in loads {
            let mut passed = 0;
            for tick in 0..40 {
                for (index, worker) in workers.iter_mut().enumerate() {
                    worker.now = now;
                    worker.set(&[(meter, part[index])]);
                    for packet in 0..load[index] {
                        worker.now = now + packet * TICK / load[index];
                        passed += u64::from(worker.admit(7, 64));
                    }
                }
                part = parts(&load);
                now += TICK;
                if tick == 39 {
                    // 10,000 in 10 seconds: at most a tick is lost to the old shares, and a tenth to idle workers.
                    assert!((8_700..=10_150).contains(&passed), "{load:?}: {passed}");
                }
            }
            in_all += passed;
        }
        assert!(in_all <= 40_000 + 100 + 4, "never more than the rate and the burst: {in_all}");
    }

    #[test]
    fn what_is_no_meter_is_refused() {
        let right = meter(true, 5, 0).to_message();
        assert_eq!(Meter::from_message(&right).unwrap(), meter(true, 5, 0));
        for (wrong, code) in [
            (v1::Meter { meter: 0, ..right }, "bad_meter"),
            (v1::Meter { meter: METER_MAX + 1, ..right }, "bad_meter"),
            (v1::Meter { unit: 0, ..right }, "bad_unit"),
            (v1::Meter { unit: 9, ..right }, "bad_unit"),
            (v1::Meter { rate: 0, ..right }, "bad_rate"),
        ] {
            assert_eq!(Meter::from_message(&wrong).unwrap_err().code, code);
        }
    }
}
