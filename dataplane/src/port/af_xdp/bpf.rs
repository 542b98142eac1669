//! The bpf(2) system call: maps, programs and the link that holds a program on an interface. All are
//! descriptors: what nobody holds any more is gone, also when the holder was killed.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction slot (Documentation/bpf/standardization/instruction-set.rst).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instruction {
    pub code: u8,
    /// Destination in the lower half, source in the upper.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROGRAM_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;
const PROGRAM_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;

/// `bpf_redirect_map` from the program to a socket of the receiving queue.
pub(super) const MAP_TYPE_XSK: u32 = 17;
pub(super) const MAP_TYPE_HASH: u32 = 1;

/// `XDP_FLAGS_SKB_MODE`.
pub(super) const GENERIC: u32 = 2;
/// `XDP_FLAGS_DRV_MODE`.
pub(super) const NATIVE: u32 = 4;

/// # Safety
/// The attribute is the command's, and what its pointers point to is too.
unsafe fn bpf<T>(command: libc::c_long, attribute: &T) -> Result<libc::c_long> {
    // SAFETY: the caller's.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) } {
        result @ 0.. => Ok(result),
        _ => Err(Error::last_os_error()),
    }
}

/// # Safety
/// As [`bpf`], and the command gives a descriptor (always close-on-exec).
unsafe fn bpf_descriptor<T>(command: libc::c_long, attribute: &T) -> Result<OwnedFd> {
    // SAFETY: the caller's; the kernel just gave us this descriptor.
    unsafe { bpf(command, attribute).map(|descriptor| OwnedFd::from_raw_fd(descriptor as i32)) }
}

/// Creates a map.
pub(super) fn create_map(kind: u32, key: usize, value: usize, entries: u32) -> Result<OwnedFd> {
    let attribute = [kind, key as u32, value as u32, entries, 0];
    // SAFETY: the attribute of MAP_CREATE begins with these numbers; the rest defaults to zero.
    unsafe { bpf_descriptor(MAP_CREATE, &attribute) }
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Sets an entry. The lengths must be those that the map was created with.
pub(super) fn set<const K: usize, const V: usize>(map: &OwnedFd, key: [u8; K], value: [u8; V]) -> Result<()> {
    let element = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value live until the call returns.
    unsafe { bpf(MAP_UPDATE, &element).map(drop) }
}

/// Removes an entry.
pub(super) fn remove<const K: usize>(map: &OwnedFd, key: [u8; K]) -> Result<()> {
    let element = Element { map: map.as_raw_fd() as u32, padding: 0, key: key.as_ptr() as u64, value: 0, flags: 0 };
    // SAFETY: the key lives until the call returns.
    unsafe { bpf(MAP_DELETE, &element).map(drop) }
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `BPF_F_XDP_HAS_FRAGS`, from Linux 5.18 on.
const TAKES_FRAGMENTS: u32 = 1 << 5;

/// Loads an XDP program; `several`: one that takes frames of several buffers. An error of the verifier carries its log.
pub(super) fn load(instructions: &[Instruction], several: bool) -> Result<OwnedFd> {
    let mut name = [0; 16];
    name[..8].copy_from_slice(b"weft_xdp");
    let mut load = Load {
        kind: PROGRAM_TYPE_XDP,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: if several { TAKES_FRAGMENTS } else { 0 },
        name,
        interface: 0,
        attach_type: ATTACH_TYPE_XDP,
    };
    // SAFETY: the instructions and the license live until the call returns.
    match unsafe { bpf_descriptor(PROGRAM_LOAD, &load) } {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
            let mut log = vec![0; 64 * 1024];
            (load.log_level, load.log_size, load.log) = (1, log.len() as u32, log.as_mut_ptr() as u64);
            // SAFETY: as above, and so does the log.
            unsafe { bpf_descriptor(PROGRAM_LOAD, &load) }.map_err(|error| {
                let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
                match end {
                    0 => error,
                    _ => Error::other(format!("{error}: {}", String::from_utf8_lossy(&log[..end]).trim_end())),
                }
            })
        }
        result => result,
    }
}

/// Holds a program on an interface, in mode [`NATIVE`] or [`GENERIC`], until the link is closed.
pub(super) fn attach(program: &OwnedFd, interface: u32, mode: u32) -> Result<OwnedFd> {
    let attribute = [program.as_raw_fd() as u32, interface, ATTACH_TYPE_XDP, mode];
    // SAFETY: the attribute of LINK_CREATE begins with these numbers; the rest defaults to zero.
    unsafe { bpf_descriptor(LINK_CREATE, &attribute) }
}

/// Takes a program off its interface now, even if a child process that is about to `exec` still has a
/// copy of the link.
pub(super) fn detach(link: &OwnedFd) -> Result<()> {
    let attribute = [link.as_raw_fd() as u32];
    // SAFETY: the attribute of LINK_DETACH is the link.
    unsafe { bpf(LINK_DETACH, &attribute).map(drop) }
}

/// The number by which the map of sockets knows one.
pub(super) fn descriptor_number(descriptor: BorrowedFd<'_>) -> [u8; 4] {
    descriptor.as_raw_fd().to_ne_bytes()
}
