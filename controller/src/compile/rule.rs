//! How rules are written: one builder that knows widths and gives the canonical form.

use crate::model::Ipv4Prefix;
use std::net::Ipv4Addr;
use weft_proto::digest;
use weft_proto::v1::{self, Action, DropCause, Field, FieldMatch, Instructions, Rule, action};

/// The cookie of what a rule is for (`kind`) and whose (`subject`): the same in every run, never 0.
#[must_use]
pub fn cookie(kind: &str, subject: &str) -> u64 {
    digest::of(&v1::Origin { cookie: 0, text: format!("{kind}/{subject}") }).max(1)
}

/// One action.
#[must_use]
pub fn act(action: action::Action) -> Action {
    Action { action: Some(action) }
}

/// Sends to a port.
#[must_use]
pub fn output(port: u32) -> Action {
    act(action::Action::Output(v1::Output { port }))
}

/// Writes a whole field.
#[must_use]
pub fn set(field: Field, value: impl Into<Vec<u8>>) -> Action {
    act(action::Action::SetField(v1::SetField { field: field.into(), value: value.into(), mask: Vec::new() }))
}

/// Lets a copy go on in a table after these actions.
#[must_use]
pub fn branch(actions: Vec<Action>, table: u32) -> Action {
    act(action::Action::Clone(v1::Clone { actions, goto_table: Some(table) }))
}

/// Builds one rule of the fabric. The methods that say what it does give the rule.
#[derive(Clone, Debug)]
pub struct RuleBuilder(Rule);

impl RuleBuilder {
    /// A rule that matches everything.
    #[must_use]
    pub fn new(table: u32, priority: u32, cookie: u64) -> Self {
        Self(Rule { table, priority, cookie, owner: v1::Owner::Fabric.into(), ..Rule::default() })
    }

    /// Only frames whose field has this value.
    #[must_use]
    pub fn with(mut self, field: Field, value: impl Into<Vec<u8>>) -> Self {
        self.0.r#match.push(FieldMatch { field: field.into(), value: value.into(), ..FieldMatch::default() });
        self
    }

    /// Likewise, of the bits of a mask. One without bits, as of 0.0.0.0/0, matches everything: the field is left out then,
    /// for switches refuse such a mask, and the whole bundle with it.
    #[must_use]
    pub fn with_mask(mut self, field: Field, value: impl Into<Vec<u8>>, mask: impl Into<Vec<u8>>) -> Self {
        let mask = mask.into();
        if mask.iter().any(|octet| *octet != 0) {
            let address_set = String::new();
            self.0.r#match.push(FieldMatch { field: field.into(), value: value.into(), mask, address_set });
        }
        self
    }

    /// Likewise, of an IPv4 address that lies in a range.
    #[must_use]
    pub fn within(self, field: Field, prefix: Ipv4Prefix) -> Self {
        self.with_mask(field, prefix.address().octets(), prefix.mask().to_be_bytes())
    }

    /// Likewise, of an IPv4 address that lies in the address set of this name.
    #[must_use]
    pub fn in_set(mut self, field: Field, name: &str) -> Self {
        let address_set = name.to_owned();
        self.0.r#match.push(FieldMatch { field: field.into(), address_set, ..FieldMatch::default() });
        self
    }

    /// From this port.
    #[must_use]
    pub fn in_port(self, port: u32) -> Self {
        self.with(Field::InPort, port.to_be_bytes())
    }

    /// Of this network.
    #[must_use]
    pub fn segment(self, segment: u32) -> Self {
        self.with(Field::Reg0, segment.to_be_bytes())
    }

    /// With a VLAN tag.
    #[must_use]
    pub fn tagged(self) -> Self {
        self.with_mask(Field::VlanTci, [0x10, 0], [0x10, 0])
    }

    /// To a group address, broadcast included.
    #[must_use]
    pub fn group(self) -> Self {
        self.with_mask(Field::EthDst, [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0])
    }

    /// ARP.
    #[must_use]
    pub fn arp(self) -> Self {
        self.with(Field::EthType, [0x08, 0x06])
    }

    /// An ARP request for this address.
    #[must_use]
    pub fn arp_request(self, target: Ipv4Addr) -> Self {
        self.arp().with(Field::ArpOp, [0, 1]).with(Field::ArpTpa, target.octets())
    }

    /// IPv4.
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.with(Field::EthType, [0x08, 0x00])
    }

    /// From a DHCP client to a server (RFC 2131, 4.1) at this address.
    #[must_use]
    pub fn dhcp_request(self, server: Ipv4Addr) -> Self {
        self.ipv4()
            .with(Field::Ipv4Dst, server.octets())
            .with(Field::IpProto, [17])
            .with(Field::UdpSrc, 68_u16.to_be_bytes())
            .with(Field::UdpDst, 67_u16.to_be_bytes())
    }

    /// From a DHCP server to a client (RFC 2131, 4.1).
    #[must_use]
    pub fn dhcp_answer(self) -> Self {
        self.ipv4()
            .with(Field::IpProto, [17])
            .with(Field::UdpSrc, 67_u16.to_be_bytes())
            .with(Field::UdpDst, 68_u16.to_be_bytes())
    }

    /// Any IPv6.
    #[must_use]
    pub fn ipv6(self) -> Self {
        self.with(Field::EthType, [0x86, 0xdd])
    }

    /// Does this.
    #[must_use]
    pub fn apply(self, actions: Vec<Action>) -> Rule {
        self.instruct(Instructions { apply_actions: actions, ..Instructions::default() })
    }

    /// Goes on in another table.
    #[must_use]
    pub fn goto(self, table: u32) -> Rule {
        self.apply_goto(Vec::new(), table)
    }

    /// Does this and goes on.
    #[must_use]
    pub fn apply_goto(self, actions: Vec<Action>, table: u32) -> Rule {
        self.instruct(Instructions { apply_actions: actions, goto_table: Some(table), ..Instructions::default() })
    }

    /// Drops, and says why.
    #[must_use]
    pub fn drop(self, cause: DropCause) -> Rule {
        self.apply(vec![act(action::Action::Drop(v1::Drop { cause: cause.into() }))])
    }

    fn instruct(mut self, instructions: Instructions) -> Rule {
        self.0.instructions = Some(instructions);
        digest::canonical(self.0)
    }
}
