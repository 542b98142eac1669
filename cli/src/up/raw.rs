//! System calls that the standard library does not offer: packet sockets (packet(7)) and bpf(2). All
//! unsafe code of the demo cloud is here.

use std::io::{Error, Result};
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// A socket that sees and sends whole Ethernet frames of one interface. It belongs to the namespace of the
/// thread that opens it, and may be used from anywhere.
#[derive(Debug)]
pub struct PacketSocket {
    descriptor: OwnedFd,
}

impl PacketSocket {
    /// Opens it on an interface of the current thread's namespace. It receives what arrives at the
    /// interface and what leaves it.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` if there is no such interface.
    pub fn open(interface: &str) -> Result<Self> {
        let index = std::ffi::CString::new(interface)?;
        // SAFETY: `index` is a string that ends with a zero byte and outlives the call.
        let index = unsafe { libc::if_nametoindex(index.as_ptr()) };
        if index == 0 {
            return Err(Error::from_raw_os_error(libc::ENODEV));
        }
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // Protocol 0: nothing is received before it is bound to the one interface.
        // SAFETY: no pointers are passed.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if descriptor < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the call above gave us this descriptor, and nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: `sockaddr_ll` is plain integers and arrays of them, for which all zeros is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        // SAFETY: `address` lives through the call and the length is its own.
        let bound = unsafe {
            libc::bind(descriptor.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        if bound < 0 {
            return Err(Error::last_os_error());
        }
        Ok(Self { descriptor })
    }

    /// Sends one frame, Ethernet header included.
    ///
    /// # Errors
    /// `EMSGSIZE` if it is larger than the interface's MTU, `ENETDOWN` if the interface is down.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the pointer and length are those of one slice, which outlives the call.
        let sent = unsafe { libc::send(self.descriptor.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// From now on gives only what arrives at the interface, not what leaves it.
    ///
    /// # Errors
    /// `ENOPROTOOPT` before kernel 4.20.
    pub fn ignore_outgoing(&self) -> Result<()> {
        let yes: libc::c_int = 1;
        // SAFETY: `yes` lives through the call and the length is its own.
        let set = unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_IGNORE_OUTGOING,
                (&raw const yes).cast(),
                size_of::<libc::c_int>() as u32,
            )
        };
        if set < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for one frame; gives its length in `buffer`, or `None` after `patience`. A frame that is
    /// longer than the buffer is cut.
    ///
    /// # Errors
    /// `ENETDOWN` if the interface goes down.
    pub fn receive(&self, buffer: &mut [u8], patience: Duration) -> Result<Option<usize>> {
        let mut poll = libc::pollfd { fd: self.descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the pointer is to one pollfd, and the count says one.
        let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
        if ready < 0 {
            let error = Error::last_os_error();
            return if error.kind() == std::io::ErrorKind::Interrupted { Ok(None) } else { Err(error) };
        }
        if ready == 0 {
            return Ok(None);
        }
        // SAFETY: the pointer and length are those of one slice that nobody else uses meanwhile.
        let length = unsafe { libc::recv(self.descriptor.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if length < 0 { Err(Error::last_os_error()) } else { Ok(Some(length as usize)) }
    }
}

/// Whether a socket of the family AF_XDP can be opened.
///
/// # Errors
/// `EAFNOSUPPORT` if the kernel has none, `EPERM` without CAP_NET_RAW.
pub fn try_af_xdp() -> Result<()> {
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the call above gave us this descriptor, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(())
}

/// The first 48 bytes of the kernel's `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// For BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct IdentifierAttributes {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// See packet(7); not in the `libc` crate for every target.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_GET_FD_BY_ID: i64 = 13;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// Loads, and forgets, an XDP program that passes everything: `r0 = XDP_PASS; exit`.
///
/// # Errors
/// `EPERM` without CAP_BPF and CAP_NET_ADMIN, `ENOSYS` without bpf(2).
pub fn try_xdp_program() -> Result<()> {
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: the attributes and what they point to outlive the call; the size is the struct's own.
    let descriptor =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>()) };
    close_or_error(descriptor)
}

/// Whether the kernel still holds the BPF program of this id. Errors count as yes: what cannot be shown to be
/// gone is not called gone.
#[must_use]
pub fn bpf_program_exists(id: u32) -> bool {
    let attributes = IdentifierAttributes { id, ..IdentifierAttributes::default() };
    // SAFETY: the attributes outlive the call; the size is the struct's own.
    let descriptor = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, &raw const attributes, size_of::<IdentifierAttributes>())
    };
    match close_or_error(descriptor) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() != Some(libc::ENOENT),
    }
}

fn close_or_error(descriptor: i64) -> Result<()> {
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor as i32) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_does_not_exist_is_an_error() {
        let error = PacketSocket::open("no-such-device").expect_err("it was opened");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_program_that_does_not_exist_is_gone() {
        assert!(!bpf_program_exists(u32::MAX - 1));
    }
}
