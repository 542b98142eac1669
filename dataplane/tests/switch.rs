//! The program `weft-switch` itself, in network namespaces: ports, tunnels and order at the end.

mod namespace;
mod program;

use namespace::{Namespace, eventually};
use program::{PROGRAM, Program};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use weft_proto::v1::action::Action as Wire;
use weft_proto::v1::{self, Field, port_spec::Kind};

const UNDERLAY: u32 = 0x00ff_0000;
const TUNNEL: u32 = 0x00ff_0001;

fn exact(field: Field, value: &[u8]) -> v1::FieldMatch {
    v1::FieldMatch { field: field.into(), value: value.to_vec(), ..Default::default() }
}

fn action(wire: Wire) -> v1::Action {
    v1::Action { action: Some(wire) }
}

fn output(port: u32) -> v1::Action {
    action(Wire::Output(v1::Output { port }))
}

fn set(field: Field, value: &[u8]) -> v1::Action {
    action(Wire::SetField(v1::SetField { field: field.into(), value: value.to_vec(), mask: Vec::new() }))
}

fn rule(matches: Vec<v1::FieldMatch>, apply: Vec<v1::Action>) -> v1::Rule {
    v1::Rule {
        priority: 100,
        r#match: matches,
        instructions: Some(v1::Instructions { apply_actions: apply, ..Default::default() }),
        ..Default::default()
    }
}

fn tap(number: u32, interface: &str, netns: &Namespace, mtu: u32) -> v1::PortSpec {
    let tap = v1::TapPort { interface: interface.to_owned(), netns: netns.name.clone(), mac: Vec::new(), mtu };
    v1::PortSpec { number, name: interface.to_owned(), owner: 0, kind: Some(Kind::Tap(tap)) }
}

fn in_port(number: u32) -> v1::FieldMatch {
    exact(Field::InPort, &number.to_be_bytes())
}

#[test]
fn two_namespaces_talk_through_taps_and_nothing_is_left_behind() {
    let (host, one, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    let directory = tempfile::tempdir().unwrap();
    let switch = Program::start(&host, &directory.path().join("switch.sock"), &[]);
    let done = switch.apply(v1::Bundle {
        add_ports: vec![tap(1, "eth0", &one, 0), tap(2, "wan", &two, 0)],
        add_rules: vec![rule(vec![in_port(1)], vec![output(2)]), rule(vec![in_port(2)], vec![output(1)])],
        ..Default::default()
    });
    assert_eq!((done.ports[0].interface.as_str(), done.ports[0].state.as_str()), ("eth0", "up"));
    one.ip("addr add 10.1.0.1/24 dev eth0");
    two.ip("addr add 10.1.0.2/24 dev wan");
    one.command("ping -c 3 -i 0.1 -W 2 10.1.0.2");
    assert!(switch.port(1).received_packets >= 3);
    // The TAP of another specification takes the old one's place, under the same name.
    switch.apply(v1::Bundle { add_ports: vec![tap(1, "eth0", &one, 1400)], ..Default::default() });
    assert!(one.ip("link show eth0").contains("mtu 1400"));
    one.ip("addr add 10.1.0.1/24 dev eth0");
    one.command("ping -c 2 -i 0.1 -W 2 10.1.0.2");
    switch.apply(v1::Bundle { remove_ports: vec![1], ..Default::default() });
    assert!(!one.try_ip("link show eth0"));
    assert_eq!(switch.stop("TERM"), Some(0));
    assert!(!two.try_ip("link show wan"), "ports end with the switch");
}

/// One host: a namespace with an underlay interface, a switch, and an instance's namespace behind it.
struct Host {
    namespace: Namespace,
    instance: Namespace,
    switch: Option<Program>,
}

fn host(own: u8, remote: u8, namespace: Namespace, directory: &Path) -> Host {
    namespace.ip(&format!("addr add 172.16.9.{own}/24 dev under"));
    let socket = directory.join(format!("{own}.sock"));
    let switch = Program::start(&namespace, &socket, &["--underlay-interface=under"]);
    let instance = Namespace::new();
    let to_remote =
        vec![set(Field::TunDst, &[172, 16, 9, remote]), set(Field::TunId, &77_u64.to_be_bytes()), output(TUNNEL)];
    let from_tunnel = vec![in_port(TUNNEL), exact(Field::TunId, &77_u64.to_be_bytes())];
    let tunnel = Kind::Vxlan(v1::TunnelPort::default());
    let tunnel = v1::PortSpec { number: TUNNEL, name: "vxlan".to_owned(), owner: 0, kind: Some(tunnel) };
    switch.apply(v1::Bundle {
        add_ports: vec![tap(1, "eth0", &instance, 1450), tunnel],
        add_rules: vec![rule(vec![in_port(1)], to_remote), rule(from_tunnel, vec![output(1)])],
        ..Default::default()
    });
    instance.ip(&format!("addr add 10.1.0.{own}/24 dev eth0"));
    Host { namespace, instance, switch: Some(switch) }
}

#[test]
fn two_hosts_talk_through_vxlan_and_the_underlay_stays_the_hosts() {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.veth("under", &two, "under", 1);
    let directory = tempfile::tempdir().unwrap();
    let mut one = host(1, 2, one, directory.path());
    let mut two = host(2, 1, two, directory.path());
    let switch = one.switch.take().unwrap();

    let underlay = switch.port(UNDERLAY);
    assert_eq!((underlay.interface.as_str(), underlay.state.as_str()), ("under", "up"));
    assert_eq!(switch.port(TUNNEL).state, "up");
    // The first frames may be dropped until the kernel has resolved the neighbour.
    eventually("the neighbour is resolved", || {
        let neighbours = switch.ask(async |mut client| client.list_neighbours(v1::ListNeighboursRequest {}).await);
        neighbours.neighbours.first().is_some_and(|neighbour| neighbour.mac.len() == 6)
    });
    one.instance.command("ping -c 5 -i 0.2 -W 2 10.1.0.2");
    // As large as the tunnel carries.
    one.instance.command("ping -c 2 -i 0.2 -W 2 -M do -s 1422 10.1.0.2");
    assert!(switch.port(TUNNEL).sent_packets >= 7 && switch.port(TUNNEL).received_packets >= 7);
    // The host's own traffic over the same interface passes by the switch.
    one.namespace.command("ping -c 2 -i 0.1 -W 2 172.16.9.2");
    // TCP, with large segments and checksums left to the port.
    let server = two.instance.spawn(|| {
        let listener = std::net::TcpListener::bind("10.1.0.2:9000").unwrap();
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received.len()
    });
    std::thread::sleep(Duration::from_millis(200));
    one.instance.run(|| {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect("10.1.0.2:9000").unwrap();
        stream.write_all(&vec![7; 4 << 20]).unwrap();
    });
    assert_eq!(server.join().unwrap(), 4 << 20);

    assert_eq!(switch.stop("INT"), Some(0));
    assert!(!one.namespace.ip("link show under").contains("xdp"), "the XDP program is gone");
    one.namespace.command("ping -c 2 -i 0.1 -W 2 172.16.9.2");
    assert_eq!(two.switch.take().unwrap().stop("TERM"), Some(0));
}

#[test]
fn wrong_settings_end_with_2_and_a_start_that_fails_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("switch.toml");
    let run = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let config = format!("--config={}", file.display());
    std::fs::write(&file, "[worker]\ncount = 2\n").unwrap();
    let (code, text) = run(&["--check-config", &config]);
    assert_eq!(code, Some(2));
    assert!(text.contains("switch.toml, line 1: there is no setting worker. Did you mean workers?"), "{text}");
    std::fs::write(&file, "[workers]\ncount = 2\n").unwrap();
    assert_eq!(run(&["--check-config", &config]), (Some(0), String::new()));
    assert_eq!(run(&["--version"]).0, Some(0));
    let socket = format!("--socket={}", directory.path().join("switch.sock").display());
    let (code, text) = run(&[&socket, "--underlay-interface=nosuchthing"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no interface \"nosuchthing\""), "{text}");
    std::fs::write(directory.path().join("switch.sock"), "a file").unwrap();
    let (code, text) = run(&[&socket]);
    assert_eq!(code, Some(1));
    assert!(text.contains("is not a socket"), "{text}");
}
