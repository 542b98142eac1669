//! Packets: their memory, and what can be done to one without knowing any rule.
//!
//! - [`memory`], [`pool`], [`frame`]: buffers, who owns them, and frames as chains with a descriptor.
//! - [`checksum`]: Internet checksums, whole and incremental.
//! - [`header`]: views of protocol headers.
//! - [`parse`]: a frame to a `FlowKey`.
//! - [`fragment`]: datagrams to fragments.
//! - [`merge`]: wire-sized frames to large ones.
//! - [`segment`]: large frames to wire-sized ones; completing partial checksums.
//! - [`tunnel`]: VXLAN encapsulation and decapsulation.

pub mod arp;
pub mod checksum;
pub mod fragment;
pub mod frame;
pub mod header;
pub mod memory;
pub mod merge;
pub mod parse;
pub mod pool;
#[cfg(test)]
pub(crate) mod sample;
pub mod segment;
pub mod tunnel;
