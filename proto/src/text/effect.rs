//! What a trace says is done with a packet.

use super::action::format_action;
use super::value::format_ip;
use crate::v1::{self, effect::Effect as Kind};

/// Writes one effect: an action, or `output:2 (web-1)`; a tunnel's with its destination and key, and
/// why a frame would not leave after all.
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
    }
}
