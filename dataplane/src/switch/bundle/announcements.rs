//! The announcements of a bundle, checked against the ports as they would be.

use super::super::State;
use super::Plan;
use crate::flow::action::{host, mac, vlan};
use crate::flow::message::port_number;
use crate::limits::announcement::WAITING;
use crate::worker::Announcement;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, port_spec::Kind};

/// # Errors
/// The first thing that is wrong.
pub(super) fn check(
    announcements: &[v1::Announcement],
    state: &State,
    plan: &Plan,
) -> Result<Vec<Announcement>, Fault> {
    if announcements.len() > WAITING {
        return Err(Fault::invalid(
            "limit_exceeded",
            "announcements",
            format!("{} announcements are more than the {WAITING} of one bundle", announcements.len()),
            "Send the others in a bundle of their own, some seconds later.",
        )
        .with_status(Code::ResourceExhausted));
    }
    let one = |(index, message): (usize, &v1::Announcement)| {
        announcement(message, state, plan).map_err(|fault| fault.within(&format!("announcements[{index}]")))
    };
    announcements.iter().enumerate().map(one).collect()
}

fn announcement(message: &v1::Announcement, state: &State, plan: &Plan) -> Result<Announcement, Fault> {
    let port = port_number(message.port, "port")?;
    let new = plan.open.iter().map(|(_, spec)| spec).find(|spec| spec.number == port);
    let old = state.ports.get(port).map(|port| &port.spec).filter(|_| !plan.close.contains(&port));
    match new.or(old).map(|spec| &spec.kind) {
        None => {
            let problem = format!("there is no port {port}");
            let fault = Fault::invalid("no_such_port", "port", problem, "Add the port in the same bundle or before.");
            return Err(fault.with_status(Code::NotFound));
        }
        Some(Some(Kind::Tap(_) | Kind::AfXdp(_) | Kind::Pcap(_) | Kind::VhostUser(_))) => {}
        Some(_) => {
            return Err(Fault::invalid(
                "bad_port",
                "port",
                format!("port {port} is a tunnel, which leads to no link"),
                "Announce on the port of an interface.",
            ));
        }
    }
    let address = host(&message.address, "address", "Use the address of a host.")?.ok_or_else(|| {
        Fault::invalid("missing_field", "address", "no address is given", "Give the address that is announced.")
    })?;
    Ok(Announcement { port, vlan: vlan(message.vlan)?, address, mac: mac(&message.mac, "mac")? })
}
