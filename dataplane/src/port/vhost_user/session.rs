//! What a front end has said, and what follows from it: which rings workers have.
//!
//! A message changes what is known. If that concerns rings that are at workers, they are called back first (*parked*),
//! and handed out again afterwards as far as they are complete. So no message finds a ring in use, and there is one way
//! only by which rings begin and end.

use super::exchange::{Agreed, Assignment, LONG_HEADER, Lane, Numbered, Transmit};
use super::memory::{GuestMemory, Region};
use super::message::{Message, request};
use super::ring::{Broken, Layout, Ring};
use crate::limits::vhost_user::{LARGEST_RING, REGIONS};
use crate::port::Offloads;
use crate::port::virtio::HEADER_BYTES;
use rustix::fs::OFlags;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Bits of features (virtio 1.2, 5.1.3 and 6).
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const MQ: u64 = 1 << 22;
    pub const ANY_LAYOUT: u64 = 1 << 27;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Vhost-user's own: there are protocol features.
    pub const PROTOCOL: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const GUEST_USO4: u64 = 1 << 54;
    pub const GUEST_USO6: u64 = 1 << 55;
    pub const HOST_USO: u64 = 1 << 56;

    /// STATUS, MTU and the control queue are the front end's business; they must not be missing here.
    pub const OFFERED: u64 = CSUM
        | GUEST_CSUM
        | MTU
        | GUEST_TSO4
        | GUEST_TSO6
        | GUEST_ECN
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | MRG_RXBUF
        | STATUS
        | CTRL_VQ
        | CTRL_RX
        | MQ
        | ANY_LAYOUT
        | INDIRECT_DESC
        | EVENT_IDX
        | PROTOCOL
        | VERSION_1
        | GUEST_USO4
        | GUEST_USO6
        | HOST_USO;
}

/// Bits of the protocol's own features.
mod protocol {
    pub const MQ: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const NET_MTU: u64 = 1 << 4;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const OFFERED: u64 = MQ | REPLY_ACK | NET_MTU | CONFIGURE_MEM_SLOTS;
}

/// How a driver notifies.
#[derive(Debug, Default)]
enum Kick {
    /// The ring is stopped.
    #[default]
    Stopped,
    /// It does not.
    Polled,
    File(Arc<OwnedFd>),
}

/// A ring, as the front end describes it.
#[derive(Debug, Default)]
struct Vring {
    layout: Layout,
    /// The next entry of the available ring.
    next: u16,
    placed: bool,
    enabled: bool,
    kick: Kick,
    call: Option<Arc<OwnedFd>>,
    error: Option<OwnedFd>,
    /// Why it is not used until the front end sets it up anew.
    broken: Option<String>,
    /// A worker has it.
    active: bool,
}

/// How a port is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Frames pass both ways.
    pub up: bool,
    /// How, or what is missing.
    pub detail: String,
}

/// See the module comment. Dropping it takes every ring back.
pub struct Session {
    /// For log lines.
    port: String,
    pairs: usize,
    largest_frame: usize,
    lanes: Arc<[Lane]>,
    features: u64,
    protocol: u64,
    memory: GuestMemory,
    vrings: Vec<Vring>,
    /// Rings that several workers have.
    shared: Vec<Arc<Mutex<Numbered>>>,
    /// Rings are at workers.
    running: bool,
    /// A ring that does not lie in the memory that is known.
    misplaced: Option<usize>,
}

/// A message that cannot be done: why.
type Done = Result<Option<Vec<u8>>, String>;

impl Session {
    /// Nothing was said yet. Frames of up to `largest_frame` bytes are sent, segments aside.
    #[must_use]
    pub fn new(port: &str, pairs: usize, largest_frame: usize, lanes: Arc<[Lane]>) -> Self {
        Self {
            port: port.to_owned(),
            pairs,
            largest_frame,
            lanes,
            features: 0,
            protocol: 0,
            memory: GuestMemory::default(),
            vrings: (0..2 * pairs).map(|_| Vring::default()).collect(),
            shared: Vec::new(),
            running: false,
            misplaced: None,
        }
    }

    /// Does what a message says; gives the payload of the reply, if one is due.
    ///
    /// # Errors
    /// Why it is not done; the front end has been told, if it wants to be.
    pub fn handle(&mut self, mut message: Message) -> (Option<Vec<u8>>, Result<(), String>) {
        let quiet = matches!(
            message.request,
            request::GET_FEATURES
                | request::SET_OWNER
                | request::GET_PROTOCOL_FEATURES
                | request::SET_PROTOCOL_FEATURES
                | request::GET_QUEUE_NUM
                | request::GET_MAX_MEM_SLOTS
                | request::NET_SET_MTU
        );
        if !quiet {
            self.park();
        }
        let need_reply = message.need_reply && self.protocol & protocol::REPLY_ACK != 0;
        let done = self.obey(&mut message);
        if !quiet {
            self.resume();
        }
        match done {
            Ok(Some(reply)) => (Some(reply), Ok(())),
            Ok(None) => (need_reply.then(|| 0_u64.to_ne_bytes().to_vec()), Ok(())),
            Err(problem) => (need_reply.then(|| 1_u64.to_ne_bytes().to_vec()), Err(problem)),
        }
    }

    fn obey(&mut self, message: &mut Message) -> Done {
        let request = message.request;
        let short = || format!("message {request} is too short, or lacks its descriptor");
        let number = |value: u64| Ok(Some(value.to_ne_bytes().to_vec()));
        match message.request {
            request::GET_FEATURES => return number(feature::OFFERED),
            request::GET_PROTOCOL_FEATURES => return number(protocol::OFFERED),
            request::GET_QUEUE_NUM => return number(self.pairs as u64),
            request::GET_MAX_MEM_SLOTS => return number(REGIONS as u64),
            request::SET_OWNER => {}
            request::RESET_OWNER => self.vrings.iter_mut().for_each(|vring| vring.enabled = false),
            request::SET_FEATURES => {
                let features = message.number().ok_or_else(short)?;
                if features & !feature::OFFERED != 0 {
                    return Err(format!("features {:#x} were not offered", features & !feature::OFFERED));
                }
                self.features = features;
                // Without this feature there is no SET_VRING_ENABLE.
                if features & feature::PROTOCOL == 0 {
                    self.vrings.iter_mut().for_each(|vring| vring.enabled = true);
                }
            }
            request::SET_PROTOCOL_FEATURES => self.protocol = message.number().ok_or_else(short)? & protocol::OFFERED,
            request::SET_MEM_TABLE => {
                let places = message.regions().filter(|places| places.len() == message.files.len());
                let places = places.ok_or_else(short)?;
                let mut memory = GuestMemory::default();
                for (place, file) in places.into_iter().zip(&message.files) {
                    memory.add(Region::map(place, file)?)?;
                }
                self.memory = memory;
            }
            request::ADD_MEM_REG => {
                let place = message.region(8).ok_or_else(short)?;
                let region = Region::map(place, message.files.first().ok_or_else(short)?)?;
                self.memory.add(region)?;
            }
            request::REM_MEM_REG => {
                let place = message.region(8).ok_or_else(short)?;
                if !self.memory.remove(&place) {
                    return Err("a region of memory is to be removed that is not there".to_owned());
                }
            }
            request::SET_VRING_NUM => {
                let (vring, size) = self.vring_state(message)?;
                let fits = size.is_power_of_two() && size as usize <= LARGEST_RING;
                let size = u16::try_from(size).ok().filter(|_| fits);
                vring.layout.size = size.ok_or("a ring's size is no power of two up to 32768")?;
            }
            request::SET_VRING_ADDR => {
                let (index, [descriptors, used, available]) = message.addresses().ok_or_else(short)?;
                let vring = self.vring(index)?;
                vring.layout = Layout { descriptors, used, available, ..vring.layout };
                (vring.placed, vring.broken) = (true, None);
            }
            request::SET_VRING_BASE => {
                let (vring, next) = self.vring_state(message)?;
                (vring.next, vring.broken) = (next as u16, None);
            }
            request::GET_VRING_BASE => {
                let index = message.state().ok_or_else(short)?.0;
                let vring = self.vring(index)?;
                vring.kick = Kick::Stopped;
                let mut state = index.to_ne_bytes().to_vec();
                state.extend_from_slice(&u32::from(vring.next).to_ne_bytes());
                return Ok(Some(state));
            }
            request::SET_VRING_KICK => {
                let (index, file) = message.ring_file().ok_or_else(short)?;
                let kick = file.map(event_descriptor).transpose()?;
                let vring = self.vring(index)?;
                vring.kick = kick.map_or(Kick::Polled, |file| Kick::File(Arc::new(file)));
                vring.broken = None;
            }
            request::SET_VRING_CALL => {
                let (index, file) = message.ring_file().ok_or_else(short)?;
                self.vring(index)?.call = file.map(event_descriptor).transpose()?.map(Arc::new);
            }
            request::SET_VRING_ERR => {
                let (index, file) = message.ring_file().ok_or_else(short)?;
                self.vring(index)?.error = file.map(event_descriptor).transpose()?;
            }
            request::SET_VRING_ENABLE => {
                let (vring, enable) = self.vring_state(message)?;
                vring.enabled = enable != 0;
            }
            // How long frames may be is the port's setting; the front end only says what it tells its guest.
            request::NET_SET_MTU => {
                message.number().ok_or_else(short)?;
            }
            other => return Err(format!("message {other} is not one that was offered")),
        }
        Ok(None)
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, String> {
        let count = self.vrings.len();
        let vring = self.vrings.get_mut(index as usize);
        vring.ok_or_else(|| format!("ring {index} of a port of {count}: let the front end use fewer queues"))
    }

    fn vring_state(&mut self, message: &Message) -> Result<(&mut Vring, u32), String> {
        let (index, value) = message.state().ok_or("a message is too short")?;
        Ok((self.vring(index)?, value))
    }

    /// Calls the rings back from the workers.
    fn park(&mut self) {
        if !std::mem::take(&mut self.running) {
            return;
        }
        for vring in &self.vrings {
            if let Kick::File(kick) = &vring.kick {
                self.lanes.iter().for_each(|lane| lane.unwatch(kick));
            }
        }
        let mut parked = Vec::new();
        for lane in self.lanes.iter() {
            let had = lane.exchange(Assignment::default());
            parked.extend(had.receive);
            if let Transmit::Own(own) = had.transmit {
                parked.push(own);
            }
        }
        for numbered in &parked {
            self.vrings[numbered.number].next = numbered.ring.next();
        }
        for shared in self.shared.drain(..) {
            let numbered = shared.lock().unwrap_or_else(PoisonError::into_inner);
            self.vrings[numbered.number].next = numbered.ring.next();
        }
        self.vrings.iter_mut().for_each(|vring| vring.active = false);
        self.note_broken();
    }

    /// Hands out the rings that are complete.
    fn resume(&mut self) {
        let agreed = self.agree();
        let memory = Arc::new(self.memory.clone());
        let (mut sending, mut receiving) = (Vec::new(), Vec::new());
        self.misplaced = None;
        for (number, vring) in self.vrings.iter_mut().enumerate() {
            let ready = vring.placed && vring.enabled && vring.layout.size > 0 && vring.broken.is_none();
            if !ready || matches!(vring.kick, Kick::Stopped) {
                continue;
            }
            vring.layout.event_index = self.features & feature::EVENT_IDX != 0;
            vring.layout.indirect = self.features & feature::INDIRECT_DESC != 0;
            match Ring::new(memory.clone(), &vring.layout, vring.next, vring.call.clone()) {
                Ok(ring) => {
                    vring.active = true;
                    let rings = if number % 2 == 0 { &mut receiving } else { &mut sending };
                    rings.push(Numbered { number, ring, broken: false });
                }
                // Its memory may come with the next message.
                Err(_) => self.misplaced = Some(number),
            }
        }
        if sending.is_empty() && receiving.is_empty() {
            return;
        }
        self.running = true;
        let lanes = self.lanes.len();
        let mut offers: Vec<Assignment> =
            (0..lanes).map(|_| Assignment { agreed: Some(agreed), ..Assignment::default() }).collect();
        for numbered in sending {
            let lane = numbered.number / 2 % lanes;
            match &self.vrings[numbered.number].kick {
                Kick::File(kick) => {
                    if let Err(error) = self.lanes[lane].watch(kick) {
                        tracing::warn!(port = self.port, %error, "the driver's notifications cannot be waited for");
                        offers[lane].polled = true;
                    }
                }
                Kick::Polled | Kick::Stopped => offers[lane].polled = true,
            }
            offers[lane].receive.push(numbered);
        }
        if receiving.len() >= lanes {
            for (offer, numbered) in offers.iter_mut().zip(receiving) {
                offer.transmit = Transmit::Own(numbered);
            }
        } else if !receiving.is_empty() {
            self.shared = receiving.into_iter().map(|numbered| Arc::new(Mutex::new(numbered))).collect();
            for (offer, shared) in offers.iter_mut().zip(self.shared.iter().cycle()) {
                offer.transmit = Transmit::Shared(shared.clone());
            }
        }
        for (lane, offer) in self.lanes.iter().zip(offers) {
            lane.exchange(offer);
        }
    }

    /// What the features mean for frames.
    fn agree(&self) -> Agreed {
        let has = |bits: u64| self.features & bits == bits;
        let checksum = has(feature::GUEST_CSUM);
        let mergeable = has(feature::MRG_RXBUF);
        Agreed {
            header: if mergeable || has(feature::VERSION_1) { LONG_HEADER } else { HEADER_BYTES },
            mergeable,
            ecn: has(feature::GUEST_ECN),
            offloads: Offloads {
                checksum,
                tcp_segmentation: checksum && has(feature::GUEST_TSO4 | feature::GUEST_TSO6),
                udp_segmentation: checksum && has(feature::GUEST_USO4 | feature::GUEST_USO6),
                chains: true,
                max_frame: self.largest_frame,
            },
        }
    }

    /// Notes which rings broke since the last call, tells the front end, and logs it.
    pub fn note_broken(&mut self) {
        let broken: Vec<(usize, Broken)> = self.lanes.iter().flat_map(Lane::broken).collect();
        for (number, why) in broken {
            tracing::warn!(
                port = self.port,
                ring = number,
                "the front end's ring broke the rules, and is not used until it is set up anew: {why}"
            );
            let vring = &mut self.vrings[number];
            vring.broken = Some(why.to_string());
            if let Some(error) = &vring.error {
                let _ = rustix::io::write(error, &1_u64.to_ne_bytes());
            }
        }
    }

    /// How the port is connected now.
    #[must_use]
    pub fn connected(&self) -> Connected {
        let working = |vring: &&Vring| vring.active && vring.broken.is_none();
        let count = |parity: usize| self.vrings.iter().skip(parity).step_by(2).filter(working).count();
        let pairs = usize::min(count(0), count(1));
        let mut words = Vec::new();
        if pairs > 0 {
            words.push(format!("{pairs} of {} queue pair{}", self.pairs, if self.pairs == 1 { "" } else { "s" }));
            let Agreed { offloads, mergeable, .. } = self.agree();
            for (has, word) in [
                (offloads.checksum, "checksum"),
                (offloads.tcp_segmentation, "TSO"),
                (offloads.udp_segmentation, "USO"),
                (mergeable, "mergeable"),
            ] {
                words.extend(has.then(|| word.to_owned()));
            }
        } else {
            words.push("a front end is connected, and its driver does not run".to_owned());
        }
        for (number, vring) in self.vrings.iter().enumerate() {
            words.extend(vring.broken.as_ref().map(|why| format!("ring {number} is stopped: {why}")));
        }
        words.extend(self.misplaced.map(|number| format!("ring {number} is not in the memory that is shared")));
        Connected { up: pairs > 0, detail: words.join(", ") }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.park();
    }
}

/// A front end's descriptor to be written to or waited on. Only an event's: anything else might make us wait.
fn event_descriptor(file: OwnedFd) -> Result<OwnedFd, String> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if !link.is_ok_and(|name| name.to_string_lossy().starts_with("anon_inode:[eventfd")) {
        return Err("a descriptor for notifications is no eventfd".to_owned());
    }
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| error.to_string())?;
    rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(|error| error.to_string())?;
    Ok(file)
}
