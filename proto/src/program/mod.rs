//! What the servers, `weft-switch` and `weft-controller`, do alike, so that they have one voice: reading
//! settings ([`settings`]), logging ([`log`]), telling requests apart ([`request`]), counters for
//! Prometheus ([`metrics`]). Behind the feature
//! `program`: whoever only speaks the protocol does not need it.

pub mod log;
pub mod metrics;
pub mod request;
pub mod settings;
