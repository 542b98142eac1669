//! What one cache entry's packets have for themselves: the connections they belong to, and what these translate.
//! Everything else of a program ([`Steps`](super::program::Steps)) is the same for all packets that walked the same
//! way, and is kept once.
//!
//! It lies in the program itself as far as most programs need: a packet reads it together, and follows no pointer.

use super::effect::Effect;
use super::translate::Constants;
use crate::connection::{ConnectionId, Connections, Direction, Passing, Track, Transport};
use crate::flow::key::FlowKey;
use crate::packet::frame::Frame;
use crate::packet::parse::Layout;

/// Connections that lie in the program: the zones of two ports and of a router.
const WITHIN: usize = 3;

/// See the module comment.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    within: [Track; WITHIN],
    count: u8,
    /// What the first translation writes.
    translation: Option<Constants>,
    more: Option<Box<More>>,
}

/// What few programs have.
#[derive(Clone, Debug, Default, PartialEq)]
struct More {
    /// Connections that do not fit.
    tracks: Vec<Track>,
    /// Those the packets belong to where they are dropped: looked at, not changed.
    watched: Vec<Track>,
}

const NONE: Track =
    Track { id: ConnectionId { index: u32::MAX, generation: 0 }, direction: Direction::Original, visible_epoch: 0 };

impl Own {
    /// Of these connections: sent in, and dropped in.
    #[must_use]
    pub fn new(tracks: &[Track], watched: &[Track]) -> Self {
        let (first, rest) = tracks.split_at(tracks.len().min(WITHIN));
        let mut within = [NONE; WITHIN];
        within[..first.len()].copy_from_slice(first);
        let more = !rest.is_empty() || !watched.is_empty();
        Self {
            within,
            count: first.len() as u8,
            translation: None,
            more: more.then(|| Box::new(More { tracks: rest.to_vec(), watched: watched.to_vec() })),
        }
    }

    /// Whether the packets belong to no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.more.is_none()
    }

    /// What the translation writes that stands here.
    #[must_use]
    pub fn translation(&self) -> Option<&Constants> {
        self.translation.as_ref()
    }

    /// Takes what a step translates here, if there is none yet and it is constants; then this step stands in its place.
    pub fn take(&mut self, step: &Effect) -> Option<Effect> {
        let Effect::Translate(translation) = step else { return None };
        if self.is_empty() || self.translation.is_some() {
            return None;
        }
        self.translation = Some(translation.constants?);
        Some(Effect::TranslateOwn)
    }

    /// Has the records fetched.
    #[inline]
    pub fn prefetch(&self, connections: &Connections) {
        self.within[..usize::from(self.count)].iter().for_each(|track| connections.prefetch(track.id));
    }

    /// Whether the program holds for a packet, as far as connections go; if so, it is counted for those it is sent in.
    #[inline]
    pub fn admits(
        &self,
        frame: &Frame,
        key: &FlowKey,
        layout: &Layout,
        connections: &mut Connections,
        now: u64,
    ) -> bool {
        let l4 = usize::from(layout.l4);
        let bytes = frame.head().get(l4..).filter(|_| l4 != 0).unwrap_or_default();
        let transport = Transport::read(key.ip_proto, bytes, layout.end.saturating_sub(layout.l4.into()));
        let passing = Passing::one(transport, frame.len());
        let within = &self.within[..usize::from(self.count)];
        match &self.more {
            None => connections.pass([within, &[]], &[], &passing, now),
            Some(more) => connections.pass([within, &more.tracks], &more.watched, &passing, now),
        }
    }
}
