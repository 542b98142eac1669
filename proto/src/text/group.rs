//! Groups: `group_id=1,type=select,bucket=weight:10,actions=output:2,bucket=weight:20,actions=output:3`.

use super::action::{Packets, format_actions, one};
use super::rule::owner_name;
use super::scan::{Word, did_you_mean, words};
use super::value::{parse_number, parse_within};
use crate::PORT_MAX;
use crate::digest::canonical_action;
use crate::fault::Fault;
use crate::v1::{Bucket, Group, GroupType, Owner, action::Action as Kind};

/// Types by name; the first name of each is the one written.
const TYPES: [(&str, GroupType); 5] = [
    ("all", GroupType::All),
    ("select", GroupType::Select),
    ("indirect", GroupType::Indirect),
    ("fast_failover", GroupType::FastFailover),
    ("ff", GroupType::FastFailover),
];

/// Words of a dump that say how a group fared; skipped, so that a dump can be read back.
const COUNTERS: [&str; 4] = ["duration", "n_packets", "n_bytes", "rules"];

/// Reads a group. The result is canonical: weights of a select group's buckets are 1 unless given, actions are as in
/// [`crate::digest::canonical`]. Lines of a dump are understood.
///
/// # Errors
/// A [`Fault`] whose field is the column, with what is wrong there and what to write instead.
pub fn parse_group(text: &str) -> Result<Group, Fault> {
    let line = Word::line(text);
    let mut group = Group::default();
    let (mut id, mut kind) = (None, None);
    // Whether the words that follow are actions of the last bucket.
    let mut acting = false;
    for word in words(line)? {
        let (name, value) = word.split_once("=").map_or((word, None), |(name, value)| (name, Some(value)));
        if let ("bucket", Some(value)) = (name.text, value) {
            group.buckets.push(Bucket::default());
            acting = false;
            if !value.text.is_empty() {
                acting = in_bucket(&mut group, value, acting)?;
            }
            continue;
        }
        if !group.buckets.is_empty() {
            acting = in_bucket(&mut group, word, acting)?;
            continue;
        }
        let Some(value) = value else { return Err(unknown(word)) };
        match name.text {
            "group_id" if id.is_some() => return Err(twice(word, name)),
            "type" if kind.is_some() => return Err(twice(word, name)),
            "group_id" => id = Some(number(value)?),
            "type" => kind = Some(type_of(value)?),
            "owner" => {
                group.owner = match value.text {
                    "fabric" => Owner::Fabric.into(),
                    "manual" => Owner::Manual.into(),
                    other => {
                        return Err(value.fault(
                            "bad_value",
                            format!("\"{other}\" owns no groups"),
                            "Write owner=manual (hand-made) or owner=fabric (the controller's).",
                        ));
                    }
                }
            }
            counter if COUNTERS.contains(&counter) => {}
            _ => return Err(unknown(name)),
        }
    }
    let missing = |what: &str, remedy: &str| {
        line.after(text.trim_end().len()).fault("missing_field", format!("the group has no {what}"), remedy)
    };
    group.id = id.ok_or_else(|| missing("group_id", "Add group_id=N."))?;
    let kind = kind.ok_or_else(|| missing("type", "Add type=all, select, indirect or fast_failover."))?;
    group.r#type = kind.into();
    for bucket in &mut group.buckets {
        if kind == GroupType::Select && bucket.weight == 0 {
            bucket.weight = 1;
        }
        bucket.actions.iter_mut().for_each(canonical_action);
    }
    Ok(group)
}

/// One word of the last bucket; gives whether actions follow.
fn in_bucket(group: &mut Group, word: Word<'_>, acting: bool) -> Result<bool, Fault> {
    let Some(bucket) = group.buckets.last_mut() else { return Ok(false) };
    let setting = word.split_once(":").filter(|(name, _)| matches!(name.text, "weight" | "watch_port"));
    if let Some((name, value)) = setting.filter(|_| !acting) {
        let field = if name.text == "weight" { &mut bucket.weight } else { &mut bucket.watch_port };
        if *field != 0 {
            return Err(twice(word, name));
        }
        let most = if name.text == "weight" { 65535 } else { PORT_MAX };
        *field = parse_number(value, name.text, 32)? as u32;
        if !(1..=most).contains(field) {
            return Err(value.fault(
                "bad_value",
                format!("{} is no {} of a bucket", value.text, name.text),
                format!("Write 1 to {most}, or leave it out."),
            ));
        }
        return Ok(false);
    }
    let action = match word.split_once("=") {
        Some((name, first)) if matches!(name.text, "actions" | "action") => first,
        _ => word,
    };
    if action.text == "drop" && bucket.actions.is_empty() {
        return Ok(true);
    }
    if action.text.is_empty() {
        return Err(word.fault("missing_actions", "actions= is followed by nothing", "Write actions=drop to drop."));
    }
    let action = one(action, Packets::Any, 0)?;
    let cannot = matches!(
        action.action,
        Some(
            Kind::Ct(_)
                | Kind::Clone(_)
                | Kind::Group(_)
                | Kind::Meter(_)
                | Kind::Neighbour(_)
                | Kind::LearnNeighbour(_)
                | Kind::Translate(_)
        )
    );
    if cannot {
        return Err(word.fault(
            "bad_action",
            "a bucket cannot track connections, meter, translate, deal with neighbours, branch, or lead to a group",
            "Do it in a rule, before or after the group.",
        ));
    }
    bucket.actions.push(action);
    Ok(true)
}

fn number(word: Word<'_>) -> Result<u32, Fault> {
    parse_within(word, "group", 0..=PORT_MAX)
}

fn type_of(word: Word<'_>) -> Result<GroupType, Fault> {
    TYPES.iter().find(|row| row.0 == word.text).map(|row| row.1).ok_or_else(|| {
        let meant = did_you_mean(word.text, TYPES.map(|row| row.0));
        word.fault(
            "bad_value",
            format!("\"{}\" is not a type of group", word.text),
            format!("Write all, select, indirect or fast_failover.{meant}"),
        )
    })
}

fn twice(word: Word<'_>, name: Word<'_>) -> Fault {
    word.fault("duplicate_field", format!("{} is given twice", name.text), "Keep one of them.")
}

fn unknown(word: Word<'_>) -> Fault {
    let meant = did_you_mean(word.text, ["group_id", "type", "bucket", "owner"]);
    word.fault(
        "unknown_field",
        format!("\"{}\" is nothing that a group has", word.text),
        format!("Write group_id=N,type=…,bucket=actions=….{meant}"),
    )
}

/// A type's name.
#[must_use]
pub fn group_type_name(kind: GroupType) -> &'static str {
    TYPES.iter().find(|row| row.1 == kind).map_or("unknown", |row| row.0)
}

/// Writes a group as [`parse_group`] reads it: group_id, owner (unless none), type, buckets.
#[must_use]
pub fn format_group(group: &Group) -> String {
    let mut words = vec![format!("group_id={}", group.id)];
    if group.owner() != Owner::Unspecified {
        words.push(format!("owner={}", owner_name(group.owner())));
    }
    words.push(format!("type={}", group_type_name(group.r#type())));
    for bucket in &group.buckets {
        let weight = (bucket.weight != 0).then(|| format!("weight:{}", bucket.weight));
        let watch = (bucket.watch_port != 0).then(|| format!("watch_port:{}", bucket.watch_port));
        let actions = if bucket.actions.is_empty() { "drop".to_owned() } else { format_actions(&bucket.actions) };
        let parts: Vec<String> = weight.into_iter().chain(watch).chain([format!("actions={actions}")]).collect();
        words.push(format!("bucket={}", parts.join(",")));
    }
    words.join(",")
}
