//! How the ports of a specification are opened. The switch knows only the trait, so that tests can give
//! it ports of their own.

use crate::packet::memory::Memory;
use crate::port::{PortQueue, PortSlot};
use std::net::Ipv4Addr;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, port_spec::Kind};

/// Tells an interface of the host which packets are the switch's: those of tunnels that end at these
/// addresses and UDP ports.
pub trait TunnelFilter: Send + Sync {
    /// From now on, exactly these.
    ///
    /// # Errors
    /// What the kernel says.
    fn set(&self, ends: &[(Ipv4Addr, u16)]) -> std::io::Result<()>;
}

/// What the switch keeps of a port whose queues the workers have. Dropping it, after they have closed
/// the queues, leaves nothing behind.
#[derive(Default)]
pub struct Device {
    /// The kernel's interface, if there is one.
    pub interface: String,
    /// How it works: "native, 2 queues, copy".
    pub detail: String,
    /// Of an interface of the host.
    pub filter: Option<Box<dyn TunnelFilter>>,
}

/// A port just opened.
pub struct Opened {
    /// See [`Device`].
    pub device: Device,
    /// Queue q goes to worker q modulo the number of workers.
    pub queues: Vec<Box<dyn PortQueue>>,
}

/// Opens ports that have queues. Blocks. The fault's field is relative to the specification.
pub trait OpenPort: Send + Sync {
    /// Opens the port of a valid specification; `workers`: how many queues are useful.
    ///
    /// # Errors
    /// Why it cannot be opened; nothing is left behind then.
    fn open(
        &self,
        slot: PortSlot,
        spec: &v1::PortSpec,
        memory: &'static Memory,
        workers: usize,
    ) -> Result<Opened, Fault>;
}

/// The name of a TAP's interface.
pub(super) fn tap_interface(number: u32, tap: &v1::TapPort) -> String {
    if tap.interface.is_empty() { format!("weft{number}") } else { tap.interface.clone() }
}

/// Whether two ports need the same thing of the host, so that one must be closed before the other can be
/// opened.
pub(super) fn contend(one: &v1::PortSpec, other: &v1::PortSpec) -> bool {
    match (&one.kind, &other.kind) {
        (Some(Kind::Tap(first)), Some(Kind::Tap(second))) => {
            first.netns == second.netns && tap_interface(one.number, first) == tap_interface(other.number, second)
        }
        (Some(Kind::AfXdp(first)), Some(Kind::AfXdp(second))) => first.interface == second.interface,
        (Some(Kind::Pcap(first)), Some(Kind::Pcap(second))) => {
            !first.transmit_file.is_empty() && first.transmit_file == second.transmit_file
        }
        _ => false,
    }
}
