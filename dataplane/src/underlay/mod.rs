//! The underlay: how this host reaches the other ends of its tunnels, as the kernel sees it.
//!
//! The kernel decides: routes, source addresses and neighbours come from it by rtnetlink, also those
//! that policy rules choose. For every remote tunnel endpoint that somebody [`Underlay::want`]s it is
//! asked for the route, and the next hop's MAC is resolved and kept fresh by the kernel
//! (`NTF_EXT_MANAGED`, Linux 5.16; unresolved ones are asked for again every two seconds). Changes of
//! links, addresses, routes, rules and neighbours are followed as they happen.
//!
//! For control threads only: workers get what the switch makes of a [`NextHop`]. Works on the network
//! namespace of the thread that starts it, whose Tokio runtime must stay on that thread or in a process
//! that lies in the namespace as a whole.

mod netlink;
mod watcher;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How to reach one remote tunnel endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The endpoint.
    pub remote: Ipv4Addr,
    /// The address on the link: the same, or a router's. Unspecified without a route.
    pub next_hop: Ipv4Addr,
    /// The interface it is reached by; empty without a route.
    pub interface: String,
    /// Its index; 0 without a route.
    pub interface_index: u32,
    /// The source address that the kernel would use.
    pub source: Ipv4Addr,
    /// The interface's own MAC.
    pub source_mac: [u8; 6],
    /// The next hop's MAC; `None` while it is not known.
    pub mac: Option<[u8; 6]>,
    /// The kernel's word for the neighbour: "reachable", "stale", "delay", "probe", "permanent", "noarp"
    /// (all with a MAC), "incomplete", "failed", "none"; or "no_route"; or "local": it is this host.
    pub state: &'static str,
}

/// One network interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; zeroes if it has none.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Whether it is set up (no word on the carrier).
    pub up: bool,
    /// Whether it has a carrier, or needs none.
    pub carrier: bool,
    /// Its IPv4 addresses, primary ones first.
    pub addresses: Vec<Ipv4Addr>,
}

/// Why the underlay cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// No socket.
    #[error("rtnetlink is not available: {0}. The kernel must let the switch open NETLINK_ROUTE sockets.")]
    Socket(#[from] std::io::Error),
    /// The kernel refuses to answer.
    #[error("rtnetlink does not answer: {0}.")]
    Request(#[from] rtnetlink::Error),
}

/// The watcher's handle. When it is dropped the watcher stops, and neighbours are no longer kept.
#[derive(Debug)]
pub struct Underlay {
    wants: mpsc::UnboundedSender<BTreeSet<Ipv4Addr>>,
    interfaces: watch::Receiver<Arc<Vec<Interface>>>,
    task: JoinHandle<()>,
}

impl Underlay {
    /// Starts watching; interfaces are known when it returns. The receiver gets the next hops of all
    /// wanted endpoints, in the order of their addresses, whenever one of them changes.
    ///
    /// # Errors
    /// See [`UnderlayError`].
    pub async fn start() -> Result<(Self, watch::Receiver<Arc<Vec<NextHop>>>), UnderlayError> {
        let (wants, wanted) = mpsc::unbounded_channel();
        let watcher = watcher::Watcher::start(wanted).await?;
        let (interfaces, next_hops) = watcher.subscribe();
        let task = tokio::spawn(watcher.run());
        Ok((Self { wants, interfaces, task }, next_hops))
    }

    /// From now on exactly these endpoints are wanted.
    pub fn want(&self, remotes: BTreeSet<Ipv4Addr>) {
        // Fails only if the runtime is shutting down, and then nobody needs them.
        let _ = self.wants.send(remotes);
    }

    /// This host's interfaces as they change, in the order of their numbers.
    #[must_use]
    pub fn interfaces(&self) -> watch::Receiver<Arc<Vec<Interface>>> {
        self.interfaces.clone()
    }

    /// The interface of this name.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<Interface> {
        self.interfaces.borrow().iter().find(|interface| interface.name == name).cloned()
    }

    /// The interface that owns this address.
    #[must_use]
    pub fn owner_of(&self, address: Ipv4Addr) -> Option<Interface> {
        self.interfaces.borrow().iter().find(|interface| interface.addresses.contains(&address)).cloned()
    }

    /// Stops watching, and waits until the kernel was told that no neighbour needs to be kept.
    pub async fn stop(self) {
        let Self { wants, task, .. } = self;
        drop(wants);
        // It ends by itself now; a panic in it was reported already.
        let _ = task.await;
    }
}
