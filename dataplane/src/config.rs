//! The switch's settings: one TOML file, and a flag for each of them. A flag goes before the file.
//!
//! ```toml
//! host = "compute-1"
//! controller = "https://controller.example:9461"   # or "unix:/run/weft/controller.sock"
//! certificate_directory = "/var/lib/weft/switch"
//! socket = "/run/weft/switch.sock"
//!
//! [underlay]
//! interface = "eth1"
//! mode = "auto"        # auto, native, generic
//! queues = 0           # 0: all
//!
//! [memory]
//! chunks = 8192        # of 4 KiB
//! runs = 512           # of 65 KiB
//!
//! [workers]
//! count = 1
//! cores = [2]
//! spin = false
//!
//! [log]
//! level = "info"
//! format = "lines"     # lines, json
//! ```
//!
//! Keys that do not exist are refused, with the one that was probably meant.

use crate::agent::Endpoint;
use crate::limits;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::path::{Path, PathBuf};
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
#[derive(Debug, Default, Parser)]
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
    /// Interface that carries the tunnels
    #[arg(long, value_name = "INTERFACE")]
    pub underlay_interface: Option<String>,
    /// How AF_XDP works on it [default: auto]
    #[arg(long, value_name = "MODE")]
    pub underlay_mode: Option<Mode>,
    /// How many of its queues to use; 0: all [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub underlay_queues: Option<u32>,
    /// Packet memory in 4 KiB chunks [default: 8192]
    #[arg(long, value_name = "NUMBER")]
    pub memory_chunks: Option<usize>,
    /// Packet memory in 65 KiB runs, for large segments [default: 512]
    #[arg(long, value_name = "NUMBER")]
    pub memory_runs: Option<usize>,
    /// Number of workers [default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub workers: Option<usize>,
    /// Cores to pin the workers to, one for each: 2,3
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    pub worker_cores: Option<Vec<usize>>,
    /// Workers never sleep
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub worker_spin: Option<bool>,
    /// What is logged: error, warn, info, debug, trace, or by module: info,weft_dataplane=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How it is logged [default: lines]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
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

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Lines,
    /// One object a line.
    Json,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    host: Option<String>,
    controller: Option<String>,
    certificate_directory: Option<PathBuf>,
    socket: Option<PathBuf>,
    underlay: FileUnderlay,
    memory: FileMemory,
    workers: FileWorkers,
    log: FileLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileUnderlay {
    interface: Option<String>,
    mode: Option<Mode>,
    queues: Option<u32>,
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileLog {
    level: Option<String>,
    format: Option<LogFormat>,
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
    /// `None`: no tunnels, unless somebody adds an af_xdp port.
    pub underlay: Option<UnderlaySettings>,
    /// Chunks and runs.
    pub memory: (usize, usize),
    /// At least one.
    pub workers: usize,
    /// Empty, or one for each worker.
    pub cores: Vec<usize>,
    /// Workers never sleep.
    pub spin: bool,
    /// A filter of `tracing`.
    pub log: String,
    /// Its form.
    pub log_format: LogFormat,
}

/// The interface that carries the tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlaySettings {
    /// Its name.
    pub interface: String,
    /// How.
    pub mode: Mode,
    /// 0: all.
    pub queues: u32,
}

/// What is wrong with the settings: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}. {remedy}")]
pub struct ConfigError {
    /// "weft.toml, line 3" or "--workers".
    pub place: String,
    /// Without a full stop.
    pub problem: String,
    /// A sentence.
    pub remedy: String,
}

fn wrong(place: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
    ConfigError { place: place.into(), problem: problem.into(), remedy: remedy.into() }
}

impl Settings {
    /// From the flags, and the file they name.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let Some(path) = flags.config.clone() else { return Self::of(flags, None) };
        let text = std::fs::read_to_string(&path).map_err(|error| {
            wrong(path.display().to_string(), error.to_string(), "Give a file that can be read (--config FILE).")
        })?;
        Self::of(flags, Some((&path, &text)))
    }

    fn of(flags: Flags, file: Option<(&Path, &str)>) -> Result<Self, ConfigError> {
        let parsed = match file {
            Some((path, text)) => toml::from_str::<File>(text).map_err(|error| unreadable(path, text, &error))?,
            None => File::default(),
        };
        let place = Places { file };
        let host = place.text("host", flags.host, parsed.host).unwrap_or_default();
        let certificate_directory = flags.certificate_directory.or(parsed.certificate_directory);
        let certificate_directory = certificate_directory.unwrap_or_else(|| DEFAULT_CERTIFICATE_DIRECTORY.into());
        let controller = place.text("controller", flags.controller, parsed.controller).map(|text| {
            let endpoint = Endpoint::parse(&text.value, &certificate_directory);
            endpoint.map_err(|problem| split(&text.place, &problem))
        });
        let controller = controller.transpose()?;
        check_host(&host, controller.is_some(), &place)?;
        let level = place.text("log.level", flags.log, parsed.log.level);
        let level = level.unwrap_or_else(|| Said { value: "info".to_owned(), place: String::new() });
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&level.value) {
            let remedy = "Use error, warn, info, debug or trace, or MODULE=LEVEL joined by commas.";
            return Err(wrong(level.place, format!("\"{}\" is no log level: {error}", level.value), remedy));
        }
        let workers = place.number("workers.count", flags.workers, parsed.workers.count, 1, 1..=WORKERS)?;
        let cores_place = place.of("workers.cores", flags.worker_cores.is_some());
        let cores = flags.worker_cores.or(parsed.workers.cores).unwrap_or_default();
        if !cores.is_empty() && cores.len() != workers {
            let problem = format!("{} cores for {workers} workers", cores.len());
            return Err(wrong(cores_place, problem, "Name one core for each worker, or none."));
        }
        let memory = (
            place.number(
                "memory.chunks",
                flags.memory_chunks,
                parsed.memory.chunks,
                limits::DEFAULT_CHUNKS,
                LEAST_CHUNKS..=MOST_CHUNKS,
            )?,
            place.number(
                "memory.runs",
                flags.memory_runs,
                parsed.memory.runs,
                limits::DEFAULT_RUNS,
                LEAST_RUNS..=MOST_RUNS,
            )?,
        );
        let interface = place.text("underlay.interface", flags.underlay_interface, parsed.underlay.interface);
        let mode = flags.underlay_mode.or(parsed.underlay.mode);
        let queues = flags.underlay_queues.or(parsed.underlay.queues);
        if interface.is_none() && (mode.is_some() || queues.is_some()) {
            let place = place.of("underlay.interface", false);
            return Err(wrong(place, "the underlay has no interface", "Name it: [underlay] interface = \"eth1\"."));
        }
        if let Some(name) = interface.as_ref().filter(|name| name.value.is_empty() || name.value.len() > 15) {
            let problem = format!("\"{}\" cannot be an interface's name", name.value);
            return Err(wrong(&name.place, problem, "Use 1 to 15 bytes, a name that `ip link` shows."));
        }
        Ok(Self {
            host: host.value,
            controller,
            certificate_directory,
            socket: flags.socket.or(parsed.socket).unwrap_or_else(|| DEFAULT_SOCKET.into()),
            underlay: interface.map(|interface| UnderlaySettings {
                interface: interface.value,
                mode: mode.unwrap_or_default(),
                queues: queues.unwrap_or_default(),
            }),
            memory,
            workers,
            cores,
            spin: flags.worker_spin.or(parsed.workers.spin).unwrap_or_default(),
            log: level.value,
            log_format: flags.log_format.or(parsed.log.format).unwrap_or_default(),
        })
    }
}

/// A setting and where it was said.
#[derive(Default)]
struct Said {
    value: String,
    place: String,
}

/// Finds where a setting was said.
struct Places<'a> {
    file: Option<(&'a Path, &'a str)>,
}

impl Places<'_> {
    /// "weft.toml, line 3 (workers.count)", or the flag.
    fn of(&self, key: &str, by_flag: bool) -> String {
        let flag = format!("--{}", flag_of(key));
        let Some((path, text)) = self.file.filter(|_| !by_flag) else { return flag };
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let mut here = "";
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                here = header.trim();
            } else if here == section && line.split('=').next().is_some_and(|word| word.trim() == name) {
                return format!("{}, line {} ({key})", path.display(), index + 1);
            }
        }
        format!("{} ({key})", path.display())
    }

    fn text(&self, key: &str, flag: Option<String>, file: Option<String>) -> Option<Said> {
        let place = self.of(key, flag.is_some());
        flag.or(file).map(|value| Said { value, place })
    }

    fn number(
        &self,
        key: &str,
        flag: Option<usize>,
        file: Option<usize>,
        default: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        let place = self.of(key, flag.is_some());
        let number = flag.or(file).unwrap_or(default);
        if range.contains(&number) {
            return Ok(number);
        }
        let remedy = format!("Use {} to {}.", range.start(), range.end());
        Err(wrong(place, format!("{number} is out of range"), remedy))
    }
}

/// The flag of a key of the file.
fn flag_of(key: &str) -> String {
    match key {
        "workers.count" => "workers".to_owned(),
        "workers.cores" => "worker-cores".to_owned(),
        "workers.spin" => "worker-spin".to_owned(),
        "log.level" => "log".to_owned(),
        key => key.replace('.', "-"),
    }
}

fn check_host(host: &Said, needed: bool, place: &Places<'_>) -> Result<(), ConfigError> {
    if host.value.is_empty() {
        if needed {
            let remedy = "Give the name under which the controller knows this host (--host NAME).";
            return Err(wrong(place.of("host", false), "a controller is configured, but no host", remedy));
        }
        return Ok(());
    }
    if host.value.len() > 253 || host.value.chars().any(|one| one.is_whitespace() || one.is_control()) {
        let problem = format!("\"{}\" cannot be a host's name", host.value.escape_debug());
        return Err(wrong(&host.place, problem, "Use 1 to 253 bytes without spaces."));
    }
    Ok(())
}

/// "what is wrong. What to do."
fn split(place: &str, sentence: &str) -> ConfigError {
    let (problem, remedy) = sentence.split_once(". ").unwrap_or((sentence, ""));
    wrong(place, problem, remedy)
}

/// An error of the TOML parser, with its line; and what was probably meant by a key that does not exist.
fn unreadable(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = format!("{}, line {line}", path.display());
    let message = error.message().replace('\n', " ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(unknown) = quoted.next()
    {
        let known: Vec<&str> = quoted.collect();
        let near = known.iter().map(|one| (distance(unknown, one), one)).min();
        let remedy = match near {
            Some((far, one)) if far <= unknown.len().div_ceil(3) => format!("Did you mean {one}?"),
            _ => format!("Use one of {}.", known.join(", ")),
        };
        return wrong(place, format!("there is no setting {unknown}"), remedy);
    }
    wrong(place, message, "See the settings in `weft-switch --help` and docs/switch.md.")
}

/// Edit distance (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, right) in other.chars().enumerate() {
            let substituted = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: &[&str]) -> Result<Settings, ConfigError> {
        let flags = Flags::try_parse_from([&["weft-switch"], flags].concat()).expect("flags are right");
        Settings::of(flags, Some((Path::new("weft.toml"), text)))
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
        let text = "host = \"one\"\ncontroller = \"https://c:9\"\ncertificate_directory = \"/c\"\nsocket = \"/s.sock\"\n[underlay]\ninterface = \
                    \"eth1\"\nmode = \"generic\"\nqueues = 2\n[memory]\nchunks = 1024\nruns = 128\n[workers]\ncount = \
                    2\ncores = [0, 1]\nspin = true\n[log]\nlevel = \"debug\"\nformat = \"json\"\n";
        let file = load(text, &[]).unwrap();
        let endpoint = Endpoint::Tls { address: "c:9".to_owned(), certificate_directory: "/c".into() };
        assert_eq!(file.controller, Some(endpoint));
        let underlay = UnderlaySettings { interface: "eth1".to_owned(), mode: Mode::Generic, queues: 2 };
        assert_eq!(file.underlay, Some(underlay));
        assert_eq!((file.memory, file.workers, file.cores, file.spin), ((1024, 128), 2, vec![0, 1], true));
        assert_eq!((file.log.as_str(), file.log_format), ("debug", LogFormat::Json));
        let flags = [
            "--host=two",
            "--controller=https://c:9460",
            "--certificate-directory=/d",
            "--socket=/t.sock",
            "--underlay-interface=eth2",
            "--underlay-mode=native",
            "--underlay-queues=1",
            "--memory-chunks=2048",
            "--memory-runs=256",
            "--workers=1",
            "--worker-cores=3",
            "--worker-spin=false",
            "--log=warn",
            "--log-format=lines",
        ];
        let both = load(text, &flags).unwrap();
        assert_eq!((both.host.as_str(), both.socket.to_str()), ("two", Some("/t.sock")));
        let endpoint = Endpoint::Tls { address: "c:9460".to_owned(), certificate_directory: "/d".into() };
        assert_eq!(both.controller, Some(endpoint));
        let underlay = UnderlaySettings { interface: "eth2".to_owned(), mode: Mode::Native, queues: 1 };
        assert_eq!(both.underlay, Some(underlay));
        assert_eq!((both.memory, both.workers, both.cores, both.spin), ((2048, 256), 1, vec![3], false));
        assert_eq!((both.log.as_str(), both.log_format), ("warn", LogFormat::Lines));
    }

    #[test]
    fn a_wrong_key_is_refused_with_its_line_and_the_right_one() {
        let error = refused("host = \"a\"\n\n[underlay]\ninterfaec = \"eth1\"\n", &[]);
        assert_eq!(error, "weft.toml, line 4: there is no setting interfaec. Did you mean interface?");
        let error = refused("colour = \"blue\"\n", &[]);
        assert!(
            error.starts_with("weft.toml, line 1: there is no setting colour. Use one of host, controller"),
            "{error}"
        );
    }

    #[test]
    fn wrong_values_are_refused_where_they_stand() {
        assert_eq!(
            refused("\n[workers]\ncount = 0\n", &[]),
            "weft.toml, line 3 (workers.count): 0 is out of range. Use 1 to 64."
        );
        assert_eq!(refused("", &["--workers=65"]), "--workers: 65 is out of range. Use 1 to 64.");
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
        assert!(refused("[memory]\nchunks = \"many\"\n", &[]).starts_with("weft.toml, line 2: invalid type"));
        assert!(refused("[log]\nlevel = \"a=b=c\"\n", &[]).starts_with("weft.toml, line 2 (log.level)"));
        assert!(refused("[underlay]\nmode = \"auto\"\n", &[]).contains("the underlay has no interface"));
        assert!(refused("host = \n", &[]).starts_with("weft.toml, line 1: "));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let flags = Flags { config: Some("/does/not/exist.toml".into()), ..Flags::default() };
        assert!(Settings::load(flags).unwrap_err().to_string().starts_with("/does/not/exist.toml: "));
    }
}
