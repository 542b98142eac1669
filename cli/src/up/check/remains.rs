//! The last line: after the cloud is removed, nothing of it is left on the machine.

use crate::cloud::Cloud;
use crate::layout::Layout;
use crate::namespace::{self, ip};
use crate::outside::INTERFACE;
use crate::raw;
use crate::record::ProcessIdentity;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What of a cloud is on the machine.
pub struct Remains {
    prefix: String,
    directory: String,
    links: BTreeSet<String>,
}

impl Remains {
    /// Looks at the machine before the cloud is made.
    ///
    /// # Errors
    /// If `ip` cannot be run.
    pub fn look(layout: &Layout) -> Result<Self> {
        Ok(Self {
            prefix: format!("{}-", layout.prefix),
            directory: layout.directory.display().to_string(),
            links: links()?,
        })
    }

    /// Everything that was not there before, one phrase each.
    fn found(&self, processes: &[ProcessIdentity], programs: &[u32]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for line in ip("netns list")?.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if name.starts_with(&self.prefix) {
                found.push(format!("network namespace {name}"));
            }
        }
        found.extend(links()?.difference(&self.links).map(|name| format!("link {name}")));
        found.extend(programs.iter().filter(|id| raw::bpf_program_exists(**id)).map(|id| format!("XDP program {id}")));
        found
            .extend(processes.iter().filter(|process| process.runs()).map(|process| format!("process {}", process.id)));
        if std::path::Path::new(&self.directory).exists() {
            found.push(format!("directory {}", self.directory));
        }
        Ok(found)
    }
}

/// Names of the links in the machine's own namespace.
fn links() -> Result<BTreeSet<String>> {
    let listed = ip("-o link show")?;
    // "2: eth0@if7: <…"
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    Ok(listed.lines().filter_map(name).collect())
}

/// The id of the XDP program on an interface; `None` if it has none.
#[must_use]
pub fn xdp_program(namespace: &str, interface: &str) -> Option<u32> {
    // "    prog/xdp id 33 name …", after a first line that says how: xdp, xdpgeneric.
    let shown = ip(&format!("-n {namespace} -d link show dev {interface}")).ok()?;
    let words: Vec<&str> = shown.split_whitespace().collect();
    words.windows(3).find(|words| words[0] == "prog/xdp" && words[1] == "id")?[2].parse().ok()
}

/// Removes the cloud and looks for what is left of it. With the fault, something is left on purpose.
pub fn clean(cloud: &mut Cloud, before: &mut Remains, broken: bool) -> Result<String> {
    let mut interfaces: Vec<(&str, &str)> = cloud.hosts.iter().map(|host| (host.namespace.as_str(), "eth0")).collect();
    interfaces.extend(cloud.hosts.last().map(|host| (host.namespace.as_str(), INTERFACE)));
    let expected = interfaces.len();
    let programs: Vec<u32> = interfaces.iter().filter_map(|(host, interface)| xdp_program(host, interface)).collect();
    let mut processes: BTreeSet<u32> = cloud.process_ids().into_iter().collect();
    let namespaces = cloud.namespaces();
    processes.extend(namespaces.iter().flat_map(|name| namespace::processes(name)));
    let processes: Vec<ProcessIdentity> = processes.into_iter().filter_map(ProcessIdentity::of).collect();
    if programs.len() != expected {
        cloud.remove()?;
        bail!(
            "{} of {expected} interfaces of hosts had an XDP program: there was not what should vanish",
            programs.len()
        );
    }
    let stray = format!("{}forgotten", before.prefix);
    if broken {
        namespace::create(&stray)?;
    }
    let trouble = cloud.remove()?;
    // The kernel frees XDP programs a little after the last reference to them is gone.
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut found = before.found(&processes, &programs)?;
    while !found.is_empty() && !broken && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        found = before.found(&processes, &programs)?;
    }
    if broken {
        ip(&format!("netns del {stray}"))?;
    }
    if !trouble.is_empty() {
        bail!("{}", trouble.join(" "));
    }
    if !found.is_empty() {
        bail!("left behind: {}", found.join(", "));
    }
    Ok(format!(
        "{} namespaces, {} XDP programs and {} processes are gone",
        namespaces.len(),
        programs.len(),
        processes.len()
    ))
}
