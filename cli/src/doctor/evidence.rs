//! All that checks look at, gathered once.

use crate::connect::{Connection, Transport};
use crate::failure::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;
use weft_proto::v1::cloud_client::CloudClient;
use weft_proto::v1::switch_client::SwitchClient;
use weft_proto::v1::{self, DropCount, Owner, RuleState, SwitchStatus};

/// Rules of the fabric of one table that are compared with those made by hand.
const RULES_COMPARED: usize = 100_000;

/// Switches that are asked at the same time.
const HOSTS_AT_ONCE: usize = 32;

/// What is dropped at one port of one host for one reason: port number, its name there, reason.
pub type DropKey = (u32, String, String);

/// One connected host's switch.
#[derive(Debug, Default)]
pub struct Switch {
    /// `GetStatus`
    pub status: SwitchStatus,
    /// What is not reached of its neighbours: other hosts by the underlay, next hops outside.
    pub unreached: Vec<v1::NeighbourState>,
    /// All that was dropped so far, and its meaning.
    pub drops: BTreeMap<DropKey, (u64, String)>,
    /// What of it was dropped while we looked.
    pub growth: BTreeMap<DropKey, u64>,
    /// Rules made by hand in the fabric's tables.
    pub by_hand: Vec<RuleState>,
    /// Rules of the fabric in the tables of those.
    pub beside: Vec<RuleState>,
    /// Rules of the firewall by which security groups drop what no rule lets pass.
    pub refusals: Vec<RuleState>,
}

/// See the module comment.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The controller.
    pub controller: v1::ControllerStatus,
    /// By name.
    pub hosts: Vec<v1::Host>,
    /// Of connected hosts, by name; or why there is none.
    pub switches: BTreeMap<String, Result<Switch, String>>,
    /// The model's objects.
    pub projects: Vec<v1::Project>,
    /// Likewise.
    pub networks: Vec<v1::Network>,
    /// Likewise.
    pub subnets: Vec<v1::Subnet>,
    /// Likewise.
    pub ports: Vec<v1::Port>,
    /// Likewise.
    pub groups: Vec<v1::SecurityGroup>,
    /// Likewise.
    pub routers: Vec<v1::Router>,
    /// How long switches were watched.
    pub watched: Duration,
}

impl Evidence {
    /// A network's name, or its id.
    pub fn network<'a>(&'a self, id: &'a str) -> &'a str {
        self.networks.iter().find(|network| network.id == id).map_or(id, |network| network.name.as_str())
    }

    /// A group's name, or its id.
    pub fn group<'a>(&'a self, id: &'a str) -> &'a str {
        self.groups.iter().find(|group| group.id == id).map_or(id, |group| group.name.as_str())
    }

    /// A host's name, or its id.
    pub fn host<'a>(&'a self, id: &'a str) -> &'a str {
        self.hosts.iter().find(|host| host.id == id).map_or(id, |host| host.name.as_str())
    }

    /// What a command needs to find an object of a project by its name.
    pub fn scope(&self, project: &str) -> String {
        let project = self.projects.iter().find(|known| known.id == project).map(|project| project.name.as_str());
        project.filter(|name| *name != "default").map_or_else(String::new, |name| format!(" --project {name}"))
    }

    /// The switches that answered.
    pub fn answering(&self) -> impl Iterator<Item = (&str, &Switch)> {
        self.switches.iter().filter_map(|(name, switch)| Some((name.as_str(), switch.as_ref().ok()?)))
    }

    /// Instances' ports that are plugged.
    pub fn plugged(&self) -> impl Iterator<Item = &v1::Port> {
        self.ports.iter().filter(|port| !port.host_id.is_empty())
    }
}

/// Asks all; takes so long as it watches.
pub async fn gather(connection: &Connection, watch: Duration) -> Result<Evidence, Failure> {
    let mut cloud: CloudClient<Transport> = connection.cloud().await?;
    let hosts = cloud.list_hosts(v1::ListHostsRequest {}).await?.into_inner().hosts;
    let mut evidence = Evidence {
        controller: cloud.get_controller_status(v1::GetControllerStatusRequest {}).await?.into_inner(),
        projects: cloud.list_projects(v1::ListProjectsRequest {}).await?.into_inner().projects,
        networks: cloud.list_networks(v1::ListNetworksRequest::default()).await?.into_inner().networks,
        subnets: cloud.list_subnets(v1::ListSubnetsRequest::default()).await?.into_inner().subnets,
        ports: cloud.list_ports(v1::ListCloudPortsRequest::default()).await?.into_inner().ports,
        groups: cloud
            .list_security_groups(v1::ListSecurityGroupsRequest::default())
            .await?
            .into_inner()
            .security_groups,
        routers: cloud.list_routers(v1::ListRoutersRequest::default()).await?.into_inner().routers,
        watched: watch,
        hosts,
        ..Evidence::default()
    };
    let connected: Vec<String> =
        evidence.hosts.iter().filter(|host| host.connected).map(|host| host.name.clone()).collect();
    for some in connected.chunks(HOSTS_AT_ONCE) {
        // One that does not answer does not keep the others waiting.
        let mut looks = JoinSet::new();
        for name in some.iter().cloned() {
            let connection = connection.clone();
            looks.spawn(async move { (look(&connection, &name).await, name) });
        }
        while let Some(looked) = looks.join_next().await {
            let (switch, name) = looked.map_err(anyhow::Error::from)?;
            evidence.switches.insert(name, switch);
        }
    }
    tokio::time::sleep(watch).await;
    for (name, switch) in &mut evidence.switches {
        // One that answered before and does not now has gone meanwhile: its drops are those of before.
        let Ok(switch) = switch else { continue };
        let Ok(mut client) = connection.switch(name).await else { continue };
        let Ok(now) = drops(&mut client).await else { continue };
        switch.growth = growth(&switch.drops, &now);
        switch.drops = now;
    }
    Ok(evidence)
}

/// What has been counted since; a switch that has begun anew counts from zero.
fn growth(before: &BTreeMap<DropKey, (u64, String)>, now: &BTreeMap<DropKey, (u64, String)>) -> BTreeMap<DropKey, u64> {
    let grown = |(key, (packets, _)): (&DropKey, &(u64, String))| {
        let since = packets.checked_sub(before.get(key).map_or(0, |before| before.0)).unwrap_or(*packets);
        (since > 0).then(|| (key.clone(), since))
    };
    now.iter().filter_map(grown).collect()
}

async fn look(connection: &Connection, host: &str) -> Result<Switch, String> {
    let mut client = connection.switch(host).await.map_err(|failure| failure.sentences())?;
    examine(&mut client).await.map_err(|status| Failure::from(status).sentences())
}

async fn examine(client: &mut SwitchClient<Transport>) -> Result<Switch, tonic::Status> {
    let status = client.get_status(v1::GetStatusRequest {}).await?.into_inner();
    let neighbours = client.list_neighbours(v1::ListNeighboursRequest {}).await?.into_inner().neighbours;
    let unreached = neighbours.into_iter().filter(|neighbour| neighbour.mac.is_empty() && neighbour.state != "local");
    let mut switch =
        Switch { status, unreached: unreached.collect(), drops: drops(client).await?, ..Switch::default() };
    let all = |owner: Owner, table| v1::DumpRulesRequest { owner: owner.into(), table, ..Default::default() };
    switch.by_hand = rules(client, all(Owner::Manual, None), usize::MAX).await?;
    let tables: BTreeSet<u32> = switch.by_hand.iter().filter_map(|state| Some(state.rule.as_ref()?.table)).collect();
    for table in tables {
        switch.beside.extend(rules(client, all(Owner::Fabric, Some(table)), RULES_COMPARED).await?);
    }
    let known: BTreeSet<u32> = switch.beside.iter().filter_map(|state| Some(state.rule.as_ref()?.table)).collect();
    switch.by_hand.retain(|state| state.rule.as_ref().is_some_and(|rule| known.contains(&rule.table)));
    for table in super::groups::FIREWALLS {
        let found = rules(client, all(Owner::Fabric, Some(table)), RULES_COMPARED).await?;
        switch.refusals.extend(found.into_iter().filter(super::groups::is_refusal));
    }
    Ok(switch)
}

async fn rules(
    client: &mut SwitchClient<Transport>,
    request: v1::DumpRulesRequest,
    most: usize,
) -> Result<Vec<RuleState>, tonic::Status> {
    let mut stream = client.dump_rules(request).await?.into_inner();
    let mut found = Vec::new();
    while let Some(part) = stream.message().await? {
        found.extend(part.rules);
        if found.len() >= most {
            break;
        }
    }
    Ok(found)
}

async fn drops(client: &mut SwitchClient<Transport>) -> Result<BTreeMap<DropKey, (u64, String)>, tonic::Status> {
    let drops = client.list_drops(v1::ListDropsRequest { all: false }).await?.into_inner().drops;
    let each = |count: DropCount| {
        let (reason, meaning) = (count.reason, count.meaning);
        let ports = count.ports.into_iter().chain(count.unsent);
        ports
            .map(move |port| ((port.port, port.name, reason.clone()), (port.packets, meaning.clone())))
            .collect::<Vec<_>>()
    };
    let mut sums: BTreeMap<DropKey, (u64, String)> = BTreeMap::new();
    for (key, (packets, meaning)) in drops.into_iter().flat_map(each) {
        let sum = sums.entry(key).or_insert((0, meaning));
        sum.0 += packets;
    }
    Ok(sums)
}
