//! Faults for `weft up --check --break NAME`: hand-made rules that make exactly one line of the check wrong.
//! They rely on the names of the fabric's tables and ports, not on how the controller fills them.

use super::check::{address, firewall, outside, reactive, routing, separation, traffic};
use super::cloud::Cloud;
use super::instance::Instance;
use anyhow::{Context, Result};
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::{self, Field};

/// Where it tells which network a frame is of.
const TABLE_CLASSIFY: u32 = 0;
/// Where the fabric refuses what a port may not send.
const TABLE_PORT_SECURITY: u32 = 10;
/// Where it answers ARP and DHCP.
const TABLE_RESPOND: u32 = 20;
/// Where it chooses the way.
const TABLE_L2: u32 = 40;
/// Where a gateway host takes floating IPs for what is inside.
const TABLE_DNAT: u32 = 45;
/// Where it hides who is inside.
const TABLE_SNAT: u32 = 60;
/// Where a router finds the MAC of who it sends to.
const TABLE_NEIGHBOUR: u32 = 62;
/// Where security groups say what may enter a port.
const TABLE_INGRESS_FIREWALL: u32 = 71;
/// Where it is delivered.
const TABLE_OUTPUT: u32 = 80;
/// The tunnel port of every switch.
const TUNNEL_PORT: u32 = 0x00ff_0001;
/// A VNI that no network of the cloud has.
const WRONG_SEGMENT: u32 = 0x00ab_cdef;

/// Of `ip_frag`.
const LATER_FRAGMENT: u8 = 3;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Installs one rule by hand on the host of this index.
fn install(cloud: &Cloud, host: usize, rule: v1::Rule) -> Result<()> {
    let bundle = v1::Bundle { add_rules: vec![rule], ..Default::default() };
    cloud.hosts[host].switch.apply(bundle).context("cannot plant the fault").map(drop)
}

fn rule(table: u32, fields: Vec<v1::FieldMatch>, actions: Vec<Kind>, goto_table: Option<u32>) -> v1::Rule {
    let apply_actions = actions.into_iter().map(|action| v1::Action { action: Some(action) }).collect();
    v1::Rule {
        table,
        priority: 65_535,
        r#match: fields,
        instructions: Some(v1::Instructions { apply_actions, goto_table, ..Default::default() }),
        owner: v1::Owner::Manual.into(),
        ..Default::default()
    }
}

fn field(field: Field, value: impl AsRef<[u8]>) -> v1::FieldMatch {
    v1::FieldMatch { field: field.into(), value: value.as_ref().to_vec(), ..Default::default() }
}

fn from_port(instance: &Instance) -> v1::FieldMatch {
    field(Field::InPort, instance.number.to_be_bytes())
}

fn ipv4(protocol: u8) -> [v1::FieldMatch; 2] {
    [field(Field::EthType, IPV4.to_be_bytes()), field(Field::IpProto, [protocol])]
}

fn set(field: Field, value: impl AsRef<[u8]>) -> Kind {
    Kind::SetField(v1::SetField { field: field.into(), value: value.as_ref().to_vec(), mask: Vec::new() })
}

fn output(port: u32) -> Kind {
    Kind::Output(v1::Output { port })
}

fn drop_as(cause: v1::DropCause) -> Kind {
    Kind::Drop(v1::Drop { cause: cause.into() })
}

/// Into the tunnel to a host, with a VNI.
fn tunnel(cloud: &Cloud, host: usize, segment: u32) -> [Kind; 3] {
    [
        set(Field::TunId, u64::from(segment).to_be_bytes()),
        set(Field::TunDst, cloud.hosts[host].address.octets()),
        output(TUNNEL_PORT),
    ]
}

/// The third host's client gets no answer to its first messages.
pub fn no_dhcp(cloud: &Cloud) -> Result<()> {
    let victim = &cloud.instances[address::LEASE_VICTIM];
    let mut fields = vec![from_port(victim), field(Field::UdpDst, 67_u16.to_be_bytes())];
    fields.extend(ipv4(UDP));
    let rule = rule(TABLE_PORT_SECURITY, fields, vec![drop_as(v1::DropCause::Policy)], None);
    install(cloud, victim.plan.host, rule)
}

/// A client that has a lease gets no answer: renewals come from its address, first requests do not.
pub fn no_renewal(cloud: &Cloud) -> Result<()> {
    let victim = &cloud.instances[address::RENEWER];
    let mut fields = vec![
        from_port(victim),
        field(Field::UdpDst, 67_u16.to_be_bytes()),
        field(Field::Ipv4Src, victim.plan.address.octets()),
    ];
    fields.extend(ipv4(UDP));
    let rule = rule(TABLE_PORT_SECURITY, fields, vec![drop_as(v1::DropCause::Policy)], None);
    install(cloud, victim.plan.host, rule)
}

/// What the first host pings on the second goes out with the wrong VNI.
pub fn wrong_segment(cloud: &Cloud) -> Result<()> {
    let (from, to) = traffic::blue_pair(cloud);
    let mut fields = vec![field(Field::Reg0, from.segment.to_be_bytes()), field(Field::EthDst, to.mac)];
    fields.extend(ipv4(ICMP));
    install(cloud, from.plan.host, rule(TABLE_L2, fields, tunnel(cloud, to.plan.host, WRONG_SEGMENT).to_vec(), None))
}

/// The transfer to the second host goes to the third.
pub fn wrong_host(cloud: &Cloud) -> Result<()> {
    let (from, to) = traffic::blue_pair(cloud);
    let mut fields = vec![field(Field::Reg0, from.segment.to_be_bytes()), field(Field::EthDst, to.mac)];
    fields.push(field(Field::TcpDst, traffic::TRANSFER_PORT.to_be_bytes()));
    fields.extend(ipv4(TCP));
    let third = cloud.hosts.len() - 1;
    install(cloud, from.plan.host, rule(TABLE_L2, fields, tunnel(cloud, third, from.segment).to_vec(), None))
}

/// One kind of one project's packets is copied to a port of the other.
pub fn leak(cloud: &Cloud) -> Result<()> {
    let from = &cloud.instances[separation::BLUE];
    let to = &cloud.instances[separation::GREEN];
    let mut fields = vec![from_port(from), field(Field::UdpDst, separation::ISOLATION_PORT.to_be_bytes())];
    fields.extend(ipv4(UDP));
    let rule = rule(TABLE_PORT_SECURITY, fields, vec![output(to.number)], Some(TABLE_RESPOND));
    install(cloud, from.plan.host, rule)
}

/// One port may send whatever it likes.
pub fn no_anti_spoofing(cloud: &Cloud) -> Result<()> {
    let from = &cloud.instances[separation::SPOOFER];
    install(cloud, from.plan.host, rule(TABLE_PORT_SECURITY, vec![from_port(from)], Vec::new(), Some(TABLE_RESPOND)))
}

/// Broadcasts go to every host.
pub fn flood(cloud: &Cloud) -> Result<()> {
    let (from, to) = traffic::blue_pair(cloud);
    let fields = vec![
        field(Field::Reg0, from.segment.to_be_bytes()),
        field(Field::EthDst, [0xff; 6]),
        field(Field::EthType, ARP.to_be_bytes()),
        field(Field::ArpTpa, separation::ASKED_FOR.octets()),
    ];
    let mut actions = tunnel(cloud, to.plan.host, from.segment).to_vec();
    actions.extend(tunnel(cloud, cloud.hosts.len() - 1, from.segment));
    install(cloud, from.plan.host, rule(TABLE_L2, fields, actions, None))
}

/// What the group is about gets past the firewall, whatever its rules say.
pub fn open_firewall(cloud: &Cloud) -> Result<()> {
    let (_, to) = traffic::blue_pair(cloud);
    let mut fields =
        vec![field(Field::Reg1, to.number.to_be_bytes()), field(Field::TcpDst, firewall::GUARDED_PORT.to_be_bytes())];
    fields.extend(ipv4(TCP));
    install(cloud, to.plan.host, rule(TABLE_INGRESS_FIREWALL, fields, Vec::new(), Some(TABLE_OUTPUT)))
}

/// The router does not know the instance of the second network, on the host of the first.
pub fn no_neighbour(cloud: &Cloud) -> Result<()> {
    let (from, _) = traffic::blue_pair(cloud);
    let fields = vec![field(Field::EthType, IPV4.to_be_bytes()), field(Field::Ipv4Dst, routing::LAB_ADDRESS.octets())];
    let rule = rule(TABLE_NEIGHBOUR, fields, vec![drop_as(v1::DropCause::UnknownDestination)], None);
    install(cloud, from.plan.host, rule)
}

/// The second host hears nothing of the physical network.
pub fn deaf_provider(cloud: &Cloud) -> Result<()> {
    let from = field(Field::InPort, weft_proto::FIRST_PHYSICAL_PORT.to_be_bytes());
    install(cloud, 1, rule(TABLE_CLASSIFY, vec![from], vec![drop_as(v1::DropCause::Elsewhere)], None))
}

/// The first host does not ask for an instance of the reactive network.
pub fn not_asked_for(cloud: &Cloud) -> Result<()> {
    let fields = vec![field(Field::EthType, ARP.to_be_bytes()), field(Field::ArpTpa, reactive::ASKED_FOR.octets())];
    install(cloud, 0, rule(TABLE_RESPOND, fields, vec![drop_as(v1::DropCause::UnknownDestination)], None))
}

/// The host by which the cloud is left.
fn gateway_host(cloud: &Cloud) -> usize {
    crate::outside::gateway_host(cloud.hosts.len())
}

/// The gateway host lets an instance's datagrams out as they are.
pub fn no_snat(cloud: &Cloud) -> Result<()> {
    let mut fields = vec![field(Field::UdpDst, outside::OUTSIDE_PORT.to_be_bytes())];
    fields.extend(ipv4(UDP));
    install(cloud, gateway_host(cloud), rule(TABLE_SNAT, fields, Vec::new(), Some(TABLE_NEIGHBOUR)))
}

/// The gateway host lets out the first fragment of a datagram only.
pub fn no_later_fragments(cloud: &Cloud) -> Result<()> {
    let fields = vec![field(Field::EthType, IPV4.to_be_bytes()), field(Field::IpFrag, [LATER_FRAGMENT])];
    install(cloud, gateway_host(cloud), rule(TABLE_DNAT, fields, vec![drop_as(v1::DropCause::Policy)], None))
}

/// The gateway host does not know whom the floating IP stands for.
pub fn no_floating_ip(cloud: &Cloud) -> Result<()> {
    let fields = vec![field(Field::EthType, IPV4.to_be_bytes()), field(Field::Ipv4Dst, outside::FLOATING.octets())];
    let rule = rule(TABLE_DNAT, fields, vec![drop_as(v1::DropCause::UnknownDestination)], None);
    install(cloud, gateway_host(cloud), rule)
}

/// A switch that forwards only while it has a controller: planted when the controller is killed.
pub fn forward_no_more(cloud: &Cloud) -> Result<()> {
    let (from, _) = traffic::blue_pair(cloud);
    let mut fields = vec![from_port(from), field(Field::UdpDst, traffic::STREAM_PORT.to_be_bytes())];
    fields.extend(ipv4(UDP));
    let rule = rule(TABLE_PORT_SECURITY, fields, vec![drop_as(v1::DropCause::Policy)], None);
    install(cloud, from.plan.host, rule)
}

/// Nothing is planted before: the line itself plants.
pub fn later(_: &Cloud) -> Result<()> {
    Ok(())
}

/// The packet that is traced is dropped by a rule that nobody can account for.
pub fn nameless_drop(cloud: &Cloud) -> Result<()> {
    let from = &cloud.instances[separation::TRACED];
    let fields = vec![
        from_port(from),
        field(Field::EthType, IPV4.to_be_bytes()),
        field(Field::Ipv4Src, separation::TRACED_SOURCE.octets()),
    ];
    let rule = rule(TABLE_PORT_SECURITY, fields, vec![drop_as(v1::DropCause::Spoofed)], None);
    install(cloud, from.plan.host, rule)
}
