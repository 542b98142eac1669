//! The bus: one two-way stream from each host's switch, over which its tables are brought to what the
//! compiler says they should be, and kept there.
//!
//! - [`attach`]: a switch says Hello and is let in, or told why not.
//! - [`link`]: what is known of a host between streams: what its switch holds, what it was refused.
//! - [`session`]: one stream's task. It decides when to compare, when to send, and sends.
//! - `demand`: what a session does for reactive networks; [`subscriptions`]: what a host has asked for there.
//! - [`relay`]: calls of the switches' own API, passed on.
//!
//! Invariants: at most one session for each host, and at most one bundle of it unacknowledged; a bundle leads
//! from a state that the switch has acknowledged (or has shown by its digests to hold) to one that was
//! compiled from one version of the model; nothing is sent that would change nothing. Level-triggered: a
//! host is marked dirty, and its session compiles what is then true, so changes in quick succession travel
//! together and a lost mark costs a delay, never correctness.

pub mod attach;
mod demand;
pub mod link;
pub mod relay;
pub mod session;
pub mod subscriptions;

pub use attach::BusService;
pub use link::Link;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use uuid::Uuid;

/// The links to all hosts.
pub struct Links {
    links: Mutex<HashMap<Uuid, Arc<Link>>>,
    /// Counts changes of any host's status; those who wait for one watch it.
    status: watch::Sender<u64>,
}

impl Default for Links {
    fn default() -> Self {
        Self { links: Mutex::default(), status: watch::channel(0).0 }
    }
}

impl Links {
    /// The link to a host; made when it is first asked for.
    pub fn of(&self, host: Uuid) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Link::new(host, self.status.clone()));
        Arc::clone(links.entry(host).or_insert_with(make))
    }

    /// Forgets a host that is no more, and ends its session.
    pub fn remove(&self, host: Uuid) {
        let removed = self.links.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
        if let Some(link) = removed {
            link.dismiss();
        }
    }

    /// Follows changes of any host's status.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.status.subscribe()
    }
}
