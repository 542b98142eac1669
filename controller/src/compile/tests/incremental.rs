//! Compiling only what changes touch, compared with compiling everything.

use super::Cloud;
use super::bundles::{apply, assert_same};
use crate::compile::{HostState, compile};
use crate::model::{Host, HostReport, Model, Network, PhysicalInterface, Planned, UnderlayAddress};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use weft_proto::v1;

/// splitmix64: the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((value ^ (value >> 31)) % limit as u64).unwrap()
    }

    fn name(&mut self, kind: &str, of: usize) -> String {
        format!("{kind}-{}", self.below(of))
    }
}

/// Half of all ports: wherever they are, the rest does not depend on it.
fn subscriptions(model: &Model, host: Uuid) -> BTreeSet<Uuid> {
    model.ports.iter().map(|port| port.id).filter(|id| (id.as_u128() + host.as_u128()).is_multiple_of(2)).collect()
}

/// Something that somebody may ask for; most of it makes sense.
fn random_change(model: &Model, random: &mut Random, id: Uuid) -> Planned<()> {
    let ((network, port), (host, last)) = ((random.name("net", 4), random.name("port", 12)), {
        let host = random.below(5);
        (format!("host-{host}"), u8::try_from(host).unwrap())
    });
    match random.below(58) {
        46..=57 => random_outside_change(model, random, id),
        36..=45 => random_router_change(model, random, id),
        24..=26 => random_group_change(model, random, id),
        27..=30 => {
            let groups = (0..random.below(3)).map(|_| random.name("group", 3)).collect();
            let pair = v1::AddressPair { ip_address: format!("10.0.{}.0/26", random.below(3)), ..Default::default() };
            let request = v1::UpdatePortRequest {
                port,
                security_groups: (random.below(2) == 0).then_some(v1::SecurityGroupChoice { groups }),
                port_security_enabled: [None, Some(true), Some(false)][random.below(3)],
                allowed_address_pairs: (random.below(3) == 0).then_some(v1::AddressPairs { pairs: vec![pair] }),
                ..Default::default()
            };
            model.update_port(&request).map(|(changes, _)| (changes, ()))
        }
        31..=35 => {
            let request = v1::CreateSecurityGroupRuleRequest {
                security_group: if random.below(4) == 0 { "default".into() } else { random.name("group", 3) },
                direction: ["ingress", "egress"][random.below(2)].into(),
                protocol: "tcp".into(),
                port_range_min: Some(u32::try_from(random.below(40)).unwrap()),
                port_range_max: Some(40),
                remote_group: if random.below(2) == 0 { String::new() } else { random.name("group", 3) },
                ..Default::default()
            };
            model.create_security_group_rule(&request, id).map(|(changes, _)| (changes, ()))
        }
        0 | 1 => {
            let (segment_type, physical) = [("gre", ""), ("vlan", "provider"), ("flat", "provider")]
                .get(random.below(8))
                .copied()
                .unwrap_or_default();
            let request = v1::CreateNetworkRequest {
                name: network.clone(),
                segment_type: segment_type.into(),
                physical_network: physical.into(),
                vlan_transparent: segment_type != "flat" && random.below(3) == 0,
                reactive: physical.is_empty() && id.as_u128().is_multiple_of(8),
                ..Default::default()
            };
            model.create_network(&request, id).map(|(changes, _)| (changes, ()))
        }
        2 | 3 => {
            let request = v1::CreateSubnetRequest {
                name: format!("sub-{}", id.as_u128()),
                network,
                cidr: format!("10.{}.0.0/24", random.below(3)),
                disable_dhcp: random.below(3) == 0,
                ..Default::default()
            };
            model.create_subnet(&request, id).map(|(changes, _)| (changes, ()))
        }
        4 => match model.subnets.iter().nth(random.below(6)) {
            Some(subnet) => model.delete_subnet(&subnet.id.to_string(), "").map(|(changes, _)| (changes, ())),
            None => Ok((Vec::new(), ())),
        },
        9 => model.delete_network(&network, "").map(|(changes, _)| (changes, ())),
        6..=8 => model.create_host(&v1::CreateHostRequest { name: host }, id).map(|(changes, _)| (changes, ())),
        5 => model.delete_host(&host).map(|(changes, _)| (changes, ())).map(|(changes, _)| (changes, ())),
        10..=12 => {
            // None, one, or two addresses that other hosts may tell too; one of them may be down.
            let mut address = || UnderlayAddress {
                up: random.below(3) > 0,
                ..UnderlayAddress::only([10, 9, u8::try_from(random.below(2)).unwrap(), last], 1500).remove(0)
            };
            let mut underlay = vec![address(), address()];
            underlay.dedup_by_key(|one| one.address);
            underlay.truncate(random.below(4));
            let report = HostReport {
                underlay,
                physical: ["provider", "lab"][..random.below(5).min(2)]
                    .iter()
                    .map(|&name| {
                        (name.to_owned(), PhysicalInterface { interface: name.to_owned(), mtu: 1500, shared: false })
                    })
                    .collect(),
                version: "1".into(),
            };
            let host = model.find::<Host>(&host, "", "")?.id;
            model.report_host(host, &report)
        }
        13..=16 => {
            let request = v1::CreatePortRequest { name: port, network, ..Default::default() };
            model.create_port(&request, id).map(|(changes, _)| (changes, ()))
        }
        17..=22 => {
            let plug = v1::PlugPortRequest { port: port.clone(), host, ..Default::default() };
            let unplug = v1::UnplugPortRequest { port, ..Default::default() };
            let leave = random.below(4) == 0;
            let planned = if leave { model.unplug_port(&unplug) } else { model.plug_port(&plug) };
            planned.map(|(changes, _)| (changes, ()))
        }
        _ => model.delete_port(&port, "").map(|(changes, _)| (changes, ())),
    }
}

/// Groups come, go and are renamed; rules go.
fn random_group_change(model: &Model, random: &mut Random, id: Uuid) -> Planned<()> {
    let name = random.name("group", 3);
    match random.below(6) {
        0 => model.delete_security_group(&name, "").map(|(changes, _)| (changes, ())),
        1 => {
            let name = Some(random.name("group", 3));
            let security_group = random.name("group", 3);
            let request = v1::UpdateSecurityGroupRequest { security_group, name, ..Default::default() };
            model.update_security_group(&request).map(|(changes, _)| (changes, ()))
        }
        2 | 3 => match model.security_group_rules.iter().nth(random.below(8)) {
            Some(rule) => model.delete_security_group_rule(&rule.id.to_string(), "").map(|(changes, _)| (changes, ())),
            None => Ok((Vec::new(), ())),
        },
        _ => {
            let request = v1::CreateSecurityGroupRequest { name, ..Default::default() };
            model.create_security_group(&request, id).map(|(changes, _)| (changes, ()))
        }
    }
}

/// Routers come and go, are joined to subnets, and have routes.
fn random_router_change(model: &Model, random: &mut Random, id: Uuid) -> Planned<()> {
    let router = random.name("router", 3);
    let subnet = model.subnets.iter().nth(random.below(6)).map_or(String::new(), |subnet| subnet.id.to_string());
    match random.below(10) {
        0 => model.delete_router(&router, "").map(|(changes, _)| (changes, ())),
        1 | 2 => {
            let request = v1::CreateRouterRequest { name: router, ..Default::default() };
            model.create_router(&request, id).map(|(changes, _)| (changes, ()))
        }
        3 => {
            let request = v1::RemoveRouterInterfaceRequest { router, subnet, ..Default::default() };
            model.remove_router_interface(&request).map(|(changes, _)| (changes, ()))
        }
        4 => {
            let destination = format!("10.{}.0.0/16", 8 + random.below(3));
            let request = v1::RemoveRouterRouteRequest { router, destination, ..Default::default() };
            model.remove_router_route(&request).map(|(changes, _)| (changes, ()))
        }
        5 | 6 => {
            let destination = format!("10.{}.0.0/16", 8 + random.below(3));
            let nexthop = format!("10.{}.0.{}", random.below(3), 2 + random.below(3));
            let request = v1::AddRouterRouteRequest { router, destination, nexthop, ..Default::default() };
            model.add_router_route(&request).map(|(changes, _)| (changes, ()))
        }
        _ => {
            let ip_address = if random.below(2) == 0 {
                String::new()
            } else {
                format!("10.{}.0.{}", random.below(3), 100 + random.below(3))
            };
            let request = v1::AddRouterInterfaceRequest { router, subnet, ip_address, ..Default::default() };
            model.add_router_interface(&request, id).map(|(changes, _)| (changes, ()))
        }
    }
}

/// External networks come and go, and what leads there.
fn random_outside_change(model: &Model, random: &mut Random, id: Uuid) -> Planned<()> {
    let (router, network, port) = (random.name("router", 3), random.name("out", 2), random.name("port", 12));
    let floating =
        model.floating_ips.iter().nth(random.below(3)).map_or(String::new(), |floating| floating.id.to_string());
    match random.below(14) {
        0 | 1 => {
            let request = v1::CreateNetworkRequest {
                name: network,
                external: true,
                segment_type: "vlan".into(),
                physical_network: "provider".into(),
                ..Default::default()
            };
            model.create_network(&request, id).map(|(changes, _)| (changes, ()))
        }
        2 | 3 => {
            let request = v1::CreateSubnetRequest {
                name: format!("sub-{}", id.as_u128()),
                network,
                cidr: format!("203.0.{}.0/24", random.below(2)),
                ..Default::default()
            };
            model.create_subnet(&request, id).map(|(changes, _)| (changes, ()))
        }
        4 => model.delete_network(&network, "").map(|(changes, _)| (changes, ())),
        5..=7 => {
            let enable_snat = [None, Some(true), Some(false)][random.below(3)];
            let request = v1::SetRouterGatewayRequest { router, network, enable_snat, ..Default::default() };
            let planned = model.set_router_gateway(&request, id, &|host| host.as_u128() % 2 == 0);
            planned.map(|(changes, _)| (changes, ()))
        }
        8 => {
            let request = v1::ClearRouterGatewayRequest { router, ..Default::default() };
            model.clear_router_gateway(&request).map(|(changes, _)| (changes, ()))
        }
        9 | 10 => {
            let port = if random.below(2) == 0 { String::new() } else { port };
            let request = v1::CreateFloatingIpRequest { network, port, ..Default::default() };
            let keeper = Uuid::from_u128(id.as_u128() + (1 << 64));
            model.create_floating_ip(&request, id, keeper).map(|(changes, _)| (changes, ()))
        }
        11 => model.delete_floating_ip(&floating, "").map(|(changes, _)| (changes, ())),
        _ => {
            let port = if random.below(4) == 0 { String::new() } else { port };
            let request = v1::UpdateFloatingIpRequest { floating_ip: floating, port, ..Default::default() };
            model.update_floating_ip(&request).map(|(changes, _)| (changes, ()))
        }
    }
}

/// The heart of incremental compiling: compiling only the hosts that changes touch, and sending only what
/// differs, each switch holds what compiling everything says, after every change.
#[test]
fn incremental_equals_full_after_random_changes() {
    let mut done = BTreeMap::new();
    let mut refused = 0;
    let mut untouched = 0;
    let mut shared = 0;
    let (mut routed, mut leaving, mut floated) = (0, 0, 0);
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut cloud = Cloud::default();
        cloud.make(|model, id| model.create_project(&v1::CreateProjectRequest { name: "default".into() }, id));
        let mut held: BTreeMap<Uuid, HostState> = BTreeMap::new();
        for step in 0..400 {
            let id = cloud.id();
            let Ok((changes, ())) = random_change(&cloud.model, &mut random, id) else {
                refused += 1;
                continue;
            };
            let mut hosts = BTreeSet::new();
            for change in &changes {
                *done.entry(change.subject().0).or_insert(0) += 1;
                hosts.extend(cloud.model.touched(change));
                cloud.model.apply(change);
                hosts.extend(cloud.model.touched(change));
            }
            held.retain(|host, _| cloud.model.hosts.get(*host).is_some());
            hosts.retain(|host| cloud.model.hosts.get(*host).is_some());
            for host in &hosts {
                let wanted = compile(&cloud.model, *host, &subscriptions(&cloud.model, *host));
                let state = held.entry(*host).or_default();
                loop {
                    let (next, unfinished) = state.clone().step_towards(wanted.clone());
                    let bundle = state.bundle_to(&next);
                    apply(state, bundle);
                    if !unfinished {
                        break;
                    }
                }
                let (kept, cookies) = (std::mem::take(&mut state.origins), &wanted.origins);
                state.origins = kept.into_iter().filter(|(cookie, _)| cookies.contains_key(cookie)).collect();
            }
            shared += usize::from(hosts.len() > 1);
            untouched += usize::from(!changes.is_empty() && hosts.len() < cloud.model.hosts.len());
            let model = &cloud.model;
            let reached =
                |network: &Network| model.hosts_reaching(network.id).len() > model.hosts_of(network.id).count();
            leaving += usize::from(model.hosts.iter().any(|host| model.routers_leaving_at(host.id).next().is_some()));
            floated += usize::from(model.floating_ips.iter().any(|floating| floating.target.is_some()));
            routed += usize::from(!changes.is_empty() && model.networks.iter().any(reached));
            for host in cloud.model.hosts.iter() {
                let context = format!("seed {seed}, step {step}, host {}, after {changes:?}", host.name);
                let state = held.get(&host.id).cloned().expect("a new host is touched");
                assert_same(state, &compile(&cloud.model, host.id, &subscriptions(&cloud.model, host.id)), &context);
            }
        }
    }
    // It would prove nothing if nothing had happened, or if every change had touched every host.
    assert!(done.len() == 9 && done.values().all(|&count| count > 50), "{done:?}, {refused} refused");
    assert!(untouched > 500 && shared > 300 && routed > 300, "{untouched} {shared} {routed}");
    assert!(leaving > 300 && floated > 80, "{leaving} {floated}");
}
