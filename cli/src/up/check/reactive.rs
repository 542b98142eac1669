//! The line about reactive networks: one with an instance on each of the first two hosts, which do not know each other
//! until they talk.

use crate::cloud::Cloud;
use crate::instance::{InstancePlan, PROJECTS};
use crate::namespace;
use anyhow::{Context as _, Result, bail};
use std::net::Ipv4Addr;
use std::time::Duration;
use weft_proto::FIRST_FABRIC_PUNT;
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::{self, Field};

/// The network and its subnet.
const NETWORK: &str = "reactive";
const CIDR: &str = "10.0.5.0/24";
/// Its instances', on the first two hosts.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 5, 11), Ipv4Addr::new(10, 0, 5, 12)];
/// The one that is asked for.
pub const ASKED_FOR: Ipv4Addr = ADDRESSES[1];

/// Makes the network and its instances. The first packet to the other host is punted and arrives; the next are not.
pub fn reactive(cloud: &mut Cloud, _: bool) -> Result<String> {
    build(cloud)?;
    let mut places = Vec::new();
    for (host, address) in ADDRESSES.into_iter().enumerate() {
        let name = format!("{NETWORK}-{}", host + 1);
        let plan = InstancePlan { name, project: PROJECTS[0], host, address, network: NETWORK };
        places.push(cloud.add_instance(plan)?);
    }
    if !cloud.start_clients(&places, Duration::from_secs(6))?.is_empty() {
        bail!("an instance in the reactive network gets no lease");
    }
    cloud.wait_for_hosts()?;
    let (from, to) = (&cloud.instances[places[0]], &cloud.instances[places[1]]);
    let before = punted(cloud, 0, from.segment)?;
    let known = delivers(cloud, 0, from.segment, &to.mac)?;
    if known {
        bail!("the first host knows the instance on the second before it asks");
    }
    let ping = |count: u32| {
        let command = format!("ping -n -c {count} -i 0.1 -W 1 {ASKED_FOR}");
        namespace::run_inside(&from.namespace, &command).with_context(|| format!("{} to {ASKED_FOR}", from.plan.name))
    };
    let first = ping(1).context("the first packet")?;
    let asked = punted(cloud, 0, from.segment)?;
    if asked == before {
        bail!("the first packet was not punted: the host knew where to send it");
    }
    if !delivers(cloud, 0, from.segment, &to.mac)? {
        bail!("the first host has not learnt where the instance on the second is");
    }
    ping(5).context("what follows")?;
    let after = punted(cloud, 0, from.segment)?;
    if after != asked {
        bail!("{} more packets were punted after the first", after - asked);
    }
    let time = first.lines().find_map(|line| line.split("time=").nth(1)).unwrap_or("?").to_owned();
    Ok(format!("{} of the first host punted, answered in {time}; then 5 pings and none", asked - before))
}

fn build(cloud: &Cloud) -> Result<()> {
    let project = PROJECTS[0];
    let network = v1::CreateNetworkRequest {
        name: NETWORK.into(),
        project: project.into(),
        reactive: true,
        ..Default::default()
    };
    let subnet = v1::CreateSubnetRequest {
        name: NETWORK.into(),
        project: project.into(),
        network: NETWORK.into(),
        cidr: CIDR.into(),
        ..Default::default()
    };
    let made = cloud.controller.cloud(|mut cloud| async move {
        cloud.create_network(network).await?;
        cloud.create_subnet(subnet).await
    });
    made.map(drop)
}

/// The fabric's rules of a network on a host, with their counters.
fn rules(cloud: &Cloud, host: usize, segment: u32) -> Result<Vec<v1::RuleState>> {
    let of_network =
        v1::FieldMatch { field: Field::Reg0.into(), value: segment.to_be_bytes().to_vec(), ..Default::default() };
    let request =
        v1::DumpRulesRequest { owner: v1::Owner::Fabric.into(), r#match: vec![of_network], ..Default::default() };
    cloud.hosts[host].switch.switch(|mut switch| async move {
        let mut replies = switch.dump_rules(request).await?.into_inner();
        let mut rules = Vec::new();
        while let Some(reply) = replies.message().await? {
            rules.extend(reply.rules);
        }
        Ok(tonic::Response::new(rules))
    })
}

/// Packets that asked the controller for their destination.
fn punted(cloud: &Cloud, host: usize, segment: u32) -> Result<u64> {
    let asks = |state: &&v1::RuleState| {
        let actions = state.rule.iter().flat_map(|rule| &rule.instructions).flat_map(|it| &it.apply_actions);
        actions
            .filter_map(|action| action.action.as_ref())
            .any(|action| matches!(action, Kind::Punt(punt) if punt.reason >= FIRST_FABRIC_PUNT))
    };
    Ok(rules(cloud, host, segment)?.iter().filter(asks).map(|state| state.packets).sum())
}

/// Whether a host has a rule for a MAC of the network.
fn delivers(cloud: &Cloud, host: usize, segment: u32, mac: &[u8]) -> Result<bool> {
    let to = |state: &v1::RuleState| {
        let fields = state.rule.iter().flat_map(|rule| &rule.r#match);
        fields.into_iter().any(|matched| matched.field() == Field::EthDst && matched.value == mac)
    };
    Ok(rules(cloud, host, segment)?.iter().any(to))
}
