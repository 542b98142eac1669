//! What the controller serves: the services Cloud, Switch (relayed) and Bus, health and reflection; on a Unix
//! socket and on the host's loopback.
//!
//! - [`door`]: who calls, and whether they may.
//! - [`cloud`], [`switch`]: the handlers.
//! - [`server`]: the sockets.

pub mod cloud;
pub mod door;
pub mod server;
pub mod switch;
