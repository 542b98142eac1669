//! Where a bench runs: a directory and two network namespaces of its own, one core. All of it goes with the bench.

use super::traffic;
use anyhow::{Context, Result, bail};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use weft_proto::text::format_mac;
use weft_up::namespace::{self, ip};
use weft_up::record::{self, Record};

/// The interface that recordings stand in for, in our switch's namespace.
pub const UNDERLAY: &str = "underlay0";

/// See the module comment.
pub struct Place {
    directory: PathBuf,
    prefix: String,
    record: RefCell<Record>,
    /// The core on which everything is measured.
    pub core: usize,
}

impl Place {
    /// Makes it.
    ///
    /// # Errors
    /// If there is only one core, or the rights are missing.
    pub fn new(core: Option<usize>) -> Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        if cores < 2 {
            bail!("a bench needs two cores, one of them for what is measured; this machine has {cores}.");
        }
        let core = core.unwrap_or(cores - 1);
        let name = format!("bench-{}", std::process::id());
        let directory = Path::new("/run/weft").join(&name);
        let record = RefCell::new(Record::begin(&directory.join("made")).context("run the bench as root")?);
        // From here on `drop` removes what there is.
        let place = Self { directory, prefix: format!("weft-{name}"), record, core };
        place.namespace("ours").context("run the bench as root")?;
        place.namespace("theirs")?;
        let (ours, own, remote) = (place.ours(), format_mac(&traffic::TUNNEL_MAC), format_mac(&traffic::REMOTE_MAC));
        ip(&format!("-n {ours} link add {UNDERLAY} address {own} type veth peer name underlay1"))?;
        ip(&format!("-n {ours} addr add {}/24 dev {UNDERLAY}", traffic::TUNNEL_ADDRESS))?;
        for interface in [UNDERLAY, "underlay1"] {
            ip(&format!("-n {ours} link set {interface} up"))?;
        }
        let neighbour = traffic::REMOTE_ADDRESS;
        ip(&format!("-n {ours} neigh replace {neighbour} lladdr {remote} dev {UNDERLAY} nud permanent"))?;
        Ok(place)
    }

    /// A core on which nothing is measured.
    pub fn other_core(&self) -> usize {
        usize::from(self.core == 0)
    }

    /// Our switch's namespace.
    pub fn ours(&self) -> String {
        format!("{}-ours", self.prefix)
    }

    /// The other's namespace.
    pub fn theirs(&self) -> String {
        format!("{}-theirs", self.prefix)
    }

    /// A new namespace in it, of this name's own; what was there by that name is gone.
    pub fn namespace(&self, tail: &str) -> Result<String> {
        let name = format!("{}-{tail}", self.prefix);
        if namespace::exists(&name) {
            ip(&format!("netns del {name}"))?;
        }
        self.record.borrow_mut().namespace(&name)?;
        Ok(name)
    }

    /// A new directory in it.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(name);
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match record::remove(&self.directory.join("made")) {
            Ok(trouble) => trouble.iter().for_each(|line| eprintln!("{line}")),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}
