//! Several workers, one switch: how a frame gets to the worker that may decide about it, or that can send it.
//!
//! # Why
//! The kernel spreads a port's frames over its queues, and so over workers, as it likes: the two directions of
//! a conversation arrive at different workers, and may move. A connection's record belongs to one worker
//! (`connection/`): no lock, nothing shared. So the frame goes to the record.
//!
//! # The rule
//! **One worker decides about a packet, whole, and all connections the packet belongs to are its own.**
//!
//! 1. The walk looks each (zone, tuple) up among the worker's own records. What is not there is asked of the
//!    [`Directory`]. If nobody has it, it is new (or invalid), here. If another worker has it, the walk ends:
//!    nothing has been done yet, so the frame goes to that worker as it came, and is decided there from the start.
//! 2. A walk that had found records of this worker's own before it met one of another's **moves** them there
//!    first (`Directory::transfer`). So with each hand-over the worker that decides has all records of the zones
//!    walked so far; a packet of `n` zones is decided after at most `n` hand-overs.
//! 3. The commits of a walk are claimed in the directory in one step, all tuples of all zones, under the locks
//!    of their shards, taken in order. If any is another worker's by now, none is claimed and the frame goes to
//!    that worker.
//! 4. A frame that was handed over does not believe a cached hand-over: the tables are walked. More than
//!    [`HAND_OVERS_PER_FRAME`] hand-overs drop it under `HandOverLimit`.
//!
//! # Why every packet meets all of its connections
//! *One zone.* Both tuples of a connection, the second one after NAT, are in the directory from before its first
//! packet leaves (claim, then publish, then transmit) until its record is freed. A packet that belongs to it
//! either is at the worker that has it, or misses there and is sent to it: by a walk, or by a cached program of
//! an earlier one. No worker decides "new" for a tuple in the directory, and the claim (3) refuses what has been
//! entered since it was looked up. Hence no connection is recorded twice in a zone.
//!
//! *Several zones.* Commits of one walk are one worker's (3), so as long as packets of both directions pass the
//! same zones, all records of a conversation lie together, whatever NAT does to its tuples in between: the
//! answer finds one of them by its own tuple, and thereby the worker of all. They can lie apart only if some
//! packets passed zone A alone and others zone B alone, which takes rules that track one direction each, or rules
//! that changed. Then (2) brings them together, once. If one zone's record ends before the other's, the packet
//! goes to where the rest is, and what is missing begins anew there.
//!
//! *While a record moves.* It is put into the new owner's mailbox and re-owned in the directory under the same
//! locks. So whoever reads there that it owns a tuple of which it has no record finds it in its mailbox
//! (`Connections::adopt`), and walks again. Two packets that move the same two records in opposite directions at
//! the same time chase each other until the limit of (4): they are dropped and counted, nothing is lost or doubled.
//!
//! *A cached hand-over that is out of date* costs a detour, not a wrong decision: who gets the frame is the owner
//! (and may commit anew), or walks, and sends it on to the owner; it then tells the first one to forget.
//!
//! *A new connection with source NAT* goes first to the worker that holds its internal end's mapping
//! (`Tuple::endpoint`), unless it has records elsewhere; without that it gets a port of its own.
//!
//! # Rings
//! One per pair of workers ([`ring`]), written by one and read by the other; nothing else is shared on the fast
//! path. What is pushed becomes visible at the end of the batch; then a reader that sleeps is woken by its
//! eventfd, one that does not is left alone. Before it sleeps a worker says so and looks once more at its rings;
//! a writer publishes and then looks whether it sleeps: one of the two sees the other.
//!
//! A full ring drops under `HandOverFull`. One turn of a port may take at most the `n + 1`st part of what is
//! free, `n` being the ports that are active: no port can fill it for the others. At the other end its walks are
//! paid from its own budget, as if it had come in there.
//!
//! # Messages
//! - `Resume`: a frame to be decided. It is parsed again; what its tunnel said of it travels along.
//! - `Send`: a frame that is decided, for a port of whose queues the sender has none (an interface with fewer
//!   queues than there are workers). All of a flow's frames take the same way: order is kept.
//! - `Forget`: the cached program for a key.
//!
//! Ports are named by slot and number: a slot that was given to another port since is told by the number, and
//! the frame drops under `PortDown`.
//!
//! **Buffers** belong to whoever has the frame. The quota of the port that received it is released by the
//! sender and charged by the receiver ([`Pool::release`], [`Pool::charge`]): what lies in a ring is bounded by
//! the ring. A ring that is dropped returns its frames' buffers to the depot.
//!
//! [`Pool::release`]: crate::packet::pool::Pool::release
//! [`Pool::charge`]: crate::packet::pool::Pool::charge

pub mod ring;
