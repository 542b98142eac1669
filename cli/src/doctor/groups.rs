//! Security groups.

use super::Finding;
use super::evidence::Evidence;
use std::collections::BTreeSet;
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::{Port, RuleState};

/// The fabric's tables egress_firewall and ingress_firewall.
pub const FIREWALLS: [u32; 2] = [31, 71];

/// Whether a rule of those drops what no rule of some security groups lets pass, and has.
pub fn is_refusal(state: &RuleState) -> bool {
    let instructions = state.rule.iter().flat_map(|rule| &rule.instructions);
    let mut actions = instructions.flat_map(|instructions| &instructions.apply_actions);
    state.packets > 0 && actions.any(|action| matches!(action.action, Some(Kind::Drop(_))))
}

/// Rules for the ports of a group that no port has.
pub fn remote(evidence: &Evidence) -> Vec<Finding> {
    let had: BTreeSet<&str> =
        evidence.ports.iter().flat_map(|port| &port.security_groups).map(String::as_str).collect();
    let mut found = Vec::new();
    for group in evidence.groups.iter().filter(|group| had.contains(group.id.as_str())) {
        for rule in &group.rules {
            let remote = rule.remote_group_id.as_str();
            if !remote.is_empty() && !had.contains(remote) {
                let name = evidence.group(remote);
                found.push(Finding::new(
                    format!("security group {}", group.name),
                    format!(
                        "its rule {} {} is for the ports of group {name}, and no port has that group: it lets nothing pass",
                        rule.direction,
                        if rule.protocol.is_empty() { "any" } else { &rule.protocol }
                    ),
                    format!("Give the group to who is meant: weft port set PORT --group {name}{}", evidence.scope(&group.project_id)),
                ));
            }
        }
    }
    found
}

/// Ports whose groups let nothing pass in a direction, and where something was dropped for that.
pub fn closed(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for port in evidence.plugged().filter(|port| port.port_security_enabled) {
        for (table, direction, way) in [(31, "egress", "leave"), (71, "ingress", "enter")] {
            let rules = evidence.groups.iter().filter(|group| port.security_groups.contains(&group.id));
            if rules.flat_map(|group| &group.rules).any(|rule| rule.direction == direction) {
                continue;
            }
            let Some(dropped) = refused(evidence, port, table, way) else { continue };
            let names: Vec<&str> = port.security_groups.iter().map(|group| evidence.group(group)).collect();
            let whose = match names.as_slice() {
                [] => "it has no security group".to_owned(),
                names => format!("its security groups ({}) have no {direction} rule", names.join(", ")),
            };
            let group = names.first().unwrap_or(&"GROUP");
            let way = if direction == "ingress" { "in" } else { "out" };
            found.push(Finding::new(
                format!("port {}", port.name),
                format!("{whose}, so nothing gets {way}; of ports with just these groups, {dropped} packets were dropped on its host"),
                format!("Add one: weft group rule add {group} --{direction} --protocol tcp --port 80{}", evidence.scope(&port.project_id)),
            ));
        }
    }
    found
}

/// How many packets the rule that ends the port's policy has dropped.
fn refused(evidence: &Evidence, port: &Port, table: u32, way: &str) -> Option<u64> {
    let switch = evidence.switches.get(evidence.host(&port.host_id))?.as_ref().ok()?;
    let of_port: BTreeSet<&str> = port.security_groups.iter().map(|group| evidence.group(group)).collect();
    let origin_end = format!(": no rule lets it {way}");
    let its = switch.refusals.iter().filter(|state| {
        let Some(what) = state.origin.strip_suffix(&origin_end) else { return false };
        let names = what.strip_prefix("security group ").or_else(|| what.strip_prefix("security groups "));
        let names: BTreeSet<&str> = names.map_or_else(BTreeSet::new, |names| names.split(", ").collect());
        state.rule.as_ref().is_some_and(|rule| rule.table == table) && names == of_port
    });
    Some(its.map(|state| state.packets).sum()).filter(|dropped| *dropped > 0)
}
