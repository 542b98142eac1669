//! `weft trace --from PORT --to ADDRESS`: the way of a packet across hosts, and of its answer, as the controller found it
//! out from the switches. Exits with 0 if the packet passes, else with 1.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, write};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::effect::Effect as EffectKind;
use weft_proto::v1::{
    Action, Effect, Field, Owner, PathHop, PathLeg, PathVerdict, TracePathReply, TracePathRequest, TraceStep,
};

/// What is to be followed across hosts.
#[derive(clap::Args)]
pub struct Question {
    /// Follow what the instance of this port would send, by name or id, from host to host.
    #[arg(long, value_name = "PORT", conflicts_with_all = ["host", "packet", "frame", "in_port", "live"])]
    pub from: Option<String>,
    /// To this address, and this port of tcp or udp: 10.0.0.5, 10.0.0.5:443.
    #[arg(long, value_name = "ADDRESS[:PORT]", requires = "from")]
    to: Option<String>,
    /// What it sends: tcp if a port is named, else an ICMP echo request; dhcp: a client's first message.
    #[arg(long, value_parser = ["tcp", "udp", "icmp", "dhcp"], requires = "from")]
    protocol: Option<String>,
    /// The port of tcp or udp that it sends from.
    #[arg(long, value_name = "PORT", requires = "from", value_parser = clap::value_parser!(u16).range(1..))]
    source_port: Option<u16>,
    /// Bytes of the packet, which must not be fragmented: as with "don't fragment" set.
    #[arg(long, value_name = "BYTES", requires = "from", value_parser = clap::value_parser!(u16).range(28..))]
    size: Option<u16>,
    /// Do not follow the answer.
    #[arg(long, requires = "from")]
    no_reply: bool,
    /// The project of the port, by name or id.
    #[arg(long, requires = "from")]
    project: Option<String>,
}

impl Question {
    fn request(self, from: String) -> Result<TracePathRequest, Fault> {
        if self.to.is_none() && self.protocol.as_deref() != Some("dhcp") {
            let remedy =
                "Say where to: --to 10.0.0.5 or --to 10.0.0.5:443; or follow its DHCP request: --protocol dhcp.";
            return Err(Fault::invalid("missing_field", "--to", "--from needs a destination", remedy));
        }
        let to = self.to.unwrap_or_default();
        let (address, port) = match to.split_once(':') {
            Some((address, port)) => (address, port.parse::<u16>().ok().filter(|port| *port > 0)),
            None => (to.as_str(), None),
        };
        let understood = address.parse::<Ipv4Addr>().is_ok() && port.is_some() == to.contains(':');
        if !understood && self.protocol.as_deref() != Some("dhcp") {
            let problem = format!("\"{to}\" is no IPv4 address, with or without a port");
            return Err(Fault::invalid("bad_destination", "--to", problem, "Write 10.0.0.5 or 10.0.0.5:443."));
        }
        Ok(TracePathRequest {
            port: from,
            project: self.project.unwrap_or_default(),
            destination: address.to_owned(),
            protocol: self.protocol.unwrap_or_default(),
            destination_port: port.unwrap_or_default().into(),
            source_port: self.source_port.unwrap_or_default().into(),
            bytes: self.size.unwrap_or_default().into(),
            no_reply: self.no_reply,
        })
    }
}

/// Asks and prints.
pub async fn run(question: Question, from: String, connection: &Connection, output: Output) -> Result<(), Failure> {
    let request = question.request(from)?;
    let reply = connection.cloud().await?.trace_path(request).await?.into_inner();
    if output.json {
        output.say("", &value(&reply))?
    } else {
        write(&render(&reply))?
    }
    if reply.passes { Ok(()) } else { Err(Failure::told()) }
}

fn render(reply: &TracePathReply) -> String {
    let mut text = String::new();
    if let Some(forward) = &reply.forward {
        text += &leg(forward, &format!("What port {} sends", forward.port_name));
    }
    if let Some(answer) = &reply.reply {
        text += &{
            // From outside it is no port's.
            let whose = if answer.host.is_empty() { "from" } else { "of port" };
            format!("\n{}", leg(answer, &format!("The answer {whose} {}", answer.port_name)))
        };
    }
    text
}

fn leg(leg: &PathLeg, what: &str) -> String {
    let host = if leg.host.is_empty() { String::new() } else { format!(", on host {}", leg.host) };
    let mut text = format!("{what}{host}\n");
    for note in &leg.notes {
        text += &format!("      {note}\n");
    }
    for hop in &leg.hops {
        text += &render_hop(hop);
    }
    let verdict = leg.verdict.clone().unwrap_or_default();
    text += &format!("  => {}.\n", verdict.text.trim_end_matches('.'));
    if !verdict.remedy.is_empty() {
        text += &format!("     {}\n", verdict.remedy);
    }
    text
}

fn render_hop(hop: &PathHop) -> String {
    let trace = hop.trace.clone().unwrap_or_default();
    let mut text = format!("  host {}, from {}: {}\n", hop.host, hop.from, text::format_match(&hop.packet));
    for step in &trace.steps {
        text += &render_step(step);
    }
    for effect in trace.effects.iter().filter(|effect| !is_change(effect)) {
        text += &format!("       -> {}\n", text::format_effect(effect));
    }
    text
}

/// Table, whose rule it is, and what that changes of the packet.
fn render_step(step: &TraceStep) -> String {
    let Some(state) = &step.rule else {
        return format!("    {:3} {:16}  no rule matches\n", step.table, step.table_name);
    };
    let rule = state.rule.clone().unwrap_or_default();
    let mut origin = state.origin.clone();
    if rule.owner() == Owner::Manual {
        origin = format!("by hand: priority={},{}", rule.priority, text::format_match(&rule.r#match));
    }
    let instructions = rule.instructions.unwrap_or_default();
    let actions = instructions.apply_actions.iter().chain(&instructions.write_actions);
    let changes: Vec<String> = actions.filter(|action| changes(action)).map(text::format_action).collect();
    let changes = if changes.is_empty() { String::new() } else { format!("  [{}]", changes.join(", ")) };
    format!("    {:3} {:16}  {origin}{changes}\n", step.table, step.table_name)
}

/// Whether an action changes or measures the packet itself, not only what the tables know of it.
fn changes(action: &Action) -> bool {
    match &action.action {
        Some(Kind::SetField(set)) => {
            let field = set.field();
            let elsewhere = [Field::Metadata, Field::TunId, Field::TunSrc, Field::TunDst].contains(&field);
            !elsewhere && !(Field::Reg0 as i32..=Field::Reg7 as i32).contains(&(field as i32))
        }
        Some(Kind::Ct(track)) => track.nat,
        Some(Kind::Output(_) | Kind::Drop(_) | Kind::Punt(_)) | None => false,
        Some(Kind::ArpReply(_) | Kind::DhcpReply(_) | Kind::IcmpReply(_) | Kind::IcmpUnreachable(_)) => false,
        Some(_) => true,
    }
}

/// Whether an effect stands with the rule that asked for it.
fn is_change(effect: &Effect) -> bool {
    let Some(EffectKind::Action(action)) = &effect.effect else { return false };
    changes(action) || matches!(action.action, Some(Kind::SetField(_)))
}

fn value(reply: &TracePathReply) -> Value {
    json!({
        "passes": reply.passes,
        "forward": reply.forward.as_ref().map(leg_value),
        "reply": reply.reply.as_ref().map(leg_value),
    })
}

fn leg_value(leg: &PathLeg) -> Value {
    let hop = |hop: &PathHop| {
        json!({
            "host": hop.host,
            "from": hop.from,
            "packet": text::format_match(&hop.packet),
            "trace": hop.trace.as_ref().map(json::trace),
        })
    };
    let verdict = |verdict: &PathVerdict| {
        json!({
            "outcome": verdict.outcome,
            "host": verdict.host,
            "object": verdict.object,
            "text": verdict.text,
            "remedy": verdict.remedy,
            "drop_reason": verdict.drop_reason,
            "port_id": verdict.port_id,
        })
    };
    json!({
        "port_name": leg.port_name,
        "host": leg.host,
        "notes": leg.notes,
        "hops": leg.hops.iter().map(hop).collect::<Vec<_>>(),
        "verdict": leg.verdict.as_ref().map(verdict),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::v1::{OutputEffect, RuleState, TraceReply};

    fn request(to: &str, protocol: Option<&str>) -> Result<TracePathRequest, Fault> {
        let question = Question {
            from: None,
            to: Some(to.into()),
            protocol: protocol.map(str::to_owned),
            source_port: None,
            size: None,
            no_reply: false,
            project: None,
        };
        question.request("web-1".into())
    }

    #[test]
    fn destinations_are_read() {
        let asked = request("10.0.0.5:443", None).unwrap();
        assert_eq!((asked.destination.as_str(), asked.destination_port), ("10.0.0.5", 443));
        assert_eq!(request("10.0.0.5", None).unwrap().destination_port, 0);
        assert_eq!(request("", Some("dhcp")).unwrap().protocol, "dhcp");
        for wrong in ["", "web", "10.0.0.5:", "10.0.0.5:0", "10.0.0.5:x", "10.0.0.5:70000"] {
            assert_eq!(request(wrong, None).unwrap_err().code, "bad_destination", "{wrong}");
        }
    }

    #[test]
    fn a_way_reads_from_host_to_host() {
        let step = |line: &str, table_name: &str, origin: &str| TraceStep {
            table: text::parse_rule(line).unwrap().table,
            table_name: table_name.into(),
            rule: Some(RuleState {
                rule: Some(text::parse_rule(line).unwrap()),
                origin: origin.into(),
                ..RuleState::default()
            }),
            ..TraceStep::default()
        };
        let output = OutputEffect {
            port: 9,
            port_name: "vxlan".into(),
            tunnel_destination: vec![192, 0, 2, 2],
            tunnel_id: 7,
            ..OutputEffect::default()
        };
        let forward = PathLeg {
            port_name: "web-1".into(),
            host: "a".into(),
            notes: vec!["Its next hop is 10.0.0.1.".into()],
            hops: vec![PathHop {
                host: "a".into(),
                from: "web-1".into(),
                packet: text::parse_packet("icmp,ip_dst=10.0.1.5").unwrap(),
                trace: Some(TraceReply {
                    steps: vec![
                        step("priority=7,in_port=1,actions=set_field:7->reg0,goto_table:50", "classify", "port web-1"),
                        step("table=50,ip,actions=dec_ttl,output:9", "route", "router r"),
                        TraceStep { table: 65, table_name: "deliver".into(), ..TraceStep::default() },
                        step("table=70,owner=manual,priority=3,icmp,actions=drop", "", ""),
                    ],
                    effects: vec![
                        Effect {
                            effect: Some(EffectKind::Action(Action { action: Some(Kind::DecTtl(Default::default())) })),
                        },
                        Effect { effect: Some(EffectKind::Output(output)) },
                    ],
                    ..TraceReply::default()
                }),
            }],
            verdict: Some(PathVerdict {
                outcome: "lost".into(),
                text: "it goes to host b, which is off".into(),
                remedy: "Start it.".into(),
                ..PathVerdict::default()
            }),
        };
        let reply = TracePathReply { forward: Some(forward), reply: None, passes: false };
        let expected = "\
What port web-1 sends, on host a
      Its next hop is 10.0.0.1.
  host a, from web-1: icmp,ip_dst=10.0.1.5
      0 classify          port web-1
     50 route             router r  [dec_ttl]
     65 deliver           no rule matches
     70                   by hand: priority=3,icmp
       -> output:9 (vxlan) to 192.0.2.2 with key 7
  => it goes to host b, which is off.
     Start it.
";
        assert_eq!(render(&reply), expected);
        assert_eq!(value(&reply)["forward"]["verdict"]["outcome"], "lost");
    }
}
