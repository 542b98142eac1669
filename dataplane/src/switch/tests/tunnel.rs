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
    assert_eq!(bench.switch.underlay_address(), None);
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
    assert_eq!(one.switch.underlay_address(), Some((Ipv4Addr::new(192, 168, 0, 1), 1500)));
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
