//! `weft capture`: frames of a switch's ports into a pcapng file, what was dropped with the reason and the rule.

mod pcapng;
mod place;

use crate::connect::Connection;
use crate::failure::{Failure, system};
use crate::output::{Output, count};
use pcapng::{Direction, Packet, Writer};
use place::Place;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufWriter, ErrorKind, IsTerminal as _, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1::{CaptureFramesReply, CaptureFramesRequest, CapturedFrame, FrameDirection, TraceStep};

/// Arguments of `weft capture`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A host's name, or unix:PATH, and a port's number or name there; a port of the cloud needs no host.
    #[arg(value_name = "[HOST] PORT", num_args = 0..=2)]
    place: Vec<String>,
    /// Every port of HOST (without HOST: of this machine's switch).
    #[arg(long)]
    all: bool,
    /// The pcapng file to write; - is standard output, as in: weft capture web -w - | tshark -i -
    #[arg(short, long = "write", value_name = "FILE")]
    write: String,
    /// Only frames that match, as in tcp,ip_dst=10.0.0.0/24; of frames that are sent, in_port is where they came in.
    #[arg(long, value_name = "MATCH", default_value = "")]
    filter: String,
    /// End after so many frames.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    /// Keep only the first bytes of each frame.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    snap: Option<u32>,
    /// End after so long.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
}

/// Captures until interrupted, or until there is enough.
pub async fn run(arguments: Arguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let filter = text::parse_match(&arguments.filter)?;
    let end = deadline(arguments.seconds)?;
    let Place { host, ports } = place::find(&arguments.place, arguments.all, connection).await?;
    let wanted = ports.clone();
    let request = CaptureFramesRequest {
        ports,
        r#match: filter,
        snap_length: arguments.snap.unwrap_or(0),
        direction: FrameDirection::Unspecified.into(),
        walk: false,
    };
    let mut frames = connection.switch(&host).await?.capture_frames(request).await?.into_inner();
    // Only now: what is refused leaves no empty file.
    let mut file = File::create(&arguments.write, arguments.snap.unwrap_or(0), wanted)?;
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| no_signals(&error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| no_signals(&error))?;
    let mut ended = Ok(());
    while left > 0 {
        let reply = tokio::select! {
            reply = frames.message() => reply,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = sleep_until(end) => break,
        };
        match reply {
            Ok(Some(reply)) => file.add(&reply, &mut left)?,
            Ok(None) => {
                ended = Err(gone(&host));
                break;
            }
            // What was captured is kept, whatever ended it.
            Err(status) => {
                ended = Err(status.into());
                break;
            }
        }
    }
    file.finish(&arguments.write, output)?;
    ended
}

/// When it ends, if it is to end by the clock.
pub fn deadline(seconds: Option<f64>) -> Result<Option<tokio::time::Instant>, Fault> {
    let Some(seconds) = seconds else { return Ok(None) };
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
    let end = duration.and_then(|duration| tokio::time::Instant::now().checked_add(duration));
    end.map(Some).ok_or_else(|| {
        Fault::invalid("bad_seconds", "--seconds", format!("{seconds} is not a duration"), "Write seconds, above 0.")
    })
}

/// Waits for a moment, or for ever.
pub async fn sleep_until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Why a stream ended that nobody ended here.
pub fn gone(host: &str) -> Failure {
    system("switch_gone", format!("the switch of {host} ended the capture"), "See its log, and start it again.").into()
}

fn no_signals(error: &std::io::Error) -> Fault {
    system("no_signals", format!("cannot wait for signals: {error}"), "Free some file descriptors.")
}

struct Interface {
    index: u32,
    delivered: u64,
    lost: u64,
}

/// The file, and what it knows of interfaces.
struct File {
    writer: Writer<BufWriter<Box<dyn Write>>>,
    path: String,
    snap: u32,
    /// Ports that get a block though nothing passes them; none: all.
    wanted: Vec<u32>,
    interfaces: HashMap<u32, Interface>,
    names: HashMap<u32, String>,
}

impl File {
    fn create(path: &str, snap: u32, wanted: Vec<u32>) -> Result<Self, Fault> {
        let out: Box<dyn Write> = if path == "-" {
            if std::io::stdout().is_terminal() {
                return Err(Fault::invalid(
                    "binary_to_terminal",
                    "-w",
                    "a capture is not for terminals",
                    "Name a file, or read it with another program: weft capture … -w - | tshark -i -",
                ));
            }
            Box::new(std::io::stdout())
        } else {
            Box::new(std::fs::File::create(path).map_err(|error| unwritable(path, &error))?)
        };
        let writer = Writer::begin(BufWriter::new(out)).map_err(|error| unwritable(path, &error))?;
        let (interfaces, names) = (HashMap::new(), HashMap::new());
        Ok(Self { writer, path: path.to_owned(), snap, wanted, interfaces, names })
    }

    /// Writes what came, as long as there are frames `left` to be wanted.
    fn add(&mut self, reply: &CaptureFramesReply, left: &mut u64) -> Result<(), Fault> {
        for port in &reply.ports {
            self.names.insert(port.port, port.name.clone());
        }
        let done = self.write(reply, left).and_then(|()| self.writer.flush());
        done.map_err(|error| unwritable(&self.path, &error))?;
        if reply.started {
            eprintln!("Capturing. End it with Ctrl-C.");
        }
        Ok(())
    }

    fn write(&mut self, reply: &CaptureFramesReply, left: &mut u64) -> std::io::Result<()> {
        if reply.started {
            for port in reply.ports.iter().map(|port| port.port) {
                if self.wanted.is_empty() || self.wanted.contains(&port) {
                    self.interface(port)?;
                }
            }
        }
        for lost in &reply.lost {
            self.interface(lost.port)?.lost = lost.packets;
        }
        for frame in &reply.frames {
            if *left == 0 {
                break;
            }
            *left -= 1;
            let interface = self.interface(frame.port)?;
            interface.delivered += 1;
            let packet = Packet {
                interface: interface.index,
                time: frame.time_microseconds,
                length: frame.length,
                bytes: &frame.frame,
                direction: direction(frame),
                comments: &comments(frame),
            };
            self.writer.packet(&packet)?;
        }
        Ok(())
    }

    fn interface(&mut self, port: u32) -> std::io::Result<&mut Interface> {
        if !self.interfaces.contains_key(&port) {
            let name = self.names.get(&port).cloned().unwrap_or_else(|| format!("port {port}"));
            self.writer.interface(&name, &format!("port {port} of a Weft switch"), self.snap)?;
            let index = self.interfaces.len() as u32;
            self.interfaces.insert(port, Interface { index, delivered: 0, lost: 0 });
        }
        // It was put there above, if it was not there.
        Ok(self.interfaces.entry(port).or_insert(Interface { index: 0, delivered: 0, lost: 0 }))
    }

    fn write_statistics(&mut self) -> std::io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let mut interfaces: Vec<&Interface> = self.interfaces.values().collect();
        interfaces.sort_by_key(|interface| interface.index);
        for interface in interfaces {
            self.writer.statistics(interface.index, now, interface.delivered, interface.lost)?;
        }
        self.writer.flush()
    }

    /// The statistics, and a summary for the person.
    fn finish(mut self, path: &str, output: Output) -> Result<(), Fault> {
        self.write_statistics().map_err(|error| unwritable(path, &error))?;
        let delivered: u64 = self.interfaces.values().map(|interface| interface.delivered).sum();
        let lost: u64 = self.interfaces.values().map(|interface| interface.lost).sum();
        if output.json && path != "-" {
            println!("{}", json!({ "file": path, "frames": delivered, "lost": lost }));
        } else {
            eprintln!("{} captured.", count(delivered, "frame"));
        }
        if lost > 0 {
            eprintln!(
                "{} more passed the filter and were lost: they came faster than they could be written. \
                 Capture fewer ports, filter, or keep fewer bytes (--snap).",
                count(lost, "frame")
            );
        }
        Ok(())
    }
}

/// A file that cannot be written; a pipe whose reader has ended ends the program quietly.
fn unwritable(path: &str, error: &std::io::Error) -> Fault {
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let remedy = "Name a file in a directory that you may write, with room in it.";
    system("unwritable", format!("cannot write {path}: {error}"), remedy)
}

fn direction(frame: &CapturedFrame) -> Direction {
    match frame.direction() {
        FrameDirection::Sent => Direction::Outbound,
        FrameDirection::Received | FrameDirection::Unspecified => Direction::Inbound,
    }
}

/// What stands beside a frame in Wireshark.
fn comments(frame: &CapturedFrame) -> Vec<String> {
    let mut comments = Vec::new();
    if !frame.drop_reason.is_empty() {
        let what = match (frame.direction(), frame.partly) {
            (FrameDirection::Sent, _) => "not sent",
            (_, true) => "one of its ways ended",
            (_, false) => "dropped",
        };
        let mut text = format!("{what}: {} - {}", frame.drop_reason, frame.drop_meaning);
        let step = frame.walk.as_ref().and_then(|walk| walk.trace.as_ref()).and_then(|trace| trace.steps.last());
        if let Some(step) = step {
            text += &format!(" {}", blame(step));
        }
        comments.push(text);
    }
    if frame.segment_size > 0 {
        comments.push(format!(
            "Stands for several segments of at most {} bytes of payload; its checksum here is that of the whole.",
            frame.segment_size
        ));
    }
    comments
}

/// Where a frame was dropped: table, object, rule.
pub fn blame(step: &TraceStep) -> String {
    let name = if step.table_name.is_empty() { String::new() } else { format!(" ({})", step.table_name) };
    let table = format!("Table {}{name}", step.table);
    let Some(state) = &step.rule else { return format!("{table}: no rule matches.") };
    let rule = state.rule.clone().unwrap_or_default();
    let origin = if state.origin.is_empty() { String::new() } else { format!(" of {}", state.origin) };
    let mut line = text::format_match(&rule.r#match);
    if !line.is_empty() {
        line.insert(0, ',');
    }
    let actions = text::format_instructions(&rule.instructions.unwrap_or_default());
    format!("{table}, rule{origin}: priority={}{line},actions={actions}", rule.priority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::v1::{CapturedWalk, RuleState, TraceReply};

    #[test]
    fn comments_name_reason_table_object_and_rule() {
        let rule = text::parse_rule("table=71,priority=0,actions=drop(policy)").unwrap();
        let state = RuleState { rule: Some(rule), origin: "port web".into(), ..RuleState::default() };
        let step = |rule| TraceStep { table: 71, table_name: "ingress_firewall".into(), rule, ..Default::default() };
        let frame = |rule| CapturedFrame {
            direction: FrameDirection::Received.into(),
            drop_reason: "policy".into(),
            drop_meaning: "A rule drops it.".into(),
            walk: Some(CapturedWalk {
                trace: Some(TraceReply { steps: vec![step(rule)], ..TraceReply::default() }),
                ..CapturedWalk::default()
            }),
            ..CapturedFrame::default()
        };
        assert_eq!(
            comments(&frame(Some(state))),
            ["dropped: policy - A rule drops it. Table 71 (ingress_firewall), rule of port web: \
              priority=0,actions=drop(policy)"]
        );
        assert_eq!(
            comments(&frame(None)),
            ["dropped: policy - A rule drops it. Table 71 (ingress_firewall): no rule matches."]
        );
        let refused = CapturedFrame {
            direction: FrameDirection::Sent.into(),
            drop_reason: "transmit_full".into(),
            drop_meaning: "The output port's queue is full.".into(),
            segment_size: 1448,
            ..CapturedFrame::default()
        };
        let said = comments(&refused);
        assert_eq!(said[0], "not sent: transmit_full - The output port's queue is full.");
        assert!(said[1].contains("1448 bytes"), "{said:?}");
        assert!(comments(&CapturedFrame::default()).is_empty());
    }
}
