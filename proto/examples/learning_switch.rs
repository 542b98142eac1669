//! A learning switch: learns from packet-ins behind which port a station is, installs rules that end when they
//! are idle, and sends the packets that it was asked about. `docs/switch.md` shows how to try it.

use std::collections::HashMap;
use weft_proto::text::{format_mac, parse_filter, parse_rule};
use weft_proto::v1::{self, action::Action as Kind, switch_client::SwitchClient};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Client = SwitchClient<tonic::transport::Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let socket = std::env::args().nth(1).ok_or("which switch? For example unix:/run/weft/switch.sock")?;
    let mut switch = SwitchClient::new(tonic::transport::Endpoint::from_shared(socket)?.connect().await?);
    let mut packets = switch.watch_punts(v1::WatchPuntsRequest {}).await?.into_inner();
    add(&mut switch, "priority=0,actions=controller").await?;
    let mut stations: HashMap<String, u32> = HashMap::new();
    while let Some(packet) = packets.message().await? {
        let (in_port, frame) = (packet.in_port, packet.frame);
        let (destination, source) = (format_mac(&frame[..6]), format_mac(&frame[6..12]));
        if stations.insert(source.clone(), in_port).is_some_and(|before| before != in_port) {
            // It moved: what goes to it is to be asked about again.
            switch.remove_rules(parse_filter(&format!("eth_dst={source}"), false)?).await?;
        }
        let ports = match stations.get(&destination) {
            Some(port) => {
                let matched = format!("in_port={in_port},eth_src={source},eth_dst={destination}");
                let rule = format!("priority=10,idle_timeout=5,send_flow_rem,{matched},actions=output:{port}");
                add(&mut switch, &rule).await?;
                vec![*port]
            }
            // A broadcast, or a station that has not been heard of: to all ports but its own.
            None => numbers(&mut switch).await?,
        };
        let output = |port| v1::Action { action: Some(Kind::Output(v1::Output { port })) };
        let actions = ports.into_iter().map(output).collect();
        let packet = v1::PacketOut { in_port, frame, actions, ..Default::default() };
        if let Err(refused) = switch.send_packets(v1::SendPacketsRequest { packets: vec![packet] }).await {
            // A port went away meanwhile.
            eprintln!("{}", refused.message());
            stations.remove(&destination);
        }
    }
    Ok(())
}

async fn add(switch: &mut Client, rule: &str) -> Result<()> {
    let bundle = v1::Bundle { add_rules: vec![parse_rule(rule)?], ..Default::default() };
    switch.apply_bundle(tokio_stream::iter([bundle])).await?;
    Ok(())
}

async fn numbers(switch: &mut Client) -> Result<Vec<u32>> {
    let ports = switch.list_ports(v1::ListPortsRequest {}).await?.into_inner().ports;
    Ok(ports.into_iter().filter_map(|port| port.spec).map(|spec| spec.number).collect())
}
