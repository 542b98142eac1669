//! Which ports go together.

use super::tunnel::kernel;
use super::*;

/// Beside a controller.
fn managed() -> Bench {
    started(true)
}

#[test]
fn hand_made_ports_keep_out_of_the_controllers_numbers() {
    let bench = managed();
    let add = |number| bench.manual(v1::Bundle { add_ports: vec![port(number)], ..Default::default() });
    for number in [1, 2, 0x007f_ffff, 0x00ff_0001, 0xffff_ff00] {
        let fault = add(number).unwrap_err();
        assert_eq!((fault.code.as_str(), fault.field.as_str()), ("port_taken", "add_ports[0].number"));
        assert!(fault.remedy.contains("8388608"), "{fault}");
    }
    add(0x0080_0000).unwrap();
    add(0x00ff_0000).unwrap();
    let done = bench.fabric(v1::Bundle { term: 1, generation: 1, add_ports: vec![port(1)], ..Default::default() });
    assert_eq!(done.unwrap().ports[0].state, "up");
}

#[test]
fn what_people_made_is_no_reason_to_refuse_the_fabric() {
    let bench = managed();
    let tunnel = vxlan(0x0080_0001, 0x00ff_0000);
    let add_ports = vec![named(0x0080_0000, "web.1"), port(0x00ff_0000), tunnel];
    bench.manual(v1::Bundle { add_ports, ..Default::default() }).unwrap();
    bench.switch.set_underlay(kernel(1, 2, true));
    let add_ports = vec![named(1, "web.1"), vxlan(0x00ff_0001, 0x00ff_0000)];
    bench.fabric(v1::Bundle { term: 1, generation: 1, add_ports, ..Default::default() }).unwrap();
    let state = |number| {
        let ports = bench.switch.ports().ports;
        let port = ports.into_iter().find(|port| port.spec.as_ref().unwrap().number == number).unwrap();
        (port.state, port.detail)
    };
    assert_eq!(state(0x00ff_0001).0, "up");
    assert_eq!(state(0x0080_0001), ("down".into(), "192.168.0.1, UDP port 4789 is that of vxlan: use another".into()));
    // What is there twice already does not refuse what has nothing to do with it.
    bench.manual(v1::Bundle { add_ports: vec![port(0x0080_0003)], ..Default::default() }).unwrap();
}

#[test]
fn two_tunnels_do_not_share_an_address_and_a_udp_port() {
    let bench = bench();
    let tunnel = |number: u32, local: &[u8], udp_port| v1::PortSpec {
        name: format!("vxlan{number}"),
        kind: Some(Kind::Vxlan(v1::TunnelPort { local_address: local.to_vec(), udp_port, underlay_port: UNDERLAY })),
        ..vxlan(number, UNDERLAY)
    };
    let add =
        |spec| bench.manual(v1::Bundle { add_ports: vec![spec], ..Default::default() }).map_err(|fault| fault.code);
    let taken = Err("tunnel_taken".to_owned());
    add(port(UNDERLAY)).unwrap();
    add(tunnel(20, &[], 0)).unwrap();
    assert_eq!(add(tunnel(21, &[], 4789)), taken, "the underlay has no address yet, but it is the same");
    bench.switch.set_underlay(kernel(1, 2, true));
    assert_eq!(add(tunnel(21, &[], 0)), taken);
    assert_eq!(add(tunnel(21, &[192, 168, 0, 1], 4789)), taken);
    add(tunnel(21, &[192, 168, 0, 9], 0)).unwrap();
    add(tunnel(22, &[], 8472)).unwrap();
    add(v1::PortSpec { name: "renamed".to_owned(), ..tunnel(22, &[], 8472) }).unwrap();
    assert_eq!(add(tunnel(21, &[], 8472)), taken, "replacing one counts too");
}

#[test]
fn an_interface_that_does_not_exist_is_the_first_complaint() {
    let bench = bench();
    let interface = |number, interface: &str| v1::PortSpec {
        kind: Some(Kind::AfXdp(v1::AfXdpPort { interface: interface.to_owned(), ..Default::default() })),
        ..named(number, interface)
    };
    bench.switch.set_underlay(kernel(1, 2, true));
    let add_ports = vec![interface(20, "mem16711680"), interface(21, "nosuch"), vxlan(22, 0)];
    let fault = bench.manual(v1::Bundle { add_ports, ..Default::default() }).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("no_such_interface", "add_ports[1].af_xdp.interface"));
}
