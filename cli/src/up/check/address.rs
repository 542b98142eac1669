//! Lines about addresses: what DHCP gives, and that it can be renewed, released and asked about.

use crate::cloud::Cloud;
use crate::instance::{self, Instance};
use crate::namespace;
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// The instance that gets no lease when `dhcp` is broken: no other line needs its address.
pub const LEASE_VICTIM: usize = 4;

/// The instance whose lease is renewed and released: the last line that does, so that none misses it.
pub const RENEWER: usize = 3;

/// Every instance has the lease that was asked for, and has applied it.
pub fn leases(cloud: &mut Cloud, _: bool) -> Result<String> {
    let mut options = 0;
    for instance in &cloud.instances {
        let lease = instance.lease().with_context(|| format!("{} has no lease", instance.plan.name))?;
        let network = format!("{} {}", instance::HOST_ROUTE.0, instance::HOST_ROUTE.1);
        let default = format!("0.0.0.0/0 {}", instance::GATEWAY);
        let expected = [
            ("ip", instance.plan.address.to_string()),
            ("mask", "24".to_owned()),
            ("router", instance::GATEWAY.to_string()),
            ("dns", instance::DNS_SERVER.to_string()),
            ("mtu", instance.mtu.to_string()),
            ("lease", instance::LEASE_SECONDS.to_string()),
            ("hostname", instance.plan.name.clone()),
            ("domain", instance::domain(instance.plan.project)),
            ("serverid", instance.dhcp_address.to_string()),
        ];
        for (name, value) in &expected {
            let told = lease.get(name);
            if told != value {
                bail!("{}: option {name} is {told:?}, expected {value:?}", instance.plan.name);
            }
        }
        let routes = lease.get("staticroutes");
        for route in [&network, &default] {
            if !routes.contains(route.as_str()) {
                bail!("{}: the classless routes {routes:?} lack {route:?}", instance.plan.name);
            }
        }
        options = expected.len() + 1;
        applied(instance)?;
    }
    Ok(format!("{} leases, {options} options each", cloud.instances.len()))
}

/// The client did what it was told: not a property of the switch, but of the demo.
fn applied(instance: &Instance) -> Result<()> {
    let shown = namespace::ip(&format!("-n {} addr show dev {}", instance.namespace, instance.interface))?;
    for part in [format!("mtu {}", instance.mtu), format!("inet {}/24", instance.plan.address)] {
        if !shown.contains(&part) {
            bail!("{}: {} does not show {part:?}", instance.plan.name, instance.interface);
        }
    }
    let mac: Vec<String> = instance.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    if !shown.contains(&mac.join(":")) {
        bail!("{}: {} does not have the port's MAC address {}", instance.plan.name, instance.interface, mac.join(":"));
    }
    Ok(())
}

/// Renewed by unicast, asked about by DHCPINFORM, released, and taken anew.
pub fn renewal(cloud: &mut Cloud, _: bool) -> Result<String> {
    let renewed = cloud.instances[RENEWER].lease_events("renew");
    cloud.signal_client(RENEWER, Signal::USR1)?;
    wait("the renewal", || cloud.instances[RENEWER].lease_events("renew") > renewed)?;

    let instance = cloud.instances[RENEWER].clone();
    let (server, address, mac) = (instance.dhcp_address, instance.plan.address, instance.mac);
    let told = namespace::inside(&instance.namespace, move || inform(address, server, mac))?;
    if told.message_type != ACKNOWLEDGEMENT || told.lease_time || !told.router {
        bail!(
            "DHCPINFORM was answered with type {}, {} lease time, {} router; expected type 5, without, with (RFC 2131, 4.3.5)",
            told.message_type,
            if told.lease_time { "with" } else { "without" },
            if told.router { "with" } else { "without" }
        );
    }

    let bound = instance.lease_events("bound");
    cloud.signal_client(RENEWER, Signal::USR2)?;
    wait("the release", || cloud.instances[RENEWER].lease().is_none())?;
    cloud.signal_client(RENEWER, Signal::USR1)?;
    wait("the new lease", || cloud.instances[RENEWER].lease_events("bound") > bound)?;
    let lease = cloud.instances[RENEWER].lease().context("the new lease is not there")?;
    if lease.get("ip") != address.to_string() {
        bail!("after the release the address is {}, expected {address}", lease.get("ip"));
    }
    Ok(format!("{}: renewed, informed, released, bound again to {address}", instance.plan.name))
}

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(6);
    while !done() {
        if Instant::now() >= deadline {
            bail!("{what} did not happen within 6 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

const ACKNOWLEDGEMENT: u8 = 5;

struct Informed {
    message_type: u8,
    lease_time: bool,
    router: bool,
}

/// Sends a DHCPINFORM (RFC 2131, 3.4) from an address that is ours, and reads the answer.
fn inform(address: Ipv4Addr, server: Ipv4Addr, mac: [u8; 6]) -> Result<Informed> {
    // A client that has its lease does not hold port 68.
    let socket = UdpSocket::bind(SocketAddrV4::new(address, 68)).context("cannot take UDP port 68")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let transaction = [0x57, 0x45, 0x46, 0x54];
    let mut message = vec![1, 1, 6, 0];
    message.extend(transaction);
    message.extend([0; 4]);
    message.extend(address.octets());
    message.extend([0; 12]);
    message.extend(mac);
    // The rest of the hardware address, the server's name and the file.
    message.extend([0; 10 + 64 + 128]);
    message.extend([99, 130, 83, 99]);
    // Type INFORM; parameters: mask, router, DNS, domain, MTU.
    message.extend([53, 1, 8, 55, 5, 1, 3, 6, 15, 26, 255]);
    message.resize(300, 0);
    socket.send_to(&message, SocketAddrV4::new(server, 67))?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).context("DHCPINFORM was not answered")?;
    let answer = &answer[..length];
    if length < 240 || answer[4..8] != transaction {
        bail!("the answer to DHCPINFORM is not for it");
    }
    let option = |code: u8| find_option(&answer[240..], code);
    Ok(Informed {
        message_type: option(53).and_then(|value| value.first().copied()).unwrap_or(0),
        lease_time: option(51).is_some(),
        router: option(3).is_some(),
    })
}

/// One of the options of a DHCP message (RFC 2132, 2).
fn find_option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match *options.first()? {
            0 => options = &options[1..],
            255 => return None,
            code => {
                let length = usize::from(*options.get(1)?);
                let value = options.get(2..2 + length)?;
                if code == wanted {
                    return Some(value);
                }
                options = &options[2 + length..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::find_option;

    #[test]
    fn options_are_found_and_cut_ones_are_not() {
        let options = [0, 53, 1, 5, 3, 4, 10, 0, 0, 1, 255];
        assert_eq!(find_option(&options, 53), Some(&[5][..]));
        assert_eq!(find_option(&options, 3), Some(&[10, 0, 0, 1][..]));
        assert_eq!(find_option(&options, 51), None);
        assert_eq!(find_option(&[3, 4, 10], 3), None);
    }
}
