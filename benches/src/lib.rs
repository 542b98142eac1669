//! What a packet costs the switch, measured in one process: a real worker, its ports replayed from memory and
//! discarded.
//!
//! - [`frames`]: the packets.
//! - [`case`](mod@case): which rules, which packets.
//! - [`changes`]: what changes of rules cost packets.
//! - [`replay`]: the ports.
//! - [`rig`]: the worker between them, and its time on the CPU.
//! - [`parts`]: the parts of a packet's way, one by one.
//!
//! The rig is for iterating on the code. What is compared with other switches is measured by `weft bench`, between
//! processes, through each switch's own API.

pub mod case;
pub mod changes;
pub mod frames;
pub mod parts;
pub mod replay;
pub mod rig;
