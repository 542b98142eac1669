//! NAT in a walk: what a zone's connection makes of the packet stands in the key from then on, and among the
//! effects. Each zone translates a packet once.

use super::{Connected, Effect, Walk};
use crate::connection::{CtState, Direction, Nat, Observation, Tuple};
use crate::drop::DropReason;
use crate::flow::action::Commit;
use crate::flow::key::FlowKey;
use crate::flow::translate::Translation;

/// Whether a packet may go on that rules want translated: what no connection translates would leave with an
/// address that nobody outside can answer to.
pub(super) fn may_leave(seen: &Observation) -> Result<(), DropReason> {
    if seen.state.has(CtState::INVALID) { Err(DropReason::InvalidState) } else { Ok(()) }
}

impl Walk<'_> {
    /// Translates a packet of a connection, or an ICMP error about one.
    pub(super) fn translate_known(&mut self, zone: u32, seen: &Observation) {
        if let Some(related) = &seen.related {
            let translation = Translation::of_error(&self.key, related, self.contents.quoted.as_ref());
            self.contents.quoted = Some(related.quoted);
            self.apply_translation(zone, translation);
        } else if let Some(leaves) = &seen.translated {
            self.translate(zone, leaves);
        }
    }

    /// The packet goes on as this tuple.
    pub(super) fn translate(&mut self, zone: u32, leaves: &Tuple) {
        self.apply_translation(zone, Translation::of(&self.key, leaves));
    }

    fn apply_translation(&mut self, zone: u32, translation: Translation) {
        if self.translated.contains(&zone) {
            return;
        }
        self.translated.push(zone);
        if translation == Translation::default() {
            return;
        }
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        translation.write(&mut value, &mut mask);
        value.ct_state = self.key.ct_state | translation.state().0;
        mask.ct_state = 0xff;
        self.write(&value, &mask);
        self.effects.push(Effect::Translate(Box::new(translation)));
    }

    /// Where nothing begins (a walk as if new): translates what the commit would, unless a connection did; and
    /// tells whether the commit would give the connection of this packet what it has.
    pub(super) fn commits_again(
        &mut self,
        zone: u32,
        commit: &Commit,
        tuple: Option<&Tuple>,
        seen: &Observation,
    ) -> bool {
        let Some(tuple) = tuple else { return true };
        let now = self.view.now;
        match self.view.connections {
            Connected::Again(connections) if seen.translated.is_some() => connections
                .translated(zone, tuple, now)
                .is_none_or(|(direction, out)| direction == Direction::Reply || commit.translate.explains(tuple, &out)),
            _ => {
                if commit.translate != Nat::default() && tuple.family == 4 {
                    self.translate(zone, &commit.translate.of(tuple));
                }
                true
            }
        }
    }
}
