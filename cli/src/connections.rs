//! `weft connections`: what a switch's rules track.

use crate::connect;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, count, write};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::IpAddr;
use weft_proto::fault::Fault;
use weft_proto::text::format_ip;
use weft_proto::v1::{Connection, ConnectionFilter, ConnectionTuple, FlushConnectionsRequest, ListConnectionsRequest};

/// Arguments of `weft connections`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A host's name, or unix:PATH.
    host: String,
    #[command(flatten)]
    filter: Filter,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: u32,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Args)]
struct Filter {
    /// Of this zone.
    #[arg(long, global = true, value_name = "NUMBER")]
    zone: Option<u32>,
    /// Of this protocol: tcp, udp, icmp, icmp6, sctp, or a number.
    #[arg(long, global = true, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Option<u8>,
    /// With this address at either end, before or after NAT.
    #[arg(long, global = true, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// With this port, likewise.
    #[arg(long, global = true, value_name = "PORT")]
    port: Option<u16>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// End the connections that the filter selects: their next packet is new, or invalid.
    Flush {
        /// All of them.
        #[arg(long)]
        all: bool,
    },
}

const PROTOCOLS: &[(&str, u8)] = &[("tcp", 6), ("udp", 17), ("icmp", 1), ("icmp6", 58), ("sctp", 132)];

fn protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|&(_, number)| number);
    named.or_else(|| text.parse().ok()).ok_or_else(|| "use tcp, udp, icmp, icmp6, sctp, or 0 to 255".to_owned())
}

impl Filter {
    fn message(&self) -> ConnectionFilter {
        ConnectionFilter {
            zone: self.zone,
            protocol: self.protocol.map(u32::from),
            address: match self.address {
                Some(IpAddr::V4(address)) => address.octets().to_vec(),
                Some(IpAddr::V6(address)) => address.octets().to_vec(),
                None => Vec::new(),
            },
            port: self.port.map(u32::from),
        }
    }
}

/// `weft connections`.
pub async fn run(arguments: Arguments, connection: &connect::Connection, output: Output) -> Result<(), Failure> {
    let filter = arguments.filter.message();
    if let Some(Command::Flush { all }) = arguments.command {
        if filter == ConnectionFilter::default() && !all {
            let remedy = "Give --zone, --protocol, --address or --port; or --all.";
            return Err(Fault::invalid("no_filter", "filter", "this would end all connections", remedy).into());
        }
        let mut switch = connection.switch(&arguments.host).await?;
        let request = FlushConnectionsRequest { filter: Some(filter) };
        let ended = switch.flush_connections(request).await?.into_inner().ended;
        return output.say(&format!("{} ended.", count(ended, "connection")), &json!({ "ended": ended }));
    }
    let mut switch = connection.switch(&arguments.host).await?;
    let request = ListConnectionsRequest { filter: Some(filter), limit: arguments.limit };
    let mut replies = switch.list_connections(request).await?.into_inner();
    let mut connections = Vec::new();
    while let Some(reply) = replies.message().await? {
        connections.extend(reply.connections);
    }
    if output.json {
        let all: Vec<Value> = connections.iter().map(json::connection).collect();
        return output.say("", &Value::Array(all));
    }
    if connections.is_empty() {
        return write("No connections: rules track none (ct in actions), or the filter selects none.\n");
    }
    write(&connections.iter().map(line).collect::<String>())
}

/// The name of a protocol, or its number.
pub fn protocol_name(number: u32) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| u32::from(*known) == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// As `conntrack -L` writes it, with the zone always, and the worker.
fn line(connection: &Connection) -> String {
    let mut text =
        format!("{:8} {} {}", protocol_name(connection.protocol), connection.protocol, connection.timeout_seconds);
    if matches!(connection.protocol, 6 | 132) {
        let _ = write!(text, " {}", connection.state.to_uppercase());
    }
    tuple(&mut text, connection.protocol, connection.original.as_ref());
    if !connection.replied {
        text += " [UNREPLIED]";
    }
    tuple(&mut text, connection.protocol, connection.reply.as_ref());
    let Connection { mark, zone, worker, .. } = connection;
    let _ = writeln!(text, " mark={mark} zone={zone} worker={worker}");
    text
}

fn tuple(text: &mut String, protocol: u32, tuple: Option<&ConnectionTuple>) {
    let Some(tuple) = tuple else { return };
    let _ = write!(text, " src={} dst={}", format_ip(&tuple.source), format_ip(&tuple.destination));
    match protocol {
        1 | 58 => {
            let _ = write!(text, " type={} id={}", tuple.icmp_type, tuple.source_port);
        }
        6 | 17 | 132 => {
            let _ = write!(text, " sport={} dport={}", tuple.source_port, tuple.destination_port);
        }
        _ => {}
    }
    let _ = write!(text, " packets={} bytes={}", tuple.packets, tuple.bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(source: u8, destination: u8, ports: (u32, u32)) -> ConnectionTuple {
        ConnectionTuple {
            source: vec![10, 0, 0, source],
            destination: vec![10, 0, 0, destination],
            source_port: ports.0,
            destination_port: ports.1,
            packets: 3,
            bytes: 180,
            ..ConnectionTuple::default()
        }
    }

    #[test]
    fn lines_are_those_of_conntrack() {
        let tcp = Connection {
            protocol: 6,
            state: "established".into(),
            timeout_seconds: 7439,
            original: Some(end(1, 2, (40_000, 443))),
            reply: Some(end(2, 1, (443, 40_000))),
            replied: true,
            zone: 7,
            worker: 1,
            ..Connection::default()
        };
        assert_eq!(
            line(&tcp),
            "tcp      6 7439 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=443 packets=3 bytes=180 \
             src=10.0.0.2 dst=10.0.0.1 sport=443 dport=40000 packets=3 bytes=180 mark=0 zone=7 worker=1\n"
        );
        let ping = ConnectionTuple { icmp_type: 8, ..end(1, 2, (5, 5)) };
        let icmp = Connection { protocol: 1, original: Some(ping), reply: None, ..Connection::default() };
        assert!(line(&icmp).contains("type=8 id=5 packets=3 bytes=180 [UNREPLIED] mark=0"), "{}", line(&icmp));
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        assert_eq!((protocol("udp"), protocol("89"), protocol("256").is_err()), (Ok(17), Ok(89), true));
        assert_eq!((protocol_name(58), protocol_name(89)), ("icmp6".to_owned(), "89".to_owned()));
    }
}
