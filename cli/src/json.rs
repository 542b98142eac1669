//! Messages as JSON, for programs. Keys are the messages' field names and, once released, never change;
//! addresses, matches and actions are text in the syntax of `weft flows`.

use serde_json::{Value, json};
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1;

/// An error; `code` is the word to tell errors apart by.
pub fn fault(fault: &Fault) -> Value {
    json!({ "code": fault.code, "field": fault.field, "problem": fault.problem, "remedy": fault.remedy })
}

/// A rule with its counters.
pub fn rule_state(state: &v1::RuleState) -> Value {
    let rule = state.rule.clone().unwrap_or_default();
    json!({
        "table": rule.table,
        "table_name": state.table_name,
        "priority": rule.priority,
        "owner": text::owner_name(rule.owner()),
        "cookie": format!("{:#x}", rule.cookie),
        "match": text::format_match(&rule.r#match),
        "actions": text::format_instructions(&rule.instructions.unwrap_or_default()),
        "packets": state.packets,
        "bytes": state.bytes,
        "age_seconds": state.age_seconds,
        "idle_seconds": state.idle_seconds,
        "idle_timeout_seconds": rule.idle_timeout_seconds,
        "hard_timeout_seconds": rule.hard_timeout_seconds,
        "notify_removal": rule.notify_removal,
        "origin": state.origin,
    })
}

/// A trace.
pub fn trace(reply: &v1::TraceReply) -> Value {
    let steps: Vec<Value> = reply
        .steps
        .iter()
        .map(|step| {
            json!({
                "table": step.table,
                "table_name": step.table_name,
                "rule": step.rule.as_ref().map(rule_state),
                "depth": step.depth,
                "drop_reason": step.drop_reason,
            })
        })
        .collect();
    json!({
        "steps": steps,
        "effects": reply.effects.iter().map(text::format_effect).collect::<Vec<_>>(),
        "drop_reason": reply.drop_reason,
        "drop_meaning": reply.drop_meaning,
        "consulted": text::format_match(&reply.consulted),
    })
}

/// What a bundle changed.
pub fn bundle_result(result: &v1::BundleResult) -> Value {
    json!({
        "generation": result.generation,
        "tables_version": result.tables_version,
        "rules_added": result.rules_added,
        "rules_removed": result.rules_removed,
        "ports": result.ports.iter().map(port_status).collect::<Vec<_>>(),
    })
}

/// A switch's port.
pub fn port_status(port: &v1::PortStatus) -> Value {
    let spec = port.spec.clone().unwrap_or_default();
    json!({
        "number": spec.number,
        "name": spec.name,
        "owner": text::owner_name(spec.owner()),
        "kind": crate::port_kind::name(&spec),
        "specification": crate::port_kind::format(&spec),
        "interface": port.interface,
        "state": port.state,
        "detail": port.detail,
        "received_packets": port.received_packets,
        "received_bytes": port.received_bytes,
        "received_dropped": port.received_dropped,
        "sent_packets": port.sent_packets,
        "sent_bytes": port.sent_bytes,
        "sent_dropped": port.sent_dropped,
    })
}

/// A switch's status.
pub fn switch_status(status: &v1::SwitchStatus) -> Value {
    let workers: Vec<Value> = status
        .workers
        .iter()
        .map(|worker| {
            json!({
                "worker": worker.worker,
                "packets": worker.packets,
                "cache_hits": worker.cache_hits,
                "cache_misses": worker.cache_misses,
                "cache_entries": worker.cache_entries,
                "cache_masks": worker.cache_masks,
                "busy_microseconds": worker.busy_microseconds,
            })
        })
        .collect();
    json!({
        "version": status.version,
        "protocol": status.protocol,
        "host": status.host,
        "uptime_seconds": status.uptime_seconds,
        "term": status.term,
        "generation": status.generation,
        "controller": status.controller,
        "workers": workers,
        "rules": status.rules,
        "tables_version": status.tables_version,
        "chunks_total": status.chunks_total,
        "chunks_free": status.chunks_free,
        "runs_total": status.runs_total,
        "runs_free": status.runs_free,
        "clock_seconds": status.clock_seconds,
    })
}

/// A flow table.
pub fn table(table: &v1::TableState) -> Value {
    let config = table.config.clone().unwrap_or_default();
    json!({
        "table": config.table,
        "name": config.name,
        "meaning": config.meaning,
        "rules": table.rules,
        "masks": table.masks,
        "lookups": table.lookups,
        "matches": table.matches,
    })
}

/// A meter with its counters.
pub fn meter(state: &v1::MeterState) -> Value {
    let meter = state.meter.unwrap_or_default();
    json!({
        "meter": meter.meter,
        "unit": if meter.unit() == v1::MeterUnit::Packets { "pktps" } else { "kbps" },
        "rate": meter.rate,
        "burst": meter.burst,
        "rules": state.rules,
        "packets": state.packets,
        "bytes": state.bytes,
        "dropped_packets": state.dropped_packets,
        "dropped_bytes": state.dropped_bytes,
        "age_seconds": state.age_seconds,
    })
}

/// A rule that was removed.
pub fn flow_removed(removed: &v1::FlowRemoved) -> Value {
    let rule = removed.rule.clone().unwrap_or_default();
    json!({
        "rule": text::format_rule(&rule),
        "cookie": format!("{:#x}", rule.cookie),
        "reason": crate::flows::reason(removed.reason()),
        "duration_milliseconds": removed.duration_milliseconds,
        "packets": removed.packets,
        "bytes": removed.bytes,
        "missed": removed.missed,
    })
}

/// A drop counter.
pub fn drop_count(count: &v1::DropCount) -> Value {
    let by_port = |ports: &[v1::PortDrops]| -> Vec<Value> {
        let row = |port: &v1::PortDrops| json!({ "port": port.port, "name": port.name, "packets": port.packets });
        ports.iter().map(row).collect()
    };
    json!({
        "reason": count.reason,
        "meaning": count.meaning,
        "packets": count.packets,
        "ports": by_port(&count.ports),
        "unsent": by_port(&count.unsent),
        "rules": count.rules.iter().map(rule_state).collect::<Vec<_>>(),
        "other_rules": count.other_rules,
        "other_rule_packets": count.other_rule_packets,
        "branches": by_port(&count.branches),
    })
}

/// A neighbour of the underlay.
pub fn neighbour(neighbour: &v1::NeighbourState) -> Value {
    json!({
        "address": text::format_ip(&neighbour.address),
        "next_hop": text::format_ip(&neighbour.next_hop),
        "mac": if neighbour.mac.is_empty() { Value::Null } else { text::format_mac(&neighbour.mac).into() },
        "interface": neighbour.interface,
        "state": neighbour.state,
        "port": neighbour.port,
        "vlan": neighbour.vlan,
    })
}

/// An entry of a flow cache.
pub fn cache_entry(entry: &v1::CacheEntry) -> Value {
    json!({
        "match": text::format_match(&entry.r#match),
        "program": entry.program,
        "packets": entry.packets,
        "bytes": entry.bytes,
        "worker": entry.worker,
    })
}

/// A connection.
pub fn connection(connection: &v1::Connection) -> Value {
    let tuple = |tuple: &Option<v1::ConnectionTuple>| {
        tuple.as_ref().map(|tuple| {
            json!({
                "source": text::format_ip(&tuple.source),
                "destination": text::format_ip(&tuple.destination),
                "source_port": tuple.source_port,
                "destination_port": tuple.destination_port,
                "icmp_type": tuple.icmp_type,
                "packets": tuple.packets,
                "bytes": tuple.bytes,
            })
        })
    };
    json!({
        "zone": connection.zone,
        "protocol": crate::connections::protocol_name(connection.protocol),
        "state": connection.state,
        "original": tuple(&connection.original),
        "reply": tuple(&connection.reply),
        "replied": connection.replied,
        "mark": connection.mark,
        "timeout_seconds": connection.timeout_seconds,
        "age_seconds": connection.age_seconds,
        "follows_policy": connection.follows_policy,
        "worker": connection.worker,
    })
}

/// A punted packet.
pub fn packet_in(packet: &v1::PacketIn) -> Value {
    json!({
        "in_port": packet.in_port,
        "table": packet.table,
        "reason": packet.reason,
        "cookie": format!("{:#x}", packet.cookie),
        "total_length": packet.total_length,
        "frame": crate::punts::hexadecimal(&packet.frame),
    })
}

/// An object of the cloud: its message, as it is.
pub fn of(object: &impl serde::Serialize) -> Value {
    // Messages have texts, numbers and lists: nothing in them cannot be JSON.
    serde_json::to_value(object).unwrap_or_default()
}

/// A host, with its ports as a switch's ports are printed.
pub fn host(host: &v1::Host) -> Value {
    let mut value = of(host);
    value["ports"] = host.ports.iter().map(port_status).collect();
    value
}
