//! `weft trace --live`: packets as they come, each with the walk that the switch made with it.

use crate::capture::{deadline, gone, sleep_until};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, count, write};
use serde_json::json;
use std::collections::HashMap;
use weft_proto::text;
use weft_proto::v1::{CaptureFramesRequest, CapturedFrame, FrameDirection};

/// Arguments of a live trace.
#[derive(clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// Real packets that match, as they come, as in tcp,ip_dst=10.0.0.0/24; "" matches all.
    #[arg(long, value_name = "MATCH", conflicts_with_all = ["packet", "frame"])]
    pub live: Option<String>,
    /// End after so many packets.
    #[arg(long, value_name = "NUMBER", requires = "live")]
    count: Option<u64>,
    /// End after so long.
    #[arg(long, value_name = "SECONDS", requires = "live")]
    seconds: Option<f64>,
}

/// Prints packets of a switch until interrupted, or until there are enough.
pub async fn run(
    filter: &str,
    host: &str,
    arguments: &Arguments,
    connection: &Connection,
    output: Output,
) -> Result<(), Failure> {
    let end = deadline(arguments.seconds)?;
    let request = CaptureFramesRequest {
        r#match: text::parse_match(filter)?,
        // Only the walk is wanted.
        snap_length: 1,
        direction: FrameDirection::Received.into(),
        walk: true,
        ports: Vec::new(),
    };
    let mut packets = connection.switch(host).await?.capture_frames(request).await?.into_inner();
    let wanted = arguments.count.unwrap_or(u64::MAX);
    let (mut shown, mut lost, mut names) = (0, 0, HashMap::new());
    while shown < wanted {
        let reply = tokio::select! {
            reply = packets.message() => reply?.ok_or_else(|| gone(host))?,
            () = sleep_until(end) => break,
        };
        if reply.started {
            eprintln!("Waiting for packets. End it with Ctrl-C.");
        }
        names.extend(reply.ports.into_iter().map(|port| (port.port, port.name)));
        let all: u64 = reply.lost.iter().map(|port| port.packets).sum();
        if all > lost {
            eprintln!("{} not shown: they come too fast. Narrow the filter.", count(all - lost, "packet"));
            lost = all;
        }
        for frame in &reply.frames {
            // In its tunnel it is no packet that rules see.
            let Some(walk) = frame.walk.as_ref().filter(|walk| walk.trace.is_some()) else { continue };
            if shown == wanted {
                break;
            }
            shown += 1;
            let trace = walk.trace.clone().unwrap_or_default();
            let name = names.get(&frame.port).map_or("", String::as_str);
            if output.json {
                let value = json!({
                    "time_microseconds": frame.time_microseconds,
                    "in_port": frame.port,
                    "port_name": name,
                    "length": frame.length,
                    "worker": frame.worker,
                    "cached": walk.cached,
                    "packet": text::format_match(&walk.packet),
                    "trace": json::trace(&trace),
                });
                write(&format!("{value}\n"))?;
            } else {
                let packet = text::format_match(&walk.packet);
                write(&format!("{}\n{}\n", heading(shown, frame, name, walk.cached), super::render(&packet, &trace)))?;
            }
        }
    }
    Ok(())
}

/// What is to be said of a packet before its walk.
fn heading(number: u64, frame: &CapturedFrame, name: &str, cached: bool) -> String {
    let of_day = frame.time_microseconds % 86_400_000_000;
    let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    let time = format!("{:02}:{:02}:{:02}.{fraction:06} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
    let by = if cached { "by the flow cache, which has this walk" } else { "by walking the tables" };
    format!(
        "=== packet {number}, {time}: {} by port {}{name}, decided by worker {} {by}",
        count(frame.length.into(), "byte"),
        frame.port,
        frame.worker
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_says_when_where_and_how() {
        let frame = CapturedFrame {
            port: 7,
            time_microseconds: 86_400_000_000 * 20_000 + 3_723_000_005,
            length: 60,
            worker: 1,
            ..CapturedFrame::default()
        };
        assert_eq!(
            heading(3, &frame, "vm1", false),
            "=== packet 3, 01:02:03.000005 UTC: 60 bytes by port 7 (vm1), decided by worker 1 by walking the tables"
        );
        assert!(
            heading(1, &frame, "", true)
                .ends_with("by port 7, decided by worker 1 by the flow cache, which has this walk")
        );
    }
}
