//! What `/metrics` of the switch says (`docs/seeing.md`): the counts of `GetStatus`, `ListPorts` and `ListDrops`, under the
//! names of Prometheus. Asked for by the server of `weft_proto::program::metrics`, on a thread that may block: it costs
//! the workers what `weft top` costs them.

use crate::switch::Switch;
use weft_proto::program::metrics::{Kind, Page};
use weft_proto::v1;

/// The page, as things are now. Blocks.
#[must_use]
pub fn page(switch: &Switch) -> String {
    let mut page = Page::default();
    itself(&mut page, &switch.status());
    ports(&mut page, &switch.ports().ports);
    drops(&mut page, &switch.drops(&v1::ListDropsRequest { all: true }).drops);
    page.calls();
    page.into()
}

fn itself(page: &mut Page, status: &v1::SwitchStatus) {
    let of_host: &[(&str, &str)] = &[("version", &status.version), ("host", &status.host)];
    page.metric("weft_switch_info", Kind::Gauge, "Its version and its host's name.").value(of_host, 1);
    let connected = u8::from(status.controller == "connected");
    for (name, kind, help, value) in [
        ("weft_switch_uptime_seconds", Kind::Gauge, "Since it was started.", status.uptime_seconds),
        ("weft_switch_connected", Kind::Gauge, "Whether it is connected to the controller.", connected.into()),
        ("weft_switch_generation", Kind::Gauge, "Of the controller's last bundle.", status.generation),
        ("weft_switch_rules", Kind::Gauge, "Rules in all tables.", status.rules),
        ("weft_switch_commits_total", Kind::Counter, "Changes of the tables.", status.tables_version),
    ] {
        page.metric(name, kind, help).value(&[], value);
    }
    let mut buffers =
        page.metric("weft_switch_buffers", Kind::Gauge, "Buffers of packet memory, and those that are free.");
    for (class, total, free) in
        [("chunk", status.chunks_total, status.chunks_free), ("run", status.runs_total, status.runs_free)]
    {
        buffers.value(&[("class", class), ("state", "all")], total).value(&[("class", class), ("state", "free")], free);
    }
    type Count = fn(&v1::WorkerStatus) -> f64;
    let of_workers: [(&str, Kind, &str, Count); 7] = [
        ("weft_worker_packets_total", Kind::Counter, "Frames received.", |worker| worker.packets as f64),
        ("weft_worker_cache_hits_total", Kind::Counter, "Packets whose program was in the flow cache.", |worker| {
            worker.cache_hits as f64
        }),
        ("weft_worker_cache_misses_total", Kind::Counter, "Packets that walked the tables.", |worker| {
            worker.cache_misses as f64
        }),
        ("weft_worker_cache_entries", Kind::Gauge, "Programs in the flow cache.", |worker| worker.cache_entries as f64),
        ("weft_worker_cache_masks", Kind::Gauge, "Masks in the flow cache.", |worker| worker.cache_masks as f64),
        ("weft_worker_connections", Kind::Gauge, "Connections that it tracks.", |worker| worker.connections as f64),
        ("weft_worker_busy_seconds_total", Kind::Counter, "Time on a processor.", |worker| {
            worker.busy_microseconds as f64 / 1e6
        }),
    ];
    for (name, kind, help, count) in of_workers {
        let mut metric = page.metric(name, kind, help);
        for worker in &status.workers {
            metric.value(&[("worker", &worker.worker.to_string())], count(worker));
        }
    }
}

fn ports(page: &mut Page, ports: &[v1::PortStatus]) {
    type Count = fn(&v1::PortStatus) -> u64;
    let of_ports: [(&str, Kind, &str, Count); 7] = [
        ("weft_port_up", Kind::Gauge, "Whether it can send and receive.", |port| u64::from(port.state == "up")),
        ("weft_port_received_packets_total", Kind::Counter, "Frames that came in.", |port| port.received_packets),
        ("weft_port_received_bytes_total", Kind::Counter, "Their bytes.", |port| port.received_bytes),
        ("weft_port_received_drops_total", Kind::Counter, "Those of them that went nowhere.", |port| {
            port.received_dropped
        }),
        ("weft_port_sent_packets_total", Kind::Counter, "Frames that went out.", |port| port.sent_packets),
        ("weft_port_sent_bytes_total", Kind::Counter, "Their bytes.", |port| port.sent_bytes),
        ("weft_port_sent_drops_total", Kind::Counter, "Frames that it could not send.", |port| port.sent_dropped),
    ];
    for (name, kind, help, count) in of_ports {
        let mut metric = page.metric(name, kind, help);
        for port in ports {
            let (number, name) = port.spec.as_ref().map_or((0, ""), |spec| (spec.number, spec.name.as_str()));
            metric.value(&[("port", &number.to_string()), ("name", name), ("interface", &port.interface)], count(port));
        }
    }
}

fn drops(page: &mut Page, drops: &[v1::DropCount]) {
    let mut metric = page.metric("weft_drops_total", Kind::Counter, "Received frames that went nowhere, by reason.");
    for drop in drops {
        metric.value(&[("reason", &drop.reason)], drop.packets);
    }
    let help = "Frames that ports, or who was to get them, could not take, by reason.";
    let mut metric = page.metric("weft_unsent_total", Kind::Counter, help);
    for drop in drops {
        metric.value(&[("reason", &drop.reason)], drop.unsent.iter().map(|port| port.packets).sum::<u64>());
    }
}
