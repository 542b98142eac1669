//! The last moment before a port: what it cannot take is turned into what it can.
//!
//! A frame keeps its partial checksum, its size and its chain all the way through the switch; here,
//! knowing the output, [`fit`] completes the checksum, cuts a large frame into segments, or copies it
//! into chunks. Called by the worker only, before `PortQueue::transmit`.
//!
//! Cutting trusts nothing but the headers it has parsed itself: each segment's lengths, checksums and
//! sequence numbers are computed, never taken over from the large frame (whose checksum field holds a
//! pseudo-header sum, and whose outer lengths mean nothing). A frame whose headers are not of the kind
//! that its descriptor says is `Malformed`, also if the port would have taken it whole: the descriptor
//! came from a guest, and the kernel would refuse it anyway.

use super::checksum;
use super::frame::{Checksum, Frame, Gso, GsoKind};
use super::header::{Ipv4, Ipv6, Tcp, Udp, eth_type, protocol, tcp_flag, view, view_mut};
use super::parse::{WHOLE, parse_bytes};
use super::pool::Pool;
use super::tunnel;
use crate::drop::DropReason::{self, Malformed, NoBuffer, TooBig};
use crate::flow::key::FlowKey;
use crate::limits::{CHUNK_BYTES, CUTS_PER_FRAME, HEADROOM, RING_PIECES};
use crate::port::Offloads;

#[cfg(test)]
mod tests;

/// The longest frame that a single chunk holds behind its headroom.
const CHUNK_ROOM: usize = CHUNK_BYTES - HEADROOM;

/// Whether the port takes the frame as it is, in the one form that nothing has to be done for.
#[must_use]
#[inline]
pub fn fits(frame: &Frame, offloads: &Offloads) -> bool {
    frame.gso.is_none()
        && frame.len() <= offloads.max_frame
        && (offloads.checksum || !matches!(frame.checksum, Checksum::Partial { .. }))
        && (offloads.chains || frame.umem_address().is_some())
}

/// Appends to `out` what the port can take of the frame: itself, or its segments in order. All or
/// nothing: on an error `out` is as it was, and the frame is freed.
///
/// A large frame passes whole only to a port that takes both its segmentation and partial checksums,
/// and never in a tunnel. `max_frame` holds for each of its segments; segments have their checksums
/// complete.
///
/// # Errors
/// `TooBig` for the port, `NoBuffer` for copies, `Malformed` if the descriptor contradicts the headers.
pub fn fit(frame: Frame, offloads: &Offloads, pool: &mut Pool, out: &mut Vec<Frame>) -> Result<(), DropReason> {
    let fitted = match frame.gso {
        None => fit_one(frame, offloads, pool),
        Some(gso) => fit_large(frame, gso, offloads, pool, out),
    };
    match fitted {
        Ok(whole) => {
            out.extend(whole);
            Ok(())
        }
        Err((frame, reason)) => {
            pool.free(frame);
            Err(reason)
        }
    }
}

/// The frame to send in place of the one given, none if it was cut up; or the frame and why not.
type Fitted = Result<Option<Frame>, (Frame, DropReason)>;

fn fit_one(mut frame: Frame, offloads: &Offloads, pool: &mut Pool) -> Fitted {
    if frame.len() > offloads.max_frame {
        return Err((frame, TooBig));
    }
    if !offloads.checksum
        && let Err(reason) = complete_checksum(&mut frame)
    {
        return Err((frame, reason));
    }
    if is_placed(&frame, offloads) {
        return Ok(Some(frame));
    }
    let Some(copy) = pool.copy_to_chunks(&frame) else { return Err((frame, NoBuffer)) };
    pool.free(frame);
    Ok(Some(copy))
}

/// Whether it lies in buffers that the port takes frames from: if not any, then chunks, and one if that is enough.
fn is_placed(frame: &Frame, offloads: &Offloads) -> bool {
    offloads.chains
        || frame.umem_address().is_some()
        || frame.len() > CHUNK_ROOM && frame.umem_pieces().is_some_and(|pieces| pieces <= RING_PIECES)
}

fn fit_large(frame: Frame, gso: Gso, offloads: &Offloads, pool: &mut Pool, out: &mut Vec<Frame>) -> Fitted {
    let plan = match Plan::new(&frame, gso) {
        Ok(plan) => plan,
        Err(reason) => return Err((frame, reason)),
    };
    let longest = plan.headers + plan.payload.min(plan.size);
    if longest > offloads.max_frame || (!offloads.chains && plan.headers > CHUNK_ROOM) {
        return Err((frame, TooBig));
    }
    let whole = match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => offloads.tcp_segmentation,
        GsoKind::Udp => offloads.udp_segmentation,
    };
    if whole && is_placed(&frame, offloads) && offloads.checksum && gso.tunnel == 0 {
        return Ok(Some(frame));
    }
    let before = out.len();
    for index in 0..plan.count() {
        let Some(segment) = plan.cut(&frame, index, offloads.chains, pool) else {
            out.drain(before..).for_each(|segment| pool.free(segment));
            return Err((frame, NoBuffer));
        };
        out.push(segment);
    }
    pool.free(frame);
    Ok(None)
}

/// Where everything lies in a large frame; computed once, used for each segment.
struct Plan {
    /// Bytes of outer headers.
    tunnel: usize,
    /// Offsets from the frame's first byte, outer headers included.
    l3: usize,
    l4: usize,
    /// Bytes of all headers: where the payload begins.
    headers: usize,
    /// Bytes of payload in all, and in each segment but the last.
    payload: usize,
    size: usize,
    version4: bool,
    tcp: bool,
    /// The sum of the pseudo-header's addresses and protocol, without the length.
    pseudo: u32,
    /// What the first segment carries on.
    sequence: u32,
    identification: u16,
    flags: u16,
}

impl Plan {
    fn new(frame: &Frame, gso: Gso) -> Result<Self, DropReason> {
        let head = frame.head();
        let tunnel = usize::from(gso.tunnel);
        let size = usize::from(gso.size);
        if size == 0 || (tunnel > 0 && !tunnel::is_outer(head, tunnel)) {
            return Err(Malformed);
        }
        let mut key = FlowKey::ZERO;
        let inner = head.get(tunnel..).ok_or(Malformed)?;
        let layout = parse_bytes(inner, frame.len() - tunnel, 0, &mut key)?;
        let version4 = key.eth_type == eth_type::IPV4.to_be_bytes();
        let version6 = key.eth_type == eth_type::IPV6.to_be_bytes();
        let coherent = match (gso.kind, key.ip_proto) {
            (GsoKind::Tcp4, protocol::TCP) => version4,
            (GsoKind::Tcp6, protocol::TCP) => version6,
            (GsoKind::Udp, protocol::UDP) => version4 || version6,
            _ => false,
        };
        if !coherent || key.ip_frag != WHOLE {
            return Err(Malformed);
        }
        let (l3, l4) = (tunnel + usize::from(layout.l3), tunnel + usize::from(layout.l4));
        if version6 && !is_plain6(head, l3, l4) {
            return Err(Malformed);
        }
        let mut plan = Self {
            tunnel,
            l3,
            l4,
            headers: l4 + Udp::BYTES,
            payload: 0,
            size,
            version4,
            tcp: gso.kind != GsoKind::Udp,
            pseudo: if version4 {
                checksum::pseudo_header4(key.ipv4_src, key.ipv4_dst, key.ip_proto, 0)
            } else {
                checksum::pseudo_header6(&key.ipv6_src, &key.ipv6_dst, key.ip_proto, 0)
            },
            sequence: 0,
            identification: 0,
            flags: u16::from_be_bytes(key.tcp_flags),
        };
        if version4 {
            plan.identification = view::<Ipv4>(head, l3).ok_or(Malformed)?.identification.get();
        }
        if plan.tcp {
            let tcp: &Tcp = view(head, l4).ok_or(Malformed)?;
            plan.headers = l4 + tcp.header_bytes();
            plan.sequence = tcp.sequence.get();
        }
        let end = tunnel + layout.end as usize;
        plan.payload = end.checked_sub(plan.headers).ok_or(Malformed)?;
        // A SYN takes a sequence number itself and a RST ends the stream: neither can be repeated.
        let single = plan.tcp && plan.flags & (tcp_flag::SYN | tcp_flag::RST) != 0;
        if plan.count() > if single { 1 } else { CUTS_PER_FRAME } {
            return Err(Malformed);
        }
        Ok(plan)
    }

    /// How many segments; one at least.
    fn count(&self) -> usize {
        self.payload.div_ceil(self.size).max(1)
    }

    /// The segment of this index; `None` without a buffer. `runs`: whether it may lie in one, else in several chunks.
    fn cut(&self, large: &Frame, index: usize, runs: bool, pool: &mut Pool) -> Option<Frame> {
        let from = index * self.size;
        let part = (self.payload - from).min(self.size);
        let length = self.headers + part;
        let mut segment = if runs && length > CHUNK_ROOM {
            let mut run = pool.run(large.charged)?;
            if !run.set_len(length) {
                pool.free(run);
                return None;
            }
            run
        } else {
            pool.chunked(large.charged, length)?
        };
        // Headers lie in the first segment, here as there.
        let mut headers = self.headers;
        let mut from_here = self.headers + from;
        for bytes in segment.segments_mut() {
            bytes[..headers].copy_from_slice(&large.head()[..headers]);
            from_here += large.copy_range(from_here, &mut bytes[headers..]);
            headers = 0;
        }
        self.finish(&mut segment, index, from);
        segment.checksum = Checksum::Complete;
        segment.departure = large.departure;
        Some(segment)
    }

    /// Rewrites the headers of a segment, from the inside out.
    fn finish(&self, segment: &mut Frame, index: usize, from: usize) {
        let length = segment.len();
        let transport_length = length - self.l4;
        let bytes = segment.head_mut();
        if self.tcp
            && let Some(tcp) = view_mut::<Tcp>(bytes, self.l4)
        {
            // RFC 3168, 6.1.2: CWR is said once. FIN and PSH belong to the last byte.
            let mut gone = 0;
            if index > 0 {
                gone |= tcp_flag::CWR;
            }
            if index + 1 < self.count() {
                gone |= tcp_flag::FIN | tcp_flag::PSH;
            }
            tcp.offset_flags = (tcp.offset_flags.get() & !gone).into();
            tcp.sequence = self.sequence.wrapping_add(from as u32).into();
            tcp.checksum = [0; 2];
        } else if let Some(udp) = view_mut::<Udp>(bytes, self.l4) {
            udp.length = (transport_length as u16).into();
            udp.checksum = [0; 2];
        }
        let sum = self.pseudo + transport_length as u32 + checksum::sum_range(segment, self.l4, length);
        let bytes = segment.head_mut();
        if self.tcp {
            if let Some(tcp) = view_mut::<Tcp>(bytes, self.l4) {
                tcp.checksum = checksum::finish(sum).to_be_bytes();
            }
        } else if let Some(udp) = view_mut::<Udp>(bytes, self.l4) {
            udp.checksum = checksum::finish_udp(sum).to_be_bytes();
        }
        let ip_length = length - self.l3;
        if self.version4 {
            let header = self.l4 - self.l3;
            if let Some(ip) = view_mut::<Ipv4>(bytes, self.l3) {
                ip.total_length = (ip_length as u16).into();
                ip.identification = self.identification.wrapping_add(index as u16).into();
                ip.checksum = [0; 2];
            }
            let checksum = checksum::finish(checksum::sum(&bytes[self.l3..self.l3 + header]));
            if let Some(ip) = view_mut::<Ipv4>(bytes, self.l3) {
                ip.checksum = checksum.to_be_bytes();
            }
        } else if let Some(ip) = view_mut::<Ipv6>(bytes, self.l3) {
            ip.payload_length = ((ip_length - Ipv6::BYTES) as u16).into();
        }
        if self.tunnel > 0 {
            tunnel::patch_outer(bytes, self.tunnel, length - self.tunnel);
        }
    }
}

/// Whether only options stand between an IPv6 header and its transport header. Behind a routing header
/// the pseudo-header has another destination, and an authentication header cannot be cut up at all.
fn is_plain6(head: &[u8], l3: usize, l4: usize) -> bool {
    let Some(ip) = view::<Ipv6>(head, l3) else { return false };
    let (mut next, mut at) = (ip.next_header, l3 + Ipv6::BYTES);
    while at < l4 {
        let (protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS, Some(&[following, length])) =
            (next, head.get(at..).and_then(<[u8]>::first_chunk))
        else {
            return false;
        };
        next = following;
        at += (usize::from(length) + 1) * 8;
    }
    true
}

/// Where UDP's checksum lies in its header.
const UDP_CHECKSUM: u16 = 6;

/// Completes a partial checksum in place, whatever the chain; any other state stays as it is.
///
/// The pseudo-header's sum is in the field, so that summing from the start to the frame's end and
/// complementing gives the checksum. A large frame gets the one it would have if it were sent whole.
///
/// # Errors
/// `Malformed` if the descriptor names a place outside the first segment.
pub fn complete_checksum(frame: &mut Frame) -> Result<(), DropReason> {
    if let Checksum::Partial { .. } = frame.checksum {
        let (field, checksum) = missing_checksum(frame).ok_or(Malformed)?;
        frame.head_mut()[field..field + 2].copy_from_slice(&checksum);
        frame.checksum = Checksum::Complete;
    }
    Ok(())
}

/// Of a partial checksum what completes it, and where that belongs; `None` also if that is outside the first
/// segment.
#[must_use]
pub fn missing_checksum(frame: &Frame) -> Option<(usize, [u8; 2])> {
    let Checksum::Partial { start, offset } = frame.checksum else { return None };
    let field = usize::from(start) + usize::from(offset);
    if field + 2 > frame.head().len() {
        return None;
    }
    let sum = checksum::sum_range(frame, usize::from(start), frame.len());
    // Only UDP's is at this offset; TCP's is at 16, ICMPv6's at 2.
    let checksum = if offset == UDP_CHECKSUM { checksum::finish_udp(sum) } else { checksum::finish(sum) };
    Some((field, checksum.to_be_bytes()))
}
