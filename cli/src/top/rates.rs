//! What grew between two looks at the switches, per second.

use super::snapshot::{FLOWS, Snapshot};
use crate::screen::per_second;
use std::collections::HashMap;
use std::time::Duration;
use weft_proto::text;
use weft_proto::v1::PortStatus;

/// Per second, from the switch's side: received is what comes in by a port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    pub received_packets: f64,
    pub sent_packets: f64,
    pub received_bits: f64,
    pub sent_bits: f64,
    /// Received and gone nowhere, or not sent.
    pub drops: f64,
}

impl Traffic {
    fn between(before: &PortStatus, now: &PortStatus, elapsed: Duration) -> Self {
        let grew = |count: fn(&PortStatus) -> u64| per_second(count(before), count(now), elapsed);
        Self {
            received_packets: grew(|port| port.received_packets),
            sent_packets: grew(|port| port.sent_packets),
            received_bits: grew(|port| port.received_bytes) * 8.0,
            sent_bits: grew(|port| port.sent_bytes) * 8.0,
            drops: grew(|port| port.received_dropped + port.sent_dropped),
        }
    }

    fn add(&mut self, other: &Self) {
        self.received_packets += other.received_packets;
        self.sent_packets += other.sent_packets;
        self.received_bits += other.received_bits;
        self.sent_bits += other.sent_bits;
        self.drops += other.drops;
    }
}

/// A host: all of its devices. What goes through its tunnels goes through a device below.
#[derive(Clone, Debug)]
pub struct HostRate {
    pub name: String,
    pub traffic: Traffic,
    /// Processors that its workers keep busy.
    pub cpu: f64,
    /// Entries in the flow caches.
    pub flows: u64,
}

/// A port.
#[derive(Clone, Debug)]
pub struct PortRate {
    pub host: String,
    pub number: u32,
    pub name: String,
    pub traffic: Traffic,
}

/// An entry of a flow cache: packets that are treated alike.
#[derive(Clone, Debug)]
pub struct FlowRate {
    pub host: String,
    pub matched: String,
    pub program: String,
    pub packets: f64,
    pub bits: f64,
}

/// All rates of an interval, in no order.
#[derive(Debug, Default)]
pub struct Rates {
    pub hosts: Vec<HostRate>,
    pub ports: Vec<PortRate>,
    pub flows: Vec<FlowRate>,
}

impl Rates {
    /// Of hosts that answered both times.
    pub fn between(before: &HashMap<String, Snapshot>, now: &HashMap<String, Snapshot>) -> Self {
        let mut rates = Self::default();
        for (name, now) in now {
            if let Some(before) = before.get(name) {
                rates.add(name, before, now);
            }
        }
        rates
    }

    fn add(&mut self, host: &str, before: &Snapshot, now: &Snapshot) {
        let elapsed = now.time.saturating_duration_since(before.time);
        let mut all = Traffic::default();
        let number = |port: &PortStatus| port.spec.as_ref().map_or(0, |spec| spec.number);
        let earlier: HashMap<u32, &PortStatus> = before.ports.iter().map(|port| (number(port), port)).collect();
        for port in &now.ports {
            // One that is new began with nothing.
            let nothing = PortStatus::default();
            let traffic = Traffic::between(earlier.get(&number(port)).unwrap_or(&&nothing), port, elapsed);
            if !port.interface.is_empty() {
                all.add(&traffic);
            }
            let name = port.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
            self.ports.push(PortRate { host: host.to_owned(), number: number(port), name, traffic });
        }
        let busy = |snapshot: &Snapshot| snapshot.status.workers.iter().map(|worker| worker.busy_microseconds).sum();
        self.hosts.push(HostRate {
            name: host.to_owned(),
            traffic: all,
            cpu: per_second(busy(before), busy(now), elapsed) / 1e6,
            flows: now.status.workers.iter().map(|worker| worker.cache_entries).sum(),
        });
        let entries = |snapshot: &Snapshot| -> HashMap<(u32, String, String), (u64, u64)> {
            let row = |entry: &weft_proto::v1::CacheEntry| {
                let identity = (entry.worker, text::format_match(&entry.r#match), entry.program.clone());
                (identity, (entry.packets, entry.bytes))
            };
            snapshot.cache.iter().map(row).collect()
        };
        let earlier = entries(before);
        // One that was not there is new, unless not all were told.
        let unknown = (earlier.len() < FLOWS as usize).then_some((0, 0));
        for (identity, (packets, bytes)) in entries(now) {
            let Some((packets_before, bytes_before)) = earlier.get(&identity).copied().or(unknown) else { continue };
            let (_, matched, program) = identity;
            self.flows.push(FlowRate {
                host: host.to_owned(),
                matched,
                program,
                packets: per_second(packets_before, packets, elapsed),
                bits: per_second(bytes_before, bytes, elapsed) * 8.0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use weft_proto::v1::{CacheEntry, PortSpec, SwitchStatus, WorkerStatus};

    #[test]
    fn rates_are_what_grew() {
        let begin = Instant::now();
        let snapshot = |seconds: u64, packets: u64| {
            let port = |number, interface: &str| PortStatus {
                spec: Some(PortSpec { number, name: format!("port{number}"), ..PortSpec::default() }),
                interface: interface.into(),
                received_packets: packets,
                received_bytes: packets * 100,
                received_dropped: packets / 10,
                ..PortStatus::default()
            };
            let entry = CacheEntry { packets, bytes: packets * 100, program: "drop".into(), ..CacheEntry::default() };
            let worker =
                WorkerStatus { busy_microseconds: packets * 1000, cache_entries: 3, ..WorkerStatus::default() };
            let snapshot = Snapshot {
                time: begin + Duration::from_secs(seconds),
                status: SwitchStatus { workers: vec![worker, worker], ..SwitchStatus::default() },
                // The second is a tunnel.
                ports: vec![port(1, "eth0"), port(2, "")],
                cache: vec![entry],
            };
            HashMap::from([("a".to_owned(), snapshot)])
        };
        let rates = Rates::between(&snapshot(0, 100), &snapshot(2, 300));
        let traffic = Traffic { received_packets: 100.0, received_bits: 80_000.0, drops: 10.0, ..Traffic::default() };
        assert_eq!((&rates.hosts[0].traffic, rates.hosts[0].flows), (&traffic, 6));
        assert!((rates.hosts[0].cpu - 0.2).abs() < 0.001, "{:?}", rates.hosts);
        assert_eq!((rates.ports.len(), &rates.ports[1].traffic), (2, &traffic));
        assert_eq!(
            (rates.flows[0].packets.to_string(), rates.flows[0].bits.to_string()),
            ("100".into(), "80000".into())
        );
        // A host that was not there before has no rates yet.
        assert!(Rates::between(&HashMap::new(), &snapshot(2, 300)).hosts.is_empty());
    }
}
