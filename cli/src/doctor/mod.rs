//! `weft doctor`: what is wrong with the whole cloud, one finding each with its evidence and what to do.
//!
//! [`evidence`] asks the controller, and each host's switch through it, for all that checks look at; the switches' counts
//! twice, so that what grows can be told from what has been. Then each check is a function from that to findings, pure,
//! in the list [`CHECKS`]. To add one: such a function, and its line there.
//!
//! A check says only what somebody should do something about. What may be meant (a subnet without a router, a port that
//! is not plugged) is none of its business: `weft trace` explains it to who misses something.

mod drops;
mod evidence;
mod groups;
mod hosts;
mod networks;
mod rules;
#[cfg(test)]
mod tests;

use crate::connect::Connection;
use crate::failure::Failure;
use crate::output::{Output, count, write};
use evidence::Evidence;
use serde_json::{Value, json};
use std::time::Duration;

/// Arguments of `weft doctor`.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long to watch what is dropped.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// What it is about: "host b", "port web-1".
    object: String,
    /// What is wrong, and what shows it.
    problem: String,
    /// What to do.
    remedy: String,
}

impl Finding {
    fn new(object: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Of a sentence that says both, as faults do: the last sentence is what to do.
    fn of_fault(object: impl Into<String>, fault: &str) -> Self {
        let (problem, remedy) = fault.trim_end().rsplit_once(". ").unwrap_or((fault, ""));
        Self::new(object, problem.trim_end_matches('.'), remedy)
    }
}

type Check = fn(&Evidence) -> Vec<Finding>;

/// All of them, in the order in which a person should read what they find: what explains other things comes first.
const CHECKS: &[(&str, Check)] = &[
    ("hosts are connected", hosts::connected),
    ("switches answer", hosts::answering),
    ("hosts run one version", hosts::version),
    ("switches have what they should", hosts::generation),
    ("clocks agree", hosts::clock),
    ("certificates last", hosts::certificate),
    ("switches have buffers", hosts::buffers),
    ("interfaces made by hand work", hosts::interfaces),
    ("hosts reach each other", hosts::underlay),
    ("underlays carry the networks' packets", networks::mtu),
    ("ports are up", networks::ports),
    ("subnets have free addresses", networks::addresses),
    ("addresses belong to one port", networks::pairs),
    ("next hops are plugged", networks::next_hops),
    ("ways out have a host", networks::gateways),
    ("security groups name groups that ports have", groups::remote),
    ("security groups let something in where something comes", groups::closed),
    ("rules made by hand do not override the fabric", rules::by_hand),
    ("nothing is dropped that should not be", drops::growing),
];

/// Asks, looks, prints. An error if anything is wrong: exit code 1.
pub async fn run(arguments: Arguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let evidence = evidence::gather(connection, Duration::from_secs(arguments.seconds)).await?;
    let found = examine(&evidence);
    if output.json {
        output.say("", &value(&found))?;
    } else {
        write(&render(&found))?;
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::told()) }
}

/// What each check finds.
fn examine(evidence: &Evidence) -> Vec<(&'static str, Finding)> {
    CHECKS.iter().flat_map(|(name, check)| check(evidence).into_iter().map(|finding| (*name, finding))).collect()
}

fn render(found: &[(&str, Finding)]) -> String {
    if found.is_empty() {
        return format!("Nothing wrong found ({}).\n", count(CHECKS.len() as u64, "check"));
    }
    let mut text = String::new();
    for (_, finding) in found {
        text += &format!("{}: {}\n", finding.object, finding.problem.trim_end_matches('.'));
        if !finding.remedy.is_empty() {
            text += &format!("    {}\n", finding.remedy);
        }
    }
    text + &format!("\n{}.\n", count(found.len() as u64, "finding"))
}

fn value(found: &[(&str, Finding)]) -> Value {
    let one = |(check, finding): &(&str, Finding)| {
        json!({
            "check": check,
            "object": finding.object,
            "problem": finding.problem,
            "remedy": finding.remedy,
        })
    };
    json!({ "checks": CHECKS.len(), "findings": found.iter().map(one).collect::<Vec<_>>() })
}
