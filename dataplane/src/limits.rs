//! Every resource that traffic, rules or ports can consume, bounded and named in one place.

/// Frames taken from one (port, queue) at a time.
pub const BATCH: usize = 64;

/// Bytes of one chunk of packet memory: also the chunk size of the AF_XDP UMEM.
pub const CHUNK_BYTES: usize = 4096;

/// Bytes of one run of packet memory: holds the largest segment a TAP or a guest hands over (65,535
/// bytes and its Ethernet and virtio-net headers).
pub const RUN_BYTES: usize = 65_536 + 1024;

/// Bytes kept free before a received frame, for headers pushed later.
pub const HEADROOM: usize = 256;

/// Chunks and runs of packet memory, unless the configuration says otherwise: 32 MiB and 33 MiB.
pub const DEFAULT_CHUNKS: usize = 8192;
/// See [`DEFAULT_CHUNKS`].
pub const DEFAULT_RUNS: usize = 512;

/// Buffers that move between a worker's cache and the depot at a time.
pub const DEPOT_BATCH: usize = 64;

/// Ports of one switch.
pub const PORTS: usize = 4096;

/// Buffers of one class (chunks, runs) that frames received by one port may hold at once, all workers together. An
/// AF_XDP port's fill rings count.
pub const BUFFERS_PER_PORT: u32 = 4096;

/// Nor may a port hold more of a class than this many times what is free of it: who takes all it can get leaves
/// half of what it found to the next.
pub const BUFFERS_PER_PORT_TO_FREE: usize = 1;

/// Segments of one frame: 64 KB that came in frames of 1,500 bytes have 46.
pub const SEGMENTS: usize = 64;

/// Chunks of one frame in a ring of an AF_XDP port: what kernels take (`MAX_SKB_FRAGS`, and the first).
pub const RING_PIECES: usize = 18;

/// Flows of which segments are merged at a time, in one batch to one port.
pub const MERGED_FLOWS: usize = 8;

/// IPv6 extension headers of one packet; more are malformed.
pub const EXTENSION_HEADERS: usize = 8;

/// Segments that one large frame may be cut into: 65,535 bytes at the least MSS that Linux sends with
/// (88 bytes) need 745.
pub const CUTS_PER_FRAME: usize = 1024;

/// Flow tables: 0 to 254, as in OpenFlow.
pub const TABLES: usize = 255;

/// Rules of one switch.
pub const RULES: usize = 1_000_000;

/// Different masks of one table's rules. Many share a tuple ([`classifier`]).
pub const MASKS_PER_TABLE: usize = 4096;

/// What the search in one flow table may cost (`flow/classifier.rs`).
pub mod classifier {
    /// Tuples of one table, each a probe in the worst case. While there are as many, no rule with a new mask is taken.
    pub const TUPLES: usize = 512;
    /// The first masks, each of which gets a tuple of its own.
    pub const SEPARATE_MASKS: usize = 16;
    /// Rules of different matches that may meet in one place of a tuple before some move to a finer one.
    pub const COLLISIONS: usize = 10;
}

/// Members of one address set.
pub const ADDRESS_SET_MEMBERS: usize = 65_536;

/// Places in classifiers: one of each rule, but of a rule that names an address set one for each member.
pub const PLACES: usize = 4_000_000;

/// Actions of one rule, apply and write together, and those within `clone`.
pub const ACTIONS_PER_RULE: usize = 2048;

/// Branches (`clone`, buckets of groups) of one walk. The way that would fork once more
/// drops under `BranchLimit`.
pub const BRANCHES_PER_WALK: usize = 512;

/// Branches within branches, and `clone` within `clone` in a rule.
pub const BRANCH_DEPTH: usize = 16;

/// Walks that one walk repeats, to find out whether rules still admit the connections of its packet: one for
/// each packet with which some of them began. The way that needs more drops under `BranchLimit`.
pub const REPEATS_PER_WALK: usize = 16;

/// Groups of one switch.
pub const GROUPS: usize = 4096;

/// Buckets of one group.
pub const BUCKETS_PER_GROUP: usize = 256;

/// Partitions that a table's changes are told apart by; one more for rules that leave the field wild.
pub const PARTITIONS: usize = 256;

/// The last changed matches that a partition remembers; entries older than those resolve anew.
pub const CHANGES_PER_PARTITION: usize = 32;

/// Entries of one worker's flow cache.
pub const CACHE_ENTRIES: usize = 262_144;

/// Bytes of one entry, two cache lines: 32 MiB for all of a worker's, and at most 4 MiB for each of the 17 tables that
/// find them. What entries have in common (masks, rules passed, programs) is kept once. What an entry may have alone
/// comes on top: the program of a connection, some 200 bytes; 128 bytes for values of more than 64, as IPv6 has them.
pub const CACHE_ENTRY_BYTES: usize = 128;

/// A cache with this many times more places than entries gives memory back.
pub const CACHE_SPARE: usize = 8;

/// Masks of one worker's flow cache that have a table, each a probe in the worst case.
pub const CACHE_MASKS: usize = 16;

/// Masks of its entries in all, those without a table included; one more, and all entries without a table go.
pub const CACHE_ALL_MASKS: usize = 16_384;

/// Walks of the flow tables that a port may cause at once if it caused none before: a batch. Otherwise ports share the
/// time that walks may take; what exceeds it drops under `MissBudget`.
pub const MISSES_PER_BATCH: usize = 64;

/// While packets of known flows have to wait, walks may take one part in so many of a worker's time.
pub const WALKS_WHILE_PRESSED: u64 = 5;

/// Nanoseconds after which it no longer counts that such packets had to wait: who misses then walks at once.
pub const PRESSED_NANOSECONDS: u64 = 10_000_000;

/// Messages that wait in the ring from one worker to another. What does not fit drops under
/// `HandOverFull`.
pub const HAND_OVER_RING: usize = 1024;

/// Times that one frame is handed from worker to worker at most, on its way to who decides about it; then it
/// drops under `HandOverLimit`.
pub const HAND_OVERS_PER_FRAME: u8 = 4;

/// Comparisons with recent changes that cost as much as a walk. Checking whether an older entry is still good
/// is charged by them, and given up for a walk when it would take more.
pub const COMPARISONS_PER_WALK: usize = 256;

/// Comparisons with recent changes that cost so little that no budget is asked: what exceeds is a miss.
pub const COMPARISONS_AT_ONCE: usize = 8;

/// Microseconds after which an unused cache entry is removed.
pub const CACHE_IDLE_MICROSECONDS: u64 = 10_000_000;

/// Punted packets waiting for one subscriber; the excess drops under `PuntOverrun`.
pub const PUNT_QUEUE: usize = 256;

/// Bytes of a frame that a program asks to be sent: a 64 KB segment with its Ethernet header and tags.
pub const PACKET_OUT_BYTES: usize = 65_535 + 22;

/// Meters of one switch.
pub const METERS: usize = 1024;

/// Rules whose time has come that are removed at once; the others follow at the next look.
pub const EXPIRED_AT_ONCE: usize = 16_384;

/// Removed rules that are kept for listeners; who is further behind misses some, and is told so.
pub const REMOVALS_KEPT: usize = 4096;

/// Listeners for removed rules at a time.
pub const REMOVAL_LISTENERS: usize = 16;

/// Captures of frames at a time: `weft capture`, `weft trace --live`.
pub const CAPTURES: usize = 4;

/// Ports that one capture may name; without a name it takes all.
pub const CAPTURE_PORTS: usize = 64;

/// Frames of one capture that wait in one worker, and their bytes. What exceeds is lost to the capture, and counted.
pub const CAPTURE_RECORDS: usize = 8192;
/// See [`CAPTURE_RECORDS`].
pub const CAPTURE_BYTES: usize = 8 << 20;

/// Milliseconds between two looks at them.
pub const CAPTURE_MILLISECONDS: u64 = 5;

/// Bytes of one gRPC message, both ways; larger bundles travel in several.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Connections in the answer to one request.
pub const CONNECTIONS_LISTED: usize = 100_000;

/// Connections that one trace may assume.
pub const ASSUMED_CONNECTIONS: usize = 64;

/// Replies (DHCP, ICMP) that one worker composes per batch; the excess drops under `ResponderBudget`.
pub const REPLIES_PER_BATCH: usize = 16;

/// Texts of cookies that a switch keeps.
pub const ORIGINS: usize = 262_144;

/// Bytes of one of them.
pub const ORIGIN_BYTES: usize = 256;

/// Listeners for punted packets at a time.
pub const PUNT_LISTENERS: usize = 16;

/// Messages of one bundle.
pub const BUNDLE_PARTS: usize = 1024;

/// Bytes of one bundle, all its messages together.
pub const BUNDLE_BYTES: usize = 512 * 1024 * 1024;

/// Calls that the controller may have passed on and not yet got answers for.
pub const RELAYED_CALLS: usize = 64;

/// IPv4 datagrams in fragments, in each worker. What exceeds drops under `FragmentLimit`.
pub mod fragment {
    /// Datagrams of which the first fragment has come and others have not.
    pub const DATAGRAMS: usize = 4096;
    /// Of these, what came in by one port.
    pub const DATAGRAMS_PER_PORT: usize = 1024;
    /// Gaps in what has come of one datagram: a datagram of 65,535 bytes at an MTU of 576 is in 119 fragments,
    /// and in a random order leaves some 30.
    pub const GAPS: usize = 64;
    /// Fragments that wait for the first one of their datagram.
    pub const EARLY: usize = 1024;
    /// Of these, what came in by one port.
    pub const EARLY_PER_PORT: usize = 256;
    /// Their bytes.
    pub const EARLY_BYTES: usize = 2 << 20;
    /// Likewise of one port.
    pub const EARLY_BYTES_PER_PORT: usize = 512 << 10;
    /// How long an early fragment waits, and how long a datagram is remembered after its last fragment:
    /// microseconds.
    pub const PATIENCE: u64 = 1_000_000;
}

/// Destinations in reactive networks that the controller is asked for; times in microseconds.
pub mod destination {
    /// Destinations that are asked for, or were lately.
    pub const ENTRIES: usize = 8192;
    /// Of these, what one port has asked for and is not answered yet.
    pub const ASKED_PER_PORT: usize = 64;
    /// Destinations that one port may ask for in a second.
    pub const PER_PORT_AND_SECOND: usize = 200;
    /// Frames that wait for one destination.
    pub const FRAMES: usize = 8;
    /// Bytes of all frames that wait.
    pub const BYTES: usize = 4 << 20;
    /// Destinations in one message to the controller.
    pub const QUESTIONS: usize = 256;
    /// How long frames wait for an answer.
    pub const PATIENCE: u64 = 2_000_000;
    /// How long frames are dropped for a destination that nobody has.
    pub const REFUSED: u64 = 5_000_000;
    /// How long frames are dropped for one that is known, if rules punt them all the same.
    pub const RELEASED: u64 = 1_000_000;
}

/// Next hops that rules look for (the action `neighbour`), all workers together; times in microseconds. What exceeds
/// drops under `NeighbourUnresolved`.
pub mod neighbour {
    /// Next hops that are known, asked for or refused. Those used longest ago make room for others.
    pub const KNOWN_OR_ASKED: usize = 4096;
    /// Of these, asked for or refused on behalf of packets from one port.
    pub const ASKED_PER_PORT: usize = 64;
    /// Frames that wait for one.
    pub const FRAMES_PER_HOP: usize = 3;
    /// Frames that wait in one worker.
    pub const FRAMES: usize = 1024;
    /// Requests until it is given up.
    pub const TRIES: u32 = 3;
    /// Between two requests (RFC 1122, 2.3.2.1: at most one a second).
    pub const RETRY: u64 = 1_000_000;
    /// How long one that did not answer is not asked for again.
    pub const REFUSED: u64 = 5_000_000;
    /// How long one is believed to be where it last was, before it is asked whether it still is.
    pub const REACHABLE: u64 = 30_000_000;
    /// How long one that nobody uses is kept.
    pub const IDLE: u64 = 60_000_000;
    /// How long one that has just been heard is not listened to, unless it has moved.
    pub const SETTLED: u64 = 1_000_000;
    /// ARP packets that one worker learns from in a batch.
    pub const LEARNT_PER_BATCH: usize = 64;
}

/// Announcements of addresses (ARP); times in microseconds.
pub mod announcement {
    /// Addresses that a worker is announcing, and those of one bundle.
    pub const WAITING: usize = 4096;
    /// Announced at a time, ten times a second.
    pub const AT_A_TIME: usize = 256;
    /// How often each is announced.
    pub const TIMES: u32 = 3;
    /// Between two times.
    pub const AGAIN: u64 = 1_000_000;
}

/// Connections: how many, and how long they last without a packet, in microseconds.
pub mod connection {
    /// Records of one worker, unless the configuration says otherwise: 32 MiB.
    pub const DEFAULT_RECORDS: usize = 131_072;
    /// Connections of one zone in one worker, unless the configuration says otherwise: half of the table. Nor may a
    /// zone begin one while it has as many as there are free: who takes all it can get, by however many zones,
    /// leaves something to the next.
    pub const DEFAULT_PER_ZONE: u32 = 65_536;
    /// Random NAT ports tried for one connection.
    pub const NAT_TRIES: u32 = 32;

    const SECOND: u64 = 1_000_000;
    const MINUTE: u64 = 60 * SECOND;

    /// RFC 5382, REQ-5: at least 2 hours and 4 minutes.
    pub const TCP_ESTABLISHED: u64 = 124 * MINUTE;
    /// Opening or closing. RFC 5382, REQ-5: at least 4 minutes.
    pub const TCP_TRANSITORY: u64 = 4 * MINUTE;
    /// After a RST. RFC 7857, 2.2 recommends 4 minutes because a RST may be forged; here only one that lies in
    /// the receiver's window is believed (RFC 5961, 3.2), and the retransmissions it ends take seconds.
    pub const TCP_RESET: u64 = 10 * SECOND;
    /// Without a reply. RFC 4787, REQ-5: at least 2 minutes.
    pub const UDP_UNREPLIED: u64 = 2 * MINUTE;
    /// With one. RFC 4787, REQ-5c: 5 minutes or more recommended.
    pub const UDP_REPLIED: u64 = 5 * MINUTE;
    /// ICMP queries. RFC 5508, REQ-2: at least 60 seconds.
    pub const ICMP: u64 = MINUTE;
    /// SCTP, open: longer than several heartbeats (RFC 9260, 16: every 30 s); no RFC demands one, TCP's is taken.
    pub const SCTP_OPEN: u64 = TCP_ESTABLISHED;
    /// SCTP, opening or closing.
    pub const SCTP_TRANSITORY: u64 = TCP_TRANSITORY;
    /// Other protocols: as Linux does (nf_conntrack_generic_timeout).
    pub const OTHER: u64 = 10 * MINUTE;
}

/// vhost-user ports: what a front end, or the guest behind it, may have.
pub mod vhost_user {
    /// Queue pairs of one port.
    pub const PAIRS: usize = 64;
    /// Entries of one ring (virtio 1.2, 2.7).
    pub const LARGEST_RING: usize = 32_768;
    /// Descriptors that one frame may take, those of all its chains together. QEMU gives a chain as many at most.
    /// Which needs more breaks its ring.
    pub const DESCRIPTORS_PER_FRAME: usize = 1024;
    /// Regions of memory of one front end.
    pub const REGIONS: usize = 64;
    /// Regions of all front ends together, those still in use after a front end has gone included.
    pub const MAPPINGS: usize = 8192;
    /// Bytes of one message's payload: a table of [`super::vhost_user::REGIONS_PER_MESSAGE`] regions has 264.
    pub const MESSAGE_BYTES: usize = 1024;
    /// Messages of one front end that are done in a second: each may stop workers for a moment, and a guest decides when
    /// many of them are sent.
    pub const MESSAGES_PER_SECOND: u32 = 1000;
    /// Regions, and descriptors of files, that come with one message.
    pub const REGIONS_PER_MESSAGE: usize = 8;
}
