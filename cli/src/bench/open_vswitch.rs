//! Open vSwitch with its userspace datapath on DPDK, measured: a database and a switch of their own, which know
//! nothing of the machine's. Told everything by its own tools, as anybody would.

use super::cases::{Scenario, Tunnel};
use super::contender::{Contender, sample};
use super::hugepages::Hugepages;
use super::place::Place;
use super::process::{Plan, Process, Thread};
use super::statistics::median;
use super::traffic::{REMOTE_ADDRESS, REMOTE_MAC, TUNNEL_ADDRESS, TUNNEL_MAC};
use super::unix_control;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use weft_proto::text::format_mac;
use weft_up::namespace::{ip, run};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Debian's build with DPDK.
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

/// How its caches are set. Which is best depends on the case: all are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// As it comes: one flow in a hundred goes into the exact match cache.
    Default,
    /// Without exact match cache.
    WithoutEmc,
    /// Likewise, with the signature match cache.
    Smc,
}

impl Setting {
    /// All.
    pub const ALL: [Self; 3] = [Self::Default, Self::WithoutEmc, Self::Smc];

    /// In `other_config`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::WithoutEmc => "emc-insert-inv-prob=0",
            Self::Smc => "emc-insert-inv-prob=0 smc-enable=true",
        }
    }
}

/// See the module comment.
pub struct OpenVswitch {
    // In this order: the switch ends before its database.
    process: Process,
    _database: Process,
    /// Once it has a port.
    thread: Option<Thread>,
    directory: PathBuf,
    core: usize,
}

impl OpenVswitch {
    /// Starts one with a bridge without ports or rules.
    pub fn start(place: &Place, hugepages: Option<&Hugepages>, buffers: usize) -> Result<Self> {
        let directory = place.directory("theirs")?;
        let namespace = place.theirs();
        let path = |name: &str| directory.join(name).display().to_string();
        run("ovsdb-tool", &["create", &path("conf.db"), SCHEMA])?;
        let environment =
            || ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"].map(|name| (name, directory.display().to_string())).to_vec();
        let start = |name, file: &Path, arguments| {
            Process::start(Plan {
                name,
                file,
                arguments,
                environment: environment(),
                namespace: Some(&namespace),
                directory: &directory,
                spoken_with: false,
            })
        };
        let arguments = vec![
            path("conf.db"),
            format!("--remote=punix:{}", path("db.sock")),
            format!("--unixctl={}", path("db.ctl")),
        ];
        let mut database = start("ovsdb-server", Path::new("ovsdb-server"), arguments)?;
        database.wait_for("socket", || directory.join("db.sock").exists().then_some(()))?;
        let vsctl = |words: &[&str]| run_vsctl(&directory, words);
        vsctl(&["--no-wait", "init"])?;
        let memory = Hugepages::arguments(hugepages, buffers).join(" ");
        vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            &format!("other_config:pmd-cpu-mask={:#x}", 1u128 << place.core),
            &format!("other_config:dpdk-lcore-mask={:#x}", 1u128 << place.other_core()),
            &format!("other_config:dpdk-extra=\"--no-pci --file-prefix=weft-bench-{} {memory}\"", std::process::id()),
        ])?;
        let mut process = start(
            "ovs-vswitchd",
            Path::new(SWITCH),
            vec![
                format!("unix:{}", path("db.sock")),
                format!("--unixctl={}", path("vs.ctl")),
                "--disable-system".to_owned(),
                "-vconsole:warn".to_owned(),
            ],
        )
        .context("install openvswitch-switch-dpdk, or see deploy/prerequisites.sh bench")?;
        process.wait_for("control socket", || directory.join("vs.ctl").exists().then_some(()))?;
        vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure"])?;
        Ok(Self { process, _database: database, thread: None, core: place.core, directory })
    }

    /// The port that discards. The thread that switches, and from then on never sleeps, comes with it.
    pub fn add_output(&mut self, tunnel: Option<Tunnel>) -> Result<()> {
        let bridge = if matches!(tunnel, Some(Tunnel::VxlanPush | Tunnel::GrePush)) { "underlay" } else { "br0" };
        self.vsctl(&words(&format!(
            "add-port {bridge} n1 -- set interface n1 type=dpdk ofport_request=2 \
             options:dpdk-devargs=eth_null1,size=60,no-rx=1"
        )))?;
        self.thread = Some(self.process.thread("pmd-")?);
        Ok(())
    }

    /// Starts one with a case's rules and traffic.
    pub fn with(place: &Place, scenario: &Scenario, recording: &Path, hugepages: Option<&Hugepages>) -> Result<Self> {
        let mut own = Self::start(place, hugepages, scenario.frames.len() + 60_000)?;
        if let Some(tunnel) = scenario.tunnel {
            own.add_tunnel(place, tunnel)?;
        }
        own.add_output(scenario.tunnel)?;
        own.add_rules(&place.file("rules.txt"), &scenario.rules)?;
        own.add_traffic(recording, scenario.tunnel, scenario.repeat)?;
        Ok(own)
    }

    /// Its configuration.
    pub fn vsctl(&self, words: &[&str]) -> Result<String> {
        run_vsctl(&self.directory, words)
    }

    /// Its traffic begins.
    pub fn add_traffic(&self, recording: &Path, tunnel: Option<Tunnel>, repeat: bool) -> Result<()> {
        let bridge = if tunnel == Some(Tunnel::VxlanPop) { "underlay" } else { "br0" };
        let repeat = if repeat { ",infinite_rx=1" } else { "" };
        let options = format!("options:dpdk-devargs=eth_pcap0,rx_pcap={}{repeat}", recording.display());
        self.vsctl(&[
            "add-port",
            bridge,
            "n0",
            "--",
            "set",
            "interface",
            "n0",
            "type=dpdk",
            "ofport_request=1",
            &options,
        ])?;
        let error = self.vsctl(&["get", "interface", "n0", "error"])?;
        if error.trim() != "[]" {
            bail!("Open vSwitch does not open the recording: {}", error.trim());
        }
        Ok(())
    }

    /// Its traffic ends.
    pub fn remove_traffic(&self) -> Result<()> {
        self.vsctl(&["--if-exists", "del-port", "n0"])?;
        // Else the device stays, with its recording.
        let _not_there = self.control("netdev-dpdk/detach", &["eth_pcap0"]);
        Ok(())
    }

    /// Adds rules in one bundle. Gives how long its tool took.
    pub fn add_rules(&self, file: &Path, rules: &[String]) -> Result<Duration> {
        std::fs::write(file, rules.join("\n") + "\n")?;
        let begin = Instant::now();
        self.ofctl(&["--bundle", "add-flows", "br0", &file.display().to_string()])?;
        Ok(begin.elapsed())
    }

    fn ofctl(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("ovs-ofctl")
            .args(["-O", "OpenFlow14"])
            .args(words)
            .env("OVS_RUNDIR", &self.directory)
            .output()
            .context("cannot run ovs-ofctl")?;
        if !output.status.success() {
            bail!("ovs-ofctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Packets that left by the port which discards them.
    pub fn sent(&self) -> Result<u64> {
        let bridge = self.vsctl(&["port-to-br", "n1"])?;
        let text = self.ofctl(&["dump-ports", bridge.trim(), "n1"])?;
        let sent = text.split_once("tx pkts=").and_then(|(_, rest)| rest.split(',').next()?.trim().parse().ok());
        sent.with_context(|| format!("Open vSwitch does not say what it has sent: {text}"))
    }

    /// The tunnel port on `br0`, and the bridge below it, which has the tunnel's address and where frames leave or
    /// arrive.
    fn add_tunnel(&self, place: &Place, tunnel: Tunnel) -> Result<()> {
        let namespace = place.theirs();
        let hardware = format!("other_config:hwaddr={}", format_mac(&TUNNEL_MAC));
        let bridge =
            ["add-br", "underlay", "--", "set", "bridge", "underlay", "datapath_type=netdev", "fail-mode=secure"];
        self.vsctl(&[&bridge[..], &[&hardware]].concat())?;
        ip(&format!("-n {namespace} addr replace {TUNNEL_ADDRESS}/24 dev underlay"))?;
        ip(&format!("-n {namespace} link set underlay up"))?;
        let kind = if tunnel == Tunnel::GrePush { "gre" } else { "vxlan" };
        self.vsctl(&words(&format!(
            "add-port br0 t0 -- set interface t0 type={kind} options:remote_ip=flow options:key=flow ofport_request=3"
        )))?;
        if tunnel == Tunnel::VxlanPop {
            self.ofctl(&["add-flow", "underlay", "in_port=1,actions=LOCAL"])?;
        } else {
            self.ofctl(&["add-flow", "underlay", "in_port=LOCAL,actions=output:2"])?;
        }
        let remote = (REMOTE_ADDRESS.to_string(), format_mac(&REMOTE_MAC));
        self.control("tnl/neigh/set", &["underlay", &remote.0, &remote.1])?;
        Ok(())
    }

    /// What `ovs-appctl` would.
    pub fn control(&self, command: &str, arguments: &[&str]) -> Result<String> {
        unix_control::call(&self.directory.join("vs.ctl"), command, arguments)
    }

    /// A counter of the thread that switches, by its name in `dpif-netdev/pmd-stats-show`.
    pub fn counters(&self) -> Result<Counters> {
        let text = self.control("dpif-netdev/pmd-stats-show", &[])?;
        Counters::read(&text, self.core).with_context(|| format!("no counters of core {} in: {text}", self.core))
    }

    /// Forgets what it has cached.
    pub fn purge(&self) -> Result<()> {
        self.control("revalidator/purge", &[])?;
        Ok(())
    }

    /// Sets its caches.
    pub fn set(&self, setting: Setting) -> Result<()> {
        self.vsctl(&["remove", "Open_vSwitch", ".", "other_config", "emc-insert-inv-prob", "smc-enable"])?;
        if setting != Setting::Default {
            let words: Vec<String> = setting.text().split(' ').map(|word| format!("other_config:{word}")).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.vsctl(&[&["set", "Open_vSwitch", "."], &words[..]].concat())?;
        }
        self.purge()
    }

    /// Lets it run until every frame of a recording was seen several times and found in a cache. Gives whether it came
    /// to that.
    pub fn settle(&mut self, frames: usize) -> Result<bool> {
        const PATIENCE: Duration = Duration::from_secs(15);
        let begin = Instant::now();
        let first = self.counters()?;
        let mut last = first.clone();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            self.process.check()?;
            let now = self.counters()?;
            if now.misses() == last.misses() && now.packets - first.packets > 3 * frames as u64 {
                return Ok(true);
            }
            if begin.elapsed() > PATIENCE {
                return Ok(false);
            }
            last = now;
        }
    }

    /// Tries its settings, and leaves it with the best one. Gives what each costs, and whether that one settled.
    pub fn tune(&mut self, frames: usize) -> Result<(Vec<(Setting, f64)>, bool)> {
        let mut tried = Vec::new();
        for setting in Setting::ALL {
            self.set(setting)?;
            self.settle(frames)?;
            let costs =
                (0..3).map(|_| Ok(sample(self, Duration::from_millis(150))?.cost())).collect::<Result<Vec<_>>>()?;
            self.process.resume();
            tried.push((setting, median(&costs)));
        }
        tried.sort_by(|one, other| one.1.total_cmp(&other.1));
        if tried[0].0 == Setting::ALL[2] {
            return Ok((tried, true));
        }
        self.set(tried[0].0)?;
        let settled = self.settle(frames)?;
        Ok((tried, settled))
    }

    /// Bytes of memory that are its own, packet memory in huge pages not among them.
    pub fn memory(&self) -> Result<u64> {
        self.process.memory()
    }
}

impl Contender for OpenVswitch {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn thread(&self) -> &Thread {
        self.thread.as_ref().expect("what has traffic has an output")
    }

    fn packets(&mut self) -> Result<u64> {
        Ok(self.counters()?.packets)
    }
}

/// What a thread that switches has counted.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Received.
    pub packets: u64,
    /// The other lines with a whole number.
    pub others: Vec<(String, u64)>,
}

impl Counters {
    fn read(text: &str, core: usize) -> Option<Self> {
        let head = format!("core_id {core}:");
        let lines = text.lines().skip_while(|line| !line.contains(&head)).skip(1);
        let mut all = lines
            .take_while(|line| line.starts_with(' '))
            .filter_map(|line| line.trim().split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.split(' ').next()?.parse().ok()?)))
            .collect::<Vec<(String, u64)>>();
        let packets = all.iter().position(|(name, _)| name == "packets received")?;
        Some(Self { packets: all.remove(packets).1, others: all })
    }

    /// By the name in the list.
    pub fn get(&self, name: &str) -> u64 {
        self.others.iter().find(|(own, _)| own == name).map_or(0, |(_, value)| *value)
    }

    /// Packets that no cache knew.
    pub fn misses(&self) -> u64 {
        self.get("miss with success upcall") + self.get("miss with failed upcall")
    }

    /// Which counters hit since an earlier reading: the shares of all hits, those of at least 1 %.
    pub fn hits_since(&self, earlier: &Self) -> String {
        let since = |name: &&str| self.get(name) - earlier.get(name);
        let names = ["simple match hits", "emc hits", "smc hits", "megaflow hits"];
        let all: u64 = names.iter().map(since).sum::<u64>() + self.misses() - earlier.misses();
        let shares = names.iter().filter(|name| since(name) * 100 >= all.max(1)).map(|name| {
            let share = since(name) * 100 / all.max(1);
            let name = name.trim_end_matches(" hits");
            if share >= 99 { name.to_owned() } else { format!("{name} {share} %") }
        });
        shares.collect::<Vec<_>>().join(", ")
    }
}

fn run_vsctl(directory: &Path, words: &[&str]) -> Result<String> {
    let database = format!("--db=unix:{}", directory.join("db.sock").display());
    run("ovs-vsctl", &[&["--timeout=20", &database], words].concat())
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_the_core() {
        let text = "pmd thread numa_id 0 core_id 0:\n  packets received: 9\npmd thread numa_id 0 core_id 1:\n  packets \
                    received: 1200\n  avg. datapath passes per packet: 1.00\n  simple match hits: 0\n  emc hits: 200\n  \
                    megaflow hits: 1000\n  idle cycles: 77 ( 1.0%)\n  miss with success upcall: 3\nmain thread:\n  packets received: 5\n";
        let counters = Counters::read(text, 1).unwrap();
        assert_eq!((counters.packets, counters.misses(), counters.get("emc hits")), (1200, 3, 200));
        assert_eq!(counters.get("idle cycles"), 77);
        assert_eq!(counters.hits_since(&Counters::default()), "emc 16 %, megaflow 83 %");
        assert!(Counters::read(text, 7).is_none());
    }
}
