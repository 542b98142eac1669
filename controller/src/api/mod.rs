//! What the controller serves: the services Cloud, Switch (relayed) and Bus, health and reflection, on a Unix
//! socket and on the host's loopback; the services Bus and Membership by TLS, for hosts on other machines.
//!
//! - [`door`]: who calls, and whether they may.
//! - [`cloud`], [`membership`], [`switch`]: the handlers.
//! - [`server`]: the sockets. [`tls`]: connections of other machines.

pub mod cloud;
pub mod door;
pub mod membership;
pub mod server;
pub mod switch;
pub mod tls;
