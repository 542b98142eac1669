//! (interface; the founder writes the body)

use crate::drop::DropReason;
use crate::flow::tables::Tables;
use crate::packet::memory::Memory;
use crate::port::{PortQueue, PortSlot, QueueCounters};
use std::sync::Arc;
use weft_proto::v1;

/// How a worker behaves.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Pin the thread to this core.
    pub core: Option<usize>,
    /// Never sleep.
    pub spin: bool,
}

/// Control of one worker, for the switch. Calls block until the worker has answered (microseconds).
pub struct WorkerHandle {}

/// What a worker has done so far.
#[derive(Clone, Debug, Default)]
pub struct WorkerReport {
    /// Frames received.
    pub packets: u64,
    /// Cache statistics.
    pub cache_hits: u64,
    /// Walks.
    pub cache_misses: u64,
    /// Entries now.
    pub cache_entries: u64,
    /// Masks now.
    pub cache_masks: u64,
    /// Time on the CPU.
    pub busy_microseconds: u64,
    /// Drops by ingress port and reason, not zero.
    pub drops: Vec<(PortSlot, DropReason, u64)>,
    /// Of device ports their queues' counters, of tunnel ports what was decapsulated and encapsulated.
    pub ports: Vec<(PortSlot, QueueCounters)>,
    /// Buffers this worker has free in its own cache: chunks, runs.
    pub cached_buffers: (usize, usize),
}

/// Where punted packets go: the switch gives one to each worker. Never blocks.
pub trait PuntSink: Send + Sync {
    /// Takes a packet-in; an error says why not: `NoListener` or `PuntOverrun`.
    ///
    /// # Errors
    /// The reason under which the packet is then counted.
    fn punt(&self, packet: v1::PacketIn) -> Result<(), DropReason>;
}

impl WorkerHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the thread or its wake-up descriptor cannot be made.
    pub fn start(
        number: u32,
        tables: Arc<Tables>,
        memory: &'static Memory,
        punts: Arc<dyn PuntSink>,
        settings: WorkerSettings,
    ) -> std::io::Result<Self> {
        let _ = (number, tables, memory, punts, settings);
        unimplemented!()
    }

    /// Gives the worker a queue of a port. Set the topology with the port's slot before or after.
    pub fn add_queue(&self, slot: PortSlot, queue: Box<dyn PortQueue>) {
        let _ = (slot, queue);
        unimplemented!()
    }

    /// Takes the port's queues away and closes them; when it returns, the slot may be reused. Set the
    /// topology without the port first.
    pub fn remove_queues(&self, slot: PortSlot) {
        let _ = slot;
        unimplemented!()
    }

    /// Counters now; rules' counters are brought up to date too.
    #[must_use]
    pub fn report(&self) -> WorkerReport {
        unimplemented!()
    }

    /// The busiest cache entries.
    #[must_use]
    pub fn cache(&self, limit: usize) -> Vec<v1::CacheEntry> {
        let _ = limit;
        unimplemented!()
    }

    /// Stops the thread: queues are closed, buffers returned.
    pub fn stop(self) {
        unimplemented!()
    }
}
