//! What a session does for reactive networks: it takes the switch's questions, subscribes the host to what is there,
//! and answers once the switch holds the rules; and it looks from time to time which subscriptions are used.
//!
//! Invariants: an answer "known" follows the acknowledgement of the bundle that has the rules (so the frames that the
//! switch kept find them); what was asked while a bundle was refused is not answered, the switch asks again.

use super::link::Link;
use super::relay;
use crate::compile::{pipeline, reactive};
use crate::controller::Controller;
use crate::limits;
use prost::Message as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, Destination};

/// The questions of one stream.
#[derive(Default)]
pub(super) struct Demand {
    /// Found, and to be in the next state that is compiled.
    found: Vec<Destination>,
    /// In the state that is under way to the switch.
    under_way: Vec<Destination>,
    /// In what the switch has, and not told it yet.
    pub(super) known: Vec<Destination>,
    /// Of this second: when it began, and how many destinations were asked for.
    second: Option<(Instant, usize)>,
}

impl Demand {
    /// Takes questions; gives those whose answer is that nobody has the destination. Others are heard of when their
    /// rules are there. What exceeds [`limits::QUESTIONS_PER_SECOND`] is not heard of: the switch asks again.
    pub(super) fn ask(&mut self, controller: &Controller, link: &Link, asked: Vec<Destination>) -> Vec<Destination> {
        let now = Instant::now();
        let current = self.second.filter(|(began, _)| now.duration_since(*began) < Duration::from_secs(1));
        let (began, count) = current.unwrap_or((now, 0));
        let room = limits::QUESTIONS_PER_SECOND.saturating_sub(count).min(limits::QUESTIONS_PER_MESSAGE);
        self.second = Some((began, count + asked.len().min(room)));
        let mut unknown = Vec::new();
        let before = self.found.len();
        {
            let model = controller.model();
            let mut state = link.lock();
            for destination in asked.into_iter().take(room) {
                match reactive::look_up(&model, link.host, destination.in_port, &destination.target) {
                    Some(port) => {
                        state.subscriptions.add(port.id, now);
                        self.found.push(destination);
                    }
                    None => unknown.push(destination),
                }
            }
        }
        if self.found.len() > before {
            link.mark();
        }
        unknown
    }

    /// A state is compiled: it has what was found so far.
    pub(super) fn compiled(&mut self) {
        self.under_way.append(&mut self.found);
    }

    /// The switch holds that state.
    pub(super) fn installed(&mut self) {
        self.known.append(&mut self.under_way);
    }

    /// It refuses it.
    pub(super) fn refused(&mut self) {
        self.under_way.clear();
    }
}

/// Looks from time to time which subscriptions of the host are used; ends with the session.
pub(super) async fn watch_use(controller: Arc<Controller>, link: Arc<Link>, host: String) {
    loop {
        tokio::time::sleep(Duration::from_secs(limits::SUBSCRIPTION_LOOK_SECONDS)).await;
        if link.lock().subscriptions.count() == 0 {
            continue;
        }
        match delivered(&link, &host).await {
            Err(fault) => tracing::warn!(host, %fault, "cannot see which destinations are used"),
            Ok(packets) => {
                let ended = {
                    let model = controller.model();
                    let mut state = link.lock();
                    let subscribed = state.subscriptions.of_use(|port| reactive::is_of_use(&model, link.host, port));
                    let count = |port: Uuid| Some((port, *packets.get(&reactive::delivery_cookie(port))?));
                    let delivered: HashMap<Uuid, u64> = subscribed.into_iter().filter_map(count).collect();
                    state.subscriptions.observe(&delivered, Instant::now())
                };
                if ended {
                    link.mark();
                }
            }
        }
    }
}

/// Whether the host may have subscriptions that this controller does not know of.
pub(super) fn is_to_learn(controller: &Controller, link: &Link) -> bool {
    let model = controller.model();
    let reactive = |id: Uuid| model.networks.get(id).is_some_and(|network| network.reactive);
    model.networks_on(link.host).into_iter().any(reactive) && link.lock().subscriptions.count() == 0
}

/// Takes the host's subscriptions from what its switch delivers to. What cannot be learnt is asked for again.
pub(super) async fn learn(controller: Arc<Controller>, link: Arc<Link>, host: String) {
    let delivered = match delivered(&link, &host).await {
        Ok(delivered) => delivered,
        Err(fault) => return tracing::warn!(host, %fault, "cannot see which destinations the host knows"),
    };
    let model = controller.model();
    let networks = model.networks_on(link.host);
    let ports = networks.iter().flat_map(|&network| model.ports_of(network)).map(|port| port.id);
    let held = ports.filter(|&port| {
        delivered.contains_key(&reactive::delivery_cookie(port)) && reactive::is_of_use(&model, link.host, port)
    });
    let mut state = link.lock();
    held.for_each(|port| state.subscriptions.add(port, Instant::now()));
}

/// Packets delivered, by cookie.
async fn delivered(link: &Arc<Link>, host: &str) -> Result<HashMap<u64, u64>, Fault> {
    let owner = v1::Owner::Fabric.into();
    let request = v1::DumpRulesRequest { table: Some(pipeline::DELIVER), owner, ..Default::default() };
    let mut replies = relay::call(link, host, "DumpRules", request.encode_to_vec()).await?;
    let mut packets = HashMap::new();
    while let Some(reply) = replies.next(true).await {
        let reply = reply.map_err(|status| Fault::from_status(&status))?;
        // A switch that says what nobody understands has used nothing.
        let reply = v1::DumpRulesReply::decode(reply).unwrap_or_default();
        for state in reply.rules {
            *packets.entry(state.rule.map_or(0, |rule| rule.cookie)).or_default() += state.packets;
        }
    }
    Ok(packets)
}
