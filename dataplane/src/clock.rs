//! Time, passed in: microseconds since the process first asked. Read once per round of a worker, and for packets
//! that walk the tables; never for others.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Microseconds since the first call.
#[must_use]
pub fn now() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Nanoseconds since then: what walks of the tables are charged by.
#[must_use]
pub fn nanoseconds() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
