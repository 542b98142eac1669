//! The parts of a packet's way, each ready to be done again and again: timed by `benches/parts.rs`, counted in
//! instructions by callgrind (`weft-benches --part NAME`). Nothing here reads a clock or starts a thread.

use crate::frames::Flow;
use crate::replay::Replay;
use crate::rig::{Nobody, rule, topology};
use std::hint::black_box;
use std::sync::Arc;
use weft_dataplane::connection::{Connections, Contents, Options, Passing, Start};
use weft_dataplane::egress::Outgoing;
use weft_dataplane::flow::cache::{Cache, Found, NO_ENTRY};
use weft_dataplane::flow::key::FlowKey;
use weft_dataplane::flow::program::Program;
use weft_dataplane::flow::resolve::{Connected, Packet, Unobserved, View, resolve};
use weft_dataplane::flow::tables::{Change, Tables};
use weft_dataplane::handover::Links;
use weft_dataplane::limits::BATCH;
use weft_dataplane::packet::checksum;
use weft_dataplane::packet::frame::{Checksum, Gso, GsoKind};
use weft_dataplane::packet::memory::Memory;
use weft_dataplane::packet::parse::parse_bytes;
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::packet::segment;
use weft_dataplane::port::{PortQueue as _, PortSlot};

/// A part: its name, and what does it once.
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Makes it.
    pub make: fn() -> Box<dyn FnMut()>,
}

/// How often [`Part::repeat`] does it.
pub const REPEATED: u64 = 200;

impl Part {
    /// Does it again and again, after a few times that are not counted.
    pub fn repeat(&self) {
        let mut step = (self.make)();
        (0..10).for_each(|_| step());
        weft_benches_repeat(&mut *step);
    }
}

/// What instructions are counted of, by this name.
#[inline(never)]
fn weft_benches_repeat(step: &mut dyn FnMut()) {
    for _ in 0..REPEATED {
        step();
    }
}

/// All of them.
pub const PARTS: &[Part] = &[
    Part { name: "parse", make: parse },
    Part { name: "probe-64-of-10k", make: probe },
    Part { name: "output", make: || program("output:2") },
    Part { name: "push-vlan", make: || program("push_vlan:0x8100,set_field:0x1064->vlan_tci,output:2") },
    Part { name: "ttl-macs", make: || program(TTL_AND_MACS) },
    Part { name: "nat", make: || program("set_field:192.0.2.1->ip_src,set_field:4000->udp_src,output:2") },
    Part { name: "vxlan-push", make: || program("set_field:77->tun_id,set_field:10.99.0.2->tun_dst,output:20") },
    Part { name: "gre-push", make: || program("set_field:77->tun_id,set_field:10.99.0.2->tun_dst,output:21") },
    Part { name: "connection", make: connection },
    Part { name: "checksum-1460", make: checksum_whole },
    Part { name: "segment-20k", make: segmentation },
    Part { name: "walk-10k-rules", make: walk },
    Part { name: "commit-1-of-10k", make: commit },
];

const TTL_AND_MACS: &str = "dec_ttl,set_field:02:00:00:00:00:55->eth_src,set_field:02:00:00:00:00:66->eth_dst,output:2";

fn key_of(bytes: &[u8]) -> FlowKey {
    let mut key = FlowKey::ZERO;
    let parsed = parse_bytes(bytes, bytes.len(), 1, &mut key);
    assert!(parsed.is_ok(), "frames of the benches are whole");
    key
}

fn tables(lines: &[String]) -> Arc<Tables> {
    let tables = Tables::new();
    let add = lines.iter().map(|line| rule(line).expect("rules of the benches are right")).collect();
    let change = Change { add, topology: Some(topology(false)), ..Change::default() };
    tables.commit(change).expect("they fit the tables");
    tables
}

fn exact(count: u32) -> Arc<Tables> {
    let line = |number| format!("in_port=1,{},actions=output:2", Flow::number(number).exact());
    tables(&(0..count).map(line).collect::<Vec<_>>())
}

/// What a walk of the packet at the tables' version gives.
fn walked<T>(
    tables: &Tables,
    connections: Connected<'_>,
    packet: &Packet<'_>,
    then: impl FnOnce(weft_dataplane::flow::resolve::Resolution) -> T,
) -> T {
    let (state, version) = (tables.read(), tables.version());
    let topology = state.topology(version);
    let view = View { state: &state, version, topology: &topology, connections, now: 1, arrived: true, traced: None };
    then(resolve(&view, packet, &mut Unobserved))
}

fn parse() -> Box<dyn FnMut()> {
    let (frame, mut key) = (Flow::number(1).frame(), FlowKey::ZERO);
    Box::new(move || {
        let frame = black_box(&frame);
        let _ = black_box(parse_bytes(frame, frame.len(), 1, &mut key));
        black_box(&key);
    })
}

/// A batch of 64 hits among 10,000 entries.
fn probe() -> Box<dyn FnMut()> {
    let tables = exact(10_000);
    let version = tables.version();
    let mut cache = Cache::default();
    let keys: Vec<FlowKey> = (0..10_000).map(|number| key_of(&Flow::number(number).frame())).collect();
    for key in &keys {
        let resolution = walked(&tables, Connected::AsNew, &key.into(), |resolution| resolution);
        cache.insert(key, resolution, version, 1);
    }
    let (mut from, mut guesses) = (0, [NO_ENTRY; BATCH]);
    Box::new(move || {
        let batch = &keys[from..from + BATCH];
        from = (from + BATCH) % (keys.len() - BATCH);
        cache.probe(batch, &mut guesses);
        for (key, &guess) in batch.iter().zip(&guesses) {
            let Found::Hit(entry) = cache.confirm(guess, key, version) else { panic!("all are there") };
            cache.count(entry, 60, 1);
        }
    })
}

/// A frame that is made, goes through a program and leaves.
fn program(actions: &str) -> Box<dyn FnMut()> {
    let tables = tables(&[format!("in_port=1,udp,actions={actions}")]);
    let flow = Flow::number(1).frame();
    let mut key = FlowKey::ZERO;
    let layout = parse_bytes(&flow, flow.len(), 1, &mut key).expect("frames of the benches are whole");
    let program = walked(&tables, Connected::AsNew, &(&key).into(), |resolution| Program::compile(&resolution));
    let memory = Memory::map(1024, 8).expect("there is memory");
    let links = Links::of(1).expect("there are descriptors").remove(0);
    let mut outgoing = Outgoing::new(Pool::new(memory), Arc::new(Nobody), links);
    let slot = PortSlot::new(2);
    outgoing.add(slot, Box::new(Replay::new(slot, &[], 0).expect("there are descriptors")));
    Box::new(move || {
        let frame = outgoing.pool.frame(PortSlot::new(1), &flow).expect("there is a buffer");
        outgoing.enter(PortSlot::new(1));
        program.run(frame, &key, layout, &mut outgoing);
        outgoing.flush();
    })
}

/// A packet of a connection that is there.
fn connection() -> Box<dyn FnMut()> {
    let lines = [
        "table=0,udp,actions=ct(zone=7),goto_table:1",
        "table=1,udp,ct_state=+new+trk,actions=ct(commit,zone=7),output:2",
        "table=1,udp,ct_state=+est+trk,actions=output:2",
    ];
    let tables = tables(&lines.map(ToOwned::to_owned));
    let start = Start { now: 1, monotonic: 1 };
    let (mut connections, _) = Connections::open(Options::default(), start).expect("there is memory");
    let bytes = Flow::number(1).frame();
    let mut key = FlowKey::ZERO;
    let layout = parse_bytes(&bytes, bytes.len(), 1, &mut key).expect("frames of the benches are whole");
    let packet = Packet { key: &key, contents: Contents::read(&bytes, &key, &layout) };
    let first = walked(&tables, Connected::Now(&connections), &packet, |resolution| resolution);
    let passing = Passing::one(first.transport, bytes.len());
    assert!(connections.commit_all(&first.commits, &passing, 1).is_ok_and(|begun| begun.len() == 1), "it begins");
    let second = walked(&tables, Connected::Now(&connections), &packet, |resolution| resolution);
    let program = Program::compile(&second);
    let mut pool = Pool::new(Memory::map(64, 0).expect("there is memory"));
    let frame = pool.frame(PortSlot::new(1), &bytes).expect("there is a buffer");
    Box::new(move || {
        let admitted = program.admits(black_box(&frame), &key, &layout, &mut connections, 2);
        assert!(admitted, "its connection is as it was");
    })
}

fn checksum_whole() -> Box<dyn FnMut()> {
    let bytes: Vec<u8> = (0..1460_u32).map(|byte| byte as u8).collect();
    Box::new(move || {
        black_box(checksum::sum(black_box(&bytes)));
    })
}

/// A UDP frame of 20,000 bytes that leaves in 14.
fn segmentation() -> Box<dyn FnMut()> {
    let bytes = Flow::number(1).frame_of(20_042);
    let mut pool = Pool::new(Memory::map(256, 8).expect("there is memory"));
    let offloads = Replay::new(PortSlot::new(2), &[], 0).expect("there are descriptors").offloads();
    let mut out = Vec::new();
    Box::new(move || {
        let mut frame = pool.frame(PortSlot::new(1), &bytes).expect("there is a buffer");
        frame.checksum = Checksum::Partial { start: 34, offset: 6 };
        frame.gso = Some(Gso { kind: GsoKind::Udp, size: 1448, tunnel: 0 });
        let cut = segment::fit(frame, &offloads, &mut pool, &mut out);
        assert!(cut.is_ok() && out.len() == 14, "{cut:?}, {} pieces", out.len());
        out.drain(..).for_each(|piece| pool.free(piece));
    })
}

/// A miss: the walk, and what it is compiled to.
fn walk() -> Box<dyn FnMut()> {
    let tables = exact(10_000);
    let keys: Vec<FlowKey> = (0..1000).map(|number| key_of(&Flow::number(number * 10).frame())).collect();
    let mut next = 0;
    Box::new(move || {
        next = (next + 1) % keys.len();
        let program = |resolution| Program::compile(&resolution);
        black_box(walked(&tables, Connected::AsNew, &(&keys[next]).into(), program));
    })
}

/// A rule that comes and goes, beside 10,000 others.
fn commit() -> Box<dyn FnMut()> {
    let tables = exact(10_000);
    let line = format!("in_port=1,{},actions=output:2", Flow::number(10_001).exact());
    Box::new(move || {
        let rule = rule(&line).expect("rules of the benches are right");
        let id = rule.id.clone();
        for change in
            [Change { add: vec![rule], ..Change::default() }, Change { remove: vec![id], ..Change::default() }]
        {
            assert!(tables.commit(change).is_ok(), "one more fits");
        }
    })
}
