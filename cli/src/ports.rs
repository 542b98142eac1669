//! `weft ports`: the ports of a switch. Those made here are manual; the controller leaves them alone.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::output::{Output, Table};
use crate::{json, port_kind};
use serde_json::json;
use weft_proto::fault::Fault;
use weft_proto::v1::{Bundle, ListPortsRequest, Owner, PortSpec};

/// The commands of `weft ports`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Shows the ports and their counters.
    List {
        /// A host's name, or unix:PATH.
        host: String,
    },
    /// Adds a port of one of these kinds.
    ///
    /// `tap:NAME[,netns=N][,mac=M][,mtu=N]`: an interface of the kernel.
    ///
    /// `vhost_user[:SOCKET][,mac=M][,mtu=N][,queues=N]`: a virtual machine, which connects to the socket.
    ///
    /// `af_xdp:IF[,queues=N][,mode=native|generic][,all]`: an interface of the host; unless `all` is
    /// said, only packets of our tunnels are taken.
    ///
    /// `vxlan[:local=IP][,port=N][,underlay=N]`, `gre[:local=IP][,underlay=N]`: a tunnel port over an af_xdp port.
    ///
    /// `pcap:rx=FILE[,repeat],tx=FILE`: reads frames from one file, writes them to another; with `repeat` reads them
    /// again and again.
    Add {
        /// A host's name, or unix:PATH.
        host: String,
        /// The number that rules know it by, 1 to 4294967040; beside a controller 8388608 to 16711680.
        #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(weft_proto::PORT_MAX)))]
        number: u32,
        /// What it is, as in tap:web-1,netns=web.
        #[arg(required = true)]
        kind: Vec<String>,
        /// Its name, for people; INTERFACE or INTERFACE@NETNS unless given.
        #[arg(long)]
        name: Option<String>,
    },
    /// Removes a port that was added by hand.
    Del {
        /// A host's name, or unix:PATH.
        host: String,
        /// Its number.
        number: u32,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    match command {
        Command::List { host } => list(&host, connection, output).await,
        Command::Add { host, number, kind, name } => {
            let kind = port_kind::parse(&kind.join(","))?;
            let name = name.unwrap_or_else(|| port_kind::default_name(number, &kind));
            let spec = PortSpec { number, name, owner: Owner::Manual.into(), kind: Some(kind) };
            add(&host, spec, connection, output).await
        }
        Command::Del { host, number } => {
            let bundle = Bundle { remove_ports: vec![number], ..Bundle::default() };
            let mut switch = connection.switch(&host).await?;
            let result = switch.apply_bundle(tokio_stream::iter([bundle])).await?.into_inner();
            output.say(&format!("Port {number} removed from {host}."), &json::bundle_result(&result))
        }
    }
}

async fn add(host: &str, spec: PortSpec, connection: &Connection, output: Output) -> Result<(), Failure> {
    let (number, kind) = (spec.number, port_kind::format(&spec));
    let mut switch = connection.switch(host).await?;
    let before = switch.list_ports(ListPortsRequest {}).await?.into_inner().ports;
    let before = before.iter().filter_map(|port| port.spec.as_ref()).find(|port| port.number == number);
    let replaced = before.filter(|before| **before != spec).map(port_kind::format);
    let bundle = Bundle { add_ports: vec![spec], ..Bundle::default() };
    let result = switch.apply_bundle(tokio_stream::iter([bundle])).await?.into_inner();
    let status = result.ports.iter().find(|port| port.spec.as_ref().is_some_and(|spec| spec.number == number));
    let state = status.map_or("", |status| status.state.as_str());
    if let Some(reason) = state.strip_prefix("failed") {
        return Err(Fault::invalid(
            "port_failed",
            format!("port {number}"),
            format!("{kind} does not work{}", reason.trim_end_matches('.')),
            format!("Mend that, or remove the port with \"weft ports del {host} {number}\"."),
        )
        .into());
    }
    let interface = status.map(|status| status.interface.as_str()).filter(|name| !name.is_empty());
    let interface = interface.map_or_else(String::new, |name| format!(", interface {name}"));
    let state = if state.is_empty() { "added".to_owned() } else { format!("added and {state}") };
    let replaced = replaced.map_or_else(String::new, |kind| format!(", in place of {kind}"));
    let text = format!("Port {number} ({kind}) {state}{interface}{replaced}.");
    output.say(&text, &status.map_or_else(|| json!({ "number": number }), json::port_status))
}

async fn list(host: &str, connection: &Connection, output: Output) -> Result<(), Failure> {
    let ports = connection.switch(host).await?.list_ports(ListPortsRequest {}).await?.into_inner().ports;
    let heads = [
        "number",
        "name",
        "kind",
        "state",
        "rx packets",
        "rx bytes",
        "rx drop",
        "tx packets",
        "tx bytes",
        "tx drop",
        "detail",
    ];
    let mut table = Table::new(&heads);
    for port in &ports {
        let spec = port.spec.clone().unwrap_or_default();
        let by_hand = if spec.owner() == Owner::Manual { " (manual)" } else { "" };
        table.row(vec![
            spec.number.to_string(),
            spec.name.clone(),
            port_kind::format(&spec) + by_hand,
            port.state.clone(),
            port.received_packets.to_string(),
            port.received_bytes.to_string(),
            port.received_dropped.to_string(),
            port.sent_packets.to_string(),
            port.sent_bytes.to_string(),
            port.sent_dropped.to_string(),
            port.detail.clone(),
        ]);
    }
    let empty = format!("No ports. Add one: weft ports add {host} 1 tap:web-1");
    output.table(&table, &empty, ports.iter().map(json::port_status).collect())
}
