//! Dumps, traces and statistics. Nothing here changes what packets see, except
//! [`Switch::remove_rules`], which is a bundle made from a filter.

use super::Switch;
use crate::connection::{Assumed, Contents};
use crate::flow::group;
use crate::flow::matched::Match;
use crate::flow::message::{self, owner_from_message};
use crate::flow::resolve::{Connected, Packet};
use crate::flow::rule::{Owner, Rule};
use crate::flow::statistics::TableCounts;
use crate::flow::trace::rule_state;
use crate::packet::memory::Class;
use crate::worker::Traced;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// Entries of `DumpCache` unless it says otherwise.
const CACHE_LIMIT: usize = 100;

/// Bytes of one message of a dump, about: far below what a client takes.
const DUMP_BYTES: usize = 256 * 1024;

/// The largest frame that can be traced, bytes: a 64 KB segment with its Ethernet header and tags.
const TRACE_BYTES: usize = 65_535 + 22;

impl Switch {
    /// `GetStatus`.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks; so do all methods here.
    #[must_use]
    pub fn status(&self) -> v1::SwitchStatus {
        let mut chunks_free = self.memory.free(Class::Chunk);
        let mut runs_free = self.memory.free(Class::Run);
        let mut workers = Vec::new();
        for (number, worker) in self.workers.read().expect("no panic under this lock").iter().enumerate() {
            let report = worker.report();
            chunks_free += report.cached_buffers.0;
            runs_free += report.cached_buffers.1;
            workers.push(v1::WorkerStatus {
                worker: number as u32,
                packets: report.packets,
                cache_hits: report.cache_hits,
                cache_misses: report.cache_misses,
                cache_entries: report.cache_entries,
                cache_masks: report.cache_masks,
                busy_microseconds: report.busy_microseconds,
                connections: report.connections,
            });
        }
        let (term, generation) = self.position();
        v1::SwitchStatus {
            version: weft_proto::VERSION.to_owned(),
            protocol: weft_proto::PROTOCOL,
            host: self.host.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            term,
            generation,
            controller: self.controller.lock().expect("no panic under this lock").clone(),
            workers,
            rules: self.tables.count() as u64,
            tables_version: self.tables.version(),
            chunks_total: self.memory.total(Class::Chunk) as u32,
            chunks_free: chunks_free as u32,
            runs_total: self.memory.total(Class::Run) as u32,
            runs_free: runs_free as u32,
            clock_seconds: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    /// `DumpRules`, in messages of moderate size.
    ///
    /// # Errors
    /// A filter that cannot be.
    pub fn dump(&self, request: &v1::DumpRulesRequest) -> Result<Vec<v1::DumpRulesReply>, Fault> {
        let filter = Filter::new(request)?;
        // Brings the rules' counters up to date.
        self.totals();
        // Bundles wait for this: what is dumped was there at one moment, each bundle whole or not at all.
        let state = self.state();
        let rules = self.tables.rules(|rule| filter.selects(rule));
        let (mut replies, mut reply, mut bytes) = (Vec::new(), v1::DumpRulesReply::default(), 0);
        let mut names: BTreeMap<u8, std::sync::Arc<str>> = BTreeMap::new();
        let now = crate::clock::now();
        for rule in rules {
            let name = names.entry(rule.id.table).or_insert_with(|| self.tables.table_name(rule.id.table));
            let mut one = rule_state(&rule, name, now);
            one.origin = state.origins.text(rule.cookie).to_owned();
            bytes += one.encoded_len();
            reply.rules.push(one);
            if bytes > DUMP_BYTES {
                replies.push(std::mem::take(&mut reply));
                bytes = 0;
            }
        }
        if !reply.rules.is_empty() {
            replies.push(reply);
        }
        Ok(replies)
    }

    /// `RemoveRules`: of the hand-made rules those that the filter selects. Blocks.
    ///
    /// # Errors
    /// A filter that cannot be, or one that asks for the fabric's rules.
    pub fn remove_rules(&self, request: &v1::DumpRulesRequest) -> Result<v1::BundleResult, Fault> {
        if request.owner() == v1::Owner::Fabric {
            return Err(Fault::invalid(
                "not_the_owner",
                "owner",
                "rules of the fabric are removed by the controller only",
                "Add a manual rule of the same priority, which goes before them; or change the network.",
            )
            .with_status(Code::PermissionDenied));
        }
        let filter = Filter::new(request)?;
        let rules = self.tables.rules(|rule| rule.id.owner == Owner::Manual && filter.selects(rule));
        let remove_rules = rules.iter().map(|rule| message::to_message(rule)).collect();
        self.apply(vec![v1::Bundle { remove_rules, ..Default::default() }], Owner::Manual)
    }

    /// `Trace`.
    ///
    /// # Errors
    /// A packet that is described wrongly.
    pub fn trace(&self, request: &v1::TraceRequest) -> Result<v1::TraceReply, Fault> {
        let mut reply = self.walk(&traced(request)?, &message::connection::assumed(&request.assume)?);
        let state = self.state();
        for rule in reply.steps.iter_mut().filter_map(|step| step.rule.as_mut()) {
            let cookie = rule.rule.as_ref().map_or(0, |rule| rule.cookie);
            rule.origin = state.origins.text(cookie).to_owned();
        }
        Ok(reply)
    }

    /// Connections are the workers' own, tunnels are taken off by them: one of them looks, and says who should,
    /// should it be another.
    fn walk(&self, traced: &Traced, assumed: &Arc<[Assumed]>) -> v1::TraceReply {
        let workers = self.workers.read().expect("no panic under this lock");
        let mut asked = 0;
        for _ in 0..workers.len() {
            match workers.get(asked).map(|worker| worker.trace(traced.clone(), assumed.clone())) {
                Some(Ok(reply)) => return reply,
                Some(Err(other)) => asked = other.into(),
                None => break,
            }
        }
        // Stopped; or records of several workers, which a packet would bring together and a trace does not.
        match traced.parse() {
            Ok((key, contents)) => {
                let packet = Packet { key: &key, contents };
                self.tables.trace_here(&packet, Connected::AsNew, assumed).unwrap_or_default()
            }
            Err(reason) => Traced::dropped(reason),
        }
    }

    /// `ListTables`.
    #[must_use]
    pub fn tables(&self) -> v1::ListTablesReply {
        let mut counts: BTreeMap<u8, TableCounts> = BTreeMap::new();
        for (table, own) in self.totals().tables {
            let sum = counts.entry(table).or_default();
            sum.matched += own.matched;
            sum.missed += own.missed;
        }
        // At one moment, as a dump.
        let _state = self.state();
        let count = |table: u8| counts.get(&table).copied().unwrap_or_default();
        let states = self.tables.states().into_iter().map(|(table, settings, rules, masks)| v1::TableState {
            lookups: count(table).matched + count(table).missed,
            matches: count(table).matched,
            config: Some(settings.map_or_else(
                || v1::TableConfig { table: table.into(), ..Default::default() },
                |settings| message::settings_to_message(&settings),
            )),
            rules: rules as u64,
            masks: masks as u64,
        });
        v1::ListTablesReply { tables: states.collect() }
    }

    /// `DumpAddressSets`.
    #[must_use]
    pub fn address_sets(&self, request: &v1::DumpAddressSetsRequest) -> Vec<v1::AddressSetState> {
        let state = self.state();
        let sets = self.tables.address_sets().into_iter();
        sets.filter(|(name, _)| request.name.is_empty() || **name == *request.name)
            .map(|(name, members)| v1::AddressSetState {
                set: Some(message::address_set_to_message(&name, &members)),
                owner: message::owner_to_message(state.set_owners.get(&name).copied().unwrap_or(Owner::Manual)).into(),
            })
            .collect()
    }

    /// `DumpGroups`.
    #[must_use]
    pub fn groups(&self, request: &v1::DumpGroupsRequest) -> Vec<v1::GroupState> {
        // Brings the counters up to date.
        self.totals();
        let _state = self.state();
        let now = crate::clock::now();
        let asked = |group: &v1::Group| {
            request.group.is_none_or(|number| number == group.id)
                && (request.owner == 0 || request.owner == group.owner)
        };
        let groups = self.tables.groups().into_iter().map(|(group, rules)| {
            let (packets, bytes) = group.counters.read();
            let buckets = group.buckets.iter().map(|bucket| {
                let (packets, bytes) = bucket.counters.read();
                v1::BucketCounters { packets, bytes }
            });
            v1::GroupState {
                packets,
                bytes,
                buckets: buckets.collect(),
                age_seconds: now.saturating_sub(group.created) / 1_000_000,
                rules: rules as u64,
                group: Some(group::to_message(&group)),
            }
        });
        groups.filter(|state| state.group.as_ref().is_some_and(asked)).collect()
    }

    /// `ListPorts`, ordered by number.
    #[must_use]
    pub fn ports(&self) -> v1::ListPortsReply {
        let totals = self.totals();
        let state = self.state();
        let statuses = state.ports.iter().map(|port| state.ports.status(port, &state.underlay, &totals));
        v1::ListPortsReply { ports: statuses.collect() }
    }

    /// `DumpCache`.
    #[must_use]
    pub fn cache(&self, request: &v1::DumpCacheRequest) -> v1::DumpCacheReply {
        let limit = if request.limit == 0 { CACHE_LIMIT } else { (request.limit as usize).min(10_000) };
        let workers = self.workers.read().expect("no panic under this lock");
        let mut entries: Vec<v1::CacheEntry> = workers.iter().flat_map(|worker| worker.cache(limit)).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.packets));
        entries.truncate(limit);
        v1::DumpCacheReply { entries }
    }

    /// What the switch has of the controller's.
    #[must_use]
    pub fn digests(&self) -> v1::Digests {
        use weft_proto::digest::of;
        let state = self.state();
        let mut tables: BTreeMap<u8, u64> = BTreeMap::new();
        for rule in self.tables.rules(|rule| rule.id.owner == Owner::Fabric) {
            let sum = tables.entry(rule.id.table).or_default();
            *sum = sum.wrapping_add(of(&message::to_message(&rule)));
        }
        let ports = state.ports.iter().filter(|port| port.owner == Owner::Fabric);
        let sets = self.tables.address_sets();
        let sets = sets.iter().filter(|(name, _)| state.set_owners.get(name) == Some(&Owner::Fabric));
        v1::Digests {
            term: state.term,
            generation: state.generation,
            tables: tables.into_iter().map(|(table, rules)| v1::TableDigest { table: table.into(), rules }).collect(),
            ports: ports.fold(0, |sum: u64, port| sum.wrapping_add(of(&port.spec))),
            address_sets: sets.fold(0, |sum: u64, (name, members)| {
                sum.wrapping_add(of(&message::address_set_to_message(name, members)))
            }),
        }
    }
}

/// The packet to trace.
fn traced(request: &v1::TraceRequest) -> Result<Traced, Fault> {
    let refuse = |field: &str, problem: String, remedy: &str| Err(Fault::invalid("bad_trace", field, problem, remedy));
    match (request.packet.is_empty(), request.frame.is_empty()) {
        (true, true) => refuse("packet", "no packet is given".to_owned(), "Give its fields or a whole frame."),
        (false, false) => refuse("frame", "both fields and a frame are given".to_owned(), "Give one of the two."),
        (true, false) => {
            message::port_number(request.in_port, "in_port")?;
            if request.frame.len() > TRACE_BYTES {
                let problem = format!("a frame of {} bytes", request.frame.len());
                return refuse("frame", problem, "Give at most 65557 bytes.");
            }
            Ok(Traced::Frame { in_port: request.in_port, bytes: request.frame.clone() })
        }
        (false, true) => {
            let mut key = message::key_from_packet(&request.packet)?;
            if request.in_port != 0 {
                if key.port() != 0 && key.port() != request.in_port {
                    return refuse("in_port", "in_port is given twice, differently".to_owned(), "Give it once.");
                }
                key.in_port = message::port_number(request.in_port, "in_port")?.to_be_bytes();
            }
            if key.port() == 0 {
                return refuse("packet", "the packet comes in by no port".to_owned(), "Give in_port=NUMBER.");
            }
            let size = u16::try_from(request.bytes).map_err(|_| {
                let problem = format!("a packet of {} bytes", request.bytes);
                Fault::invalid("bad_trace", "bytes", problem, "Give at most 65535 bytes.")
            })?;
            let contents = Contents { size: (size > 0).then_some((size, true)), ..Contents::unknown(&key) };
            Ok(Traced::Fields(Box::new((key, contents))))
        }
    }
}

/// What a dump selects.
struct Filter {
    table: Option<u8>,
    owner: Option<Owner>,
    matched: Match,
    set: Option<crate::flow::rule::SetMatch>,
    cookie: Option<u64>,
    strict: Option<u32>,
}

impl Filter {
    fn new(request: &v1::DumpRulesRequest) -> Result<Self, Fault> {
        let table = request.table.map(|table| {
            u8::try_from(table).ok().filter(|&table| table < u8::MAX).ok_or_else(|| {
                Fault::invalid("bad_table", "table", format!("table {table} does not exist"), "Use 0 to 254.")
            })
        });
        let (value, mask, set) = message::match_from_message(&request.r#match)?;
        Ok(Self {
            table: table.transpose()?,
            owner: (request.owner != 0).then(|| owner_from_message(request.owner)).transpose()?,
            matched: Match::new(&value, &mask),
            set,
            cookie: request.cookie,
            strict: request.strict.then_some(request.priority),
        })
    }

    fn selects(&self, rule: &Rule) -> bool {
        let id = &rule.id;
        let matched = match self.strict {
            Some(priority) => u32::from(id.priority) == priority && id.matched == self.matched && id.set == self.set,
            None => id.matched.covers(&self.matched) && (self.set.is_none() || id.set == self.set),
        };
        matched
            && self.table.is_none_or(|table| table == id.table)
            && self.owner.is_none_or(|owner| owner == id.owner)
            && self.cookie.is_none_or(|cookie| cookie == rule.cookie)
    }
}
