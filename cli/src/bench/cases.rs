//! The cases: which traffic, which rules, and how much of Open vSwitch's cost a packet may cost here.
//!
//! Rules are in the syntax of `ovs-ofctl`, and given to both switches through their public interfaces.

use super::figure::Figure;
use super::traffic::{DESTINATION_MAC, Flow, REMOTE_ADDRESS, SOURCE_MAC, TUNNEL_KEY, shuffle};
use super::{Bench, real};
use anyhow::Result;
use weft_proto::text::format_mac;

/// A case.
pub struct Case {
    /// By which it is asked for.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// What is measured.
    pub measure: Measure,
    /// The largest good ratio, ours to theirs; of rates, 1 by the smallest.
    pub at_most: f64,
}

/// What is measured.
#[derive(Clone, Copy)]
pub enum Measure {
    /// Nanoseconds a packet, once caches know all flows.
    Packet(fn() -> Scenario),
    /// Nanoseconds a flow, of which only the first packet comes.
    NewFlow(fn() -> Scenario),
    /// Time until rules are in force, and memory afterwards.
    Rules(fn() -> Vec<String>),
    /// On the kernel's interfaces.
    Real(fn(&Bench, &Case) -> Result<Vec<Figure>>),
}

/// A tunnel that packets enter or leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// They enter VXLAN.
    VxlanPush,
    /// They enter GRE.
    GrePush,
    /// They come in VXLAN.
    VxlanPop,
}

/// Traffic and rules.
pub struct Scenario {
    /// Frames of the recording.
    pub frames: Vec<Vec<u8>>,
    /// In the syntax of `ovs-ofctl`.
    pub rules: Vec<String>,
    /// With a tunnel port.
    pub tunnel: Option<Tunnel>,
    /// The recording is received again and again.
    pub repeat: bool,
}

impl Scenario {
    fn new(frames: Vec<Vec<u8>>, rules: Vec<String>) -> Self {
        Self { frames, rules, tunnel: None, repeat: true }
    }

    fn once(self) -> Self {
        Self { repeat: false, ..self }
    }

    fn through(self, tunnel: Tunnel) -> Self {
        Self { tunnel: Some(tunnel), ..self }
    }
}

/// All of them, in the order of the table.
pub const CASES: &[Case] = &[
    Case {
        name: "one-flow",
        about: "1 flow, one rule with 5 masked fields",
        measure: Measure::Packet(|| Scenario::new(frames(1), vec![masked("output:2")])),
        at_most: 0.5,
    },
    Case {
        name: "masked-rule",
        about: "10k flows, one rule with 5 masked fields",
        measure: Measure::Packet(|| Scenario::new(frames(10_000), vec![masked("output:2")])),
        at_most: 0.5,
    },
    Case {
        name: "one-flow-simple",
        about: "1 flow, one rule on the port (Open vSwitch: simple match)",
        measure: Measure::Packet(|| Scenario::new(frames(1), vec!["in_port=1,actions=output:2".to_owned()])),
        at_most: 1.0,
    },
    Case {
        name: "port-rule-simple",
        about: "10k flows, one rule on the port (Open vSwitch: simple match)",
        measure: Measure::Packet(|| Scenario::new(frames(10_000), vec!["in_port=1,actions=output:2".to_owned()])),
        at_most: 1.0,
    },
    Case {
        name: "exact-rules",
        about: "10k flows, 10k exact rules",
        measure: Measure::Packet(|| Scenario::new(frames(10_000), exact(10_000))),
        at_most: 0.25,
    },
    Case {
        name: "many-flows",
        about: "200k flows in random order, 200k rules, 1 mask",
        measure: Measure::Packet(|| Scenario::new(shuffled(frames(200_000)), exact(200_000))),
        at_most: 0.5,
    },
    Case {
        name: "many-flows-16-masks",
        about: "200k flows in random order, 200k rules, 16 masks",
        measure: Measure::Packet(|| {
            let (flows, rules) = classes(200_000);
            Scenario::new(shuffled(flows), rules)
        }),
        at_most: 0.2,
    },
    Case {
        name: "16-masks",
        about: "10k flows, 10k rules, 16 masks",
        measure: Measure::Packet(|| {
            let (flows, rules) = classes(10_000);
            Scenario::new(shuffled(flows), rules)
        }),
        at_most: 0.1,
    },
    Case {
        name: "tenant",
        about: "the whole pipeline of a tenant, 10 tables, 10k connections",
        measure: Measure::Packet(|| Scenario::new(shuffled(frames(10_000)), tenant())),
        at_most: 0.2,
    },
    Case {
        name: "connections",
        about: "10k tracked connections, both directions",
        measure: Measure::Packet(|| {
            let both = (0..10_000).map(Flow::number).flat_map(|flow| [flow.frame(), flow.reversed().frame()]);
            Scenario::new(shuffled(both.collect()), tracked())
        }),
        at_most: 0.2,
    },
    Case {
        name: "source-nat",
        about: "source NAT, 10k connections",
        measure: Measure::Packet(|| Scenario::new(shuffled(frames(10_000)), vec![translated()])),
        at_most: 0.2,
    },
    Case {
        name: "vlan-push",
        about: "10k flows, a VLAN tag is pushed",
        measure: Measure::Packet(|| {
            Scenario::new(frames(10_000), vec![masked("push_vlan:0x8100,mod_vlan_vid:5,output:2")])
        }),
        at_most: 0.5,
    },
    Case {
        name: "rewrite",
        about: "10k flows, TTL and both MAC addresses are rewritten",
        measure: Measure::Packet(|| {
            let actions = format!("dec_ttl,{},output:2", macs("02:00:00:00:00:11", "02:00:00:00:00:12"));
            Scenario::new(frames(10_000), vec![masked(&actions)])
        }),
        at_most: 0.5,
    },
    Case {
        name: "vxlan-push",
        about: "10k flows into VXLAN",
        measure: Measure::Packet(|| Scenario::new(frames(10_000), vec![masked(&wrap())]).through(Tunnel::VxlanPush)),
        at_most: 0.35,
    },
    Case {
        name: "gre-push",
        about: "10k flows into GRE",
        measure: Measure::Packet(|| Scenario::new(frames(10_000), vec![masked(&wrap())]).through(Tunnel::GrePush)),
        at_most: 0.35,
    },
    Case {
        name: "vxlan-pop",
        about: "10k flows out of VXLAN",
        measure: Measure::Packet(|| {
            let frames = (0..10_000).map(|number| Flow::number(number).in_vxlan()).collect();
            let rule = masked("output:2").replace("in_port=1", &format!("in_port=3,tun_id={TUNNEL_KEY}"));
            Scenario::new(frames, vec![rule]).through(Tunnel::VxlanPop)
        }),
        at_most: 0.35,
    },
    Case {
        name: "new-flows",
        about: "first packets of 50k flows, 50k exact rules in one table",
        measure: Measure::NewFlow(|| Scenario::new(shuffled(frames(50_000)), exact(50_000)).once()),
        at_most: 0.1,
    },
    Case {
        name: "new-flows-tenant",
        about: "first packets of 40k connections, the whole pipeline of a tenant",
        measure: Measure::NewFlow(|| Scenario::new(shuffled(frames(40_000)), tenant()).once()),
        at_most: 0.2,
    },
    Case { name: "100k-rules", about: "100k exact rules", measure: Measure::Rules(|| exact(100_000)), at_most: 0.1 },
    Case {
        name: "real-one-flow",
        about: "1 flow over AF_XDP, veth to veth",
        measure: Measure::Real(real::one_flow),
        at_most: 100.0,
    },
    Case {
        name: "real-tenant",
        about: "the whole pipeline of a tenant, 10k connections, over AF_XDP, veth to veth",
        measure: Measure::Real(real::tenant_pipeline),
        at_most: 150.0,
    },
    Case {
        name: "real-latency",
        about: "p99 of round trips over AF_XDP at light load",
        measure: Measure::Real(real::latency),
        at_most: 20.0,
    },
    Case {
        name: "real-taps",
        about: "one TCP stream between two TAPs",
        measure: Measure::Real(real::taps),
        at_most: 1.0 / 0.95,
    },
    Case {
        name: "real-vxlan",
        about: "one TCP stream between instances of two switches over VXLAN",
        measure: Measure::Real(real::vxlan),
        at_most: 1.0 / 3.0,
    },
];

/// One frame of each of the first flows, in order.
fn frames(flows: u32) -> Vec<Vec<u8>> {
    (0..flows).map(|number| Flow::number(number).frame()).collect()
}

fn shuffled(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    shuffle(&mut frames);
    frames
}

/// One rule that all flows match, by parts of all five fields.
fn masked(actions: &str) -> String {
    format!(
        "in_port=1,udp,nw_src=10.0.0.0/10,nw_dst=10.64.0.0/10,udp_src=0x0/0x8000,udp_dst=0x1000/0xf000,actions={actions}"
    )
}

fn macs(source: &str, destination: &str) -> String {
    format!("set_field:{source}->eth_src,set_field:{destination}->eth_dst")
}

fn wrap() -> String {
    format!("set_field:{TUNNEL_KEY}->tun_id,set_field:{REMOTE_ADDRESS}->tun_dst,output:3")
}

/// A rule for each of the first flows.
pub fn exact(flows: u32) -> Vec<String> {
    let rule = |number| {
        let Flow { source, destination, source_port, destination_port } = Flow::number(number);
        format!(
            "in_port=1,udp,nw_src={source},nw_dst={destination},udp_src={source_port},udp_dst={destination_port},\
             actions=output:2"
        )
    };
    (0..flows).map(rule).collect()
}

/// Flows of 16 classes, and a rule for each flow, with the mask of its class: the source by 25 to 32 bits, with or
/// without the destination port. A class has a /8 of its own, in which its flows lie so far apart that each has a
/// prefix of its own.
fn classes(flows: u32) -> (Vec<Vec<u8>>, Vec<String>) {
    let one = |number: u32| {
        let (class, member) = (number % 16, number / 16);
        let bits = 25 + class % 8;
        let source = std::net::Ipv4Addr::from((class + 16) << 24 | member << 7 | 1);
        let flow = Flow { source, ..Flow::number(number) };
        let network = std::net::Ipv4Addr::from(source.to_bits() & (u32::MAX << (32 - bits)));
        let port = if class < 8 { String::new() } else { format!(",udp_dst={}", flow.destination_port) };
        (flow.frame(), format!("in_port=1,udp,nw_src={network}/{bits}{port},actions=output:2"))
    };
    (0..flows).map(one).unzip()
}

/// Connections of UDP: known ones pass, others are remembered and pass.
fn tracked() -> Vec<String> {
    [
        "table=0,in_port=1,udp,actions=ct(zone=1,table=1)",
        "table=1,ct_state=+trk+new,udp,actions=ct(commit,zone=1),output:2",
        "table=1,ct_state=+trk+est,udp,actions=output:2",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn translated() -> String {
    "in_port=1,udp,actions=ct(commit,zone=1,nat(src=192.0.2.9:1024-65535)),output:2".to_owned()
}

/// What a packet from an instance to the world outside passes: which network, port security, the responders, the
/// firewall with its connections, switching, routing, source NAT, the next hop, delivery, output. Beside the rule
/// that is found stand others, as in a cloud.
pub fn tenant() -> Vec<String> {
    let (instance, router) = (format_mac(&SOURCE_MAC), format_mac(&DESTINATION_MAC));
    let mut rules = vec![
        "table=0,priority=100,in_port=1,actions=set_field:7->reg0,goto_table:10".to_owned(),
        format!("table=10,priority=100,in_port=1,udp,eth_src={instance},nw_src=10.0.0.0/10,actions=goto_table:20"),
        format!("table=10,priority=100,in_port=1,tcp,eth_src={instance},nw_src=10.0.0.0/10,actions=goto_table:20"),
        "table=10,priority=0,actions=drop".to_owned(),
        "table=20,priority=100,arp,reg0=7,actions=drop".to_owned(),
        "table=20,priority=90,udp,reg0=7,udp_src=68,udp_dst=67,actions=drop".to_owned(),
        "table=20,priority=0,actions=goto_table:30".to_owned(),
        "table=30,priority=100,udp,reg0=7,actions=ct(zone=1,table=31)".to_owned(),
        "table=30,priority=100,tcp,reg0=7,actions=ct(zone=1,table=31)".to_owned(),
        "table=31,priority=100,ct_state=+trk+est,udp,actions=goto_table:40".to_owned(),
        "table=31,priority=100,ct_state=+trk+inv,udp,actions=drop".to_owned(),
        "table=31,priority=0,actions=drop".to_owned(),
        format!("table=40,priority=100,reg0=7,eth_dst={router},actions=goto_table:50"),
        "table=40,priority=0,actions=drop".to_owned(),
        "table=50,priority=0,actions=drop".to_owned(),
        "table=60,priority=100,udp,reg0=9,actions=ct(commit,zone=2,nat(src=192.0.2.9:1024-65535)),goto_table:62"
            .to_owned(),
        "table=60,priority=0,actions=goto_table:62".to_owned(),
        "table=62,priority=0,actions=drop".to_owned(),
        "table=65,priority=100,reg0=9,actions=set_field:2->reg1,goto_table:80".to_owned(),
        "table=80,priority=100,reg1=2,actions=output:2".to_owned(),
        "table=80,priority=0,actions=drop".to_owned(),
    ];
    // Security group: blocks of ports, for several networks.
    for block in 0..16 {
        rules.push(format!(
            "table=31,priority=50,ct_state=+trk+new,udp,nw_dst=10.64.0.0/10,udp_dst={:#x}/0xff00,\
             actions=ct(commit,zone=1),goto_table:40",
            0x1000 + block * 0x100
        ));
        rules.push(format!(
            "table=31,priority=50,ct_state=+trk+new,tcp,nw_dst=10.{}.0.0/16,tcp_dst={},actions=ct(commit,zone=1),goto_table:40",
            64 + block,
            8000 + block
        ));
    }
    // Other instances of the network, other networks of the router.
    for other in 1..=64 {
        rules.push(format!(
            "table=40,priority=50,reg0=7,eth_dst=02:00:00:00:01:{other:02x},actions=set_field:{}->reg1,goto_table:80",
            other + 100
        ));
        rules.push(format!(
            "table=50,priority=24,ip,reg0=7,nw_dst=10.{}.{other}.0/24,actions=dec_ttl,{},set_field:9->reg0,goto_table:60",
            128 + other,
            macs("02:00:00:00:00:21", "02:00:00:00:00:22")
        ));
    }
    for network in 0..16 {
        rules.push(format!(
            "table=50,priority=16,ip,reg0=7,nw_dst=10.{}.0.0/14,actions=dec_ttl,set_field:02:00:00:00:00:21->eth_src,\
             set_field:9->reg0,goto_table:60",
            64 + 4 * network
        ));
        rules.push(format!(
            "table=62,priority=100,ip,reg0=9,nw_dst=10.{}.0.0/14,actions=set_field:02:00:00:00:02:{network:02x}->eth_dst,\
             goto_table:65",
            64 + 4 * network
        ));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::super::ours::bundle_of;
    use super::*;

    #[test]
    fn every_case_has_rules_that_our_switch_understands() {
        for case in CASES {
            let rules = match case.measure {
                Measure::Packet(scenario) | Measure::NewFlow(scenario) => {
                    let scenario = scenario();
                    assert!(!scenario.frames.is_empty(), "{}", case.name);
                    scenario.rules
                }
                Measure::Rules(rules) => rules(),
                Measure::Real(_) => continue,
            };
            let sample: Vec<String> = rules.into_iter().take(1000).collect();
            bundle_of(&sample).unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        }
        let names: std::collections::BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
    }

    #[test]
    fn sixteen_classes_have_sixteen_masks_and_no_two_flows_a_rule() {
        let (_, rules) = classes(200_000);
        let rules: std::collections::BTreeSet<_> = rules.into_iter().collect();
        assert_eq!(rules.len(), 200_000);
        let mask = |rule: &String| {
            let source = rule.split(',').find(|word| word.starts_with("nw_src")).and_then(|word| word.split_once('/'));
            (source.map(|(_, bits)| bits.to_owned()), rule.contains("udp_dst"))
        };
        let masks: std::collections::BTreeSet<_> = rules.iter().map(mask).collect();
        assert_eq!(masks.len(), 16);
    }
}
