//! Time, passed in: microseconds since the process first asked. Read once per round of a worker, never
//! per packet.

use std::sync::OnceLock;
use std::time::Instant;

/// Microseconds since the first call.
#[must_use]
pub fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}
