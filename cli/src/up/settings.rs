//! What the programs of the demo cloud are started with: their configuration files and arguments.

use super::cloud::{PROVIDER, PROVIDER_INTERFACE};
use super::instance::Instance;
use super::layout::Layout;
use super::outside::{INTERFACE, INTERNET};
use super::program::ProgramPlan;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The file of another of Weft's programs, which lies beside this one.
///
/// # Errors
/// If it does not.
pub fn sibling(program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let file = own.parent().unwrap_or(Path::new("/")).join(program);
    if !file.is_file() {
        bail!("{} does not exist. Build the workspace (make build), or install it (make install).", file.display());
    }
    Ok(file)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn server(layout: &Layout, name: String, file: PathBuf, stem: &str, config: &str) -> Result<ProgramPlan> {
    let config_file = layout.directory.join(format!("{stem}.toml"));
    write(&config_file, config)?;
    Ok(ProgramPlan {
        name,
        namespace: None,
        file,
        arguments: vec!["--config".into(), config_file.display().to_string()],
        environment: Vec::new(),
        directory: layout.directory.clone(),
        log: layout.directory.join(format!("{stem}.log")),
    })
}

/// The controller, in the machine's own namespace.
///
/// # Errors
/// If its configuration cannot be written.
pub fn controller(layout: &Layout, port: u16) -> Result<ProgramPlan> {
    let config = format!(
        "# Written by `weft up`.\nsocket = {:?}\nlisten = \"127.0.0.1:{port}\"\nstate_directory = {:?}\ntoken_file = {:?}\n",
        layout.controller_socket(),
        layout.controller_state(),
        layout.token_file(),
    );
    server(layout, "controller".into(), sibling("weft-controller")?, "controller", &config)
}

/// The switch of a host, in the host's namespace, with so many workers; on the gateway host it has the interface to
/// what is outside.
///
/// # Errors
/// If its configuration cannot be written.
pub fn switch(layout: &Layout, host: &str, workers: usize, gateway: bool) -> Result<ProgramPlan> {
    let outside = if gateway { format!("{INTERNET} = {INTERFACE:?}\n") } else { String::new() };
    let config = format!(
        "# Written by `weft up`.\nhost = {host:?}\ncontroller = \"unix:{}\"\nsocket = {:?}\n\n[underlay]\ninterface = \"eth0\"\n\n[workers]\ncount = {workers}\n\n[physical]\n{PROVIDER} = {PROVIDER_INTERFACE:?}\n{outside}",
        layout.controller_socket().display(),
        layout.switch_socket(host),
    );
    let mut plan =
        server(layout, format!("switch of host {host}"), sibling("weft-switch")?, &format!("host-{host}"), &config)?;
    plan.namespace = Some(layout.host_namespace(host));
    Ok(plan)
}

/// What the DHCP client runs when something happens; it says what in `$0`. Writes what it was told to
/// the file of the lease, in one step.
const DHCP_SCRIPT: &str = r#"# Run by udhcpc, whose environment holds the options of the lease; written by `weft up`.
case "$0" in
deconfig)
    ip -4 addr flush dev "$interface"
    ip link set dev "$interface" up
    rm -f "$WEFT_LEASE"
    ;;
bound|renew)
    ip link set dev "$interface" mtu "${mtu:-1500}"
    if [ "$0" = bound ]; then
        ip -4 addr flush dev "$interface"
        ip addr add "$ip/$mask" broadcast + dev "$interface"
        # RFC 3442: whoever understands classless routes ignores the router option.
        if [ -n "$staticroutes" ]; then
            set -- $staticroutes
            while [ $# -ge 2 ]; do
                ip route replace "$1" via "$2" dev "$interface"
                shift 2
            done
        elif [ -n "$router" ]; then
            ip route replace default via "${router%% *}" dev "$interface"
        fi
    fi
    for name in ip mask router dns mtu lease hostname domain serverid staticroutes; do
        eval "echo \"$name=\$$name\""
    done > "$WEFT_LEASE.new"
    mv "$WEFT_LEASE.new" "$WEFT_LEASE"
    ;;
esac
echo "$0" >> "$WEFT_LEASE.events"
"#;

/// Where the DHCP clients find their script.
fn dhcp_directory(layout: &Layout) -> PathBuf {
    layout.directory.join("dhcp")
}

/// Writes the script of the DHCP clients: once, before the first of them runs. A shell reads its script as it goes.
///
/// # Errors
/// If it cannot be written.
pub fn write_dhcp_script(layout: &Layout) -> Result<()> {
    // The client runs its script with the event as the argument. The script is the shell, which reads the file of
    // the event's name in its working directory: so nothing needs to be executable in /run, which may be
    // mounted noexec.
    let directory = dhcp_directory(layout);
    std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    ["deconfig", "bound", "renew", "leasefail", "nak"]
        .iter()
        .try_for_each(|event| write(&directory.join(event), DHCP_SCRIPT))
}

/// A real DHCP client for an instance. It stays, and renews its lease.
#[must_use]
pub fn dhcp_client(layout: &Layout, instance: &Instance) -> ProgramPlan {
    let arguments = [
        "-f",
        "-i",
        instance.interface.as_str(),
        "-s",
        "/bin/sh",
        "-t",
        "20",
        "-T",
        "1",
        "-A",
        "1",
        "-O",
        "mtu",
        "-O",
        "staticroutes",
        "-O",
        "hostname",
        "-O",
        "domain",
        "-O",
        "dns",
        "-O",
        "router",
    ];
    ProgramPlan {
        name: format!("DHCP client in {}", instance.namespace),
        namespace: Some(instance.namespace.clone()),
        file: "udhcpc".into(),
        arguments: arguments.map(String::from).to_vec(),
        environment: vec![("WEFT_LEASE".into(), instance.lease_file.display().to_string())],
        directory: dhcp_directory(layout),
        log: layout.directory.join(format!("{}.udhcpc", instance.plan.name)),
    }
}
