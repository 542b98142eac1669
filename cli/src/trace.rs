//! `weft trace`: what a switch would do with a packet, step by step, and why.

mod live;

use crate::connect::{Connection, LOCAL};
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, count, write};
use crate::path;
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::effect::Effect as EffectKind;
use weft_proto::v1::{Effect, Owner, RuleState, TraceReply, TraceRequest, TraceStep};

/// Arguments of `weft trace`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A host's name, or unix:PATH; a live trace without it is of this machine's switch.
    #[arg(required_unless_present_any = ["live", "from"])]
    host: Option<String>,
    /// The packet's fields, as in in_port=1,tcp,ip_dst=10.0.0.5,tcp_dst=80; unnamed ones are zero.
    #[arg(required_unless_present_any = ["frame", "live", "from"])]
    packet: Vec<String>,
    /// A whole Ethernet frame in hexadecimal, instead of fields.
    #[arg(long, value_name = "HEX", requires = "in_port", conflicts_with = "packet")]
    frame: Option<String>,
    /// The port that the frame comes in by.
    #[arg(long, value_name = "NUMBER", requires = "frame")]
    in_port: Option<u32>,
    #[command(flatten)]
    path: path::Question,
    #[command(flatten)]
    live: live::Arguments,
}

/// Asks and prints.
pub async fn run(arguments: Arguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    if let Some(from) = arguments.path.from.clone() {
        return path::run(arguments.path, from, connection, output).await;
    }
    let host = arguments.host.as_deref().unwrap_or(LOCAL);
    if let Some(filter) = &arguments.live.live {
        return live::run(filter, host, &arguments.live, connection, output).await;
    }
    let request = match &arguments.frame {
        Some(frame) => {
            let in_port = arguments.in_port.unwrap_or_default();
            TraceRequest { frame: bytes(frame)?, in_port, ..TraceRequest::default() }
        }
        None => TraceRequest { packet: text::parse_packet(&arguments.packet.join(","))?, ..TraceRequest::default() },
    };
    let about = if request.frame.is_empty() {
        text::format_match(&request.packet)
    } else {
        format!("{} that come in by port {}", count(request.frame.len() as u64, "byte"), request.in_port)
    };
    let reply = connection.switch(host).await?.trace(request).await?.into_inner();
    if output.json { output.say("", &json::trace(&reply)) } else { write(&render(&about, &reply)) }
}

/// Reads hexadecimal, with or without colons and spaces between the bytes.
fn bytes(text: &str) -> Result<Vec<u8>, Fault> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| !matches!(character, ':' | ' ' | '\n'))
        .map(|character| character.to_digit(16).map(|digit| digit as u8))
        .collect();
    match digits {
        Some(digits) if !digits.is_empty() && digits.len().is_multiple_of(2) => {
            Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err(Fault::invalid(
            "bad_frame",
            "--frame",
            "it is not bytes in hexadecimal",
            "Write two digits a byte, from the destination MAC on.",
        )),
    }
}

fn render(packet: &str, reply: &TraceReply) -> String {
    let mut out = format!("packet     {packet}\n\n");
    for (index, step) in reply.steps.iter().enumerate() {
        out += &render_step(index + 1, step);
    }
    out += &format!("verdict    {}\n", verdict(reply));
    for (index, effect) in reply.effects.iter().enumerate() {
        let head = if index == 0 { "effects" } else { "" };
        out += &format!("{head:10} {}\n", text::format_effect(effect));
    }
    let consulted = text::format_match(&reply.consulted);
    let consulted = if consulted.is_empty() { "no field: every packet is treated so".to_owned() } else { consulted };
    out + &format!("consulted  {consulted}\n")
}

/// A branch stands indented under the rule that forks.
fn render_step(number: usize, step: &TraceStep) -> String {
    let margin = "  │ ".repeat(step.depth as usize);
    let text = render_level(number, step);
    text.lines().map(|line| format!("{margin}{line}").trim_end().to_owned() + "\n").collect()
}

fn render_level(number: usize, step: &TraceStep) -> String {
    let name = if step.table_name.is_empty() { String::new() } else { format!(" ({})", step.table_name) };
    let mut out = format!("{number:2}. table {}{name}\n", step.table);
    match &step.rule {
        None => out += "    no rule matches (table miss)\n",
        Some(state) => out += &render_rule(state),
    }
    if !step.drop_reason.is_empty() {
        out += &format!("    branch    dropped under \"{}\"\n", step.drop_reason);
    }
    out.push('\n');
    out
}

fn render_rule(state: &RuleState) -> String {
    let rule = state.rule.clone().unwrap_or_default();
    let mut matched = text::format_match(&rule.r#match);
    if !matched.is_empty() {
        matched.insert(0, ',');
    }
    let mut out = format!("    rule      priority={}{matched}\n", rule.priority);
    out += &format!("    actions   {}\n", text::format_instructions(&rule.instructions.clone().unwrap_or_default()));
    let owner = if rule.owner() == Owner::Manual { "made by hand" } else { "the fabric" };
    let origin = if state.origin.is_empty() { owner.to_owned() } else { format!("{} ({owner})", state.origin) };
    out += &format!("    origin    {origin}, cookie {:#x}\n", rule.cookie);
    out + &format!("    counters  {}, {}\n", count(state.packets, "packet"), count(state.bytes, "byte"))
}

/// What becomes of a packet and its copies.
#[derive(Default)]
struct Tally {
    outputs: u64,
    unsent: u64,
    /// Branches that go nowhere.
    branches: u64,
    punted: bool,
    answered: bool,
}

impl Tally {
    fn add(&mut self, effects: &[Effect]) {
        for effect in effects {
            match &effect.effect {
                Some(EffectKind::Output(output)) if output.drop_reason.is_empty() => self.outputs += 1,
                Some(EffectKind::Output(_)) => self.unsent += 1,
                Some(EffectKind::Action(action)) => match action.action {
                    Some(Kind::Punt(_)) => self.punted = true,
                    Some(Kind::ArpReply(_) | Kind::DhcpReply(_) | Kind::IcmpReply(_)) => self.answered = true,
                    _ => {}
                },
                Some(EffectKind::Branch(branch)) if branch.drop_reason.is_empty() => self.add(&branch.effects),
                Some(EffectKind::Branch(_)) => self.branches += 1,
                Some(EffectKind::Translation(_) | EffectKind::Neighbour(_)) | None => {}
            }
        }
    }
}

/// What becomes of the packet, in a sentence.
fn verdict(reply: &TraceReply) -> String {
    if !reply.drop_reason.is_empty() {
        let meaning = reply.drop_meaning.trim_end_matches('.');
        let because = if meaning.is_empty() { String::new() } else { format!(": {meaning}") };
        return format!("dropped under \"{}\"{because}", reply.drop_reason);
    }
    let mut tally = Tally::default();
    tally.add(&reply.effects);
    let Tally { outputs, unsent, branches, punted, answered } = tally;
    let mut parts = Vec::new();
    if outputs > 0 {
        parts.push(format!("sent out of {}", count(outputs, "port")));
    }
    if answered {
        parts.push("answered by the switch".to_owned());
    }
    if punted {
        parts.push("handed to the controller".to_owned());
    }
    if unsent > 0 {
        parts.push(format!("not sent to {}", count(unsent, "port")));
    }
    if branches > 0 {
        parts.push(format!("dropped in {branches} {}", if branches == 1 { "branch" } else { "branches" }));
    }
    if parts.is_empty() { "goes nowhere".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::v1::OutputEffect;

    fn step(table: u32, name: &str, rule: Option<&str>) -> TraceStep {
        let rule = rule.map(|line| RuleState {
            rule: Some(text::parse_rule(line).unwrap()),
            packets: 1,
            bytes: 60,
            origin: "network blue".into(),
            ..RuleState::default()
        });
        TraceStep { table, table_name: name.into(), rule, ..TraceStep::default() }
    }

    #[test]
    fn a_trace_reads_from_top_to_bottom() {
        let output = OutputEffect {
            port: 2,
            port_name: "vxlan".into(),
            tunnel_destination: vec![192, 0, 2, 1],
            tunnel_id: 100,
            ..OutputEffect::default()
        };
        let reply = TraceReply {
            steps: vec![
                step(0, "classify", Some("priority=7,in_port=1,actions=goto_table:40")),
                step(40, "l2", Some("table=40,owner=manual,cookie=0x5,actions=output:2")),
            ],
            effects: vec![Effect { effect: Some(EffectKind::Output(output)) }],
            consulted: text::parse_match("in_port=1").unwrap(),
            ..TraceReply::default()
        };
        let expected = "\
packet     in_port=1

 1. table 0 (classify)
    rule      priority=7,in_port=1
    actions   goto_table:40
    origin    network blue (the fabric), cookie 0x0
    counters  1 packet, 60 bytes

 2. table 40 (l2)
    rule      priority=32768
    actions   output:2
    origin    network blue (made by hand), cookie 0x5
    counters  1 packet, 60 bytes

verdict    sent out of 1 port
effects    output:2 (vxlan) to 192.0.2.1 with key 100
consulted  in_port=1
";
        assert_eq!(render("in_port=1", &reply), expected);
    }

    #[test]
    fn a_drop_says_why() {
        let reply = TraceReply {
            steps: vec![step(0, "", None)],
            drop_reason: "table_miss".into(),
            drop_meaning: "No rule of a table matched.".into(),
            ..TraceReply::default()
        };
        let shown = render("in_port=1", &reply);
        assert!(shown.contains(" 1. table 0\n    no rule matches (table miss)\n"), "{shown}");
        assert!(shown.contains("verdict    dropped under \"table_miss\": No rule of a table matched\n"), "{shown}");
        assert!(shown.contains("consulted  no field"), "{shown}");
    }

    #[test]
    fn frames_are_hexadecimal() {
        assert_eq!(bytes("ff:00 1a").unwrap(), [0xff, 0x00, 0x1a]);
        for wrong in ["", "f", "zz"] {
            assert_eq!(bytes(wrong).unwrap_err().code, "bad_frame");
        }
    }
}
