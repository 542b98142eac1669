//! Two switches and a tunnel between them, with kernels that the test plays.

use super::*;
use crate::packet::tunnel::Encapsulation;
use crate::underlay::{Interface, NextHop};

/// A kernel that knows one interface and the way to one tunnel end.
pub(super) fn kernel(address: u8, remote: u8, known: bool) -> UnderlayState {
    let interface = Interface {
        index: 1,
        name: format!("mem{UNDERLAY}"),
        mac: [2, 0, 0, 0, 1, address],
        mtu: 1500,
        up: true,
        carrier: true,
        addresses: vec![Ipv4Addr::new(192, 168, 0, address)],
    };
    let remote_address = Ipv4Addr::new(192, 168, 0, remote);
    let hop = NextHop {
        remote: remote_address,
        next_hop: remote_address,
        interface: format!("mem{UNDERLAY}"),
        interface_index: 1,
        source: interface.addresses[0],
        source_mac: interface.mac,
        mac: known.then_some([2, 0, 0, 0, 1, remote]),
        state: if known { "reachable" } else { "incomplete" },
    };
    UnderlayState { interfaces: Arc::new(vec![interface]), next_hops: Arc::new(vec![hop]) }
}

#[derive(Clone, Default)]
struct Wanted(Arc<Mutex<BTreeSet<Ipv4Addr>>>);

impl Resolve for Wanted {
    fn want(&self, destinations: &BTreeSet<Ipv4Addr>) {
        self.0.lock().unwrap().clone_from(destinations);
    }
}

/// A switch with an instance at port 1 and a tunnel over the underlay to the other one.
fn host(address: u8, remote: u8, tunnel: v1::PortSpec) -> (Bench, Wanted) {
    let bench = bench();
    let wanted = Wanted::default();
    bench.switch.set_resolver(Box::new(wanted.clone()));
    let to_remote =
        vec![set(Field::TunDst, &[192, 168, 0, remote]), set(Field::TunId, &7_u64.to_be_bytes()), output(0x00ff_0001)];
    let from_tunnel = vec![from_port(0x00ff_0001), exact(Field::TunId, &7_u64.to_be_bytes())];
    bench
        .fabric(v1::Bundle {
            term: 1,
            generation: 1,
            add_ports: vec![port(1), port(UNDERLAY), tunnel],
            add_rules: vec![rule(10, vec![from_port(1)], to_remote), rule(9, from_tunnel, vec![output(1)])],
            ..Default::default()
        })
        .unwrap();
    assert_eq!(*wanted.0.lock().unwrap(), BTreeSet::from([Ipv4Addr::new(192, 168, 0, remote)]));
    assert_eq!(bench.switch.underlay_addresses(), []);
    bench.switch.set_underlay(kernel(address, remote, false));
    (bench, wanted)
}

#[test]
fn two_switches_talk_through_a_tunnel_once_the_kernel_knows_the_way() {
    let gre = v1::GrePort { underlay_port: UNDERLAY, ..Default::default() };
    let gre = v1::PortSpec { kind: Some(Kind::Gre(gre)), ..vxlan(0x00ff_0001, UNDERLAY) };
    talk(&vxlan(0x00ff_0001, UNDERLAY), Encapsulation::Vxlan(4789), 50, "192.168.0.1, UDP port 4789, over mem16711680");
    talk(&gre, Encapsulation::Gre, 42, "192.168.0.1, GRE, over mem16711680");
}

fn talk(spec: &v1::PortSpec, encapsulation: Encapsulation, overhead: usize, detail: &str) {
    let ((one, wanted), (two, _)) = (host(1, 2, spec.clone()), host(2, 1, spec.clone()));
    let own = v1::UnderlayAddress {
        address: "192.168.0.1".into(),
        interface: format!("mem{UNDERLAY}"),
        mtu: 1500,
        down: false,
    };
    assert_eq!(one.switch.underlay_addresses(), [own]);
    let own = BTreeSet::from([(Ipv4Addr::new(192, 168, 0, 1), encapsulation)]);
    assert_eq!(one.ports.filters.lock().unwrap()[&UNDERLAY], own);
    one.peer(1).send(frame(3)).unwrap();
    eventually("the neighbour is not known", || one.dropped(DropReason::NeighbourUnresolved) == [(1, 1)]);
    one.switch.set_underlay(kernel(1, 2, true));
    assert_eq!(one.switch.neighbours().neighbours[0].state, "reachable");
    one.peer(1).send(frame(3)).unwrap();
    let outer = one.peer(UNDERLAY).wait(PATIENCE).expect("it leaves in a tunnel");
    assert_eq!(outer.bytes.len(), frame(3).len() + overhead);
    two.peer(UNDERLAY).send(outer).unwrap();
    assert_eq!(two.peer(1).wait(PATIENCE).expect("it arrives").bytes, frame(3));
    let tunnel = |bench: &Bench| {
        let ports = bench.switch.ports().ports;
        ports.into_iter().find(|port| port.spec.as_ref().unwrap().name == "vxlan").unwrap()
    };
    assert_eq!((tunnel(&one).sent_packets, tunnel(&two).received_packets), (1, 1));
    assert_eq!((tunnel(&one).state.as_str(), tunnel(&one).detail.as_str()), ("up", detail));

    let mut down = kernel(1, 2, true);
    Arc::make_mut(&mut down.interfaces)[0].up = false;
    one.switch.set_underlay(down);
    assert_eq!(tunnel(&one).state, "down");
    one.peer(1).send(frame(3)).unwrap();
    eventually("the underlay is down", || one.dropped(DropReason::PortDown) == [(1, 1)]);
    one.fabric(v1::Bundle { term: 1, generation: 2, replace_owner: v1::Owner::Fabric.into(), ..Default::default() })
        .unwrap();
    assert!(wanted.0.lock().unwrap().is_empty(), "nobody sends there any more");
}

fn interface(number: u32, addresses: &[[u8; 4]]) -> v1::PortSpec {
    let port = v1::AfXdpPort {
        interface: format!("mem{UNDERLAY}"),
        addresses: addresses.iter().map(|address| address.to_vec()).collect(),
        ..Default::default()
    };
    v1::PortSpec { number, name: format!("port{number}"), owner: 0, kind: Some(Kind::AfXdp(port)) }
}

#[test]
fn an_external_network_may_be_on_the_underlays_interface() {
    const EXTERNAL: u32 = 0x00ff_0100;
    let bench = bench();
    bench.switch.set_underlay(kernel(1, 2, true));
    bench.switch.open_configured(v1::PortSpec { owner: v1::Owner::Manual.into(), ..interface(UNDERLAY, &[]) }).unwrap();
    let to_remote =
        vec![set(Field::TunDst, &[192, 168, 0, 2]), set(Field::TunId, &7_u64.to_be_bytes()), output(0x00ff_0001)];
    let bundle = v1::Bundle {
        term: 1,
        generation: 1,
        add_ports: vec![port(1), vxlan(0x00ff_0001, UNDERLAY), interface(EXTERNAL, &[[192, 0, 2, 9]])],
        add_rules: vec![
            rule(10, vec![from_port(1)], [to_remote, vec![output(EXTERNAL)]].concat()),
            rule(9, vec![from_port(0x00ff_0001)], vec![output(1)]),
            rule(8, vec![from_port(EXTERNAL)], vec![output(1)]),
        ],
        ..Default::default()
    };
    bench.fabric(bundle.clone()).unwrap();
    // One device has both filters, and both ports send by it.
    let own = Ipv4Addr::new(192, 168, 0, 1);
    let ends = BTreeSet::from([(own, Encapsulation::Vxlan(4789))]);
    assert_eq!(bench.ports.filters.lock().unwrap()[&UNDERLAY], ends);
    let ours = || bench.ports.addresses.lock().unwrap()[&UNDERLAY].clone();
    assert_eq!(ours(), BTreeSet::from([Ipv4Addr::new(192, 0, 2, 9)]));
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([1, UNDERLAY]));
    bench.peer(1).send(frame(3)).unwrap();
    let mut sent = [0, 1].map(|_| bench.peer(UNDERLAY).wait(PATIENCE).expect("both copies leave"));
    sent.sort_by_key(|frame| frame.bytes.len());
    assert_eq!(sent.clone().map(|frame| frame.bytes.len()), [frame(3).len(), frame(3).len() + 50]);
    // A tunnel's packet comes in by the tunnel, anything else by the physical network's port.
    let back = {
        let mut outer = sent[1].clone();
        // The ends of the outer IPv4 header; its checksum is the same for them exchanged.
        let (source, destination) = (outer.bytes[26..30].to_vec(), outer.bytes[30..34].to_vec());
        outer.bytes[26..30].copy_from_slice(&destination);
        outer.bytes[30..34].copy_from_slice(&source);
        outer
    };
    bench.peer(UNDERLAY).send(back).unwrap();
    assert_eq!(bench.peer(1).wait(PATIENCE).expect("it is unwrapped").bytes, frame(3));
    bench.peer(UNDERLAY).send(frame(5)).unwrap();
    assert_eq!(bench.peer(1).wait(PATIENCE).expect("it comes in").bytes, frame(5));
    let status = |number: u32| {
        let ports = bench.switch.ports().ports;
        ports.into_iter().find(|port| port.spec.as_ref().unwrap().number == number).unwrap()
    };
    assert_eq!(
        (status(EXTERNAL).state.as_str(), status(EXTERNAL).detail.as_str()),
        ("up", "memory, with the underlay")
    );
    assert_eq!(status(EXTERNAL).received_packets, status(UNDERLAY).received_packets);
    // There is one such port; and it goes without harm to the underlay.
    let second = bench.manual(v1::Bundle { add_ports: vec![interface(0x0080_0001, &[])], ..Default::default() });
    assert_eq!(second.unwrap_err().code, "interface_taken");
    bench
        .fabric(v1::Bundle { generation: 2, base_generation: 1, remove_ports: vec![EXTERNAL], ..header(&bundle) })
        .unwrap();
    assert!(ours().is_empty());
    assert_eq!(bench.ports.filters.lock().unwrap()[&UNDERLAY], ends);
    bench.peer(1).send(frame(6)).unwrap();
    assert_eq!(bench.peer(UNDERLAY).wait(PATIENCE).expect("the tunnel works").bytes.len(), frame(6).len() + 50);
}

fn header(bundle: &v1::Bundle) -> v1::Bundle {
    v1::Bundle { term: bundle.term, ..Default::default() }
}

#[test]
fn an_underlay_of_two_interfaces_has_two_ends() {
    let bench = bench();
    let second = weft_proto::SECOND_UNDERLAY_PORT;
    let addresses = [Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 168, 9, 1)];
    let mut known = kernel(1, 2, true);
    let first_interface = known.interfaces[0].clone();
    let other = Interface { index: 2, name: "other".to_owned(), addresses: vec![addresses[1]], ..first_interface };
    Arc::make_mut(&mut known.interfaces).push(other);
    // The second way leads to another address by the second interface, whose address the kernel prefers there.
    let way = NextHop {
        remote: [192, 168, 9, 2].into(),
        next_hop: [192, 168, 9, 2].into(),
        interface: "other".to_owned(),
        interface_index: 2,
        source: addresses[1],
        ..known.next_hops[0].clone()
    };
    Arc::make_mut(&mut known.next_hops).push(way);
    bench.switch.set_underlay(known.clone());
    for (number, name) in [(UNDERLAY, format!("mem{UNDERLAY}")), (second, "other".to_owned())] {
        let port = v1::AfXdpPort { interface: name.clone(), ..Default::default() };
        let spec = v1::PortSpec { number, name, owner: v1::Owner::Manual.into(), kind: Some(Kind::AfXdp(port)) };
        bench.switch.open_configured(spec).unwrap();
    }
    let send = |in_port: u32, remote: [u8; 4]| {
        rule(in_port, vec![from_port(in_port)], vec![set(Field::TunDst, &remote), output(0x00ff_0001)])
    };
    let bundle = v1::Bundle {
        term: 1,
        generation: 1,
        add_ports: vec![port(1), port(2), port(3), vxlan(0x00ff_0001, UNDERLAY)],
        add_rules: vec![
            send(1, [192, 168, 0, 2]),
            send(2, [192, 168, 9, 2]),
            rule(9, vec![from_port(0x00ff_0001)], vec![output(3)]),
        ],
        ..Default::default()
    };
    bench.fabric(bundle).unwrap();
    let ends: BTreeSet<_> = addresses.map(|address| (address, Encapsulation::Vxlan(4789))).into();
    for number in [UNDERLAY, second] {
        assert_eq!(bench.ports.filters.lock().unwrap()[&number], ends, "a kernel answers ARP on any interface");
    }
    let mut arriving = Vec::new();
    for (instance, number, own) in [(1, UNDERLAY, addresses[0]), (2, second, addresses[1])] {
        bench.peer(instance).send(frame(3)).unwrap();
        let outer = bench.peer(number).wait(PATIENCE).expect("it leaves by the route's interface");
        assert_eq!(outer.bytes[26..30], own.octets());
        arriving.push(outer);
    }
    // Whichever interface brings it.
    for (mut outer, number) in arriving.into_iter().zip([second, UNDERLAY]) {
        let (source, destination) = (outer.bytes[26..30].to_vec(), outer.bytes[30..34].to_vec());
        outer.bytes[26..30].copy_from_slice(&destination);
        outer.bytes[30..34].copy_from_slice(&source);
        bench.peer(number).send(outer).unwrap();
        assert_eq!(bench.peer(3).wait(PATIENCE).expect("it is unwrapped").bytes, frame(3));
    }
    let told: Vec<_> = bench.switch.underlay_addresses().into_iter().map(|one| (one.address, one.down)).collect();
    assert_eq!(told, [("192.168.0.1".to_owned(), false), ("192.168.9.1".to_owned(), false)]);
    Arc::make_mut(&mut known.interfaces)[1].carrier = false;
    bench.switch.set_underlay(known.clone());
    assert!(bench.switch.underlay_addresses()[1].down);
    // By the settings: an address of neither interface, and one that the host does not have.
    let loopback = Interface {
        index: 3,
        name: "lo".into(),
        mtu: 65_536,
        addresses: vec![[10, 255, 0, 1].into()],
        ..known.interfaces[0].clone()
    };
    Arc::make_mut(&mut known.interfaces).push(loopback);
    bench.switch.set_underlay_addresses(vec![[10, 255, 0, 1].into(), [10, 255, 0, 2].into()]);
    bench.switch.set_underlay(known);
    let own = v1::UnderlayAddress { address: "10.255.0.1".into(), interface: "lo".into(), mtu: 1500, down: false };
    assert_eq!(bench.switch.underlay_addresses(), [own]);
    assert_eq!(
        bench.ports.filters.lock().unwrap()[&second],
        BTreeSet::from([([10, 255, 0, 1].into(), Encapsulation::Vxlan(4789))])
    );
}
