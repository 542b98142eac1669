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
/// field table, masks of all ones left out.
#[must_use]
pub fn canonical(mut rule: v1::Rule) -> v1::Rule {
    for matched in &mut rule.r#match {
        let full = crate::field::info(matched.field()).map(crate::field::FieldInfo::full_mask);
        if full.as_deref() == Some(matched.mask.as_slice()) {
            matched.mask.clear();
        }
    }
    let place = |matched: &v1::FieldMatch| crate::field::FIELDS.iter().position(|row| row.field == matched.field());
    rule.r#match.sort_by_key(place);
    rule
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
}
