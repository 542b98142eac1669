//! Settings: from flags, then from one TOML file, then as they are by default.

use anyhow::{Context as _, bail};
use clap::Parser;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The controller of Weft: takes what people ask for, and computes and installs the flow tables of all hosts.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "weft-controller", version = weft_proto::VERSION)]
pub struct Flags {
    /// Read settings from this TOML file; each is also a flag of the same name, which goes before
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, say what is wrong with them, and do nothing else
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
    /// Keep the store, the token and the certificate authority here [default: /var/lib/weft/controller]
    #[arg(long, value_name = "DIRECTORY", visible_alias = "state-dir")]
    pub state_directory: Option<PathBuf>,
    /// Copy the token to this file; "" makes no copy [default: /run/weft/admin.token]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Log these: error, warn, info, debug, trace, or as in "info,weft_controller::bus=debug" [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Log as text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// The file. A name it does not know is refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    socket: Option<PathBuf>,
    listen: Option<String>,
    bus_listen: Option<String>,
    bus_address: Option<String>,
    state_directory: Option<PathBuf>,
    token_file: Option<PathBuf>,
    log: Option<String>,
    log_format: Option<String>,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The loopback address, if any.
    pub listen: Option<SocketAddr>,
    /// Where the bus listens for other machines, if anywhere.
    pub bus_listen: Option<SocketAddr>,
    /// Where they reach it, if that is known.
    pub bus_address: Option<String>,
    /// Where the store, the token and the certificate authority are.
    pub state_directory: PathBuf,
    /// Where the token is copied to, if anywhere.
    pub token_file: Option<PathBuf>,
    /// What is logged.
    pub log: String,
    /// And how.
    pub log_format: LogFormat,
}

impl Config {
    /// Puts flags, file and defaults together. An error names file, line and remedy.
    pub fn load(flags: &Flags) -> anyhow::Result<Self> {
        let file = flags.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let listen = flags.listen.clone().or(file.listen).unwrap_or_else(|| "127.0.0.1:9460".to_owned());
        let bus_listen = flags.bus_listen.clone().or(file.bus_listen).unwrap_or_else(|| "none".to_owned());
        let bus_listen = bus_listen_address(&bus_listen)?;
        let bus_address = bus_address(flags.bus_address.clone().or(file.bus_address), bus_listen)?;
        let log = flags.log.clone().or(file.log).unwrap_or_else(|| "info".to_owned());
        tracing_subscriber::EnvFilter::try_new(&log)
            .with_context(|| format!("log: {log:?} is not a level: write error, warn, info, debug or trace"))?;
        let log_format = flags.log_format.clone().or(file.log_format).unwrap_or_else(|| "text".to_owned());
        let token_file = flags.token_file.clone().or(file.token_file);
        let token_file = token_file.unwrap_or_else(|| PathBuf::from("/run/weft/admin.token"));
        let path = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.clone().or(file).unwrap_or_else(|| PathBuf::from(default))
        };
        Ok(Self {
            socket: path(&flags.socket, file.socket, "/run/weft/controller.sock"),
            listen: listen_address(&listen)?,
            bus_listen,
            bus_address,
            state_directory: path(&flags.state_directory, file.state_directory, "/var/lib/weft/controller"),
            token_file: (!token_file.as_os_str().is_empty()).then_some(token_file),
            log,
            log_format: match log_format.as_str() {
                "text" | "lines" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => bail!("log_format: {other:?} is not a format: write text or json"),
            },
        })
    }
}

fn listen_address(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    let address: SocketAddr = text
        .parse()
        .with_context(|| format!("listen: {text:?} is not an address and a port: write 127.0.0.1:9460, or none"))?;
    if !address.ip().is_loopback() {
        bail!(
            "listen: {address} is not on the loopback, and calls there are not encrypted: write 127.0.0.1:{}, and reach \
             it from elsewhere through SSH. Hosts connect to bus_listen",
            address.port()
        );
    }
    Ok(Some(address))
}

fn bus_listen_address(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    let address = text.parse().with_context(|| {
        format!("bus_listen: {text:?} is not an address and a port: write 0.0.0.0:9461, [::]:9461, or none")
    })?;
    Ok(Some(address))
}

/// What join tokens say: as it is set, or the address listened on, if that is one address.
fn bus_address(said: Option<String>, listen: Option<SocketAddr>) -> anyhow::Result<Option<String>> {
    match said {
        Some(said) if !weft_proto::join::valid_address(&said) => {
            bail!("bus_address: {said:?} is not an address and a port: write one as in controller.example:9461")
        }
        Some(said) if listen.is_none() => {
            bail!("bus_address: {said:?} leads nowhere, for bus_listen is none: set bus_listen too, or remove it")
        }
        Some(said) => Ok(Some(said)),
        None => Ok(listen.filter(|listen| !listen.ip().is_unspecified()).map(|listen| listen.to_string())),
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read: give --config an existing file", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..before].iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("{}, line {line}: {}: correct or remove the line", path.display(), error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("controller.toml");
        std::fs::write(&config, text).unwrap();
        Config::load(&Flags { config: Some(config), ..Flags::default() }).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("controller.toml");
        std::fs::write(&file, "socket = \"/one\"\nlisten = \"none\"\n").unwrap();
        let flags = Flags { config: Some(file), socket: Some("/two".into()), ..Flags::default() };
        let config = Config::load(&flags).unwrap();
        assert_eq!((config.socket, config.listen), ("/two".into(), None));
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
    }

    #[test]
    fn errors_name_file_line_and_remedy() {
        let unknown = load("socket = \"/one\"\n\nsokcet = \"/two\"\n").unwrap_err();
        assert!(unknown.contains("controller.toml, line 3") && unknown.contains("sokcet"), "{unknown}");
        assert!(load("listen = \"0.0.0.0:9460\"").unwrap_err().contains("write 127.0.0.1:9460"));
        assert!(load("bus_listen = \"9461\"").unwrap_err().contains("write 0.0.0.0:9461"));
        assert!(load("bus_listen = \"0.0.0.0:9461\"\nbus_address = \"x\"").unwrap_err().contains("bus_address: \"x\""));
        assert!(load("bus_address = \"x:1\"").unwrap_err().contains("set bus_listen too"));
        assert!(load("listen = \"somewhere\"").unwrap_err().contains("is not an address"));
        assert!(load("log_format = \"xml\"").unwrap_err().contains("text or json"));
        assert!(load("log = \"a=b=c\"").unwrap_err().contains("is not a level"));
        assert!(load("").is_ok());
    }
}
