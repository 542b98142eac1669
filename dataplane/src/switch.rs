//! The switch as a whole: tables, packet memory, workers and ports under one roof, spoken to in the
//! messages of `switch.proto`. Its API (`api`) and its agent towards the controller (`agent`) are two
//! ways to reach the same methods.
//!
//! In reading order:
//! - `bundle`: a bundle is checked, whole, against what is there; the result is a plan.
//! - `apply`: the plan is carried out: ports opened, tables and topology changed in one commit, ports
//!   closed. What fails is undone.
//! - `mend`: ports that could not be opened, or whose interface was taken away, are opened again.
//! - `ports`, `open`, `queues`: the register of ports, how each kind is opened, and how queues are
//!   shared out among workers.
//! - `links`: ports that go up and down.
//! - `underlay`: addresses and ways to remote tunnel ends, as the kernel knows them.
//! - `expiry`: rules that end by themselves, and who is told of removed ones.
//! - `meters`: meters, and how the workers share their rates.
//! - `query`, `connections`, `drops`: dumps, traces, statistics; `punts`: packet-ins to listeners; `packets`:
//!   packet-outs; `capture`: copies of frames to who looks on.
//!
//! Invariants:
//! - One change at a time: `State`'s lock is held for the length of a bundle. Workers never take it.
//! - Everything that waits for workers or for the kernel blocks: async callers use `spawn_blocking`.
//! - Nothing here depends on the controller: without it everything stays as it is.

mod apply;
mod bundle;
mod capture;
mod connections;
mod destinations;
mod drops;
mod expiry;
mod links;
mod mend;
mod meters;
mod open;
mod origins;
mod packets;
mod ports;
mod punts;
mod query;
mod queues;
#[cfg(test)]
mod tests;
mod underlay;

pub use bundle::{Parts, Whole};
pub use expiry::Removals;
pub use links::follow_links;
pub use open::{Device, KernelPorts, LinkState, OpenPort, Opened, TunnelEnd, TunnelFilter, Watch};
pub use punts::PuntHub;
pub use underlay::{Resolve, UnderlayState, follow_underlay};

use crate::config::Place;
use crate::flow::rule::Owner;
use crate::flow::tables::Tables;
use crate::handover::Links;
use crate::packet::memory::Memory;
use crate::worker::{WorkerHandle, WorkerSettings};
use expiry::Expiry;
use meters::Meters;
use origins::Origins;
use ports::Ports;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use std::time::Instant;
use tokio::sync::watch;

/// What a switch is made of.
pub struct SwitchSettings {
    /// The host's name for the controller; empty without one.
    pub host: String,
    /// A controller numbers ports here too: those made by hand keep to a range of their own.
    pub managed: bool,
    /// Packet memory.
    pub memory: &'static Memory,
    /// One for each worker, at least one.
    pub workers: Vec<WorkerSettings>,
    /// How ports are opened.
    pub opener: Box<dyn OpenPort>,
    /// Interfaces of physical networks, by the networks' names: what the controller makes ports of.
    pub physical: BTreeMap<String, Place>,
}

/// See the module comment.
pub struct Switch {
    host: String,
    managed: bool,
    boot_id: u64,
    started: Instant,
    tables: Arc<Tables>,
    memory: &'static Memory,
    /// Empty once the switch is stopped.
    workers: RwLock<Vec<WorkerHandle>>,
    punts: Arc<PuntHub>,
    removals: Removals,
    captures: capture::Taken,
    opener: Box<dyn OpenPort>,
    physical: BTreeMap<String, Place>,
    state: Mutex<State>,
    resolver: OnceLock<Box<dyn Resolve>>,
    /// What `GetStatus` says of the controller.
    controller: Mutex<String>,
    /// Counts changes of ports or of the underlay, for who reports them.
    changes: watch::Sender<u64>,
}

/// What bundles change, besides the tables.
#[derive(Default)]
struct State {
    ports: Ports,
    origins: Origins,
    expiry: Expiry,
    meters: Meters,
    /// Who made an address set. Sets have no owner on the wire: a set belongs to the side that first
    /// set it, and only that side changes it; rules of both may use it.
    set_owners: BTreeMap<Arc<str>, Owner>,
    /// Of the controller's last bundle.
    term: u64,
    generation: u64,
    underlay: UnderlayState,
}

impl Switch {
    /// Starts the workers of a switch that has no ports and no rules.
    ///
    /// # Errors
    /// If a worker's thread cannot be started.
    pub fn start(settings: SwitchSettings) -> std::io::Result<Arc<Self>> {
        let tables = Tables::new();
        let punts = Arc::new(PuntHub::default());
        let mut workers = Vec::with_capacity(settings.workers.len());
        for (links, worker) in Links::of(settings.workers.len())?.into_iter().zip(settings.workers) {
            workers.push(WorkerHandle::start(links, tables.clone(), settings.memory, punts.clone(), worker)?);
        }
        // A hasher with fresh random keys: enough to tell two starts apart.
        let boot_id = std::hash::RandomState::new().build_hasher().finish().max(1);
        Ok(Arc::new(Self {
            host: settings.host,
            managed: settings.managed,
            boot_id,
            started: Instant::now(),
            tables,
            memory: settings.memory,
            workers: RwLock::new(workers),
            punts,
            removals: Removals::default(),
            captures: capture::Taken::default(),
            opener: settings.opener,
            physical: settings.physical,
            state: Mutex::default(),
            resolver: OnceLock::new(),
            controller: Mutex::new("none configured".to_owned()),
            changes: watch::Sender::new(0),
        }))
    }

    /// Closes every port and ends the workers. Blocks. Rules and counters can still be read.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn stop(&self) {
        let mut state = self.state();
        let topology = crate::topology::Topology::default();
        self.tables.set_topology(topology);
        let mut workers = self.workers.write().expect("no panic under this lock");
        for port in state.ports.iter() {
            if let Some(device) = &port.device {
                device.release();
            }
            workers.iter().for_each(|worker| worker.remove_queues(port.slot));
        }
        state.ports = Ports::default();
        for worker in workers.drain(..) {
            worker.stop();
        }
    }

    /// The host's name; empty without a controller.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Chosen at start.
    #[must_use]
    pub fn boot_id(&self) -> u64 {
        self.boot_id
    }

    /// Term and generation of the controller's last bundle.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        let state = self.state();
        (state.term, state.generation)
    }

    /// Says in `GetStatus` how it stands with the controller.
    ///
    /// # Panics
    /// If a thread panicked under the lock.
    pub fn set_controller_status(&self, status: String) {
        *self.controller.lock().expect("no panic under this lock") = status;
    }

    /// Becomes readable whenever ports or the underlay changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Where listeners for punts enrol.
    #[must_use]
    pub fn punts(&self) -> &Arc<PuntHub> {
        &self.punts
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a change panicked: what is installed may be half of it")
    }
}
