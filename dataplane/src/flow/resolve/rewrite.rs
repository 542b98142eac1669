//! What rules change of the packet in a walk: the key, and what of it no longer depends on the packet.

use super::Walk;
use super::{from_pipeline, is_tunnel};
use crate::drop::DropReason;
use crate::flow::action::SetField;
use crate::flow::key::FlowKey;
use crate::packet::parse::LATER_FRAGMENT;
use weft_proto::v1::Field;

impl Walk<'_> {
    pub(super) fn decrement_ttl(&mut self) -> Result<(), DropReason> {
        self.consult(Field::EthType);
        if !matches!(self.key.eth_type, [0x08, 0x00] | [0x86, 0xdd]) {
            return Err(DropReason::BadAction);
        }
        self.key.ip_ttl = self.key.ip_ttl.saturating_sub(1);
        self.changed.ip_ttl = 0xff;
        if self.written.ip_ttl != 0xff {
            // Carries cross whatever was written of it: what it is now depends on the packet.
            self.written.ip_ttl = 0;
            self.decremented = true;
        }
        Ok(())
    }

    pub(super) fn consult(&mut self, field: Field) {
        let mut mask = FlowKey::ZERO;
        mask.field_mut(field).fill(0xff);
        self.consulted.union_except(&mask, &self.written);
    }

    /// Tags move between fields when one is pushed or popped: both are consulted, and from then on known.
    pub(super) fn consult_tags(&mut self) {
        self.consult(Field::VlanTci);
        self.consult(Field::VlanInnerTci);
        let mut tags = FlowKey::ZERO;
        (tags.vlan_tci, tags.vlan_inner_tci) = ([0xff; 2], [0xff; 2]);
        self.written.union(&tags);
        self.changed.union(&tags);
    }

    pub(super) fn write(&mut self, value: &FlowKey, mask: &FlowKey) {
        for (word, (value, mask)) in self.key.words_mut().iter_mut().zip(value.words().iter().zip(mask.words())) {
            *word = (*word & !mask) | (value & mask);
        }
        self.written.union(mask);
        self.changed.union(mask);
    }

    /// Whether the packet itself changes, not only what the tables know of it.
    pub(super) fn set_field(&mut self, set: &SetField) -> Result<bool, DropReason> {
        let mut on_packet = false;
        for &field in &set.fields {
            if from_pipeline(field) || is_tunnel(field) {
                continue;
            }
            on_packet = true;
            if !self.has(field) {
                return Err(DropReason::BadAction);
            }
        }
        self.write(&set.value, &set.mask);
        if set.fields.contains(&Field::VlanTci) {
            // The presence bit tells that there is a tag; it is not the tag's to change.
            self.key.vlan_tci[0] |= 0x10;
        }
        Ok(on_packet)
    }

    /// Whether the packet has this field; consults what tells.
    pub(super) fn has(&mut self, field: Field) -> bool {
        let Some(row) = weft_proto::field::info(field) else { return false };
        if field == Field::VlanTci {
            self.consult(Field::VlanTci);
            return self.key.vlan_tci[0] & 0x10 != 0;
        }
        for prerequisite in row.prerequisites {
            self.consult(prerequisite.field);
            let bytes = self.key.field(prerequisite.field);
            let value = bytes.iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
            if !prerequisite.values.contains(&value) {
                return false;
            }
            if prerequisite.field == Field::IpProto {
                // Later fragments have no transport header, but may be known to follow one.
                self.consult(Field::IpFrag);
                if self.key.ip_frag == LATER_FRAGMENT && !self.follows_first() {
                    return false;
                }
            }
        }
        true
    }
}
