//! Where tunnels to a host end: the addresses that it reports, and which of them others send to.
//!
//! The choice is a pure function of what the host reported and of what is sent, so that all hosts make the same, and
//! stays as it is while that address is usable: each address gets a weight for each key, and the heaviest is taken
//! (rendezvous hashing). An address that comes or goes moves only what goes to it.

use super::name::valid_interface;
use super::{Host, Port, record};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::UNDERLAY_ADDRESSES;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// An address that tunnels to a host end at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayAddress {
    /// Of one host only.
    pub address: Ipv4Addr,
    /// Which has it there.
    pub interface: String,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Whether the host can be reached by it, as far as the host knows.
    pub up: bool,
}

impl UnderlayAddress {
    /// Those that a host reports, or a record holds; the first wrong one's index and what is wrong with it.
    pub fn all(reported: &[v1::UnderlayAddress]) -> Result<Vec<Self>, (usize, Fault)> {
        let mut all = Vec::<Self>::new();
        for (index, one) in reported.iter().enumerate() {
            let refuse = |field: &str, problem: String, remedy: &str| {
                Err((index, Fault::invalid("bad_address", field, problem, remedy)))
            };
            if index >= UNDERLAY_ADDRESSES {
                let problem = format!("more than {UNDERLAY_ADDRESSES} underlay addresses");
                return refuse("", problem, "Leave out those that are not used.");
            }
            valid_interface(&one.interface, "interface").map_err(|fault| (index, fault))?;
            let usable = |address: &Ipv4Addr| {
                !(address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback())
            };
            let Some(address) = record::address(&one.address).ok().filter(usable) else {
                let problem = format!("{:?} is not the address of a host", one.address);
                return refuse("address", problem, "Give the host an IPv4 address of its own on the underlay.");
            };
            if all.iter().any(|other| other.address == address) {
                return refuse("address", format!("{address} is told twice"), "Tell each address once.");
            }
            all.push(Self { address, interface: one.interface.clone(), mtu: one.mtu, up: !one.down });
        }
        Ok(all)
    }

    /// As the API and the store have it.
    pub(super) fn message(&self) -> v1::UnderlayAddress {
        v1::UnderlayAddress {
            address: self.address.to_string(),
            interface: self.interface.clone(),
            mtu: self.mtu,
            down: !self.up,
        }
    }

    /// The only one of a host.
    #[cfg(test)]
    pub fn only(address: [u8; 4], mtu: u32) -> Vec<Self> {
        vec![Self { address: address.into(), interface: "eth0".to_owned(), mtu, up: true }]
    }
}

impl Host {
    /// The largest packet that all its underlay addresses take; 0: it has none.
    #[must_use]
    pub fn underlay_mtu(&self) -> u32 {
        self.underlay.iter().map(|one| one.mtu).min().unwrap_or(0)
    }

    /// Where others send what this key stands for; `None`: the host has no underlay. An address that is down is not
    /// chosen while there is another.
    #[must_use]
    pub fn tunnel_end(&self, key: Uuid) -> Option<Ipv4Addr> {
        let among = |up: bool| self.underlay.iter().filter(move |one| one.up || !up).map(|one| one.address);
        let heaviest = |ends: &mut dyn Iterator<Item = Ipv4Addr>| ends.max_by_key(|&end| weight(key, end));
        heaviest(&mut among(true)).or_else(|| heaviest(&mut among(false)))
    }

    /// Where others send what is for a port here: to the address that was asked for when it was plugged, if the host
    /// has it and it is up.
    #[must_use]
    pub fn tunnel_end_of(&self, port: &Port) -> Option<Ipv4Addr> {
        let asked = port.plug.as_ref().and_then(|plug| plug.underlay);
        let usable = |asked: &Ipv4Addr| self.underlay.iter().any(|one| one.up && one.address == *asked);
        asked.filter(usable).or_else(|| self.tunnel_end(port.id))
    }

    /// Checks an address that is asked for.
    pub(super) fn underlay_address(&self, asked: &str, field: &str) -> Result<Option<Ipv4Addr>, Fault> {
        let found = record::optional(asked, record::address).ok();
        match found {
            Some(None) => Ok(None),
            Some(Some(address)) if self.underlay.iter().any(|one| one.address == address) => Ok(Some(address)),
            _ => {
                let own: Vec<String> = self.underlay.iter().map(|one| one.address.to_string()).collect();
                let problem = format!("{asked:?} is no underlay address of host {:?}", self.name);
                let remedy = match own.as_slice() {
                    [] => "It has reported none yet: leave it out, or wait until it is connected.".to_owned(),
                    _ => format!("Give one of {}, or leave it out.", own.join(", ")),
                };
                Err(Fault::invalid("bad_address", field, problem, remedy))
            }
        }
    }
}

/// What an address weighs for a key: well mixed (the finalizer of MurmurHash3), the same on every machine and in every
/// version.
fn weight(key: Uuid, end: Ipv4Addr) -> (u64, Ipv4Addr) {
    let (high, low) = key.as_u64_pair();
    let mix = |mut value: u64| {
        value = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        value = (value ^ (value >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        value ^ (value >> 33)
    };
    (mix(mix(mix(high) ^ low) ^ u64::from(end.to_bits())), end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn host(ends: u8) -> Host {
        let one = |last| UnderlayAddress {
            address: [10, 9, 0, last].into(),
            ..UnderlayAddress::only([0; 4], 1500).remove(0)
        };
        Host {
            id: Uuid::nil(),
            name: "one".into(),
            underlay: (1..=ends).map(one).collect(),
            physical: BTreeMap::new(),
            version: String::new(),
        }
    }

    #[test]
    fn ports_are_spread_and_only_those_of_an_end_that_fails_move() {
        let four = host(4);
        let keys: Vec<Uuid> = (0..4000_u128).map(|index| Uuid::from_u128(index << 64 | 7)).collect();
        let ends: Vec<Ipv4Addr> = keys.iter().filter_map(|&key| four.tunnel_end(key)).collect();
        for one in &four.underlay {
            let share = ends.iter().filter(|end| **end == one.address).count();
            assert!((900..1100).contains(&share), "{share} of 4000 to {}", one.address);
        }
        let mut failed = four.clone();
        failed.underlay[2].up = false;
        for (&key, &before) in keys.iter().zip(&ends) {
            let after = failed.tunnel_end(key).unwrap();
            assert_ne!(after, failed.underlay[2].address);
            assert!(after == before || before == failed.underlay[2].address);
        }
        failed.underlay.iter_mut().for_each(|one| one.up = false);
        assert_eq!(
            keys.iter().filter_map(|&key| failed.tunnel_end(key)).collect::<Vec<_>>(),
            ends,
            "nothing is better"
        );
        assert_eq!(host(0).tunnel_end(keys[0]), None);
    }

    #[test]
    fn what_a_host_reports_is_checked() {
        let one = |address: &str| v1::UnderlayAddress {
            address: address.into(),
            interface: "eth1".into(),
            mtu: 1500,
            down: false,
        };
        for (reported, index, field, says) in [
            (vec![one("10.0.0.1"), one("10.0.0.1")], 1, "address", "10.0.0.1 is told twice"),
            (vec![one("0.0.0.0")], 0, "address", "\"0.0.0.0\" is not the address of a host"),
            (vec![one("ten")], 0, "address", "\"ten\" is not"),
            (vec![v1::UnderlayAddress { interface: "a/b".into(), ..one("10.0.0.1") }], 0, "interface", "a/b"),
            (
                (0..17).map(|last| one(&format!("10.0.0.{}", last + 1))).collect(),
                16,
                "",
                "more than 16 underlay addresses",
            ),
        ] {
            let (wrong, fault) = UnderlayAddress::all(&reported).unwrap_err();
            assert_eq!((wrong, fault.field.as_str()), (index, field));
            assert!(fault.problem.contains(says), "{fault}");
        }
    }
}
