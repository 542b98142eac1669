//! Where the demo cloud puts things and what it calls them. Everything is derived from its directory,
//! so that clouds in different directories never meet: a demo and any number of checks run side by
//! side. Pure: nothing here touches the machine.

use anyhow::{Result, bail};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The directory of the cloud that plain `weft up` starts.
pub const DEFAULT_DIRECTORY: &str = "/run/weft/demo";

/// Where plain `weft …` in another terminal looks for a controller.
const DEFAULT_RUN: &str = "/run/weft";

/// The port on the loopback that the default cloud's controller listens on.
const DEFAULT_LISTEN_PORT: u16 = 9460;

/// The underlay: host `a` is 10.99.0.1. It exists in namespaces of its own and never leaves them, so
/// that it may also be in use on the machine.
pub const UNDERLAY: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 99, 0, 0), 24);

/// The most hosts that a cloud may have.
pub const HOSTS_MAX: usize = 9;

/// The names and places of one cloud.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Everything of the cloud lies in here; it is made at the start and removed at the end.
    pub directory: PathBuf,
    /// What the names of its namespaces begin with.
    pub prefix: String,
    /// Whether this is the cloud that plain `weft …` finds.
    pub is_default: bool,
}

impl Layout {
    /// The layout of the cloud in `directory`.
    ///
    /// # Errors
    /// If the directory is relative, or its name does not do as a prefix of namespaces' and sockets' names.
    pub fn new(directory: &Path) -> Result<Self> {
        let shown = directory.display();
        if !directory.is_absolute() {
            bail!("--directory: {shown} is relative. Give an absolute path, for example /run/weft/second.");
        }
        let is_default = directory == Path::new(DEFAULT_DIRECTORY);
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let usable = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(usable) {
            bail!(
                "--directory: the name of {shown} is not 1 to 32 letters, digits, - or _, and it becomes part of the \
                 names of network namespaces. Choose another name."
            );
        }
        // The kernel's limit for the path of a Unix socket is 107 bytes; the longest of ours adds 16.
        if directory.as_os_str().len() > 90 {
            bail!("--directory: {shown} is too long for the path of a Unix socket. Choose a path of at most 90 bytes.");
        }
        let prefix = if is_default { "weft".to_owned() } else { format!("weft-{name}") };
        Ok(Self { directory: directory.to_owned(), prefix, is_default })
    }

    /// The list of everything that was made, see [`super::record`].
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.directory.join("made")
    }

    /// The controller's Unix socket.
    #[must_use]
    pub fn controller_socket(&self) -> PathBuf {
        self.run_directory().join("controller.sock")
    }

    /// The copy of the admin's token that the CLI reads.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.run_directory().join("admin.token")
    }

    /// The controller's state.
    #[must_use]
    pub fn controller_state(&self) -> PathBuf {
        self.directory.join("controller")
    }

    /// The port on 127.0.0.1 for the controller; `None`: any that is free.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        self.is_default.then_some(DEFAULT_LISTEN_PORT)
    }

    fn run_directory(&self) -> &Path {
        if self.is_default { Path::new(DEFAULT_RUN) } else { &self.directory }
    }

    /// The namespace with the bridge that plays the physical network.
    #[must_use]
    pub fn underlay_namespace(&self) -> String {
        format!("{}-underlay", self.prefix)
    }

    /// The name of the host of this index: "a".
    ///
    /// # Panics
    /// From index [`HOSTS_MAX`] on.
    #[must_use]
    pub fn host_name(index: usize) -> String {
        assert!(index < HOSTS_MAX, "a cloud has at most {HOSTS_MAX} hosts");
        char::from(b"abcdefghi"[index]).to_string()
    }

    /// The namespace that plays a host.
    #[must_use]
    pub fn host_namespace(&self, host: &str) -> String {
        format!("{}-host-{host}", self.prefix)
    }

    /// The end, in the underlay's namespace, of the cable to a host.
    #[must_use]
    pub fn cable(host: &str) -> String {
        format!("to-{host}")
    }

    /// The socket of a host's switch.
    #[must_use]
    pub fn switch_socket(&self, host: &str) -> PathBuf {
        self.directory.join(format!("host-{host}.sock"))
    }

    /// The underlay address of the host of this index.
    #[must_use]
    pub fn underlay_address(index: usize) -> Ipv4Addr {
        let [first, second, third, _] = UNDERLAY.0.octets();
        Ipv4Addr::new(first, second, third, u8::try_from(index + 1).unwrap_or(u8::MAX))
    }

    /// The namespace that plays the instance of this number, from 1.
    #[must_use]
    pub fn instance_namespace(&self, number: usize) -> String {
        format!("{}-vm{number}", self.prefix)
    }

    /// What a person must add to `weft` so that it talks to this cloud: nothing, or an option and a
    /// space.
    #[must_use]
    pub fn client_option(&self) -> String {
        if self.is_default {
            String::new()
        } else {
            format!("--controller unix:{} ", self.controller_socket().display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_in_different_directories_share_no_name() {
        let demo = Layout::new(Path::new(DEFAULT_DIRECTORY)).unwrap();
        let other = Layout::new(Path::new("/run/weft/check-1")).unwrap();
        assert_eq!(demo.host_namespace("a"), "weft-host-a");
        assert_eq!(other.host_namespace("a"), "weft-check-1-host-a");
        assert_eq!(demo.controller_socket(), Path::new("/run/weft/controller.sock"));
        assert_eq!(other.controller_socket(), Path::new("/run/weft/check-1/controller.sock"));
        assert_eq!(other.listen_port(), None);
    }

    #[test]
    fn unusable_directories_are_refused() {
        for bad in ["demo", "/", "/run/weft/a b", &format!("/run/{}/x", "y".repeat(90))] {
            assert!(Layout::new(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
