//! `weft sets`: address sets of a switch, which rules match as `ip_src=@NAME` and `ip_dst=@NAME`. Those made
//! here belong to people; the controller leaves them alone, and rules of both may use them.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table, count};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use weft_proto::fault::Fault;
use weft_proto::text::{self, format_ip};
use weft_proto::v1::{AddressSet, AddressSetState, Bundle, DumpAddressSetsRequest, Prefix};

/// Members that a list shows of each set, unless one set or all members are asked for.
const MEMBERS_SHOWN: usize = 4;

/// The commands of `weft sets`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Shows the sets, or all members of one.
    List {
        /// A host's name, or unix:PATH.
        host: String,
        /// Only this set, with all its members.
        name: Option<String>,
    },
    /// Replaces a set: it has these members and no others, from one moment to the next.
    Set(Members),
    /// Adds members to a set; one that does not exist is made.
    Add(Members),
    /// Removes members from a set; without any, the set.
    Del {
        /// A host's name, or unix:PATH.
        host: String,
        /// The set.
        name: String,
        /// Addresses and prefixes, as in 10.0.0.7 or 10.1.0.0/16.
        members: Vec<String>,
    },
}

/// A set and members of it.
#[derive(clap::Args)]
pub struct Members {
    /// A host's name, or unix:PATH.
    host: String,
    /// The set.
    name: String,
    /// Addresses and prefixes, as in 10.0.0.7 or 10.1.0.0/16.
    #[arg(required = true)]
    members: Vec<String>,
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    match command {
        Command::List { host, name } => list(&host, name.unwrap_or_default(), connection, output).await,
        Command::Set(Members { host, name, members }) => {
            let set = AddressSet { members: prefixes(&members)?, name };
            let text = format!("Set {} of {host} has {}.", set.name, count(set.members.len() as u64, "member"));
            let bundle = Bundle { set_address_sets: vec![set], ..Bundle::default() };
            apply(&host, bundle, &text, connection, output).await
        }
        Command::Add(Members { host, name, members }) => {
            let set = AddressSet { members: prefixes(&members)?, name };
            let text = format!("{} added to set {} of {host}.", count(set.members.len() as u64, "member"), set.name);
            let bundle = Bundle { extend_address_sets: vec![set], ..Bundle::default() };
            apply(&host, bundle, &text, connection, output).await
        }
        Command::Del { host, name, members } => {
            // The switch takes away what is not there without a word; a person may have mistyped.
            if dump(&host, name.clone(), connection).await?.is_empty() {
                return Err(unknown(&host, &name).into());
            }
            let (text, bundle) = if members.is_empty() {
                let text = format!("Set {name} removed from {host}; rules that name it match nothing now.");
                (text, Bundle { remove_address_sets: vec![name], ..Bundle::default() })
            } else {
                let set = AddressSet { members: prefixes(&members)?, name };
                let removed = count(set.members.len() as u64, "member");
                let text = format!("{removed} removed from set {} of {host}.", set.name);
                (text, Bundle { shrink_address_sets: vec![set], ..Bundle::default() })
            };
            apply(&host, bundle, &text, connection, output).await
        }
    }
}

async fn apply(host: &str, bundle: Bundle, text: &str, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(host).await?;
    let result = switch.apply_bundle(tokio_stream::iter([bundle])).await?.into_inner();
    output.say(text, &json::bundle_result(&result))
}

/// The sets of a switch, or the one of this name.
async fn dump(host: &str, name: String, connection: &Connection) -> Result<Vec<AddressSetState>, Failure> {
    let mut switch = connection.switch(host).await?;
    let mut replies = switch.dump_address_sets(DumpAddressSetsRequest { name }).await?.into_inner();
    let mut sets = Vec::new();
    while let Some(state) = replies.message().await? {
        sets.push(state);
    }
    Ok(sets)
}

async fn list(host: &str, name: String, connection: &Connection, output: Output) -> Result<(), Failure> {
    let sets = dump(host, name.clone(), connection).await?;
    if sets.is_empty() && !name.is_empty() {
        return Err(unknown(host, &name).into());
    }
    let shown = if name.is_empty() { MEMBERS_SHOWN } else { usize::MAX };
    let mut table = Table::new(&["set", "owner", "size", "members"]);
    for state in &sets {
        let set = state.set.clone().unwrap_or_default();
        let members: Vec<String> = set.members.iter().map(format_prefix).collect();
        let mut text = members.iter().take(shown).cloned().collect::<Vec<_>>().join(", ");
        if let Some(others @ 1..) = members.len().checked_sub(shown) {
            text += &format!(" and {others} more");
        }
        table.row(vec![set.name, text::owner_name(state.owner()).to_owned(), members.len().to_string(), text]);
    }
    let empty = format!("No address sets. Make one: weft sets set {host} web 10.0.0.7 10.1.0.0/16");
    output.table(&table, &empty, sets.iter().map(value).collect())
}

fn value(state: &AddressSetState) -> Value {
    let set = state.set.clone().unwrap_or_default();
    let members: Vec<String> = set.members.iter().map(format_prefix).collect();
    json!({ "name": set.name, "owner": text::owner_name(state.owner()), "members": members })
}

fn unknown(host: &str, name: &str) -> Fault {
    let problem = format!("there is no address set \"{name}\" on {host}");
    Fault::invalid("unknown_set", "NAME", problem, format!("Choose one that \"weft sets list {host}\" shows."))
        .with_status(tonic::Code::NotFound)
}

fn format_prefix(prefix: &Prefix) -> String {
    let address = format_ip(&prefix.address);
    if prefix.length == 32 { address } else { format!("{address}/{}", prefix.length) }
}

/// Reads addresses and prefixes, which may also be joined by commas.
fn prefixes(words: &[String]) -> Result<Vec<Prefix>, Fault> {
    words.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty()).map(prefix).collect()
}

fn prefix(word: &str) -> Result<Prefix, Fault> {
    let wrong = |problem: String, remedy: &str| Fault::invalid("bad_prefix", "MEMBER", problem, remedy);
    let (address, length) = word.split_once('/').unwrap_or((word, "32"));
    let parsed = address.parse::<Ipv4Addr>().ok().zip(length.parse::<u32>().ok().filter(|length| *length <= 32));
    let Some((address, length)) = parsed else {
        let problem = format!("\"{word}\" is not an IPv4 address or prefix");
        return Err(wrong(problem, "Write 10.0.0.7 or 10.1.0.0/16."));
    };
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    let network = Ipv4Addr::from_bits(address.to_bits() & mask);
    if network != address {
        let problem = format!("\"{word}\" has bits set beyond its length");
        return Err(wrong(problem, &format!("Write {network}/{length}, or {address} for the one address.")));
    }
    Ok(Prefix { address: address.octets().to_vec(), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_back_as_they_were_written() {
        for text in ["10.0.0.7", "10.1.0.0/16", "0.0.0.0/0", "255.255.255.255"] {
            assert_eq!(format_prefix(&prefix(text).unwrap()), text);
        }
        let words = ["10.0.0.1,10.0.0.2".to_owned(), "10.0.0.3/32".to_owned()];
        assert_eq!(prefixes(&words).unwrap().len(), 3);
    }

    #[test]
    fn wrong_members_say_what_is_right() {
        for (text, part) in [
            ("10.0.0", "is not an IPv4 address"),
            ("10.0.0.0/33", "10.1.0.0/16"),
            ("10.0.0.5/24", "Write 10.0.0.0/24, or 10.0.0.5 for the one address"),
            ("::1", "is not an IPv4 address"),
        ] {
            let sentence = prefix(text).expect_err(text).to_string();
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}
