//! Namespaces and switches of a test that programs switches by hand.

use crate::{Outcome, eventually, program, weft};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use weft_proto::v1;
use weft_up::api::Api;
use weft_up::namespace::{self, ip, run_inside};
use weft_up::program::{Program, ProgramPlan};
use weft_up::record::{self, Record};

/// A test's namespaces and programs. Dropping it removes them.
pub struct Bench {
    directory: PathBuf,
    prefix: String,
    record: Record,
}

impl Bench {
    /// An empty one, with names that no other has.
    ///
    /// # Panics
    /// If its directory cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = PathBuf::from("/run/weft").join(&name);
        let record = Record::begin(&directory.join("made")).expect("the directory is new");
        Self { directory, prefix: format!("weft-{name}"), record }
    }

    /// Makes a namespace; gives its name.
    ///
    /// # Panics
    /// If it cannot: then the tests do not run as root.
    pub fn namespace(&mut self, tail: &str) -> String {
        let name = format!("{}-{tail}", self.prefix);
        self.record.namespace(&name).expect("namespaces can be made by root");
        name
    }

    /// Makes two namespaces that play hosts, joined by a cable: 10.99.0.1 and 10.99.0.2 on `eth0`.
    ///
    /// # Panics
    /// If a step fails.
    pub fn two_hosts(&mut self) -> [String; 2] {
        let hosts = [self.namespace("host-a"), self.namespace("host-b")];
        let [one, two] = &hosts;
        ip(&format!("-n {one} link add eth0 type veth peer name eth0 netns {two}")).expect("veth pairs can be made");
        for (host, address) in hosts.iter().zip(["10.99.0.1", "10.99.0.2"]) {
            run_inside(host, "ethtool -K eth0 tx off").expect("ethtool is installed");
            ip(&format!("-n {host} addr add {address}/24 dev eth0")).expect("the address is free");
            ip(&format!("-n {host} link set eth0 up")).expect("the interface is there");
        }
        hosts
    }

    /// Starts a switch of two workers, without a controller, in a namespace, and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn switch(&mut self, name: &str, namespace: &str) -> Switch {
        self.switch_with(name, namespace, "", "")
    }

    /// Likewise with more settings: lines before the sections, and sections.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn switch_with(&mut self, name: &str, namespace: &str, settings: &str, sections: &str) -> Switch {
        let socket = self.directory.join(format!("{name}.sock"));
        let text = format!("socket = {socket:?}\n{settings}\n[workers]\ncount = 2\n{sections}");
        let program = self.server("weft-switch", name, Some(namespace), &text);
        let api = Api::new(&socket).expect("a runtime can be made");
        let mut switch = Switch { host: format!("unix:{}", socket.display()), api, program };
        eventually("the switch's first answer", Duration::from_secs(20), || {
            if let Some(obituary) = switch.program.obituary() {
                panic!("{obituary}");
            }
            switch.status().ok()
        });
        switch
    }

    /// Starts a controller in the tests' own namespace, and waits until it answers; switches reach it by its socket.
    ///
    /// # Panics
    /// If it does not.
    pub fn controller(&mut self) -> Controller {
        let socket = self.directory.join("controller.sock");
        let text = format!(
            "socket = {socket:?}\nlisten = \"none\"\nstate_directory = {:?}\ntoken_file = \"none\"\n",
            self.directory.join("state")
        );
        let program = self.server("weft-controller", "controller", None, &text);
        let controller = Controller { address: format!("unix:{}", socket.display()), _program: program };
        eventually("the controller's first answer", Duration::from_secs(20), || {
            (controller.run(&["status"]).code == Some(0)).then_some(())
        });
        controller
    }

    /// Makes a directory of this name, which goes with the test.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let directory = self.directory.join(name);
        std::fs::create_dir(&directory).expect("the name is new");
        directory
    }

    fn server(&mut self, file: &str, name: &str, namespace: Option<&str>, settings: &str) -> Program {
        let config = self.directory.join(format!("{name}.toml"));
        std::fs::write(&config, settings).expect("the directory is ours");
        let plan = ProgramPlan {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            file: program(file),
            arguments: vec!["--config".into(), config.display().to_string()],
            environment: Vec::new(),
            directory: self.directory.clone(),
            log: self.directory.join(format!("{name}.log")),
        };
        Program::start(plan, &mut self.record).expect("the program can be started")
    }

    /// Starts a program in a namespace; it ends when it is dropped.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&mut self, namespace: &str, command: &str) -> Program {
        let mut words = command.split_whitespace().map(String::from);
        let file: PathBuf = words.next().expect("a command has a program").into();
        let plan = ProgramPlan {
            name: command.to_owned(),
            namespace: Some(namespace.to_owned()),
            log: self.directory.join(format!("{}-{}.out", file.display(), std::process::id())),
            file,
            arguments: words.collect(),
            environment: Vec::new(),
            directory: self.directory.clone(),
        };
        Program::start(plan, &mut self.record).expect("the program is installed")
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        match record::remove(&self.directory.join("made")) {
            Ok(trouble) => trouble.iter().for_each(|line| eprintln!("{line}")),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

/// A controller.
pub struct Controller {
    /// Where it listens.
    pub address: String,
    _program: Program,
}

impl Controller {
    /// Runs `weft` with these arguments on it.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        weft(&[&["--controller", &self.address], arguments].concat())
    }

    /// Likewise with arguments separated by spaces; it succeeds.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn weft(&self, arguments: &str) -> String {
        self.run(&arguments.split(' ').collect::<Vec<_>>()).success()
    }
}

/// A switch, without a controller unless its settings say so.
pub struct Switch {
    /// What the CLI calls it.
    pub host: String,
    /// The way to it.
    pub api: Api,
    /// Its process.
    pub program: Program,
}

impl Switch {
    /// Adds a port as a person would.
    #[track_caller]
    pub fn add_port(&self, number: u32, kind: &str) {
        let number = number.to_string();
        // Interfaces in different namespaces may have one name; ports may not.
        let name = format!("port{number}");
        let _added = weft(&["ports", "add", &self.host, &number, kind, "--name", &name]).success();
    }

    /// Adds rules as a person would.
    #[track_caller]
    pub fn add_flows(&self, flows: &[&str]) {
        let _added = weft(&[&["flows", "add", &self.host], flows].concat()).success();
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> anyhow::Result<v1::SwitchStatus> {
        self.api.switch(|mut switch| async move { switch.get_status(v1::GetStatusRequest {}).await })
    }

    /// A port and its counters.
    ///
    /// # Panics
    /// If there is none of this number.
    #[must_use]
    pub fn port(&self, number: u32) -> v1::PortStatus {
        let reply = self.api.switch(|mut switch| async move { switch.list_ports(v1::ListPortsRequest {}).await });
        let ports = reply.expect("the switch answers").ports;
        let found = ports.into_iter().find(|port| port.spec.as_ref().is_some_and(|spec| spec.number == number));
        found.unwrap_or_else(|| panic!("there is no port {number}"))
    }

    /// How many frames that came in by a port were dropped, by reason.
    ///
    /// # Panics
    /// If the switch does not answer.
    #[must_use]
    pub fn drops_of(&self, number: u32) -> std::collections::BTreeMap<String, u64> {
        let request = v1::ListDropsRequest { all: true };
        let reply = self.api.switch(|mut switch| async move { switch.list_drops(request).await });
        let drops = reply.expect("the switch answers").drops;
        let of_port = |drop: v1::DropCount| {
            let packets = drop.ports.iter().filter(|port| port.port == number).map(|port| port.packets).sum::<u64>();
            (packets > 0).then_some((drop.reason, packets))
        };
        drops.into_iter().filter_map(of_port).collect()
    }
}

/// Gives the interface `eth0` of a namespace an address.
///
/// # Panics
/// If it has no such interface.
pub fn address(namespace: &str, address: &str) {
    namespace::ip(&format!("-n {namespace} addr add {address} dev eth0")).expect("the port made an interface");
    namespace::ip(&format!("-n {namespace} link set eth0 up")).expect("the port made an interface");
}
