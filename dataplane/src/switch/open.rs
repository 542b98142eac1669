//! How the ports of a specification are opened. The switch knows only the trait, so that tests can give
//! it ports of their own.

use crate::limits::vhost_user::PAIRS;
use crate::packet::memory::Memory;
use crate::packet::tunnel::Encapsulation;
use crate::port::af_xdp::{AfXdp, AfXdpError, AfXdpSettings, Mode};
use crate::port::pcap::PcapQueue;
use crate::port::tap::{Tap, TapError, TapSettings};
use crate::port::vhost_user::{OnChange, VhostUser, VhostUserError, VhostUserSettings};
use crate::port::{PortQueue, PortSlot};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use weft_proto::fault::Fault;
use weft_proto::v1::{self, port_spec::Kind};

/// By what packets on the underlay are known to be for a tunnel of ours.
pub type TunnelEnd = (Ipv4Addr, Encapsulation);

/// The UDP port of VXLAN (RFC 7348).
const VXLAN: u16 = 4789;

/// What a specification says of a tunnel port, which has no device.
pub(super) struct TunnelSettings {
    /// `None`: the address of the interface below.
    pub local: Option<Ipv4Addr>,
    /// The port it runs over; 0: the only `af_xdp` port there is.
    pub underlay_port: u32,
    /// Its kind.
    pub encapsulation: Encapsulation,
}

impl TunnelSettings {
    /// Of a specification; `None`: it is no tunnel.
    pub fn of(spec: &v1::PortSpec) -> Option<Self> {
        let (local, underlay_port, encapsulation) = match &spec.kind {
            Some(Kind::Vxlan(port)) => {
                let udp_port = u16::try_from(port.udp_port).ok().filter(|&port| port != 0).unwrap_or(VXLAN);
                (&port.local_address, port.underlay_port, Encapsulation::Vxlan(udp_port))
            }
            Some(Kind::Gre(port)) => (&port.local_address, port.underlay_port, Encapsulation::Gre),
            _ => return None,
        };
        let local = <[u8; 4]>::try_from(local.as_slice()).ok().map(Ipv4Addr::from);
        Some(Self { local, underlay_port, encapsulation })
    }
}

/// Tells an interface of the host which packets are the switch's: those of tunnels that end at these
/// addresses, and what is for addresses of ours. Dropping it leaves every frame to the host.
pub trait TunnelFilter: Send + Sync {
    /// From now on, exactly these.
    ///
    /// # Errors
    /// A sentence for people.
    fn set(&self, ends: &BTreeSet<TunnelEnd>) -> Result<(), String>;

    /// From now on, exactly these addresses.
    ///
    /// # Errors
    /// A sentence for people.
    fn set_addresses(&self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), String>;

    /// Frames that the kernel could not hand over: the receive ring was full, or had no buffer.
    fn missed(&self) -> u64;
}

/// Asked from time to time whether a device is still what it was opened as; if not, the fault that it has now,
/// whose remedy is written for a port that the switch opens again by itself.
pub type Watch = Box<dyn Fn() -> Option<Fault> + Send + Sync>;

/// Whether the other end of a device that comes and goes is there now, and how it works.
pub type LinkState = Box<dyn Fn() -> (bool, String) + Send + Sync>;

/// What the switch keeps of a port whose queues the workers have.
#[derive(Default)]
pub struct Device {
    /// The kernel's interface, if there is one; of a virtual machine its socket.
    pub interface: String,
    /// How it works: "native, 2 queues, copy".
    pub detail: String,
    /// Why it could not be opened, or what became of it; then it has no queues, and opening may be tried again.
    pub failure: Option<Fault>,
    /// Of an interface of the host.
    filter: Mutex<Option<Box<dyn TunnelFilter>>>,
    /// Of one that may be lost.
    watch: Option<Watch>,
    /// Of one whose other end comes and goes.
    link: Option<LinkState>,
    /// What ends when the port is closed.
    held: Mutex<Option<Box<dyn Send>>>,
}

impl Device {
    /// A device without filter: every frame is the switch's.
    #[must_use]
    pub fn new(interface: String, detail: String) -> Self {
        Self { interface, detail, ..Self::default() }
    }

    /// What stands in for a device that could not be opened.
    #[must_use]
    pub fn failed(failure: Fault) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    /// See [`TunnelFilter::missed`].
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.filter.lock().expect("no panic under this lock").as_ref().map_or(0, |filter| filter.missed())
    }

    /// The same with a filter.
    #[must_use]
    pub fn with_filter(self, filter: Box<dyn TunnelFilter>) -> Self {
        Self { filter: Mutex::new(Some(filter)), ..self }
    }

    /// The same with a watch.
    #[must_use]
    pub fn with_watch(self, watch: Watch) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// The same with another end that comes and goes. `detail` is its own then.
    #[must_use]
    pub fn with_link(self, link: LinkState) -> Self {
        Self { link: Some(link), ..self }
    }

    /// The same with something that is dropped when the port is closed, before its queues are.
    #[must_use]
    pub fn with_held(self, held: Box<dyn Send>) -> Self {
        Self { held: Mutex::new(Some(held)), ..self }
    }

    /// Whether its other end, if that comes and goes, is there.
    pub(super) fn is_linked(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link().0)
    }

    /// How it works now.
    pub(super) fn describe(&self) -> String {
        self.link.as_ref().map_or_else(|| self.detail.clone(), |link| link().1)
    }

    /// What became of it since it was opened; `None`: nothing.
    pub(super) fn loss(&self) -> Option<Fault> {
        self.watch.as_ref().and_then(|watch| watch())
    }

    /// Sets the filter, if it has one.
    pub(super) fn filter(&self, ends: &BTreeSet<TunnelEnd>, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), String> {
        match &*self.filter.lock().expect("no panic under this lock") {
            Some(filter) => filter.set(ends).and_then(|()| filter.set_addresses(addresses)),
            None => Ok(()),
        }
    }

    /// To be called before the queues are closed: from then on the host has its frames again.
    pub(super) fn release(&self) {
        self.filter.lock().expect("no panic under this lock").take();
        self.held.lock().expect("no panic under this lock").take();
    }
}

/// A port just opened.
pub struct Opened {
    /// See [`Device`].
    pub device: Device,
    /// Queue q goes to worker q modulo the number of workers.
    pub queues: Vec<Box<dyn PortQueue>>,
}

/// Opens ports that have queues. Blocks. The fault's field is relative to the specification.
pub trait OpenPort: Send + Sync {
    /// Opens the port of a valid specification; `workers`: how many queues are useful.
    ///
    /// # Errors
    /// Why it cannot be opened; nothing is left behind then.
    fn open(
        &self,
        slot: PortSlot,
        spec: &v1::PortSpec,
        memory: &'static Memory,
        workers: usize,
    ) -> Result<Opened, Fault>;
}

/// Ports of this machine: TAPs, virtual machines, AF_XDP and recordings.
#[derive(Clone)]
pub struct KernelPorts {
    /// Where sockets for virtual machines are made, unless a port names its own. Made if it is missing.
    pub vhost_user_directory: PathBuf,
    /// Who may connect to them besides root: a group's number.
    pub vhost_user_group: Option<u32>,
    /// Called when a port's other end has come or gone.
    pub link_changed: OnChange,
}

impl Default for KernelPorts {
    fn default() -> Self {
        Self {
            vhost_user_directory: crate::config::DEFAULT_VHOST_USER_DIRECTORY.into(),
            vhost_user_group: None,
            link_changed: Arc::new(|| {}),
        }
    }
}

impl KernelPorts {
    fn vhost_user(
        &self,
        slot: PortSlot,
        spec: &v1::PortSpec,
        port: &v1::VhostUserPort,
        workers: usize,
    ) -> Result<Opened, Fault> {
        let socket = if port.socket.is_empty() {
            // A mistake in the directory's name shows when the socket is made.
            let _ = std::fs::create_dir_all(&self.vhost_user_directory);
            self.vhost_user_directory.join(format!("weft{}.sock", spec.number))
        } else {
            PathBuf::from(&port.socket)
        };
        let interface = socket.display().to_string();
        let settings = VhostUserSettings {
            name: spec.name.clone(),
            socket,
            group: self.vhost_user_group,
            mtu: if port.mtu == 0 { 1500 } else { port.mtu },
            pairs: if port.queues == 0 { workers.min(PAIRS) } else { port.queues as usize },
            workers,
        };
        let (control, queues) =
            VhostUser::open(slot, &settings, self.link_changed.clone()).map_err(|error| match error {
                VhostUserError::Settings { field, problem, remedy } => {
                    Fault::invalid("bad_port", format!("vhost_user.{field}"), problem, remedy)
                }
                other => failed("vhost_user", &other.to_string()),
            })?;
        let state = control.state.clone();
        let link = Box::new(move || {
            let connected = state.get();
            (connected.up, connected.detail)
        });
        let device = Device::new(interface, String::new()).with_link(link).with_held(Box::new(control));
        Ok(Opened { device, queues: boxed(queues) })
    }
}

impl OpenPort for KernelPorts {
    fn open(
        &self,
        slot: PortSlot,
        spec: &v1::PortSpec,
        memory: &'static Memory,
        workers: usize,
    ) -> Result<Opened, Fault> {
        match &spec.kind {
            Some(Kind::Tap(tap)) => {
                let settings = TapSettings {
                    interface: tap_interface(spec.number, tap),
                    netns: (!tap.netns.is_empty()).then(|| tap.netns.clone()),
                    mac: tap.mac.as_slice().try_into().ok(),
                    mtu: if tap.mtu == 0 { 1500 } else { tap.mtu },
                    queues: workers,
                };
                let (tap, queues) = Tap::open(slot, &settings).map_err(|error| match error {
                    TapError::Settings { field, problem, remedy } => {
                        Fault::invalid("bad_port", format!("tap.{field}"), problem, remedy)
                    }
                    other => failed("tap", &other.to_string()),
                })?;
                let watch = tap.watch;
                let device = Device::new(tap.interface, tap.detail)
                    .with_watch(Box::new(move || watch.loss().map(|loss| failed("tap", &loss.to_string()))));
                Ok(Opened { device, queues: boxed(queues) })
            }
            Some(Kind::VhostUser(port)) => self.vhost_user(slot, spec, port, workers),
            Some(Kind::AfXdp(interface)) => {
                let mode = match interface.mode() {
                    v1::AfXdpMode::Auto => Mode::Auto,
                    v1::AfXdpMode::Native => Mode::Native,
                    v1::AfXdpMode::Generic => Mode::Generic,
                };
                let settings = AfXdpSettings {
                    interface: interface.interface.clone(),
                    queues: interface.queues,
                    mode,
                    take_all: interface.take_all,
                };
                let (port, queues) =
                    AfXdp::open(slot, &settings, memory).map_err(|error| failed("af_xdp", &error.to_string()))?;
                let watch = port.watch();
                let device = Device::new(port.interface.clone(), port.detail.clone())
                    .with_filter(Box::new(port))
                    .with_watch(Box::new(move || watch.loss().map(|loss| failed("af_xdp", &loss.to_string()))));
                Ok(Opened { device, queues: boxed(queues) })
            }
            Some(Kind::Pcap(files)) => {
                let path = |name: &'_ str| (!name.is_empty()).then(|| Path::new(name).to_owned());
                let (receive, transmit) = (path(&files.receive_file), path(&files.transmit_file));
                let queue = PcapQueue::open(slot, receive.as_deref(), transmit.as_deref(), files.repeat)
                    .map_err(|error| failed("pcap", &error.to_string()))?;
                Ok(Opened {
                    device: Device::new(files.interface.clone(), "recording".to_owned()),
                    queues: boxed(vec![queue]),
                })
            }
            Some(Kind::Vxlan(_) | Kind::Gre(_)) | None => {
                Err(failed("kind", "a port of this kind has no device. Report this: it is a defect of the switch."))
            }
        }
    }
}

impl TunnelFilter for AfXdp {
    fn set(&self, ends: &BTreeSet<TunnelEnd>) -> Result<(), String> {
        self.set_endpoints(ends).map_err(|error: AfXdpError| error.to_string())
    }

    fn set_addresses(&self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), String> {
        AfXdp::set_addresses(self, addresses).map_err(|error: AfXdpError| error.to_string())
    }

    fn missed(&self) -> u64 {
        AfXdp::missed(self)
    }
}

fn boxed<Q: PortQueue + 'static>(queues: Vec<Q>) -> Vec<Box<dyn PortQueue>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn PortQueue>).collect()
}

/// A fault from a port's own error: "what is wrong. What to do."
fn failed(field: &str, sentence: &str) -> Fault {
    let (problem, remedy) =
        sentence.split_once(". ").unwrap_or((sentence.trim_end_matches('.'), "See the switch's log."));
    Fault::invalid("port_failed", field, problem, remedy).with_status(tonic::Code::FailedPrecondition)
}

/// The name of a TAP's interface.
pub(super) fn tap_interface(number: u32, tap: &v1::TapPort) -> String {
    if tap.interface.is_empty() { format!("weft{number}") } else { tap.interface.clone() }
}

/// Whether two ports need the same thing of the host, so that one must be closed before the other can be
/// opened.
pub(super) fn contend(one: &v1::PortSpec, other: &v1::PortSpec) -> bool {
    match (&one.kind, &other.kind) {
        (Some(Kind::Tap(first)), Some(Kind::Tap(second))) => {
            first.netns == second.netns && tap_interface(one.number, first) == tap_interface(other.number, second)
        }
        (Some(Kind::VhostUser(first)), Some(Kind::VhostUser(second))) => {
            first.socket == second.socket && (!first.socket.is_empty() || one.number == other.number)
        }
        (Some(Kind::AfXdp(first)), Some(Kind::AfXdp(second))) => first.interface == second.interface,
        (Some(Kind::Pcap(first)), Some(Kind::Pcap(second))) => {
            !first.transmit_file.is_empty() && first.transmit_file == second.transmit_file
        }
        _ => false,
    }
}
