//! Messages of the vhost-user protocol (QEMU's documentation, interop/vhost-user), as far as a device of virtio-net
//! without migration needs them: a header of three words, a payload, and descriptors beside it. Read by us as sent by a
//! front end of the same machine: its byte order.

use super::memory::Place;
use crate::limits::vhost_user::{MESSAGE_BYTES, REGIONS_PER_MESSAGE};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{Error as IoError, ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// What a front end asks for, by the protocol's numbers.
pub mod request {
    #![allow(missing_docs, reason = "they are the protocol's own names")]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const NET_SET_MTU: u32 = 20;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
const HEADER: usize = 12;

/// One message of a front end.
#[derive(Debug, Default)]
pub struct Message {
    /// One of [`request`], or what we do not know.
    pub request: u32,
    /// It wants to know whether it was done.
    pub need_reply: bool,
    /// At most [`MESSAGE_BYTES`].
    pub payload: Vec<u8>,
    /// Descriptors that came with it, in order.
    pub files: Vec<OwnedFd>,
}

impl Message {
    /// Waits for a message. `None`: the front end has closed the connection.
    ///
    /// # Errors
    /// What was read is no message, or it did not come whole in the time that the stream allows.
    pub fn receive(stream: &mut UnixStream) -> std::io::Result<Option<Self>> {
        let mut message = Self::default();
        let mut header = [0; HEADER];
        let mut done = 0;
        while done < HEADER {
            let read = message.receive_part(stream, &mut header[done..])?;
            if read == 0 {
                return if done == 0 { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            done += read;
        }
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (flags, bytes) = (word(4), word(8) as usize);
        if flags & VERSION_MASK != VERSION || flags & REPLY != 0 || bytes > MESSAGE_BYTES {
            let problem = format!("a message {} with flags {flags:#x} and {bytes} bytes", word(0));
            return Err(IoError::new(ErrorKind::InvalidData, problem));
        }
        message.request = word(0);
        message.need_reply = flags & NEED_REPLY != 0;
        message.payload = vec![0; bytes];
        stream.read_exact(&mut message.payload)?;
        Ok(Some(message))
    }

    /// Some bytes, and the descriptors that come with them.
    fn receive_part(&mut self, stream: &UnixStream, out: &mut [u8]) -> std::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REGIONS_PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(stream, &mut [IoSliceMut::new(out)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                done => break done?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        if self.files.len() > REGIONS_PER_MESSAGE {
            return Err(IoError::new(ErrorKind::InvalidData, "a message with too many descriptors"));
        }
        Ok(received.bytes)
    }

    fn word32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }

    fn word64(&self, at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(self.payload.get(at..at + 8)?.try_into().ok()?))
    }

    /// A payload of one number.
    pub fn number(&self) -> Option<u64> {
        self.word64(0)
    }

    /// A ring's number, and a number for it.
    pub fn state(&self) -> Option<(u32, u32)> {
        Some((self.word32(0)?, self.word32(4)?))
    }

    /// A ring's number, and its descriptor, which must have come if it is to.
    pub fn ring_file(&mut self) -> Option<(u32, Option<OwnedFd>)> {
        /// There is no descriptor: poll.
        const NONE: u64 = 1 << 8;
        let number = self.number()?;
        let file = if number & NONE != 0 { None } else { Some(self.files.pop()?) };
        Some((number as u8 as u32, file))
    }

    /// A ring's number, and its parts: descriptors, used, available.
    pub fn addresses(&self) -> Option<(u32, [u64; 3])> {
        Some((self.word32(0)?, [self.word64(8)?, self.word64(16)?, self.word64(24)?]))
    }

    /// A table of regions, one file for each.
    pub fn regions(&self) -> Option<Vec<Place>> {
        let count = self.word32(0)? as usize;
        (count <= REGIONS_PER_MESSAGE).then_some(())?;
        (0..count).map(|index| self.region(8 + 32 * index)).collect()
    }

    /// The region at this byte of the payload.
    pub fn region(&self, at: usize) -> Option<Place> {
        Some(Place {
            guest: self.word64(at)?,
            bytes: self.word64(at + 8)?,
            user: self.word64(at + 16)?,
            offset: self.word64(at + 24)?,
        })
    }
}

/// Answers a request.
///
/// # Errors
/// What the kernel says.
pub fn reply(stream: &mut UnixStream, request: u32, payload: &[u8]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    for word in [request, VERSION | REPLY, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    stream.write_all(&bytes)
}
