//! The switch's settings, as [`weft_proto::program::settings`] reads them. `docs/configuration.md` names each;
//! a test compares.

mod physical;
mod vhost_user;

pub use physical::Place;
pub use vhost_user::{DEFAULT_VHOST_USER_DIRECTORY, VhostUserPlace};

use crate::agent::Endpoint;
use crate::limits;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use weft_proto::UNDERLAY_ADDRESSES;
use weft_proto::program::settings::{Said, SettingsError, Source};
use weft_proto::program::{log, metrics};
use weft_proto::v1::AfXdpMode;

/// The API's socket unless the settings say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/switch.sock";

/// Where this host's certificate is unless the settings say otherwise.
pub const DEFAULT_CERTIFICATE_DIRECTORY: &str = "/var/lib/weft/switch";

/// Workers at most.
const WORKERS: usize = 64;
/// Buffers of packet memory at least: what one worker and one port need.
const LEAST_CHUNKS: usize = 512;
const LEAST_RUNS: usize = 64;
/// And at most: 64 GiB and 64 GiB.
const MOST_CHUNKS: usize = 16 << 20;
const MOST_RUNS: usize = 1 << 20;

/// The virtual switch of Weft.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "weft-switch", version = weft_proto::VERSION, about, max_term_width = 100)]
pub struct Flags {
    /// What to do instead of switching
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Read settings from this TOML file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, say what is wrong with them, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Name of this host for the controller
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Where the controller is: unix:PATH, or https://HOST:PORT from another machine, which must have joined; without
    /// it the switch runs on its own
    #[arg(long, value_name = "ENDPOINT")]
    pub controller: Option<String>,
    /// Where this host's key and certificate are, for https [default: /var/lib/weft/switch]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub certificate_directory: Option<PathBuf>,
    /// Socket of the switch's own API [default: /run/weft/switch.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Serve counters for Prometheus at this address, unencrypted and for everybody who reaches it; "none": do not
    /// [default: none]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<String>,
    /// Interface that carries the tunnels, or several
    #[arg(long, value_name = "INTERFACE", value_delimiter = ',')]
    pub underlay_interface: Option<Vec<String>>,
    /// Addresses of this host that tunnels end at [default: the first one of each of these interfaces]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub underlay_addresses: Option<Vec<Ipv4Addr>>,
    /// How AF_XDP works on it [default: auto]
    #[arg(long, value_name = "MODE")]
    pub underlay_mode: Option<Mode>,
    /// How many of its queues to use; 0: all [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub underlay_queues: Option<u32>,
    /// A physical network that this host reaches, and the interface that leads there, which the switch takes whole,
    /// or with ",shared" leaves to the host but for routers' addresses; once for each. They replace those of the file
    #[arg(long, value_name = "NAME=INTERFACE[,shared]")]
    pub physical: Option<Vec<String>>,
    /// Directory of the sockets that virtual machines connect to [default: /run/weft/vhost-user]
    #[arg(long, value_name = "DIRECTORY")]
    pub vhost_user_directory: Option<PathBuf>,
    /// Group whose members may connect to them, by name or number; only root unless given
    #[arg(long, value_name = "GROUP")]
    pub vhost_user_group: Option<String>,
    /// Packet memory in 4 KiB chunks [default: 8192]
    #[arg(long, value_name = "NUMBER")]
    pub memory_chunks: Option<usize>,
    /// Packet memory in 65 KiB runs, for large segments [default: 512]
    #[arg(long, value_name = "NUMBER")]
    pub memory_runs: Option<usize>,
    /// Number of workers [default: 1]
    #[arg(long, value_name = "NUMBER", alias = "workers")]
    pub workers_count: Option<usize>,
    /// Cores to pin the workers to, one for each: 2,3
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    pub workers_cores: Option<Vec<usize>>,
    /// Workers never sleep
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub workers_spin: Option<bool>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the program's own text in --help")]
    pub log: log::LogFlags,
}

/// What the program does instead of switching.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Join a controller on another machine: make a key and get a certificate for it
    ///
    /// `weft host join-token NAME`, where the controller is, prints the token. It works once.
    Join {
        /// The token; -: read it from standard input, so that it does not show in lists of processes
        token: String,
    },
}

/// How AF_XDP is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Native if the driver can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

impl From<Mode> for AfXdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    host: Option<String>,
    controller: Option<String>,
    certificate_directory: Option<PathBuf>,
    socket: Option<PathBuf>,
    metrics_listen: Option<String>,
    underlay: FileUnderlay,
    physical: BTreeMap<String, String>,
    vhost_user: FileVhostUser,
    memory: FileMemory,
    workers: FileWorkers,
    log: Option<String>,
    log_format: Option<log::Format>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileUnderlay {
    interface: Option<Interfaces>,
    addresses: Option<Vec<Ipv4Addr>>,
    mode: Option<Mode>,
    queues: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"eth1\" or [\"eth1\", \"eth2\"]")]
enum Interfaces {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileVhostUser {
    directory: Option<PathBuf>,
    group: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileMemory {
    chunks: Option<usize>,
    runs: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileWorkers {
    count: Option<usize>,
    cores: Option<Vec<usize>>,
    spin: Option<bool>,
}

/// The settings, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Empty without a controller.
    pub host: String,
    /// `None`: the switch runs on its own.
    pub controller: Option<Endpoint>,
    /// Where this host's certificate is, or will be.
    pub certificate_directory: PathBuf,
    /// Of the API.
    pub socket: PathBuf,
    /// Where counters are served; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// `None`: no tunnels, unless somebody adds an af_xdp port.
    pub underlay: Option<UnderlaySettings>,
    /// Interfaces of physical networks, by the networks' names.
    pub physical: BTreeMap<String, Place>,
    /// Sockets for virtual machines.
    pub vhost_user: VhostUserPlace,
    /// Chunks and runs.
    pub memory: (usize, usize),
    /// At least one.
    pub workers: usize,
    /// Empty, or one for each worker.
    pub cores: Vec<usize>,
    /// Workers never sleep.
    pub spin: bool,
    /// What is logged, and how.
    pub log: log::Settings,
}

/// The interfaces that carry the tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlaySettings {
    /// Their names; at least one.
    pub interfaces: Vec<String>,
    /// Where tunnels end; empty: at the first address of each interface.
    pub addresses: Vec<Ipv4Addr>,
    /// How.
    pub mode: Mode,
    /// 0: all.
    pub queues: u32,
}

impl Settings {
    /// From the flags, and the file they name.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(flags: Flags) -> Result<Self, SettingsError> {
        let source = Source::read(flags.config.as_deref())?;
        Self::of(flags, &source)
    }

    fn of(mut flags: Flags, source: &Source) -> Result<Self, SettingsError> {
        let parsed: File = source.parse()?;
        let underlay = underlay(&mut flags, parsed.underlay, source)?;
        let host = source.text("host", flags.host, parsed.host).unwrap_or_default();
        let certificate_directory = flags.certificate_directory.or(parsed.certificate_directory);
        let certificate_directory = certificate_directory.unwrap_or_else(|| DEFAULT_CERTIFICATE_DIRECTORY.into());
        let controller = source.text("controller", flags.controller, parsed.controller).map(|text| {
            let endpoint = Endpoint::parse(&text.value, &certificate_directory);
            endpoint.map_err(|problem| SettingsError::of_sentence(&text.place, &problem))
        });
        let controller = controller.transpose()?;
        check_host(&host, controller.is_some(), source)?;
        let metrics_listen =
            metrics::listen_address(source.text("metrics_listen", flags.metrics_listen, parsed.metrics_listen))?;
        let log = log::Settings::of(flags.log, parsed.log, parsed.log_format, source)?;
        let workers = source.number("workers.count", flags.workers_count, parsed.workers.count, 1, 1..=WORKERS)?;
        let cores_place = source.place("workers.cores", flags.workers_cores.is_some());
        let cores = flags.workers_cores.or(parsed.workers.cores).unwrap_or_default();
        if !cores.is_empty() && cores.len() != workers {
            let problem = format!("{} cores for {workers} workers", cores.len());
            return Err(SettingsError::new(cores_place, problem, "Name one core for each worker, or none."));
        }
        let memory = (
            source.number(
                "memory.chunks",
                flags.memory_chunks,
                parsed.memory.chunks,
                limits::DEFAULT_CHUNKS,
                LEAST_CHUNKS..=MOST_CHUNKS,
            )?,
            source.number(
                "memory.runs",
                flags.memory_runs,
                parsed.memory.runs,
                limits::DEFAULT_RUNS,
                LEAST_RUNS..=MOST_RUNS,
            )?,
        );
        let interfaces = underlay.as_ref().map_or(&[][..], |underlay| &underlay.interfaces);
        let physical = physical::networks(flags.physical, parsed.physical, interfaces, source)?;
        let group = source.text("vhost_user.group", flags.vhost_user_group, parsed.vhost_user.group);
        let directory = flags.vhost_user_directory.or(parsed.vhost_user.directory);
        let vhost_user = VhostUserPlace {
            directory: directory.unwrap_or_else(|| DEFAULT_VHOST_USER_DIRECTORY.into()),
            group: group.as_ref().map(vhost_user::group).transpose()?,
        };
        Ok(Self {
            host: host.value,
            controller,
            certificate_directory,
            socket: flags.socket.or(parsed.socket).unwrap_or_else(|| DEFAULT_SOCKET.into()),
            metrics_listen,
            underlay,
            physical,
            vhost_user,
            memory,
            workers,
            cores,
            spin: flags.workers_spin.or(parsed.workers.spin).unwrap_or_default(),
            log,
        })
    }
}

/// The underlay's settings, checked; `None`: it has none.
fn underlay(flags: &mut Flags, file: FileUnderlay, source: &Source) -> Result<Option<UnderlaySettings>, SettingsError> {
    let mode = flags.underlay_mode.or(file.mode);
    let queues = flags.underlay_queues.or(file.queues);
    let place = |key: &str, by_flag: bool| source.place(&format!("underlay.{key}"), by_flag);
    let by_flag = (flags.underlay_interface.is_some(), flags.underlay_addresses.is_some());
    let addresses = flags.underlay_addresses.take().or(file.addresses).unwrap_or_default();
    let interfaces = flags.underlay_interface.take().or(file.interface.map(|said| match said {
        Interfaces::One(name) => vec![name],
        Interfaces::Several(names) => names,
    }));
    let refuse = |key: &str, by_flag, problem: String, remedy: &str| {
        Err(SettingsError::new(place(key, by_flag), problem, remedy))
    };
    let Some(interfaces) = interfaces.filter(|interfaces| !interfaces.is_empty()) else {
        if mode.is_some() || queues.is_some() || !addresses.is_empty() {
            let problem = "the underlay has no interface".to_owned();
            return refuse("interface", false, problem, "Name it: [underlay] interface = \"eth1\".");
        }
        return Ok(None);
    };
    for (index, name) in interfaces.iter().enumerate() {
        check_interface(name, &place("interface", by_flag.0))?;
        if interfaces[..index].contains(name) {
            return refuse("interface", by_flag.0, format!("{name} is named twice"), "Name each interface once.");
        }
    }
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            return refuse("addresses", by_flag.1, format!("{address} is named twice"), "Name each address once.");
        }
    }
    for (key, by_flag, count) in [("interface", by_flag.0, interfaces.len()), ("addresses", by_flag.1, addresses.len())]
    {
        if count > UNDERLAY_ADDRESSES {
            let remedy = format!("Use at most {UNDERLAY_ADDRESSES}.");
            return refuse(key, by_flag, format!("the underlay has {count} of them"), &remedy);
        }
    }
    let (mode, queues) = (mode.unwrap_or_default(), queues.unwrap_or_default());
    Ok(Some(UnderlaySettings { interfaces, addresses, mode, queues }))
}

fn check_interface(name: &str, place: &str) -> Result<(), SettingsError> {
    if (1..=15).contains(&name.len()) {
        return Ok(());
    }
    let problem = format!("\"{name}\" cannot be an interface's name");
    Err(SettingsError::new(place, problem, "Use 1 to 15 bytes, a name that `ip link` shows."))
}

fn check_host(host: &Said, needed: bool, source: &Source) -> Result<(), SettingsError> {
    if host.value.is_empty() {
        if needed {
            let remedy = "Give the name under which the controller knows this host (--host NAME).";
            return Err(SettingsError::new(
                source.place("host", false),
                "a controller is configured, but no host",
                remedy,
            ));
        }
        return Ok(());
    }
    if host.value.len() > 253 || host.value.chars().any(|one| one.is_whitespace() || one.is_control()) {
        let problem = format!("\"{}\" cannot be a host's name", host.value.escape_debug());
        return Err(SettingsError::new(&host.place, problem, "Use 1 to 253 bytes without spaces."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::path::Path;
    use weft_proto::program::settings::Example;

    fn load(text: &str, flags: &[&str]) -> Result<Settings, SettingsError> {
        let flags = Flags::try_parse_from([&["weft-switch"], flags].concat()).expect("flags are right");
        Settings::of(flags, &Source::of(Path::new("weft.toml"), text))
    }

    fn place(interface: &str) -> Place {
        Place { interface: interface.to_owned(), shared: false }
    }

    fn refused(text: &str, flags: &[&str]) -> String {
        load(text, flags).expect_err("the settings are wrong").to_string()
    }

    #[test]
    fn without_any_setting_the_switch_runs_on_its_own() {
        let settings = load("", &[]).unwrap();
        assert_eq!((settings.host.as_str(), settings.controller, settings.underlay), ("", None, None));
        assert_eq!((settings.memory, settings.workers), ((limits::DEFAULT_CHUNKS, limits::DEFAULT_RUNS), 1));
        assert_eq!(settings.socket, Path::new(DEFAULT_SOCKET));
    }

    #[test]
    fn every_setting_stands_in_the_file_and_flags_go_first() {
        let text = "log = \"debug\"\nlog_format = \"json\"\nhost = \"one\"\ncontroller = \"https://c:9\"\ncertificate_directory = \"/c\"\nsocket = \"/s.sock\"\n[underlay]\ninterface = \
                    \"eth1\"\nmode = \"generic\"\nqueues = 2\n[physical]\nprovider = \"eth3\"\n[vhost_user]\ndirectory = \"/v\"\ngroup = \"7\"\n[memory]\nchunks = 1024\nruns = 128\n[workers]\ncount = \
                    2\ncores = [0, 1]\nspin = true\n";
        let file = load(text, &[]).unwrap();
        let endpoint = Endpoint::Tls { address: "c:9".to_owned(), certificate_directory: "/c".into() };
        assert_eq!(file.controller, Some(endpoint));
        let underlay = UnderlaySettings {
            interfaces: vec!["eth1".to_owned()],
            addresses: Vec::new(),
            mode: Mode::Generic,
            queues: 2,
        };
        assert_eq!(file.underlay, Some(underlay));
        assert_eq!(file.physical, BTreeMap::from([("provider".to_owned(), place("eth3"))]));
        assert_eq!(file.vhost_user, VhostUserPlace { directory: "/v".into(), group: Some(7) });
        assert_eq!((file.memory, file.workers, file.cores, file.spin), ((1024, 128), 2, vec![0, 1], true));
        assert_eq!((file.log.level.as_str(), file.log.format), ("debug", log::Format::Json));
        let flags = [
            "--host=two",
            "--controller=https://c:9460",
            "--certificate-directory=/d",
            "--socket=/t.sock",
            "--underlay-interface=eth2,eth6",
            "--underlay-addresses=10.0.0.1,10.0.0.2",
            "--underlay-mode=native",
            "--underlay-queues=1",
            "--physical=lab=eth4",
            "--physical=internet=eth5",
            "--vhost-user-directory=/w",
            "--vhost-user-group=root",
            "--memory-chunks=2048",
            "--memory-runs=256",
            "--workers-count=1",
            "--workers-cores=3",
            "--workers-spin=false",
            "--log=warn",
            "--log-format=lines",
        ];
        let both = load(text, &flags).unwrap();
        assert_eq!((both.host.as_str(), both.socket.to_str()), ("two", Some("/t.sock")));
        let endpoint = Endpoint::Tls { address: "c:9460".to_owned(), certificate_directory: "/d".into() };
        assert_eq!(both.controller, Some(endpoint));
        let underlay = UnderlaySettings {
            interfaces: vec!["eth2".to_owned(), "eth6".to_owned()],
            addresses: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
            mode: Mode::Native,
            queues: 1,
        };
        assert_eq!(both.underlay, Some(underlay));
        let physical = [("lab", "eth4"), ("internet", "eth5")].map(|(name, interface)| (name.into(), place(interface)));
        assert_eq!(both.physical, BTreeMap::from(physical));
        assert_eq!(both.vhost_user, VhostUserPlace { directory: "/w".into(), group: Some(0) });
        assert_eq!((both.memory, both.workers, both.cores, both.spin), ((2048, 256), 1, vec![3], false));
        assert_eq!((both.log.level.as_str(), both.log.format), ("warn", log::Format::Lines));
    }

    #[test]
    fn the_documentation_names_every_setting() {
        let page = include_str!("../../docs/configuration.md");
        let example = Example::of(page, "switch.toml", &Flags::command()).unwrap_or_else(|error| panic!("{error}"));
        // What it shows are the defaults; what it only mentions is right too.
        assert_eq!(load(&example.as_it_stands, &[]), load("", &[]));
        let all = load(&example.all_settings, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(all.underlay.is_some() && !all.physical.is_empty() && !all.cores.is_empty(), "{all:?}");
    }

    #[test]
    fn a_wrong_key_is_refused_with_its_line_and_the_right_one() {
        let error = refused("host = \"a\"\n\n[underlay]\ninterfaec = \"eth1\"\n", &[]);
        assert_eq!(error, "weft.toml, line 4: there is no setting interfaec. Did you mean interface?");
    }

    #[test]
    fn wrong_values_are_refused_where_they_stand() {
        assert_eq!(
            refused("\n[workers]\ncount = 0\n", &[]),
            "weft.toml, line 3 (workers.count): 0 is out of range. Use 1 to 64."
        );
        assert_eq!(refused("", &["--workers-count=65"]), "--workers-count: 65 is out of range. Use 1 to 64.");
        let error = refused("host = \"a\"\ncontroller = \"tcp://x\"\n", &[]);
        assert_eq!(
            error,
            "weft.toml, line 2 (controller): \"tcp://x\" is no controller's address. Write unix:PATH or https://HOST:PORT."
        );
        let error = refused("controller = \"http://10.0.0.1:9460\"\n", &[]);
        assert!(
            error.starts_with("weft.toml, line 1 (controller): \"http://10.0.0.1:9460\" is neither encrypted"),
            "{error}"
        );
        assert!(error.contains(". Write https://10.0.0.1:9460, with the port"), "{error}");
        assert!(refused("controller = \"unix:/c\"\n", &[]).contains("but no host"));
        assert!(
            refused("[workers]\ncores = [1, 2]\n", &[]).starts_with("weft.toml, line 2 (workers.cores): 2 cores for 1")
        );
        assert!(refused("[vhost_user]\ngroup = \"no-such\"\n", &[]).contains("there is no group"));
        assert!(refused("[underlay]\nmode = \"auto\"\n", &[]).contains("the underlay has no interface"));
        assert!(refused("[underlay]\naddresses = [\"10.0.0.1\"]\n", &[]).contains("the underlay has no interface"));
        let twice = refused("[underlay]\ninterface = [\"eth1\", \"eth1\"]\n", &[]);
        assert_eq!(twice, "weft.toml, line 2 (underlay.interface): eth1 is named twice. Name each interface once.");
        assert!(refused("[underlay]\ninterface = 5\n", &[]).contains("expected \"eth1\" or [\"eth1\", \"eth2\"]"));
        assert!(refused("[underlay]\ninterface = \"eth1\"\naddresses = [\"ten\"]\n", &[]).contains("line 3"));
    }

    #[test]
    fn an_underlay_may_have_several_interfaces() {
        let text = "[underlay]\ninterface = [\"eth1\", \"eth2\"]\naddresses = [\"10.255.0.1\"]\n";
        let underlay = load(text, &[]).unwrap().underlay.unwrap();
        assert_eq!(underlay.interfaces, ["eth1", "eth2"]);
        assert_eq!(underlay.addresses, [Ipv4Addr::new(10, 255, 0, 1)]);
    }
}
