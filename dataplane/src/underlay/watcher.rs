//! The task behind [`Underlay`](super::Underlay): holds what the kernel said last, and asks again when
//! it hears that something changed.
//!
//! Nothing is trusted to arrive: lost messages lead to a full look, and there is one every half minute
//! anyway.

use super::netlink::{self, Event, Neighbour, NeighbourKey, Route};
use super::{Interface, NextHop, UnderlayError};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Changes come in bursts (an interface going up makes a dozen messages): wait at least this long for
/// more, and [`REST`] times as long as the last look took, so that a flapping route costs little.
const SETTLE: Duration = Duration::from_millis(20);

const REST: u32 = 4;

/// How often unresolved neighbours are asked for again.
const RETRY: Duration = Duration::from_secs(2);

/// How often everything is looked at, heard of or not.
const FULL_LOOK: Duration = Duration::from_secs(30);

/// Bytes of unread messages before the kernel drops some.
const MESSAGE_BUFFER: u32 = 4 << 20;

type Published<T> = watch::Receiver<Arc<Vec<T>>>;
type Wants = mpsc::UnboundedReceiver<BTreeSet<Ipv4Addr>>;

/// What has to be looked at again.
#[derive(Clone, Copy, Default)]
struct Stale {
    topology: bool,
    neighbours: bool,
}

impl Stale {
    const EVERYTHING: Self = Self { topology: true, neighbours: true };
}

/// The events of one multicast socket; its connection ends when this is dropped.
struct Events {
    stream: BoxStream<'static, Event>,
    connection: AbortHandle,
}

impl Events {
    fn open() -> Result<Self, UnderlayError> {
        let (mut connection, _, messages) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
        ])?;
        connection.socket_mut().socket_mut().set_rx_buf_sz(MESSAGE_BUFFER)?;
        let connection = tokio::spawn(connection).abort_handle();
        let stream = messages.map(|(message, _)| netlink::event(message.payload)).boxed();
        Ok(Self { stream, connection })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(super) struct Watcher {
    handle: Handle,
    requests: AbortHandle,
    events: Events,
    wants: Wants,
    wanted: BTreeSet<Ipv4Addr>,
    interfaces: BTreeMap<u32, Interface>,
    neighbours: BTreeMap<NeighbourKey, Neighbour>,
    routes: BTreeMap<Ipv4Addr, Route>,
    /// Neighbours that the kernel keeps because we asked.
    kept: BTreeSet<NeighbourKey>,
    published_interfaces: watch::Sender<Arc<Vec<Interface>>>,
    published: watch::Sender<Arc<Vec<NextHop>>>,
}

impl Watcher {
    pub async fn start(wants: Wants) -> Result<Self, UnderlayError> {
        // Listening comes first: what changes during the first look is heard of.
        let events = Events::open()?;
        let (connection, handle, _) = new_connection()?;
        let mut watcher = Self {
            handle,
            requests: tokio::spawn(connection).abort_handle(),
            events,
            wants,
            wanted: BTreeSet::new(),
            interfaces: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            routes: BTreeMap::new(),
            kept: BTreeSet::new(),
            published_interfaces: watch::Sender::default(),
            published: watch::Sender::default(),
        };
        watcher.look(Stale::EVERYTHING).await?;
        watcher.publish();
        Ok(watcher)
    }

    pub fn subscribe(&self) -> (Published<Interface>, Published<NextHop>) {
        (self.published_interfaces.subscribe(), self.published.subscribe())
    }

    /// Runs until the handle is dropped.
    pub async fn run(mut self) {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut full_look = interval(FULL_LOOK);
        full_look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stale = Stale::default();
        let mut took = Duration::ZERO;
        loop {
            let mut again = false;
            tokio::select! {
                wanted = self.wants.recv() => match wanted {
                    Some(wanted) => {
                        self.wanted = wanted;
                        stale.topology = true;
                    }
                    None => break,
                },
                event = self.events.stream.next() => {
                    self.hear(event, &mut stale).await;
                    self.hear_more(SETTLE.max(took * REST), &mut stale).await;
                }
                _ = retry.tick() => again = true,
                _ = full_look.tick() => stale = Stale::EVERYTHING,
            }
            let began = Instant::now();
            let looked = self.look(stale).await;
            took = began.elapsed();
            match looked {
                Ok(()) => stale = Stale::default(),
                // The same again at the next tick, and everything.
                Err(error) => {
                    tracing::warn!(%error, "the underlay cannot be looked at");
                    stale = Stale::EVERYTHING;
                }
            }
            if self.ask(again).await {
                stale.neighbours = true;
                retry.reset_after(SETTLE);
            }
            self.publish();
        }
        for key in std::mem::take(&mut self.kept) {
            let _ = netlink::forget(&self.handle, key).await;
        }
    }

    /// Takes note of one event. A stream that ended is opened anew.
    async fn hear(&mut self, event: Option<Event>, stale: &mut Stale) {
        match event {
            Some(Event::Topology) => stale.topology = true,
            Some(Event::Neighbour(key, Some(neighbour))) => drop(self.neighbours.insert(key, neighbour)),
            Some(Event::Neighbour(key, None)) => drop(self.neighbours.remove(&key)),
            Some(Event::Lost) => *stale = Stale::EVERYTHING,
            Some(Event::Other) => {}
            None => {
                *stale = Stale::EVERYTHING;
                match Events::open() {
                    Ok(events) => self.events = events,
                    Err(error) => {
                        tracing::warn!(%error, "the underlay's changes cannot be heard; trying again");
                        sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
    }

    /// Takes note of what follows shortly.
    async fn hear_more(&mut self, patience: Duration, stale: &mut Stale) {
        let end = Instant::now() + patience;
        while let Ok(Some(event)) = timeout(end - Instant::now(), self.events.stream.next()).await {
            self.hear(Some(event), stale).await;
            if Instant::now() >= end {
                break;
            }
        }
    }

    async fn look(&mut self, stale: Stale) -> Result<(), UnderlayError> {
        if stale.topology {
            self.interfaces = netlink::interfaces(&self.handle).await?;
            let mut routes = BTreeMap::new();
            for &remote in &self.wanted {
                routes.insert(remote, netlink::route(&self.handle, remote).await?);
            }
            self.routes = routes;
        }
        if stale.neighbours {
            self.neighbours = netlink::neighbours(&self.handle).await?;
        }
        Ok(())
    }

    /// Has the kernel keep the neighbours that are needed, and no others; asks `again` for those that
    /// it has given up.
    ///
    /// Gives whether there are neighbours that were not heard of.
    async fn ask(&mut self, again: bool) -> bool {
        let mut unheard = false;
        let needed: BTreeSet<NeighbourKey> = self
            .routes
            .values()
            .filter_map(|route| match route {
                Route::Via { interface, next_hop, .. } => Some((*interface, *next_hop)),
                Route::None | Route::Local => None,
            })
            .collect();
        for key in &self.kept - &needed {
            self.kept.remove(&key);
            // It fails if the interface is gone, and the neighbour with it.
            if self.neighbours.contains_key(&key) {
                let _ = netlink::forget(&self.handle, key).await;
            }
        }
        for key in needed {
            let ask = match self.neighbours.get(&key) {
                None => true,
                Some(neighbour) if neighbour.is_fixed() => false,
                Some(_) if !self.kept.contains(&key) => true,
                // While it is incomplete the kernel is at it. One that does not keep neighbours is asked
                // again before they go.
                Some(Neighbour { state: "failed" | "none", .. } | Neighbour { state: "stale", managed: false, .. }) => {
                    again
                }
                Some(_) => false,
            };
            if !ask {
                continue;
            }
            match netlink::keep(&self.handle, key, self.neighbours.contains_key(&key)).await {
                Ok(true) => drop(self.kept.insert(key)),
                // We have not heard of it yet: now we look.
                Ok(false) => unheard = true,
                // Not ours to manage: a tunnel or a link that went down a moment ago.
                Err(error) => {
                    tracing::debug!(%error, interface = key.0, address = %key.1, "cannot ask for a neighbour")
                }
            }
        }
        unheard
    }

    fn publish(&self) {
        let interfaces: Vec<Interface> = self.interfaces.values().cloned().collect();
        self.published_interfaces.send_if_modified(|published| {
            let changed = **published != interfaces;
            if changed {
                *published = Arc::new(interfaces);
            }
            changed
        });
        let next_hops: Vec<NextHop> = self.routes.iter().map(|(&remote, route)| self.next_hop(remote, route)).collect();
        self.published.send_if_modified(|published| {
            let changed = **published != next_hops;
            if changed {
                *published = Arc::new(next_hops);
            }
            changed
        });
    }

    fn next_hop(&self, remote: Ipv4Addr, route: &Route) -> NextHop {
        let nowhere = |state| NextHop {
            remote,
            next_hop: Ipv4Addr::UNSPECIFIED,
            interface: String::new(),
            interface_index: 0,
            source: Ipv4Addr::UNSPECIFIED,
            source_mac: [0; 6],
            mac: None,
            state,
        };
        let (index, next_hop, source) = match *route {
            Route::None => return nowhere("no_route"),
            Route::Local => return NextHop { next_hop: remote, source: remote, ..nowhere("local") },
            Route::Via { interface, next_hop, source } => (interface, next_hop, source),
        };
        // The link may have gone between two messages.
        let Some(interface) = self.interfaces.get(&index) else { return nowhere("no_route") };
        let neighbour = self.neighbours.get(&(index, next_hop));
        NextHop {
            remote,
            next_hop,
            interface: interface.name.clone(),
            interface_index: index,
            source: source.or(interface.addresses.first().copied()).unwrap_or(Ipv4Addr::UNSPECIFIED),
            source_mac: interface.mac,
            mac: neighbour.and_then(|neighbour| neighbour.mac),
            state: neighbour.map_or("none", |neighbour| neighbour.state),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.requests.abort();
    }
}
