//! The rules of security groups: created, removed; what they match.

use super::lookup::limit;
use super::name::valid_description;
use super::{By, Change, Ipv4Prefix, Model, Object, Planned, Port, SecurityGroup, record};
use crate::limits;
use std::collections::BTreeSet;
use std::fmt;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// One thing that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroupRule {
    /// Unique in the cloud.
    pub id: Uuid,
    /// That of the group.
    pub project: Uuid,
    /// The group it belongs to.
    pub group: Uuid,
    /// Which way.
    pub direction: Direction,
    /// Of which protocol.
    pub protocol: Protocol,
    /// From or to whom.
    pub remote: Remote,
    /// For people.
    pub description: String,
}

/// Which way a packet goes, as the port sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the port.
    Ingress,
    /// From the port.
    Egress,
}

impl Direction {
    /// As the API writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What a rule asks of a packet's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing.
    Any,
    /// This IP protocol.
    Number(u8),
    /// TCP, UDP or SCTP, by its number, to these ports.
    Ports(u8, Ports),
    /// ICMP of this type, and if one is given this code.
    Icmp(u8, Option<u8>),
}

/// ICMP's number (IANA, Assigned Internet Protocol Numbers).
const ICMP: u8 = 1;
/// The protocols that have names, and ports.
const WITH_PORTS: [(&str, u8); 3] = [("tcp", 6), ("udp", 17), ("sctp", 132)];

impl Protocol {
    /// Its number.
    #[must_use]
    pub fn number(self) -> Option<u8> {
        match self {
            Self::Any => None,
            Self::Number(number) | Self::Ports(number, _) => Some(number),
            Self::Icmp(..) => Some(ICMP),
        }
    }

    fn word(self) -> String {
        match self.number() {
            None => String::new(),
            Some(ICMP) => "icmp".to_owned(),
            Some(number) => {
                WITH_PORTS.iter().find(|row| row.1 == number).map_or_else(|| number.to_string(), |row| row.0.to_owned())
            }
        }
    }

    /// How many rules of a flow table it comes to.
    #[must_use]
    pub fn flows(self) -> usize {
        if let Self::Ports(_, ports) = self { ports.blocks().len() } else { 1 }
    }
}

/// A range of ports, first and last; the first is not above the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The range as values and masks: blocks of 1, 16, 256 or 4096 ports, or all. So few sizes, because a table of a
    /// switch takes a limited number of different masks, and these are multiplied by the lengths of prefixes.
    #[must_use]
    pub fn blocks(self) -> Vec<(u16, u16)> {
        let (mut next, end) = (u32::from(self.first), u32::from(self.last) + 1);
        let mut blocks = Vec::new();
        while next < end {
            let fits = |size: &u32| next.is_multiple_of(*size) && next + size <= end;
            let size = [65_536, 4096, 256, 16].into_iter().find(fits).unwrap_or(1);
            // Both are below 2^16.
            blocks.push((next as u16, !((size - 1) as u16)));
            next += size;
        }
        blocks
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Anybody.
    Any,
    /// Who has an address of this range.
    Prefix(Ipv4Prefix),
    /// Who has an address of a port of this group.
    Group(Uuid),
}

/// By what rules are found.
#[derive(Clone, Debug, Default)]
pub struct SecurityGroupRuleIndex {
    pub(super) of_group: By<Uuid>,
    /// By the group they name.
    pub(super) of_remote: By<Uuid>,
}

impl Object for SecurityGroupRule {
    const WORD: &'static str = "security group rule";
    const COMMAND: &'static str = "group rule";
    const MOST: usize = limits::SECURITY_GROUPS * limits::RULES_PER_GROUP;
    type Record = v1::SecurityGroupRule;
    type Index = SecurityGroupRuleIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn project(&self) -> Uuid {
        self.project
    }

    fn record(&self) -> v1::SecurityGroupRule {
        let (ports, icmp) = match self.protocol {
            Protocol::Ports(_, ports) => (Some(ports), None),
            Protocol::Icmp(kind, code) => (None, Some((kind, code))),
            Protocol::Any | Protocol::Number(_) => (None, None),
        };
        let (prefix, group) = match self.remote {
            Remote::Any => (None, None),
            Remote::Prefix(prefix) => (Some(prefix), None),
            Remote::Group(group) => (None, Some(group)),
        };
        v1::SecurityGroupRule {
            id: self.id.to_string(),
            project_id: self.project.to_string(),
            security_group_id: self.group.to_string(),
            direction: self.direction.word().to_owned(),
            ether_type: "IPv4".to_owned(),
            protocol: self.protocol.word(),
            port_range_min: ports.map(|ports| ports.first.into()),
            port_range_max: ports.map(|ports| ports.last.into()),
            icmp_type: icmp.map(|(kind, _)| kind.into()),
            icmp_code: icmp.and_then(|(_, code)| code).map(Into::into),
            remote_ip_prefix: record::text(prefix),
            remote_group_id: record::text(group),
            description: self.description.clone(),
        }
    }

    fn from_record(record: v1::SecurityGroupRule) -> Result<Self, String> {
        let request = v1::CreateSecurityGroupRuleRequest {
            direction: record.direction,
            ether_type: record.ether_type,
            protocol: record.protocol,
            port_range_min: record.port_range_min,
            port_range_max: record.port_range_max,
            icmp_type: record.icmp_type,
            icmp_code: record.icmp_code,
            remote_ip_prefix: record.remote_ip_prefix,
            ..Default::default()
        };
        let text = |fault: Fault| fault.to_string();
        let remote = match record::optional(&record.remote_group_id, record::uuid)? {
            Some(group) => Remote::Group(group),
            None => remote_prefix(&request).map_err(text)?,
        };
        Ok(Self {
            id: record::uuid(&record.id)?,
            project: record::uuid(&record.project_id)?,
            group: record::uuid(&record.security_group_id)?,
            direction: direction(&request).map_err(text)?,
            protocol: protocol(&request).map_err(text)?,
            remote,
            description: record.description,
        })
    }

    fn index(&self, index: &mut SecurityGroupRuleIndex, present: bool) {
        index.of_group.set(self.group, self.id, present);
        if let Remote::Group(remote) = self.remote {
            index.of_remote.set(remote, self.id, present);
        }
    }

    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        model.hosts_of_group(self.group).collect()
    }
}

/// As people read it, without its group and the other end: "ingress tcp 80".
impl fmt::Display for SecurityGroupRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.direction.word())?;
        match self.protocol {
            Protocol::Any => write!(formatter, " any"),
            Protocol::Number(_) => write!(formatter, " {}", self.protocol.word()),
            Protocol::Ports(_, Ports { first, last }) if first == last => {
                write!(formatter, " {} {first}", self.protocol.word())
            }
            Protocol::Ports(_, Ports { first, last }) => {
                write!(formatter, " {} {first}-{last}", self.protocol.word())
            }
            Protocol::Icmp(kind, None) => write!(formatter, " icmp type {kind}"),
            Protocol::Icmp(kind, Some(code)) => write!(formatter, " icmp type {kind} code {code}"),
        }
    }
}

impl Model {
    /// Plans a rule. It must say something that no other rule of the group says.
    pub fn create_security_group_rule(
        &self,
        request: &v1::CreateSecurityGroupRuleRequest,
        id: Uuid,
    ) -> Planned<SecurityGroupRule> {
        let group: &SecurityGroup = self.find(&request.security_group, &request.project, "security_group")?;
        let remote =
            if request.remote_group.is_empty() { remote_prefix(request)? } else { self.remote_group(request, group)? };
        valid_description(&request.description)?;
        let rule = SecurityGroupRule {
            id,
            project: group.project,
            group: group.id,
            direction: direction(request)?,
            protocol: protocol(request)?,
            remote,
            description: request.description.clone(),
        };
        let says = |rule: &SecurityGroupRule| (rule.direction, rule.protocol, rule.remote);
        if let Some(other) = self.rules_of(group.id).find(|other| says(other) == says(&rule)) {
            return Err(Fault::invalid(
                "rule_exists",
                "security_group",
                format!("group {:?} has this rule already: {}", group.name, other.id),
                "Nothing needs to be done.",
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        if self.rules_of(group.id).count() >= limits::RULES_PER_GROUP {
            return Err(limit("rules in the group", limits::RULES_PER_GROUP, "Make another group."));
        }
        self.check_flows_of_ports(&rule)?;
        Ok((vec![Change::put(rule.clone())], rule))
    }

    fn remote_group(
        &self,
        request: &v1::CreateSecurityGroupRuleRequest,
        group: &SecurityGroup,
    ) -> Result<Remote, Fault> {
        if !request.remote_ip_prefix.is_empty() {
            return Err(Fault::invalid(
                "two_remotes",
                "remote_group",
                "a rule has one other end, and a group and a range are given",
                "Give one of them, or make two rules.",
            ));
        }
        let remote: &SecurityGroup = self.find(&request.remote_group, &group.project.to_string(), "remote_group")?;
        Ok(Remote::Group(remote.id))
    }

    /// Plans its removal.
    pub fn delete_security_group_rule(&self, named: &str, project: &str) -> Planned<SecurityGroupRule> {
        let rule: &SecurityGroupRule = self.find(named, project, "rule")?;
        Ok((vec![Change::remove(rule)], rule.clone()))
    }

    /// Whether the ports of the rule's group have room for it.
    fn check_flows_of_ports(&self, rule: &SecurityGroupRule) -> Result<(), Fault> {
        let alike: BTreeSet<&[Uuid]> = self.ports_of_group(rule.group).map(Port::groups).collect();
        let more = rule.protocol.flows();
        alike.into_iter().try_for_each(|groups| self.check_flows(groups, rule.direction, more))
    }

    /// Whether groups come to few enough rules of a flow table, with so many more.
    pub(super) fn check_flows(&self, groups: &[Uuid], direction: Direction, more: usize) -> Result<(), Fault> {
        let rules = groups.iter().flat_map(|&group| self.rules_of(group));
        let flows: usize =
            rules.filter(|rule| rule.direction == direction).map(|rule| rule.protocol.flows()).sum::<usize>() + more;
        if flows <= limits::FIREWALL_RULES_PER_PORT {
            return Ok(());
        }
        Err(Fault::invalid(
            "limit_reached",
            "",
            format!("the port's security groups would come to {flows} {} rules of a flow table", direction.word()),
            format!(
                "At most {} are allowed. Give fewer groups, fewer rules, or ranges of ports that begin and end at \
                 multiples of 16, 256 or 4096.",
                limits::FIREWALL_RULES_PER_PORT
            ),
        )
        .with_status(tonic::Code::ResourceExhausted))
    }
}

fn direction(request: &v1::CreateSecurityGroupRuleRequest) -> Result<Direction, Fault> {
    if !matches!(request.ether_type.as_str(), "" | "IPv4") {
        let ipv6 = request.ether_type == "IPv6";
        let code = if ipv6 { "ipv6_unsupported" } else { "bad_ether_type" };
        let what = if ipv6 { "which is not supported yet" } else { "which is not an Ethernet type of rules" };
        let problem = format!("the rule is for {:?}, {what}", request.ether_type);
        return Err(Fault::invalid(code, "ether_type", problem, "Leave it out, or give \"IPv4\"."));
    }
    [Direction::Ingress, Direction::Egress].into_iter().find(|known| known.word() == request.direction).ok_or_else(
        || {
            let problem = if request.direction.is_empty() {
                "no direction is given".to_owned()
            } else {
                format!("{:?} is no direction", request.direction)
            };
            Fault::invalid("bad_direction", "direction", problem, "Give \"ingress\" or \"egress\".")
        },
    )
}

fn protocol(request: &v1::CreateSecurityGroupRuleRequest) -> Result<Protocol, Fault> {
    let number = match request.protocol.as_str() {
        "" | "any" => None,
        "icmp" => Some(ICMP),
        "icmpv6" | "ipv6-icmp" => {
            return Err(Fault::invalid(
                "ipv6_unsupported",
                "protocol",
                "ICMPv6 is of IPv6, which is not supported yet",
                "Give \"icmp\".",
            ));
        }
        text => Some(protocol_number(text)?),
    };
    let icmp = icmp(request, number)?;
    let ports = ports(request, number)?;
    Ok(match (number, ports, icmp) {
        (Some(number), Some(ports), _) => Protocol::Ports(number, ports),
        (_, _, Some((kind, code))) => Protocol::Icmp(kind, code),
        (Some(number), None, None) => Protocol::Number(number),
        (None, ..) => Protocol::Any,
    })
}

fn protocol_number(text: &str) -> Result<u8, Fault> {
    if let Some(row) = WITH_PORTS.iter().find(|row| row.0 == text) {
        return Ok(row.1);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        Fault::invalid(
            "bad_protocol",
            "protocol",
            format!("{text:?} is no protocol"),
            "Give tcp, udp, sctp, icmp, a number from 0 to 255, or nothing for any.",
        )
    })
}

fn ports(request: &v1::CreateSecurityGroupRuleRequest, protocol: Option<u8>) -> Result<Option<Ports>, Fault> {
    let bad =
        |field: &str, problem: String, remedy: &str| Err(Fault::invalid("bad_port_range", field, problem, remedy));
    let (first, last) = match (request.port_range_min, request.port_range_max) {
        (None, None) => return Ok(None),
        (None, Some(last)) => {
            let problem = format!("the range ends at {last} and begins nowhere");
            return bad("port_range_min", problem, "Give the first port too.");
        }
        (Some(first), last) => (first, last.unwrap_or(first)),
    };
    if !WITH_PORTS.iter().any(|row| Some(row.1) == protocol) {
        let problem = "ports are given, and the protocol is none that has ports".to_owned();
        return bad("port_range_min", problem, "Give the protocol too: tcp, udp or sctp.");
    }
    let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else {
        let field = if first > 65_535 { "port_range_min" } else { "port_range_max" };
        return bad(field, format!("{} is no port", first.max(last)), "Give ports from 0 to 65535.");
    };
    if first > last {
        let problem = format!("the range begins at {first} and ends at {last}");
        return bad("port_range_max", problem, "Give a last port that is not below the first.");
    }
    // What everybody writes for "all"; nothing listens on port 0.
    Ok((first > 1 || last < 65_535).then_some(Ports { first, last }))
}

fn icmp(request: &v1::CreateSecurityGroupRuleRequest, protocol: Option<u8>) -> Result<Option<(u8, Option<u8>)>, Fault> {
    let bad = |field: &str, problem: &str, remedy: &str| Err(Fault::invalid("bad_icmp", field, problem, remedy));
    let (kind, code) = match (request.icmp_type, request.icmp_code) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return bad("icmp_code", "a code is given without a type", "Give the type too."),
        (Some(kind), code) => (kind, code),
    };
    if protocol != Some(ICMP) {
        return bad("icmp_type", "a type of ICMP is given, and the protocol is another", "Give the protocol icmp.");
    }
    let Ok(kind) = u8::try_from(kind) else {
        return bad("icmp_type", &format!("{kind} is no type of ICMP"), "Give 0 to 255.");
    };
    match code.map(u8::try_from).transpose() {
        Ok(code) => Ok(Some((kind, code))),
        Err(_) => bad("icmp_code", "that is no code of ICMP", "Give 0 to 255."),
    }
}

fn remote_prefix(request: &v1::CreateSecurityGroupRuleRequest) -> Result<Remote, Fault> {
    if request.remote_ip_prefix.is_empty() {
        return Ok(Remote::Any);
    }
    let prefix = Ipv4Prefix::parse_or_address(&request.remote_ip_prefix, "remote_ip_prefix")?;
    Ok(if prefix.length() == 0 { Remote::Any } else { Remote::Prefix(prefix) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_range_and_nothing_else() {
        let covered = |first, last| {
            let mut seen = vec![false; 65_536];
            let blocks = Ports { first, last }.blocks();
            for (value, mask) in &blocks {
                assert_eq!(value & !mask, 0);
                for port in 0..=u16::MAX {
                    if port & mask == *value {
                        assert!(!std::mem::replace(&mut seen[usize::from(port)], true), "{port} twice");
                    }
                }
            }
            for port in 0..=u16::MAX {
                assert_eq!(seen[usize::from(port)], (first..=last).contains(&port), "{port}");
            }
            blocks.len()
        };
        assert_eq!(covered(80, 80), 1);
        assert_eq!(covered(0, 65_535), 1);
        assert_eq!(covered(1024, 65_535), 12 + 15);
        assert_eq!(covered(1, 65_534), 15 * 6 + 14, "the worst there is");
        covered(30_000, 32_767);
    }
}
