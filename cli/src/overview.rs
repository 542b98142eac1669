//! `weft status` of the whole cloud: the controller, each host with its state, ports by state, and below them
//! every fault with its remedy.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table, count, duration, properties, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use weft_proto::v1::{
    ControllerStatus, GetControllerStatusRequest, Host, ListCloudPortsRequest, ListHostsRequest, Port,
};

/// Faults of ports that are written out; of the rest, the number.
const PORT_FAULTS: usize = 10;

/// Asks and prints.
pub async fn show(connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    let status = cloud.get_controller_status(GetControllerStatusRequest {}).await?.into_inner();
    let hosts = cloud.list_hosts(ListHostsRequest {}).await?.into_inner().hosts;
    let ports = cloud.list_ports(ListCloudPortsRequest::default()).await?.into_inner().ports;
    if output.json {
        return output.say("", &value(&status, &hosts, &ports));
    }
    write(&render(&connection.controller, &status, &hosts, &ports))
}

/// How many ports have which status.
fn by_status(ports: &[Port]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for port in ports {
        *counts.entry(port.status.as_str()).or_default() += 1;
    }
    counts
}

fn value(status: &ControllerStatus, hosts: &[Host], ports: &[Port]) -> Value {
    let mut value = json::of(status);
    let host = |host: &Host| {
        json!({
            "name": host.name,
            "connected": host.connected,
            "since_seconds": host.since_seconds,
            "generation": host.generation,
            "acknowledged_generation": host.acknowledged_generation,
            "fault": host.fault,
            "note": host.note,
        })
    };
    value["host_states"] = hosts.iter().map(host).collect();
    value["ports"] = json!(by_status(ports));
    let faulty = ports.iter().filter(|port| !port.fault.is_empty());
    value["port_faults"] =
        faulty.map(|port| json!({ "id": port.id, "name": port.name, "fault": port.fault })).collect();
    value
}

fn render(at: &str, status: &ControllerStatus, hosts: &[Host], ports: &[Port]) -> String {
    let counts = by_status(ports);
    let counts: Vec<String> = counts.iter().map(|(status, number)| format!("{number} {status}")).collect();
    let mut text = properties(&[
        ("controller", status.version.clone()),
        ("at", at.to_owned()),
        ("running for", duration(status.uptime_seconds)),
        ("term", status.term.to_string()),
        ("ports", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }),
    ]);
    text.push('\n');
    for host in hosts.iter().filter(|host| refuses(host)) {
        let (problem, remedy) = host.fault.trim_end().rsplit_once(". ").unwrap_or((&host.fault, ""));
        let generation = (host.acknowledged_generation, host.generation);
        text += &format!(
            "REFUSED: host {} does not take what it is sent, and goes on with generation {} of {}:\n    {}\n    {}\n\n",
            host.name,
            generation.0,
            generation.1,
            problem.trim_end_matches('.'),
            if remedy.is_empty() { "See the switch's log." } else { remedy },
        );
    }
    if hosts.is_empty() {
        return text + "No hosts. Create one: weft host create NAME\n";
    }
    let mut table = Table::new(&["host", "state", "since", "generation", "ports", "underlay", "switch"]);
    for host in hosts {
        table.row(vec![
            host.name.clone(),
            state(host).to_owned(),
            if host.since_seconds == 0 && !host.connected { String::new() } else { duration(host.since_seconds) },
            generation(host),
            ports.iter().filter(|port| port.host_id == host.id).count().to_string(),
            crate::cloud::host::underlay(host),
            host.switch_version.clone(),
        ]);
        if !refuses(host) {
            table.note(&format!("host {}", host.name), &host.fault);
        }
        table.note(&format!("host {}", host.name), &host.note);
        for port in &host.ports {
            // What was made by hand is not among the cloud's ports.
            let spec = port.spec.clone().unwrap_or_default();
            if spec.owner() == weft_proto::v1::Owner::Manual && port.state.starts_with("failed") {
                table.note(&format!("host {}, its port {}", host.name, spec.name), &port.state);
            }
        }
    }
    // Of ports whose host is away, the host's line says all.
    let faulty: Vec<&Port> = ports.iter().filter(|port| port.status == "ERROR").collect();
    for port in faulty.iter().take(PORT_FAULTS) {
        let name = if port.name.is_empty() { &port.id } else { &port.name };
        table.note(&format!("port {name}"), &port.fault);
    }
    if let Some(others @ 1..) = faulty.len().checked_sub(PORT_FAULTS) {
        table.note("not shown", &format!("{} of ports, see \"weft port list\"", count(others as u64, "fault")));
    }
    text + &table.render()
}

/// Whether it has refused its last bundle: nothing that is done in the cloud reaches it until that is mended.
fn refuses(host: &Host) -> bool {
    host.connected && !host.fault.is_empty()
}

/// Whether it is there.
fn state(host: &Host) -> &'static str {
    match (host.connected, host.underlay_addresses.is_empty()) {
        (true, _) if refuses(host) => "connected, REFUSES",
        (true, _) => "connected",
        (false, true) => "never connected",
        (false, false) => "disconnected",
    }
}

/// What it holds, and how far that is behind.
fn generation(host: &Host) -> String {
    match host.generation.checked_sub(host.acknowledged_generation) {
        None | Some(0) => host.acknowledged_generation.to_string(),
        Some(behind) => format!("{}, {behind} behind", host.acknowledged_generation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overview_names_hosts_ports_and_faults() {
        let address = |address: &str, down| weft_proto::v1::UnderlayAddress {
            address: address.into(),
            interface: "eth1".into(),
            mtu: 1500,
            down,
        };
        let host = |name: &str, connected, acknowledged| Host {
            id: name.into(),
            name: name.into(),
            connected,
            generation: 7,
            acknowledged_generation: acknowledged,
            since_seconds: 61,
            underlay_addresses: vec![address("192.0.2.1", false), address("198.51.100.1", true)],
            switch_version: "0.1.0".into(),
            ..Host::default()
        };
        let broken = Host { fault: "bundle: it is odd. Even it.".into(), ..host("b", false, 5) };
        let port = |name: &str, status: &str, fault: &str| Port {
            name: name.into(),
            status: status.into(),
            fault: fault.into(),
            host_id: "a".into(),
            ..Port::default()
        };
        let ports =
            [port("x", "ACTIVE", ""), port("y", "ACTIVE", ""), port("z", "ERROR", "failed: no namespace. Create it.")];
        let status = ControllerStatus { version: "0.1.0".into(), term: 3, ..ControllerStatus::default() };
        let expected = "\
controller   0.1.0
at           http://c
running for  0s
term         3
ports        2 ACTIVE, 1 ERROR

HOST  STATE         SINCE  GENERATION   PORTS  UNDERLAY                      SWITCH
a     connected     1m 1s  7                3  192.0.2.1, 198.51.100.1 down  0.1.0
b     disconnected  1m 1s  5, 2 behind      0  192.0.2.1, 198.51.100.1 down  0.1.0

host b: bundle: it is odd. Even it.
port z: failed: no namespace. Create it.
";
        assert_eq!(render("http://c", &status, &[host("a", true, 7), broken], &ports), expected);
        let refusing = Host { fault: "bad_port: add_ports[0]: it is odd. Even it.".into(), ..host("c", true, 5) };
        let text = render("", &status, &[refusing], &[]);
        let loud = "\nREFUSED: host c does not take what it is sent, and goes on with generation 5 of 7:\n    \
                    bad_port: add_ports[0]: it is odd\n    Even it.\n";
        assert!(text.contains(loud) && text.contains("connected, REFUSES"), "{text}");
        let many: Vec<Port> = (0..12).map(|number| port(&number.to_string(), "ERROR", "It broke.")).collect();
        let text = render("", &status, &[host("a", true, 7)], &many);
        assert!(text.ends_with("port 9: It broke.\nnot shown: 2 faults of ports, see \"weft port list\"\n"), "{text}");
        assert!(render("", &status, &[], &[]).contains("ports        none"), "a cloud without anything");
        assert_eq!(value(&status, &[], &ports)["ports"], json!({ "ACTIVE": 2, "ERROR": 1 }));
    }
}
