//! The counterpart of `segment.rs` for ports that take large frames: TCP segments that came one by one, out of a tunnel
//! or from a wire, leave as one frame (what Linux calls GRO), so that the receiver is called once for many.
//!
//! Merged is what follows itself in one batch on its way to one port, and only if cutting the result gives the same
//! frames again: consecutive sequence numbers, equal sizes but the last, and everything else in the headers equal. The
//! checksum of each segment is verified first; the merged frame's is partial. A segment that cannot be added to its
//! flow's merged frame ends that, so that the order within a flow stays. Between batches nothing waits.
//!
//! Frames are linked, not copied: the merged frame is the first one with the payloads of the others behind it. Called by
//! the worker's egress, after the books and captures have seen each frame by itself; should the port refuse a merged
//! frame, [`Merger::absorbed`] tells on whose behalf the others left.

use super::checksum;
use super::frame::{Checksum, Departure, Frame, Gso, GsoKind};
use super::header::{Ipv4, Ipv6, Tcp, eth_type, protocol, tcp_flag, view, view_mut};
use super::memory::BufferId;
use crate::capture::place;
use crate::limits::{MERGED_FLOWS, SEGMENTS};
use crate::port::{Offloads, PortSlot};
use zerocopy::IntoBytes as _;

#[cfg(test)]
mod tests;

const ETHERNET: usize = 14;

/// Where TCP's checksum lies in its header.
const TCP_CHECKSUM: u16 = 16;

/// The longest IP packet, bytes: its length has 16 bits, with an IPv6 header even behind it.
const LONGEST_PACKET: usize = 65_535;

/// See the module comment.
#[derive(Default)]
pub struct Merger {
    /// Frames that may still grow.
    open: Vec<Open>,
    /// Which of them gives way next.
    oldest: usize,
    /// What was put behind other frames, since the last [`Merger::begin`].
    absorbed: Vec<Absorbed>,
    /// Merged frames since then.
    merged: u16,
    out: Vec<Frame>,
}

/// A frame that lies in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absorbed {
    /// On whose behalf it left, and which merged frame it lies in.
    pub departure: Departure,
    /// Where it lay, as captures know it.
    pub place: usize,
}

/// A frame that may grow.
struct Open {
    /// Its place in the output.
    place: usize,
    /// What it looked like when it came.
    first: Segment,
    /// The sequence number that follows.
    next: u32,
    /// Segments of TCP so far, and of memory.
    count: u16,
    pieces: usize,
    last: BufferId,
    /// Of its last segment.
    flags: u16,
}

/// What a frame is to a merger.
enum Look {
    /// Not TCP.
    Other,
    /// Perhaps TCP, of a flow that is not known: fragments, tags, extension headers.
    Obscure,
    /// A TCP segment.
    Segment(Segment),
}

/// A TCP segment without VLAN tag, IP options or extension headers.
#[derive(Clone, Copy)]
struct Segment {
    version4: bool,
    l4: usize,
    /// Bytes of all headers, and behind them.
    headers: usize,
    payload: usize,
    sequence: u32,
    flags: u16,
    identification: u16,
    /// The frame ends where its IP packet does.
    exact: bool,
}

impl Segment {
    fn look(frame: &Frame) -> Look {
        let head = frame.head();
        let Some(&[high, low]) = head.get(12..14).and_then(<[u8]>::first_chunk) else { return Look::Other };
        let (l4, version4, identification, length) = match u16::from_be_bytes([high, low]) {
            eth_type::IPV4 => {
                let Some(ip) = view::<Ipv4>(head, ETHERNET) else { return Look::Other };
                if ip.protocol != protocol::TCP {
                    return Look::Other;
                }
                if ip.version_ihl != 0x45 || ip.fragment.get() & (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET_MASK) != 0 {
                    return Look::Obscure;
                }
                (ETHERNET + Ipv4::BYTES, true, ip.identification.get(), usize::from(ip.total_length.get()))
            }
            eth_type::IPV6 => {
                let Some(ip) = view::<Ipv6>(head, ETHERNET) else { return Look::Other };
                match ip.next_header {
                    protocol::TCP => {}
                    protocol::UDP | protocol::ICMPV6 => return Look::Other,
                    _ => return Look::Obscure,
                }
                (ETHERNET + Ipv6::BYTES, false, 0, Ipv6::BYTES + usize::from(ip.payload_length.get()))
            }
            eth_type::VLAN | eth_type::SERVICE_VLAN => return Look::Obscure,
            _ => return Look::Other,
        };
        let Some(tcp) = view::<Tcp>(head, l4) else { return Look::Obscure };
        let headers = l4 + tcp.header_bytes();
        if tcp.header_bytes() < Tcp::BYTES || headers > head.len() {
            return Look::Obscure;
        }
        Look::Segment(Self {
            version4,
            l4,
            headers,
            payload: frame.len() - headers,
            sequence: tcp.sequence.get(),
            flags: tcp.offset_flags.get() & 0x0fff,
            identification,
            exact: ETHERNET + length == frame.len(),
        })
    }

    /// Where the addresses lie.
    fn addresses(&self) -> std::ops::Range<usize> {
        if self.version4 { ETHERNET + 12..ETHERNET + 20 } else { ETHERNET + 8..ETHERNET + 40 }
    }

    /// The sum of the pseudo-header before so many bytes.
    fn pseudo(&self, head: &[u8], length: usize) -> u32 {
        checksum::sum(&head[self.addresses()]) + u32::from(protocol::TCP) + length as u32
    }

    /// Whether it may be merged with others at all: nothing but data, and nothing wrong with it.
    fn is_fit(&self, frame: &Frame) -> bool {
        let plain = self.flags & !tcp_flag::PSH == tcp_flag::ACK && self.payload > 0 && self.exact;
        if !plain || frame.gso.is_some() || frame.departure.tunnel != PortSlot::NONE {
            return false;
        }
        let head = frame.head();
        if self.version4 && checksum::finish(checksum::sum(&head[ETHERNET..self.l4])) != 0 {
            return false;
        }
        match frame.checksum {
            Checksum::Complete => true,
            Checksum::Partial { start, offset } => usize::from(start) == self.l4 && offset == TCP_CHECKSUM,
            Checksum::Unverified => {
                let length = frame.len() - self.l4;
                let sum = self.pseudo(head, length) + checksum::sum_range(frame, self.l4, frame.len());
                checksum::finish(sum) == 0
            }
        }
    }

    /// Whether both are of one flow in one direction, between the same two stations.
    fn same_flow(&self, head: &[u8], other: &Self, others: &[u8]) -> bool {
        self.version4 == other.version4
            && head[self.l4..self.l4 + 4] == others[other.l4..other.l4 + 4]
            && head[self.addresses()] == others[self.addresses()]
            && head[..ETHERNET] == others[..ETHERNET]
    }

    /// Whether two headers of one flow differ in nothing but lengths, checksums, sequence number, PSH, and the
    /// identification.
    fn same_headers(&self, head: &[u8], other: &Self, others: &[u8]) -> bool {
        let same = |range: std::ops::Range<usize>| head[range.clone()] == others[range];
        let network = if self.version4 {
            // TOS; flags and offset, TTL and protocol.
            head[ETHERNET + 1] == others[ETHERNET + 1] && same(ETHERNET + 6..ETHERNET + 10)
        } else {
            // Class and label; next header and hop limit.
            same(ETHERNET..ETHERNET + 4) && same(ETHERNET + 6..ETHERNET + 8)
        };
        let tcp = self.l4;
        // Acknowledgement; window; urgent pointer and options.
        network && self.headers == other.headers && same(tcp + 8..tcp + 12) && same(tcp + 14..tcp + 16) && {
            same(tcp + 18..self.headers)
        }
    }
}

impl Open {
    /// Whether this segment is the one that follows.
    fn continues(&self, whole: &Frame, segment: &Segment, frame: &Frame) -> bool {
        let (head, first) = (frame.head(), &self.first);
        // Where fragmenting is forbidden the identification says nothing (RFC 6864, 4.1), and may as well stand still.
        let dont_fragment = head[ETHERNET + 6] & 0x40 != 0;
        let identified = !first.version4
            || segment.identification == first.identification.wrapping_add(self.count)
            || dont_fragment && segment.identification == first.identification;
        segment.sequence == self.next
            && segment.payload <= first.payload
            && identified
            && first.same_headers(whole.head(), segment, head)
            && frame.charged() == whole.charged()
            && self.pieces + frame.segments().count() <= SEGMENTS
            && whole.len() - ETHERNET + segment.payload <= LONGEST_PACKET
    }

    /// Writes into the merged frame's headers what it has become.
    fn finish(&self, whole: &mut Frame) {
        if self.count == 1 {
            return;
        }
        let Segment { version4, l4, payload, .. } = self.first;
        let length = whole.len();
        let pseudo = checksum::fold(self.first.pseudo(whole.head(), length - l4));
        let head = whole.head_mut();
        if let Some(tcp) = view_mut::<Tcp>(head, l4) {
            tcp.offset_flags = (tcp.offset_flags.get() | self.flags & tcp_flag::PSH).into();
            tcp.checksum = pseudo.to_be_bytes();
        }
        if version4 {
            if let Some(ip) = view_mut::<Ipv4>(head, ETHERNET) {
                ip.total_length = ((length - ETHERNET) as u16).into();
                ip.checksum = [0; 2];
                ip.checksum = checksum::finish(checksum::sum(ip.as_bytes())).to_be_bytes();
            }
        } else if let Some(ip) = view_mut::<Ipv6>(head, ETHERNET) {
            ip.payload_length = ((length - l4) as u16).into();
        }
        whole.checksum = Checksum::Partial { start: l4 as u16, offset: TCP_CHECKSUM };
        let kind = if version4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
        whole.gso = Some(Gso { kind, size: payload as u16, tunnel: 0 });
    }
}

impl Merger {
    /// Whether a port gains by it.
    #[must_use]
    pub fn is_for(offloads: &Offloads) -> bool {
        offloads.tcp_segmentation && offloads.checksum && offloads.chains
    }

    /// A batch begins: what was absorbed before is settled.
    pub fn begin(&mut self) {
        self.absorbed.clear();
        self.merged = 0;
    }

    /// Merges what can be merged of the frames for one port. Which frames of which flow follow on each other stays.
    pub fn merge(&mut self, frames: &mut Vec<Frame>) {
        if frames.len() < 2 {
            return;
        }
        for mut frame in frames.drain(..) {
            let segment = match Segment::look(&frame) {
                Look::Other => {
                    self.out.push(frame);
                    continue;
                }
                Look::Obscure => {
                    self.open.drain(..).for_each(|open| open.finish(&mut self.out[open.place]));
                    self.out.push(frame);
                    continue;
                }
                Look::Segment(segment) => segment,
            };
            let head = frame.head();
            let same = |open: &Open| open.first.same_flow(self.out[open.place].head(), &segment, head);
            let found = self.open.iter().position(same);
            let fit = segment.is_fit(&frame);
            if let Some(index) = found {
                match self.grow(index, &segment, fit, frame) {
                    None => continue,
                    Some(back) => frame = back,
                }
            }
            if fit {
                if frame.checksum == Checksum::Unverified {
                    frame.checksum = Checksum::Complete;
                }
                if segment.flags & tcp_flag::PSH == 0 {
                    self.begin_with(&frame, segment);
                }
            }
            self.out.push(frame);
        }
        self.open.drain(..).for_each(|open| open.finish(&mut self.out[open.place]));
        std::mem::swap(frames, &mut self.out);
    }

    /// Puts a segment behind its flow's frame, or gives it back if it does not follow. The last one ends that frame.
    fn grow(&mut self, index: usize, segment: &Segment, fit: bool, mut frame: Frame) -> Option<Frame> {
        let open = &mut self.open[index];
        let whole = &mut self.out[open.place];
        let follows = fit && open.continues(whole, segment, &frame);
        let last = segment.flags & tcp_flag::PSH != 0 || segment.payload < open.first.payload;
        let mut back = None;
        if follows {
            if whole.departure.merged == 0 {
                self.merged += 1;
                whole.departure.merged = self.merged;
            }
            let departure = Departure { merged: whole.departure.merged, ..frame.departure };
            self.absorbed.push(Absorbed { departure, place: place(&frame) });
            open.pieces += frame.segments().count();
            open.count += 1;
            open.next = open.next.wrapping_add(segment.payload as u32);
            open.flags = segment.flags;
            frame.pull_front(segment.headers);
            open.last = whole.append_behind(open.last, frame);
        } else {
            back = Some(frame);
        }
        if !follows || last {
            open.finish(whole);
            self.open.swap_remove(index);
        }
        back
    }

    /// The frame that is put out next may grow.
    fn begin_with(&mut self, frame: &Frame, first: Segment) {
        let open = Open {
            place: self.out.len(),
            first,
            next: first.sequence.wrapping_add(first.payload as u32),
            count: 1,
            pieces: frame.segments().count(),
            last: frame.last_buffer(),
            flags: first.flags,
        };
        if self.open.len() < MERGED_FLOWS {
            self.open.push(open);
            return;
        }
        self.oldest = (self.oldest + 1) % MERGED_FLOWS;
        let gone = std::mem::replace(&mut self.open[self.oldest], open);
        gone.finish(&mut self.out[gone.place]);
    }

    /// The frames that lie in this one behind the first.
    pub fn absorbed(&self, whole: &Frame) -> impl Iterator<Item = Absorbed> + '_ {
        let merged = whole.departure.merged;
        self.absorbed.iter().filter(move |absorbed| merged != 0 && absorbed.departure.merged == merged).copied()
    }
}
