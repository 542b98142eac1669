//! `weft punts`: packets that rules hand to the controller, as they come.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, write};
use weft_proto::text::format_mac;
use weft_proto::v1::{PacketIn, WatchPuntsRequest};

/// Arguments of `weft punts`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A host's name, or unix:PATH.
    host: String,
    /// Stop after this many packets.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// Prints a line for each packet until interrupted.
pub async fn run(arguments: Arguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut packets = connection.switch(&arguments.host).await?.watch_punts(WatchPuntsRequest {}).await?.into_inner();
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(packet) = packets.message().await? else {
            break;
        };
        left -= 1;
        write(&if output.json { format!("{}\n", json::packet_in(&packet)) } else { line(&packet) + "\n" })?;
    }
    Ok(())
}

/// One packet in one line: where from, why, the Ethernet header, the bytes.
fn line(packet: &PacketIn) -> String {
    let mut text = format!(
        "in_port={} table={} reason={} cookie={:#x} length={}",
        packet.in_port, packet.table, packet.reason, packet.cookie, packet.total_length
    );
    if let Some(header) = packet.frame.get(..14) {
        let ether_type = u16::from_be_bytes([header[12], header[13]]);
        text += &format!(
            " eth_src={} eth_dst={} eth_type={ether_type:#06x}",
            format_mac(&header[6..12]),
            format_mac(&header[..6])
        );
    }
    text + " " + &hexadecimal(&packet.frame)
}

/// Two digits a byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_one_line_however_short() {
        let mut packet =
            PacketIn { in_port: 1, reason: 2, table: 3, cookie: 4, total_length: 60, frame: vec![0xff; 12] };
        assert_eq!(line(&packet), "in_port=1 table=3 reason=2 cookie=0x4 length=60 ffffffffffffffffffffffff");
        packet.frame.extend([0x08, 0x06]);
        assert!(line(&packet).contains("eth_dst=ff:ff:ff:ff:ff:ff eth_type=0x0806 "));
    }
}
