//! The underlay watcher on real routes and neighbours in network namespaces.

mod namespace;

use namespace::Namespace;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use weft_dataplane::underlay::{NextHop, Underlay};

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 99);
const UNROUTED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 1);

type Hops = watch::Receiver<Arc<Vec<NextHop>>>;

/// Waits until what is published of `remote` is as it should be.
async fn becomes(hops: &mut Hops, remote: Ipv4Addr, what: &str, right: impl Fn(&NextHop) -> bool) -> NextHop {
    let wait = hops.wait_for(|hops| hops.iter().any(|hop| hop.remote == remote && right(hop)));
    let last = match tokio::time::timeout(Duration::from_secs(10), wait).await {
        Ok(found) => found.unwrap().iter().find(|hop| hop.remote == remote).cloned(),
        Err(_) => None,
    };
    last.unwrap_or_else(|| panic!("{remote} does not become {what}: {:#?}", hops.borrow()))
}

fn mac_of(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let shown = namespace.ip(&format!("link show {interface}"));
    let text = shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn next_hops_follow_the_kernel() {
    let (host, peer) = (Arc::new(Namespace::new()), Namespace::new());
    host.veth("eth0", &peer, "eth0", 1);
    host.ip("addr add 10.6.0.1/24 dev eth0");
    host.ip("addr add 10.6.0.7/24 dev eth0");
    peer.ip("addr add 10.6.0.2/24 dev eth0");
    let (host_mac, peer_mac) = (mac_of(&host, "eth0"), mac_of(&peer, "eth0"));
    let inside = Arc::clone(&host);
    let watch = async move {
        let host = inside;
        let (underlay, mut hops) = Underlay::start().await.unwrap();
        let owner = underlay.owner_of(OURS).unwrap();
        assert_eq!((owner.name.as_str(), owner.mac, owner.mtu, owner.up), ("eth0", host_mac, 1500, true));
        assert_eq!(owner.addresses, [OURS, Ipv4Addr::new(10, 6, 0, 7)], "the primary address comes first");
        assert_eq!(underlay.interface("eth0"), Some(owner.clone()));
        assert_eq!((underlay.interface("none"), underlay.owner_of(NEAR)), (None, None));
        assert!(hops.borrow().is_empty());

        // Nobody has sent a packet: the kernel resolves because it is asked.
        underlay.want(BTreeSet::from([NEAR, NOBODY, UNROUTED, OURS]));
        let near = becomes(&mut hops, NEAR, "reachable", |hop| hop.state == "reachable").await;
        let expected = NextHop {
            remote: NEAR,
            next_hop: NEAR,
            interface: "eth0".into(),
            interface_index: owner.index,
            source: OURS,
            source_mac: host_mac,
            mac: Some(peer_mac),
            state: "reachable",
        };
        assert_eq!(near, expected);
        assert!(host.ip("neigh show 10.6.0.2").contains("managed"), "{}", host.ip("neigh show 10.6.0.2"));
        becomes(&mut hops, OURS, "local", |hop| hop.state == "local").await;
        becomes(&mut hops, UNROUTED, "without a route", |hop| hop.state == "no_route" && hop.mac.is_none()).await;
        becomes(&mut hops, NOBODY, "failed", |hop| hop.state == "failed" && hop.mac.is_none()).await;

        // It appears: found without anybody's packet.
        peer.ip("addr add 10.6.0.99/24 dev eth0");
        becomes(&mut hops, NOBODY, "found", |hop| hop.mac == Some(peer_mac)).await;

        // A route by a gateway, another source, and back.
        host.ip("route add 10.9.0.0/24 via 10.6.0.2 src 10.6.0.7");
        underlay.want(BTreeSet::from([NEAR, FAR]));
        let far = becomes(&mut hops, FAR, "routed", |hop| hop.mac.is_some()).await;
        assert_eq!((far.next_hop, far.source, far.mac), (NEAR, Ipv4Addr::new(10, 6, 0, 7), Some(peer_mac)));
        host.ip("route del 10.9.0.0/24");
        becomes(&mut hops, FAR, "without a route", |hop| hop.state == "no_route").await;
        assert_eq!(hops.borrow().len(), 2, "what is not wanted is not published");
        assert!(host.ip("neigh show 10.6.0.99").is_empty(), "nor kept");

        // The neighbour's MAC changes: learnt when it says so or the next probe finds out.
        let moved = [2, 0, 0, 0, 0, 0x42];
        peer.ip("link set eth0 address 02:00:00:00:00:42");
        peer.command("arping -c 1 -U -I eth0 10.6.0.2");
        becomes(&mut hops, NEAR, "moved", |hop| hop.mac == Some(moved)).await;

        // The link goes down and comes back; its MTU and addresses change.
        host.ip("link set eth0 down");
        becomes(&mut hops, NEAR, "without a route", |hop| hop.state == "no_route").await;
        assert!(!underlay.interface("eth0").unwrap().up);
        host.ip("link set eth0 up");
        becomes(&mut hops, NEAR, "back", |hop| hop.mac == Some(moved)).await;
        let mut interfaces = underlay.interfaces();
        host.ip("link set eth0 mtu 1400");
        host.ip("addr add 10.7.0.1/24 dev eth0");
        let changed = interfaces.wait_for(|all| {
            all.iter().any(|one| one.mtu == 1400 && one.addresses.contains(&Ipv4Addr::new(10, 7, 0, 1)))
        });
        tokio::time::timeout(Duration::from_secs(5), changed).await.expect("the interface changes").unwrap();

        // A configured neighbour is used, and left alone.
        host.ip("neigh replace 10.6.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud permanent");
        let fixed = Ipv4Addr::new(10, 6, 0, 50);
        underlay.want(BTreeSet::from([NEAR, fixed]));
        becomes(&mut hops, fixed, "permanent", |hop| hop.state == "permanent" && hop.mac.is_some()).await;
        underlay.stop().await;
        assert!(host.ip("neigh show 10.6.0.50").contains("PERMANENT"));
        assert!(!host.ip("neigh show").contains("managed"), "{}", host.ip("neigh show"));
        drop(peer);
    };
    host.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(watch);
    });
}
