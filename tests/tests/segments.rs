//! A network of each segment type between two hosts; and Open vSwitch, as the physical network's switch, whose trunks
//! lead to the hosts, and as a peer for GRE.

use std::time::Duration;
use weft_tests::bench::{Bench, Controller, Switch, address};
use weft_tests::open_vswitch::OpenVswitch;
use weft_tests::traffic::{pings, sends};
use weft_tests::{eventually, serial};
use weft_up::namespace::{ip, run_inside};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two hosts on an underlay (10.99.0.1 and .2) and on a physical network, whose switch runs in the namespace `provider`.
/// Fields in the order in which they are to end.
struct Place {
    provider: String,
    physical: OpenVswitch,
    controller: Controller,
    switches: [Switch; 2],
    bench: Bench,
}

fn place() -> Place {
    let mut bench = Bench::new();
    let hosts = bench.two_hosts();
    let provider = bench.namespace("provider");
    for (index, host) in hosts.iter().enumerate() {
        ip(&format!("-n {host} link add eth1 type veth peer name port{index} netns {provider}")).expect("it is new");
        ip(&format!("-n {host} link set eth1 up")).expect("it is there");
        // What a veth leaves to hardware that it does not have, AF_XDP would not see.
        run_inside(&provider, &format!("ethtool -K port{index} tx off")).expect("ethtool is installed");
        ip(&format!("-n {provider} link set port{index} up")).expect("it is there");
    }
    let physical = OpenVswitch::start(&mut bench, &provider);
    physical.vsctl(
        "add-br bridge -- set bridge bridge datapath_type=netdev -- add-port bridge port0 -- add-port bridge port1 \
         -- add-port bridge office tag=100 -- set interface office type=internal \
         -- add-port bridge plain -- set interface plain type=internal",
    );
    let controller = bench.controller();
    for name in ["host-a", "host-b"] {
        let _made = controller.weft(&format!("host create {name}"));
    }
    let switches = [0, 1].map(|index| {
        let name = ["host-a", "host-b"][index];
        let settings = format!("host = {name:?}\ncontroller = {:?}\n", controller.address);
        let sections = "[underlay]\ninterface = \"eth0\"\n[physical]\nprovider = \"eth1\"\n";
        bench.switch_with(name, &hosts[index], &settings, sections)
    });
    for host in ["host-a", "host-b"] {
        eventually("the host tells its physical networks", PATIENCE, || {
            controller.weft(&format!("host show {host}")).contains("provider by eth1 (mtu 1500)").then_some(())
        });
    }
    Place { provider, physical, controller, switches, bench }
}

impl Place {
    /// An instance on each host, on a network made with these options, with addresses 10.NUMBER.0.11 and .12.
    fn network(&mut self, name: &str, number: u8, options: &str) -> [String; 2] {
        let weft = |arguments: String| self.controller.weft(&arguments);
        let _made = weft(format!("network create {name} {options}"));
        let _made = weft(format!("subnet create {name} --network {name} --cidr 10.{number}.0.0/24"));
        ["host-a", "host-b"].map(|host| {
            let instance = self.bench.namespace(&format!("{name}-{}", &host[5..]));
            let last = if host == "host-a" { 11 } else { 12 };
            let port = format!("{name}-{host}");
            let _made = weft(format!("port create {port} --network {name} --address 10.{number}.0.{last}"));
            let _plugged = weft(format!("port plug {port} --host {host} --netns {instance} --interface eth0"));
            address(&instance, &format!("10.{number}.0.{last}/24"));
            instance
        })
    }
}

#[test]
fn hosts_and_foreign_stations_meet_on_every_segment_type() {
    let _turn = serial();
    let mut place = place();
    let networks = [
        ("overlay", 1, "--type vxlan", 1450),
        ("keyed", 2, "--type gre", 1458),
        ("office", 3, "--type vlan --physical provider --vlan 100", 1500),
        ("plain", 4, "--type flat --physical provider", 1500),
    ];
    for (name, number, options, mtu) in networks {
        let [one, two] = place.network(name, number, options);
        let (there, back) = (format!("10.{number}.0.12"), format!("10.{number}.0.11"));
        pings(&one, &there, &format!("-M do -s {}", mtu - 28));
        pings(&two, &back, "");
        sends(&one, &two, &there);
        sends(&two, &one, &back);
        if !options.contains("--physical") {
            continue;
        }
        // A station of the provider's that Weft knows nothing of.
        let provider = &place.provider;
        address_of(provider, name, &format!("10.{number}.0.200/24"));
        let station = format!("10.{number}.0.200");
        for instance in [&one, &two] {
            pings(instance, &station, "-M do -s 1472");
            sends(instance, provider, &station);
        }
        for instance in [&back, &there] {
            let from = format!("ping -n -c 3 -i 0.1 -W 1 {instance}");
            // The firewall lets in what its group lets in: the station is of no group.
            assert!(run_inside(provider, &from).is_err(), "{instance} is guarded");
        }
    }
    let tunnel = place.switches[0].port(weft_proto::GRE_PORT);
    assert!(tunnel.sent_packets > 500 && tunnel.received_packets > 500, "{tunnel:?}");
    // What comes back of one's own flood would be seen as dropped under another reason.
    let strange = place.switches[0].drops_of(weft_proto::FIRST_PHYSICAL_PORT);
    assert!(strange.keys().all(|reason| ["elsewhere", "policy"].contains(&reason.as_str())), "{strange:?}");
}

/// Stations behind Open vSwitch that nobody told Weft of, and instances of another network: a router joins them.
#[test]
fn routers_reach_foreign_stations_and_are_reached_by_them() {
    let _turn = serial();
    let mut place = place();
    let provider = place.provider.clone();
    let overlay = place.network("overlay", 1, "--type vxlan");
    let _added = place.controller.weft("group rule add default --ingress --protocol tcp");
    for (name, number, options) in
        [("office", 3, "--type vlan --physical provider --vlan 100"), ("plain", 4, "--type flat --physical provider")]
    {
        let [instance, _] = place.network(name, number, options);
        address_of(&provider, name, &format!("10.{number}.0.200/24"));
        // It answers by the router.
        let _added = ip(&format!("-n {provider} route add 10.1.0.0/24 via 10.{number}.0.1")).expect("it is new");
        let _made = place.controller.weft(&format!("router create {name}"));
        for network in ["overlay", name] {
            let _joined = place.controller.weft(&format!("router interface add {name} {network}"));
        }
        for instance in &overlay {
            ip(&format!("-n {instance} route add 10.{number}.0.0/24 via 10.1.0.1")).expect("the network is there");
        }
        let station = format!("10.{number}.0.200");
        for instance in &overlay {
            pings(instance, &station, "-M do -s 1422");
            sends(instance, &provider, &station);
        }
        // Without having been sent to, it asks for the router, and is answered by one host.
        ip(&format!("-n {provider} neigh flush dev {name}")).expect("the interface is there");
        pings(&provider, &format!("10.{number}.0.1"), "");
        for (instance, last) in overlay.iter().zip([11, 12]) {
            sends(&provider, instance, &format!("10.1.0.{last}"));
        }
        // Nobody else is there.
        assert!(run_inside(&overlay[0], &format!("ping -n -c 1 -W 1 10.{number}.0.201")).is_err());
        // A router's own MAC is on every host: the switch outside must not see it, but one of each host.
        pings(&instance, &format!("10.{number}.0.1"), "");
        let shown = ip(&format!("-n {instance} neigh show 10.{number}.0.1")).expect("it has neighbours");
        let own = shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).expect("it is known");
        let learnt = place.physical.appctl("fdb/show bridge");
        assert!(learnt.contains(" 02:52:") && !learnt.contains(own), "{own}: {learnt}");
        // The next router has the overlay's gateway address.
        for network in ["overlay", name] {
            let _left = place.controller.weft(&format!("router interface remove {name} {network}"));
        }
        for instance in &overlay {
            ip(&format!("-n {instance} route del 10.{number}.0.0/24")).expect("it was added");
            ip(&format!("-n {instance} neigh flush dev eth0")).expect("the interface is there");
        }
        ip(&format!("-n {provider} route del 10.1.0.0/24")).expect("it was added");
    }
}

/// The router outside is a namespace behind an access port of Open vSwitch; the gateway host is on a trunk.
#[test]
fn an_external_network_may_be_a_vlan_of_open_vswitch() {
    let _turn = serial();
    let mut place = place();
    place.physical.vsctl("add-port bridge outside tag=200 -- set interface outside type=internal");
    let provider = place.provider.clone();
    // It knows no way to the instances' addresses; behind it is another network.
    address_of(&provider, "outside", "203.0.113.1/24");
    address_of(&provider, "lo", "198.51.100.1/32");
    let instances = place.network("blue", 5, "--type vxlan");
    for instance in &instances {
        ip(&format!("-n {instance} route add default via 10.5.0.1")).expect("the network is there");
    }
    for line in [
        "network create internet --type vlan --physical provider --vlan 200 --external",
        "subnet create internet --network internet --cidr 203.0.113.0/24 --gateway 203.0.113.1 \
         --pool 203.0.113.100-203.0.113.199",
        "router create edge",
        "router interface add edge blue",
        "router gateway set edge internet --address 203.0.113.100",
    ] {
        let _made = place.controller.weft(line);
    }
    // Source NAT, of the gateway host's instance and of the other host's.
    for instance in &instances {
        pings(instance, "203.0.113.1", "-M do -s 1422");
        pings(instance, "198.51.100.1", "");
        sends(instance, &provider, "198.51.100.1");
    }
    assert!(run_inside(&provider, "ping -n -c 1 -W 1 10.5.0.11").is_err(), "nobody outside knows instances' addresses");
    // The router's own address, and a floating IP for either instance.
    pings(&provider, "203.0.113.100", "");
    let _added = place.controller.weft("group rule add default --ingress --protocol icmp");
    let _added = place.controller.weft("group rule add default --ingress --protocol tcp");
    for (host, instance, last) in [("host-a", &instances[0], 150), ("host-b", &instances[1], 151)] {
        let floating = format!("203.0.113.{last}");
        let _made =
            place.controller.weft(&format!("floating-ip create internet --address {floating} --port blue-{host}"));
        pings(&provider, &floating, "");
        sends(&provider, instance, &floating);
        sends(instance, &provider, "198.51.100.1");
    }
    // In the VLAN, and in no other.
    let learnt = place.physical.appctl("fdb/show bridge");
    let gateway = ip(&format!("-n {provider} neigh show 203.0.113.100")).expect("it has neighbours");
    let mac = gateway.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).expect("it is known");
    let of_gateway: Vec<&str> = learnt.lines().filter(|line| line.contains(mac)).collect();
    assert!(!of_gateway.is_empty(), "{mac} was learnt: {learnt}");
    let in_vlan = |line: &&str| line.split_whitespace().nth(1) == Some("200");
    assert!(of_gateway.iter().all(in_vlan), "{learnt}");
}

/// An instance with 10.0.0.1 at a switch, behind a tunnel port (11) of this kind; Open vSwitch at the other end, with
/// 10.0.0.2 on the bridge `inner`, which has the port `tunnel`.
fn beside_open_vswitch(bench: &mut Bench, kind: &str, key: u32, mtu: u32) -> (String, String, Switch, OpenVswitch) {
    let [host, peer] = bench.two_hosts();
    let instance = bench.namespace("vm");
    let switch = bench.switch("host", &host);
    switch.add_port(1, &format!("tap:eth0,netns={instance},mtu={mtu}"));
    switch.add_port(10, "af_xdp:eth0");
    switch.add_port(11, kind);
    switch.add_flows(&[
        &format!("in_port=1,actions=set_field:{key}->tun_id,set_field:10.99.0.2->tun_dst,output:11"),
        &format!("in_port=11,tun_id={key},actions=output:1"),
    ]);
    address(&instance, "10.0.0.1/24");
    // Its underlay is a bridge with the host's interface, which has the address then.
    let other = OpenVswitch::start(bench, &peer);
    ip(&format!("-n {peer} addr flush dev eth0")).expect("the interface is there");
    other.vsctl("add-br under -- set bridge under datapath_type=netdev -- add-port under eth0");
    address_of(&peer, "under", "10.99.0.2/24");
    other.vsctl(&format!(
        "add-br inner -- set bridge inner datapath_type=netdev -- add-port inner tunnel \
         -- set interface tunnel type={kind} options:remote_ip=10.99.0.1 options:key={key}"
    ));
    address_of(&peer, "inner", "10.0.0.2/24");
    (instance, peer, switch, other)
}

#[test]
fn open_vswitch_is_a_peer_for_gre() {
    let _turn = serial();
    let mut bench = Bench::new();
    let (instance, peer, switch, other) = beside_open_vswitch(&mut bench, "gre", 0x8123_4567, 1458);
    // 4 bytes less than without its checksum.
    ip(&format!("-n {peer} link set inner mtu 1454")).expect("the interface is there");
    for checksum in ["false", "true"] {
        other.vsctl(&format!("set interface tunnel options:csum={checksum}"));
        pings(&instance, "10.0.0.2", "-M do -s 1300");
        pings(&peer, "10.0.0.1", "-M do -s 1300");
        sends(&instance, &peer, "10.0.0.2");
        sends(&peer, &instance, "10.0.0.1");
    }
    let tunnel = switch.port(11);
    assert!(tunnel.sent_packets > 500 && tunnel.received_packets > 500, "{tunnel:?}");
    // Sequence numbers ask for order, which is not kept here.
    other.vsctl("set interface tunnel options:seq=true");
    assert!(run_inside(&peer, "ping -n -c 2 -W 1 10.0.0.1").is_err());
    assert!(switch.drops_of(10).contains_key("bad_tunnel"), "{:?}", switch.drops_of(10));
}

#[test]
fn open_vswitch_is_a_peer_for_vxlan() {
    let _turn = serial();
    let mut bench = Bench::new();
    let (instance, peer, switch, other) = beside_open_vswitch(&mut bench, "vxlan", 0x00ab_cdef, 1450);
    ip(&format!("-n {peer} link set inner mtu 1450")).expect("the interface is there");
    // With a checksum in the outer UDP header, and without.
    for checksum in ["false", "true"] {
        other.vsctl(&format!("set interface tunnel options:csum={checksum}"));
        pings(&instance, "10.0.0.2", "-M do -s 1422");
        pings(&peer, "10.0.0.1", "-M do -s 1422");
        sends(&instance, &peer, "10.0.0.2");
        sends(&peer, &instance, "10.0.0.1");
    }
    let tunnel = switch.port(11);
    assert!(tunnel.sent_packets > 500 && tunnel.received_packets > 500, "{tunnel:?}");
}

/// IEEE 802.1ad: a customer's VLAN 7 in a provider's VLAN 300, which Open vSwitch takes apart in two bridges.
#[test]
fn open_vswitch_understands_two_tags() {
    let _turn = serial();
    let mut bench = Bench::new();
    let [host, peer] = bench.two_hosts();
    for namespace in [&host, &peer] {
        run_inside(namespace, "ethtool -K eth0 txvlan off").expect("ethtool is installed");
        // A link carries one tag beyond its MTU; but packet sockets, by which Open vSwitch sends, mean 802.1Q's alone.
        ip(&format!("-n {namespace} link set eth0 mtu 1508")).expect("veth pairs take it");
    }
    let instance = bench.namespace("vm");
    let switch = bench.switch("host", &host);
    switch.add_port(1, &format!("tap:eth0,netns={instance}"));
    switch.add_port(20, "af_xdp:eth0,all");
    switch.add_flows(&[
        "in_port=1,actions=push_vlan:0x8100,set_field:0x1007->vlan_tci,push_vlan:0x88a8,\
         set_field:0x112c->vlan_tci,output:20",
        "in_port=20,vlan_tci=0x112c/0x1fff,vlan_inner_tci=0x1007/0x1fff,actions=pop_vlan,pop_vlan,output:1",
    ]);
    address(&instance, "10.0.0.1/24");
    let other = OpenVswitch::start(&mut bench, &peer);
    other.vsctl(
        "set Open_vSwitch . other_config:vlan-limit=2 \
         -- add-br provider -- set bridge provider datapath_type=netdev -- add-port provider eth0 \
         -- add-port provider down tag=300 vlan_mode=dot1q-tunnel -- set interface down type=patch options:peer=up \
         -- add-br customer -- set bridge customer datapath_type=netdev \
         -- add-port customer up -- set interface up type=patch options:peer=down \
         -- add-port customer station tag=7 -- set interface station type=internal",
    );
    address_of(&peer, "station", "10.0.0.2/24");
    pings(&instance, "10.0.0.2", "-M do -s 1472");
    pings(&peer, "10.0.0.1", "-M do -s 1472");
    sends(&instance, &peer, "10.0.0.2");
    sends(&peer, &instance, "10.0.0.1");
}

fn address_of(namespace: &str, interface: &str, address: &str) {
    ip(&format!("-n {namespace} addr add {address} dev {interface}")).expect("the interface is there");
    ip(&format!("-n {namespace} link set {interface} up")).expect("the interface is there");
}
