//! What the machine must have and allow, tried out before anything is made: every thing that is missing is
//! named, with its remedy.

use super::namespace::ip;
use super::raw;
use super::settings;
use anyhow::{Context as _, Result, bail};
use std::fs::OpenOptions;
use std::path::Path;

/// The least kernel.
const KERNEL_LEAST: (u32, u32) = (6, 1);

/// Programs of others, and the Debian packages they come in.
const PROGRAMS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("ethtool", "ethtool"), ("ping", "iputils-ping"), ("udhcpc", "udhcpc")];

/// Bits of `CapEff` in /proc/self/status, see capabilities(7).
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_IPC_LOCK", 14), ("CAP_SYS_ADMIN", 21)];

/// Tries everything.
///
/// # Errors
/// One line for each thing that is missing.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    let mut require = |what: &str, result: Result<()>, remedy: &str| {
        if let Err(error) = result {
            missing.push(format!("  {what}: {error:#}. {remedy}"));
        }
    };

    let rights = rights();
    let privileged = rights.is_ok();
    require("rights", rights, "Run as root: sudo weft up.");
    require(
        "kernel",
        kernel(),
        "Boot a newer kernel; on Debian 12: apt-get install -t bookworm-backports linux-image-amd64.",
    );
    for (program, package) in PROGRAMS {
        require(
            &format!("program {program}"),
            find_program(program),
            &format!("Install it: apt-get install {package}."),
        );
    }
    for program in ["weft-switch", "weft-controller"] {
        require(&format!("program {program}"), settings::sibling(program).map(drop), "");
    }
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    require(
        "device /dev/net/tun",
        tun.map(drop).map_err(Into::into),
        "Load the module (modprobe tun); in a container, pass the device in (--device /dev/net/tun).",
    );
    // Without rights the rest would fail for that reason alone.
    if privileged {
        require(
            "AF_XDP sockets",
            raw::try_af_xdp().map_err(Into::into),
            "The kernel must be built with CONFIG_XDP_SOCKETS, and in a container the seccomp profile must allow AF_XDP.",
        );
        require(
            "BPF programs",
            raw::try_xdp_program().map_err(Into::into),
            "The kernel must be built with CONFIG_BPF_SYSCALL, and in a container CAP_BPF must be granted.",
        );
        try_links(&mut require);
    }

    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine cannot run the demo cloud yet. Missing:\n{}", missing.join("\n"))
}

fn rights() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no line CapEff")?;
    let effective = u64::from_str_radix(effective.trim(), 16).context("CapEff is not a number")?;
    let lacking: Vec<&str> =
        CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect();
    if !lacking.is_empty() {
        bail!("this process lacks {}", lacking.join(", "));
    }
    Ok(())
}

fn kernel() -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let Some(version) = kernel_version(&release) else { bail!("cannot read the release {:?}", release.trim()) };
    if version < KERNEL_LEAST {
        bail!("{} is older than {}.{}", release.trim(), KERNEL_LEAST.0, KERNEL_LEAST.1);
    }
    Ok(())
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn find_program(program: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
        return Ok(());
    }
    // Not in an ordinary user's PATH on Debian, and in sudo's.
    if Path::new("/usr/sbin").join(program).is_file() || Path::new("/sbin").join(program).is_file() {
        bail!("it is in /usr/sbin, which PATH does not name; add it: export PATH=$PATH:/usr/sbin");
    }
    bail!("not found in PATH")
}

/// Makes, and removes, one of each kind of thing that the cloud is made of.
fn try_links(require: &mut impl FnMut(&str, Result<()>, &str)) {
    let name = format!("weft-preflight-{}", std::process::id());
    let made = ip(&format!("netns add {name}")).map(drop);
    let usable = made.is_ok();
    require(
        "network namespaces",
        made,
        "The kernel must be built with CONFIG_NET_NS; in a container, run it privileged: /run/netns must be mountable.",
    );
    if !usable {
        return;
    }
    require(
        "virtual Ethernet pairs (veth)",
        ip(&format!("-n {name} link add one type veth peer name two")).map(drop),
        "Load the module: modprobe veth.",
    );
    require(
        "bridges",
        ip(&format!("-n {name} link add three type bridge")).map(drop),
        "Load the module: modprobe bridge.",
    );
    require("network namespaces", ip(&format!("netns del {name}")).map(drop), "Remove it by hand.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(kernel_version("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(kernel_version("6.18.44"), Some((6, 18)));
        assert_eq!(kernel_version("six"), None);
    }

    #[test]
    fn a_program_that_does_not_exist_is_missed() {
        assert!(find_program("weft-no-such-program").is_err());
        assert!(find_program("sh").is_ok());
    }
}
