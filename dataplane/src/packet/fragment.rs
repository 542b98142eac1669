//! Fragmentation of IPv4 datagrams (RFC 791, 2.3 and 3.2; RFC 1812, 4.2.2.7) that a router may not send whole.
//!
//! A datagram's headers and payload are copied into new frames; the frame given is freed. What is a fragment
//! already is cut further. Of a large frame the segments are what counts: TCP's are simply made smaller, which
//! is as good as fragmenting and spares the receiver the reassembly; datagrams keep their limits, so each
//! segment is cut for itself.
//!
//! Called by workers through `Outgoing`, for programs that passed a `CheckMtu` step.

use super::checksum;
use super::frame::{Checksum, Frame, GsoKind};
use super::header::{Ipv4, Tcp, Udp, view, view_mut};
use super::parse::Layout;
use super::pool::Pool;
use super::segment::{complete_checksum, fit};
use crate::drop::DropReason::{self, Malformed, NoBuffer, TooBig};
use crate::limits::CUTS_PER_FRAME;
use crate::port::Offloads;

#[cfg(test)]
mod tests;

/// The least MTU of an IPv4 link (RFC 791, 3.2): the longest header and eight bytes.
pub const LEAST_MTU: u16 = 68;

/// The longest datagram in bytes, with its IP header, that the frame would leave as; `None` if it is not IPv4.
/// Of a large frame that is one of its segments.
#[must_use]
pub fn datagram_bytes(frame: &Frame, layout: &Layout) -> Option<usize> {
    let l3 = usize::from(layout.l3);
    let ip: &Ipv4 = view::<Ipv4>(frame.head(), l3).filter(|ip| l3 > 0 && ip.version_ihl >> 4 == 4)?;
    let whole = usize::from(ip.total_length.get());
    let Some(gso) = frame.gso else { return Some(whole) };
    let headers = segment_headers(frame, l3, gso.kind)?;
    Some(whole.min(headers + usize::from(gso.size)))
}

/// Bytes of IP and transport header of a large frame.
fn segment_headers(frame: &Frame, l3: usize, kind: GsoKind) -> Option<usize> {
    let ip = view::<Ipv4>(frame.head(), l3)?.header_bytes();
    let transport = match kind {
        GsoKind::Udp => Udp::BYTES,
        GsoKind::Tcp4 | GsoKind::Tcp6 => view::<Tcp>(frame.head(), l3 + ip)?.header_bytes(),
    };
    Some(ip + transport)
}

/// Whether the sender forbids fragmentation.
#[must_use]
pub fn is_unfragmentable(frame: &Frame, layout: &Layout) -> bool {
    view::<Ipv4>(frame.head(), layout.l3.into()).is_none_or(|ip| ip.fragment.get() & Ipv4::DONT_FRAGMENT != 0)
}

/// Appends to `out` the frames that the datagram at `l3` leaves as over a link of this MTU: itself if it fits.
/// All or nothing: on an error `out` is as it was, and the frame is freed.
///
/// # Errors
/// `TooBig`: it must not be fragmented, or would be in too many pieces. `NoBuffer`. `Malformed`.
pub fn fragment(frame: Frame, l3: usize, mtu: u16, pool: &mut Pool, out: &mut Vec<Frame>) -> Result<(), DropReason> {
    let before = out.len();
    let done = match frame.gso.map(|gso| gso.kind) {
        None => one(frame, l3, mtu, pool, out),
        Some(GsoKind::Udp) => {
            let mut segments = Vec::new();
            let cut = fit(frame, &WIRE, pool, &mut segments);
            segments.into_iter().fold(cut, |done, segment| {
                if done.is_ok() {
                    return one(segment, l3, mtu, pool, out);
                }
                pool.free(segment);
                done
            })
        }
        Some(kind) => smaller(frame, l3, mtu, kind, pool, out),
    };
    if done.is_err() {
        out.drain(before..).for_each(|piece| pool.free(piece));
    }
    done
}

/// What segments are cut for: a port that can do nothing itself.
const WIRE: Offloads =
    Offloads { checksum: false, tcp_segmentation: false, udp_segmentation: false, chains: true, max_frame: usize::MAX };

/// Lets a large frame of TCP be cut into smaller segments than its sender thought of.
fn smaller(
    mut frame: Frame,
    l3: usize,
    mtu: u16,
    kind: GsoKind,
    pool: &mut Pool,
    out: &mut Vec<Frame>,
) -> Result<(), DropReason> {
    let room = segment_headers(&frame, l3, kind).and_then(|headers| usize::from(mtu).checked_sub(headers));
    match (room, &mut frame.gso) {
        (Some(room @ 1..), Some(gso)) => {
            gso.size = gso.size.min(room as u16);
            out.push(frame);
            Ok(())
        }
        _ => {
            pool.free(frame);
            Err(TooBig)
        }
    }
}

fn one(mut frame: Frame, l3: usize, mtu: u16, pool: &mut Pool, out: &mut Vec<Frame>) -> Result<(), DropReason> {
    let cut = match view::<Ipv4>(frame.head(), l3) {
        Some(ip) if ip.total_length.get() <= mtu => {
            out.push(frame);
            return Ok(());
        }
        Some(ip) if ip.fragment.get() & Ipv4::DONT_FRAGMENT != 0 => Err(TooBig),
        Some(_) => complete_checksum(&mut frame).and_then(|()| cut(&frame, l3, mtu, pool, out)),
        None => Err(Malformed),
    };
    pool.free(frame);
    cut
}

fn cut(frame: &Frame, l3: usize, mtu: u16, pool: &mut Pool, out: &mut Vec<Frame>) -> Result<(), DropReason> {
    let head = frame.head();
    let ip = *view::<Ipv4>(head, l3).ok_or(Malformed)?;
    let header = ip.header_bytes();
    let length = usize::from(ip.total_length.get());
    let original = head.get(l3..l3 + header).ok_or(Malformed)?;
    if header < Ipv4::BYTES || length < header || l3 + length > frame.len() {
        return Err(Malformed);
    }
    // The later ones' header is no longer than the first one's: the same share of payload fits behind both.
    let share = usize::from(mtu).checked_sub(header).ok_or(TooBig)? & !7;
    let payload = length - header;
    if share == 0 || payload.div_ceil(share) > CUTS_PER_FRAME {
        return Err(TooBig);
    }
    let (later, later_bytes) = later_header(original);
    let begin = usize::from(ip.fragment.get() & Ipv4::OFFSET_MASK) * 8;
    if begin + payload > 0xffff {
        return Err(Malformed);
    }
    let mut from = 0;
    while from < payload {
        let part = share.min(payload - from);
        let options = if from == 0 { original } else { &later[..later_bytes] };
        let start = l3 + options.len();
        let mut piece = pool.sized(frame.charged, start + part).ok_or(NoBuffer)?;
        if !piece.set_len(start + part) {
            pool.free(piece);
            return Err(NoBuffer);
        }
        let bytes = piece.head_mut();
        bytes[..l3].copy_from_slice(&head[..l3]);
        bytes[l3..start].copy_from_slice(options);
        frame.copy_range(l3 + header + from, &mut bytes[start..]);
        // The last piece of a fragment is followed by what followed that.
        let more = from + part < payload || ip.fragment.get() & Ipv4::MORE_FRAGMENTS != 0;
        if let Some(ip) = view_mut::<Ipv4>(bytes, l3) {
            ip.total_length = ((start - l3 + part) as u16).into();
            ip.fragment = (((begin + from) / 8) as u16 | if more { Ipv4::MORE_FRAGMENTS } else { 0 }).into();
            ip.checksum = [0; 2];
        }
        let sum = checksum::finish(checksum::sum(&bytes[l3..start])).to_be_bytes();
        bytes[l3 + 10..l3 + 12].copy_from_slice(&sum);
        piece.checksum = Checksum::Unverified;
        out.push(piece);
        from += part;
    }
    Ok(())
}

/// The header of every fragment but the first: with those options that are marked to be copied (RFC 791, 3.1),
/// and the end of options where it is needed. Options that make no sense are left out with all behind them.
fn later_header(original: &[u8]) -> ([u8; 60], usize) {
    let mut header = [0; 60];
    header[..Ipv4::BYTES].copy_from_slice(&original[..Ipv4::BYTES]);
    let (mut at, mut options) = (Ipv4::BYTES, &original[Ipv4::BYTES..]);
    while let [kind, rest @ ..] = options {
        match (kind, rest.first()) {
            (0, _) => break,
            (1, _) => options = rest,
            (kind, Some(&length)) if (2..=options.len()).contains(&usize::from(length)) => {
                let (option, behind) = options.split_at(length.into());
                if kind & 0x80 != 0 {
                    header[at..at + option.len()].copy_from_slice(option);
                    at += option.len();
                }
                options = behind;
            }
            _ => break,
        }
    }
    let bytes = at.next_multiple_of(4);
    header[0] = 0x40 | (bytes / 4) as u8;
    (header, bytes)
}
