//! `weft groups`: groups of a switch, as `ovs-ofctl add-group`, `del-groups` and `dump-groups` have them. What is set
//! here belongs to people: rules made by hand can name it, and the controller leaves it alone.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, count, write};
use serde_json::{Value, json};
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1::{Bundle, DumpGroupsRequest, Group, GroupState, Owner};

/// The commands of `weft groups`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Sets groups, all at once; one that exists is replaced.
    ///
    /// For example: weft groups add web group_id=1,type=select,bucket=weight:10,actions=output:2,bucket=weight:20,actions=output:3
    Add {
        /// A host's name, or unix:PATH.
        host: String,
        /// Groups in the syntax of ovs-ofctl; type is all, select, indirect or fast_failover.
        #[arg(required = true)]
        group: Vec<String>,
    },
    /// Removes groups that no rule names.
    Del {
        /// A host's name, or unix:PATH.
        host: String,
        /// Their numbers, as in 1 or group_id=1.
        #[arg(required_unless_present = "all")]
        group: Vec<String>,
        /// All groups made by hand.
        #[arg(long, conflicts_with = "group")]
        all: bool,
    },
    /// Shows groups with their counters and those of their buckets.
    Dump {
        /// A host's name, or unix:PATH.
        host: String,
        /// Only this one, as in 1 or group_id=1.
        group: Option<String>,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    match command {
        Command::Add { host, group } => {
            let set_groups = group.iter().map(|text| manual(text)).collect::<Result<Vec<_>, _>>()?;
            let text = format!("{} set on {host}.", count(set_groups.len() as u64, "group"));
            apply(&host, Bundle { set_groups, ..Bundle::default() }, &text, connection, output).await
        }
        Command::Del { host, group, all } => {
            let owner = Owner::Manual.into();
            let known = dump(&host, DumpGroupsRequest { group: None, owner }, connection).await?;
            let known: Vec<u32> = known.iter().filter_map(|state| Some(state.group.as_ref()?.id)).collect();
            let remove_groups = if all {
                known
            } else {
                let numbers = group.iter().map(|text| number(text)).collect::<Result<Vec<_>, _>>()?;
                // The switch takes away what is not there without a word; a person may have mistyped.
                if let Some(unknown) = numbers.iter().find(|number| !known.contains(number)) {
                    return Err(unknown_group(&host, *unknown).into());
                }
                numbers
            };
            let text = format!("{} removed from {host}.", count(remove_groups.len() as u64, "group"));
            apply(&host, Bundle { remove_groups, ..Bundle::default() }, &text, connection, output).await
        }
        Command::Dump { host, group } => {
            let group = group.as_deref().map(number).transpose()?;
            let states = dump(&host, DumpGroupsRequest { group, owner: 0 }, connection).await?;
            if let (Some(group), true) = (group, states.is_empty()) {
                return Err(unknown_group(&host, group).into());
            }
            if output.json {
                return write(&format!("{:#}\n", Value::Array(states.iter().map(value).collect())));
            }
            if states.is_empty() {
                return write(&format!(
                    "No groups. Make one: weft groups add {host} group_id=1,type=all,bucket=output:2,bucket=output:3\n"
                ));
            }
            write(&states.iter().map(lines).collect::<String>())
        }
    }
}

async fn apply(host: &str, bundle: Bundle, text: &str, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(host).await?;
    let result = switch.apply_bundle(tokio_stream::iter([bundle])).await?.into_inner();
    output.say(text, &json::bundle_result(&result))
}

async fn dump(host: &str, request: DumpGroupsRequest, connection: &Connection) -> Result<Vec<GroupState>, Failure> {
    let mut replies = connection.switch(host).await?.dump_groups(request).await?.into_inner();
    let mut groups = Vec::new();
    while let Some(state) = replies.message().await? {
        groups.push(state);
    }
    Ok(groups)
}

fn manual(line: &str) -> Result<Group, Fault> {
    let mut group = text::parse_group(line)?;
    if group.owner() == Owner::Fabric {
        return Err(Fault::invalid(
            "not_manual",
            "owner",
            "groups of the fabric come from the controller alone",
            "Leave owner=fabric out to set the group as a manual one.",
        ));
    }
    group.owner = Owner::Manual.into();
    Ok(group)
}

fn number(text: &str) -> Result<u32, Fault> {
    let digits = text.strip_prefix("group_id=").unwrap_or(text);
    digits.parse().map_err(|_| {
        Fault::invalid(
            "bad_group",
            "GROUP",
            format!("\"{text}\" is not the number of a group"),
            "Write 1 or group_id=1.",
        )
    })
}

fn unknown_group(host: &str, number: u32) -> Fault {
    let problem = format!("there is no group {number} made by hand on {host}");
    Fault::invalid("unknown_group", "GROUP", problem, format!("Choose one that \"weft groups dump {host}\" shows."))
        .with_status(tonic::Code::NotFound)
}

/// The group as it is written, and a line of counters for it and for each bucket.
fn lines(state: &GroupState) -> String {
    let group = state.group.clone().unwrap_or_default();
    let mut out = format!("{}\n", text::format_group(&group));
    out += &format!(
        "    {}, {}, named by {}, for {} s\n",
        count(state.packets, "packet"),
        count(state.bytes, "byte"),
        count(state.rules, "rule"),
        state.age_seconds
    );
    for (index, bucket) in state.buckets.iter().enumerate() {
        out += &format!("    bucket {index}: {}, {}\n", count(bucket.packets, "packet"), count(bucket.bytes, "byte"));
    }
    out
}

fn value(state: &GroupState) -> Value {
    let group = state.group.clone().unwrap_or_default();
    let bucket = |(index, bucket): (usize, &weft_proto::v1::Bucket)| {
        let counted = state.buckets.get(index).copied().unwrap_or_default();
        json!({
            "weight": bucket.weight,
            "watch_port": bucket.watch_port,
            "actions": text::format_actions(&bucket.actions),
            "packets": counted.packets,
            "bytes": counted.bytes,
        })
    };
    json!({
        "group_id": group.id,
        "owner": text::owner_name(group.owner()),
        "type": text::group_type_name(group.r#type()),
        "buckets": group.buckets.iter().enumerate().map(bucket).collect::<Vec<_>>(),
        "packets": state.packets,
        "bytes": state.bytes,
        "rules": state.rules,
        "age_seconds": state.age_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::v1::BucketCounters;

    #[test]
    fn a_dump_shows_each_bucket() {
        let line = "group_id=7,owner=manual,type=all,bucket=actions=output:2,bucket=actions=output:3";
        let state = GroupState {
            group: Some(text::parse_group(line).unwrap()),
            packets: 3,
            bytes: 180,
            buckets: vec![BucketCounters { packets: 3, bytes: 180 }, BucketCounters { packets: 1, bytes: 60 }],
            age_seconds: 9,
            rules: 1,
        };
        let expected = format!(
            "{line}\n    3 packets, 180 bytes, named by 1 rule, for 9 s\n    bucket 0: 3 packets, 180 bytes\n    bucket 1: 1 packet, 60 bytes\n"
        );
        assert_eq!(lines(&state), expected);
        assert_eq!(value(&state)["buckets"][1]["packets"], 1);
    }

    #[test]
    fn groups_are_named_by_number() {
        assert_eq!((number("7").unwrap(), number("group_id=7").unwrap()), (7, 7));
        assert_eq!(number("seven").unwrap_err().code, "bad_group");
        assert_eq!(manual("group_id=1,type=all,owner=fabric").unwrap_err().code, "not_manual");
    }
}
