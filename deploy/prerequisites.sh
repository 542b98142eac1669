#!/bin/bash
# Checks the kernel and Rust, and installs the Debian packages that Weft needs and this machine lacks.
#
#   deploy/prerequisites.sh check    say what is here; change nothing, fail if something is too old
#   deploy/prerequisites.sh build    … and install what building needs
#   deploy/prerequisites.sh run      … and what the demo cloud needs
#   deploy/prerequisites.sh test     … and what the tests need
#   deploy/prerequisites.sh bench    what building needs, and the switches that the bench measures beside ours
#
# Safe to repeat: apt-get runs only if a package is missing. Needs root, or sudo, only then.
set -euo pipefail

# Debian 12's. What we need is older (bpf_link, by which our XDP program goes when the process goes: 5.9; queues
# that share one UMEM: 5.10), but nothing older is tested.
least_kernel=6.1
least_rustc=1.95

build_packages=(gcc libc6-dev make git)
# ip, ethtool: links and namespaces. udhcpc, ping: the endpoints' programs.
run_packages=(iproute2 ethtool iputils-ping udhcpc)
# Traffic; other DHCP clients, and many of them at once (kea-admin has perfdhcp); another sender of ARP; another
# switch; who looks at frames.
test_packages=(curl iperf3 isc-dhcp-client dhcpcd-base kea-admin iputils-arping openvswitch-switch tcpdump tshark)
# Virtual machines: another end of their queues; emulation, and libvirt without its services.
test_packages+=(dpdk-dev qemu-system-x86 libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients)
# Their kernel, unless the machine has one of its own (in a container, say): without a hook that makes boot loaders use it.
ls /boot/vmlinuz-* >/dev/null 2>&1 || test_packages+=(linux-image-cloud-amd64 tiny-initramfs)

# Open vSwitch with DPDK, whose drivers come with it; testpmd.
bench_packages=(iproute2 openvswitch-switch openvswitch-switch-dpdk dpdk-dev)

say() { printf '%s\n' "$*" >&2; }
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

check_kernel() {
    if [ "$(uname -s)" != Linux ]; then
        say "Weft needs Linux $least_kernel or later; this is $(uname -s). Use a Debian 12 machine, real or virtual."
        return 1
    fi
    local kernel
    kernel=$(uname -r | sed 's/[^0-9.].*//')
    if ! at_least "$least_kernel" "$kernel"; then
        say "kernel $kernel is too old: Weft needs $least_kernel or later."
        say "  Debian 12 has $least_kernel: apt-get install linux-image-amd64, then reboot."
        return 1
    fi
    say "kernel $kernel: new enough"
}

check_rust() {
    local how="Get it from https://rustup.rs (as the user who builds, not through sudo):
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --default-toolchain stable
  . \"\$HOME/.cargo/env\"
or, if rustup is there: rustup update stable"
    if ! command -v rustc >/dev/null || ! command -v cargo >/dev/null; then
        say "rustc or cargo is not in the PATH: Weft is built with Rust $least_rustc or later."
        say "$how"
        return 1
    fi
    local rustc
    rustc=$(rustc --version | awk '{ print $2 }')
    if ! at_least "$least_rustc" "$rustc"; then
        say "rustc $rustc is too old: Weft is built with Rust $least_rustc or later."
        say "$how"
        return 1
    fi
    say "rustc $rustc: new enough"
}

install_missing() {
    local missing=() package
    if ! command -v dpkg-query >/dev/null; then
        say "This is not Debian: see to it that these are installed (named as Debian names them):"
        say "  $*"
        return 0
    fi
    for package in "$@"; do
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            missing+=("$package")
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "Missing packages: ${missing[*]}. Install them as root: apt-get install ${missing[*]}"
            return 1
        fi
        as_root=(sudo)
    fi
    say "installing: ${missing[*]}"
    # An index that cannot be refreshed may still do.
    "${as_root[@]}" apt-get update -qq >&2 || say "apt-get update failed; trying with the index that is here"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends -qq "${missing[@]}" >&2 </dev/null || {
        say "apt-get could not install ${missing[*]}: see its message above."
        return 1
    }
}

what=${1:-check}
case $what in
check) packages=() ;;
build) packages=("${build_packages[@]}") ;;
run) packages=("${build_packages[@]}" "${run_packages[@]}") ;;
test) packages=("${build_packages[@]}" "${run_packages[@]}" "${test_packages[@]}") ;;
bench) packages=("${build_packages[@]}" "${bench_packages[@]}") ;;
*)
    say "usage: $0 check|build|run|test|bench"
    exit 2
    ;;
esac
# Both, so that one look shows all that is wrong.
failed=0
check_kernel || failed=1
check_rust || failed=1
[ "$failed" -eq 0 ] || exit 1
[ ${#packages[@]} -eq 0 ] || install_missing "${packages[@]}"
