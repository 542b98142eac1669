//! Rules that people made in the fabric's tables.

use super::Finding;
use super::evidence::Evidence;
use weft_proto::text;
use weft_proto::v1::{FieldMatch, Rule};

/// Rules made by hand that some packet meets before a rule of the fabric.
pub fn by_hand(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, switch) in evidence.answering() {
        for state in &switch.by_hand {
            let rule = state.rule.clone().unwrap_or_default();
            let hidden = switch.beside.iter().filter(|other| {
                other.rule.as_ref().is_some_and(|other| {
                    other.table == rule.table && other.priority <= rule.priority && meet(&rule, other)
                })
            });
            let hidden: Vec<&str> = hidden.map(|other| other.origin.as_str()).collect();
            let Some(first) = hidden.first() else { continue };
            let matched = text::format_match(&rule.r#match);
            let separator = if matched.is_empty() { "" } else { "," };
            let select = format!("table={},priority={}{separator}{matched}", rule.table, rule.priority);
            let others = if hidden.len() > 1 { format!(" and {} more", hidden.len() - 1) } else { String::new() };
            found.push(Finding::new(
                format!("host {name}, rule by hand {select}"),
                format!("it goes before rules of the fabric: {first}{others}; {} packets met it", state.packets),
                format!("Remove it, if it is not meant: weft flows del {name} --strict '{select}'"),
            ));
        }
    }
    found
}

/// Whether a packet can match both, as far as values tell: address sets may have anything in them.
fn meet(one: &Rule, other: &Rule) -> bool {
    let agree = |one: &FieldMatch, other: &FieldMatch| {
        let mask = |field: &FieldMatch, byte: usize| field.mask.get(byte).copied().unwrap_or(0xff);
        let sets = !one.address_set.is_empty() || !other.address_set.is_empty();
        sets || one
            .value
            .iter()
            .zip(&other.value)
            .enumerate()
            .all(|(byte, (value, theirs))| (value ^ theirs) & mask(one, byte) & mask(other, byte) == 0)
    };
    one.r#match.iter().all(|field| {
        other.r#match.iter().filter(|theirs| theirs.field == field.field).all(|theirs| agree(field, theirs))
    })
}
