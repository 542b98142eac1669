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
    _physical: OpenVswitch,
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
    Place { provider, _physical: physical, controller, switches, bench }
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
