//! The virtual switch. The way of a packet is told in [`worker`]: read it first; the switch as a whole in
//! [`switch`].

pub mod agent;
pub mod api;
pub mod capture;
pub mod clock;
pub mod config;
pub mod connection;
pub mod drop;
pub mod egress;
pub mod flow;
pub mod handover;
pub mod limits;
pub mod line;
pub mod meter;
pub mod metrics;
pub mod neighbours;
pub mod outcome;
pub mod packet;
pub mod port;
pub mod respond;
pub mod switch;
pub mod topology;
pub mod underlay;
pub mod worker;
