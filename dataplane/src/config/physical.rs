//! The physical networks that a host reaches: `[physical] NAME = "INTERFACE"`. Each has an interface of its own, whose
//! frames are all the switch's: an address that the host has there is not reached any more. Unless it is shared
//! (`"INTERFACE,shared"`): then the host keeps its traffic, and only external networks can be there; the interface may
//! be the underlay's too.

use super::check_interface;
use std::collections::BTreeMap;
use weft_proto::PHYSICAL_NETWORKS;
use weft_proto::program::settings::{SettingsError, Source};

/// Bytes of a name, as of those of the controller's objects.
const NAME_BYTES: usize = 63;

/// Where a physical network is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The interface.
    pub interface: String,
    /// Whether the host keeps its own traffic there.
    pub shared: bool,
}

impl Place {
    fn of(text: String) -> Self {
        match text.strip_suffix(",shared") {
            Some(interface) => Self { interface: interface.to_owned(), shared: true },
            None => Self { interface: text, shared: false },
        }
    }
}

/// From the flags, or else the file; checked.
pub(super) fn networks(
    flags: Option<Vec<String>>,
    file: BTreeMap<String, String>,
    underlay: &[String],
    source: &Source,
) -> Result<BTreeMap<String, Place>, SettingsError> {
    let by_flag = flags.is_some();
    let place = |name: &str| {
        source.place(if by_flag { "physical".to_owned() } else { format!("physical.{name}") }.as_str(), by_flag)
    };
    let networks = match flags {
        None => file,
        Some(flags) => {
            let mut networks = BTreeMap::new();
            for text in flags {
                let Some((name, interface)) = text.split_once('=') else {
                    let problem = format!("\"{text}\" names no interface");
                    return Err(SettingsError::new(place(""), problem, "Write NAME=INTERFACE."));
                };
                if networks.insert(name.to_owned(), interface.to_owned()).is_some() {
                    let problem = format!("physical network \"{name}\" is given twice");
                    return Err(SettingsError::new(place(""), problem, "Give each one interface."));
                }
            }
            networks
        }
    };
    let networks: BTreeMap<String, Place> = networks.into_iter().map(|(name, text)| (name, Place::of(text))).collect();
    if networks.len() > PHYSICAL_NETWORKS {
        let problem = format!("{} physical networks", networks.len());
        return Err(SettingsError::new(place(""), problem, format!("Use at most {PHYSICAL_NETWORKS}.")));
    }
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, Place { interface, shared }) in &networks {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !first || name.len() > NAME_BYTES || !name.bytes().all(allowed) {
            let problem = format!("\"{}\" cannot be a physical network's name", name.escape_debug());
            let remedy = "Use 1 to 63 letters, digits, '.', '_' or '-', the first a letter or a digit.";
            return Err(SettingsError::new(place(name), problem, remedy));
        }
        check_interface(interface, &place(name))?;
        if let Some((_, word)) = interface.split_once(',') {
            let problem = format!("\"{word}\" after the interface's name means nothing");
            return Err(SettingsError::new(place(name), problem, "Write \"INTERFACE\" or \"INTERFACE,shared\"."));
        }
        if !shared && underlay.contains(interface) {
            let problem = format!("interface {interface} is that of the underlay already");
            let remedy = format!(
                "An external network may share it: \"{interface},shared\". Others have an interface of their own: another \
                 NIC, or a VLAN interface of this one."
            );
            return Err(SettingsError::new(place(name), problem, remedy));
        }
        if let Some(other) = owners.insert(interface, name) {
            let problem = format!("interface {interface} is that of {other} already");
            let remedy =
                "A physical network has an interface of its own: another NIC, or a VLAN interface of this one.";
            return Err(SettingsError::new(place(name), problem, remedy));
        }
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(flags: &[&str], text: &str) -> Result<BTreeMap<String, Place>, String> {
        let text = format!("[physical]\n{text}");
        let source = Source::of(Path::new("weft.toml"), text.as_str());
        let file: BTreeMap<String, BTreeMap<String, String>> = source.parse().map_err(|error| error.to_string())?;
        let flags = (!flags.is_empty()).then(|| flags.iter().map(|&flag| flag.to_owned()).collect());
        networks(flags, file["physical"].clone(), &["eth1".to_owned()], &source).map_err(|error| error.to_string())
    }

    #[test]
    fn each_has_an_interface_of_its_own() {
        let taken = "is that of the underlay already. An external network may share it: \"eth1,shared\".";
        assert!(of(&[], "a = \"eth1\"\n").unwrap_err().contains(taken));
        let twice = of(&[], "a = \"eth2\"\nb = \"eth2\"\n").unwrap_err();
        assert!(twice.starts_with("weft.toml, line 3 (physical.b): interface eth2 is that of a already."), "{twice}");
        let two = of(&[], "a = \"eth2\"\nb = \"eth3,shared\"\n").unwrap();
        assert_eq!(two["a"], Place { interface: "eth2".into(), shared: false });
        assert_eq!(two["b"], Place { interface: "eth3".into(), shared: true });
        assert_eq!(of(&[], "a = \"eth1,shared\"\n").unwrap()["a"], Place { interface: "eth1".into(), shared: true });
    }

    #[test]
    fn wrong_ones_are_refused_where_they_stand() {
        for (flags, text, says) in [
            (&[][..], "\"a b\" = \"eth2\"\n", "\"a b\" cannot be a physical network's name"),
            (&[], "a = \"eth2,share\"\n", "\"share\" after the interface's name means nothing. Write \"INTERFACE\" or"),
            (&[], "a = \"\"\n", "weft.toml, line 2 (physical.a): \"\" cannot be an interface's name"),
            (&["a"], "", "--physical: \"a\" names no interface. Write NAME=INTERFACE."),
            (&["a=eth2", "a=eth3"], "", "--physical: physical network \"a\" is given twice"),
            (&["=eth2"], "", "--physical: \"\" cannot be a physical network's name"),
        ] {
            let error = of(flags, text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let many: String = (0..=PHYSICAL_NETWORKS).map(|index| format!("n{index} = \"eth{}\"\n", index + 2)).collect();
        assert!(of(&[], &many).unwrap_err().contains("17 physical networks. Use at most 16."));
    }
}
