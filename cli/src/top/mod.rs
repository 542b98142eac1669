//! `weft top`: hosts, ports and flows by rate. Each interval the switches are asked for their counters ([`snapshot`]);
//! what grew between two answers is the rate ([`rates`]).

mod rates;
mod snapshot;

use crate::connect::Connection;
use crate::failure::Failure;
use crate::output::{Output, Table, write};
use crate::screen::{Screen, interval, rate};
use rates::{Rates, Traffic};
use serde_json::{Value, json};
use snapshot::{Snapshot, Switches};
use std::collections::HashMap;
use weft_proto::v1::ListHostsRequest;

/// Ports and flows that are shown, each, where the screen does not say how many there is room for.
const ROWS: usize = 20;

/// Arguments of `weft top`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A host's name, or unix:PATH; without it, all hosts of the cloud.
    host: Option<String>,
    /// What is to stand first.
    #[arg(long, value_enum, default_value_t = Sort::Packets)]
    sort: Sort,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
    /// Show one interval, and end: for scripts.
    #[arg(long)]
    once: bool,
    /// Ports and flows to show at most, each; as many as fit, unless it is given.
    #[arg(long, value_name = "NUMBER")]
    rows: Option<usize>,
}

/// What the view is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// Packets per second, both ways together.
    Packets,
    /// Bits per second, likewise.
    Bits,
    /// Drops per second; flows, which know none, by packets.
    Drops,
}

impl Sort {
    fn key(self, traffic: &Traffic) -> f64 {
        match self {
            Self::Packets => traffic.received_packets + traffic.sent_packets,
            Self::Bits => traffic.received_bits + traffic.sent_bits,
            Self::Drops => traffic.drops,
        }
    }
}

/// Shows rates until interrupted, or once.
pub async fn run(arguments: Arguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let pause = interval(arguments.interval, "--interval")?;
    let mut switches = Switches::default();
    let mut before: HashMap<String, Snapshot> = HashMap::new();
    let mut screen = Screen::new();
    let mut first = true;
    loop {
        let (hosts, away) = hosts(arguments.host.as_deref(), connection).await?;
        let (now, mut silent) = switches.ask(&hosts, connection).await;
        if arguments.host.is_some()
            && first
            && let Some((_, failure)) = silent.pop()
        {
            // The one that was asked for: there is nothing to show.
            return Err(failure);
        }
        let silent = silent.into_iter().map(|(host, failure)| (host, failure.sentences()));
        let silent: Vec<_> = silent.chain(away.into_iter().map(|host| (host, "not connected".to_owned()))).collect();
        if !std::mem::replace(&mut first, false) {
            let rates = Rates::between(&before, &now);
            if output.json {
                write(&format!("{}\n", value(rates, &silent, arguments.sort)))?;
            } else {
                let rows =
                    arguments.rows.or(screen.rows().filter(|_| !arguments.once).map(|rows| room(rows, now.len())));
                let view = render(rates, &silent, arguments.sort, rows.unwrap_or(ROWS));
                if arguments.once { write(&view)? } else { screen.show(&view)? }
            }
            if arguments.once {
                return Ok(());
            }
        }
        before = now;
        tokio::time::sleep(pause).await;
    }
}

/// Hosts to be asked, and those of the cloud that are away.
async fn hosts(named: Option<&str>, connection: &Connection) -> Result<(Vec<String>, Vec<String>), Failure> {
    if let Some(host) = named {
        return Ok((vec![host.to_owned()], Vec::new()));
    }
    let hosts = connection.cloud().await?.list_hosts(ListHostsRequest {}).await?.into_inner().hosts;
    let (there, away): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|host| host.connected);
    let names = |hosts: Vec<weft_proto::v1::Host>| hosts.into_iter().map(|host| host.name).collect();
    Ok((names(there), names(away)))
}

/// Rows for ports, and as many for flows, beside those of hosts and heads.
fn room(rows: usize, hosts: usize) -> usize {
    rows.saturating_sub(hosts + 7).div_euclid(2).max(1)
}

fn sorted(mut rates: Rates, sort: Sort) -> Rates {
    rates.hosts.sort_by(|one, other| sort.key(&other.traffic).total_cmp(&sort.key(&one.traffic)));
    rates.ports.sort_by(|one, other| sort.key(&other.traffic).total_cmp(&sort.key(&one.traffic)));
    let key = |flow: &rates::FlowRate| if sort == Sort::Bits { flow.bits } else { flow.packets };
    rates.flows.sort_by(|one, other| key(other).total_cmp(&key(one)));
    rates
}

fn render(rates: Rates, silent: &[(String, String)], sort: Sort, rows: usize) -> String {
    let rates = sorted(rates, sort);
    let traffic = |of: &Traffic| {
        let all = [of.received_packets, of.sent_packets, of.received_bits, of.sent_bits, of.drops];
        all.map(rate).to_vec()
    };
    let mut hosts = Table::new(&["host", "rx pkt/s", "tx pkt/s", "rx bit/s", "tx bit/s", "drop/s", "cpu", "flows"]);
    for host in &rates.hosts {
        let rest = vec![format!("{:.0}%", host.cpu * 100.0), host.flows.to_string()];
        hosts.row([vec![host.name.clone()], traffic(&host.traffic), rest].concat());
    }
    silent.iter().for_each(|(host, problem)| hosts.note(&format!("host {host}"), problem));
    // Of one host the name need not be said again.
    let several = rates.hosts.len() > 1;
    let host_head = several.then_some("host");
    let host_cell = |host: &str| several.then(|| host.to_owned());
    let heads = ["port", "rx pkt/s", "tx pkt/s", "rx bit/s", "tx bit/s", "drop/s"].into_iter().chain(host_head);
    let mut ports = Table::new(&heads.collect::<Vec<_>>());
    for port in rates.ports.iter().take(rows) {
        let name = format!("{} {}", port.number, port.name);
        ports.row([name].into_iter().chain(traffic(&port.traffic)).chain(host_cell(&port.host)).collect());
    }
    // What no longer comes is no traffic.
    let busy = || rates.flows.iter().filter(|flow| flow.packets > 0.0).take(rows);
    let heads = ["flow pkt/s", "bit/s"].into_iter().chain(host_head).chain(["match", "what is done"]);
    let mut flows = Table::new(&heads.collect::<Vec<_>>());
    for flow in busy() {
        let way = [flow.matched.clone(), flow.program.clone()];
        let row = [rate(flow.packets), rate(flow.bits)].into_iter().chain(host_cell(&flow.host)).chain(way);
        flows.row(row.collect());
    }
    let flows = if busy().next().is_some() { flows.render() } else { "No packets.\n".to_owned() };
    format!("{}\n{}\n{flows}", hosts.render(), ports.render())
}

fn value(rates: Rates, silent: &[(String, String)], sort: Sort) -> Value {
    let rates = sorted(rates, sort);
    let traffic = |of: &Traffic| {
        json!({
            "received_packets": of.received_packets,
            "sent_packets": of.sent_packets,
            "received_bits": of.received_bits,
            "sent_bits": of.sent_bits,
            "drops": of.drops,
        })
    };
    let host = |host: &rates::HostRate| json!({ "host": host.name, "per_second": traffic(&host.traffic), "cpu": host.cpu, "flows": host.flows });
    let port = |port: &rates::PortRate| json!({ "host": port.host, "number": port.number, "name": port.name, "per_second": traffic(&port.traffic) });
    let flow = |flow: &rates::FlowRate| {
        json!({
            "host": flow.host,
            "match": flow.matched,
            "program": flow.program,
            "per_second": { "packets": flow.packets, "bits": flow.bits },
        })
    };
    json!({
        "hosts": rates.hosts.iter().map(host).collect::<Vec<_>>(),
        "ports": rates.ports.iter().map(port).collect::<Vec<_>>(),
        "flows": rates.flows.iter().filter(|flow| flow.packets > 0.0).map(flow).collect::<Vec<_>>(),
        "silent": silent.iter().map(|(host, why)| json!({ "host": host, "problem": why })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rates::{FlowRate, HostRate, PortRate};

    fn rates() -> Rates {
        let traffic = |packets: f64, bits: f64| Traffic {
            received_packets: packets,
            sent_packets: 0.0,
            received_bits: bits,
            sent_bits: 0.0,
            drops: 1.0,
        };
        let port = |number, name: &str, packets, bits| PortRate {
            host: "a".into(),
            number,
            name: name.into(),
            traffic: traffic(packets, bits),
        };
        let flow = |matched: &str, packets, bits| FlowRate {
            host: "a".into(),
            matched: matched.into(),
            program: "output:2".into(),
            packets,
            bits,
        };
        Rates {
            hosts: [("a", 1500.0), ("c", 0.0)]
                .map(|(name, packets)| HostRate {
                    name: name.into(),
                    traffic: traffic(packets, packets * 1e6),
                    cpu: 0.42,
                    flows: 2,
                })
                .to_vec(),
            ports: vec![port(1, "vm1", 500.0, 1.9e9), port(2, "vm2", 1000.0, 1e8)],
            flows: vec![flow("in_port=1", 500.0, 1.9e9), flow("in_port=2", 1000.0, 1e8), flow("in_port=3", 0.0, 0.0)],
        }
    }

    #[test]
    fn the_busiest_come_first() {
        let expected = "\
HOST  RX PKT/S  TX PKT/S  RX BIT/S  TX BIT/S  DROP/S  CPU  FLOWS
a         1.5k         0      1.5G         0     1.0  42%      2
c            0         0         0         0     1.0  42%      2

host b: not connected

PORT   RX PKT/S  TX PKT/S  RX BIT/S  TX BIT/S  DROP/S  HOST
2 vm2      1.0k         0      100M         0     1.0  a
1 vm1       500         0      1.9G         0     1.0  a

FLOW PKT/S  BIT/S  HOST  MATCH      WHAT IS DONE
      1.0k   100M  a     in_port=2  output:2
       500   1.9G  a     in_port=1  output:2
";
        let away = [("b".to_owned(), "not connected".to_owned())];
        assert_eq!(render(rates(), &away, Sort::Packets, 5), expected);
        let mut alone = rates();
        alone.hosts.truncate(1);
        let by_bits = render(alone, &[], Sort::Bits, 1);
        assert!(by_bits.contains("DROP/S\n1 vm1"), "{by_bits}");
        assert!(by_bits.contains("1 vm1") && !by_bits.contains("2 vm2"), "{by_bits}");
        let json = value(rates(), &away, Sort::Bits);
        assert_eq!((&json["ports"][0]["number"], json["flows"].as_array().map(Vec::len)), (&json!(1), Some(2)));
        assert!(render(Rates::default(), &[], Sort::Drops, 5).ends_with("No packets.\n"));
    }

    #[test]
    fn a_small_screen_has_room_for_something() {
        assert_eq!((room(24, 3), room(5, 3), room(60, 1)), (7, 1, 26));
    }
}
