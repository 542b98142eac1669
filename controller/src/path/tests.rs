//! The follower, with switches that answer by a script.

use super::*;
use crate::model::{HostReport, PhysicalInterface, Planned, UnderlayAddress};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use weft_proto::text;
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::effect::Effect as EffectKind;
use weft_proto::v1::{Effect, FieldMatch, OutputEffect, TraceReply, TraceRequest, TraceStep};

type Answer = Result<TraceReply, Fault>;

/// Network blue (10.0.0.0/24) with web on host a, db on b and spare on none; network green (10.0.1.0/24). Both hosts reach
/// the physical network lan.
struct Scene {
    model: Model,
    ids: u128,
    /// What is answered next.
    script: Mutex<VecDeque<Answer>>,
    /// Host and request, in order.
    asked: Mutex<Vec<(String, TraceRequest)>>,
}

impl super::Cloud for Scene {
    fn model(&self) -> impl Deref<Target = Model> {
        &self.model
    }

    async fn trace(&self, host: Uuid, request: TraceRequest) -> Answer {
        self.asked.lock().unwrap().push((follow::name(&self.model, host), request));
        self.script.lock().unwrap().pop_front().expect("so many questions are expected")
    }
}

impl Scene {
    fn make<T>(&mut self, plan: impl FnOnce(&Model, Uuid) -> Planned<T>) -> T {
        self.ids += 1;
        let (changes, made) = plan(&self.model, Uuid::from_u128(self.ids)).expect("this is right");
        changes.iter().for_each(|change| self.model.apply(change));
        made
    }

    fn new() -> Self {
        let mut scene = Self { model: Model::default(), ids: 0, script: Mutex::default(), asked: Mutex::default() };
        scene.make(|model, id| model.create_project(&v1::CreateProjectRequest { name: "default".into() }, id));
        for (name, last) in [("a", 1), ("b", 2)] {
            let host = scene.make(|model, id| model.create_host(&v1::CreateHostRequest { name: name.into() }, id));
            let report = HostReport {
                underlay: UnderlayAddress::only([10, 99, 0, last], 1500),
                version: "1".into(),
                physical: BTreeMap::from([(
                    "lan".to_owned(),
                    PhysicalInterface { interface: "eth1".into(), mtu: 1500, shared: false },
                )]),
            };
            scene.make(|model, _| model.report_host(host.id, &report));
        }
        for (name, cidr) in [("blue", "10.0.0.0/24"), ("green", "10.0.1.0/24")] {
            let network = v1::CreateNetworkRequest { name: name.into(), ..Default::default() };
            scene.make(|model, id| model.create_network(&network, id));
            let subnet = v1::CreateSubnetRequest {
                name: name.into(),
                network: name.into(),
                cidr: cidr.into(),
                ..Default::default()
            };
            scene.make(|model, id| model.create_subnet(&subnet, id));
        }
        for (name, address) in [("web", "10.0.0.5"), ("db", "10.0.0.6"), ("spare", "10.0.0.7")] {
            let fixed = v1::FixedIp { ip_address: address.into(), ..Default::default() };
            let port = v1::CreatePortRequest {
                name: name.into(),
                network: "blue".into(),
                fixed_ips: vec![fixed],
                ..Default::default()
            };
            scene.make(|model, id| model.create_port(&port, id));
        }
        for (port, host) in [("web", "a"), ("db", "b")] {
            let plug = v1::PlugPortRequest { port: port.into(), host: host.into(), ..Default::default() };
            scene.make(|model, _| model.plug_port(&plug));
        }
        scene
    }

    fn router(&mut self) {
        let router = v1::CreateRouterRequest { name: "r".into(), ..Default::default() };
        self.make(|model, id| model.create_router(&router, id));
        let interface =
            v1::AddRouterInterfaceRequest { router: "r".into(), subnet: "blue".into(), ..Default::default() };
        self.make(|model, id| model.add_router_interface(&interface, id));
    }

    fn port(&self, name: &str) -> Port {
        self.model.find::<Port>(name, "", "port").unwrap().clone()
    }

    fn answers(&self, script: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().extend(script);
    }

    async fn trace(&self, to: &str, port: u32) -> v1::TracePathReply {
        let request = v1::TracePathRequest {
            port: "web".into(),
            destination: to.into(),
            destination_port: port,
            ..Default::default()
        };
        let reply = trace(self, &Caller::built_in_admin(), &request).await.unwrap();
        assert!(self.script.lock().unwrap().is_empty(), "not everything was asked for");
        reply
    }

    /// What becomes of a packet on its way there.
    async fn verdict(&self, to: &str, port: u32) -> v1::PathVerdict {
        let reply = self.trace(to, port).await;
        assert!(!reply.passes);
        reply.forward.unwrap().verdict.unwrap()
    }
}

fn step(rule: &str, table_name: &str, origin: &str) -> TraceStep {
    let rule = text::parse_rule(&format!("owner=fabric,{rule}")).unwrap();
    let state = v1::RuleState { rule: Some(rule.clone()), origin: origin.into(), ..v1::RuleState::default() };
    TraceStep { table: rule.table, table_name: table_name.into(), rule: Some(state), ..TraceStep::default() }
}

fn arp(mac: &str) -> Answer {
    let mac = text::parse_mac(mac).unwrap().to_vec();
    let action = v1::Action { action: Some(Kind::ArpReply(v1::ArpReply { mac })) };
    let steps = vec![step("table=20,actions=drop", "respond", "port x: ARP")];
    Ok(TraceReply { steps, effects: vec![Effect { effect: Some(EffectKind::Action(action)) }], ..Default::default() })
}

fn output(port: u32, packet: &str) -> OutputEffect {
    OutputEffect { port, packet: text::parse_packet(packet).unwrap(), ..Default::default() }
}

fn sends(output: OutputEffect, begins: &[u32]) -> Answer {
    Ok(TraceReply {
        effects: vec![Effect { effect: Some(EffectKind::Output(output)) }],
        begins: begins.iter().map(|&zone| v1::Connection { zone, ..Default::default() }).collect(),
        ..Default::default()
    })
}

fn to_host(last: u8, packet: &str) -> OutputEffect {
    let (tunnel_destination, tunnel_source) = (vec![10, 99, 0, last], vec![10, 99, 0, 3_u8.wrapping_sub(last)]);
    OutputEffect { tunnel_destination, tunnel_source, tunnel_id: 7, ..output(weft_proto::TUNNEL_PORT, packet) }
}

fn drops(reason: &str, steps: Vec<TraceStep>) -> Answer {
    Ok(TraceReply { steps, drop_reason: reason.into(), ..Default::default() })
}

fn field(packet: &[FieldMatch], wanted: v1::Field) -> Vec<u8> {
    packet::get(packet, wanted).unwrap_or_default().to_vec()
}

const SENT: &str = "eth_dst=02:00:00:00:00:06,eth_src=02:00:00:00:00:05,tcp,ip_src=10.0.0.5,ip_dst=10.0.0.6,\
                    tcp_src=40000,tcp_dst=443";

#[tokio::test]
async fn a_packet_and_its_answer_are_followed_across_hosts() {
    let scene = Scene::new();
    let (web, db) = (scene.port("web"), scene.port("db"));
    let back = "tcp,ip_src=10.0.0.6,ip_dst=10.0.0.5,tcp_src=443,tcp_dst=40000";
    scene.answers([
        arp("02:00:00:00:00:06"),
        sends(to_host(2, SENT), &[web.number]),
        sends(output(db.number, SENT), &[db.number]),
        arp("02:00:00:00:00:05"),
        sends(to_host(1, back), &[]),
        sends(output(web.number, back), &[]),
    ]);
    let reply = scene.trace("10.0.0.6", 443).await;
    assert!(reply.passes, "{reply:#?}");
    let (forward, back) = (reply.forward.unwrap(), reply.reply.unwrap());
    assert_eq!(forward.hops.iter().map(|hop| hop.host.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(forward.verdict.unwrap().text, "delivered to port db on host b");
    assert_eq!(back.verdict.unwrap().port_id, web.id.to_string());
    let asked = scene.asked.lock().unwrap();
    let hosts: Vec<&str> = asked.iter().map(|(host, _)| host.as_str()).collect();
    assert_eq!(hosts, ["a", "a", "b", "b", "b", "a"]);
    use v1::Field;
    let (arp, first, across) = (&asked[0].1.packet, &asked[1].1.packet, &asked[2].1.packet);
    assert_eq!(field(arp, Field::ArpTpa), [10, 0, 0, 6]);
    assert_eq!(field(first, Field::EthDst), [2, 0, 0, 0, 0, 6], "as ARP said");
    assert_eq!(field(first, Field::TcpFlags), [0, 2], "it begins a connection");
    assert_eq!(field(across, Field::InPort), weft_proto::TUNNEL_PORT.to_be_bytes());
    assert_eq!(field(across, Field::TunId), 7_u64.to_be_bytes());
    assert_eq!(field(across, Field::TunSrc), [10, 99, 0, 1]);
    assert_eq!(field(across, Field::TcpDst), [1, 187]);
    // The answer finds what has begun, on each host its own.
    let zones = |index: usize| asked[index].1.assume.iter().map(|one| one.zone).collect::<Vec<_>>();
    assert_eq!((zones(4), zones(5)), (vec![db.number], vec![web.number]));
    assert_eq!(field(&asked[4].1.packet, Field::TcpFlags), [0, 0x12]);
    assert_eq!(field(&asked[4].1.packet, Field::TcpSrc), [1, 187]);
}

#[tokio::test]
async fn a_group_without_a_rule_is_named_with_the_rule_to_add() {
    let scene = Scene::new();
    let db = scene.port("db");
    let refused = |reg1: u32| {
        drops(
            "policy",
            vec![
                step(&format!("table=70,priority=100,reg1={reg1},ip,actions=goto_table:71"), "ingress_track", ""),
                step("table=71,priority=10,reg2=5,actions=drop", "ingress_firewall", "security group default"),
            ],
        )
    };
    scene.answers([arp("02:00:00:00:00:06"), sends(to_host(2, SENT), &[]), refused(db.number)]);
    let verdict = scene.verdict("10.0.0.6", 443).await;
    assert_eq!((verdict.outcome.as_str(), verdict.object.as_str()), ("dropped", "security group \"default\""));
    assert_eq!(verdict.drop_reason, "policy");
    assert_eq!(
        verdict.text,
        "dropped on host b by security group \"default\" of port db: no rule lets tcp 443 in from 10.0.0.5 (the rule \
         \"ingress any\" is for addresses of ports of group \"default\" only)"
    );
    assert_eq!(
        verdict.remedy,
        "Add one: weft group rule add default --ingress --protocol tcp --port 443 --remote 10.0.0.5/32"
    );
}

#[tokio::test]
async fn what_never_gets_onto_the_wire_is_explained() {
    let mut scene = Scene::new();
    let silent = || Ok(TraceReply { drop_reason: "no_output".into(), ..Default::default() });
    scene.answers([silent()]);
    let verdict = scene.verdict("10.0.0.7", 0).await;
    assert_eq!(verdict.object, "port spare");
    assert!(verdict.remedy.contains("weft port plug spare"), "{verdict:?}");
    scene.answers([silent()]);
    assert_eq!(scene.verdict("10.0.0.99", 0).await.object, "network blue");
    scene.answers([silent()]);
    let verdict = scene.verdict("10.0.1.9", 0).await;
    assert!(verdict.text.contains("gateway of subnet blue, which is joined to no router"), "{verdict:?}");
    assert!(verdict.remedy.contains("weft router interface add ROUTER blue"), "{verdict:?}");
    // The router there, and no way from it.
    scene.router();
    scene.answers([
        arp("02:00:00:00:00:01"),
        drops(
            "unknown_destination",
            vec![step("table=50,priority=50,reg3=1,ip,actions=drop", "route", "router r: no route")],
        ),
    ]);
    let verdict = scene.verdict("10.0.1.9", 0).await;
    assert_eq!((verdict.object.as_str(), verdict.host.as_str()), ("router r", "a"));
    assert!(verdict.text.contains("has no route to 10.0.1.9"), "{verdict:?}");
    let unplug = v1::UnplugPortRequest { port: "web".into(), ..Default::default() };
    scene.make(|model, _| model.unplug_port(&unplug));
    assert_eq!(scene.verdict("10.0.0.6", 0).await.object, "port web");
}

#[tokio::test]
async fn what_gets_lost_between_hosts_is_explained() {
    let scene = Scene::new();
    let gone =
        Fault::invalid("host_disconnected", "weft-host", "the switch of host \"b\" is not connected", "Start it.");
    scene.answers([arp("02:00:00:00:00:06"), sends(to_host(2, SENT), &[]), Err(gone)]);
    let verdict = scene.verdict("10.0.0.6", 443).await;
    assert_eq!((verdict.outcome.as_str(), verdict.object.as_str()), ("lost", "host b"));
    assert_eq!(verdict.remedy, "Start it.");
    scene.answers([arp("02:00:00:00:00:06"), sends(to_host(77, SENT), &[])]);
    assert_eq!(scene.verdict("10.0.0.6", 443).await.object, "underlay address 10.99.0.77");
    let unresolved =
        OutputEffect { drop_reason: "neighbour_unresolved".into(), ..output(weft_proto::TUNNEL_PORT, "ip") };
    let Ok(mut reply) = sends(unresolved, &[]) else { unreachable!("it is made so") };
    reply.drop_reason = "neighbour_unresolved".into();
    let rule = format!("table=65,actions=set_field:10.99.0.2->tun_dst,output:{}", weft_proto::TUNNEL_PORT);
    reply.steps.push(step(&rule, "deliver", "port db"));
    scene.answers([arp("02:00:00:00:00:06"), Ok(reply)]);
    let verdict = scene.verdict("10.0.0.6", 443).await;
    assert_eq!(verdict.object, "underlay from host a to host b");
    assert!(verdict.text.contains("does not reach 10.99.0.2"), "{verdict:?}");
    // Rules by hand that send it to and fro.
    let circle = (0..crate::limits::PATH_HOPS - 1).map(|hop| sends(to_host(2 - (hop % 2) as u8, SENT), &[]));
    scene.answers(std::iter::once(arp("02:00:00:00:00:06")).chain(circle).chain([sends(to_host(1, SENT), &[])]));
    assert!(scene.verdict("10.0.0.6", 443).await.text.contains("in circles"));
}

#[tokio::test]
async fn the_way_out_of_the_cloud_and_back_is_followed() {
    let scene = Scene::new();
    let web = scene.port("web");
    let out = "eth_dst=02:00:00:00:00:fe,eth_src=02:00:00:00:00:11,vlan_tci=0x1064,icmp,icmp_type=8,ip_src=203.0.113.5,\
               ip_dst=198.51.100.9";
    let back = "icmp,ip_src=198.51.100.9,ip_dst=10.0.0.5";
    let lan = weft_proto::FIRST_PHYSICAL_PORT;
    scene.answers([
        arp("02:00:00:00:00:01"),
        sends(to_host(2, SENT), &[web.number]),
        sends(output(lan, out), &[0x0100_0001]),
        sends(to_host(1, back), &[]),
        sends(output(web.number, back), &[]),
    ]);
    let reply = scene.trace("198.51.100.9", 0).await;
    assert!(reply.passes, "{reply:#?}");
    let verdict = reply.forward.unwrap().verdict.unwrap();
    assert_eq!((verdict.outcome.as_str(), verdict.object.as_str()), ("out", "physical network lan"));
    assert_eq!(reply.reply.unwrap().port_name, "physical network lan");
    let asked = scene.asked.lock().unwrap();
    let (host, answer) = &asked[3];
    use v1::Field;
    assert_eq!((host.as_str(), field(&answer.packet, Field::InPort)), ("b", lan.to_be_bytes().to_vec()));
    assert_eq!(field(&answer.packet, Field::EthDst), [2, 0, 0, 0, 0, 0x11]);
    assert_eq!(field(&answer.packet, Field::VlanTci), [0x10, 0x64]);
    assert_eq!(field(&answer.packet, Field::Ipv4Dst), [203, 0, 113, 5]);
    assert_eq!(answer.assume.len(), 1, "what the gateway host translates");
}

#[tokio::test]
async fn a_network_on_a_physical_one_is_followed_from_host_to_host() {
    let mut scene = Scene::new();
    let network = v1::CreateNetworkRequest {
        name: "plant".into(),
        segment_type: "vlan".into(),
        physical_network: "lan".into(),
        vlan_id: 100,
        ..Default::default()
    };
    scene.make(|model, id| model.create_network(&network, id));
    let port = v1::CreatePortRequest {
        name: "press".into(),
        network: "plant".into(),
        mac_address: "02:00:00:00:00:aa".into(),
        ..Default::default()
    };
    scene.make(|model, id| model.create_port(&port, id));
    let plug = v1::PlugPortRequest { port: "press".into(), host: "b".into(), ..Default::default() };
    scene.make(|model, _| model.plug_port(&plug));
    let to = |tci| format!("eth_dst=02:00:00:00:00:aa,eth_src=02:00:00:00:00:05,vlan_tci={tci},udp,ip_dst=10.0.0.6");
    let lan = weft_proto::FIRST_PHYSICAL_PORT;
    let press = scene.port("press").number;
    scene.answers([
        arp("02:00:00:00:00:aa"),
        sends(output(lan, &to("0x1064")), &[]),
        sends(output(press, &to("0x1064")), &[]),
    ]);
    let request = v1::TracePathRequest {
        port: "web".into(),
        destination: "10.0.0.6".into(),
        no_reply: true,
        ..Default::default()
    };
    let reply = trace(&scene, &Caller::built_in_admin(), &request).await.unwrap();
    assert!(reply.passes, "{reply:#?}");
    assert_eq!(scene.asked.lock().unwrap()[2].0, "b");
    // Under another VLAN it is somebody else's.
    scene.answers([arp("02:00:00:00:00:aa"), sends(output(lan, &to("0x1065")), &[])]);
    let reply = trace(&scene, &Caller::built_in_admin(), &request).await.unwrap();
    assert_eq!(reply.forward.unwrap().verdict.unwrap().outcome, "out");
}

#[tokio::test]
async fn rules_by_hand_are_named_as_they_are_removed() {
    let scene = Scene::new();
    let mut by_hand = step("priority=900,tcp,tcp_dst=443,actions=drop", "classify", "");
    by_hand.rule.as_mut().unwrap().rule.as_mut().unwrap().set_owner(v1::Owner::Manual);
    scene.answers([arp("02:00:00:00:00:06"), drops("policy", vec![by_hand])]);
    let verdict = scene.verdict("10.0.0.6", 443).await;
    assert_eq!(verdict.object, "rule by hand table=0,priority=900,tcp,tcp_dst=443");
    assert!(
        verdict.remedy.ends_with("weft flows del a --strict 'table=0,priority=900,tcp,tcp_dst=443'"),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn a_request_that_makes_no_packet_is_refused() {
    let scene = Scene::new();
    let refused = async |change: fn(&mut v1::TracePathRequest)| {
        let mut request =
            v1::TracePathRequest { port: "web".into(), destination: "10.0.0.6".into(), ..Default::default() };
        change(&mut request);
        trace(&scene, &Caller::built_in_admin(), &request).await.unwrap_err().field
    };
    assert_eq!(refused(|request| request.port = "nobody".into()).await, "port");
    assert_eq!(refused(|request| request.destination = "10.0.0.5".into()).await, "destination");
    assert_eq!(refused(|request| request.destination = "255.255.255.255".into()).await, "destination");
    assert_eq!(refused(|request| request.protocol = "quic".into()).await, "protocol");
    assert_eq!(refused(|request| request.destination_port = 70_000).await, "destination_port");
    assert_eq!(refused(|request| request.bytes = 70_000).await, "bytes");
    let stranger = Caller { project: Some(Uuid::from_u128(99)), ..Caller::built_in_admin() };
    let request = v1::TracePathRequest { port: "web".into(), destination: "10.0.0.6".into(), ..Default::default() };
    assert_eq!(trace(&scene, &stranger, &request).await.unwrap_err().code, "not_allowed");
}
