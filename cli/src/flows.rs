//! `weft flows`: rules of a switch, as `ovs-ofctl add-flow`, `del-flows` and `dump-flows` have them.
//!
//! What is added here is always a manual rule: it survives every resynchronisation with the controller
//! and is marked in every dump. All rules of one `add` take effect at once or not at all.

use crate::connect::Connection;
use crate::failure::{Failure, system};
use crate::json;
use crate::output::{Output, count, write};
use serde_json::Value;
use std::io::Read as _;
use std::path::PathBuf;
use tonic::Status;
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1::{
    Bundle, DumpRulesRequest, FlowRemoved, Owner, RemovalReason, Rule, RuleState, WatchRemovalsRequest,
};

/// So many rules travel in one message, which keeps it well under gRPC's limit of 4 MB.
const RULES_PER_MESSAGE: usize = 1000;

/// The commands of `weft flows`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Adds rules, all at once or none; a rule with the same table, priority and match is replaced.
    ///
    /// For example: weft flows add web 'table=0,priority=100,in_port=1,ip,nw_dst=10.0.0.0/24,actions=output:2'
    Add(Add),
    /// Removes rules that have at least these matches.
    Del(Delete),
    /// Shows rules with their counters; what follows # is the rule's origin.
    Dump(Dump),
    /// Shows rules with send_flow_rem as they are removed, one line each, until interrupted.
    Watch(Watch),
}

/// Arguments of `weft flows watch`.
#[derive(clap::Args)]
pub struct Watch {
    /// A host's name, or unix:PATH.
    host: String,
    /// Stop after this many rules.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// Arguments of `weft flows add`.
#[derive(clap::Args)]
pub struct Add {
    /// A host's name, or unix:PATH.
    host: String,
    /// A rule, as in in_port=1,actions=output:2.
    #[arg(required_unless_present = "file")]
    flow: Vec<String>,
    /// A file of rules, one a line, with comments after #; - is standard input. A line may begin with "add", or with
    /// "delete_strict" and have no actions: then the rule with just this match and priority is removed.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Arguments of `weft flows del`.
#[derive(clap::Args)]
pub struct Delete {
    /// A host's name, or unix:PATH.
    host: String,
    /// Matches, and any of table=N, cookie=C; nothing selects nothing, unless --all is given.
    #[arg(value_name = "MATCH")]
    matches: Vec<String>,
    /// Only the rule with exactly this match and priority.
    #[arg(long)]
    strict: bool,
    /// All rules (of the owner, and of the table if one is named).
    #[arg(long, conflicts_with = "strict")]
    all: bool,
    /// Whose rules; the controller puts rules of the fabric back when it next compares.
    #[arg(long, value_enum, default_value = "manual")]
    owner: OwnerArgument,
}

/// Arguments of `weft flows dump`.
#[derive(clap::Args)]
pub struct Dump {
    /// A host's name, or unix:PATH.
    host: String,
    /// Matches, and any of table=N, cookie=C: only rules that have at least these.
    #[arg(value_name = "MATCH")]
    matches: Vec<String>,
    /// Only rules of this owner.
    #[arg(long, value_enum)]
    owner: Option<OwnerArgument>,
}

/// Who is responsible for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OwnerArgument {
    /// People and their programs.
    Manual,
    /// The controller.
    Fabric,
}

impl From<OwnerArgument> for Owner {
    fn from(owner: OwnerArgument) -> Self {
        match owner {
            OwnerArgument::Manual => Self::Manual,
            OwnerArgument::Fabric => Self::Fabric,
        }
    }
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    match command {
        Command::Add(arguments) => add(arguments, connection, output).await,
        Command::Del(arguments) => delete(arguments, connection, output).await,
        Command::Dump(arguments) => dump(arguments, connection, output).await,
        Command::Watch(arguments) => watch(arguments, connection, output).await,
    }
}

async fn watch(arguments: Watch, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(&arguments.host).await?;
    let mut removals = switch.watch_removals(WatchRemovalsRequest {}).await?.into_inner();
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(removed) = removals.message().await? else {
            break;
        };
        left -= 1;
        write(&if output.json { format!("{}\n", json::flow_removed(&removed)) } else { removal(&removed) })?;
    }
    Ok(())
}

/// Why a rule was removed, as `ovs-ofctl monitor` says it.
pub fn reason(reason: RemovalReason) -> &'static str {
    match reason {
        RemovalReason::Unspecified => "unknown",
        RemovalReason::IdleTimeout => "idle",
        RemovalReason::HardTimeout => "hard",
        RemovalReason::Delete => "delete",
    }
}

/// A removed rule as a line, after what was missed.
fn removal(removed: &FlowRemoved) -> String {
    let missed = match removed.missed {
        0 => String::new(),
        missed => format!("# {} missed: more rules were removed than could be shown\n", count(missed, "removal")),
    };
    format!(
        "{missed}reason={}, duration={}.{:03}s, n_packets={}, n_bytes={}, {}\n",
        reason(removed.reason()),
        removed.duration_milliseconds / 1000,
        removed.duration_milliseconds % 1000,
        removed.packets,
        removed.bytes,
        text::format_rule(&removed.rule.clone().unwrap_or_default()),
    )
}

/// A rule's text and the place it stands at, for errors: "line 3", "flow 2", or "" for a single one.
struct Written {
    place: String,
    text: String,
}

async fn add(arguments: Add, connection: &Connection, output: Output) -> Result<(), Failure> {
    let written = gather(&arguments)?;
    let mut changes = Changes::default();
    let mut faults = Vec::new();
    for line in written {
        let place = line.place.clone();
        if let Err(fault) = changes.read(line) {
            faults.push(at_place(fault, &place));
        }
    }
    if let Some(failure) = Failure::of(faults) {
        return Err(failure);
    }
    if changes.add.is_empty() && changes.remove.is_empty() {
        return Err(Fault::invalid("nothing", "--file", "the file has no rules", "Write one rule a line.").into());
    }
    let mut switch = connection.switch(&arguments.host).await?;
    let result = switch
        .apply_bundle(tokio_stream::iter(changes.bundle()))
        .await
        .map_err(|status| changes.at_written(&status))?
        .into_inner();
    let mut text = format!("{} added to {}.", count(changes.add.len() as u64, "rule"), arguments.host);
    if !changes.remove.is_empty() {
        text += &format!(" {} removed.", count(result.rules_removed.into(), "rule"));
    }
    output.say(&text, &json::bundle_result(&result))
}

/// What the lines of a command or file come to, with the lines, in the order of the bundle.
#[derive(Default)]
struct Changes {
    add: Vec<Rule>,
    added: Vec<Written>,
    remove: Vec<Rule>,
    removed: Vec<Written>,
}

impl Changes {
    /// Takes a line.
    fn read(&mut self, line: Written) -> Result<(), Fault> {
        let text = line.text.trim_start();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match word {
            "add" => self.add.push(manual(&blank(&line.text, word))?),
            "delete_strict" => {
                let filter = text::parse_filter(&blank(&line.text, word), true)?;
                if filter.cookie.is_some() || filter.owner() == Owner::Fabric {
                    return Err(Fault::invalid(
                        "bad_filter",
                        "",
                        "the line says more than which hand-made rule is meant",
                        "Name table, priority and match only.",
                    ));
                }
                let (table, owner) = (filter.table.unwrap_or(0), Owner::Manual.into());
                self.remove.push(Rule {
                    table,
                    priority: filter.priority,
                    r#match: filter.r#match,
                    owner,
                    ..Rule::default()
                });
                self.removed.push(line);
                return Ok(());
            }
            "delete" | "modify" | "modify_strict" if !rest.is_empty() => {
                return Err(Fault::invalid(
                    "unsupported",
                    "column 1",
                    format!("a file cannot {word} rules"),
                    "Write add RULE (which replaces one of the same table, priority and match) or delete_strict MATCH.",
                ));
            }
            _ => self.add.push(manual(&line.text)?),
        }
        self.added.push(line);
        Ok(())
    }

    /// One bundle in as many messages as it needs.
    fn bundle(&self) -> Vec<Bundle> {
        let add = self.add.chunks(RULES_PER_MESSAGE);
        let remove = self.remove.chunks(RULES_PER_MESSAGE);
        let mut messages: Vec<Bundle> = add
            .map(|rules| Bundle { add_rules: rules.to_vec(), more: true, ..Bundle::default() })
            .chain(remove.map(|rules| Bundle { remove_rules: rules.to_vec(), more: true, ..Bundle::default() }))
            .collect();
        if let Some(last) = messages.last_mut() {
            last.more = false;
        }
        messages
    }

    /// A switch names a rule by its index in the bundle (`add_rules[3].match`); a person by its line.
    fn at_written(&self, status: &Status) -> Failure {
        let fault = Fault::from_status(status);
        let found = fault.field.split_once('[').and_then(|(list, rest)| {
            let (index, path) = rest.split_once(']')?;
            let lines = match list {
                "rules" | "add_rules" => &self.added,
                "remove_rules" => &self.removed,
                _ => return None,
            };
            Some((lines.get(index.parse::<usize>().ok()?)?, path.trim_start_matches('.').to_owned()))
        });
        match found {
            Some((line, path)) => {
                let place = if line.place.is_empty() { "the flow" } else { &line.place };
                at_place(Fault { field: path, ..fault }, place).into()
            }
            None => status.clone().into(),
        }
    }
}

/// The line with spaces for its first word, so that columns stay what they are.
fn blank(line: &str, word: &str) -> String {
    line.replacen(word, &" ".repeat(word.len()), 1)
}

/// Reads a rule that a person adds.
fn manual(line: &str) -> Result<Rule, Fault> {
    let mut rule = text::parse_rule(line)?;
    if rule.owner() == Owner::Fabric {
        return Err(Fault::invalid(
            "not_manual",
            "owner",
            "rules of the fabric come from the controller alone",
            "Leave owner=fabric out to add the rule as a manual one.",
        ));
    }
    rule.owner = Owner::Manual.into();
    Ok(rule)
}

/// The rules of the arguments and of the file.
fn gather(arguments: &Add) -> Result<Vec<Written>, Failure> {
    let several = arguments.flow.len() > 1;
    let place = |index: usize| if several { format!("flow {}", index + 1) } else { String::new() };
    let flows = arguments.flow.iter().enumerate();
    let mut written: Vec<Written> =
        flows.map(|(index, text)| Written { place: place(index), text: text.clone() }).collect();
    if let Some(file) = &arguments.file {
        let mut content = String::new();
        let read = if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut content)
        } else {
            std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut content))
        };
        read.map_err(|error| {
            system(
                "unreadable",
                format!("cannot read rules from {}: {error}", file.display()),
                "Check the file's name.",
            )
        })?;
        for (index, line) in content.lines().enumerate() {
            let line = line.trim_end();
            if !line.trim_start().is_empty() && !line.trim_start().starts_with('#') {
                written.push(Written { place: format!("line {}", index + 1), text: line.to_owned() });
            }
        }
    }
    Ok(written)
}

/// Puts "line 3, " before "column 5".
fn at_place(mut fault: Fault, place: &str) -> Fault {
    if !place.is_empty() {
        fault.field = if fault.field.is_empty() { place.to_owned() } else { format!("{place}, {}", fault.field) };
    }
    fault
}

/// The filter that the words and options make.
fn filter(words: &[String], strict: bool, owner: Option<OwnerArgument>) -> Result<DumpRulesRequest, Fault> {
    let mut filter = text::parse_filter(&words.join(","), strict)?;
    if let Some(owner) = owner {
        filter.owner = Owner::from(owner).into();
    }
    Ok(filter)
}

/// The filter of a deletion, unless it would delete everything unasked.
fn deletion(arguments: &Delete) -> Result<DumpRulesRequest, Fault> {
    let written = text::parse_filter(&arguments.matches.join(","), arguments.strict)?;
    if written.owner() != Owner::Unspecified && written.owner() != Owner::from(arguments.owner) {
        return Err(Fault::invalid(
            "owner",
            "owner",
            "the match names another owner than --owner does",
            "Ask for rules of the fabric with --owner fabric; without it only manual rules are removed.",
        ));
    }
    let selects_all = written.r#match.is_empty() && written.cookie.is_none() && !arguments.strict;
    if selects_all && !arguments.all {
        let which = written.table.map_or_else(String::new, |table| format!(" of table {table}"));
        return Err(Fault::invalid(
            "everything",
            "MATCH",
            format!("this would remove every rule{which}"),
            "Name a match, or confirm with --all.",
        ));
    }
    filter(&arguments.matches, arguments.strict, Some(arguments.owner))
}

async fn delete(arguments: Delete, connection: &Connection, output: Output) -> Result<(), Failure> {
    let filter = deletion(&arguments)?;
    let result = connection.switch(&arguments.host).await?.remove_rules(filter).await?.into_inner();
    let text = match result.rules_removed {
        0 => format!("No rule of {} has this match; see \"weft flows dump {0}\".", arguments.host),
        removed => format!("{} removed from {}.", count(removed.into(), "rule"), arguments.host),
    };
    output.say(&text, &json::bundle_result(&result))
}

async fn dump(arguments: Dump, connection: &Connection, output: Output) -> Result<(), Failure> {
    let filter = filter(&arguments.matches, false, arguments.owner)?;
    let everything = filter == DumpRulesRequest::default();
    let mut replies = connection.switch(&arguments.host).await?.dump_rules(filter).await?.into_inner();
    let mut values = Vec::new();
    let mut shown = 0_usize;
    while let Some(reply) = replies.message().await? {
        shown += reply.rules.len();
        if output.json {
            values.extend(reply.rules.iter().map(json::rule_state));
        } else {
            let lines: String = reply.rules.iter().map(|state| line(state) + "\n").collect();
            write(&lines)?;
        }
    }
    if output.json {
        return write(&format!("{:#}\n", Value::Array(values)));
    }
    match shown {
        0 if everything => {
            write(&format!("No rules. Add one: weft flows add {} 'in_port=1,actions=output:2'\n", arguments.host))
        }
        0 => write("No rule has this match.\n"),
        _ => Ok(()),
    }
}

/// One rule as `ovs-ofctl dump-flows` prints it; the owner is named for manual rules only.
fn line(state: &RuleState) -> String {
    let rule = state.rule.clone().unwrap_or_default();
    let name = if state.table_name.is_empty() { String::new() } else { format!("({})", state.table_name) };
    let owner = if rule.owner() == Owner::Manual { "owner=manual, " } else { "" };
    let mut matched = text::format_match(&rule.r#match);
    if !matched.is_empty() {
        matched.insert(0, ',');
    }
    let origin = if state.origin.is_empty() { String::new() } else { format!(" # {}", state.origin) };
    let idle = state.idle_seconds.map_or_else(String::new, |seconds| format!("idle_age={seconds}, "));
    let life: String = text::format_life(&rule).into_iter().map(|word| word + ", ").collect();
    format!(
        "cookie={:#x}, duration={}s, table={}{name}, n_packets={}, n_bytes={}, {idle}{life}{owner}priority={}{matched} \
         actions={}{origin}",
        rule.cookie,
        state.age_seconds,
        rule.table,
        state.packets,
        state.bytes,
        rule.priority,
        text::format_instructions(&rule.instructions.unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(matches: &[&str], strict: bool, all: bool) -> Delete {
        let matches = matches.iter().map(|word| (*word).to_owned()).collect();
        Delete { host: "web".into(), matches, strict, all, owner: OwnerArgument::Manual }
    }

    #[test]
    fn deleting_everything_must_be_meant() {
        for words in [&[][..], &["table=3"]] {
            assert_eq!(deletion(&delete(words, false, false)).unwrap_err().code, "everything");
            assert_eq!(deletion(&delete(words, false, true)).unwrap().owner(), Owner::Manual);
        }
        assert!(deletion(&delete(&["in_port=1", "ip"], false, false)).is_ok());
        assert!(deletion(&delete(&["priority=5"], true, false)).unwrap().strict);
        assert_eq!(deletion(&delete(&["owner=fabric,ip"], false, false)).unwrap_err().code, "owner");
    }

    #[test]
    fn a_dumped_line_can_be_added_again() {
        let rule = manual("table=10,idle_timeout=60,send_flow_rem,priority=5,in_port=1,actions=drop(spoofed)").unwrap();
        let state = RuleState {
            rule: Some(Rule { cookie: 7, ..rule.clone() }),
            packets: 3,
            bytes: 180,
            age_seconds: 9,
            origin: "port web-1: anti-spoofing".into(),
            table_name: "port_security".into(),
            idle_seconds: Some(2),
        };
        let line = line(&state);
        assert_eq!(
            line,
            "cookie=0x7, duration=9s, table=10(port_security), n_packets=3, n_bytes=180, idle_age=2, idle_timeout=60, \
             send_flow_rem, owner=manual, \
             priority=5,in_port=1 actions=drop(spoofed) # port web-1: anti-spoofing"
        );
        assert_eq!(manual(&line).unwrap(), Rule { cookie: 7, ..rule });
    }

    fn changes(lines: &[&str]) -> Result<Changes, Fault> {
        let mut changes = Changes::default();
        for (index, line) in lines.iter().enumerate() {
            changes.read(Written { place: format!("line {}", index + 1), text: (*line).to_owned() })?;
        }
        Ok(changes)
    }

    #[test]
    fn large_bundles_travel_in_parts() {
        let changes = Changes { add: vec![Rule::default(); 2500], ..Changes::default() };
        let messages = changes.bundle();
        let shape: Vec<_> = messages.iter().map(|message| (message.add_rules.len(), message.more)).collect();
        assert_eq!(shape, [(1000, true), (1000, true), (500, false)]);
    }

    #[test]
    fn lines_of_a_file_add_and_remove_in_one_bundle() {
        let lines = ["in_port=1,actions=drop", " add in_port=2,actions=output:1", "delete_strict priority=5,in_port=3"];
        let messages = changes(&lines).unwrap().bundle();
        let shape: Vec<_> =
            messages.iter().map(|part| (part.add_rules.len(), part.remove_rules.len(), part.more)).collect();
        assert_eq!(shape, [(2, 0, true), (0, 1, false)]);
        let removed = &messages[1].remove_rules[0];
        assert_eq!((removed.priority, removed.owner(), removed.r#match.len()), (5, Owner::Manual, 1));
        for (line, code) in [
            ("delete in_port=1", "unsupported"),
            ("delete_strict in_port=1,actions=drop", "bad_filter"),
            ("delete_strict cookie=5,in_port=1", "bad_filter"),
            ("delete_strict owner=fabric,in_port=1", "bad_filter"),
            ("delete_strict idle_timeout=5,in_port=1", "bad_filter"),
        ] {
            assert_eq!(changes(&[line]).err().expect(line).code, code, "{line}");
        }
        let fault = changes(&["add in_prt=1,actions=drop"]).err().expect("in_prt");
        assert_eq!(fault.field, "column 5", "{fault}");
    }

    #[test]
    fn a_switch_s_index_becomes_a_line() {
        let changes = changes(&["actions=drop", "delete_strict in_port=1", "in_port=1,actions=drop"]).unwrap();
        let at = |field: &str| {
            let status = Fault::invalid("x", field, "it is odd", "Even it.").into_status();
            format!("{:?}", changes.at_written(&status))
        };
        assert!(at("add_rules[1].match").contains("line 3, match"));
        assert!(at("remove_rules[0].match").contains("line 2, match"));
    }

    #[test]
    fn a_removed_rule_is_one_line() {
        let rule = manual("idle_timeout=1,in_port=1,actions=drop").unwrap();
        let mut removed = FlowRemoved {
            rule: Some(rule),
            reason: RemovalReason::IdleTimeout.into(),
            duration_milliseconds: 1205,
            packets: 3,
            bytes: 180,
            missed: 0,
        };
        let line = "reason=idle, duration=1.205s, n_packets=3, n_bytes=180, \
                    table=0,owner=manual,idle_timeout=1,priority=32768,in_port=1,actions=drop\n";
        assert_eq!(removal(&removed), line);
        removed.missed = 2;
        assert!(removal(&removed).starts_with("# 2 removals missed"));
    }

    #[test]
    fn fabric_rules_are_not_made_by_hand() {
        assert_eq!(manual("owner=fabric,actions=drop").unwrap_err().code, "not_manual");
    }
}
