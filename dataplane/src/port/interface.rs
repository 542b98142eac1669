//! The kernel's network interfaces as ports need them: a few questions and settings by ioctl, in the
//! network namespace of the calling thread. For the threads that open ports; workers never come here.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd};

/// `ethtool -l`: linux/ethtool.h, `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// `ethtool -k`: linux/ethtool.h, `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
/// ETH_FLAG_RXVLAN.
const TAKES_TAGS_OFF: u32 = 1 << 8;

/// Whether the kernel could have an interface of this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..libc::IFNAMSIZ).contains(&bytes.len())
        && name != "."
        && name != ".."
        && bytes.iter().all(|&byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
}

/// One interface, by name.
pub struct Interface {
    socket: OwnedFd,
    name: String,
}

impl Interface {
    /// Asks nothing yet: an interface that does not exist fails at the first question, with `ENODEV`.
    ///
    /// # Errors
    /// The name cannot be one (`EINVAL`), or there is no descriptor left.
    pub fn named(name: &str) -> Result<Self> {
        if !is_name(name) {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        }
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, name: name.to_owned() })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: all zeroes is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, &byte) in request.ifr_name.iter_mut().zip(self.name.as_bytes()) {
            *place = byte as libc::c_char;
        }
        request
    }

    fn ask(&self, what: libc::c_ulong, request: &mut libc::ifreq) -> Result<()> {
        // SAFETY: `request` is an `ifreq`, what each of these requests takes and gives.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), what as _, std::ptr::from_mut(request)) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }

    /// Its index.
    ///
    /// # Errors
    /// It does not exist.
    pub fn index(&self) -> Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.socket, &self.name)?)
    }

    /// Its name when it was asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether an interface of this index is where this one was named, whatever it is called by now.
    #[must_use]
    pub fn has_index(&self, index: u32) -> bool {
        !matches!(rustix::net::netdevice::index_to_name(&self.socket, index), Err(Errno::NODEV | Errno::NXIO))
    }

    /// Its MTU, bytes.
    ///
    /// # Errors
    /// It does not exist.
    pub fn mtu(&self) -> Result<u32> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFMTU as _, &mut request)?;
        // SAFETY: SIOCGIFMTU filled this member.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
    }

    /// Sets its MTU, bytes.
    ///
    /// # Errors
    /// The driver does not take it, or we lack CAP_NET_ADMIN.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
        self.ask(libc::SIOCSIFMTU as _, &mut request)
    }

    /// Its Ethernet address; `None` if it is not an Ethernet interface.
    ///
    /// # Errors
    /// It does not exist.
    pub fn mac(&self) -> Result<Option<[u8; 6]>> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFHWADDR as _, &mut request)?;
        // SAFETY: SIOCGIFHWADDR filled this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (place, byte) in mac.iter_mut().zip(address.sa_data) {
            *place = byte as u8;
        }
        Ok((address.sa_family == libc::ARPHRD_ETHER).then_some(mac))
    }

    /// Sets its Ethernet address.
    ///
    /// # Errors
    /// The address is a group's, or we lack CAP_NET_ADMIN.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<()> {
        let mut request = self.request();
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (place, byte) in address.sa_data.iter_mut().zip(mac) {
            *place = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        self.ask(libc::SIOCSIFHWADDR as _, &mut request)
    }

    /// Sets it up.
    ///
    /// # Errors
    /// The driver refuses, or we lack CAP_NET_ADMIN.
    pub fn set_up(&self) -> Result<()> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFFLAGS as _, &mut request)?;
        // SAFETY: SIOCGIFFLAGS filled this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.ask(libc::SIOCSIFFLAGS as _, &mut request)
    }

    /// Sets whether it takes VLAN tags off received frames, for the kernel's stack to find beside them (`rxvlan`); gives
    /// whether it did before.
    ///
    /// # Errors
    /// The driver does not say, or cannot do otherwise.
    pub fn take_tags_off(&self, on: bool) -> Result<bool> {
        let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
        self.ask(SIOCETHTOOL, &mut request)?;
        let before = value.data & TAKES_TAGS_OFF != 0;
        if before != on {
            value = Value { command: ETHTOOL_SFLAGS, data: value.data ^ TAKES_TAGS_OFF };
            request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
            self.ask(SIOCETHTOOL, &mut request)?;
        }
        Ok(before)
    }

    /// How many receive and transmit queues it uses; one each if the driver does not say.
    #[must_use]
    pub fn queues(&self) -> (u32, u32) {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut channels).cast();
        match self.ask(SIOCETHTOOL, &mut request) {
            Ok(()) => ((channels.receive + channels.combined).max(1), (channels.transmit + channels.combined).max(1)),
            Err(_) => (1, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_answers() {
        let loopback = Interface::named("lo").unwrap();
        assert_eq!(loopback.index().unwrap(), 1);
        assert_eq!((loopback.has_index(1), loopback.has_index(u32::MAX >> 1)), (true, false));
        assert!(loopback.mtu().unwrap() >= 1280);
        assert_eq!(loopback.mac().unwrap(), None);
        assert_eq!(loopback.queues(), (1, 1));
        let none = Interface::named("weft-none").unwrap();
        assert_eq!(none.mtu().unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "weft%d", "..", "ä", "a:1"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("fifteen-letters"));
    }
}
