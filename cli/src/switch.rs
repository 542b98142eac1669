//! What a switch tells about itself: status, tables, neighbours, cache.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::output::{Output, Table, count, duration, properties, write};
use crate::{json, overview};
use weft_proto::text::{format_ip, format_mac, format_match};
use weft_proto::v1::{DumpCacheRequest, GetStatusRequest, ListNeighboursRequest, ListTablesRequest, SwitchStatus};

/// Arguments of commands that need a host only.
#[derive(clap::Args)]
pub struct HostArguments {
    /// A host's name, or unix:PATH.
    host: String,
}

/// Arguments of `weft status`.
#[derive(clap::Args)]
pub struct StatusArguments {
    /// A host's name, or unix:PATH; without it, the controller.
    host: Option<String>,
}

/// Arguments of `weft cache`.
#[derive(clap::Args)]
pub struct CacheArguments {
    /// A host's name, or unix:PATH.
    host: String,
    /// At most so many entries.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
}

/// `weft status`.
pub async fn status(arguments: StatusArguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let Some(host) = arguments.host else {
        return overview::show(connection, output).await;
    };
    let status = connection.switch(&host).await?.get_status(GetStatusRequest {}).await?.into_inner();
    if output.json { output.say("", &json::switch_status(&status)) } else { write(&render_status(&status)) }
}

fn render_status(status: &SwitchStatus) -> String {
    let used = |free: u32, total: u32| format!("{} of {total} in use", total.saturating_sub(free));
    let mut text = properties(&[
        ("switch", status.version.clone()),
        ("host", status.host.clone()),
        ("running for", duration(status.uptime_seconds)),
        ("controller", status.controller.clone()),
        ("generation", format!("{} of term {}", status.generation, status.term)),
        ("rules", format!("{}, tables at version {}", status.rules, status.tables_version)),
        ("4 KB buffers", used(status.chunks_free, status.chunks_total)),
        ("64 KB buffers", used(status.runs_free, status.runs_total)),
    ]);
    for worker in &status.workers {
        let looked_up = worker.cache_hits + worker.cache_misses;
        // In tenths of a percent; a worker that saw nothing has no rate.
        let rate = (worker.cache_hits.saturating_mul(1000)).checked_div(looked_up);
        let rate =
            rate.map_or_else(String::new, |rate| format!(", {}.{} % of them from the cache", rate / 10, rate % 10));
        text += &format!(
            "worker {}: {}{rate}; {} under {}; {} on the CPU\n",
            worker.worker,
            count(worker.packets, "packet"),
            if worker.cache_entries == 1 { "1 entry".into() } else { format!("{} entries", worker.cache_entries) },
            count(worker.cache_masks, "mask"),
            duration(worker.busy_microseconds / 1_000_000),
        );
    }
    text
}

/// `weft tables`.
pub async fn tables(arguments: HostArguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(&arguments.host).await?;
    let tables = switch.list_tables(ListTablesRequest {}).await?.into_inner().tables;
    let mut table = Table::new(&["table", "name", "rules", "masks", "lookups", "matches", "meaning"]);
    for state in &tables {
        let config = state.config.clone().unwrap_or_default();
        table.row(vec![
            config.table.to_string(),
            config.name,
            state.rules.to_string(),
            state.masks.to_string(),
            state.lookups.to_string(),
            state.matches.to_string(),
            config.meaning,
        ]);
    }
    let empty = format!(
        "No tables with rules or names. Add a rule: weft flows add {} 'in_port=1,actions=output:2'",
        arguments.host
    );
    output.table(&table, &empty, tables.iter().map(json::table).collect())
}

/// `weft neighbours`.
pub async fn neighbours(arguments: HostArguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(&arguments.host).await?;
    let neighbours = switch.list_neighbours(ListNeighboursRequest {}).await?.into_inner().neighbours;
    let mut table = Table::new(&["address", "next hop", "mac", "interface", "port", "vlan", "state"]);
    for neighbour in &neighbours {
        let mac = if neighbour.mac.is_empty() { String::new() } else { format_mac(&neighbour.mac) };
        let number = |number: u32| if number == 0 { String::new() } else { number.to_string() };
        let address = |bytes: &[u8]| if bytes.is_empty() { String::new() } else { format_ip(bytes) };
        table.row(vec![
            address(&neighbour.address),
            address(&neighbour.next_hop),
            mac,
            neighbour.interface.clone(),
            number(neighbour.port),
            number(neighbour.vlan),
            neighbour.state.clone(),
        ]);
    }
    let empty = "No neighbours: nothing was sent to another host, nor asked for by a rule, yet.";
    output.table(&table, empty, neighbours.iter().map(json::neighbour).collect())
}

/// `weft cache`.
pub async fn cache(arguments: CacheArguments, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(&arguments.host).await?;
    let request = DumpCacheRequest { limit: arguments.limit };
    let entries = switch.dump_cache(request).await?.into_inner().entries;
    let mut table = Table::new(&["worker", "packets", "bytes", "match", "program"]);
    for entry in &entries {
        let matched = format_match(&entry.r#match);
        table.row(vec![
            entry.worker.to_string(),
            entry.packets.to_string(),
            entry.bytes.to_string(),
            if matched.is_empty() { "any".to_owned() } else { matched },
            entry.program.clone(),
        ]);
    }
    let empty = "The caches are empty: no packet came lately. See \"weft ports list\".";
    output.table(&table, empty, entries.iter().map(json::cache_entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::v1::WorkerStatus;

    #[test]
    fn an_idle_worker_has_no_hit_rate() {
        let worker = |cache_hits, cache_misses| WorkerStatus { cache_hits, cache_misses, ..WorkerStatus::default() };
        let status = SwitchStatus { workers: vec![worker(0, 0), worker(999, 1)], ..SwitchStatus::default() };
        let text = render_status(&status);
        assert!(text.contains("worker 0: 0 packets; 0 entries under 0 masks; 0s on the CPU\n"), "{text}");
        assert!(text.contains(", 99.9 % of them from the cache;"), "{text}");
    }
}
