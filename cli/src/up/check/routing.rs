//! The line about routers: a second network of a project, on another host, is joined to the project's router.

use super::traffic::{blue_pair, transfer};
use crate::cloud::Cloud;
use crate::instance::{GATEWAY, Instance, InstancePlan, PROJECTS};
use crate::namespace;
use crate::outside::ROUTER;
use anyhow::{Context as _, Result, bail};
use std::net::Ipv4Addr;
use std::time::Duration;
use weft_proto::v1;

/// The second network and its subnet.
const LAB: &str = "lab";
const LAB_CIDR: &str = "10.0.1.0/24";
const LAB_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// It carries less than the first, so that something can be too big.
const LAB_MTU: u32 = 1300;
/// Its instance's.
pub const LAB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
/// Of what Linux sends.
const TTL: u8 = 64;

/// Makes the network and an instance on the second host, and joins the network to the router; then the first instance talks to it.
pub fn routing(cloud: &mut Cloud, _: bool) -> Result<String> {
    build(cloud)?;
    let plan = InstancePlan {
        name: format!("{}-{LAB}", PROJECTS[0]),
        project: PROJECTS[0],
        host: 1,
        address: LAB_ADDRESS,
        network: LAB,
    };
    let place = cloud.add_instance(plan)?;
    if !cloud.start_clients(&[place], Duration::from_secs(6))?.is_empty() {
        bail!("the instance in the second network gets no lease");
    }
    cloud.wait_for_hosts()?;
    let (from, _) = blue_pair(cloud);
    let to = &cloud.instances[place];
    for gateway in [GATEWAY, LAB_GATEWAY] {
        ping(from, gateway, TTL).context("an address of the router")?;
    }
    ping(from, LAB_ADDRESS, TTL - 1)?;
    ping(to, from.plan.address, TTL - 1)?;
    let time = transfer(from, to)?;
    too_big(from)?;
    Ok(format!(
        "{} and {} at TTL {}; TCP intact in {} ms; both addresses of the router answer; {LAB_MTU} bytes are told",
        from.plan.name,
        to.plan.name,
        TTL - 1,
        time.as_millis()
    ))
}

fn build(cloud: &Cloud) -> Result<()> {
    let project = PROJECTS[0];
    let network =
        v1::CreateNetworkRequest { name: LAB.into(), project: project.into(), mtu: LAB_MTU, ..Default::default() };
    let subnet = v1::CreateSubnetRequest {
        name: LAB.into(),
        project: project.into(),
        network: LAB.into(),
        cidr: LAB_CIDR.into(),
        ..Default::default()
    };
    let interface = v1::AddRouterInterfaceRequest {
        router: ROUTER.into(),
        project: project.into(),
        subnet: LAB.into(),
        ..Default::default()
    };
    cloud.controller.cloud(|mut cloud| async move {
        cloud.create_network(network).await?;
        cloud.create_subnet(subnet).await?;
        cloud.add_router_interface(interface).await
    })?;
    Ok(())
}

/// Pings; the answers must have been sent with, or be left with, this TTL.
fn ping(from: &Instance, to: Ipv4Addr, ttl: u8) -> Result<()> {
    let context = || format!("{} to {to}", from.plan.name);
    let command = format!("ping -n -c 3 -i 0.1 -W 1 {to}");
    let printed = namespace::run_inside(&from.namespace, &command).with_context(context)?;
    let right = printed.lines().filter(|line| line.contains(&format!("ttl={ttl} "))).count();
    if right != 3 {
        bail!("{}: {right} of 3 answers have TTL {ttl}: {}", context(), printed.lines().nth(1).unwrap_or_default());
    }
    Ok(())
}

/// A packet that must not be fragmented and is larger than the second network carries: its sender is told how much
/// that is, by the router's address in its own network.
fn too_big(from: &Instance) -> Result<()> {
    // 28 bytes are headers. What the answer taught the kernel would stop the next one here.
    let command = format!("ping -n -c 1 -W 1 -M do -s {} {LAB_ADDRESS}", LAB_MTU + 1 - 28);
    let said = match namespace::run_inside(&from.namespace, &command) {
        Ok(printed) => bail!("a packet of {} bytes gets through: {printed}", LAB_MTU + 1),
        Err(error) => format!("{error:#}"),
    };
    let learnt = namespace::run_inside(&from.namespace, &format!("ip route get {LAB_ADDRESS}"))?;
    if !learnt.contains(&format!("mtu {LAB_MTU}")) {
        bail!("the sender of a packet that is too big is not told the MTU. ping: {said}; route: {learnt}");
    }
    Ok(())
}
