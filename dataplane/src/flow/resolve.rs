//! The walk of one packet through the flow tables: a function of (tables at a version, topology, key)
//! that returns what is to be done, and on what that depends. The worker compiles the result and runs it,
//! `weft trace` prints it: there is no second model of the pipeline to drift from this one.
//!
//! Besides the effects the walk keeps account of
//! - the bits it *consulted*: any packet that agrees on them walks the same way, so they are the mask of
//!   the cache entry. A bit that an action has *written* no longer depends on the packet and is not
//!   consulted by later matches;
//! - the bits that are *stable*: consulted and never changed on the way, so that a change of rules can be
//!   held against them (`log.rs`);
//! - the rules passed, which count the packet, and the tables and partitions passed.
//!
//! **Connections** (`connection/`) are looked at here and changed by the worker: the result names those that
//! the packet belongs to ([`Track`]: the program checks them first, each time), those it begins if it is
//! output ([`Prepared`]), and those that rules would no longer admit. Of a connection that follows policy,
//! the walk of its first packet is repeated as if it were new; what that walk passed belongs to what this
//! one depends on. What belongs to no connection, or begins one, is not to be cached. A walk that meets a
//! connection of another worker ends there: the frame is that one's (`handover.rs`).
//!
//! **Branches** (`branch.rs`) walk with a copy of packet and registers. What the walk keeps account of is common
//! to all of them: the union of what they consulted is the mask of the one program, which forks where they did. A
//! branch that is dropped begins no connection and keeps none alive; the program still depends on what it saw.
//! What a walk finds that concerns the packet whole (another worker's connection, an early fragment) ends all of it.
//!
//! **NAT** of a connection is constants, which are written like those of a set-field ([`Effect::Translate`]): the
//! program that has them names the connection among its tracks. A connection that begins gets its own from what
//! is prepared, and a walk as if new that of the connection there is.
//!
//! Values that are only checked (the TTL) are checked when the program runs, and are not consulted here.

use super::action::{Action, Instructions};
use super::effect::Effect;
use super::key::FlowKey;
use super::log::{Passed, partition};
use super::rule::{Rule, RuleCounters};
use super::state::FlowState;
use crate::connection::fragments::{First, Seen};
use crate::connection::{Assumed, ConnectionId, Connections, Contents, Observation, Prepared, Track, Transport};
use crate::drop::DropReason;
use crate::topology::Topology;
use action_set::ActionSet;
use branch::Pending;
use std::sync::Arc;
use weft_proto::v1::Field;

mod action_set;
mod answer;
mod branch;
mod finish;
mod gateway;
mod group;
mod output;
mod rewrite;
mod track;
mod translate;

pub use answer::Back;
pub use gateway::{Hops, Wanted};

/// What is walked: the state under its read lock, at a version.
pub struct View<'a> {
    /// The tables.
    pub state: &'a FlowState,
    /// As of when.
    pub version: u64,
    /// Ports and paths at that version.
    pub topology: &'a Topology,
    /// The worker's connections.
    pub connections: Connected<'a>,
    /// Microseconds of [`crate::clock`].
    pub now: u64,
    /// Whether no other worker handed the packet over.
    pub arrived: bool,
    /// Of a trace: connections to be taken for committed.
    pub traced: Option<&'a [Assumed]>,
}

/// What a walk sees of connections.
#[derive(Clone, Copy)]
pub enum Connected<'a> {
    /// Those there are.
    Now(&'a Connections),
    /// None: every packet that can begin one does.
    AsNew,
    /// Likewise, but packets are translated as those of the connections there are.
    Again(&'a Connections),
}

/// The packet that walks.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// As parsed.
    pub key: &'a FlowKey,
    /// What connections look at besides.
    pub contents: Contents,
}

impl<'a> From<&'a FlowKey> for Packet<'a> {
    /// A packet of which only the key is known.
    fn from(key: &'a FlowKey) -> Self {
        Self { key, contents: Contents::unknown(key) }
    }
}

/// Who wants to see the walk. The worker does not ([`Unobserved`]).
pub trait Observer {
    /// A table was searched; `None`: no rule matched.
    fn searched(&mut self, table: u8, rule: Option<&Arc<Rule>>);
    /// What follows is a branch's, until it [joins](Self::joins).
    fn forks(&mut self) {}
    /// The innermost branch has ended; so if it goes nowhere.
    fn joins(&mut self, _drop: Option<DropReason>) {}
}

/// Nobody looks.
pub struct Unobserved;

impl Observer for Unobserved {
    fn searched(&mut self, _table: u8, _rule: Option<&Arc<Rule>>) {}
}

/// The result of a walk.
#[derive(Debug)]
pub struct Resolution {
    /// The mask of the cache entry.
    pub consulted: FlowKey,
    /// See the module comment.
    pub stable: FlowKey,
    /// In order.
    pub effects: Vec<Effect>,
    /// Rules that count the packet.
    pub rules: Vec<Arc<Rule>>,
    /// What else counts it: groups and buckets.
    pub counted: Vec<Arc<RuleCounters>>,
    /// The tables in which no rule was found: there it ended, or a branch of it.
    pub missed: Vec<u8>,
    /// Tables passed, and topology used.
    pub passed: Vec<Passed>,
    /// Set if no effect sends the packet anywhere.
    pub drop: Option<DropReason>,
    /// Where an answer to the packet goes, if an effect may give one.
    pub back: Option<Back>,
    /// Set of a fragment that a `ct` has seen: to be noted.
    pub fragment: Option<Seen>,
    /// Whether it came before its first one: it is to wait, and walk again.
    pub early: bool,
    /// What the packet is to its connections: of a later fragment what its first one was.
    pub transport: Transport,
    /// Connections the packet belongs to and is sent in, as they are after it.
    pub tracks: Vec<Track>,
    /// Those it belongs to where it is dropped: they stay as they are.
    pub watched: Vec<Track>,
    /// Connections it begins: all or none.
    pub commits: Vec<Prepared>,
    /// Connections that rules no longer admit.
    pub refused: Vec<ConnectionId>,
    /// Set: that worker is to decide about the packet. If it is this one, a record of its own is still in its
    /// mailbox.
    pub owner: Option<u16>,
    /// What this worker had of the packet's tuples before it met another's.
    pub moves: Vec<ConnectionId>,
    /// Whether other packets of the same key will fare the same.
    pub cacheable: bool,
    /// Branches walked, those of repeated walks included: what it cost beyond one walk.
    pub branches: usize,
    /// Next hops.
    pub hops: Hops,
    /// Of a trace: the packet as it is at each output, in order, whether it can leave there or not.
    pub copies: Vec<FlowKey>,
}

/// Walks the tables from table 0.
pub fn resolve(view: &View<'_>, packet: &Packet<'_>, observer: &mut impl Observer) -> Resolution {
    let mut walk = Walk::new(view, packet);
    let verdict = walk.run(0, observer);
    walk.finish(verdict)
}

/// What comes of a rule's actions alone, without any table and without the rest of its instructions.
pub fn resolve_actions(view: &View<'_>, packet: &Packet<'_>, rule: &Arc<Rule>) -> Resolution {
    let mut walk = Walk::new(view, packet);
    let verdict = rule.instructions.apply.iter().try_for_each(|action| walk.apply(action, rule, &mut Unobserved));
    walk.finish(verdict)
}

struct PassedTable {
    table: u8,
    partition: u16,
    field: Field,
    /// Whether the field had been written when the table was searched.
    written: bool,
}

struct Walk<'a> {
    view: &'a View<'a>,
    packet: &'a Packet<'a>,
    /// What connections look at besides; of a later fragment, once `ct` knows it, that of its first.
    contents: Contents,
    /// The packet as it is now.
    key: FlowKey,
    in_port: u32,
    consulted: FlowKey,
    /// Bits whose value no longer depends on the packet beyond what is consulted.
    written: FlowKey,
    /// Bits that no longer have the packet's original value.
    changed: FlowKey,
    /// Whether the packet's own TTL was decremented: each bit of it then depends on all of them.
    decremented: bool,
    /// Tags that pushes moved below the two of the key; pops bring them back.
    deeper_tags: Vec<[u8; 2]>,
    /// Of this branch.
    effects: Vec<Effect>,
    rules: Vec<Arc<Rule>>,
    counted: Vec<Arc<RuleCounters>>,
    missed: Vec<u8>,
    tables: Vec<PassedTable>,
    topology: Vec<Passed>,
    set: ActionSet,
    /// What was found in each zone on the way here.
    zones: Vec<(u32, Observation)>,
    /// Zones whose NAT has been applied on the way here.
    translated: Vec<u32>,
    /// Zones in which something begins on the way here.
    begun: Vec<u32>,
    /// What `ct` found and prepared on ways that have not ended: it holds if something is sent.
    pending: Vec<Pending>,
    /// Zones that a commit was asked for and holds, whether something new begins there or not.
    committed: Vec<u32>,
    tracks: Vec<Track>,
    watched: Vec<Track>,
    commits: Vec<Prepared>,
    /// Records of the packet's tuples, wherever they were met.
    records: Vec<ConnectionId>,
    refused: Vec<ConnectionId>,
    /// First packets of connections whose walks were repeated, with the zones that they would be committed in.
    repeated: Vec<(FlowKey, Vec<u32>)>,
    owner: Option<u16>,
    others: Vec<Passed>,
    cacheable: bool,
    back: Option<Back>,
    fragment: Option<Seen>,
    /// What a later fragment has from its first one.
    first: Option<First>,
    early: bool,
    /// Whether something was found that ends the walk with all its branches.
    over: bool,
    /// Branches walked so far.
    branches: usize,
    /// Likewise in repeated walks.
    branches_repeated: usize,
    /// Branches around this one.
    depth: usize,
    /// Whether an output was left out, because it names the port that the packet came in by.
    suppressed: bool,
    hops: Hops,
    copies: Vec<FlowKey>,
}

impl<'a> Walk<'a> {
    fn new(view: &'a View<'a>, packet: &'a Packet<'a>) -> Self {
        let key = packet.key;
        let mut consulted = FlowKey::ZERO;
        // Output to the ingress port is suppressed, so every result depends on it.
        consulted.in_port = [0xff; 4];
        Self {
            view,
            packet,
            contents: packet.contents,
            key: *key,
            in_port: key.port(),
            consulted,
            written: FlowKey::ZERO,
            changed: FlowKey::ZERO,
            decremented: false,
            deeper_tags: Vec::new(),
            effects: Vec::new(),
            rules: Vec::new(),
            counted: Vec::new(),
            missed: Vec::new(),
            tables: Vec::new(),
            topology: Vec::new(),
            set: ActionSet::default(),
            zones: Vec::new(),
            translated: Vec::new(),
            begun: Vec::new(),
            pending: Vec::new(),
            committed: Vec::new(),
            tracks: Vec::new(),
            watched: Vec::new(),
            commits: Vec::new(),
            records: Vec::new(),
            refused: Vec::new(),
            repeated: Vec::new(),
            owner: None,
            others: Vec::new(),
            cacheable: true,
            back: None,
            fragment: None,
            first: None,
            early: false,
            over: false,
            branches: 0,
            branches_repeated: 0,
            depth: 0,
            suppressed: false,
            hops: Hops::default(),
            copies: Vec::new(),
        }
    }

    /// From a table to the end.
    fn run(&mut self, mut table: u8, observer: &mut impl Observer) -> Result<(), DropReason> {
        loop {
            let found = self.view.state.table(table).and_then(|state| {
                self.pass_table(table, state.partition_field());
                state.classifier.lookup(&self.key, self.view.version, &mut self.consulted, &self.written)
            });
            if found.is_none() && self.view.state.table(table).is_none() {
                self.pass_table(table, Field::InPort);
            }
            observer.searched(table, found);
            let Some(rule) = found else {
                self.missed.push(table);
                return Err(DropReason::TableMiss);
            };
            self.rules.push(rule.clone());
            match self.execute(rule, observer)? {
                Some(next) => table = next,
                None => return self.execute_action_set(rule, observer),
            }
        }
    }

    fn pass_table(&mut self, table: u8, field: Field) {
        self.tables.push(PassedTable {
            table,
            partition: partition(self.key.field(field)),
            field,
            // Metadata, registers and the like start from zero for every packet: known without consulting.
            written: from_pipeline(field) || all_ones(self.written.field(field)),
        });
    }

    /// Carries out a rule's instructions in OpenFlow's order; gives the next table.
    fn execute(&mut self, rule: &Arc<Rule>, observer: &mut impl Observer) -> Result<Option<u8>, DropReason> {
        let Instructions { apply, clear, write, metadata, goto } = &*rule.instructions;
        for action in apply {
            self.apply(action, rule, observer)?;
        }
        if *clear {
            self.set = ActionSet::default();
        }
        for action in write {
            self.set.merge(action, rule);
        }
        if let Some((value, mask)) = metadata {
            let (mut set, mut bits) = (FlowKey::ZERO, FlowKey::ZERO);
            (set.metadata, bits.metadata) = (*value, *mask);
            self.write(&set, &bits);
        }
        Ok(*goto)
    }

    /// One action, at once. An error ends the walk, or the branch.
    fn apply(&mut self, action: &Action, rule: &Arc<Rule>, observer: &mut impl Observer) -> Result<(), DropReason> {
        match action {
            Action::Output(port) => {
                self.output(*port);
                return Ok(());
            }
            Action::Drop(reason) => return Err(*reason),
            Action::Track(track) => return self.track(track),
            Action::Group(number) => return self.group(*number, rule, observer),
            Action::Clone(branch) => return self.clone_action(branch, rule, observer),
            Action::SetField(set) => {
                if !self.set_field(set)? {
                    return Ok(());
                }
            }
            Action::PushVlan(_) => {
                self.consult_tags();
                self.deeper_tags.push(self.key.vlan_inner_tci);
                self.key.vlan_inner_tci = self.key.vlan_tci;
                self.key.vlan_tci = [0x10, 0];
            }
            Action::PopVlan => {
                self.consult_tags();
                if self.key.vlan_tci[0] & 0x10 == 0 {
                    return Err(DropReason::BadAction);
                }
                self.key.vlan_tci = self.key.vlan_inner_tci;
                self.key.vlan_inner_tci = self.deeper_tags.pop().unwrap_or_default();
            }
            Action::DecTtl { .. } => self.decrement_ttl()?,
            Action::CheckMtu { .. } | Action::IcmpUnreachable { .. } => self.needs_ipv4()?,
            Action::IcmpReply => self.echo()?,
            Action::Neighbour(_) | Action::LearnNeighbour { .. } | Action::Translate { .. } => {
                return self.gateway(action, rule);
            }
            Action::ArpReply(_) => self.consult(Field::EthType),
            Action::Punt { .. } | Action::DhcpReply(_) | Action::Meter(_) => {}
        }
        if action.answers() {
            self.find_back();
        }
        self.effects.push(Effect::Action { action: action.clone(), table: rule.id.table, cookie: rule.cookie });
        if let Action::IcmpUnreachable { why, .. } = action { Err(why.reason()) } else { Ok(()) }
    }
}

fn all_ones(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0xff)
}

fn is_tunnel(field: Field) -> bool {
    matches!(field, Field::TunId | Field::TunSrc | Field::TunDst)
}

fn from_pipeline(field: Field) -> bool {
    super::key::place(field).0 >= super::key::PACKET_WORDS * 8
}
