//! What a rule matches, in as few bytes as it takes: of a key's words those that the mask has bits in. There are
//! many rules, and most match a few words of the 24.
//!
//! A [`Match`] is immutable and shared: a clone is a reference, so that identities, places in classifiers, change
//! logs and what is to be collected have one copy between them.

use super::key::{FlowKey, WORDS, place};
use std::fmt;
use std::sync::Arc;
use weft_proto::v1::Field;

/// Value and mask. See the module comment.
///
/// The first word says which words of a key follow (bit n: word n), and in its upper half how many bits the mask has;
/// then come mask and value of each.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Match(Arc<[u64]>);

impl Match {
    /// The bits of `value` that `mask` has.
    #[must_use]
    pub fn new(value: &FlowKey, mask: &FlowKey) -> Self {
        let mut words = [0; 1 + 2 * WORDS];
        let mut length = 1;
        for (index, (value, &mask)) in value.words().iter().zip(mask.words()).enumerate() {
            if mask != 0 {
                words[0] += u64::from(mask.count_ones()) << 32 | 1 << index;
                (words[length], words[length + 1]) = (mask, value & mask);
                length += 2;
            }
        }
        Self(words[..length].into())
    }

    /// How many bits of a packet it looks at.
    #[must_use]
    pub fn bits(&self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// The words that it looks at, in order: index, mask (never zero), value.
    pub fn words(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        let mut left = self.0[0] as u32;
        self.0[1..].as_chunks().0.iter().map(move |&[mask, value]| {
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            (index, mask, value)
        })
    }

    /// Whether a packet is matched.
    #[must_use]
    pub fn matches(&self, key: &FlowKey) -> bool {
        self.words().all(|(index, mask, value)| key.words()[index] & mask == value)
    }

    /// Whether it asks for all that `other` asks for.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut own = self.words();
        other.words().all(|(wanted, mask, value)| {
            own.find(|&(index, _, _)| index == wanted)
                .is_some_and(|(_, own_mask, own_value)| own_mask & mask == mask && own_value & mask == value)
        })
    }

    /// Which bits count.
    #[must_use]
    pub fn mask(&self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        self.words().for_each(|(index, mask, _)| key.words_mut()[index] = mask);
        key
    }

    /// What they are; no bits outside the mask.
    #[must_use]
    pub fn value(&self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        self.words().for_each(|(index, _, value)| key.words_mut()[index] = value);
        key
    }

    /// The value of a field of which every bit counts, in as many of the bytes as it has.
    #[must_use]
    pub fn exactly(&self, field: Field) -> Option<[u8; 16]> {
        let (offset, length) = place(field);
        let (mut value, mut mask) = ([0; 32], [0; 32]);
        // A field lies in at most three words.
        let first = offset / 8;
        for (index, own_mask, own_value) in self.words().filter(|&(index, _, _)| index >= first && index < first + 4) {
            let at = (index - first) * 8;
            value[at..at + 8].copy_from_slice(&own_value.to_ne_bytes());
            mask[at..at + 8].copy_from_slice(&own_mask.to_ne_bytes());
        }
        let at = offset - first * 8;
        let mut exact = [0; 16];
        exact[..length].copy_from_slice(&value[at..at + length]);
        mask[at..at + length].iter().all(|&byte| byte == 0xff).then_some(exact)
    }

    /// Whether both look at the same bits.
    #[must_use]
    pub fn has_mask_of(&self, other: &Self) -> bool {
        self.compare_masks(other).is_eq()
    }

    /// A fixed order of masks.
    #[must_use]
    pub fn compare_masks(&self, other: &Self) -> std::cmp::Ordering {
        self.0[0].cmp(&other.0[0]).then_with(|| self.0[1..].iter().step_by(2).cmp(other.0[1..].iter().step_by(2)))
    }

    /// `key |= mask & !except`
    pub fn consult(&self, key: &mut FlowKey, except: &FlowKey) {
        for (index, mask, _) in self.words() {
            key.words_mut()[index] |= mask & !except.words()[index];
        }
    }
}

impl fmt::Debug for Match {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.words()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_the_mask_has() {
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        (value.in_port, mask.in_port) = ([0, 0, 0, 7], [0xff; 4]);
        (value.l4_dst, mask.l4_dst) = ([1, 187], [0xff, 0]);
        (value.registers[7], mask.registers[7]) = ([9; 4], [0xf0; 4]);
        let matched = Match::new(&value, &mask);
        assert_eq!((matched.mask(), matched.value()), (mask, value.masked(&mask)));
        assert_eq!((matched.bits(), matched.words().count()), (32 + 8 + 16, 3));
        assert!(matched.matches(&value));
        value.l4_dst[1] = 3;
        assert!(matched.matches(&value), "beyond the mask");
        value.registers[7] = [0x80; 4];
        assert!(!matched.matches(&value));
        assert_eq!(matched.exactly(Field::InPort).map(|value| value[..4].to_vec()), Some(vec![0, 0, 0, 7]));
        assert_eq!((matched.exactly(Field::TcpDst), matched.exactly(Field::EthSrc)), (None, None));
        let mut consulted = FlowKey::ZERO;
        let mut written = FlowKey::ZERO;
        written.in_port = [0xff; 4];
        matched.consult(&mut consulted, &written);
        assert_eq!((consulted.in_port, consulted.l4_dst), ([0; 4], [0xff, 0]));
        let anything = Match::new(&value, &FlowKey::ZERO);
        assert!(anything.matches(&FlowKey::ZERO) && matched.covers(&anything) && !anything.covers(&matched));
        let wider = Match::new(&matched.value(), &{
            let mut mask = matched.mask();
            mask.in_port = [0; 4];
            mask
        });
        assert!(matched.covers(&wider) && !wider.covers(&matched) && matched.covers(&matched));
    }
}
