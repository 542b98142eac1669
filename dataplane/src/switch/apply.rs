//! Carrying out a plan, make before break:
//!
//! 1. Ports that stand in the way of new ones are closed (the same interface, newly specified).
//! 2. New ports are opened; their frames wait in the kernel.
//! 3. One commit changes tables, address sets and topology: each packet sees all of it or nothing.
//! 4. The new ports' queues are given to the workers, and ports that are gone are closed.
//!
//! A port of the fabric that cannot be opened fails alone: it is kept as failed, with the reason, and opening
//! it is tried again ([`Switch::retry_failed`]); one project's missing namespace must not keep others' rules
//! away. A person's bundle, whose answer somebody reads, is refused. If that, or step 3, fails, new ports are closed, those closed in step 1 are opened again, and the bundle is
//! refused whole.

use super::bundle::{self, Plan, Whole};
use super::open::{Device, TunnelSettings};
use super::ports::{Port, Ports, Totals};
use super::queues::QueueSet;
use super::{State, Switch};
use crate::flow::message::owner_from_message;
use crate::flow::rule::Owner;
use crate::flow::tables::{Change, Committed};
use crate::port::{PortQueue, PortSlot};
use std::sync::Arc;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// A port's queues.
pub(super) type Queues = Vec<Box<dyn PortQueue>>;
/// Those of a port that no worker has yet.
type NewQueues = (PortSlot, Queues);

impl Switch {
    /// Applies a bundle of `owner`, sent in parts: all of it or, with an error, nothing. Answers when no
    /// worker uses the old rules any more. Blocks.
    ///
    /// # Errors
    /// What is wrong with it, its field as a path from the bundle; or that a port cannot be opened.
    pub fn apply(&self, parts: Vec<v1::Bundle>, owner: Owner) -> Result<v1::BundleResult, Fault> {
        self.apply_whole(Whole::of(parts, owner))
    }

    /// Likewise, for who has read the parts as they came.
    ///
    /// # Errors
    /// As [`Switch::apply`].
    pub fn apply_whole(&self, whole: Whole) -> Result<v1::BundleResult, Fault> {
        let mut state = self.state();
        let plan = bundle::plan(whole, self.managed, &state, &self.tables)?;
        self.carry_out(plan, &mut state)
    }

    /// Opens a port that stands in the configuration: bundles cannot change it. Blocks.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open_configured(&self, spec: v1::PortSpec) -> Result<(), Fault> {
        bundle::check_spec(&spec)?;
        let mut state = self.state();
        let owner = owner_from_message(spec.owner)?;
        let slot = reserve(&mut state.ports)?;
        let opened = self.open_port(slot, &spec).inspect_err(|_| state.ports.release(slot))?;
        state.ports.insert(Port { spec, owner, slot, device: Some(Arc::new(opened.0)), configured: true });
        let topology = state.ports.topology(&state.underlay);
        self.tables.commit(Change { topology: Some(topology), ..Change::default() })?;
        self.give(slot, opened.1);
        drop(state);
        self.changed();
        Ok(())
    }

    fn carry_out(&self, mut plan: Plan, state: &mut State) -> Result<v1::BundleResult, Fault> {
        let changes_ports = plan.changes_ports();
        let resolve = plan.replace
            || !plan.remove.is_empty()
            || !plan.set_groups.is_empty()
            || plan.add.iter().any(|rule| !rule.instructions.tunnel_destinations().is_empty());
        let change = Change {
            settings: std::mem::take(&mut plan.settings),
            // The controller says what all tables are: a name by hand does not outlast a resynchronisation.
            replace_settings: plan.replace && plan.owner == Owner::Fabric,
            replace_owner: plan.replace.then_some(plan.owner),
            add: std::mem::take(&mut plan.add),
            remove: std::mem::take(&mut plan.remove),
            sets: std::mem::take(&mut plan.sets),
            set_groups: std::mem::take(&mut plan.set_groups),
            remove_groups: std::mem::take(&mut plan.remove_groups),
            topology: None,
        };
        let announcements = std::mem::take(&mut plan.announcements);
        let meters = plan.meters.as_ref().map(|after| self.changed_meters(&state.meters, after));
        if let Some(meters) = &meters {
            // Rules that go may name meters that go.
            let both = state.meters.clone().into_iter().chain(meters.clone()).collect();
            self.give_meters(&both);
        }
        let done = if changes_ports { self.change_ports(&plan, change, state) } else { self.tables.commit(change) };
        if let Some(meters) = meters {
            if done.is_ok() {
                state.meters = meters;
            }
            self.give_meters(&state.meters);
        }
        let done = done?;
        self.settle_lives(state, &done, |_| None);
        if let Some((term, generation)) = plan.position {
            (state.term, state.generation) = (term, generation);
        }
        if let Some(owners) = plan.set_owners {
            state.set_owners = owners;
        }
        state.origins.add(plan.origins, || self.tables.rules(|_| true).iter().map(|rule| rule.cookie).collect());
        if resolve && let Some(resolver) = self.resolver.get() {
            resolver.want(&self.tables.tunnel_destinations());
        }
        if !announcements.is_empty()
            && let Some(worker) = self.workers.read().expect("no panic under this lock").first()
        {
            worker.announce(announcements);
        }
        if changes_ports {
            self.changed();
        }
        let totals = if plan.named.is_empty() { Totals::default() } else { self.totals() };
        let statuses = plan.named.iter().filter_map(|number| state.ports.get(*number));
        Ok(v1::BundleResult {
            generation: state.generation,
            tables_version: done.version,
            rules_added: done.added as u32,
            rules_removed: done.removed as u32,
            ports: statuses.map(|port| state.ports.status(port, &state.underlay, &totals)).collect(),
        })
    }

    /// Steps 1 to 4 of the module comment.
    fn change_ports(&self, plan: &Plan, mut change: Change, state: &mut State) -> Result<Committed, Fault> {
        for number in &plan.close_first {
            let port = state.ports.get(*number).expect("the plan names ports that exist");
            self.close(port.slot, port.device.as_deref());
        }
        let mut next = state.ports.clone();
        let closed: Vec<Port> = plan.close.iter().filter_map(|&number| next.remove(number)).collect();
        let mut new: Vec<NewQueues> = Vec::new();
        let committed = self.open_all(plan, &mut next, &mut new).and_then(|()| {
            for spec in &plan.rename {
                let port = next.remove(spec.number).expect("the plan renames ports that exist");
                next.insert(Port { spec: spec.clone(), ..port });
            }
            // New interfaces must not miss the first tunnel packets after the commit.
            next.set_tunnel_filters(&state.underlay);
            change.topology = Some(next.topology(&state.underlay));
            self.tables.commit(change)
        });
        let done = match committed {
            Ok(done) => done,
            Err(fault) => {
                // No worker has seen them: they hold no buffers, and close by being dropped, the interfaces'
                // filters first.
                drop(next);
                drop(new);
                self.open_again(plan, state);
                state.ports.set_tunnel_filters(&state.underlay);
                return Err(fault);
            }
        };
        for (slot, queues) in new {
            self.give(slot, queues);
        }
        for port in closed {
            if !plan.close_first.contains(&port.spec.number) {
                self.close(port.slot, port.device.as_deref());
            }
            next.release(port.slot);
        }
        state.ports = next;
        Ok(done)
    }

    /// Opens the plan's new ports into the register.
    fn open_all(&self, plan: &Plan, next: &mut Ports, new: &mut Vec<NewQueues>) -> Result<(), Fault> {
        for (index, spec) in &plan.open {
            let slot = reserve(next)?;
            let below = next.below(spec).map(|port| port.spec.number);
            let device =
                if TunnelSettings::of(spec).is_some() || below.is_some_and(|below| next.seen_as(below) == below) {
                    None
                } else {
                    let place = |fault: Fault| fault.within(&format!("add_ports[{index}]"));
                    let opened = if below.is_some() { Err(second_on_underlay()) } else { self.open_port(slot, spec) };
                    match opened {
                        Ok((device, queues)) => {
                            new.push((slot, queues));
                            Some(Arc::new(device))
                        }
                        Err(fault) if plan.owner == Owner::Fabric => {
                            tracing::warn!(port = spec.name, %fault, "a port cannot be opened; it is tried again");
                            Some(Arc::new(Device::failed(fault)))
                        }
                        Err(fault) => return Err(place(fault)),
                    }
                };
            next.insert(Port { spec: spec.clone(), owner: plan.owner, slot, device, configured: false });
        }
        Ok(())
    }

    /// Opens again what was closed for a bundle that then failed.
    fn open_again(&self, plan: &Plan, state: &mut State) {
        for &number in &plan.close_first {
            let Some(port) = state.ports.remove(number) else { continue };
            if port.device.is_none() {
                state.ports.insert(port);
                continue;
            }
            match self.open_port(port.slot, &port.spec) {
                Ok((device, queues)) => {
                    self.give(port.slot, queues);
                    state.ports.insert(Port { device: Some(Arc::new(device)), ..port });
                }
                Err(fault) => {
                    tracing::error!(port = port.spec.name, %fault, "a port cannot be opened again after a refused bundle");
                    let device = Device::failed(fault);
                    state.ports.insert(Port { device: Some(Arc::new(device)), ..port });
                }
            }
        }
    }

    pub(super) fn open_port(&self, slot: PortSlot, spec: &v1::PortSpec) -> Result<(Device, Queues), Fault> {
        let workers = self.workers.read().expect("no panic under this lock").len();
        if workers == 0 {
            return Err(Fault::invalid("stopping", "", "the switch is stopping", "Try again when it runs.")
                .with_status(Code::Unavailable));
        }
        let opened = self.opener.open(slot, spec, self.memory, workers)?;
        let queues = opened.queues.len();
        if queues < workers {
            tracing::warn!(
                port = spec.name,
                queues,
                workers,
                "the port has fewer queues than there are workers: what the others send to it is dropped (port_down); use fewer workers or a port of more queues"
            );
        }
        Ok((opened.device, opened.queues))
    }

    /// Hands a port's queues to the workers, in turn; a worker that gets several gets them as one, and one that
    /// gets none learns who sends for it. Where there are fewer queues than workers, ports begin their turn at
    /// different ones.
    pub(super) fn give(&self, slot: PortSlot, queues: Queues) {
        let workers = self.workers.read().expect("no panic under this lock");
        let (count, first) = (queues.len(), if queues.len() < workers.len() { slot.index() } else { 0 });
        let mut shares: Vec<Queues> = workers.iter().map(|_| Vec::new()).collect();
        for (index, queue) in queues.into_iter().enumerate() {
            shares[(first + index) % workers.len()].push(queue);
        }
        for (number, (worker, share)) in workers.iter().zip(shares).enumerate() {
            if let Some(queue) = QueueSet::of(share) {
                worker.add_queue(slot, queue);
            } else if count > 0 {
                worker.route(slot, ((first + number % count) % workers.len()) as u16);
            }
        }
    }

    /// Takes a port away from the workers.
    pub(super) fn close(&self, slot: PortSlot, device: Option<&Device>) {
        if let Some(device) = device {
            device.release();
        }
        for worker in self.workers.read().expect("no panic under this lock").iter() {
            worker.remove_queues(slot);
        }
    }

    /// Sums of the workers' counts.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in self.workers.read().expect("no panic under this lock").iter() {
            let report = worker.report();
            for (slot, reason, frames) in report.drops {
                *totals.drops.entry((slot, reason)).or_default() += frames;
            }
            for (slot, reason, frames) in report.unsent {
                *totals.unsent.entry((slot, reason)).or_default() += frames;
            }
            totals.tables.extend(report.tables);
            for (slot, reason, branches) in report.branches {
                *totals.branches.entry((slot, reason)).or_default() += branches;
            }
            for (slot, counters) in report.ports {
                let sum = totals.packets.entry(slot).or_default();
                sum.received_packets += counters.received_packets;
                sum.received_bytes += counters.received_bytes;
                sum.sent_packets += counters.sent_packets;
                sum.sent_bytes += counters.sent_bytes;
            }
        }
        totals
    }
}

/// One device tells apart the underlay's packets and those of one other port.
fn second_on_underlay() -> Fault {
    let problem = "the interface is the underlay's, and another port is on it already";
    Fault::invalid("interface_taken", "af_xdp.interface", problem, "Remove that port first, or use another interface.")
        .with_status(Code::AlreadyExists)
}

fn reserve(ports: &mut Ports) -> Result<PortSlot, Fault> {
    ports.reserve().ok_or_else(|| {
        Fault::invalid(
            "limit_exceeded",
            "add_ports",
            format!("the switch has {} ports already", crate::limits::PORTS - 1),
            "Remove ports first.",
        )
        .with_status(Code::ResourceExhausted)
    })
}
