//! Order-free sums by which the controller and a switch compare what they hold without sending it:
//! the wrapping sum of a 64-bit hash of each object's canonical encoding. Adding or removing one
//! object changes the sum in constant time, so both ends keep theirs running.
//!
//! The hash is FNV-1a followed by a finaliser; it guards against loss and bugs, not against an
//! adversary: both ends are ours.

use crate::v1;
use prost::Message;

/// The hash of one message, 64 bits.
#[must_use]
pub fn of<M: Message>(message: &M) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in message.encode_to_vec() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // splitmix64's finaliser: without it, sums of similar messages would collide too easily.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The sum over several messages.
pub fn sum<'a, M: Message + 'a>(messages: impl IntoIterator<Item = &'a M>) -> u64 {
    messages.into_iter().fold(0_u64, |sum, message| sum.wrapping_add(of(message)))
}

/// Brings a rule into the one form in which it is digested and stored: matches in the order of the
/// field table, masks of all ones left out (also of set-fields), instructions present even if they are
/// empty, no metadata bits outside their mask.
#[must_use]
pub fn canonical(mut rule: v1::Rule) -> v1::Rule {
    for matched in &mut rule.r#match {
        if is_full(matched.field(), &matched.mask) {
            matched.mask.clear();
        }
    }
    let place = |matched: &v1::FieldMatch| crate::field::FIELDS.iter().position(|row| row.field == matched.field());
    rule.r#match.sort_by_key(place);
    let instructions = rule.instructions.get_or_insert_default();
    instructions.metadata &= instructions.metadata_mask;
    instructions.apply_actions.iter_mut().chain(&mut instructions.write_actions).for_each(canonical_action);
    rule
}

/// Likewise one action, of a rule or of a group's bucket.
pub fn canonical_action(action: &mut v1::Action) {
    match &mut action.action {
        Some(v1::action::Action::SetField(set)) if is_full(set.field(), &set.mask) => set.mask.clear(),
        Some(v1::action::Action::Punt(punt)) if punt.max_length == u32::MAX => punt.max_length = 0,
        Some(v1::action::Action::Clone(clone)) => clone.actions.iter_mut().for_each(canonical_action),
        _ => {}
    }
}

fn is_full(field: v1::Field, mask: &[u8]) -> bool {
    crate::field::info(field).is_some_and(|row| row.full_mask() == mask)
}

/// Brings an address set into the one form in which it is digested: members by address and length, each
/// once.
#[must_use]
pub fn canonical_set(mut set: v1::AddressSet) -> v1::AddressSet {
    set.members.sort_by(|one, other| (&one.address, one.length).cmp(&(&other.address, other.length)));
    set.members.dedup();
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(table: u32) -> v1::Rule {
        v1::Rule { table, ..Default::default() }
    }

    #[test]
    fn order_does_not_matter_but_content_does() {
        let (a, b, c) = (rule(1), rule(2), rule(3));
        assert_eq!(sum([&a, &b, &c]), sum([&c, &a, &b]));
        assert_ne!(sum([&a, &b]), sum([&a, &c]));
        assert_ne!(sum([&a, &a]), sum([&b, &b]));
    }

    #[test]
    fn canonical_form_ignores_how_it_was_written() {
        let matched = |field: v1::Field, value: &[u8], mask: &[u8]| v1::FieldMatch {
            field: field.into(),
            value: value.to_vec(),
            mask: mask.to_vec(),
            address_set: String::new(),
        };
        let one = v1::Rule {
            r#match: vec![
                matched(v1::Field::EthType, &[8, 0], &[0xff, 0xff]),
                matched(v1::Field::InPort, &[0, 0, 0, 1], &[]),
            ],
            ..Default::default()
        };
        let other = v1::Rule {
            r#match: vec![
                matched(v1::Field::InPort, &[0, 0, 0, 1], &[0xff; 4]),
                matched(v1::Field::EthType, &[8, 0], &[]),
            ],
            ..Default::default()
        };
        assert_eq!(canonical(one), canonical(other));
    }

    #[test]
    fn canonical_form_reaches_into_actions() {
        let rule = |mask: &[u8], instructions: bool| {
            let set = v1::SetField { field: v1::Field::Reg0.into(), value: vec![0, 0, 0, 1], mask: mask.to_vec() };
            let action = v1::Action { action: Some(v1::action::Action::SetField(set)) };
            let apply = v1::Instructions { apply_actions: vec![action], ..Default::default() };
            v1::Rule { instructions: instructions.then_some(apply), ..Default::default() }
        };
        assert_eq!(canonical(rule(&[0xff; 4], true)), canonical(rule(&[], true)));
        assert_ne!(canonical(rule(&[0, 0, 0, 1], true)), canonical(rule(&[], true)));
        let empty = v1::Rule { instructions: Some(v1::Instructions::default()), ..Default::default() };
        assert_eq!(canonical(rule(&[], false)), canonical(empty));
    }

    #[test]
    fn an_address_set_is_the_same_in_any_order() {
        let prefix = |last: u8| v1::Prefix { address: vec![10, 0, 0, last], length: 32 };
        let set = |members: Vec<v1::Prefix>| canonical_set(v1::AddressSet { name: "web".to_owned(), members });
        assert_eq!(set(vec![prefix(2), prefix(1), prefix(2)]), set(vec![prefix(1), prefix(2)]));
        assert_ne!(set(vec![prefix(1)]), set(vec![prefix(2)]));
    }
}
