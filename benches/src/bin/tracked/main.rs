//! `tracked CASE [CONNECTIONS]`: what packets of connections cost a real worker, and what new connections cost; with
//! `tracked attack KIND VICTIM ATTACKER`: what is left of a victim's rate beside an attacker.
//!
//! | case | |
//! |---|---|
//! | `ct`, `ct-tcp` | a firewall of one zone, both directions |
//! | `snat`, `snat-tcp` | source NAT, both directions |
//! | `full`, `full-tcp` | the fabric's pipeline between two ports of a gateway host: 13 tables, a zone each, and a router's with NAT |
//! | `ct-new`, `full-new` | first packets only; what they began is removed in between |
//! | `attack untracked`, `tracked`, `masks` | port 3 floods with packets of new flows, one every ATTACKER ns, by few or by many masks; port 1 sends known flows, one every VICTIM ns; rings of 1,024 |
//!
//! Times are of the worker's thread on the CPU, input and output included unless it says "above". Frames have 60 bytes.

mod attack;
mod packet;
mod rig;
mod rules;
mod source;

use packet::{Packet, ends, shuffled};
use rig::{Rig, busy, input_and_output};
use source::{Frames, Replay};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use weft_dataplane::connection::Filter;

/// How long a case is measured.
const WINDOW: Duration = Duration::from_millis(800);
/// How often the first packets of all connections are sent.
const CYCLES: usize = 11;

const USAGE: &str = "tracked CASE [CONNECTIONS] | tracked attack KIND VICTIM ATTACKER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u32| arguments.get(at).map_or(Ok(otherwise), |word| word.parse());
    match (arguments.first().map(String::as_str), number(1, 10_000), number(2, 0), number(3, 0)) {
        (Some("attack"), _, Ok(victim), Ok(attacker)) if victim > 0 && attacker > 0 => {
            attack::attack(&arguments[1], victim, attacker);
        }
        (Some(case), Ok(connections), ..) if rules::rules(case).is_some() && case.ends_with("-new") => {
            first_packets(case, connections);
        }
        (Some(case), Ok(connections), ..) if rules::rules(case).is_some() => known_packets(case, connections),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The packets of a port, in phases; the last one is repeated.
fn phases(case: &str, connections: u32, answers: bool) -> Vec<Frames> {
    let each = |segment: Option<(u8, u32, u32)>| -> Frames {
        let of = |number| if answers { ends(case, number).1 } else { ends(case, number).0 };
        (0..connections).map(|number| Packet { tcp: segment, ..of(number) }.frame()).collect()
    };
    let segment = |flags, sequence, acknowledgement| each(Some((flags, sequence, acknowledgement)));
    match (case.ends_with("-tcp"), answers) {
        (false, false) => vec![each(None), Frames::new(), shuffled(&each(None))],
        (false, true) => vec![Frames::new(), each(None), shuffled(&each(None))],
        (true, false) => {
            vec![segment(2, 1000, 0), Frames::new(), segment(16, 1001, 5001), shuffled(&segment(16, 1001, 5001))]
        }
        (true, true) => {
            vec![Frames::new(), segment(18, 5000, 1001), Frames::new(), shuffled(&segment(16, 5001, 1001))]
        }
    }
}

/// What a packet of a known connection costs, in both directions.
fn known_packets(case: &str, connections: u32) {
    let io = input_and_output();
    let rig = Rig::start(&rules::rules(case).unwrap_or_default());
    let ports = [phases(case, connections, false), phases(case, connections, true)];
    let last = ports[0].len();
    for (index, phases) in ports.into_iter().enumerate() {
        rig.add(Replay::recorded(index + 1, phases, &rig.control));
    }
    rig.ready(2);
    for phase in 1..last {
        rig.control.done.store(0, Relaxed);
        rig.control.phase.store(phase, Relaxed);
        while rig.control.done.load(Relaxed) < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    rig.control.phase.store(last, Relaxed);
    std::thread::sleep(WINDOW);
    let (nanoseconds, packets, misses) = rig.measure(WINDOW);
    println!("{case}: {nanoseconds:.1} ns a packet, {:.1} above; {packets} packets, {misses} misses", nanoseconds - io);
    rig.worker.stop();
}

/// What the first packet of a connection costs, and what removing the connection does.
fn first_packets(case: &str, connections: u32) {
    let rig = Rig::start(&rules::rules(case).unwrap_or_default());
    let name = case.to_owned();
    let next = move |count: u64, frame: &mut [u8; 60]| ends(&name, (count % 120_000) as u32).0.write(frame);
    rig.add(Replay::made(1, Box::new(next), &rig.control));
    rig.add(Replay::recorded(2, Vec::new(), &rig.control));
    rig.ready(2);
    let (mut begun, mut removed, mut total) = (Vec::new(), Vec::new(), 0);
    for _ in 0..CYCLES {
        let before = rig.worker.report();
        total += u64::from(connections);
        rig.control.limit.store(total, Relaxed);
        while rig.control.made.load(Relaxed) < total {
            std::thread::yield_now();
        }
        let after = rig.worker.report();
        let dropped: u64 = after.drops.iter().map(|(_, _, count)| count).sum();
        assert!(dropped == 0, "{:?}", after.drops);
        begun.push(busy(&before, &after) / f64::from(connections));
        assert!(rig.worker.flush(&Filter::default()) > 0, "connections were begun");
        removed.push(busy(&after, &rig.worker.report()) / f64::from(connections));
    }
    begun.sort_by(f64::total_cmp);
    removed.sort_by(f64::total_cmp);
    println!("{case}: {:.0} ns to begin a connection, {:.0} to remove it", begun[CYCLES / 2], removed[CYCLES / 2]);
    rig.worker.stop();
}
