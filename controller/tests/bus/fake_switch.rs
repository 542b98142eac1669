//! A switch that speaks the bus and keeps tables, but forwards nothing.

use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, Bundle, FromSwitch, Hello, ToSwitch, from_switch, to_switch};
use weft_proto::{PROTOCOL, digest};

/// What the switch holds, whatever becomes of its stream; and what it is told to do wrong.
#[derive(Default)]
pub struct Held {
    pub term: u64,
    pub generation: u64,
    pub rules: BTreeMap<Vec<u8>, v1::Rule>,
    pub ports: BTreeMap<u32, v1::PortSpec>,
    /// Address sets: their members, encoded.
    pub sets: BTreeMap<String, BTreeSet<Vec<u8>>>,
    /// Bundles as they came, parts merged.
    pub bundles: Vec<Bundle>,
    pub compares: usize,
    pub welcomes: Vec<u64>,
    pub cancelled: Vec<u64>,
    /// Answers about destinations.
    pub reached: Vec<v1::Reached>,
    /// Refuse bundles for this reason.
    pub refuse: Option<v1::Fault>,
    /// Answer nothing at all.
    pub mute: bool,
    /// How long it takes over a bundle.
    pub slow: Duration,
    /// What becomes of TAPs, if not "up".
    pub taps: Option<String>,
    /// To the controller, by the last stream, which is not kept open for it.
    outbound: Option<mpsc::WeakSender<FromSwitch>>,
}

#[derive(Clone)]
pub struct FakeSwitch {
    pub host: String,
    pub boot_id: u64,
    pub underlay: [u8; 4],
    pub physical: Vec<v1::PhysicalNetwork>,
    pub protocol: u32,
    held: Arc<Mutex<Held>>,
}

/// One stream of a switch.
pub struct Stream {
    task: tokio::task::JoinHandle<Fault>,
}

impl Stream {
    /// Why it ended.
    pub async fn ended(self) -> Fault {
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("the stream ends").expect("no panic")
    }

    pub fn open(&self) -> bool {
        !self.task.is_finished()
    }

    /// Breaks it off.
    pub async fn cut(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn identity(rule: &v1::Rule) -> Vec<u8> {
    let identity = v1::Rule { instructions: None, cookie: 0, ..digest::canonical(rule.clone()) };
    identity.encode_to_vec()
}

impl FakeSwitch {
    pub fn new(host: &str, last: u8) -> Self {
        Self {
            host: host.to_owned(),
            boot_id: u64::from(last),
            underlay: [10, 9, 0, last],
            physical: Vec::new(),
            protocol: PROTOCOL,
            held: Arc::default(),
        }
    }

    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }

    /// Waits until what it holds is so.
    pub async fn until(&self, what: &str, mut so: impl FnMut(&Held) -> bool) {
        for _ in 0..1000 {
            if so(&self.held()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let held = self.held();
        panic!(
            "{what} did not come: generation {}, {} bundles: {:?}",
            held.generation,
            held.bundles.len(),
            held.bundles
        );
    }

    pub fn connect(&self, channel: Channel) -> Stream {
        let switch = self.clone();
        Stream { task: tokio::spawn(async move { switch.follow(channel).await }) }
    }

    /// Reports the ports, TAPs in this state.
    pub async fn report(&self, taps: &str) {
        let (outbound, ports) = {
            let mut held = self.held();
            held.taps = Some(taps.to_owned());
            (held.outbound.as_ref().and_then(|outbound| outbound.upgrade()).expect("it is connected"), held.statuses())
        };
        let report = from_switch::Message::Report(v1::Report { ports });
        outbound.send(FromSwitch { message: Some(report) }).await.unwrap();
    }

    /// Asks for destinations, as packets from a port to each would make it.
    pub async fn ask(&self, in_port: u32, targets: &[&[u8]]) {
        let outbound = self.held().outbound.as_ref().and_then(|outbound| outbound.upgrade()).expect("it is connected");
        let destination = |target: &&[u8]| v1::Destination { in_port, cookie: 9, target: target.to_vec() };
        let unreached = v1::Unreached { destinations: targets.iter().map(destination).collect() };
        let message = from_switch::Message::Unreached(unreached);
        outbound.send(FromSwitch { message: Some(message) }).await.unwrap();
    }

    async fn follow(&self, channel: Channel) -> Fault {
        let (sender, receiver) = mpsc::channel(16);
        self.held().outbound = Some(sender.downgrade());
        let send = |message| sender.send(FromSwitch { message: Some(message) });
        let hello = {
            let held = self.held();
            Hello {
                host: self.host.clone(),
                version: "0.0.1 (fake)".into(),
                protocol: self.protocol,
                term: held.term,
                generation: held.generation,
                boot_id: self.boot_id,
                underlay_addresses: vec![v1::UnderlayAddress {
                    address: std::net::Ipv4Addr::from(self.underlay).to_string(),
                    interface: "eth0".into(),
                    mtu: 1500,
                    down: false,
                }],
                physical_networks: self.physical.clone(),
            }
        };
        send(from_switch::Message::Hello(hello)).await.unwrap();
        let mut client = v1::bus_client::BusClient::new(channel);
        let mut inbound = match client.attach(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Fault::from_status(&status),
        };
        let mut parts = Bundle::default();
        loop {
            let message = match inbound.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Fault::from_status(&tonic::Status::ok("closed")),
                Err(status) => return Fault::from_status(&status),
            };
            if self.held().mute {
                continue;
            }
            for answer in self.answers(message, &mut parts).await {
                if send(answer).await.is_err() {
                    break;
                }
            }
        }
    }

    async fn answers(&self, message: ToSwitch, parts: &mut Bundle) -> Vec<from_switch::Message> {
        match message.message.unwrap() {
            to_switch::Message::Welcome(welcome) => {
                self.held().welcomes.push(welcome.term);
                Vec::new()
            }
            to_switch::Message::Compare(_) => {
                let mut held = self.held();
                held.compares += 1;
                vec![from_switch::Message::Digests(held.digests())]
            }
            to_switch::Message::Bundle(part) => {
                let more = part.more;
                parts.merge(part.encode_to_vec().as_slice()).unwrap();
                if more {
                    return Vec::new();
                }
                let slow = self.held().slow;
                tokio::time::sleep(slow).await;
                vec![from_switch::Message::Acknowledgement(self.held().apply(std::mem::take(parts)))]
            }
            to_switch::Message::Call(call) => calls(&self.held(), &call),
            to_switch::Message::Reached(reached) => {
                self.held().reached.push(reached);
                Vec::new()
            }
            to_switch::Message::Cancel(cancel) => {
                self.held().cancelled.push(cancel.id);
                Vec::new()
            }
        }
    }
}

fn calls(held: &Held, call: &v1::Call) -> Vec<from_switch::Message> {
    let reply = |reply: Vec<u8>, last| v1::CallReply { id: call.id, reply, last, ..Default::default() };
    let replies = match call.method.as_str() {
        "DumpRules" => {
            let rules: Vec<_> = held.rules.values().cloned().collect();
            let state = |rule: &v1::Rule| v1::RuleState { rule: Some(rule.clone()), packets: 7, ..Default::default() };
            let chunks = rules.chunks(3).map(|rules| v1::DumpRulesReply { rules: rules.iter().map(state).collect() });
            chunks.map(|chunk| reply(chunk.encode_to_vec(), false)).chain([reply(Vec::new(), true)]).collect()
        }
        "ApplyBundle" => {
            let bundle = Bundle::decode(call.request.as_slice()).unwrap();
            let rules_added = u32::try_from(bundle.add_rules.len()).unwrap();
            vec![reply(v1::BundleResult { rules_added, ..Default::default() }.encode_to_vec(), true)]
        }
        // A reply without content is a message all the same.
        "ListNeighbours" => vec![reply(Vec::new(), true)],
        "WatchPunts" => vec![reply(v1::PacketIn { in_port: 5, ..Default::default() }.encode_to_vec(), false)],
        "Trace" => vec![v1::CallReply {
            id: call.id,
            last: true,
            fault: Some(Fault::invalid("bad_packet", "packet", "no in_port", "Name one.").to_message()),
            status_code: 3,
            ..Default::default()
        }],
        _ => Vec::new(),
    };
    replies.into_iter().map(from_switch::Message::CallReply).collect()
}

impl Held {
    fn digests(&self) -> v1::Digests {
        let mut tables: BTreeMap<u32, u64> = BTreeMap::new();
        for rule in self.rules.values() {
            let sum = tables.entry(rule.table).or_default();
            *sum = sum.wrapping_add(digest::of(&digest::canonical(rule.clone())));
        }
        v1::Digests {
            term: self.term,
            generation: self.generation,
            tables: tables.into_iter().map(|(table, rules)| v1::TableDigest { table, rules }).collect(),
            ports: digest::sum(self.ports.values()),
            address_sets: digest::sum(&self.address_sets()),
        }
    }

    fn address_sets(&self) -> Vec<v1::AddressSet> {
        let read = |member: &Vec<u8>| v1::Prefix::decode(member.as_slice()).unwrap();
        let set = |(name, members): (&String, &BTreeSet<Vec<u8>>)| {
            let members = members.iter().map(read).collect();
            digest::canonical_set(v1::AddressSet { name: name.clone(), members })
        };
        self.sets.iter().map(set).collect()
    }

    fn apply(&mut self, bundle: Bundle) -> v1::Acknowledgement {
        self.bundles.push(bundle.clone());
        let refuse = if bundle.base_generation != 0 && bundle.base_generation != self.generation {
            Some(Fault::invalid("generation_mismatch", "", "elsewhere", "Resynchronise.").to_message())
        } else {
            self.refuse.clone()
        };
        if refuse.is_some() {
            return v1::Acknowledgement {
                term: self.term,
                generation: self.generation,
                fault: refuse,
                ports: Vec::new(),
            };
        }
        if bundle.replace_owner == i32::from(v1::Owner::Fabric) {
            self.rules.clear();
            self.ports.clear();
            self.sets.clear();
        }
        bundle.remove_address_sets.iter().for_each(|name| drop(self.sets.remove(name)));
        let members = |set: &v1::AddressSet| set.members.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
        for set in &bundle.set_address_sets {
            self.sets.insert(set.name.clone(), members(set).into_iter().collect());
        }
        for set in &bundle.extend_address_sets {
            self.sets.get_mut(&set.name).expect("a set that is there").extend(members(set));
        }
        for set in &bundle.shrink_address_sets {
            let held = self.sets.get_mut(&set.name).expect("a set that is there");
            assert!(members(set).iter().all(|member| held.remove(member)), "a member that was there goes");
        }
        for rule in &bundle.remove_rules {
            assert!(self.rules.remove(&identity(rule)).is_some(), "removed a rule that is not there: {rule:?}");
        }
        self.rules.extend(bundle.add_rules.into_iter().map(|rule| (identity(&rule), rule)));
        bundle.remove_ports.iter().for_each(|number| drop(self.ports.remove(number)));
        self.ports.extend(bundle.add_ports.into_iter().map(|port| (port.number, port)));
        (self.term, self.generation) = (bundle.term, bundle.generation);
        let ports = self.statuses();
        v1::Acknowledgement { term: self.term, generation: self.generation, fault: None, ports }
    }

    fn statuses(&self) -> Vec<v1::PortStatus> {
        let status = |spec: &v1::PortSpec| v1::PortStatus {
            spec: Some(spec.clone()),
            interface: match &spec.kind {
                Some(v1::port_spec::Kind::Tap(tap)) => tap.interface.clone(),
                _ => String::new(),
            },
            state: match (&spec.kind, &self.taps) {
                (Some(v1::port_spec::Kind::Tap(_)), Some(state)) => state.clone(),
                _ => "up".into(),
            },
            ..Default::default()
        };
        self.ports.values().map(status).collect()
    }
}
