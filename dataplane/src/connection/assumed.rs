//! Connections that a trace takes for committed: what the trace of a first packet says begins, the trace of the answer
//! assumes. They are nowhere but in the trace.

use super::{CtState, Observation, Tuple};

/// A connection that has seen its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// Where.
    pub zone: u32,
    /// The first packet's tuple.
    pub original: Tuple,
    /// That of answers, as they come: what differs from the inverse of the original is NAT's work.
    pub reply: Tuple,
    /// `ct_mark`
    pub mark: u32,
}

impl Assumed {
    /// What rules see of a packet of it; `None`: it is none. A packet in the reply's direction is the first answer.
    #[must_use]
    pub fn observe(&self, zone: u32, tuple: &Tuple) -> Option<Observation> {
        let inverse = self.original.inverse();
        // Fields do not tell the identifier of an ICMP query: then it is the right one.
        let is = |known: &Tuple| {
            let unknown = tuple.is_icmp() && tuple.source_port == [0; 2];
            let ports = |known: Tuple| Tuple { source_port: [0; 2], destination_port: [0; 2], ..known };
            if unknown { ports(*known) == *tuple } else { *known == *tuple }
        };
        let differs = |before: ([u8; 16], [u8; 2]), after| before != after;
        let source = differs(
            (inverse.destination, inverse.destination_port),
            (self.reply.destination, self.reply.destination_port),
        );
        let destination = differs((inverse.source, inverse.source_port), (self.reply.source, self.reply.source_port));
        let (mut state, leaves, changed) = match () {
            () if zone != self.zone => return None,
            () if is(&self.reply) => {
                (CtState::TRACKED | CtState::ESTABLISHED | CtState::REPLY, inverse, (destination, source))
            }
            () if is(&self.original) => (CtState::TRACKED | CtState::NEW, self.reply.inverse(), (source, destination)),
            () => return None,
        };
        if changed.0 {
            state |= CtState::SOURCE_NAT;
        }
        if changed.1 {
            state |= CtState::DESTINATION_NAT;
        }
        let translated = (source || destination).then_some(leaves);
        Some(Observation { state, mark: self.mark, translated, ..Observation::default() })
    }
}
