//! Whole rules, and filters that select them.

use super::action;
use super::matching::{self, format_match};
use super::scan::{Word, did_you_mean, words};
use super::value::{parse_number, parse_within};
use crate::fault::Fault;
use crate::v1::{DumpRulesRequest, FieldMatch, Owner, Rule};

/// A rule that names no priority has this one, as with `ovs-ofctl`.
pub const DEFAULT_PRIORITY: u32 = 32768;

/// What a rule says besides match and actions.
#[derive(Default)]
struct Head<'a> {
    table: Option<u32>,
    priority: Option<u32>,
    cookie: Option<u64>,
    owner: Owner,
    idle_timeout: u32,
    hard_timeout: u32,
    notify_removal: bool,
    /// What remains: the match.
    matching: Vec<Word<'a>>,
    /// What follows `actions=`; `None` if there is no such word.
    actions: Option<Vec<Word<'a>>>,
}

const SETTINGS: [&str; 8] =
    ["table", "priority", "cookie", "owner", "idle_timeout", "hard_timeout", "send_flow_rem", "actions"];

/// Words of `dump-flows` that say how a rule fared; skipped, so that a dump can be read back.
const COUNTERS: [&str; 6] = ["duration", "n_packets", "n_bytes", "idle_age", "hard_age", "age"];

/// Settings of OpenFlow that rules do not have here.
const FOREIGN: [&str; 4] = ["importance", "check_overlap", "reset_counts", "out_port"];

/// Reads a rule: `table=0,priority=100,in_port=1,ip,nw_src=10.0.0.0/24,actions=output:2`. Without a
/// table it is for table 0, without a priority for 32768, without an owner for none. The result is
/// canonical (see [`crate::digest::canonical`]). Lines of a dump are understood.
///
/// # Errors
/// A [`Fault`] whose field is the column, with what is wrong there and what to write instead.
pub fn parse_rule(text: &str) -> Result<Rule, Fault> {
    let line = Word::line(text);
    let head = head(line)?;
    let matches = matching::from_words(&head.matching)?;
    let actions = head.actions.ok_or_else(|| {
        line.after(text.trim_end().len()).fault(
            "missing_actions",
            "the rule says nothing about what to do",
            "Add actions=…, for example actions=output:2 or actions=drop.",
        )
    })?;
    let table = head.table.unwrap_or(0);
    let instructions = action::from_words(&actions, &matches)?;
    if let (Some(next), Some(word)) = (instructions.goto_table, actions.last())
        && next <= table
    {
        return Err(word.fault(
            "bad_goto",
            format!("goto_table:{next} in a rule of table {table} leads back"),
            format!("Go to a table of {} to 254.", table.saturating_add(1)),
        ));
    }
    let clones = instructions.apply_actions.iter().filter_map(action::leads_to);
    if let (Some(next), Some(word)) = (clones.min().filter(|&next| next <= table), actions.first()) {
        return Err(word.fault(
            "bad_goto",
            format!("a clone with goto_table:{next} in a rule of table {table} leads back"),
            format!("Go to a table of {} to 254.", table.saturating_add(1)),
        ));
    }
    Ok(crate::digest::canonical(Rule {
        table,
        priority: head.priority.unwrap_or(DEFAULT_PRIORITY),
        r#match: matches,
        instructions: Some(instructions),
        cookie: head.cookie.unwrap_or(0),
        owner: head.owner.into(),
        idle_timeout_seconds: head.idle_timeout,
        hard_timeout_seconds: head.hard_timeout,
        notify_removal: head.notify_removal,
    }))
}

/// Reads a filter: matches, and any of `table=`, `cookie=`, `owner=`. It selects the rules that have at
/// least these matches; a strict one those with exactly these and the priority (`priority=`, or else
/// 32768).
///
/// # Errors
/// As [`parse_rule`]; also for actions, which select nothing, and for a priority without `strict`.
pub fn parse_filter(text: &str, strict: bool) -> Result<DumpRulesRequest, Fault> {
    let line = Word::line(text);
    let head = head(line)?;
    if let Some(actions) = head.actions {
        let at = actions.first().copied().unwrap_or(line);
        return Err(at.fault(
            "bad_filter",
            "rules are selected by their match, not by their actions",
            "Leave actions=… out.",
        ));
    }
    if let Some(priority) = head.priority
        && !strict
    {
        return Err(line.fault(
            "bad_filter",
            format!("priority={priority} selects rules only together with their exact match"),
            "Leave it out, or ask for strict deletion with --strict.",
        ));
    }
    if head.idle_timeout != 0 || head.hard_timeout != 0 || head.notify_removal {
        return Err(line.fault(
            "bad_filter",
            "rules are selected by their match, not by their timeouts",
            "Leave idle_timeout, hard_timeout and send_flow_rem out.",
        ));
    }
    let matches: Vec<FieldMatch> = matching::from_words(&head.matching)?;
    Ok(DumpRulesRequest {
        table: head.table,
        owner: head.owner.into(),
        r#match: matches,
        cookie: head.cookie,
        strict,
        priority: if strict { head.priority.unwrap_or(DEFAULT_PRIORITY) } else { 0 },
    })
}

fn head(line: Word<'_>) -> Result<Head<'_>, Fault> {
    let mut head = Head::default();
    let mut seen: Vec<&str> = Vec::new();
    for word in words(line)? {
        if let Some(actions) = &mut head.actions {
            actions.push(word);
            continue;
        }
        let Some((name, value)) = word.split_once("=") else {
            if word.text == "send_flow_rem" {
                head.notify_removal = true;
                continue;
            }
            if FOREIGN.contains(&word.text) {
                return Err(foreign(word));
            }
            head.matching.push(word);
            continue;
        };
        if SETTINGS.contains(&name.text) {
            if seen.contains(&name.text) {
                return Err(word.fault(
                    "duplicate_field",
                    format!("{} is given twice", name.text),
                    "Keep one of them.",
                ));
            }
            seen.push(name.text);
        }
        match name.text {
            "table" => {
                // A dump shows the table's name: table=10(port_security).
                let number = value.split_once("(").map_or(value, |(number, _)| number);
                head.table = Some(parse_within(number, "table", 0..=254)?);
            }
            "priority" => head.priority = Some(parse_number(value, "priority", 16)? as u32),
            "cookie" => {
                let (number, mask) = value.split_once("/").map_or((value, None), |(number, mask)| (number, Some(mask)));
                if let Some(mask) = mask
                    && mask.text != "-1"
                    && parse_number(mask, "the cookie's mask", 64)? != u64::MAX
                {
                    return Err(mask.fault("bad_mask", "cookies are compared whole", "Leave the mask out."));
                }
                head.cookie = Some(parse_number(number, "cookie", 64)?);
            }
            "idle_timeout" => head.idle_timeout = timeout(name, value)?,
            "hard_timeout" => head.hard_timeout = timeout(name, value)?,
            "owner" => {
                head.owner = match value.text {
                    "fabric" => Owner::Fabric,
                    "manual" => Owner::Manual,
                    other => {
                        return Err(value.fault(
                            "bad_value",
                            format!("\"{other}\" owns no rules"),
                            "Write owner=manual (hand-made) or owner=fabric (the controller's).",
                        ));
                    }
                }
            }
            "actions" | "action" => {
                head.actions = Some(if value.text.is_empty() { Vec::new() } else { vec![value] });
            }
            counter if COUNTERS.contains(&counter) => {}
            setting if FOREIGN.contains(&setting) => return Err(foreign(name)),
            other => {
                if super::name::all_names().all(|known| known != other) && !matches!(other, "tp_src" | "tp_dst") {
                    let meant = did_you_mean(other, SETTINGS);
                    if !meant.is_empty() {
                        return Err(name.fault(
                            "unknown_field",
                            format!("\"{other}\" is neither a match field nor a setting of a rule"),
                            meant.trim_start(),
                        ));
                    }
                }
                head.matching.push(word);
            }
        }
    }
    if let Some(actions) = &head.actions
        && actions.is_empty()
    {
        return Err(line.after(line.text.len()).fault(
            "missing_actions",
            "actions= is followed by nothing",
            "Write actions=drop to drop the packet.",
        ));
    }
    Ok(head)
}

/// Seconds. OpenFlow's 0, which means none, would look like a rule that ends at once.
fn timeout(name: Word<'_>, value: Word<'_>) -> Result<u32, Fault> {
    match parse_number(value, name.text, 16)? {
        0 => {
            let problem = format!("{}=0 is no timeout: the rule would stay", name.text);
            Err(value.fault("bad_value", problem, "Leave it out, or write seconds from 1 on."))
        }
        seconds => Ok(seconds as u32),
    }
}

fn foreign(word: Word<'_>) -> Fault {
    word.fault("unsupported", format!("rules have no {} here", word.text), "Leave it out.")
}

/// The owner as it is written; empty for none.
#[must_use]
pub fn owner_name(owner: Owner) -> &'static str {
    match owner {
        Owner::Unspecified => "",
        Owner::Fabric => "fabric",
        Owner::Manual => "manual",
    }
}

/// What a rule says of its end: `idle_timeout=60`, `hard_timeout=600`, `send_flow_rem`, as far as it has them.
#[must_use]
pub fn format_life(rule: &Rule) -> Vec<String> {
    let timeouts = [("idle_timeout", rule.idle_timeout_seconds), ("hard_timeout", rule.hard_timeout_seconds)];
    let set = timeouts.into_iter().filter(|(_, seconds)| *seconds != 0);
    let mut words: Vec<String> = set.map(|(name, seconds)| format!("{name}={seconds}")).collect();
    if rule.notify_removal {
        words.push("send_flow_rem".to_owned());
    }
    words
}

/// Writes a rule as [`parse_rule`] reads it: cookie (unless 0), table, owner (unless none), timeouts (unless
/// none), priority, match, actions.
#[must_use]
pub fn format_rule(rule: &Rule) -> String {
    let mut words = Vec::new();
    if rule.cookie != 0 {
        words.push(format!("cookie={:#x}", rule.cookie));
    }
    words.push(format!("table={}", rule.table));
    if rule.owner() != Owner::Unspecified {
        words.push(format!("owner={}", owner_name(rule.owner())));
    }
    words.extend(format_life(rule));
    words.push(format!("priority={}", rule.priority));
    if !rule.r#match.is_empty() {
        words.push(format_match(&rule.r#match));
    }
    let instructions = rule.instructions.clone().unwrap_or_default();
    words.push(format!("actions={}", action::format_instructions(&instructions)));
    words.join(",")
}
