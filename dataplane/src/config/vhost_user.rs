//! Where virtual machines connect: `[vhost_user]`. Who may is the sockets' group: the monitors of virtual machines do not
//! run as root.

use std::path::PathBuf;
use weft_proto::program::settings::{Said, SettingsError};

/// The directory of the sockets unless the settings say otherwise.
pub const DEFAULT_VHOST_USER_DIRECTORY: &str = "/run/weft/vhost-user";

/// Where the system keeps its groups.
const GROUPS: &str = "/etc/group";

/// The settings of the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserPlace {
    /// Where they are made.
    pub directory: PathBuf,
    /// The number of the group whose members may connect; `None`: only root.
    pub group: Option<u32>,
}

/// A group's number.
///
/// # Errors
/// There is no such group.
pub(super) fn group(said: &Said) -> Result<u32, SettingsError> {
    if let Ok(number) = said.value.parse() {
        return Ok(number);
    }
    // name:password:number:members
    let groups = std::fs::read_to_string(GROUPS).unwrap_or_default();
    let mut rows = groups.lines().map(|line| line.split(':'));
    let found = rows.find_map(|mut row| (row.next() == Some(said.value.as_str())).then(|| row.nth(1)?.parse().ok())?);
    found.ok_or_else(|| {
        let problem = format!("there is no group {:?} in {GROUPS}", said.value);
        SettingsError::new(
            &said.place,
            problem,
            "Name the group of those who start virtual machines: \"libvirt-qemu\".",
        )
    })
}
