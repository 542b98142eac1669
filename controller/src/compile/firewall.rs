//! Security groups on one host: what may leave its ports, and what may enter them.
//!
//! | table | what | priority |
//! |---|---|---|
//! | egress_track | IPv4 from a guarded port: looked up in the port's zone, its policy goes to reg2 | 100 |
//! | | all else: on | 0 |
//! | egress_firewall | replies, and what belongs to a connection or is about one: on | 300 |
//! | | what belongs to no connection and can begin none: dropped | 200 |
//! | | what a rule of the policy lets out: on | 100 |
//! | | all else of the policy: dropped | 10 |
//! | ingress_track | IPv4 to a guarded port: looked up in its zone, its policy goes to reg2 | 100 |
//! | | ARP to it: on | 100 |
//! | | all else to it: dropped | 50 |
//! | | to ports without port security: on | 0 |
//! | ingress_firewall | as egress_firewall | |
//! | output | to the port of reg1 | 100 |
//!
//! A port's *zone* is its number, which no other port of the cloud has. Both directions of a connection of the port
//! are in it; two ports of one host that talk to each other are two zones. The packet that begins a connection is
//! remembered (`commit`) where it is looked up; that holds only if the walk outputs it in the end, so what the rules
//! then drop leaves nothing behind, and no rule needs a copy for each port's zone.
//!
//! A *policy* is a set of security groups that ports of this host have. Their rules are installed once for all
//! ports that have just these groups, under the policy's number. An address set is installed for each group that a
//! rule names.

use super::pipeline::{EGRESS_FIREWALL, EGRESS_TRACK, INGRESS_FIREWALL, INGRESS_TRACK, L2, OUTPUT, ct_state};
use super::rule::{RuleBuilder, act, cookie, output, set};
use super::state::HostState;
use crate::model::{Direction, Model, Port, Protocol, Remote, SecurityGroup, SecurityGroupRule};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use weft_proto::digest;
use weft_proto::v1::{self, DropCause, Field, action};

/// The policies of a host: sets of groups, and their numbers, unique on it.
pub(super) struct Policies(BTreeMap<Vec<Uuid>, u32>);

impl Policies {
    /// Of the ports on a host. Numbers follow from the groups, so that they stay what they are.
    pub(super) fn of(model: &Model, host: Uuid) -> Self {
        let sets: BTreeSet<&[Uuid]> =
            model.ports_on(host).filter(|port| port.port_security).map(Port::groups).collect();
        let mut taken = BTreeSet::from([0]);
        let mut policies = BTreeMap::new();
        for groups in sets {
            let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
            // Any 32 bits of it. 0 is what no port has.
            let mut number = digest::of(&v1::Origin { cookie: 0, text: names.join(",") }) as u32;
            while !taken.insert(number) {
                number = number.wrapping_add(1);
            }
            policies.insert(groups.to_vec(), number);
        }
        Self(policies)
    }

    /// A port's; `None` if its port security is off.
    pub(super) fn get(&self, port: &Port) -> Option<u32> {
        self.0.get(&port.groups).copied().filter(|_| port.port_security)
    }
}

/// The name of a group's address set.
fn set_name(group: Uuid) -> String {
    format!("group:{group}")
}

/// Adds what concerns no port: the policies' rules and the address sets they name.
pub(super) fn compile(state: &mut HostState, model: &Model, policies: &Policies) {
    for (table, direction, onward) in
        [(EGRESS_FIREWALL, Direction::Egress, L2), (INGRESS_FIREWALL, Direction::Ingress, OUTPUT)]
    {
        for (groups, &policy) in &policies.0 {
            enforce(state, model, groups, policy, (table, direction, onward));
        }
    }
}

/// The rules of one policy in one direction.
fn enforce(
    state: &mut HostState,
    model: &Model,
    groups: &[Uuid],
    policy: u32,
    (table, direction, onward): (u32, Direction, u32),
) {
    let number = policy.to_be_bytes();
    let groups: Vec<&SecurityGroup> = groups.iter().filter_map(|&group| model.security_groups.get(group)).collect();
    for group in &groups {
        for rule in model.rules_of(group.id).filter(|rule| rule.direction == direction) {
            let cookie = cookie("security-group-rule", &rule.id.to_string());
            state.origin(cookie, text(model, group, rule));
            if let Remote::Group(remote) = rule.remote {
                state.address_sets.entry(set_name(remote)).or_insert_with(|| members(model, remote));
            }
            let begins = || {
                RuleBuilder::new(table, 100, cookie)
                    .with(Field::Reg2, number)
                    .with_mask(Field::CtState, [ct_state::NEW], [ct_state::NEW])
                    .ipv4()
            };
            for matched in matches(rule, &begins) {
                // Two groups may say the same: one of them is enough.
                state.add_if_new(remote(matched, rule).goto(onward));
            }
        }
    }
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let what = match names.as_slice() {
        [] => "no security group".to_owned(),
        [name] => format!("security group {name}"),
        names => format!("security groups {}", names.join(", ")),
    };
    let way = if direction == Direction::Ingress { "enter" } else { "leave" };
    let refused = cookie(direction.word(), &format!("policy/{policy}"));
    state.origin(refused, format!("{what}: no rule lets it {way}"));
    state.add(RuleBuilder::new(table, 10, refused).with(Field::Reg2, number).drop(DropCause::Policy));
}

/// "security group web, rule ingress tcp 80 from 10.0.0.0/8".
fn text(model: &Model, group: &SecurityGroup, rule: &SecurityGroupRule) -> String {
    let preposition = if rule.direction == Direction::Ingress { "from" } else { "to" };
    let remote = match rule.remote {
        Remote::Any => String::new(),
        Remote::Prefix(prefix) => format!(" {preposition} {prefix}"),
        Remote::Group(remote) => {
            let name = model.security_groups.get(remote).map_or("", |remote| remote.name.as_str());
            format!(" {preposition} group {name}")
        }
    };
    format!("security group {}, rule {rule}{remote}", group.name)
}

/// What a rule asks of the protocol, as one or more matches.
fn matches(rule: &SecurityGroupRule, begins: &impl Fn() -> RuleBuilder) -> Vec<RuleBuilder> {
    let of_protocol = |number: u8| begins().with(Field::IpProto, [number]);
    match rule.protocol {
        Protocol::Any => vec![begins()],
        Protocol::Number(number) => vec![of_protocol(number)],
        Protocol::Icmp(kind, code) => {
            let typed = of_protocol(1).with(Field::IcmpType, [kind]);
            vec![match code {
                Some(code) => typed.with(Field::IcmpCode, [code]),
                None => typed,
            }]
        }
        Protocol::Ports(number, ports) => {
            let field = match number {
                6 => Field::TcpDst,
                17 => Field::UdpDst,
                _ => Field::SctpDst,
            };
            let block = |(value, mask): (u16, u16)| {
                of_protocol(number).with_mask(field, value.to_be_bytes(), mask.to_be_bytes())
            };
            ports.blocks().into_iter().map(block).collect()
        }
    }
}

/// What a rule asks of the other end.
fn remote(matched: RuleBuilder, rule: &SecurityGroupRule) -> RuleBuilder {
    let field = if rule.direction == Direction::Ingress { Field::Ipv4Src } else { Field::Ipv4Dst };
    match rule.remote {
        Remote::Any => matched,
        Remote::Prefix(prefix) => matched.within(field, prefix),
        Remote::Group(group) => matched.in_set(field, &set_name(group)),
    }
}

/// The addresses of a group's ports, wherever they are.
fn members(model: &Model, group: Uuid) -> v1::AddressSet {
    let of_port = |port: &Port| {
        let own = port.addresses.iter().map(|fixed| (fixed.address, 32));
        let pairs = port.pairs.iter().map(|pair| (pair.prefix.address(), pair.prefix.length()));
        own.chain(pairs).collect::<Vec<_>>()
    };
    let members = model
        .ports_of_group(group)
        .flat_map(of_port)
        .map(|(address, length)| v1::Prefix { address: address.octets().to_vec(), length: length.into() })
        .collect();
    digest::canonical_set(v1::AddressSet { name: set_name(group), members })
}

/// The zone of a port's connections, looked up in; what begins one is remembered.
fn track(port: &Port) -> v1::Action {
    act(action::Action::Ct(v1::ConnectionTrack {
        zone: port.number,
        commit: true,
        follow_policy: true,
        ..Default::default()
    }))
}

/// Adds what concerns one port of this host.
pub(super) fn guard(state: &mut HostState, port: &Port, policy: Option<u32>) {
    let mut of_port = |kind: &str, what: &str| {
        let cookie = cookie(kind, &port.id.to_string());
        state.origin(cookie, format!("port {}: {what}", port.name));
        cookie
    };
    let number = port.number.to_be_bytes();
    let delivered = of_port("output", "delivery");
    let mut rules =
        vec![RuleBuilder::new(OUTPUT, 100, delivered).with(Field::Reg1, number).apply(vec![output(port.number)])];
    if let Some(policy) = policy {
        let leaves = of_port("egress-track", "connections of what it sends");
        let enters = of_port("ingress-track", "connections of what it is sent");
        let foreign = of_port("ingress-foreign", "neither IPv4 nor ARP, for which its security groups have no rules");
        let own = of_port("own-flood", "what it sends to everybody, which does not come back to it");
        let look = || vec![track(port), set(Field::Reg2, policy.to_be_bytes())];
        let to = |priority, cookie| RuleBuilder::new(INGRESS_TRACK, priority, cookie).with(Field::Reg1, number);
        rules.extend([
            RuleBuilder::new(EGRESS_TRACK, 100, leaves).in_port(port.number).ipv4().apply_goto(look(), EGRESS_FIREWALL),
            // The output to where it came from is left out.
            to(200, own).in_port(port.number).group().goto(OUTPUT),
            to(100, enters).ipv4().apply_goto(look(), INGRESS_FIREWALL),
            to(100, enters).arp().goto(OUTPUT),
            to(50, foreign).drop(DropCause::Policy),
        ]);
    }
    rules.into_iter().for_each(|rule| state.add(rule));
}
