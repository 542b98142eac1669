//! What the packets of a connection do to it: the state machines, as functions without side effects.
//!
//! - **TCP** (RFC 9293, 3.3.2; as seen from the middle). Only a SYN begins a connection, unless pick-up in
//!   the middle is allowed. What is judged by sequence number is what could harm: a RST, a FIN and what is
//!   learnt for judging those must lie in the receiver's window (RFC 5961, 3.2), otherwise the packet
//!   passes, is counted, and changes nothing; the receiver judges it for itself. Data are never called
//!   invalid for their sequence numbers: segments merged by GRO or cut late (GSO) need no care.
//! - **UDP, ICMP queries, other protocols**: unreplied, then replied.
//! - **SCTP** (RFC 9260, 4), by the first chunk's type. Verification tags are not tracked, so nothing that
//!   says *end* is believed further than to the short timeout, and data undo it.

use super::Direction;
use super::record::TcpSide;
use crate::limits::connection as limits;
use crate::packet::header::{protocol, tcp_flag};

/// What a packet's transport header says, as far as connections care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Segment),
    /// SCTP: the type of the first chunk; 255 if there is none.
    Sctp(u8),
    /// Anything else.
    Other,
}

/// Of a TCP segment (one that is to be cut, or was merged, counts as one).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// `tcp_flag`
    pub flags: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; means something with ACK only.
    pub acknowledgement: u32,
    /// As in the header, unscaled.
    pub window: u16,
    /// The window scale option of a SYN (RFC 7323, 2.2).
    pub scale: Option<u8>,
    /// Bytes of payload.
    pub payload: u32,
}

impl Transport {
    /// Reads a transport header. `bytes` begin with it and may end with it; `length` counts header and
    /// payload. A header cut short gives [`Transport::Other`], which no TCP or SCTP connection accepts.
    #[must_use]
    pub fn read(protocol: u8, bytes: &[u8], length: u32) -> Self {
        match protocol {
            protocol::TCP => Segment::read(bytes, length).map_or(Self::Other, Self::Tcp),
            protocol::SCTP => Self::Sctp(bytes.get(12).copied().unwrap_or(255)),
            _ => Self::Other,
        }
    }
}

impl Segment {
    fn read(bytes: &[u8], length: u32) -> Option<Self> {
        let head = bytes.get(..20)?;
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let flags = u16::from_be_bytes([head[12] & 0x0f, head[13]]);
        let header = usize::from(head[12] >> 4) * 4;
        let payload = length.checked_sub(header as u32)?;
        let scale = if flags & tcp_flag::SYN == 0 { None } else { window_scale(bytes.get(20..header)?) };
        let window = u16::from_be_bytes([head[14], head[15]]);
        Some(Self { flags, sequence: number(4), acknowledgement: number(8), window, scale, payload })
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// One past the last sequence number it occupies.
    fn end(&self) -> u32 {
        let control = u32::from(self.has(tcp_flag::SYN)) + u32::from(self.has(tcp_flag::FIN));
        self.sequence.wrapping_add(self.payload).wrapping_add(control)
    }
}

/// RFC 7323, 2.2; 14 at most (2.3).
fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [] | [0, ..] => return None,
            [1, ..] => options = &options[1..],
            [3, 3, shift, ..] => return Some(shift.min(14)),
            [_, length, ..] if length >= 2 => options = options.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}

/// What a connection's protocol is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// TCP: a SYN passed.
    SynSent = 1,
    /// TCP: one passed in each direction (simultaneous open).
    SynSentBoth,
    /// TCP: answered by SYN and ACK.
    SynReceived,
    /// TCP: that is acknowledged.
    Established,
    /// TCP: one side sent a FIN.
    FinWait,
    /// TCP: and the other acknowledged it.
    CloseWait,
    /// TCP: both sent a FIN.
    LastAck,
    /// TCP: both FINs are acknowledged.
    TimeWait,
    /// TCP: reset.
    Closed,
    /// Not TCP or SCTP: no reply yet.
    Unreplied,
    /// Not TCP or SCTP: replied.
    Replied,
    /// SCTP: the handshake.
    Opening,
    /// SCTP: open.
    Open,
    /// SCTP: a shutdown or abort passed.
    Closing,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 14] = {
        use State::{
            CloseWait, Closed, Closing, Established, FinWait, LastAck, Open, Opening, Replied, SynReceived, SynSent,
            SynSentBoth, TimeWait, Unreplied,
        };
        [
            SynSent,
            SynSentBoth,
            SynReceived,
            Established,
            FinWait,
            CloseWait,
            LastAck,
            TimeWait,
            Closed,
            Unreplied,
            Replied,
            Opening,
            Open,
            Closing,
        ]
    };

    /// The word in dumps: "fin_wait".
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynSentBoth => "syn_sent_both",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }

    /// Whether a connection of this protocol can be in it.
    pub(super) fn suits(self, protocol: u8) -> bool {
        match self {
            Self::Unreplied | Self::Replied => !matches!(protocol, protocol::TCP | protocol::SCTP),
            Self::Opening | Self::Open | Self::Closing => protocol == protocol::SCTP,
            _ => protocol == protocol::TCP,
        }
    }

    /// How long a connection in it outlives its last packet, in microseconds.
    #[must_use]
    pub fn timeout(self, protocol: u8) -> u64 {
        match self {
            Self::Established => limits::TCP_ESTABLISHED,
            Self::Closed => limits::TCP_RESET,
            Self::SynSent | Self::SynSentBoth | Self::SynReceived => limits::TCP_TRANSITORY,
            Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait => limits::TCP_TRANSITORY,
            Self::Opening | Self::Closing => limits::SCTP_TRANSITORY,
            Self::Open => limits::SCTP_OPEN,
            Self::Unreplied | Self::Replied => match protocol {
                protocol::ICMP | protocol::ICMPV6 => limits::ICMP,
                protocol::UDP if self == Self::Unreplied => limits::UDP_UNREPLIED,
                protocol::UDP => limits::UDP_REPLIED,
                _ => limits::OTHER,
            },
        }
    }

    /// Whether the protocol itself has ended it: the same tuple may begin anew.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed)
    }
}

/// What of a record the protocol changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The state.
    pub state: State,
    /// Whether anything passed in the reply direction.
    pub replied: bool,
    /// Which sides sent a FIN, by direction.
    pub fins: [bool; 2],
    /// What each side sent, by direction.
    pub sides: [TcpSide; 2],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the connection, which is then at this.
    Pass(Progress),
    /// It contradicts the protocol.
    Invalid,
    /// The connection is over, and this begins another.
    Reopen,
}

/// Bits of [`TcpSide::known`].
const SENT: u8 = 1;
const ACKNOWLEDGED: u8 = 2;
/// [`TcpSide::scale`] of a SYN without the option.
const NO_SCALE: u8 = 0xff;

/// What the first packet of a connection makes of it; `None` if it cannot be one.
#[must_use]
pub fn begin(protocol: u8, transport: &Transport, pick_up: bool) -> Option<Progress> {
    let mut progress = Progress {
        state: State::Unreplied,
        replied: false,
        fins: [false; 2],
        sides: [TcpSide { scale: NO_SCALE, ..TcpSide::default() }; 2],
    };
    match (protocol, transport) {
        (protocol::TCP, Transport::Tcp(segment)) => match Event::of(segment)? {
            Event::Syn => {
                progress.state = State::SynSent;
                progress.sides[0].begin(segment);
            }
            Event::Ack if pick_up => {
                progress.state = State::Established;
                // What they agreed on was not seen: the most it can have been.
                progress.sides.iter_mut().for_each(|side| side.scale = 14);
                learn(&mut progress.sides, Direction::Original, segment);
            }
            _ => return None,
        },
        (protocol::SCTP, Transport::Sctp(chunk)) => {
            if *chunk != chunk::INIT && !(pick_up && *chunk == chunk::DATA) {
                return None;
            }
            progress.state = State::Opening;
        }
        (protocol::TCP | protocol::SCTP, _) => return None,
        _ => {}
    }
    Some(progress)
}

impl Progress {
    /// What a packet makes of the connection.
    #[must_use]
    pub fn after(&self, protocol: u8, direction: Direction, transport: &Transport) -> Verdict {
        let mut next = *self;
        let accepted = match (protocol, transport) {
            (protocol::TCP, Transport::Tcp(segment)) => {
                let Some(event) = Event::of(segment) else { return Verdict::Invalid };
                if event == Event::Syn && self.state.is_over() {
                    return Verdict::Reopen;
                }
                next.tcp(direction, event, segment)
            }
            (protocol::SCTP, Transport::Sctp(chunk)) => next.sctp(direction, *chunk),
            (protocol::TCP | protocol::SCTP, _) => false,
            _ => {
                if direction == Direction::Reply {
                    next.state = State::Replied;
                }
                true
            }
        };
        if !accepted {
            return Verdict::Invalid;
        }
        next.replied |= direction == Direction::Reply;
        Verdict::Pass(next)
    }

    /// Whether rules can tell the two apart, or must be asked again.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.replied == other.replied && self.state.is_over() == other.state.is_over()
    }

    /// False if the segment is invalid.
    fn tcp(&mut self, direction: Direction, event: Event, segment: &Segment) -> bool {
        use Direction::{Original, Reply};
        use State::{Closed, Established, SynReceived, SynSent, SynSentBoth};
        match (event, direction, self.state) {
            (Event::Syn, Original, SynSent | SynSentBoth) => self.sides[0].begin(segment),
            (Event::Syn, Reply, SynSent | SynSentBoth) => {
                self.sides[1].begin(segment);
                self.state = SynSentBoth;
            }
            // The receiver answers a SYN in a connection with a challenge (RFC 5961, 4).
            (Event::Syn, ..) => {}

            (Event::SynAck, Reply, SynSent) => {
                if !self.sides[0].syn_acknowledged_by(segment) {
                    return false;
                }
                self.sides[1].begin(segment);
                self.state = SynReceived;
            }
            (Event::SynAck, _, SynSentBoth) => {
                if !self.sides[direction.opposite() as usize].syn_acknowledged_by(segment) {
                    return false;
                }
                self.sides[direction as usize].begin(segment);
                self.state = SynReceived;
            }
            (Event::SynAck, Original, SynReceived) if self.sides[1].known & SENT != 0 => {
                learn(&mut self.sides, direction, segment);
            }
            (Event::SynAck, Original, _) => return false,
            // Sent again.
            (Event::SynAck, Reply, _) => {}

            (Event::Rst, Reply, SynSent) => {
                // RFC 9293, 3.10.7.3: acceptable if it acknowledges the SYN.
                if segment.has(tcp_flag::ACK) && self.sides[0].syn_acknowledged_by(segment) {
                    self.state = Closed;
                }
            }
            (Event::Rst, ..) => {
                if self.in_window(direction, segment.sequence) {
                    self.state = Closed;
                }
            }

            (Event::Fin | Event::Ack, Original, SynSent | SynSentBoth) | (Event::Fin, Reply, SynSent | SynSentBoth) => {
                return false;
            }
            // A challenge: the other end knows another connection of these ports.
            (Event::Ack, Reply, SynSent | SynSentBoth) => {}
            (Event::Fin | Event::Ack, _, Closed) => {}
            (Event::Fin | Event::Ack, _, _) => {
                if event == Event::Fin && self.in_window(direction, segment.sequence.wrapping_add(segment.payload)) {
                    self.fins[direction as usize] = true;
                }
                learn(&mut self.sides, direction, segment);
                let begun = self.state != SynReceived
                    || (direction == Original && self.acknowledged(Reply))
                    || self.fins != [false; 2];
                if begun {
                    self.state = self.by_fins(if self.state == SynReceived { Established } else { self.state });
                }
            }
        }
        true
    }

    /// The state that follows from the FINs seen and acknowledged.
    fn by_fins(&self, otherwise: State) -> State {
        match self.fins {
            [false, false] => otherwise,
            [true, true] if self.acknowledged(Direction::Original) && self.acknowledged(Direction::Reply) => {
                State::TimeWait
            }
            [true, true] if otherwise == State::TimeWait => State::TimeWait,
            [true, true] => State::LastAck,
            [original, _] => {
                let finished = if original { Direction::Original } else { Direction::Reply };
                if self.acknowledged(finished) { State::CloseWait } else { State::FinWait }
            }
        }
    }

    /// Whether the other side acknowledged all that this one sent.
    fn acknowledged(&self, direction: Direction) -> bool {
        let (sender, receiver) = (&self.sides[direction as usize], &self.sides[direction.opposite() as usize]);
        receiver.known & ACKNOWLEDGED != 0 && !is_after(sender.end, receiver.acknowledged)
    }

    /// Whether a sequence number is one that the receiver may be expecting.
    fn in_window(&self, direction: Direction, sequence: u32) -> bool {
        let (sender, receiver) = (&self.sides[direction as usize], &self.sides[direction.opposite() as usize]);
        if receiver.known & ACKNOWLEDGED == 0 {
            return sender.known & SENT != 0 && sequence == sender.end;
        }
        sequence.wrapping_sub(receiver.acknowledged) <= window(receiver)
    }

    fn sctp(&mut self, direction: Direction, chunk: u8) -> bool {
        self.state = match (chunk, self.state) {
            (chunk::INIT, State::Opening | State::Closing) => State::Opening,
            (chunk::INIT_ACK, _) if direction == Direction::Original => return false,
            (chunk::COOKIE_ACK, State::Opening) => State::Open,
            (chunk::DATA | chunk::SACK, State::Opening) if self.replied => State::Open,
            (chunk::DATA, State::Closing) => State::Open,
            (chunk::ABORT | chunk::SHUTDOWN | chunk::SHUTDOWN_ACK | chunk::SHUTDOWN_COMPLETE, _) => State::Closing,
            (_, state) => state,
        };
        true
    }
}

/// The most bytes that a receiver ever allowed beyond what it had acknowledged.
fn window(receiver: &TcpSide) -> u32 {
    receiver.window.max(1)
}

/// Remembers how far a side has sent and acknowledged. What lies outside the window teaches nothing:
/// otherwise a blind sender could first move the window, then reset in it.
#[inline]
fn learn(sides: &mut [TcpSide; 2], direction: Direction, segment: &Segment) {
    let receiver = sides[direction.opposite() as usize];
    let scaled = sides.iter().all(|side| side.scale != NO_SCALE);
    let end = segment.end();
    // One byte more than the window: a probe of a closed one (RFC 9293, 3.8.6.1).
    let limit = receiver.acknowledged.wrapping_add(window(&receiver)).wrapping_add(1);
    let sender = &mut sides[direction as usize];
    if receiver.known & ACKNOWLEDGED != 0 && is_after(end, limit) {
        return;
    }
    if sender.known & SENT == 0 || is_after(end, sender.end) {
        sender.end = end;
        sender.known |= SENT;
    }
    if !segment.has(tcp_flag::ACK) || (receiver.known & SENT != 0 && is_after(segment.acknowledgement, receiver.end)) {
        return;
    }
    if sender.known & ACKNOWLEDGED == 0 || is_after(segment.acknowledgement, sender.acknowledged) {
        sender.acknowledged = segment.acknowledgement;
        sender.known |= ACKNOWLEDGED;
    }
    let shift = if scaled && !segment.has(tcp_flag::SYN) { sender.scale.min(14) } else { 0 };
    sender.window = sender.window.max(u32::from(segment.window) << shift);
}

/// Whether a packet is of the kind of which most are, and passes without changing more of a connection in this
/// state than what [`continue_with`] does. What it says of them [`Progress::after`] says too.
#[inline]
pub(super) fn continues(state: State, replied: bool, direction: Direction, transport: &Transport) -> bool {
    match (state, transport) {
        (State::Established, Transport::Tcp(segment)) => replied && Event::of(segment) == Some(Event::Ack),
        (State::Replied, Transport::Other) => replied,
        (State::Unreplied, Transport::Other) => direction == Direction::Original,
        _ => false,
    }
}

/// What such a packet teaches.
#[inline]
pub(super) fn continue_with(sides: &mut [TcpSide; 2], direction: Direction, transport: &Transport) {
    if let Transport::Tcp(segment) = transport {
        learn(sides, direction, segment);
    }
}

impl TcpSide {
    /// A SYN, alone or with an ACK.
    fn begin(&mut self, segment: &Segment) {
        *self = Self {
            end: segment.end(),
            acknowledged: segment.acknowledgement,
            window: segment.window.into(),
            scale: segment.scale.map_or(NO_SCALE, |scale| scale.min(14)),
            known: if segment.has(tcp_flag::ACK) { SENT | ACKNOWLEDGED } else { SENT },
            syn_payload: u16::try_from(segment.payload).unwrap_or(u16::MAX),
        };
    }

    /// Whether a segment acknowledges this side's SYN, with or without the data it carried (RFC 7413).
    fn syn_acknowledged_by(&self, segment: &Segment) -> bool {
        self.end.wrapping_sub(segment.acknowledgement) <= u32::from(self.syn_payload)
    }
}

/// Whether one sequence number lies behind another (RFC 9293, 3.4).
fn is_after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) as i32 > 0
}

/// The kinds of segments that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Event {
    /// `None` if the flags contradict each other, or there are none.
    fn of(segment: &Segment) -> Option<Self> {
        use tcp_flag::{ACK, FIN, RST, SYN};
        match segment.flags & (SYN | ACK | FIN | RST) {
            SYN => Some(Self::Syn),
            flags if flags == SYN | ACK => Some(Self::SynAck),
            flags if flags == FIN | ACK => Some(Self::Fin),
            ACK => Some(Self::Ack),
            flags if flags == RST || flags == RST | ACK => Some(Self::Rst),
            _ => None,
        }
    }
}

/// SCTP's chunk types (RFC 9260, 3.2).
mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}
