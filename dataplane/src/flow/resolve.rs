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
//! **NAT** of a connection is constants, which are written like those of a set-field ([`Effect::Translate`]): the
//! program that has them names the connection among its tracks. A connection that begins gets its own from what
//! is prepared, and a walk as if new that of the connection there is.
//!
//! Values that are only checked (the TTL) are checked when the program runs, and are not consulted here.

use super::action::{Action, Instructions, SetField};
use super::effect::{Effect, TunnelOutput};
use super::key::FlowKey;
use super::log::{Passed, TOPOLOGY, partition};
use super::rule::Rule;
use super::state::FlowState;
use crate::connection::fragments::Seen;
use crate::connection::{ConnectionId, Connections, Contents, Observation, Prepared, Track, Transport};
use crate::drop::DropReason;
use crate::packet::parse::LATER_FRAGMENT;
use crate::packet::tunnel::VxlanHeader;
use crate::topology::{Path, PortKind, Topology};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::PORT_IN_PORT;
use weft_proto::v1::Field;

mod answer;
mod gateway;
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
    /// Connections the packet belongs to, as they are after it.
    pub tracks: Vec<Track>,
    /// Connections it begins, if it is output: all or none.
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
    /// Next hops.
    pub hops: Hops,
}

/// Walks the tables from table 0.
pub fn resolve(view: &View<'_>, packet: &Packet<'_>, observer: &mut impl Observer) -> Resolution {
    let mut walk = Walk::new(view, packet);
    let verdict = walk.run(observer);
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
    effects: Vec<Effect>,
    rules: Vec<Arc<Rule>>,
    tables: Vec<PassedTable>,
    topology: Vec<Passed>,
    set: ActionSet,
    /// What was found in each zone.
    zones: Vec<(u32, Observation)>,
    /// Zones whose NAT has been applied.
    translated: Vec<u32>,
    /// Zones that a commit was asked for, whether something new begins there or not.
    committed: Vec<u32>,
    commits: Vec<Prepared>,
    refused: Vec<ConnectionId>,
    owner: Option<u16>,
    others: Vec<Passed>,
    cacheable: bool,
    back: Option<Back>,
    fragment: Option<Seen>,
    early: bool,
    hops: Hops,
}

/// OpenFlow's action set: at most one action of each kind [1.3.5, 5.10].
#[derive(Default)]
struct ActionSet {
    pop_vlan: bool,
    push_vlan: Option<u16>,
    dec_ttl: Option<Action>,
    set_field: Option<SetField>,
    check_mtu: Option<Action>,
    /// Output, or what stands in its place, and the rule that wrote it.
    last: Option<(Action, Arc<Rule>)>,
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
            tables: Vec::new(),
            topology: Vec::new(),
            set: ActionSet::default(),
            zones: Vec::new(),
            translated: Vec::new(),
            committed: Vec::new(),
            commits: Vec::new(),
            refused: Vec::new(),
            owner: None,
            others: Vec::new(),
            cacheable: true,
            back: None,
            fragment: None,
            early: false,
            hops: Hops::default(),
        }
    }

    /// From table 0 to the end.
    fn run(&mut self, observer: &mut impl Observer) -> Result<(), DropReason> {
        let mut table = 0;
        loop {
            let found = self.view.state.table(table).and_then(|state| {
                self.pass_table(table, state.partition_field());
                state.classifier.lookup(&self.key, self.view.version, &mut self.consulted, &self.written)
            });
            if found.is_none() && self.view.state.table(table).is_none() {
                self.pass_table(table, Field::InPort);
            }
            observer.searched(table, found);
            let Some(rule) = found else { return Err(DropReason::TableMiss) };
            self.rules.push(rule.clone());
            match self.execute(rule)? {
                Some(next) => table = next,
                None => return self.execute_action_set(rule),
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
    fn execute(&mut self, rule: &Arc<Rule>) -> Result<Option<u8>, DropReason> {
        let Instructions { apply, clear, write, metadata, goto } = &rule.instructions;
        for action in apply {
            self.apply(action, rule)?;
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

    fn execute_action_set(&mut self, rule: &Rule) -> Result<(), DropReason> {
        let set = std::mem::take(&mut self.set);
        if set.pop_vlan {
            self.apply(&Action::PopVlan, rule)?;
        }
        if let Some(ether_type) = set.push_vlan {
            self.apply(&Action::PushVlan(ether_type), rule)?;
        }
        if let Some(dec_ttl) = set.dec_ttl {
            self.apply(&dec_ttl, rule)?;
        }
        if let Some(set_field) = set.set_field {
            self.apply(&Action::SetField(Box::new(set_field)), rule)?;
        }
        if let Some(check_mtu) = set.check_mtu {
            self.apply(&check_mtu, rule)?;
        }
        set.last.map_or(Ok(()), |(action, rule)| self.apply(&action, &rule))
    }

    /// One action, at once. An error ends the walk.
    fn apply(&mut self, action: &Action, rule: &Rule) -> Result<(), DropReason> {
        match action {
            Action::Output(port) => {
                self.output(*port);
                return Ok(());
            }
            Action::Drop(reason) => return Err(*reason),
            Action::Track(track) => return self.track(track),
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
            Action::Punt { .. } | Action::DhcpReply(_) => {}
        }
        if action.answers() {
            self.find_back();
        }
        self.effects.push(Effect::Action { action: action.clone(), table: rule.id.table, cookie: rule.cookie });
        if let Action::IcmpUnreachable { why, .. } = action { Err(why.reason()) } else { Ok(()) }
    }

    fn decrement_ttl(&mut self) -> Result<(), DropReason> {
        self.consult(Field::EthType);
        if !matches!(self.key.eth_type, [0x08, 0x00] | [0x86, 0xdd]) {
            return Err(DropReason::BadAction);
        }
        self.key.ip_ttl = self.key.ip_ttl.saturating_sub(1);
        self.changed.ip_ttl = 0xff;
        if self.written.ip_ttl != 0xff {
            // Carries cross whatever was written of it: what it is now depends on the packet.
            self.written.ip_ttl = 0;
            self.decremented = true;
        }
        Ok(())
    }

    fn consult(&mut self, field: Field) {
        let mut mask = FlowKey::ZERO;
        mask.field_mut(field).fill(0xff);
        self.consulted.union_except(&mask, &self.written);
    }

    /// Tags move between fields when one is pushed or popped: both are consulted, and from then on known.
    fn consult_tags(&mut self) {
        self.consult(Field::VlanTci);
        self.consult(Field::VlanInnerTci);
        let mut tags = FlowKey::ZERO;
        (tags.vlan_tci, tags.vlan_inner_tci) = ([0xff; 2], [0xff; 2]);
        self.written.union(&tags);
        self.changed.union(&tags);
    }

    fn write(&mut self, value: &FlowKey, mask: &FlowKey) {
        for (word, (value, mask)) in self.key.words_mut().iter_mut().zip(value.words().iter().zip(mask.words())) {
            *word = (*word & !mask) | (value & mask);
        }
        self.written.union(mask);
        self.changed.union(mask);
    }

    /// Whether the packet itself changes, not only what the tables know of it.
    fn set_field(&mut self, set: &SetField) -> Result<bool, DropReason> {
        let mut on_packet = false;
        for &field in &set.fields {
            if from_pipeline(field) || is_tunnel(field) {
                continue;
            }
            on_packet = true;
            if !self.has(field) {
                return Err(DropReason::BadAction);
            }
        }
        self.write(&set.value, &set.mask);
        if set.fields.contains(&Field::VlanTci) {
            // The presence bit tells that there is a tag; it is not the tag's to change.
            self.key.vlan_tci[0] |= 0x10;
        }
        Ok(on_packet)
    }

    /// Whether the packet has this field; consults what tells.
    fn has(&mut self, field: Field) -> bool {
        let Some(row) = weft_proto::field::info(field) else { return false };
        if field == Field::VlanTci {
            self.consult(Field::VlanTci);
            return self.key.vlan_tci[0] & 0x10 != 0;
        }
        for prerequisite in row.prerequisites {
            self.consult(prerequisite.field);
            let bytes = self.key.field(prerequisite.field);
            let value = bytes.iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
            if !prerequisite.values.contains(&value) {
                return false;
            }
            if prerequisite.field == Field::IpProto {
                // Later fragments have no transport header, but may be known to follow one.
                self.consult(Field::IpFrag);
                if self.key.ip_frag == LATER_FRAGMENT && !self.follows_first() {
                    return false;
                }
            }
        }
        true
    }

    fn pass_topology(&mut self, what: &[u8]) {
        self.pass_partition(partition(what));
    }

    fn pass_partition(&mut self, partition: u16) {
        self.topology.push(Passed { table: TOPOLOGY, partition: Some(partition), others: false });
    }

    fn output(&mut self, port: u32) {
        let number = if port == PORT_IN_PORT {
            self.in_port
        } else if port == self.in_port {
            return;
        } else {
            port
        };
        self.pass_topology(&number.to_be_bytes());
        let effect = match self.view.topology.ports.get(&number).map(|info| &info.kind) {
            None => Err(DropReason::NoSuchPort),
            Some(PortKind::Device { up: false, .. }) => Err(DropReason::PortDown),
            // Every result depends on the ingress port, so its slot may stand in it too.
            Some(PortKind::Device { slot, .. }) => Ok(Effect::Output { port: number, slot: *slot }),
            Some(tunnel @ PortKind::Vxlan { .. }) => {
                self.tunnel(number, tunnel).map(|output| Effect::Tunnel(Box::new(output)))
            }
        };
        self.effects.push(effect.unwrap_or_else(|reason| Effect::Undeliverable { port: number, reason }));
    }

    fn tunnel(&mut self, port: u32, tunnel: &PortKind) -> Result<TunnelOutput, DropReason> {
        if self.written.tun_dst != [0xff; 4] {
            return Err(DropReason::NoTunnelDestination);
        }
        self.consult(Field::TunId);
        let own = (self.written.tun_src == [0xff; 4]).then(|| self.key.tun_src.into());
        self.encapsulation(port, tunnel, self.key.tun_dst.into(), u64::from_be_bytes(self.key.tun_id), own)
    }

    /// What a packet is wrapped in towards a remote end; `own` is our address, if rules choose it.
    fn encapsulation(
        &mut self,
        port: u32,
        tunnel: &PortKind,
        destination: Ipv4Addr,
        id: u64,
        own: Option<Ipv4Addr>,
    ) -> Result<TunnelOutput, DropReason> {
        let PortKind::Vxlan { slot, local, udp_port, .. } = tunnel else { return Err(DropReason::NoSuchPort) };
        self.pass_topology(&destination.octets());
        let path = self.view.topology.paths.get(&destination);
        let (underlay, source_mac, destination_mac, source) = match path {
            None => return Err(DropReason::NeighbourUnresolved),
            Some(Path::Unusable(reason)) => return Err(*reason),
            Some(Path::Resolved { underlay, source_mac, destination_mac, source }) => {
                (*underlay, *source_mac, *destination_mac, *source)
            }
        };
        let source = own.or(*local).unwrap_or(source);
        // Of the outer TOS, ECN is each packet's own (RFC 6040) and DSCP stays 0.
        let header = VxlanHeader::new(
            source_mac,
            destination_mac,
            source,
            destination,
            *udp_port,
            (id & 0x00ff_ffff) as u32,
            64,
            0,
        );
        Ok(TunnelOutput { port, slot: *slot, underlay, destination, id, header })
    }

    fn finish(mut self, verdict: Result<(), DropReason>) -> Resolution {
        let mut moves = Vec::new();
        if let Some(owner) = self.owner {
            moves.extend(self.zones.iter().filter_map(|(_, seen)| seen.record));
            // What moves now is not met here again: the next packet's walk is another one.
            self.cacheable = moves.is_empty() && self.contents.quoted.is_none() && self.contents.fragment.is_none();
            self.effects = vec![Effect::HandOver(owner)];
            // The owner counts the packet, and does everything to it.
            (self.rules, self.zones, self.commits) = Default::default();
        }
        let consumed = self.effects.iter().any(|effect| effect.consumes() && !effect.refuses());
        let undeliverable = self.effects.iter().find_map(|effect| match effect {
            Effect::Undeliverable { reason, .. } => Some(*reason),
            _ => None,
        });
        let drop = (!consumed).then(|| verdict.err().or(undeliverable).unwrap_or_else(|| self.without_output()));
        // What comes after the last consumer would be done to nothing.
        while self.effects.last().is_some_and(|last| !(last.consumes() || last.teaches() || last.explains())) {
            self.effects.pop();
        }
        if self.decremented && self.consulted.ip_ttl != 0 {
            self.consulted.ip_ttl = 0xff;
        }
        let mut stable = FlowKey::ZERO;
        stable.union_except(&self.consulted, &self.changed);
        let consulted = self.consulted;
        let tables = self.tables.iter().map(|passed| Passed {
            table: passed.table,
            partition: (passed.written || all_ones(consulted.field(passed.field))).then_some(passed.partition),
            others: false,
        });
        let passed = tables.chain(self.topology).chain(self.others).collect();
        // Pipeline fields start from zero for every packet: nothing to match.
        let mut from_packet = consulted;
        from_packet.words_mut()[super::key::PACKET_WORDS..].fill(0);
        Resolution {
            consulted: from_packet,
            stable,
            effects: self.effects,
            rules: self.rules,
            passed,
            drop,
            tracks: self.zones.iter().filter_map(|(_, seen)| seen.track).collect(),
            commits: self.commits,
            refused: self.refused,
            owner: self.owner,
            moves,
            cacheable: self.cacheable,
            back: self.back,
            fragment: self.fragment,
            early: self.early,
            hops: self.hops,
            transport: self.contents.transport,
        }
    }
}

impl ActionSet {
    fn merge(&mut self, action: &Action, rule: &Arc<Rule>) {
        match action {
            Action::PopVlan => self.pop_vlan = true,
            Action::PushVlan(ether_type) => self.push_vlan = Some(*ether_type),
            Action::DecTtl { .. } => self.dec_ttl = Some(action.clone()),
            Action::CheckMtu { .. } => self.check_mtu = Some(action.clone()),
            Action::SetField(new) => match &mut self.set_field {
                None => self.set_field = Some((**new).clone()),
                Some(old) => old.merge(new),
            },
            last => self.last = Some((last.clone(), rule.clone())),
        }
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
