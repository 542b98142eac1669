//! The virtual switch. The way of a packet is told in `worker.rs`: read it first.

pub mod drop;
pub mod flow;
pub mod limits;
pub mod packet;
pub mod port;
pub mod respond;
pub mod underlay;
