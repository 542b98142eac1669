//! `weft drops`: frames that went nowhere, by reason, port and rule; with `--watch` how many a second.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table, write};
use crate::screen::{Screen, interval, per_second, rate};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use weft_proto::text;
use weft_proto::v1::{DropCount, ListDropsReply, ListDropsRequest, Owner, PortDrops, RuleState};

/// Ports that are named of each reason, unless all are asked for.
const PORTS: usize = 4;

/// Arguments of `weft drops`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A host's name, or unix:PATH.
    host: String,
    /// Also reasons that never occurred, and every port and rule.
    #[arg(long)]
    all: bool,
    /// Show it every so many seconds (1 if none are given), with how many a second there were since the last time.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,
    /// Show it so many times.
    #[arg(long, value_name = "NUMBER", requires = "watch")]
    count: Option<u64>,
}

/// Asks and prints, once or every interval.
pub async fn run(arguments: Arguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(&arguments.host).await?;
    let request = ListDropsRequest { all: arguments.all };
    let mut reply = switch.list_drops(request).await?.into_inner();
    let Some(seconds) = arguments.watch else {
        if output.json {
            return output.say("", &Value::Array(reply.drops.iter().map(json::drop_count).collect()));
        }
        return write(&render(&reply, None, arguments.all));
    };
    let pause = interval(seconds, "--watch")?;
    let mut screen = Screen::new();
    for _ in 0..arguments.count.unwrap_or(u64::MAX) {
        tokio::time::sleep(pause).await;
        let before = std::mem::replace(&mut reply, switch.list_drops(request).await?.into_inner());
        if output.json {
            write(&format!("{}\n", rates_as_json(&reply, &before)))?;
        } else {
            screen.show(&render(&reply, Some(&before), arguments.all))?;
        }
    }
    Ok(())
}

/// Which rule of which reason: what identifies it.
fn identity(reason: &str, state: &RuleState) -> (String, u32, u32, i32, String) {
    let rule = state.rule.clone().unwrap_or_default();
    (reason.to_owned(), rule.table, rule.priority, rule.owner, text::format_match(&rule.r#match))
}

/// What an earlier answer counted.
struct Before {
    reasons: HashMap<String, u64>,
    rules: HashMap<(String, u32, u32, i32, String), u64>,
    elapsed: Duration,
}

impl Before {
    fn new(before: &ListDropsReply, now: &ListDropsReply) -> Self {
        let reason = |drop: &DropCount| (drop.reason.clone(), drop.packets);
        let rules = before
            .drops
            .iter()
            .flat_map(|drop| drop.rules.iter().map(|rule| (identity(&drop.reason, rule), rule.packets)));
        let elapsed = now.time_microseconds.saturating_sub(before.time_microseconds);
        Self {
            reasons: before.drops.iter().map(reason).collect(),
            rules: rules.collect(),
            elapsed: Duration::from_micros(elapsed),
        }
    }

    fn of_reason(&self, drop: &DropCount) -> f64 {
        let before = self.reasons.get(&drop.reason).copied().unwrap_or(0);
        per_second(before, drop.packets, self.elapsed)
    }

    /// A rule that was not among the busiest before counted less than those, but how much is not known.
    fn of_rule(&self, drop: &DropCount, rule: &RuleState) -> Option<f64> {
        let before = self.rules.get(&identity(&drop.reason, rule))?;
        Some(per_second(*before, rule.packets, self.elapsed))
    }
}

fn render(reply: &ListDropsReply, before: Option<&ListDropsReply>, all: bool) -> String {
    if reply.drops.is_empty() {
        return "Nothing was dropped. The reasons there are: --all\n".to_owned();
    }
    let before = before.map(|before| Before::new(before, reply));
    let mut drops: Vec<&DropCount> = reply.drops.iter().collect();
    if let Some(before) = &before {
        drops.sort_by(|one, other| before.of_reason(other).total_cmp(&before.of_reason(one)));
    }
    let with_rate = |heads: &[&'static str]| match before {
        Some(_) => [&["per s"][..], heads].concat(),
        None => heads.to_vec(),
    };
    let cells = |per_second: Option<Option<f64>>, cells: Vec<String>| match per_second {
        Some(found) => std::iter::once(found.map_or_else(String::new, rate)).chain(cells).collect(),
        None => cells,
    };
    // Few switches have these two.
    let unsent = reply.drops.iter().any(|drop| !drop.unsent.is_empty()).then_some("not sent by");
    let branches = reply.drops.iter().any(|drop| !drop.branches.is_empty()).then_some("branches by port");
    let heads = ["packets", "reason", "meaning", "by port"].into_iter().chain(unsent).chain(branches);
    let mut reasons = Table::new(&with_rate(&heads.collect::<Vec<_>>()));
    let mut rules = Table::new(&with_rate(&["packets", "reason", "table", "dropped by", "rule"]));
    let mut any = false;
    for drop in drops {
        let ports = |ports: &[PortDrops]| by_port(ports, if all { ports.len() } else { PORTS });
        let mut row = vec![drop.packets.to_string(), drop.reason.clone(), drop.meaning.clone(), ports(&drop.ports)];
        row.extend(unsent.map(|_| ports(&drop.unsent)));
        row.extend(branches.map(|_| ports(&drop.branches)));
        reasons.row(cells(before.as_ref().map(|before| Some(before.of_reason(drop))), row));
        for state in &drop.rules {
            any = true;
            let rate = before.as_ref().map(|before| before.of_rule(drop, state));
            rules.row(cells(rate, rule_cells(&drop.reason, state)));
        }
        if drop.other_rules > 0 {
            let text = format!("{} more rules, {} packets; all: --all", drop.other_rules, drop.other_rule_packets);
            rules.note(&drop.reason, &text);
        }
    }
    if any { format!("{}\n{}", reasons.render(), rules.render()) } else { reasons.render() }
}

fn rule_cells(reason: &str, state: &RuleState) -> Vec<String> {
    let rule = state.rule.clone().unwrap_or_default();
    let name = if state.table_name.is_empty() { String::new() } else { format!(" {}", state.table_name) };
    let by = match (state.origin.as_str(), rule.owner()) {
        ("", Owner::Manual) => "a rule made by hand",
        ("", _) => "a rule of the fabric",
        (origin, _) => origin,
    };
    let mut matched = text::format_match(&rule.r#match);
    if !matched.is_empty() {
        matched.insert(0, ',');
    }
    let rule_text = format!("priority={}{matched}", rule.priority);
    vec![state.packets.to_string(), reason.to_owned(), format!("{}{name}", rule.table), by.to_owned(), rule_text]
}

/// The ports with the most drops, and how many others there are.
fn by_port(ports: &[PortDrops], shown: usize) -> String {
    let port = |port: &PortDrops| match (port.port, port.name.as_str()) {
        (0, _) => format!("no port: {}", port.packets),
        (number, "") => format!("{number}: {}", port.packets),
        (number, name) => format!("{number} ({name}): {}", port.packets),
    };
    let text = ports.iter().take(shown).map(port).collect::<Vec<_>>().join(", ");
    match ports.len().saturating_sub(shown) {
        0 => text,
        others => format!("{text} and {others} more"),
    }
}

fn rates_as_json(reply: &ListDropsReply, before: &ListDropsReply) -> Value {
    let before = Before::new(before, reply);
    let drops = reply.drops.iter().map(|drop| {
        let mut value = json::drop_count(drop);
        value["per_second"] = json!(before.of_reason(drop));
        for (index, rule) in drop.rules.iter().enumerate() {
            value["rules"][index]["per_second"] = json!(before.of_rule(drop, rule));
        }
        value
    });
    json!({ "seconds": before.elapsed.as_secs_f64(), "drops": drops.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(time_microseconds: u64, packets: u64, of_rule: u64) -> ListDropsReply {
        let rule = RuleState {
            rule: Some(text::parse_rule("table=71,priority=0,owner=fabric,actions=drop(policy)").unwrap()),
            packets: of_rule,
            origin: "security groups of port web".into(),
            table_name: "ingress_firewall".into(),
            ..RuleState::default()
        };
        let ports = vec![PortDrops { port: 7, name: "vm1".into(), packets }];
        let policy = DropCount {
            reason: "policy".into(),
            meaning: "A rule drops it.".into(),
            packets,
            ports,
            rules: vec![rule],
            other_rules: 2,
            other_rule_packets: 3,
            ..DropCount::default()
        };
        let old = DropCount {
            reason: "spoofed".into(),
            meaning: "Not its own.".into(),
            packets: 900,
            ..DropCount::default()
        };
        ListDropsReply { drops: vec![old, policy], time_microseconds }
    }

    #[test]
    fn drops_name_the_object_whose_rule_it_was() {
        let expected = "\
PACKETS  REASON   MEANING           BY PORT
    900  spoofed  Not its own.      -
     50  policy   A rule drops it.  7 (vm1): 50

PACKETS  REASON  TABLE                DROPPED BY                   RULE
     40  policy  71 ingress_firewall  security groups of port web  priority=0

policy: 2 more rules, 3 packets; all: --all
";
        assert_eq!(render(&reply(1, 50, 40), None, false), expected);
        let mut unsent = reply(1, 50, 40);
        unsent.drops[0].unsent = vec![PortDrops { port: 3, packets: 2, ..PortDrops::default() }];
        assert!(
            render(&unsent, None, false)
                .contains("  NOT SENT BY\n    900  spoofed  Not its own.      -            3: 2\n")
        );
        assert!(render(&ListDropsReply::default(), None, false).starts_with("Nothing"));
    }

    #[test]
    fn what_drops_now_comes_first() {
        let shown = render(&reply(2_000_000, 150, 140), Some(&reply(0, 50, 40)), false);
        let lines: Vec<&str> = shown.lines().map(str::trim_start).collect();
        assert!(lines[0].starts_with("PER S  PACKETS  REASON"), "{shown}");
        assert!(lines[1].starts_with("50      150  policy") && lines[2].starts_with("0      900  spoofed"), "{shown}");
        assert!(lines[5].starts_with("50      140  policy  71"), "{shown}");
        let value = rates_as_json(&reply(2_000_000, 150, 140), &reply(0, 50, 40));
        assert_eq!((&value["seconds"], &value["drops"][1]["per_second"]), (&json!(2.0), &json!(50.0)));
        assert_eq!(value["drops"][1]["rules"][0]["per_second"], json!(50.0));
    }

    #[test]
    fn only_the_ports_with_the_most_drops_are_named() {
        let port = |port| PortDrops { port, packets: 9, ..PortDrops::default() };
        let drops = |ports: u32| (0..ports).map(port).collect::<Vec<_>>();
        assert_eq!(by_port(&drops(3), 4), "no port: 9, 1: 9, 2: 9");
        assert_eq!(by_port(&drops(6), 4), "no port: 9, 1: 9, 2: 9, 3: 9 and 2 more");
        assert_eq!(by_port(&drops(0), 4), "");
    }
}
