//! What receiving a recording and discarding it costs without a switch between: the same ports and packet memory as
//! `weft-switch` has, one thread on one core. `weft bench` subtracts it, as it subtracts DPDK's `testpmd` from Open
//! vSwitch's figures.
//!
//! `receive_and_discard FILE CORE`: for each line on standard input it prints how many packets there were so far.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use weft_dataplane::drop::DropCounters;
use weft_dataplane::limits::{BATCH, DEFAULT_CHUNKS, DEFAULT_RUNS};
use weft_dataplane::packet::memory::Memory;
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::port::pcap::PcapQueue;
use weft_dataplane::port::{PortQueue, PortSlot, Refused};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

static PACKETS: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, core] = arguments.as_slice() else { return Err("usage: receive_and_discard FILE CORE".into()) };
    let mut core_set = rustix::thread::CpuSet::new();
    core_set.set(core.parse()?);
    let mut input: Box<dyn PortQueue> = Box::new(PcapQueue::open(PortSlot::new(1), Some(Path::new(file)), None, true)?);
    let mut output: Box<dyn PortQueue> = Box::new(PcapQueue::open(PortSlot::new(2), None, None, false)?);
    let mut pool = Pool::new(Memory::map(DEFAULT_CHUNKS, DEFAULT_RUNS)?);
    std::thread::Builder::new().name("worker-0".to_owned()).spawn(move || {
        if let Err(error) = rustix::thread::sched_setaffinity(None, &core_set) {
            eprintln!("cannot run on this core: {error}");
            std::process::exit(1);
        }
        let (mut frames, mut drops, mut refused) = (Vec::with_capacity(BATCH), DropCounters::default(), Refused::new());
        let mut packets = 0;
        loop {
            packets += input.receive(&mut pool, &mut frames, BATCH, &mut drops) as u64;
            output.transmit(&mut pool, &mut frames, &mut refused);
            PACKETS.store(packets, Ordering::Relaxed);
        }
    })?;
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{}", PACKETS.load(Ordering::Relaxed));
        std::io::stdout().flush()?;
    }
    Ok(())
}
