//! What is outside of the demo cloud: a namespace that plays the internet, a cable from it to the last host, which so
//! becomes the gateway host, and the external network and the router that lead there.

use super::api::Api;
use super::instance::{NETWORK, PROJECTS};
use super::layout::Layout;
use super::namespace::{ip, run_inside};
use anyhow::{Context as _, Result};
use std::net::Ipv4Addr;
use weft_proto::v1;

/// The physical network, and the external network that is on it. The admin's: it is in the project "default".
pub const INTERNET: &str = "internet";
/// The gateway host's interface to it.
pub const INTERFACE: &str = "ext0";
/// Addresses for documentation (RFC 5737), so that nothing real is shadowed.
const CIDR: &str = "203.0.113.0/24";
const POOL: (&str, &str) = ("203.0.113.10", "203.0.113.99");
/// The router outside, on the link.
pub const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Somebody behind it.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The first project's router.
pub const ROUTER: &str = "main";

/// Makes the cable between the namespace of the internet and that of the gateway host; both exist.
///
/// # Errors
/// If `ip` or `ethtool` does not do it.
pub fn lay(internet: &str, host: &str) -> Result<()> {
    ip(&format!("-n {internet} link add eth0 type veth peer name {INTERFACE} netns {host}"))?;
    // As for the underlay's cables: AF_XDP hands on checksums as they are.
    run_inside(internet, "ethtool -K eth0 tx off")?;
    run_inside(host, &format!("ethtool -K {INTERFACE} tx off"))?;
    ip(&format!("-n {host} link set {INTERFACE} up"))?;
    ip(&format!("-n {internet} link set eth0 up"))?;
    ip(&format!("-n {internet} addr add {UPSTREAM}/24 dev eth0"))?;
    ip(&format!("-n {internet} addr add {FAR}/32 dev lo")).map(drop)
}

/// Asks the controller for the external network, and for a router of the first project that leads there. Gives the
/// router's address outside.
///
/// # Errors
/// If the controller refuses.
pub fn lead_out(api: &Api) -> Result<Ipv4Addr> {
    let network = v1::CreateNetworkRequest {
        name: INTERNET.into(),
        segment_type: "flat".into(),
        physical_network: INTERNET.into(),
        external: true,
        ..Default::default()
    };
    let pool = v1::AllocationPool { start: POOL.0.into(), end: POOL.1.into() };
    let subnet = v1::CreateSubnetRequest {
        name: INTERNET.into(),
        network: INTERNET.into(),
        cidr: CIDR.into(),
        gateway_ip: UPSTREAM.to_string(),
        allocation_pools: vec![pool],
        ..Default::default()
    };
    api.cloud(|mut cloud| async move { cloud.create_network(network).await }).context("network create internet")?;
    api.cloud(|mut cloud| async move { cloud.create_subnet(subnet).await }).context("subnet create internet")?;
    let project = PROJECTS[0];
    let router = v1::CreateRouterRequest { name: ROUTER.into(), project: project.into() };
    let interface = v1::AddRouterInterfaceRequest {
        router: ROUTER.into(),
        project: project.into(),
        subnet: NETWORK.into(),
        ..Default::default()
    };
    let gateway = v1::SetRouterGatewayRequest {
        router: ROUTER.into(),
        project: project.into(),
        network: INTERNET.into(),
        ..Default::default()
    };
    let router = api
        .cloud(|mut cloud| async move {
            cloud.create_router(router).await?;
            cloud.add_router_interface(interface).await?;
            cloud.set_router_gateway(gateway).await
        })
        .context("the router that leads out")?;
    let address = router.external_gateway.and_then(|gateway| gateway.ip_address.parse().ok());
    address.context("the router has no address outside")
}

/// The index of the gateway host among so many.
#[must_use]
pub fn gateway_host(hosts: usize) -> usize {
    hosts - 1
}

impl Layout {
    /// The namespace that plays the internet.
    #[must_use]
    pub fn internet_namespace(&self) -> String {
        format!("{}-internet", self.prefix)
    }
}
