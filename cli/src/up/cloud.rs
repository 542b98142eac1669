//! The demo cloud, step by step: a physical network, hosts, a controller, switches, then what a person
//! would ask the controller for. Everything runs on this machine, in network namespaces.
//!
//! The numbered road:
//! 1. an underlay: one namespace with a bridge, and a cable (veth) from it to each host's `eth0`; likewise a physical
//!    network, at `eth1`; a namespace that plays the internet, and a cable from it to the last host, the gateway host;
//! 2. the controller, in the machine's own namespace;
//! 3. one switch per host, inside the host's namespace;
//! 4. hosts, projects, networks, subnets, a router that leads out, and ports, by the API;
//! 5. each port plugged into a namespace that plays an instance;
//! 6. a real DHCP client in each.
//!
//! Whatever ends a cloud, [`Cloud::remove`], an error half way or a panic, everything in its record is
//! removed.

use super::api::Api;
use super::instance::{self, Instance, InstancePlan};
use super::interrupt;
use super::layout::{Layout, UNDERLAY};
use super::namespace::{ip, run_inside};
use super::outside;
use super::program::{Program, ProgramPlan, last_lines};
use super::record::{self, Record};
use super::settings;
use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weft_proto::v1;

/// The MTU of the underlay, bytes; instances have 50 less (VXLAN).
pub const UNDERLAY_MTU: u32 = 1500;

/// The physical network that all hosts reach, and their interface to it.
pub const PROVIDER: &str = "provider";
/// See [`PROVIDER`].
pub const PROVIDER_INTERFACE: &str = "eth1";

/// How long programs may take to come up, and hosts to connect.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Lines of progress, each with the time since the start.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    started: Instant,
}

impl Progress {
    /// The clock starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Prints a line.
    pub fn say(&self, line: impl AsRef<str>) {
        println!("{:>7.2} s  {}", self.started.elapsed().as_secs_f64(), line.as_ref());
    }
}

/// A namespace that plays a host, and its switch.
pub struct HostSite {
    /// Its name for the controller: "a".
    pub name: String,
    /// Where it runs.
    pub namespace: String,
    /// On the underlay.
    pub address: Ipv4Addr,
    /// The way to its switch.
    pub switch: Api,
    /// Its switch, in the cloud's list of programs.
    pub program: usize,
}

/// A cloud that runs.
pub struct Cloud {
    /// Names and places.
    pub layout: Layout,
    /// Where progress goes.
    pub progress: Progress,
    /// In the order of their names.
    pub hosts: Vec<HostSite>,
    /// What plays instances, in the order of their numbers.
    pub instances: Vec<Instance>,
    /// The address of the first project's router outside.
    pub outside: Ipv4Addr,
    /// The way to the controller.
    pub controller: Api,
    controller_program: usize,
    programs: Vec<Program>,
    record: Record,
    removed: bool,
}

impl Cloud {
    /// Builds steps 1 to 5 of the road with this many hosts. Clients for DHCP are started by
    /// [`Cloud::start_clients`], so that a fault can be planted before.
    ///
    /// # Errors
    /// The first thing that went wrong. Nothing is left behind then.
    pub fn build(layout: Layout, host_count: usize, progress: Progress) -> Result<Self> {
        let record = Record::begin(&layout.record())?;
        let controller = Api::new(&layout.controller_socket())?;
        let mut cloud = Self {
            layout,
            progress,
            hosts: Vec::new(),
            instances: Vec::new(),
            outside: Ipv4Addr::UNSPECIFIED,
            controller,
            controller_program: 0,
            programs: Vec::new(),
            record,
            removed: false,
        };
        settings::write_dhcp_script(&cloud.layout)?;
        cloud.lay_underlay(host_count)?;
        cloud.lay_provider(host_count)?;
        cloud.lay_internet(host_count)?;
        cloud.start_controller()?;
        for index in 0..host_count {
            cloud.register_host(index, index == outside::gateway_host(host_count))?;
        }
        cloud.wait_for_hosts()?;
        cloud.make_projects(host_count)?;
        Ok(cloud)
    }

    fn lay_underlay(&mut self, host_count: usize) -> Result<()> {
        let underlay = self.layout.underlay_namespace();
        self.record.namespace(&underlay)?;
        ip(&format!("-n {underlay} link add underlay type bridge"))?;
        ip(&format!("-n {underlay} link set underlay up"))?;
        for index in 0..host_count {
            interrupt::check()?;
            let name = Layout::host_name(index);
            let namespace = self.layout.host_namespace(&name);
            let cable = Layout::cable(&name);
            let address = Layout::underlay_address(index);
            self.record.namespace(&namespace)?;
            ip(&format!("-n {underlay} link add {cable} type veth peer name eth0 netns {namespace}"))?;
            // With a veth's default offloads, frames carry unfinished checksums that AF_XDP hands on
            // as they are.
            run_inside(&underlay, &format!("ethtool -K {cable} tx off"))?;
            run_inside(&namespace, "ethtool -K eth0 tx off")?;
            ip(&format!("-n {underlay} link set {cable} master underlay mtu {UNDERLAY_MTU} up"))?;
            ip(&format!("-n {namespace} addr add {address}/{} dev eth0", UNDERLAY.1))?;
            ip(&format!("-n {namespace} link set eth0 mtu {UNDERLAY_MTU} up"))?;
        }
        let (network, length) = UNDERLAY;
        self.progress.say(format!(
            "underlay: {host_count} hosts on {network}/{length}, in namespaces {underlay} and {}",
            self.layout.host_namespace("*")
        ));
        Ok(())
    }

    /// The physical network of VLAN and flat networks: another bridge beside the underlay's, and a cable to each host.
    fn lay_provider(&self, host_count: usize) -> Result<()> {
        let underlay = self.layout.underlay_namespace();
        ip(&format!("-n {underlay} link add provider type bridge"))?;
        ip(&format!("-n {underlay} link set provider up"))?;
        for name in (0..host_count).map(Layout::host_name) {
            let (namespace, cable) = (self.layout.host_namespace(&name), format!("{}-p", Layout::cable(&name)));
            ip(&format!("-n {underlay} link add {cable} type veth peer name {PROVIDER_INTERFACE} netns {namespace}"))?;
            // A tag that lies beside the frame, for hardware to write, is likewise not seen.
            run_inside(&underlay, &format!("ethtool -K {cable} tx off txvlan off"))?;
            ip(&format!("-n {underlay} link set {cable} master provider up"))?;
            ip(&format!("-n {namespace} link set {PROVIDER_INTERFACE} up"))?;
        }
        Ok(())
    }

    fn lay_internet(&mut self, host_count: usize) -> Result<()> {
        let internet = self.layout.internet_namespace();
        self.record.namespace(&internet)?;
        let host = Layout::host_name(outside::gateway_host(host_count));
        outside::lay(&internet, &self.layout.host_namespace(&host))?;
        self.progress.say(format!(
            "internet: {} and {} in namespace {internet}, behind host {host}",
            outside::UPSTREAM,
            outside::FAR
        ));
        Ok(())
    }

    fn start_controller(&mut self) -> Result<()> {
        for file in [self.layout.controller_socket(), self.layout.token_file()] {
            if file.exists() {
                bail!(
                    "{} exists: another controller runs on this machine, or was killed. End it, or remove the file, or \
                     choose another place with --directory.",
                    file.display()
                );
            }
            self.record.file(&file)?;
        }
        let port = match self.layout.listen_port() {
            Some(port) => {
                TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
                    format!(
                        "port {port} of 127.0.0.1 is taken, and the controller needs it. End what listens there (ss -ltnp \
                         sport = :{port}), or use --directory, which takes any port that is free."
                    )
                })?;
                port
            }
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
        };
        let plan = settings::controller(&self.layout, port)?;
        self.controller_program = self.run(plan)?;
        let status = self.wait_for("the controller to answer", |cloud| {
            cloud.controller.cloud(|mut controller| async move {
                controller.get_controller_status(v1::GetControllerStatusRequest {}).await
            })
        })?;
        self.progress.say(format!("controller: version {}, on 127.0.0.1:{port}", status.version));
        Ok(())
    }

    fn register_host(&mut self, index: usize, gateway: bool) -> Result<()> {
        interrupt::check()?;
        let name = Layout::host_name(index);
        let request = v1::CreateHostRequest { name: name.clone() };
        self.controller
            .cloud(|mut controller| async move { controller.create_host(request).await })
            .with_context(|| format!("host create {name}"))?;
        // One host shows that several workers do what one does.
        let workers = if index == 0 { 2 } else { 1 };
        let program = self.run(settings::switch(&self.layout, &name, workers, gateway)?)?;
        let switch = Api::new(&self.layout.switch_socket(&name))?;
        self.hosts.push(HostSite {
            namespace: self.layout.host_namespace(&name),
            address: Layout::underlay_address(index),
            name,
            switch,
            program,
        });
        Ok(())
    }

    /// Waits until every host is connected and has what it should have.
    ///
    /// # Errors
    /// If that takes too long, or a program ends meanwhile.
    pub fn wait_for_hosts(&mut self) -> Result<()> {
        let expected = self.hosts.len();
        self.wait_for("the hosts to connect", move |cloud| {
            let reply = cloud
                .controller
                .cloud(|mut controller| async move { controller.list_hosts(v1::ListHostsRequest {}).await })?;
            let ready = reply.hosts.iter().filter(|host| host.connected);
            let ready = ready.filter(|host| host.generation == host.acknowledged_generation).count();
            if ready < expected {
                let faults: Vec<&str> =
                    reply.hosts.iter().map(|host| host.fault.as_str()).filter(|fault| !fault.is_empty()).collect();
                bail!("{ready} of {expected} are. {}", faults.join(" "));
            }
            Ok(())
        })?;
        self.progress.say(format!("hosts: {expected} switches connected to the controller"));
        Ok(())
    }

    fn make_projects(&mut self, host_count: usize) -> Result<()> {
        for project in instance::PROJECTS {
            self.controller
                .cloud(|mut controller| async move {
                    controller.create_project(v1::CreateProjectRequest { name: project.into() }).await
                })
                .with_context(|| format!("project create {project}"))?;
            let network = instance::network_request(project);
            self.controller
                .cloud(|mut controller| async move { controller.create_network(network).await })
                .with_context(|| format!("network create in project {project}"))?;
            let subnet = instance::subnet_request(project);
            self.controller
                .cloud(|mut controller| async move { controller.create_subnet(subnet).await })
                .with_context(|| format!("subnet create in project {project}"))?;
        }
        self.progress.say(format!(
            "projects: {}, each with a network {} of the same addresses, {}",
            instance::PROJECTS.join(" and "),
            instance::NETWORK,
            instance::CIDR
        ));
        self.outside = outside::lead_out(&self.controller)?;
        self.progress.say(format!(
            "router: {} of project {} leads to network {} as {}",
            outside::ROUTER,
            instance::PROJECTS[0],
            outside::INTERNET,
            self.outside
        ));
        for plan in instance::plan(host_count) {
            self.add_instance(plan)?;
        }
        Ok(())
    }

    /// Makes a port, a namespace that plays its instance, and plugs the one into the other. Gives its place in
    /// [`Cloud::instances`].
    ///
    /// # Errors
    /// If the controller or the host refuses.
    pub fn add_instance(&mut self, plan: InstancePlan) -> Result<usize> {
        interrupt::check()?;
        let number = self.instances.len() + 1;
        let namespace = self.layout.instance_namespace(number);
        self.record.namespace(&namespace)?;
        let host = self.hosts[plan.host].name.clone();
        let instance = Instance::plug(&self.controller, plan, &host, namespace, &self.layout.directory)?;
        self.progress.say(format!(
            "instance: port {} of project {} plugged on host {host} into namespace {}",
            instance.plan.name, instance.plan.project, instance.namespace
        ));
        self.instances.push(instance);
        Ok(number - 1)
    }

    /// Starts a DHCP client in each of these instances and waits, all together at most `patience`, until each
    /// has its lease. Gives the names of those that have none.
    ///
    /// # Errors
    /// If a client cannot be started.
    pub fn start_clients(&mut self, places: &[usize], patience: Duration) -> Result<Vec<String>> {
        for &place in places {
            interrupt::check()?;
            let plan = settings::dhcp_client(&self.layout, &self.instances[place]);
            let program = self.run(plan)?;
            self.instances[place].client = Some(program);
        }
        let deadline = Instant::now() + patience;
        let mut missing = Vec::new();
        for &place in places {
            while self.instances[place].lease().is_none() && Instant::now() < deadline {
                interrupt::check()?;
                std::thread::sleep(Duration::from_millis(20));
            }
            let instance = &self.instances[place];
            match instance.lease() {
                Some(lease) => self.progress.say(format!(
                    "lease: {} has {}/{} by DHCP, MTU {}",
                    instance.namespace,
                    lease.get("ip"),
                    lease.get("mask"),
                    lease.get("mtu")
                )),
                None => missing.push(instance.plan.name.clone()),
            }
        }
        Ok(missing)
    }

    /// Starts a program of the cloud; gives its place in the list.
    fn run(&mut self, plan: ProgramPlan) -> Result<usize> {
        self.programs.push(Program::start(plan, &mut self.record)?);
        Ok(self.programs.len() - 1)
    }

    /// Asks until the answer is not an error.
    ///
    /// # Errors
    /// The last error, after `START_PATIENCE`; at once if a program of the cloud has ended, or the user
    /// interrupts.
    pub fn wait_for<T>(&mut self, what: &str, mut ask: impl FnMut(&Self) -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            interrupt::check()?;
            let error = match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let Some(obituary) = self.obituaries().into_iter().next() {
                bail!(
                    "{obituary}The cloud did not come up and is removed, its logs too. Mend what these lines complain of, \
                     then start it again."
                );
            }
            if Instant::now() >= deadline {
                return Err(error).with_context(|| format!("waited {} s for {what} in vain", START_PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// What is to say about programs that have ended since the last call.
    pub fn obituaries(&mut self) -> Vec<String> {
        self.programs.iter_mut().filter_map(Program::obituary).collect()
    }

    /// The same for people who use the cloud: also what is lost with the program, and what to do.
    pub fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for place in 0..self.programs.len() {
            if let Some(obituary) = self.programs[place].obituary() {
                news.push(format!("{obituary}{}\n{}", self.consequence(place), self.remedy()));
            }
        }
        news
    }

    /// What the end of the program at this place means.
    fn consequence(&self, place: usize) -> String {
        if place == self.controller_program {
            return "The switches go on forwarding by the rules they have, but weft finds no controller: nothing can be \
                    asked for or changed."
                .to_owned();
        }
        if let Some(host) = self.hosts.iter().find(|host| host.program == place) {
            let mut cut = self.instances.iter().filter(|instance| instance.host == host.name).peekable();
            if cut.peek().is_none() {
                return format!("Its interfaces are gone with it; host {} has no instances.", host.name);
            }
            let cut = cut.map(|instance| instance.namespace.as_str()).collect::<Vec<_>>().join(", ");
            return format!(
                "Its interfaces are gone with it: what is in {cut} has no network any more. weft port list shows the ports \
                 of host {} as DOWN.",
                host.name
            );
        }
        if let Some(instance) = self.instances.iter().find(|instance| instance.client == Some(place)) {
            return format!("{} keeps its address, but nobody renews its lease.", instance.namespace);
        }
        String::new()
    }

    /// How to go on after a program has died.
    fn remedy(&self) -> String {
        let (up, option) = if self.layout.is_default {
            ("make run, or weft up", String::new())
        } else {
            ("weft up", format!(" --directory {}", self.layout.directory.display()))
        };
        format!(
            "What is left goes on running, to be looked at. Then end it (Ctrl-C here, or weft down{option}), which removes \
             the logs too, and start it again ({up}{option}). If the log does not tell why it died, report it with the log."
        )
    }

    /// What may explain a failure: the last log lines of the controller, the switches and the clients without a lease,
    /// and the switches' drops.
    #[must_use]
    pub fn evidence(&self) -> String {
        let leaseless = self.instances.iter().filter(|instance| instance.lease().is_none());
        let leaseless: Vec<usize> = leaseless.filter_map(|instance| instance.client).collect();
        let mut text = String::new();
        for (place, program) in self.programs.iter().enumerate() {
            let server = program.plan.log.extension().is_some_and(|kind| kind == "log");
            if server || leaseless.contains(&place) {
                text += &format!("  {}:\n{}", program.plan.name, last_lines(&program.plan.log, 8));
            }
        }
        for host in &self.hosts {
            let reply = host
                .switch
                .switch(|mut switch| async move { switch.list_drops(v1::ListDropsRequest::default()).await });
            let drops = reply.map_or_else(
                |error| format!("{error:#}"),
                |reply| {
                    reply
                        .drops
                        .iter()
                        .map(|drop| format!("{} {}", drop.packets, drop.reason))
                        .collect::<Vec<_>>()
                        .join(", ")
                },
            );
            text += &format!("  drops of host {}: {drops}\n", host.name);
        }
        text
    }

    /// Kills the controller as a crash would.
    pub fn crash_controller(&mut self) {
        self.programs[self.controller_program].crash();
    }

    /// Starts the controller again after [`Cloud::crash_controller`], as it was.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart_controller(&mut self) -> Result<()> {
        let plan = self.programs[self.controller_program].plan.clone();
        // A socket that a killed program left is its successor's to replace.
        self.programs[self.controller_program] = Program::start(plan, &mut self.record)?;
        Ok(())
    }

    /// Sends a signal to the DHCP client of an instance.
    ///
    /// # Errors
    /// If it has none that runs.
    pub fn signal_client(&self, place: usize, signal: rustix::process::Signal) -> Result<()> {
        let client = self.instances[place].client.map(|program| self.programs[program].id());
        let identity = client.and_then(record::ProcessIdentity::of);
        identity
            .with_context(|| format!("the DHCP client in {} has ended", self.instances[place].namespace))?
            .signal(signal);
        Ok(())
    }

    /// Process ids of all programs.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        self.programs.iter().map(Program::id).collect()
    }

    /// Names of all namespaces.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let mut names = vec![self.layout.underlay_namespace(), self.layout.internet_namespace()];
        names.extend(self.hosts.iter().map(|host| host.namespace.clone()));
        names.extend(self.instances.iter().map(|instance| instance.namespace.clone()));
        names
    }

    /// The place of the log directory, for messages.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.layout.directory.clone()
    }

    /// Ends and removes everything. Gives what could not be removed, one sentence each.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn remove(&mut self) -> Result<Vec<String>> {
        self.removed = true;
        let trouble = record::remove(&self.layout.record());
        // Reaps what has ended.
        self.programs.clear();
        trouble
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if !self.removed {
            match self.remove() {
                Ok(trouble) => trouble.iter().for_each(|line| eprintln!("weft: {line}")),
                Err(error) => eprintln!("weft: cleaning up: {error:#}. Try: weft down"),
            }
        }
    }
}
