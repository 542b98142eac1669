//! One split virtqueue (virtio 1.2, 2.7), seen from the device.
//!
//! The driver makes buffers available as chains of descriptors; the device uses them and gives them back. Every byte of
//! it can change at any moment and say anything: each index, address and length is copied out once, checked, and only
//! then used. A chain has a bounded number of descriptors, so that one that leads back into itself ends. What cannot be
//! is [`Broken`], after which the ring is not looked at any more.
//!
//! Belongs to one worker at a time (`exchange.rs`).

use super::memory::{GuestMemory, Outside, Part};
use crate::limits::vhost_user::{DESCRIPTORS_PER_FRAME, LARGEST_RING};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// In the available ring's flags: the driver wants no notification.
const NO_INTERRUPT: u16 = 1;
/// In the used ring's.
const NO_NOTIFY: u16 = 1;
const DESCRIPTOR_BYTES: usize = 16;

/// Why a ring is not looked at any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// More entries are available than the ring has.
    #[error("the available index is {0} entries ahead of a ring of {1}")]
    Ahead(u16, u16),
    /// A descriptor's number is not one.
    #[error("descriptor {0} of a table of {1}")]
    NoSuchDescriptor(u16, u32),
    /// A chain is endless, or too long.
    #[error("a frame in more than {DESCRIPTORS_PER_FRAME} descriptors")]
    TooLong,
    /// An indirect table of half a descriptor, without any, or within one.
    #[error("a table of indirect descriptors that cannot be")]
    BadTable,
    /// A buffer to be written in a chain to be read, or the other way round.
    #[error("a buffer for the wrong direction")]
    Direction,
    /// A buffer or table outside memory.
    #[error("a buffer or table outside the memory that the front end shares")]
    Outside,
    /// Its file was cut short.
    #[error("the memory's file was cut short")]
    Lost,
}

impl From<Outside> for Broken {
    fn from(_: Outside) -> Self {
        Self::Outside
    }
}

/// Who reads and who writes the buffers of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The driver's transmit ring: the device reads.
    FromDriver,
    /// The driver's receive ring: the device writes.
    ToDriver,
}

/// Bytes of a guest: address and length, not checked yet.
pub type Piece = (u64, u32);

/// Where a ring lies, in the front end's own addresses, and what was agreed about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Entries, a power of two.
    pub size: u16,
    /// The table of descriptors.
    pub descriptors: u64,
    /// What the driver makes available.
    pub available: u64,
    /// What the device has used.
    pub used: u64,
    /// VIRTIO_F_EVENT_IDX.
    pub event_index: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
}

/// See the module comment.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<GuestMemory>,
    descriptors: Part,
    available: Part,
    used: Part,
    size: u16,
    event_index: bool,
    indirect: bool,
    /// The next entry of the available ring.
    next: u16,
    /// The next entry of the used ring, those not told yet included; and those told.
    used_next: u16,
    used_told: u16,
    /// The driver was asked to notify.
    listening: Cell<bool>,
    /// Who wants to know of used buffers.
    call: Option<Arc<OwnedFd>>,
}

impl Ring {
    /// A ring whose next available entry is `next`.
    ///
    /// # Errors
    /// Its size is not a power of two, or it does not lie in memory.
    pub fn new(
        memory: Arc<GuestMemory>,
        layout: &Layout,
        next: u16,
        call: Option<Arc<OwnedFd>>,
    ) -> Result<Self, Outside> {
        let size = usize::from(layout.size);
        if !size.is_power_of_two() || size > LARGEST_RING {
            return Err(Outside);
        }
        // The word behind either ring is that of EVENT_IDX. It has a place if it was agreed on.
        let event = if layout.event_index { 2 } else { 0 };
        let descriptors = memory.part(layout.descriptors, DESCRIPTOR_BYTES * size, 16)?;
        let available = memory.part(layout.available, 4 + 2 * size + event, 2)?;
        let used = memory.part(layout.used, 4 + 8 * size + event, 4)?;
        let used_next = used.load(2);
        let ring = Self {
            memory,
            descriptors,
            available,
            used,
            size: layout.size,
            event_index: layout.event_index,
            indirect: layout.indirect,
            next,
            used_next,
            used_told: used_next,
            listening: Cell::new(false),
            call,
        };
        ring.used.store(0, NO_NOTIFY);
        Ok(ring)
    }

    /// The next entry of the available ring.
    #[must_use]
    pub fn next(&self) -> u16 {
        self.next
    }

    /// How many chains the driver has made available.
    ///
    /// # Errors
    /// More than there can be; or the memory is lost.
    pub fn available(&self) -> Result<u16, Broken> {
        let ahead = self.available.load(2).wrapping_sub(self.next);
        if ahead > self.size {
            return Err(Broken::Ahead(ahead, self.size));
        }
        // What lies in lost memory are zeroes, which may well look like a ring.
        if self.memory.is_lost() {
            return Err(Broken::Lost);
        }
        Ok(ahead)
    }

    /// Whether there is anything to do: a chain, or something wrong.
    #[must_use]
    pub fn has_something(&self) -> bool {
        self.available.load(2) != self.next
    }

    /// Takes the chain that is `ahead` of the next one: appends its buffers to `pieces`, which must not grow beyond
    /// [`DESCRIPTORS_PER_FRAME`]; gives its number and how many bytes it has. Call it with less than
    /// [`Ring::available`], and [`Ring::advance`] afterwards.
    ///
    /// # Errors
    /// The chain is none.
    pub fn chain(&self, ahead: u16, direction: Direction, pieces: &mut Vec<Piece>) -> Result<(u16, usize), Broken> {
        let place = usize::from(self.next.wrapping_add(ahead) & (self.size - 1));
        let head = u16::from_le_bytes(self.available.copy(4 + 2 * place));
        let mut bytes = 0;
        let mut index = head;
        let mut steps = 0;
        loop {
            if index >= self.size {
                return Err(Broken::NoSuchDescriptor(index, self.size.into()));
            }
            // A chain of the ring cannot have more descriptors than the ring.
            steps += 1;
            if steps > self.size {
                return Err(Broken::TooLong);
            }
            let descriptor = Descriptor::of(self.descriptors.copy(DESCRIPTOR_BYTES * usize::from(index)));
            if descriptor.flags & INDIRECT != 0 {
                if !self.indirect || descriptor.flags & NEXT != 0 {
                    return Err(Broken::BadTable);
                }
                return Ok((head, bytes + self.table(&descriptor, direction, pieces)?));
            }
            bytes += descriptor.take(direction, pieces)?;
            if descriptor.flags & NEXT == 0 {
                return Ok((head, bytes));
            }
            index = descriptor.next;
        }
    }

    /// Likewise of a table of indirect descriptors.
    fn table(&self, table: &Descriptor, direction: Direction, pieces: &mut Vec<Piece>) -> Result<usize, Broken> {
        let count = table.length / DESCRIPTOR_BYTES as u32;
        if count == 0 || !table.length.is_multiple_of(DESCRIPTOR_BYTES as u32) {
            return Err(Broken::BadTable);
        }
        let (mut bytes, mut index) = (0, 0_u16);
        loop {
            if u32::from(index) >= count {
                return Err(Broken::NoSuchDescriptor(index, count));
            }
            let mut copy = [0; DESCRIPTOR_BYTES];
            let address = table.address.wrapping_add(DESCRIPTOR_BYTES as u64 * u64::from(index));
            self.memory.read(address, &mut copy)?;
            let descriptor = Descriptor::of(copy);
            if descriptor.flags & INDIRECT != 0 {
                return Err(Broken::BadTable);
            }
            bytes += descriptor.take(direction, pieces)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(bytes);
            }
            index = descriptor.next;
        }
    }

    /// So many chains are taken.
    pub fn advance(&mut self, chains: u16) {
        self.next = self.next.wrapping_add(chains);
    }

    /// Gives a chain back, so many bytes of which were written. The driver sees it after [`Ring::tell`].
    pub fn give_back(&mut self, head: u16, written: u32) {
        let place = usize::from(self.used_next & (self.size - 1));
        let mut entry = [0; 8];
        entry[..2].copy_from_slice(&head.to_le_bytes());
        entry[4..].copy_from_slice(&written.to_le_bytes());
        self.used.put(4 + 8 * place, &entry);
        self.used_next = self.used_next.wrapping_add(1);
    }

    /// Shows the driver what was given back, and wakes it if it wants that.
    pub fn tell(&mut self) {
        if self.used_next == self.used_told {
            return;
        }
        let before = std::mem::replace(&mut self.used_told, self.used_next);
        self.used.store(2, self.used_next);
        // The driver first writes what it wants, then looks at the index; we the other way round.
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.available.load(4 + 2 * usize::from(self.size));
            self.used_next.wrapping_sub(event).wrapping_sub(1) < self.used_next.wrapping_sub(before)
        } else {
            self.available.load(0) & NO_INTERRUPT == 0
        };
        if let Some(call) = self.call.as_ref().filter(|_| wanted) {
            // Full: then the driver has not yet seen the last ones either.
            let _ = rustix::io::write(call, &1_u64.to_ne_bytes());
        }
    }

    /// Asks the driver to notify when it makes more available. Look at [`Ring::has_something`] afterwards: what came
    /// before is not notified.
    pub fn listen(&self) {
        if self.event_index {
            self.used.store(4 + 8 * usize::from(self.size), self.next);
        } else {
            self.used.store(0, 0);
        }
        self.listening.set(true);
        fence(Ordering::SeqCst);
    }

    /// Tells the driver that it need not notify. With EVENT_IDX that is so as soon as more was taken than was listened
    /// for.
    pub fn stop_listening(&self) {
        if self.listening.replace(false) && !self.event_index {
            self.used.store(0, NO_NOTIFY);
        }
    }
}

struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn of(bytes: [u8; DESCRIPTOR_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            length: u32::from_le_bytes([i, j, k, l]),
            flags: u16::from_le_bytes([m, n]),
            next: u16::from_le_bytes([o, p]),
        }
    }

    /// Appends its buffer; gives its bytes.
    fn take(&self, direction: Direction, pieces: &mut Vec<Piece>) -> Result<usize, Broken> {
        if (self.flags & WRITE != 0) != (direction == Direction::ToDriver) {
            return Err(Broken::Direction);
        }
        if pieces.len() >= DESCRIPTORS_PER_FRAME {
            return Err(Broken::TooLong);
        }
        pieces.push((self.address, self.length));
        Ok(self.length as usize)
    }
}

/// Goes through the buffers of a chain.
pub struct Cursor<'a> {
    memory: &'a GuestMemory,
    pieces: std::slice::Iter<'a, Piece>,
    /// What is left of the current one.
    piece: Piece,
}

impl<'a> Cursor<'a> {
    /// At the beginning.
    #[must_use]
    pub fn new(ring: &'a Ring, pieces: &'a [Piece]) -> Self {
        Self { memory: &ring.memory, pieces: pieces.iter(), piece: (0, 0) }
    }

    /// Address and length of what comes next, at most `length` bytes; passes them. `None`: the chain ends.
    fn pass(&mut self, length: usize) -> Option<(u64, usize)> {
        while self.piece.1 == 0 {
            self.piece = *self.pieces.next()?;
        }
        let (address, left) = self.piece;
        let count = length.min(left as usize);
        self.piece = (address.wrapping_add(count as u64), left - count as u32);
        Some((address, count))
    }

    /// Copies what comes next into `out`, all of it.
    ///
    /// # Errors
    /// It is not there.
    pub fn read(&mut self, mut out: &mut [u8]) -> Result<(), Broken> {
        while !out.is_empty() {
            let (address, count) = self.pass(out.len()).ok_or(Broken::Outside)?;
            let (now, later) = out.split_at_mut(count);
            self.memory.read(address, now)?;
            out = later;
        }
        Ok(())
    }

    /// Copies `bytes` to what comes next.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let (address, count) = self.pass(bytes.len()).ok_or(Broken::Outside)?;
            let (now, later) = bytes.split_at(count);
            self.memory.write(address, now)?;
            bytes = later;
        }
        Ok(())
    }
}
