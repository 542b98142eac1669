//! Looking after ports: a port that could not be opened is tried again, and one whose interface was taken away
//! (deleted, or its network namespace removed) is noticed and shown as failed.
//!
//! Ports of the fabric are desired state, so a lost one is made anew. What a person made and somebody deleted stays
//! failed, until a person removes the port or makes it again. An interface of the host that comes back is used again,
//! whoever made its port: it was not the switch's to make.
//!
//! For a timer: both calls block, and take the time of a `stat` for each TAP when all is well.

use super::Switch;
use super::open::Device;
use super::ports::Port;
use crate::flow::rule::Owner;
use crate::port::PortSlot;
use std::sync::Arc;
use weft_proto::fault::Fault;
use weft_proto::v1::port_spec::Kind;

/// The code of the fault of a lost port, unless its interface is the host's.
const LOST: &str = "port_lost";

impl Switch {
    /// Tries again to open the ports that are failed, except lost ones that a person made. Blocks.
    pub fn retry_failed(&self) {
        let mut state = self.state();
        let again = |port: &&Port| {
            let failure = port.device.as_ref().and_then(|device| device.failure.as_ref());
            failure.is_some_and(|failure| port.owner == Owner::Fabric || failure.code != LOST)
        };
        let failed: Vec<(u32, PortSlot)> =
            state.ports.iter().filter(again).map(|port| (port.spec.number, port.slot)).collect();
        let mut opened = Vec::new();
        for (number, slot) in failed {
            let Some(port) = state.ports.remove(number) else { continue };
            let device = match self.open_port(slot, &port.spec) {
                Ok((device, queues)) => {
                    tracing::info!(port = port.spec.name, "the port could be opened after all");
                    opened.push((slot, queues));
                    Some(Arc::new(device))
                }
                Err(_) => port.device.clone(),
            };
            state.ports.insert(Port { device, ..port });
        }
        if opened.is_empty() {
            return;
        }
        state.ports.set_tunnel_filters(&state.underlay);
        self.tables.set_topology(state.ports.topology(&state.underlay));
        for (slot, queues) in opened {
            self.give(slot, queues);
        }
        drop(state);
        self.changed();
    }

    /// Finds ports whose interface was taken away, closes them and keeps them as failed: what rules send there is
    /// dropped (`port_down`), and whoever asks is told why. [`Switch::retry_failed`] makes those of the fabric anew.
    /// Blocks.
    pub fn notice_losses(&self) {
        let mut state = self.state();
        let loss = |port: &Port| Some((port.spec.number, port.device.as_ref()?.loss()?));
        let losses: Vec<(u32, Fault)> = state.ports.iter().filter_map(loss).collect();
        if losses.is_empty() {
            return;
        }
        let mut lost = Vec::new();
        for (number, loss) in losses {
            let Some(port) = state.ports.remove(number) else { continue };
            let mut fault = loss;
            // An interface of the host may come back, and is waited for; what we made ourselves does not.
            let ours = !matches!(port.spec.kind, Some(Kind::AfXdp(_)));
            if ours {
                fault.code = LOST.to_owned();
            }
            if ours && port.owner == Owner::Manual {
                fault.remedy =
                    format!("Remove the port (weft ports del HOST {number}), and add it again if it is still wanted.");
            }
            tracing::warn!(port = port.spec.name, %fault, "a port is lost");
            lost.push((port.slot, port.device.clone()));
            state.ports.insert(Port { device: Some(Arc::new(Device::failed(fault))), ..port });
        }
        self.tables.set_topology(state.ports.topology(&state.underlay));
        for (slot, device) in lost {
            self.close(slot, device.as_deref());
        }
        drop(state);
        self.changed();
    }
}
