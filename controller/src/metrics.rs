//! What `/metrics` of the controller says (`docs/seeing.md`), under the names of Prometheus: how each host stands, what
//! there is, and how its API is used. Asked for by the server of `weft_proto::program::metrics`, on a thread that may block.

use crate::controller::Controller;
use weft_proto::program::metrics::{Kind, Page};

/// The page, as things are now.
#[must_use]
pub fn page(controller: &Controller) -> String {
    let mut page = Page::default();
    let version = weft_proto::VERSION;
    page.metric("weft_controller_info", Kind::Gauge, "Its version.").value(&[("version", version)], 1);
    page.metric("weft_controller_term", Kind::Gauge, "Of its leadership.").value(&[], controller.term);
    let uptime = controller.started.elapsed().as_secs();
    page.metric("weft_controller_uptime_seconds", Kind::Gauge, "Since it was started.").value(&[], uptime);
    objects(&mut page, controller);
    hosts(&mut page, controller);
    page.calls();
    page.into()
}

fn objects(page: &mut Page, controller: &Controller) {
    let model = controller.model();
    let mut metric = page.metric("weft_objects", Kind::Gauge, "What there is in the cloud, by kind.");
    for (kind, number) in [
        ("project", model.projects.iter().count()),
        ("host", model.hosts.iter().count()),
        ("network", model.networks.iter().count()),
        ("subnet", model.subnets.iter().count()),
        ("port", model.ports.iter().count()),
        ("security_group", model.security_groups.iter().count()),
        ("router", model.routers.iter().count()),
        ("floating_ip", model.floating_ips.iter().count()),
    ] {
        metric.value(&[("kind", kind)], number);
    }
}

/// How one host stands.
struct Standing {
    name: String,
    connected: bool,
    behind: bool,
    acknowledged: u64,
    refused: u64,
    sessions: u64,
}

fn hosts(page: &mut Page, controller: &Controller) {
    // The model is not kept while links are looked at.
    let hosts: Vec<_> = controller.model().hosts.iter().map(|host| (host.id, host.name.clone())).collect();
    let standings: Vec<Standing> = hosts
        .into_iter()
        .map(|(id, name)| {
            let link = controller.links.of(id);
            let (connected, behind) = link.standing();
            let state = link.lock();
            let (acknowledged, refused, sessions) = (state.acknowledged, state.refused, state.sessions);
            Standing { name, connected, behind, acknowledged, refused, sessions }
        })
        .collect();
    type Value = fn(&Standing) -> u64;
    let of_hosts: [(&str, Kind, &str, Value); 5] = [
        ("weft_host_connected", Kind::Gauge, "Whether its switch is connected.", |host| host.connected.into()),
        ("weft_host_behind", Kind::Gauge, "Whether it has not acknowledged what it should have.", |host| {
            host.behind.into()
        }),
        ("weft_host_sessions_total", Kind::Counter, "Connections of its switch.", |host| host.sessions),
        ("weft_bundles_acknowledged_total", Kind::Counter, "Bundles that its switch has applied.", |host| {
            host.acknowledged
        }),
        ("weft_bundles_refused_total", Kind::Counter, "Bundles that its switch has refused.", |host| host.refused),
    ];
    for (name, kind, help, value) in of_hosts {
        let mut metric = page.metric(name, kind, help);
        for host in &standings {
            metric.value(&[("host", &host.name)], value(host));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileStore;
    use std::sync::Arc;
    use std::time::Duration;
    use uuid::Uuid;
    use weft_proto::v1;

    #[tokio::test]
    async fn hosts_and_objects_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(&directory.path().join("controller.redb")).unwrap();
        let controller = Controller::start(Arc::new(store), Duration::from_secs(5)).unwrap();
        let request = v1::CreateHostRequest { name: "one".into() };
        let host = controller.transact(move |model| model.create_host(&request, Uuid::new_v4())).await.unwrap();
        controller.links.of(host.id).lock().refused = 2;
        let page = page(&controller);
        for line in [
            "weft_objects{kind=\"host\"} 1",
            "weft_objects{kind=\"project\"} 1",
            "weft_host_connected{host=\"one\"} 0",
            "weft_host_behind{host=\"one\"} 1",
            "weft_bundles_refused_total{host=\"one\"} 2",
            "weft_controller_term 1",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}: {page}");
        }
    }
}
