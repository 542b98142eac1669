//! The controller's settings, as [`weft_proto::program::settings`] reads them. `docs/configuration.md` names
//! each; a test compares.

use clap::Parser;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use weft_proto::join::valid_address;
use weft_proto::program::settings::{Said, SettingsError, Source};
use weft_proto::program::{log, metrics};

/// The controller of Weft: takes what people ask for, and computes and installs the flow tables of all hosts.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "weft-controller", version = weft_proto::VERSION, about, max_term_width = 100)]
pub struct Flags {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, say what is wrong with them, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Listen on this Unix socket: whoever can open it is the administrator
    /// [default: /run/weft/controller.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Listen on this loopback address, for calls with the token; "none": do not
    /// [default: 127.0.0.1:9460]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Listen on this address for hosts on other machines, by TLS with certificates; "none": do not
    /// [default: none]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub bus_listen: Option<String>,
    /// Where hosts reach that address, as join tokens say [default: bus_listen, unless that is 0.0.0.0 or ::]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub bus_address: Option<String>,
    /// Serve counters for Prometheus at this address, unencrypted and for everybody who reaches it; "none": do not
    /// [default: none]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<String>,
    /// Keep the store, the token and the certificate authority here [default: /var/lib/weft/controller]
    #[arg(long, value_name = "DIRECTORY")]
    pub state_directory: Option<PathBuf>,
    /// Copy the token to this file; "none": do not [default: /run/weft/admin.token]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the program's own text in --help")]
    pub log: log::LogFlags,
}

/// The file. A name it does not know is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    socket: Option<PathBuf>,
    listen: Option<String>,
    bus_listen: Option<String>,
    bus_address: Option<String>,
    metrics_listen: Option<String>,
    state_directory: Option<PathBuf>,
    token_file: Option<PathBuf>,
    log: Option<String>,
    log_format: Option<log::Format>,
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The loopback address, if any.
    pub listen: Option<SocketAddr>,
    /// Where the bus listens for other machines, if anywhere.
    pub bus_listen: Option<SocketAddr>,
    /// Where they reach it, if that is known.
    pub bus_address: Option<String>,
    /// Where counters are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the store, the token and the certificate authority are.
    pub state_directory: PathBuf,
    /// Where the token is copied to, if anywhere.
    pub token_file: Option<PathBuf>,
    /// What is logged, and how.
    pub log: log::Settings,
}

impl Config {
    /// Puts flags, file and defaults together.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(flags: Flags) -> Result<Self, SettingsError> {
        let source = Source::read(flags.config.as_deref())?;
        let file: File = source.parse()?;
        let listen = source.text("listen", flags.listen, file.listen);
        let listen = listen.unwrap_or_else(|| Said { value: "127.0.0.1:9460".to_owned(), place: String::new() });
        let bus_listen = bus_listen_address(source.text("bus_listen", flags.bus_listen, file.bus_listen))?;
        let bus_address = bus_address(source.text("bus_address", flags.bus_address, file.bus_address), bus_listen)?;
        let path = |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.or(file).unwrap_or_else(|| PathBuf::from(default))
        };
        let token_file = path(flags.token_file, file.token_file, "/run/weft/admin.token");
        Ok(Self {
            socket: path(flags.socket, file.socket, "/run/weft/controller.sock"),
            listen: listen_address(&listen)?,
            bus_listen,
            bus_address,
            metrics_listen: metrics::listen_address(source.text(
                "metrics_listen",
                flags.metrics_listen,
                file.metrics_listen,
            ))?,
            state_directory: path(flags.state_directory, file.state_directory, "/var/lib/weft/controller"),
            token_file: (token_file.as_os_str() != "none").then_some(token_file),
            log: log::Settings::of(flags.log, file.log, file.log_format, &source)?,
        })
    }
}

fn listen_address(said: &Said) -> Result<Option<SocketAddr>, SettingsError> {
    if said.value == "none" {
        return Ok(None);
    }
    let Ok(address) = said.value.parse::<SocketAddr>() else {
        let problem = format!("\"{}\" is not an address with a port", said.value);
        return Err(SettingsError::new(&said.place, problem, "Write 127.0.0.1:9460, or none."));
    };
    if !address.ip().is_loopback() {
        let problem = format!("{address} is not on the loopback, and calls there are not encrypted");
        let remedy = format!(
            "Write 127.0.0.1:{}, and reach it from elsewhere through SSH. Hosts connect to bus_listen.",
            address.port()
        );
        return Err(SettingsError::new(&said.place, problem, remedy));
    }
    Ok(Some(address))
}

fn bus_listen_address(said: Option<Said>) -> Result<Option<SocketAddr>, SettingsError> {
    let Some(said) = said.filter(|said| said.value != "none") else { return Ok(None) };
    said.value.parse().map(Some).map_err(|_| {
        let problem = format!("\"{}\" is not an address with a port", said.value);
        SettingsError::new(&said.place, problem, "Write 0.0.0.0:9461, [::]:9461, one address of this machine, or none.")
    })
}

/// What join tokens say: as it is set, or the address listened on, if that is one address.
fn bus_address(said: Option<Said>, listen: Option<SocketAddr>) -> Result<Option<String>, SettingsError> {
    match said {
        None => Ok(listen.filter(|listen| !listen.ip().is_unspecified()).map(|listen| listen.to_string())),
        Some(said) if valid_address(&said.value) => Ok(Some(said.value)),
        Some(said) => {
            let problem = format!("\"{}\" is not an address with a port", said.value);
            Err(SettingsError::new(&said.place, problem, "Write one as in controller.example:9461."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::path::Path;
    use weft_proto::program::settings::Example;

    fn load(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("controller.toml");
        std::fs::write(&config, text).unwrap();
        Config::load(Flags { config: Some(config), ..Flags::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("controller.toml");
        std::fs::write(&file, "socket = \"/one\"\nlisten = \"none\"\n").unwrap();
        let flags = Flags { config: Some(file), socket: Some("/two".into()), ..Flags::default() };
        let config = Config::load(flags).unwrap();
        assert_eq!((config.socket, config.listen), ("/two".into(), None));
        assert_eq!(load("token_file = \"none\"").unwrap().token_file, None);
        assert_eq!(config.state_directory, Path::new("/var/lib/weft/controller"));
    }

    #[test]
    fn tokens_say_where_the_bus_listens_if_that_is_one_place() {
        assert_eq!(load("").unwrap().bus_listen, None);
        let one = load("bus_listen = \"192.0.2.1:9461\"").unwrap();
        assert_eq!(one.bus_address.as_deref(), Some("192.0.2.1:9461"));
        assert_eq!(load("bus_listen = \"[::]:9461\"").unwrap().bus_address, None);
        let named = load("bus_listen = \"[::]:9461\"\nbus_address = \"c.example:1\"").unwrap();
        assert_eq!(named.bus_address.as_deref(), Some("c.example:1"));
        assert!(load("bus_listen = \"9461\"").unwrap_err().contains("line 1 (bus_listen)"));
        let wrong = load("bus_listen = \"0.0.0.0:9461\"\nbus_address = \"x\"").unwrap_err();
        assert!(wrong.contains("line 2 (bus_address)") && wrong.contains("controller.example:9461"), "{wrong}");
    }

    #[test]
    fn errors_name_the_place_and_the_remedy() {
        let unknown = load("socket = \"/one\"\n\nsokcet = \"/two\"\n").unwrap_err();
        assert!(unknown.ends_with("line 3: there is no setting sokcet. Did you mean socket?"), "{unknown}");
        let open = load("listen = \"0.0.0.0:9460\"").unwrap_err();
        assert!(open.contains("line 1 (listen)") && open.contains("Write 127.0.0.1:9460"), "{open}");
        let flags = Flags { listen: Some("foo".to_owned()), ..Flags::default() };
        assert_eq!(
            Config::load(flags).unwrap_err().to_string(),
            "--listen: \"foo\" is not an address with a port. Write 127.0.0.1:9460, or none."
        );
        assert!(load("log_format = \"xml\"").unwrap_err().contains("expected `lines` or `json`"));
        assert!(load("").is_ok());
    }

    #[test]
    fn the_documentation_names_every_setting() {
        let page = include_str!("../../docs/configuration.md");
        let example = Example::of(page, "controller.toml", &Flags::command()).unwrap_or_else(|error| panic!("{error}"));
        // What it shows are the defaults.
        assert_eq!(load(&example.as_it_stands), load(""));
        assert!(load(&example.all_settings).is_ok());
    }
}
