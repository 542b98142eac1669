//! The line about segment types: a network of each that is not the demo's own (VXLAN), with an instance on each of the
//! first two hosts.

use super::traffic::transfer;
use crate::cloud::{Cloud, PROVIDER, UNDERLAY_MTU};
use crate::instance::{InstancePlan, PROJECTS};
use crate::namespace;
use anyhow::{Context as _, Result, bail};
use std::net::Ipv4Addr;
use std::time::Duration;
use weft_proto::v1;

/// Segment type (and name) of each network, the third byte of its addresses, and its MTU.
const NETWORKS: [(&str, u8, u32); 3] = [("gre", 2, UNDERLAY_MTU - 42), ("vlan", 3, 1500), ("flat", 4, 1500)];

/// Makes the networks and their instances; then these talk, with the largest packets that fit.
pub fn segments(cloud: &mut Cloud, _: bool) -> Result<String> {
    let mut places = Vec::new();
    for (name, byte, _) in NETWORKS {
        build(cloud, name, byte)?;
        for host in [0, 1] {
            let address = Ipv4Addr::new(10, 0, byte, if host == 0 { 11 } else { 12 });
            let plan = InstancePlan {
                name: format!("{name}-{}", host + 1),
                project: PROJECTS[0],
                host,
                address,
                network: name,
            };
            places.push(cloud.add_instance(plan)?);
        }
    }
    let missing = cloud.start_clients(&places, Duration::from_secs(6))?;
    if !missing.is_empty() {
        bail!("no lease: {}", missing.join(", "));
    }
    cloud.wait_for_hosts()?;
    let mut seen = Vec::new();
    for ((name, _, mtu), pair) in NETWORKS.iter().zip(places.chunks(2)) {
        let (from, to) = (&cloud.instances[pair[0]], &cloud.instances[pair[1]]);
        let told = from.lease().map(|lease| lease.get("mtu").to_owned()).unwrap_or_default();
        if told != mtu.to_string() {
            bail!("{name}: DHCP tells an MTU of {told}, not {mtu}");
        }
        // 28 bytes are headers.
        let command = format!("ping -n -c 3 -i 0.1 -W 1 -M do -s {} {}", mtu - 28, to.plan.address);
        namespace::run_inside(&from.namespace, &command).with_context(|| format!("{name}: {mtu} bytes"))?;
        let time = transfer(from, to).with_context(|| (*name).to_owned())?;
        seen.push(format!("{name}: {mtu} bytes, TCP in {} ms", time.as_millis()));
    }
    Ok(seen.join("; "))
}

fn build(cloud: &Cloud, name: &str, byte: u8) -> Result<()> {
    let project = PROJECTS[0];
    let network = v1::CreateNetworkRequest {
        name: name.into(),
        project: project.into(),
        segment_type: name.into(),
        physical_network: if name == "gre" { String::new() } else { PROVIDER.into() },
        ..Default::default()
    };
    let subnet = v1::CreateSubnetRequest {
        name: name.into(),
        project: project.into(),
        network: name.into(),
        cidr: format!("10.0.{byte}.0/24"),
        ..Default::default()
    };
    cloud
        .controller
        .cloud(|mut cloud| async move {
            cloud.create_network(network).await?;
            cloud.create_subnet(subnet).await
        })
        .map(drop)
}
