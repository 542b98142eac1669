//! What `weft up` prints when the cloud runs: what there is, and what to try.

use super::cloud::Cloud;
use super::frame::Mac;
use super::outside;

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Where this program lies, if a shell would not find it.
fn directory_to_add() -> Option<String> {
    let own = std::env::current_exe().ok()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find(|directory| directory.join("weft").is_file());
    let found = found.and_then(|directory| directory.join("weft").canonicalize().ok());
    if found == own.canonicalize().ok() { None } else { Some(own.parent()?.display().to_string()) }
}

/// The instances as a table, and commands that work as they stand.
#[must_use]
pub fn guide(cloud: &Cloud) -> String {
    let mut lines = vec![String::new()];
    let width = cloud.instances.iter().map(|instance| instance.namespace.len()).max().unwrap_or(0).max(9);
    lines.push(format!(
        "{:<width$} {:<8} {:<9} {:<5} {:<12} {:<18} {}",
        "NAMESPACE", "PROJECT", "PORT", "HOST", "ADDRESS", "MAC", "NUMBER"
    ));
    for instance in &cloud.instances {
        let plan = &instance.plan;
        lines.push(format!(
            "{:<width$} {:<8} {:<9} {:<5} {:<12} {:<18} {}",
            instance.namespace,
            plan.project,
            plan.name,
            instance.host,
            plan.address.to_string(),
            text(instance.mac),
            instance.number
        ));
    }
    let (one, two) = (&cloud.instances[0], &cloud.instances[1]);
    let option = cloud.layout.client_option();
    let host = &one.host;
    lines.push(String::new());
    lines.push("Try, in another terminal, as root:".into());
    if let Some(directory) = directory_to_add() {
        lines.push(format!("  export PATH={directory}:$PATH\n      so that the shell finds weft"));
    }
    for (command, comment) in [
        (format!("ip netns exec {} ping {}", one.namespace, two.plan.address), "across hosts, over VXLAN"),
        (
            format!("ip netns exec {} ping {}", one.namespace, outside::FAR),
            "out of the cloud, by NAT on the gateway host",
        ),
        (format!("weft {option}status"), "the cloud at a glance"),
        (format!("weft {option}flows dump {host}"), "every rule of a host, and where it comes from"),
        (
            format!(
                "weft {option}trace {host} in_port={},eth_src={},eth_dst={},ip,ip_src=10.0.0.66,ip_dst={}",
                one.number,
                text(one.mac),
                text(two.mac),
                two.plan.address
            ),
            "why would this packet be dropped?",
        ),
        (format!("weft {option}drops {host}"), "frames that went nowhere, by reason"),
    ] {
        lines.push(format!("  {command}\n      {comment}"));
    }
    lines.push(String::new());
    lines.push(format!("Logs and settings are in {}.", cloud.layout.directory.display()));
    lines.push("Ctrl-C ends the cloud and removes everything.".into());
    lines.join("\n")
}
