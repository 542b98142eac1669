//! Why a frame went nowhere, and how frames are accounted for.
//!
//! - **A received frame has one outcome.** It was *forwarded* if a port's queue took it, a copy or a segment of
//!   it, or a listener did. Otherwise it was *dropped*, and is counted once, under one [`DropReason`], by the
//!   port it came in by (from a tunnel: the tunnel port). Of several things that went wrong the first counts.
//! - **An output that could not take a frame** counts that frame too, by itself and under the reason
//!   (`sent_dropped`; without a buffer, its copy), whatever became of the frame elsewhere: of a broadcast to
//!   three ports of which one is full, nothing is dropped, and one is not sent. A frame in a tunnel counts at
//!   the tunnel port and at the port below; a copy that a listener did not take, at no port. `sent_packets` are
//!   those that the kernel or peer took.
//!
//! - **A frame that goes several ways** (`clone`, a group) counts each way that ends nowhere, by the port it came in
//!   by and under the reason (`branches`), whatever became of the frame elsewhere: of a broadcast to three ports of
//!   which one's firewall refuses it, nothing is dropped, and one branch is.
//!
//! All kinds of count are kept in [`DropCounters`]; `outcome.rs` keeps the books. What cannot be handed to
//! an output at all (a port that is down or missing, a neighbour that is not resolved) is no output's count.
//!
//! To add a reason: one line in the table below, and the place that uses it.

use crate::limits::PORTS;
use crate::port::PortSlot;

macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $name:ident = $word:literal,)+) => {
        /// See the module comment. The documentation of each is what the user reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $meaning])+ $name,)+ }

        impl DropReason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word in dumps and metrics: "spoofed".
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// One sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($meaning),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The frame is shorter than the headers it announces.
    Truncated = "truncated",
    /// A header contradicts itself: a length, version or header size that cannot be.
    Malformed = "malformed",
    /// No rule of a table matched.
    TableMiss = "table_miss",
    /// Rules matched, but none of them sends the packet anywhere.
    NoOutput = "no_output",
    /// A rule drops it.
    Policy = "policy",
    /// The source MAC or IP address is not the port's.
    Spoofed = "spoofed",
    /// Nobody on this network has the destination address, or takes its port.
    UnknownDestination = "unknown_destination",
    /// A tunnel packet of a network with no instance here.
    UnknownSegment = "unknown_segment",
    /// A frame of a physical network for a station, or of a VLAN, that is not here: nothing is wrong.
    Elsewhere = "elsewhere",
    /// The time to live was 1 or less where a rule decrements it.
    TtlExpired = "ttl_expired",
    /// The output port does not exist.
    NoSuchPort = "no_such_port",
    /// The output port exists but is not up.
    PortDown = "port_down",
    /// The frame is larger than the output port can send, or than the MTU that a rule checks.
    TooBig = "too_big",
    /// The output port's queue is full.
    TransmitFull = "transmit_full",
    /// A virtual machine's queue broke the rules of virtio, and is stopped until its driver sets it up anew.
    BadRing = "bad_ring",
    /// The kernel had no room in the interface's receive ring: frames come faster than they are taken.
    RingOverrun = "ring_overrun",
    /// Packet memory or the ingress port's share of it is used up.
    NoBuffer = "no_buffer",
    /// Packets of new flows took more than their port's share of the worker's time while others had to wait.
    MissBudget = "miss_budget",
    /// It exceeds the rate of a meter.
    Meter = "meter",
    /// The worker had too many requests, or packets to answer by ICMP, at once.
    ResponderBudget = "responder_budget",
    /// The rule sends it into a tunnel without saying where to (tun_dst is not set).
    NoTunnelDestination = "no_tunnel_destination",
    /// The underlay has no route to the tunnel's other end.
    NoRoute = "no_route",
    /// The MAC address of the next hop, or of the tunnel's other end, or of the router towards it, is not known (yet).
    NeighbourUnresolved = "neighbour_unresolved",
    /// A tunnel packet to this host of a kind it does not understand.
    BadTunnel = "bad_tunnel",
    /// There is no room before the packet for another header.
    NoHeadroom = "no_headroom",
    /// It would branch (clone, groups) more often, or deeper, than a packet may.
    BranchLimit = "branch_limit",
    /// A group has no bucket whose port is up.
    NoLiveBucket = "no_live_bucket",
    /// A rule's action does not fit the packet, such as popping a VLAN tag it does not have.
    BadAction = "bad_action",
    /// A rule hands it to a program, and none is listening.
    NoListener = "no_listener",
    /// A rule hands it to a program that does not keep up.
    PuntOverrun = "punt_overrun",
    /// It waited for the controller to say where its destination in a reactive network is: nobody has it, or no answer
    /// came.
    DestinationUnanswered = "destination_unanswered",
    /// An ARP, DHCP or ICMP message to the switch itself that calls for no answer.
    Consumed = "consumed",
    /// An ARP, DHCP or ICMP message to the switch itself that makes no sense.
    BadRequest = "bad_request",
    /// The zone, or the worker, has as many connections as it may.
    ConnectionLimit = "connection_limit",
    /// No port of the external address is free towards this destination, or none was found in time.
    NatPortsExhausted = "nat_ports_exhausted",
    /// It belongs to no connection and cannot begin one, or contradicts its connection's protocol.
    InvalidState = "invalid_state",
    /// The rule that admitted its connection is gone.
    PolicyChanged = "policy_changed",
    /// The connection it begins would have the addresses and ports of another one.
    ConnectionClash = "connection_clash",
    /// Another worker must decide about it or send it, and that one does not keep up.
    HandOverFull = "hand_over_full",
    /// Its connections were at several workers and moved all the time.
    HandOverLimit = "hand_over_limit",
    /// The first fragment of its datagram did not come within a second.
    FragmentTimeout = "fragment_timeout",
    /// It overlaps another fragment of its datagram, or two others of it do.
    FragmentOverlap = "fragment_overlap",
    /// The port has as many datagrams in fragments under way as it may, or as many early fragments waiting.
    FragmentLimit = "fragment_limit",
    /// The worker stopped while it held the frame.
    Stopped = "stopped",
}

impl DropReason {
    /// The reason of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.word() == word)
    }
}

/// One worker's counts; nobody else writes them.
pub struct DropCounters {
    /// By port slot and reason; rows exist once a port has dropped something.
    rows: Vec<Option<Box<[u64; DropReason::ALL.len()]>>>,
}

impl Default for DropCounters {
    fn default() -> Self {
        Self { rows: (0..PORTS).map(|_| None).collect() }
    }
}

impl DropCounters {
    /// Counts one frame at `port`.
    pub fn count(&mut self, port: PortSlot, reason: DropReason) {
        self.add(port, reason, 1);
    }

    /// Counts several.
    pub fn add(&mut self, port: PortSlot, reason: DropReason, frames: u64) {
        let row = self.rows[port.index()].get_or_insert_with(|| Box::new([0; DropReason::ALL.len()]));
        row[reason as usize] += frames;
    }

    /// Every count that is not zero.
    pub fn iter(&self) -> impl Iterator<Item = (PortSlot, DropReason, u64)> + '_ {
        self.rows.iter().enumerate().filter_map(|(slot, row)| Some((PortSlot::new(slot), row.as_ref()?))).flat_map(
            |(slot, row)| {
                DropReason::ALL
                    .iter()
                    .filter(|&&reason| row[reason as usize] > 0)
                    .map(move |&reason| (slot, reason, row[reason as usize]))
            },
        )
    }

    /// The count of one reason over all ports.
    #[must_use]
    pub fn total(&self, reason: DropReason) -> u64 {
        self.iter().filter(|&(_, found, _)| found == reason).map(|(_, _, frames)| frames).sum()
    }

    /// Forgets a port whose slot will be reused; gives its counts, so that totals can be kept.
    pub fn forget(&mut self, port: PortSlot) -> Vec<(DropReason, u64)> {
        let gone =
            self.iter().filter(|&(slot, _, _)| slot == port).map(|(_, reason, frames)| (reason, frames)).collect();
        self.rows[port.index()] = None;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_meanings_are_sentences() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_word(reason.word()), Some(*reason));
            assert!(reason.meaning().ends_with('.'), "{reason:?}");
        }
    }

    #[test]
    fn counts_are_kept_by_port_and_reason() {
        let mut counters = DropCounters::default();
        counters.count(PortSlot::new(2), DropReason::Spoofed);
        counters.add(PortSlot::new(7), DropReason::Spoofed, 4);
        assert_eq!(counters.total(DropReason::Spoofed), 5);
        assert_eq!(counters.forget(PortSlot::new(7)), [(DropReason::Spoofed, 4)]);
        assert_eq!(counters.iter().collect::<Vec<_>>(), [(PortSlot::new(2), DropReason::Spoofed, 1)]);
    }
}
