//! `weft-switch`, measured: a process of its own that is told everything through its API, as anybody could.
//! Counters, timeouts and drop reasons are on, as they always are.

use super::cases::{Scenario, Tunnel};
use super::contender::Contender;
use super::place::{Place, UNDERLAY};
use super::process::{Plan, Process, Thread};
use super::traffic::TUNNEL_ADDRESS;
use anyhow::{Context, Result, anyhow, bail};
use std::path::Path;
use std::time::Duration;
use tonic::Response;
use weft_proto::text::parse_rule;
use weft_proto::v1::action::Action;
use weft_proto::v1::port_spec::Kind;
use weft_proto::v1::{self, Bundle};
use weft_up::api::Api;
use weft_up::settings::sibling;

/// Rules in one message of a bundle: some 150 bytes each, of 4 MiB at most.
const RULES_PER_MESSAGE: usize = 10_000;

/// The port that traffic comes in by, in every rule of every case.
pub const INPUT: u32 = 1;
/// The port that it leaves by.
pub const OUTPUT: u32 = 2;
/// The tunnel port, of cases that have one.
pub const TUNNEL: u32 = 3;

/// See the module comment.
pub struct Ours {
    process: Process,
    thread: Thread,
    api: Api,
    drops: u64,
}

impl Ours {
    /// Starts a switch without ports or rules.
    pub fn start(place: &Place) -> Result<Self> {
        Self::start_in(place, &place.ours(), "ours", place.core, false)
    }

    /// Likewise in a namespace, with a directory of this name, on a core; `spin`: it never sleeps.
    pub fn start_in(place: &Place, namespace: &str, name: &str, core: usize, spin: bool) -> Result<Self> {
        Self::start_anywhere(place, Some(namespace), name, core, spin)
    }

    /// Likewise where the bench was started.
    pub fn start_here(place: &Place, name: &str, core: usize) -> Result<Self> {
        Self::start_anywhere(place, None, name, core, false)
    }

    fn start_anywhere(place: &Place, namespace: Option<&str>, name: &str, core: usize, spin: bool) -> Result<Self> {
        let directory = place.directory(name)?;
        let socket = directory.join("switch.sock");
        let config = directory.join("switch.toml");
        let settings = format!(
            "socket = {socket:?}\ncertificate_directory = {:?}\nlog = \"warn\"\n[workers]\ncount = 1\ncores = [{core}]\nspin = {spin}\n",
            directory.join("certificates"),
        );
        std::fs::write(&config, settings)?;
        let mut process = Process::start(Plan {
            name: "weft-switch",
            file: &sibling("weft-switch")?,
            arguments: vec!["--config".to_owned(), config.display().to_string()],
            environment: Vec::new(),
            namespace,
            directory: &directory,
            spoken_with: false,
        })?;
        let api = Api::new(&socket)?;
        process.wait_for("answer", || status(&api).ok())?;
        let thread = process.thread("worker-0")?;
        Ok(Self { process, thread, api, drops: 0 })
    }

    /// Starts a switch with a case's rules and, if `traffic`, its traffic.
    pub fn with(place: &Place, scenario: &Scenario, recording: &Path) -> Result<Self> {
        let ours = Self::start(place)?;
        ours.add_rules(scenario, recording)?;
        ours.add_traffic(scenario, recording)?;
        Ok(ours)
    }

    /// The rules of a case, and the ports that they send to.
    pub fn add_rules(&self, scenario: &Scenario, recording: &Path) -> Result<()> {
        let mut bundle = bundle_of(&scenario.rules)?;
        bundle[0].add_ports = ports(scenario.tunnel, recording, scenario.repeat).1;
        let added = self.apply(bundle)?.rules_added;
        if added as usize != scenario.rules.len() {
            bail!("the switch took {added} of {} rules. Report this.", scenario.rules.len());
        }
        Ok(())
    }

    /// Its traffic begins.
    pub fn add_traffic(&self, scenario: &Scenario, recording: &Path) -> Result<()> {
        let add_ports = ports(scenario.tunnel, recording, scenario.repeat).0;
        self.apply(vec![Bundle { add_ports, ..Bundle::default() }])?;
        Ok(())
    }

    /// The thread that switches.
    pub fn worker(&self) -> &Thread {
        &self.thread
    }

    /// Stops it.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    fn ports(&self) -> Result<Vec<v1::PortStatus>> {
        let reply = self.api.switch(|mut switch| async move { switch.list_ports(v1::ListPortsRequest {}).await });
        Ok(reply?.ports)
    }

    /// Frames that a port has sent so far.
    pub fn sent(&self, number: u32) -> Result<u64> {
        let ports = self.ports()?;
        let found = ports.iter().find(|port| port.spec.as_ref().is_some_and(|spec| spec.number == number));
        Ok(found.context("the port is gone")?.sent_packets)
    }

    /// How its ports work.
    pub fn details(&self) -> Result<String> {
        Ok(self.ports()?.iter().map(|port| port.detail.clone()).collect::<Vec<_>>().join("; "))
    }

    /// Bytes of memory that are its own.
    pub fn memory(&self) -> Result<u64> {
        self.process.memory()
    }

    /// Sends a bundle in parts.
    pub fn apply(&self, parts: Vec<Bundle>) -> Result<v1::BundleResult> {
        self.api.switch(|mut switch| async move { switch.apply_bundle(tokio_stream::iter(parts)).await })
    }

    /// What the switch says about itself.
    pub fn status(&self) -> Result<v1::SwitchStatus> {
        status(&self.api)
    }

    /// Packets so far that no cache entry was found for.
    pub fn misses(&self) -> Result<u64> {
        Ok(worker(&self.status()?)?.cache_misses)
    }

    /// What the flow cache holds: entries and masks.
    pub fn cache(&self) -> Result<(u64, u64)> {
        let status = self.status()?;
        let worker = worker(&status)?;
        Ok((worker.cache_entries, worker.cache_masks))
    }

    /// From here on no frame may be dropped.
    pub fn settled(&mut self) -> Result<()> {
        self.drops = self.dropped()?.iter().map(|(_, packets)| packets).sum();
        Ok(())
    }

    /// Ends the traffic, and compares: what was received, what the rules of table 0 have counted, what the rules that
    /// send have counted, what was sent. Gives how many packets that was.
    ///
    /// # Errors
    /// If they differ, or something was dropped since [`Ours::settled`].
    pub fn verify(&self) -> Result<u64> {
        self.apply(vec![Bundle { remove_ports: vec![INPUT], ..Bundle::default() }])
            .or_else(|_| self.apply(vec![Bundle { remove_ports: vec![TUNNEL, INPUT], ..Bundle::default() }]))
            .context("the traffic cannot be ended")?;
        let received = worker(&self.status()?)?.packets;
        let rules = self.api.switch(|mut switch| async move {
            let mut replies = switch.dump_rules(v1::DumpRulesRequest::default()).await?.into_inner();
            let mut all = Vec::new();
            while let Some(reply) = replies.message().await? {
                all.extend(reply.rules);
            }
            Ok(Response::new(all))
        })?;
        let sum = |counts: &dyn Fn(&v1::Rule) -> bool| -> u64 {
            rules.iter().filter(|state| state.rule.as_ref().is_some_and(counts)).map(|state| state.packets).sum()
        };
        let entered = sum(&|rule| rule.table == 0);
        let left = sum(&sends);
        let ports = self.api.switch(|mut switch| async move { switch.list_ports(v1::ListPortsRequest {}).await })?;
        let is_output = |port: &&v1::PortStatus| port.spec.as_ref().is_some_and(|spec| spec.number == OUTPUT);
        let sent = ports.ports.iter().find(is_output).context("the output port is gone")?.sent_packets;
        let drops = self.dropped()?;
        let dropped: u64 = drops.iter().map(|(_, packets)| packets).sum();
        if received != entered || left != entered || sent + dropped != received {
            bail!(
                "the counters do not agree: {received} packets were received, the rules of table 0 count {entered}, \
                 those that send {left}, {sent} were sent and {dropped} dropped {drops:?}. Report this."
            );
        }
        if dropped != self.drops {
            bail!("packets were dropped while it was measured: {drops:?}.");
        }
        Ok(received)
    }

    fn dropped(&self) -> Result<Vec<(String, u64)>> {
        let request = v1::ListDropsRequest { all: false };
        let drops = self.api.switch(|mut switch| async move { switch.list_drops(request).await })?.drops;
        Ok(drops.into_iter().filter(|drop| drop.packets > 0).map(|drop| (drop.reason, drop.packets)).collect())
    }
}

impl Contender for Ours {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn thread(&self) -> &Thread {
        &self.thread
    }

    fn packets(&mut self) -> Result<u64> {
        Ok(worker(&self.status()?)?.packets)
    }
}

fn status(api: &Api) -> Result<v1::SwitchStatus> {
    api.switch(|mut switch| async move { switch.get_status(v1::GetStatusRequest {}).await })
}

fn worker(status: &v1::SwitchStatus) -> Result<&v1::WorkerStatus> {
    status.workers.first().context("the switch has no worker")
}

fn sends(rule: &v1::Rule) -> bool {
    let applied = rule.instructions.iter().flat_map(|instructions| &instructions.apply_actions);
    applied.into_iter().any(|action| matches!(action.action, Some(Action::Output(_))))
}

/// The ports that traffic of a case comes in by, and those that it leaves by; a tunnel with the one it runs over.
fn ports(tunnel: Option<Tunnel>, recording: &Path, repeat: bool) -> (Vec<v1::PortSpec>, Vec<v1::PortSpec>) {
    let spec = |number, name: &str, kind| v1::PortSpec {
        number,
        name: name.to_owned(),
        kind: Some(kind),
        ..Default::default()
    };
    let stands_in = |yes: bool| if yes { UNDERLAY.to_owned() } else { String::new() };
    let arrives = tunnel == Some(Tunnel::VxlanPop);
    let input = v1::PcapPort {
        receive_file: recording.display().to_string(),
        repeat,
        interface: stands_in(arrives),
        ..Default::default()
    };
    let output = v1::PcapPort { interface: stands_in(tunnel.is_some() && !arrives), ..Default::default() };
    let mut leaving = vec![spec(OUTPUT, "output", Kind::Pcap(output))];
    let mut arriving = vec![spec(INPUT, "input", Kind::Pcap(input))];
    let local_address = TUNNEL_ADDRESS.octets().to_vec();
    let underlay_port = if arrives { INPUT } else { OUTPUT };
    match tunnel {
        Some(Tunnel::VxlanPush | Tunnel::VxlanPop) => {
            let tunnel = v1::TunnelPort { local_address, underlay_port, ..Default::default() };
            let side = if arrives { &mut arriving } else { &mut leaving };
            side.push(spec(TUNNEL, "tunnel", Kind::Vxlan(tunnel)));
        }
        Some(Tunnel::GrePush) => {
            let tunnel = v1::GrePort { local_address, underlay_port };
            leaving.push(spec(TUNNEL, "tunnel", Kind::Gre(tunnel)));
        }
        None => {}
    }
    (arriving, leaving)
}

/// A bundle that adds rules, in parts; there is at least one part.
pub fn bundle_of(rules: &[String]) -> Result<Vec<Bundle>> {
    let parse = |rule: &String| {
        let rule = translated(rule);
        parse_rule(&rule).map_err(|fault| anyhow!("{rule}: {fault}"))
    };
    let mut parts = Vec::new();
    for chunk in rules.chunks(RULES_PER_MESSAGE) {
        let add_rules = chunk.iter().map(parse).collect::<Result<Vec<_>>>()?;
        parts.push(Bundle { add_rules, ..Bundle::default() });
    }
    match parts.split_last_mut() {
        Some((_, before)) => before.iter_mut().for_each(|part| part.more = true),
        None => parts.push(Bundle::default()),
    }
    Ok(parts)
}

/// A rule of Open vSwitch as ours: `ct(…,table=N)` sends the packet through the tables anew there; here the walk goes
/// on.
pub fn translated(rule: &str) -> String {
    let Some((matching, actions)) = rule.split_once("actions=") else { return rule.to_owned() };
    let mut actions = actions.to_owned();
    while let Some(at) = actions.find(",table=") {
        let Some(end) = actions[at..].find(')').map(|length| at + length) else { break };
        let table = actions[at + ",table=".len()..end].to_owned();
        actions.replace_range(at..=end, &format!("),goto_table:{table}"));
    }
    format!("{matching}actions={actions}")
}

/// How long [`settle`] waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// Lets it run until every frame of a recording was seen several times and found in the cache. Gives whether it came
/// to that.
pub fn settle(ours: &mut Ours, frames: usize) -> Result<bool> {
    let begin = std::time::Instant::now();
    let mut misses = ours.misses()?;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        ours.process.check()?;
        let (packets, now) = (ours.packets()?, ours.misses()?);
        if now == misses && packets > 3 * frames as u64 {
            ours.settled()?;
            return Ok(true);
        }
        if begin.elapsed() > PATIENCE {
            ours.settled()?;
            return Ok(false);
        }
        misses = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_the_same_but_for_recirculation() {
        assert_eq!(
            translated("table=1,ip,actions=ct(zone=1,nat,table=2)"),
            "table=1,ip,actions=ct(zone=1,nat),goto_table:2"
        );
        assert_eq!(translated("table=1,actions=goto_table:2"), "table=1,actions=goto_table:2");
        assert!(parse_rule(&translated("ip,actions=ct(commit,zone=1,nat(src=192.0.2.1),table=2)")).is_ok());
    }
}
