//! A victim and an attacker on one worker.

use crate::packet::{Packet, ends};
use crate::rig::Rig;
use crate::source::{Pace, Replay};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Frames that wait at a port.
const RING: u64 = 1024;
/// The victim's connections.
const KNOWN: u32 = 1000;

/// The rules: the victim comes by port 1, the attacker by port 3, both leave by port 2.
fn rules(kind: &str) -> Vec<String> {
    let mut rules: Vec<String> = vec![
        "table=0,priority=200,in_port=1,ip,actions=ct(zone=1),goto_table:1".into(),
        "table=1,in_port=1,ip,ct_state=+new,actions=ct(commit,zone=1),output:2".into(),
    ];
    match kind {
        "tracked" => rules.extend([
            "table=0,priority=100,in_port=3,ip,actions=ct(commit,zone=3),goto_table:3".into(),
            "table=3,ip,actions=ct(commit,zone=4),output:2".into(),
        ]),
        "untracked" => rules.extend([
            "table=0,priority=100,in_port=3,ip,actions=goto_table:3".into(),
            "table=3,priority=2,udp,ip_src=192.0.2.1,ip_dst=192.0.2.2,udp_src=1,udp_dst=1,actions=drop".into(),
            "table=3,priority=1,actions=output:2".into(),
        ]),
        _ => {
            // An access list by prefixes: how many bits decide differs from packet to packet.
            rules.push("table=0,priority=100,in_port=3,ip,actions=goto_table:9".into());
            for (table, field, address) in [(9, "ip_src", "10.0.0.0"), (10, "ip_dst", "198.51.100.7")] {
                for length in 8..=32 {
                    let (priority, next) = (100 + length, table + 1);
                    rules.push(format!(
                        "table={table},priority={priority},udp,{field}={address}/{length},actions=goto_table:{next}"
                    ));
                }
                rules.push(format!("table={table},priority=1,actions=goto_table:{}", table + 1));
            }
            rules.push("table=11,actions=output:2".into());
        }
    }
    rules
}

/// The attacker's packets.
fn flood(kind: &str, number: u64) -> Packet {
    let mixed = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let [a, b, c, d, e, f, ..] = (mixed ^ (mixed >> 32)).to_be_bytes();
    let packet = ends("ct", 0).0;
    if kind == "masks" {
        let flip = |address: u32, bit: u8| (address ^ (1 << (bit % 24))).to_be_bytes();
        let (source, destination) = (flip(0x0a00_0000, a), flip(0xc633_6407, b));
        return Packet { source, destination, source_port: u16::from_be_bytes([c, d]), ..packet };
    }
    let source_port = u16::from_be_bytes([e, f]);
    Packet { source: [10, 3, a, b], destination: [198, 51, c, d], source_port, ..packet }
}

/// One frame of the victim's every `victim` nanoseconds, one of the attacker's every `attacker`.
pub fn attack(kind: &str, victim: u32, attacker: u32) {
    let rig = Rig::start(&rules(kind));
    let known = (0..KNOWN).map(|number| ends("ct", number).0.frame()).collect();
    let mut first = Replay::recorded(1, vec![known], &rig.control);
    let name = kind.to_owned();
    let next = move |number: u64, frame: &mut [u8; 60]| flood(&name, number).write(frame);
    let mut third = Replay::made(3, Box::new(next), &rig.control);
    let (own, other) = (Pace::new(victim, RING), Pace::new(attacker, RING));
    let (offered, flooded) = (own.counts.clone(), other.counts.clone());
    (first.pace, third.pace) = (Some(own), Some(other));
    rig.add(first);
    rig.add(Replay::recorded(2, Vec::new(), &rig.control));
    rig.add(third);
    rig.control.phase.store(1, Relaxed);
    rig.ready(3);
    std::thread::sleep(Duration::from_millis(300));
    let (nanoseconds, ..) = rig.measure(Duration::from_millis(300));
    println!("the victim alone, as fast as it can: {nanoseconds:.1} ns a packet");
    rig.control.paced.store(1, Relaxed);
    for name in ["alone", "attacked", "attacked", "attacked", "attacked"] {
        if name == "attacked" {
            rig.control.limit.store(u64::MAX, Relaxed);
        }
        let (come, lost, flood) = (offered.0.load(Relaxed), offered.1.load(Relaxed), flooded.0.load(Relaxed));
        let before = rig.worker.report();
        std::thread::sleep(Duration::from_secs(1));
        let after = rig.worker.report();
        let (come, lost) = (offered.0.load(Relaxed) - come, offered.1.load(Relaxed) - lost);
        let of_victim = |drops: &[(weft_dataplane::port::PortSlot, _, u64)]| -> u64 {
            drops.iter().filter(|(slot, ..)| slot.index() == 1).map(|(_, _, count)| count).sum()
        };
        let dropped = of_victim(&after.drops) - of_victim(&before.drops);
        let kept = 100.0 * (1.0 - (lost + dropped) as f64 / come.max(1) as f64);
        println!(
            "{name}: the victim keeps {kept:.1} % of {come} frames; {} of the attacker, {} misses; {} entries, {} masks",
            flooded.0.load(Relaxed) - flood,
            after.cache_misses - before.cache_misses,
            after.cache_entries,
            after.cache_masks,
        );
    }
    rig.worker.stop();
}
