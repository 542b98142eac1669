//! What a trace says is done with a packet.

use super::action::format_action;
use super::gateway;
use super::value::format_ip;
use crate::v1::{self, effect::Effect as Kind};

/// Writes one effect: an action, or `output:2 (web-1)`; a tunnel's with its destination and key, and
/// why a frame would not leave after all; a branch `clone(output:2, drop ttl_expired)`; NAT with what it changes: `nat(src=192.0.2.1:40001)`.
#[must_use]
pub fn format_effect(effect: &v1::Effect) -> String {
    match &effect.effect {
        None => "unknown effect".to_owned(),
        Some(Kind::Action(action)) => format_action(action),
        Some(Kind::Output(output)) => {
            let mut text = format!("output:{}", output.port);
            if !output.port_name.is_empty() {
                text += &format!(" ({})", output.port_name);
            }
            if !output.tunnel_destination.is_empty() {
                text += &format!(" to {} with key {}", format_ip(&output.tunnel_destination), output.tunnel_id);
            }
            if !output.drop_reason.is_empty() {
                text += &format!(", but dropped: {}", output.drop_reason);
            }
            text
        }
        Some(Kind::Branch(branch)) => {
            let mut parts: Vec<String> = branch.effects.iter().map(format_effect).collect();
            if !branch.drop_reason.is_empty() {
                parts.push(format!("drop {}", branch.drop_reason));
            }
            let name = match (branch.group, branch.bucket) {
                (Some(group), Some(bucket)) => format!("group:{group} bucket {bucket}"),
                (Some(group), None) => format!("group:{group}"),
                (None, _) => "clone".to_owned(),
            };
            format!("{name}({})", parts.join(", "))
        }
        Some(Kind::Translation(translation)) => format_translation(translation),
        Some(Kind::Neighbour(neighbour)) => gateway::format_effect(neighbour),
    }
}

fn format_translation(translation: &v1::TranslationEffect) -> String {
    let end = |name: &str, address: &[u8], port: Option<u32>| {
        let address = if address.is_empty() { String::new() } else { format_ip(address) };
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        (!address.is_empty() || !port.is_empty()).then(|| format!("{name}={address}{port}"))
    };
    let source = end("src", &translation.source, translation.source_port);
    let destination = end("dst", &translation.destination, translation.destination_port);
    let identifier = translation.identifier.map(|identifier| format!("icmp_id={identifier}"));
    let quoted = translation.quoted.then(|| "quoted".to_owned());
    let parts: Vec<String> = [source, destination, identifier, quoted].into_iter().flatten().collect();
    format!("nat({})", parts.join(","))
}
