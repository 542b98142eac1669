//! What plays the instances of the demo cloud: a port each, plugged into a network namespace, addressed by
//! a real DHCP client.

use super::api::Api;
use super::frame::{self, End, Mac};
use super::namespace::ip;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use weft_proto::v1;

/// The projects. Each has a network of the same name and addresses as the other's.
pub const PROJECTS: [&str; 2] = ["blue", "green"];

/// The name of each project's network.
pub const NETWORK: &str = "office";

/// The addresses of each project's network.
pub const CIDR: &str = "10.0.0.0/24";

/// What DHCP must say, besides the address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// See [`GATEWAY`].
pub const DNS_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 53);
/// See [`GATEWAY`]; seconds.
pub const LEASE_SECONDS: u32 = 3600;
/// A route besides the default one: a range for documentation (RFC 5737), so that nothing real is shadowed.
pub const HOST_ROUTE: (&str, Ipv4Addr) = ("192.0.2.0/24", Ipv4Addr::new(10, 0, 0, 254));

/// The interface that an instance has.
const INTERFACE: &str = "eth0";

/// How long a host may take to plug a port, milliseconds.
const PLUG_PATIENCE: u32 = 15_000;

/// The domain name that a project's instances are told.
#[must_use]
pub fn domain(project: &str) -> String {
    format!("{project}.example")
}

/// A port that should exist, and where.
#[derive(Clone, Debug)]
pub struct InstancePlan {
    /// The port's name.
    pub name: String,
    /// One of [`PROJECTS`].
    pub project: &'static str,
    /// The index of the host.
    pub host: usize,
    /// The address that is asked for.
    pub address: Ipv4Addr,
    /// The network, by name.
    pub network: &'static str,
}

impl InstancePlan {
    /// The plan of `project`'s port of this number, from 1, in [`NETWORK`].
    #[must_use]
    pub fn new(project: &'static str, number: u8, host: usize) -> Self {
        let address = Ipv4Addr::new(10, 0, 0, 10 + number);
        Self { name: format!("{project}-{number}"), project, host, address, network: NETWORK }
    }
}

/// The instances of a cloud with this many hosts: both projects on the first two, the second project alone on
/// all others.
#[must_use]
pub fn plan(hosts: usize) -> Vec<InstancePlan> {
    let [blue, green] = PROJECTS;
    let mut plans: Vec<InstancePlan> = [blue, green]
        .into_iter()
        .flat_map(|project| [(1, 0), (2, 1)].map(|(number, host)| InstancePlan::new(project, number, host)))
        .collect();
    plans.extend((2..hosts).map(|host| InstancePlan::new(green, u8::try_from(host + 1).unwrap_or(u8::MAX), host)));
    plans
}

/// The request for a project's network.
#[must_use]
pub fn network_request(project: &str) -> v1::CreateNetworkRequest {
    v1::CreateNetworkRequest { name: NETWORK.into(), project: project.into(), ..Default::default() }
}

/// The request for a project's subnet: every option that DHCP can carry is used.
#[must_use]
pub fn subnet_request(project: &str) -> v1::CreateSubnetRequest {
    v1::CreateSubnetRequest {
        name: NETWORK.into(),
        project: project.into(),
        network: NETWORK.into(),
        cidr: CIDR.into(),
        gateway_ip: GATEWAY.to_string(),
        dns_nameservers: vec![DNS_SERVER.to_string()],
        host_routes: vec![v1::HostRoute { destination: HOST_ROUTE.0.into(), nexthop: HOST_ROUTE.1.to_string() }],
        lease_seconds: LEASE_SECONDS,
        domain_name: domain(project),
        ..Default::default()
    }
}

/// What a DHCP client was told: the environment of its script.
#[derive(Clone, Debug, Default)]
pub struct Lease(BTreeMap<String, String>);

impl Lease {
    /// One of udhcpc's variables; empty if it was not told.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// A plugged port.
#[derive(Clone, Debug)]
pub struct Instance {
    /// What was asked for.
    pub plan: InstancePlan,
    /// The name of its host.
    pub host: String,
    /// The namespace that plays it.
    pub namespace: String,
    /// The interface in that namespace.
    pub interface: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Its port's number in flow tables.
    pub number: u32,
    /// Its network's VNI.
    pub segment: u32,
    /// Its network's MTU.
    pub mtu: u32,
    /// Where its network's DHCP answers from.
    pub dhcp_address: Ipv4Addr,
    /// Where its client writes the lease.
    pub lease_file: PathBuf,
    /// Its DHCP client, in the cloud's list of programs.
    pub client: Option<usize>,
}

impl Instance {
    /// Makes the port and plugs it into `namespace`, which exists. The interface is up when this returns.
    ///
    /// # Errors
    /// If the controller or the host refuses.
    pub fn plug(api: &Api, plan: InstancePlan, host: &str, namespace: String, directory: &Path) -> Result<Self> {
        let name = plan.name.clone();
        let create = v1::CreatePortRequest {
            name: name.clone(),
            project: plan.project.into(),
            network: plan.network.into(),
            fixed_ips: vec![v1::FixedIp { ip_address: plan.address.to_string(), ..Default::default() }],
            ..Default::default()
        };
        api.cloud(|mut cloud| async move { cloud.create_port(create).await })
            .with_context(|| format!("port create {name}"))?;
        let plug = v1::PlugPortRequest {
            port: name.clone(),
            project: plan.project.into(),
            host: host.into(),
            netns: namespace.clone(),
            interface: INTERFACE.into(),
            wait_milliseconds: PLUG_PATIENCE,
            underlay_address: String::new(),
            vhost_user: false,
        };
        let port = api
            .cloud(|mut cloud| async move { cloud.plug_port(plug).await })
            .with_context(|| format!("port plug {name}"))?;
        if port.status != "ACTIVE" {
            bail!("port {name} is {} on host {host}, not ACTIVE. {}", port.status, port.fault);
        }
        let project = plan.project.to_owned();
        let networks = v1::ListNetworksRequest { project: project.clone() };
        let networks = api.cloud(|mut cloud| async move { cloud.list_networks(networks).await })?.networks;
        let network =
            networks.into_iter().find(|network| network.id == port.network_id).context("its network is not listed")?;
        let subnets = v1::ListSubnetsRequest { project, network: network.id };
        let subnets = api.cloud(|mut cloud| async move { cloud.list_subnets(subnets).await })?.subnets;
        let dhcp_address = subnets.first().and_then(|subnet| subnet.dhcp_address.parse().ok());
        ip(&format!("-n {namespace} link set {} up", port.interface))?;
        Ok(Self {
            mac: frame::parse_mac(&port.mac_address)
                .with_context(|| format!("port {name} has the MAC address {:?}", port.mac_address))?,
            number: port.number,
            segment: network.segment_id,
            mtu: network.mtu,
            dhcp_address: dhcp_address.context("the subnet has no address for DHCP")?,
            lease_file: directory.join(format!("{name}.lease")),
            interface: port.interface,
            host: host.to_owned(),
            namespace,
            plan,
            client: None,
        })
    }

    /// As an end of frames.
    #[must_use]
    pub fn end(&self) -> End {
        End { mac: self.mac, address: self.plan.address }
    }

    /// The lease that its client has; `None` while it has none.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        let text = std::fs::read_to_string(&self.lease_file).ok()?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Some(Lease(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    /// How often its client reported `event` so far.
    #[must_use]
    pub fn lease_events(&self, event: &str) -> usize {
        let mut file = self.lease_file.clone().into_os_string();
        file.push(".events");
        std::fs::read_to_string(file).unwrap_or_default().lines().filter(|line| *line == event).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_project_alone_is_on_further_hosts() {
        let plans = plan(3);
        let on = |project: &str| {
            plans.iter().filter(|plan| plan.project == project).map(|plan| plan.host).collect::<Vec<_>>()
        };
        assert_eq!(on("blue"), [0, 1]);
        assert_eq!(on("green"), [0, 1, 2]);
        let address = |name: &str| plans.iter().find(|plan| plan.name == name).unwrap().address;
        assert_eq!(address("blue-1"), address("green-1"), "the projects must have the same addresses");
    }
}
