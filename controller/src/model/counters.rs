//! Where to look for the next number.

use super::{Model, Object};
use uuid::Uuid;

/// Where to look for the next number; there is one of it. Numbers are not reused before all have had their
/// turn: a host that was away for long must not take one network's packets for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Of ports.
    pub next_port: u32,
    /// Of segments.
    pub next_segment: u32,
    /// Of routers.
    pub next_router: u32,
    /// Of VLANs, of whatever physical network.
    pub next_vlan: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self { next_port: 1, next_segment: 1000, next_router: 1, next_vlan: 2 }
    }
}

/// The counters' record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CountersRecord {
    /// See [`Counters`].
    #[prost(uint32, tag = "1")]
    pub next_port: u32,
    /// See [`Counters`].
    #[prost(uint32, tag = "2")]
    pub next_segment: u32,
    /// See [`Counters`]; 0 in records from before there were routers.
    #[prost(uint32, tag = "3")]
    pub next_router: u32,
    /// See [`Counters`]; 0 in records from before there were VLANs.
    #[prost(uint32, tag = "4")]
    pub next_vlan: u32,
}

impl Object for Counters {
    const WORD: &'static str = "counters";
    const MOST: usize = 1;
    const OWNED: bool = false;
    type Record = CountersRecord;
    type Index = ();

    fn id(&self) -> Uuid {
        Uuid::nil()
    }

    fn record(&self) -> CountersRecord {
        CountersRecord {
            next_port: self.next_port,
            next_segment: self.next_segment,
            next_router: self.next_router,
            next_vlan: self.next_vlan,
        }
    }

    fn from_record(record: CountersRecord) -> Result<Self, String> {
        Ok(Self {
            next_port: record.next_port,
            next_segment: record.next_segment,
            next_router: record.next_router,
            next_vlan: record.next_vlan,
        })
    }
}

impl Model {
    /// Where to look for the next number.
    #[must_use]
    pub fn next(&self) -> Counters {
        self.counters.get(Uuid::nil()).copied().unwrap_or_default()
    }
}
