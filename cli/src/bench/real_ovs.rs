//! Open vSwitch on AF_XDP, two of them: what ours is held against where a tunnel runs over real interfaces.

use super::place::Place;
use super::process::{Plan, Process};
use anyhow::{Context as _, Result};
use std::path::Path;
use weft_up::namespace::{ip, run, run_inside};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Debian's build without DPDK, which has AF_XDP.
const SWITCH: &str = "/usr/lib/openvswitch-switch/ovs-vswitchd";

/// Two instances at two hosts, joined by VXLAN.
pub struct Topology {
    instances: [String; 2],
    _programs: Vec<Process>,
}

impl Topology {
    /// Starts them.
    pub fn start(place: &Place) -> Result<Self> {
        let hosts = [place.namespace("ovs-h1")?, place.namespace("ovs-h2")?];
        let instances = [place.namespace("ovs-vm1")?, place.namespace("ovs-vm2")?];
        ip(&format!("-n {} link add eth0 type veth peer name eth0 netns {}", hosts[0], hosts[1]))?;
        let mut programs = Vec::new();
        for (index, (host, instance)) in hosts.iter().zip(&instances).enumerate() {
            ip(&format!("-n {instance} link add eth0 type veth peer name to-vm netns {host}"))?;
            for (namespace, interface) in [(host, "eth0"), (host, "to-vm"), (instance, "eth0")] {
                // AF_XDP does not tell of unfinished checksums.
                run_inside(namespace, &format!("ethtool -K {interface} tx off"))?;
                ip(&format!("-n {namespace} link set {interface} up"))?;
            }
            ip(&format!("-n {instance} link set eth0 mtu 1450"))?;
            ip(&format!("-n {instance} addr add 10.0.0.{}/24 dev eth0", index + 1))?;
            let core = if index == 0 { place.core } else { place.other_core() };
            programs.extend(switch(place, host, index, core)?);
        }
        // The first packets find the way.
        run_inside(&instances[0], "ping -n -c 8 -i 0.3 -W 2 10.0.0.2").context("nothing passes Open vSwitch")?;
        Ok(Self { instances, _programs: programs })
    }

    /// From the first to the second.
    pub fn ends(&self) -> [&str; 2] {
        [&self.instances[0], &self.instances[1]]
    }
}

/// A switch in a namespace, and its database; the switch ends first.
fn switch(place: &Place, host: &str, index: usize, core: usize) -> Result<[Process; 2]> {
    let directory = place.directory(&format!("ovs{index}"))?;
    let path = |name: &str| directory.join(name).display().to_string();
    run("ovsdb-tool", &["create", &path("conf.db"), SCHEMA])?;
    let start = |name, file: &str, arguments: Vec<String>| {
        Process::start(Plan {
            name,
            file: Path::new(file),
            arguments,
            environment: ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"]
                .map(|name| (name, directory.display().to_string()))
                .to_vec(),
            namespace: Some(host),
            directory: &directory,
            spoken_with: false,
        })
    };
    let socket = path("db.sock");
    let arguments = vec![path("conf.db"), format!("--remote=punix:{socket}"), format!("--unixctl={}", path("db.ctl"))];
    let mut database = start("ovsdb-server", "ovsdb-server", arguments)?;
    database.wait_for("socket", || directory.join("db.sock").exists().then_some(()))?;
    let vsctl = |words: &str| run_inside(host, &format!("ovs-vsctl --timeout=20 --db=unix:{socket} {words}"));
    vsctl("--no-wait init")?;
    vsctl(&format!("--no-wait set Open_vSwitch . other_config:pmd-cpu-mask={:#x}", 1u128 << core))?;
    let file = if Path::new(SWITCH).exists() { SWITCH } else { "ovs-vswitchd" };
    let arguments =
        vec![format!("unix:{socket}"), format!("--unixctl={}", path("vs.ctl")), "--disable-system".to_owned()];
    let mut process = start("ovs-vswitchd", file, arguments)?;
    process.wait_for("control socket", || directory.join("vs.ctl").exists().then_some(()))?;
    let mac = run_inside(host, "cat /sys/class/net/eth0/address")?;
    let [local, remote] = if index == 0 { ["10.99.0.1", "10.99.0.2"] } else { ["10.99.0.2", "10.99.0.1"] };
    vsctl(&format!(
        "add-br under -- set bridge under datapath_type=netdev other_config:hwaddr={} \
         -- add-port under eth0 -- set interface eth0 type=afxdp",
        mac.trim()
    ))?;
    ip(&format!("-n {host} addr add {local}/24 dev under"))?;
    ip(&format!("-n {host} link set under up"))?;
    vsctl(&format!(
        "add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 to-vm -- set interface to-vm type=afxdp \
         -- add-port br0 t0 -- set interface t0 type=vxlan options:remote_ip={remote} options:key=100"
    ))?;
    Ok([process, database])
}
