//! The switch with ports in memory: a recording's specification opens one of `port/memory.rs`, whose
//! other end the test holds; its `transmit_file` stands for the name of an interface.

use super::*;
use crate::drop::DropReason;
use crate::port::PortSlot;
use crate::port::memory::{MemoryPeer, pair};
use crate::underlay::{Interface, NextHop};
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1::action::Action as Wire;
use weft_proto::v1::{self, Field, port_spec::Kind};

/// Of tunnels.
type Ends = BTreeSet<(Ipv4Addr, u16)>;

#[derive(Clone, Default)]
struct TestPorts {
    peers: Arc<Mutex<HashMap<u32, MemoryPeer>>>,
    filters: Arc<Mutex<HashMap<u32, Ends>>>,
    /// Numbers that are open.
    open: Arc<Mutex<BTreeSet<u32>>>,
    /// Numbers that cannot be opened.
    broken: Arc<Mutex<BTreeSet<u32>>>,
    /// Numbers whose interface somebody took away.
    lost: Arc<Mutex<BTreeSet<u32>>>,
}

struct TestFilter(TestPorts, u32);

impl TunnelFilter for TestFilter {
    fn set(&self, ends: &Ends) -> Result<(), String> {
        self.0.filters.lock().unwrap().insert(self.1, ends.clone());
        Ok(())
    }

    fn missed(&self) -> u64 {
        0
    }
}

impl Drop for TestFilter {
    fn drop(&mut self) {
        self.0.open.lock().unwrap().remove(&self.1);
    }
}

impl OpenPort for TestPorts {
    fn open(&self, slot: PortSlot, spec: &v1::PortSpec, _: &'static Memory, _: usize) -> Result<Opened, Fault> {
        if self.broken.lock().unwrap().contains(&spec.number) {
            return Err(Fault::invalid("port_failed", "pcap", "it is broken", "Mend it."));
        }
        let Some(Kind::Pcap(files)) = &spec.kind else { panic!("tests open recordings only") };
        assert!(self.open.lock().unwrap().insert(spec.number), "what stands in the way is closed first");
        let (queue, peer) = pair(slot).unwrap();
        self.peers.lock().unwrap().insert(spec.number, peer);
        let device = Device::new(files.transmit_file.clone(), "memory".to_owned())
            .with_filter(Box::new(TestFilter(self.clone(), spec.number)));
        let (lost, number) = (self.lost.clone(), spec.number);
        let device = device.with_watch(Box::new(move || {
            let is_lost = lost.lock().unwrap().contains(&number);
            is_lost.then(|| Fault::invalid("port_failed", "pcap", "it was taken away", "Wait."))
        }));
        Ok(Opened { device, queues: vec![Box::new(queue)] })
    }
}

struct Bench {
    switch: Arc<Switch>,
    ports: TestPorts,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.switch.stop();
    }
}

fn bench() -> Bench {
    let ports = TestPorts::default();
    let switch = Switch::start(SwitchSettings {
        host: "bench".to_owned(),
        memory: Memory::map(512, 64).unwrap(),
        workers: vec![WorkerSettings { core: None, spin: false }],
        opener: Box::new(ports.clone()),
    });
    Bench { switch: switch.unwrap(), ports }
}

impl Bench {
    fn manual(&self, bundle: v1::Bundle) -> Result<v1::BundleResult, Fault> {
        self.switch.apply(vec![bundle], Owner::Manual)
    }

    fn fabric(&self, bundle: v1::Bundle) -> Result<v1::BundleResult, Fault> {
        self.switch.apply(vec![bundle], Owner::Fabric)
    }

    fn peer(&self, number: u32) -> MemoryPeer {
        self.ports.peers.lock().unwrap()[&number].clone()
    }

    fn rules(&self) -> Vec<v1::RuleState> {
        let replies = self.switch.dump(&v1::DumpRulesRequest::default()).unwrap();
        replies.into_iter().flat_map(|reply| reply.rules).collect()
    }

    fn port_numbers(&self) -> Vec<u32> {
        self.switch.ports().ports.iter().map(|port| port.spec.as_ref().unwrap().number).collect()
    }

    /// Frames of a reason, by port.
    fn dropped(&self, reason: DropReason) -> Vec<(u32, u64)> {
        let drops = self.switch.drops(&v1::ListDropsRequest::default()).drops;
        let drop = drops.into_iter().find(|drop| drop.reason == reason.word());
        drop.map(|drop| drop.ports.iter().map(|port| (port.port, port.packets)).collect()).unwrap_or_default()
    }
}

fn port(number: u32) -> v1::PortSpec {
    named(number, &format!("mem{number}"))
}

fn named(number: u32, name: &str) -> v1::PortSpec {
    let files = v1::PcapPort { receive_file: String::new(), transmit_file: format!("mem{number}") };
    v1::PortSpec { number, name: name.to_owned(), owner: 0, kind: Some(Kind::Pcap(files)) }
}

fn vxlan(number: u32, underlay_port: u32) -> v1::PortSpec {
    let tunnel = v1::TunnelPort { underlay_port, ..Default::default() };
    v1::PortSpec { number, name: "vxlan".to_owned(), owner: 0, kind: Some(Kind::Vxlan(tunnel)) }
}

fn exact(field: Field, value: &[u8]) -> v1::FieldMatch {
    v1::FieldMatch { field: field.into(), value: value.to_vec(), ..Default::default() }
}

fn from_port(number: u32) -> v1::FieldMatch {
    exact(Field::InPort, &number.to_be_bytes())
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

fn rule(priority: u32, matches: Vec<v1::FieldMatch>, apply: Vec<v1::Action>) -> v1::Rule {
    v1::Rule {
        priority,
        r#match: matches,
        instructions: Some(v1::Instructions { apply_actions: apply, ..Default::default() }),
        cookie: u64::from(priority),
        ..Default::default()
    }
}

/// A UDP datagram.
fn frame(last: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, last])
        .ipv4([10, 0, 0, 1], [10, 0, 0, last], 64)
        .udp(1000, 2000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"payload of the datagram").unwrap();
    bytes
}

const PATIENCE: Duration = Duration::from_secs(5);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn two_ports() -> v1::Bundle {
    v1::Bundle {
        add_ports: vec![port(1), port(2)],
        add_rules: vec![rule(100, vec![from_port(1)], vec![output(2)])],
        origins: vec![v1::Origin { cookie: 100, text: "a wire from 1 to 2".to_owned() }],
        tables: vec![v1::TableConfig {
            table: 0,
            name: "classify".to_owned(),
            meaning: "Everything.".to_owned(),
            partition: 0,
        }],
        ..Default::default()
    }
}

#[test]
fn a_frame_goes_where_a_rule_sends_it_and_is_counted() {
    let bench = bench();
    let done = bench.manual(two_ports()).unwrap();
    assert_eq!((done.rules_added, done.rules_removed, done.ports.len()), (1, 0, 2));
    assert_eq!((done.ports[0].interface.as_str(), done.ports[0].state.as_str()), ("mem1", "up"));
    bench.peer(1).send(frame(7)).unwrap();
    assert_eq!(bench.peer(2).wait(PATIENCE).expect("the frame arrives").bytes, frame(7));
    bench.peer(2).send(frame(8)).unwrap();
    eventually("a frame of port 2 has no rule", || bench.dropped(DropReason::TableMiss) == [(2, 1)]);

    let rules = bench.rules();
    assert_eq!((rules[0].packets, rules[0].bytes), (1, frame(7).len() as u64));
    assert_eq!((rules[0].origin.as_str(), rules[0].table_name.as_str()), ("a wire from 1 to 2", "classify"));
    let ports = bench.switch.ports().ports;
    assert_eq!((ports[0].received_packets, ports[1].sent_packets, ports[1].received_dropped), (1, 1, 1));
    let tables = bench.switch.tables().tables;
    assert_eq!((tables[0].rules, tables[0].config.as_ref().unwrap().name.as_str()), (1, "classify"));
    let status = bench.switch.status();
    assert_eq!((status.rules, status.workers[0].packets, status.host.as_str()), (1, 2, "bench"));
    assert_eq!((status.chunks_total, status.runs_free), (512, 64));
    assert!(!bench.switch.cache(&v1::DumpCacheRequest::default()).entries.is_empty());
}

#[test]
fn a_bundle_with_one_bad_rule_changes_nothing() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let before = bench.rules();
    let mut bundle = v1::Bundle { add_ports: vec![port(3)], remove_ports: vec![2], ..Default::default() };
    bundle.add_rules = vec![rule(1, vec![], vec![output(3)]), rule(2, vec![exact(Field::TcpDst, &[0, 80])], vec![])];
    let fault = bench.manual(bundle).unwrap_err();
    assert_eq!(fault.field, "add_rules[1].match[0]");
    assert_eq!(bench.rules(), before);
    assert_eq!(bench.port_numbers(), [1, 2]);
    assert!(!bench.ports.peers.lock().unwrap().contains_key(&3), "the port was not even opened");
}

#[test]
fn a_port_that_cannot_be_opened_refuses_the_bundle_and_leaves_nothing() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    bench.ports.broken.lock().unwrap().insert(4);
    let bundle = v1::Bundle {
        add_ports: vec![port(3), port(4)],
        remove_ports: vec![1],
        add_rules: vec![rule(5, vec![], vec![output(3)])],
        ..Default::default()
    };
    let fault = bench.manual(bundle).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("port_failed", "add_ports[1].pcap"));
    assert_eq!(bench.port_numbers(), [1, 2]);
    assert_eq!(bench.rules().len(), 1);
    // Port 3 was opened before 4 failed: it is closed again.
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([1, 2]));
    bench.peer(1).send(frame(7)).unwrap();
    assert!(bench.peer(2).wait(PATIENCE).is_some(), "what was there goes on");
}

#[test]
fn a_port_of_the_same_number_is_replaced_and_the_old_one_comes_back_if_that_fails() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    // The same interface, another specification: the old one must be closed first.
    let mut other = port(2);
    other.kind = Some(Kind::Pcap(v1::PcapPort { receive_file: "x".to_owned(), transmit_file: "mem2".to_owned() }));
    bench.manual(v1::Bundle { add_ports: vec![other.clone()], ..Default::default() }).unwrap();
    bench.peer(1).send(frame(7)).unwrap();
    assert!(bench.peer(2).wait(PATIENCE).is_some());

    bench.ports.broken.lock().unwrap().insert(9);
    let bundle = v1::Bundle { add_ports: vec![port(2), port(9)], ..Default::default() };
    assert_eq!(bench.manual(bundle).unwrap_err().field, "add_ports[1].pcap");
    bench.peer(1).send(frame(8)).unwrap();
    assert_eq!(bench.peer(2).wait(PATIENCE).expect("port 2 is open again").bytes, frame(8));
    let now = bench.switch.ports().ports[1].spec.clone().unwrap();
    assert_eq!(now.kind, other.kind);
    // Another name alone keeps the port as it is.
    let peer = bench.peer(2);
    let renamed = v1::PortSpec { name: "renamed".to_owned(), ..other };
    bench.manual(v1::Bundle { add_ports: vec![renamed], ..Default::default() }).unwrap();
    bench.peer(1).send(frame(9)).unwrap();
    assert!(peer.wait(PATIENCE).is_some());
    assert_eq!(bench.switch.ports().ports[1].spec.as_ref().unwrap().name, "renamed");
}

#[test]
fn drops_of_a_removed_port_are_kept_under_port_0() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    bench.peer(2).send(frame(1)).unwrap();
    eventually("the drop is counted", || bench.dropped(DropReason::TableMiss) == [(2, 1)]);
    bench.manual(v1::Bundle { remove_ports: vec![2], ..Default::default() }).unwrap();
    assert_eq!(bench.dropped(DropReason::TableMiss), [(0, 1)]);
    bench.manual(v1::Bundle { add_ports: vec![port(5)], ..Default::default() }).unwrap();
    bench.peer(5).send(frame(1)).unwrap();
    eventually("the new port begins at zero", || {
        bench.dropped(DropReason::TableMiss).into_iter().collect::<BTreeSet<_>>() == BTreeSet::from([(0, 1), (5, 1)])
    });
}

#[test]
fn neither_side_touches_what_the_other_made() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    bench
        .fabric(v1::Bundle {
            term: 1,
            generation: 1,
            add_ports: vec![port(3)],
            add_rules: vec![rule(1, vec![], vec![output(3)])],
            set_address_sets: vec![v1::AddressSet { name: "web".to_owned(), members: vec![] }],
            ..Default::default()
        })
        .unwrap();
    let refused = |bundle: v1::Bundle, owner: Owner| {
        let fault = bench.switch.apply(vec![bundle], owner).unwrap_err();
        (fault.code, fault.field)
    };
    let pair = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    let fabric_rule = v1::Rule { owner: v1::Owner::Fabric.into(), ..rule(7, vec![], vec![]) };
    let bundle = v1::Bundle { add_rules: vec![fabric_rule.clone()], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "add_rules[0].owner"));
    let bundle = v1::Bundle { remove_rules: vec![fabric_rule], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "remove_rules[0].owner"));
    let bundle = v1::Bundle { replace_owner: v1::Owner::Fabric.into(), ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "replace_owner"));
    let bundle = v1::Bundle { remove_ports: vec![3], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("port_taken", "remove_ports[0]"));
    let bundle = v1::Bundle { add_ports: vec![port(3)], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("port_taken", "add_ports[0]"));
    let bundle = v1::Bundle { add_ports: vec![named(8, "mem3")], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("name_taken", "add_ports"));
    let bundle = v1::Bundle { remove_address_sets: vec!["web".to_owned()], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "address_sets"));
    let bundle = v1::Bundle { term: 1, add_ports: vec![port(1)], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Fabric), pair("port_taken", "add_ports[0]"));

    // A resynchronisation replaces what the fabric has, and only that.
    bench
        .fabric(v1::Bundle {
            term: 1,
            generation: 2,
            replace_owner: v1::Owner::Fabric.into(),
            add_rules: vec![rule(2, vec![], vec![])],
            ..Default::default()
        })
        .unwrap();
    assert_eq!(bench.port_numbers(), [1, 2]);
    let owned: Vec<_> = bench
        .rules()
        .iter()
        .map(|state| state.rule.clone().unwrap())
        .map(|rule| (rule.priority, rule.owner()))
        .collect();
    assert_eq!(owned, [(100, v1::Owner::Manual), (2, v1::Owner::Fabric)]);
    assert_eq!(bench.switch.digests().address_sets, 0, "the set is gone");
    // RemoveRules leaves the fabric's alone.
    assert_eq!(bench.switch.remove_rules(&v1::DumpRulesRequest::default()).unwrap().rules_removed, 1);
    assert_eq!(bench.rules().len(), 1);
    let request = v1::DumpRulesRequest { owner: v1::Owner::Fabric.into(), ..Default::default() };
    assert_eq!(bench.switch.remove_rules(&request).unwrap_err().status, Code::PermissionDenied);
}

#[test]
fn old_leaders_and_wrong_bases_are_refused() {
    let bench = bench();
    let bundle =
        |term, generation, base_generation| v1::Bundle { term, generation, base_generation, ..Default::default() };
    bench.fabric(bundle(2, 10, 0)).unwrap();
    assert_eq!(bench.switch.position(), (2, 10));
    let code = |bundle| bench.fabric(bundle).map_err(|fault| (fault.code, fault.status));
    let failed = |code: &str| Err((code.to_owned(), Code::FailedPrecondition));
    assert_eq!(code(bundle(1, 11, 10)), failed("stale_term"));
    assert_eq!(code(bundle(2, 11, 9)), failed("generation_mismatch"));
    assert_eq!(bench.switch.position(), (2, 10));
    bench.fabric(bundle(3, 11, 10)).unwrap();
    assert_eq!(bench.switch.position(), (3, 11));
    // A bundle of a person has no position.
    bench.manual(v1::Bundle { term: 1, ..Default::default() }).unwrap();
    assert_eq!(bench.switch.position(), (3, 11));
}

#[test]
fn digests_are_those_of_the_messages() {
    use weft_proto::digest::{canonical, canonical_set, of, sum};
    let bench = bench();
    let fabric = |rule: v1::Rule| v1::Rule { owner: v1::Owner::Fabric.into(), ..rule };
    let rules = [fabric(rule(1, vec![from_port(3)], vec![output(3)])), fabric(rule(2, vec![], vec![]))];
    let spec = v1::PortSpec { owner: v1::Owner::Fabric.into(), ..port(3) };
    let prefix = |last| v1::Prefix { address: vec![10, 0, 0, last], length: 32 };
    let web = v1::AddressSet { name: "web".to_owned(), members: vec![prefix(2), prefix(1)] };
    bench
        .fabric(v1::Bundle {
            term: 1,
            generation: 4,
            add_rules: rules.to_vec(),
            add_ports: vec![spec.clone()],
            set_address_sets: vec![web.clone()],
            ..Default::default()
        })
        .unwrap();
    bench.manual(two_ports()).unwrap();
    let digests = bench.switch.digests();
    let rules: Vec<v1::Rule> = rules.into_iter().map(canonical).collect();
    assert_eq!(digests.tables, [v1::TableDigest { table: 0, rules: sum(&rules) }]);
    assert_eq!((digests.ports, digests.address_sets), (of(&spec), of(&canonical_set(web))));
    assert_eq!((digests.term, digests.generation), (1, 4));
}

#[test]
fn wrong_ports_are_refused() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let refused = |spec: v1::PortSpec| {
        let fault = bench.manual(v1::Bundle { add_ports: vec![spec], ..Default::default() }).unwrap_err();
        (fault.code, fault.field.replace("add_ports[0].", ""))
    };
    let kind = |kind: Kind| v1::PortSpec { kind: Some(kind), ..port(9) };
    let pair = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    assert_eq!(refused(port(0)), pair("bad_port", "number"));
    assert_eq!(refused(port(0xffff_ff01)), pair("bad_port", "number"));
    assert_eq!(refused(named(9, "two words")), pair("bad_port", "name"));
    assert_eq!(refused(v1::PortSpec { kind: None, ..port(9) }), pair("bad_port", "kind"));
    let tap = |interface: &str, mac: &[u8], mtu, netns: &str| {
        kind(Kind::Tap(v1::TapPort {
            interface: interface.to_owned(),
            netns: netns.to_owned(),
            mac: mac.to_vec(),
            mtu,
        }))
    };
    assert_eq!(refused(tap("sixteen-letters-", &[], 0, "")), pair("bad_port", "tap.interface"));
    assert_eq!(refused(tap("a", &[1, 0, 0, 0, 0, 1], 0, "")), pair("bad_port", "tap.mac"));
    assert_eq!(refused(tap("a", &[], 67, "")), pair("bad_port", "tap.mtu"));
    assert_eq!(refused(tap("a", &[], 0, "../x")), pair("bad_port", "tap.netns"));
    assert_eq!(refused(kind(Kind::AfXdp(v1::AfXdpPort::default()))), pair("bad_port", "af_xdp.interface"));
    assert_eq!(refused(vxlan(9, 0)), pair("no_underlay", "port vxlan"));
    assert_eq!(refused(vxlan(9, 77)), pair("no_underlay", "port vxlan"));
    assert_eq!(refused(vxlan(9, 9)), pair("no_underlay", "port vxlan"));
    bench.manual(v1::Bundle { add_ports: vec![vxlan(9, 1)], ..Default::default() }).unwrap();
    let fault = bench.manual(v1::Bundle { remove_ports: vec![1], ..Default::default() }).unwrap_err();
    assert_eq!(fault.code, "no_underlay", "a tunnel runs over it");
    bench.manual(v1::Bundle { remove_ports: vec![1, 9], ..Default::default() }).unwrap();
    assert_eq!(
        bench.manual(v1::Bundle { remove_ports: vec![1], ..Default::default() }).unwrap_err().code,
        "no_such_port"
    );
    assert!(bench.fabric(v1::Bundle { remove_ports: vec![1], ..Default::default() }).is_ok());
}

#[test]
fn a_configured_port_is_not_touched_by_bundles() {
    let bench = bench();
    let spec = v1::PortSpec { owner: v1::Owner::Manual.into(), ..port(0x00ff_0000) };
    bench.switch.open_configured(spec.clone()).unwrap();
    bench.manual(v1::Bundle { replace_owner: v1::Owner::Manual.into(), ..Default::default() }).unwrap();
    assert_eq!(bench.port_numbers(), [0x00ff_0000]);
    let fault = bench.manual(v1::Bundle { remove_ports: vec![spec.number], ..Default::default() }).unwrap_err();
    assert!(fault.remedy.contains("[underlay]"), "{fault}");
}

#[test]
fn a_trace_tells_rule_origin_and_drop() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let fields = vec![from_port(1), exact(Field::EthType, &[8, 0])];
    let reply = bench.switch.trace(&v1::TraceRequest { packet: fields, ..Default::default() }).unwrap();
    let step = reply.steps[0].rule.as_ref().unwrap();
    assert_eq!((step.origin.as_str(), reply.steps[0].table_name.as_str()), ("a wire from 1 to 2", "classify"));
    assert_eq!(reply.drop_reason, "");
    assert!(matches!(&reply.effects[0].effect, Some(v1::effect::Effect::Output(out)) if out.port_name == "mem2"));
    let by_frame =
        |frame: Vec<u8>, in_port| bench.switch.trace(&v1::TraceRequest { frame, in_port, ..Default::default() });
    assert_eq!(by_frame(frame(1), 2).unwrap().drop_reason, "table_miss");
    assert_eq!(by_frame(vec![1, 2, 3], 1).unwrap().drop_reason, "truncated");
    assert_eq!(by_frame(frame(1), 0).unwrap_err().field, "in_port");
    assert_eq!(bench.switch.trace(&v1::TraceRequest::default()).unwrap_err().field, "packet");
    assert_eq!(bench.rules()[0].packets, 0, "a trace counts nothing");
}

#[test]
fn dumps_and_removals_select_by_filter() {
    let bench = bench();
    let web = vec![exact(Field::EthType, &[8, 0]), exact(Field::IpProto, &[6]), exact(Field::TcpDst, &[0, 80])];
    let ip = vec![exact(Field::EthType, &[8, 0])];
    let add_rules = vec![
        rule(1, web.clone(), vec![]),
        rule(2, ip.clone(), vec![]),
        v1::Rule { table: 5, ..rule(3, web.clone(), vec![]) },
    ];
    bench.manual(v1::Bundle { add_rules, ..Default::default() }).unwrap();
    let selected = |request: v1::DumpRulesRequest| -> Vec<u32> {
        let replies = bench.switch.dump(&request).unwrap();
        replies.iter().flat_map(|reply| &reply.rules).map(|state| state.rule.as_ref().unwrap().priority).collect()
    };
    let request = v1::DumpRulesRequest::default;
    assert_eq!(selected(request()), [2, 1, 3]);
    assert_eq!(selected(v1::DumpRulesRequest { r#match: ip.clone(), ..request() }), [2, 1, 3]);
    assert_eq!(selected(v1::DumpRulesRequest { r#match: web, ..request() }), [1, 3]);
    assert_eq!(selected(v1::DumpRulesRequest { table: Some(5), ..request() }), [3]);
    assert_eq!(selected(v1::DumpRulesRequest { cookie: Some(2), ..request() }), [2]);
    assert_eq!(selected(v1::DumpRulesRequest { r#match: ip.clone(), strict: true, priority: 2, ..request() }), [2]);
    assert_eq!(
        selected(v1::DumpRulesRequest { r#match: ip.clone(), strict: true, priority: 1, ..request() }),
        [] as [u32; 0]
    );
    assert_eq!(bench.switch.dump(&v1::DumpRulesRequest { table: Some(255), ..request() }).unwrap_err().field, "table");
    let removed = bench.switch.remove_rules(&v1::DumpRulesRequest { table: Some(0), ..request() }).unwrap();
    assert_eq!((removed.rules_removed, selected(request())), (2, vec![3]));
}

#[test]
fn punted_packets_reach_who_listens() {
    let bench = bench();
    let punt = action(Wire::Punt(v1::Punt { max_length: 20, reason: 5 }));
    let bundle = v1::Bundle {
        add_ports: vec![port(1)],
        add_rules: vec![rule(100, vec![from_port(1)], vec![punt])],
        ..Default::default()
    };
    bench.manual(bundle).unwrap();
    bench.peer(1).send(frame(1)).unwrap();
    eventually("nobody listens", || bench.dropped(DropReason::NoListener) == [(1, 1)]);
    let mut packets = bench.switch.punts().listen().unwrap();
    bench.peer(1).send(frame(1)).unwrap();
    let packet = packets.blocking_recv().unwrap();
    assert_eq!((packet.in_port, packet.reason, packet.cookie, packet.frame.len()), (1, 5, 100, 20));
    assert_eq!(packet.total_length as usize, frame(1).len());
}

/// A kernel that knows one interface and the way to one tunnel end.
fn kernel(address: u8, remote: u8, known: bool) -> UnderlayState {
    let interface = Interface {
        index: 1,
        name: "mem10".to_owned(),
        mac: [2, 0, 0, 0, 1, address],
        mtu: 1500,
        up: true,
        addresses: vec![Ipv4Addr::new(192, 168, 0, address)],
    };
    let remote_address = Ipv4Addr::new(192, 168, 0, remote);
    let hop = NextHop {
        remote: remote_address,
        next_hop: remote_address,
        interface: "mem10".to_owned(),
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

/// A switch with an instance at port 1 and a tunnel over port 10 to the other one.
fn host(address: u8, remote: u8) -> (Bench, Wanted) {
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
            add_ports: vec![port(1), port(10), vxlan(0x00ff_0001, 10)],
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
    let ((one, wanted), (two, _)) = (host(1, 2), host(2, 1));
    assert_eq!(one.switch.underlay_address(), Some((Ipv4Addr::new(192, 168, 0, 1), 1500)));
    let own = BTreeSet::from([(Ipv4Addr::new(192, 168, 0, 1), 4789)]);
    assert_eq!(one.ports.filters.lock().unwrap()[&10], own);
    one.peer(1).send(frame(3)).unwrap();
    eventually("the neighbour is not known", || one.dropped(DropReason::NeighbourUnresolved) == [(1, 1)]);
    one.switch.set_underlay(kernel(1, 2, true));
    assert_eq!(one.switch.neighbours().neighbours[0].state, "reachable");
    one.peer(1).send(frame(3)).unwrap();
    let outer = one.peer(10).wait(PATIENCE).expect("it leaves in a tunnel");
    assert_eq!(outer.bytes.len(), frame(3).len() + 50);
    two.peer(10).send(outer).unwrap();
    assert_eq!(two.peer(1).wait(PATIENCE).expect("it arrives").bytes, frame(3));
    let tunnel = |bench: &Bench| {
        let ports = bench.switch.ports().ports;
        ports.into_iter().find(|port| port.spec.as_ref().unwrap().name == "vxlan").unwrap()
    };
    assert_eq!((tunnel(&one).sent_packets, tunnel(&two).received_packets), (1, 1));
    assert_eq!(
        (tunnel(&one).state.as_str(), tunnel(&one).detail.as_str()),
        ("up", "192.168.0.1, UDP port 4789, over mem10")
    );

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

#[test]
fn bundles_in_parts_are_one_bundle() {
    let bench = bench();
    let mut parts = Parts::default();
    let first = v1::Bundle { more: true, add_ports: vec![port(1)], ..Default::default() };
    assert_eq!(parts.push(first).unwrap(), None);
    let whole = parts.push(v1::Bundle { add_ports: vec![port(2)], ..Default::default() }).unwrap().unwrap();
    assert!(parts.is_empty());
    bench.switch.apply(whole, Owner::Manual).unwrap();
    assert_eq!(bench.port_numbers(), [1, 2]);
    let endless = || v1::Bundle { more: true, ..Default::default() };
    let fault = (0..=crate::limits::BUNDLE_PARTS).find_map(|_| parts.push(endless()).err());
    assert_eq!(fault.unwrap().code, "bundle_too_large");
}

#[test]
fn rules_of_many_kinds_fill_several_messages_of_a_dump() {
    let bench = bench();
    let add_rules =
        (0..20_000_u32).map(|number| rule(1, vec![exact(Field::Reg0, &number.to_be_bytes())], vec![])).collect();
    bench.manual(v1::Bundle { add_rules, ..Default::default() }).unwrap();
    let replies = bench.switch.dump(&v1::DumpRulesRequest::default()).unwrap();
    assert!(replies.len() > 1);
    assert_eq!(replies.iter().map(|reply| reply.rules.len()).sum::<usize>(), 20_000);
}

#[test]
fn a_port_of_the_fabric_that_cannot_be_opened_fails_alone_and_is_tried_again() {
    let bench = bench();
    bench.ports.broken.lock().unwrap().insert(4);
    let owned = |number| v1::PortSpec { owner: v1::Owner::Fabric.into(), ..port(number) };
    let bundle = v1::Bundle { term: 1, generation: 1, add_ports: vec![owned(3), owned(4)], ..Default::default() };
    let done = bench.fabric(bundle).unwrap();
    let states: Vec<&str> = done.ports.iter().map(|port| port.state.as_str()).collect();
    assert!(states.contains(&"up") && states.iter().any(|state| state.starts_with("failed: pcap: it is broken")));
    bench.switch.retry_failed();
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([3]));
    bench.ports.broken.lock().unwrap().clear();
    bench.switch.retry_failed();
    assert!(bench.switch.ports().ports.iter().all(|port| port.state == "up"));
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([3, 4]));
}

#[test]
fn a_lost_port_is_shown_and_made_anew_if_it_is_the_fabrics() {
    let bench = bench();
    let owned = v1::PortSpec { owner: v1::Owner::Fabric.into(), ..port(3) };
    bench.fabric(v1::Bundle { term: 1, generation: 1, add_ports: vec![owned], ..Default::default() }).unwrap();
    let to_lost = |from, to| rule(from, vec![from_port(from)], vec![output(to)]);
    let add_rules = vec![to_lost(1, 3), to_lost(2, 3), to_lost(3, 1)];
    bench.manual(v1::Bundle { add_ports: vec![port(1), port(2)], add_rules, ..Default::default() }).unwrap();
    let states = || bench.switch.ports().ports.into_iter().map(|port| port.state).collect::<Vec<_>>();
    bench.switch.notice_losses();
    assert_eq!(states(), ["up", "up", "up"]);
    let mut changes = bench.switch.changes();
    bench.ports.lost.lock().unwrap().extend([2, 3]);
    bench.switch.notice_losses();
    assert!(changes.has_changed().unwrap(), "the agent reports it");
    changes.mark_unchanged();
    let seen = states();
    assert_eq!((seen[0].as_str(), seen[2].as_str()), ("up", "failed: pcap: it was taken away. Wait."));
    assert!(
        seen[1].starts_with("failed: pcap: it was taken away. Remove the port (weft ports del HOST 2)"),
        "{seen:?}"
    );
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([1]), "what is left of it is closed");
    // What is lost is told once.
    bench.switch.notice_losses();
    assert!(!changes.has_changed().unwrap());
    bench.peer(1).send(frame(7)).unwrap();
    eventually("frames to it are dropped", || bench.dropped(DropReason::PortDown) == [(1, 1)]);

    bench.ports.lost.lock().unwrap().clear();
    bench.switch.retry_failed();
    let seen = states();
    assert_eq!((seen[0].as_str(), seen[2].as_str()), ("up", "up"));
    assert!(seen[1].starts_with("failed"), "a person decides about what a person made");
    assert!(changes.has_changed().unwrap());
    bench.peer(3).send(frame(8)).unwrap();
    assert_eq!(bench.peer(1).wait(PATIENCE).expect("it receives again").bytes, frame(8));
    bench.peer(1).send(frame(9)).unwrap();
    assert_eq!(bench.peer(3).wait(PATIENCE).expect("it sends again").bytes, frame(9));
    bench.manual(v1::Bundle { remove_ports: vec![2], ..Default::default() }).unwrap();
    bench.manual(v1::Bundle { add_ports: vec![port(2)], ..Default::default() }).unwrap();
    assert_eq!(states(), ["up", "up", "up"]);
}
