//! The virtual switch. The way of a packet is told in [`worker`]: read it first.

pub mod clock;
pub mod connection;
pub mod drop;
pub mod egress;
pub mod flow;
pub mod limits;
pub mod packet;
pub mod port;
pub mod respond;
pub mod topology;
pub mod worker;
