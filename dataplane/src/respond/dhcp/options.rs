//! Writes a reply's options into bounded room: each whole or not at all, each at most once.
//!
//! Long ones are split (RFC 3396). What the client sent to have it back, its identifier and the relay
//! agent's information, has its room set aside from the start.

use super::option;
use super::request::Request;

/// See the module comment.
pub(super) struct Options<'a> {
    /// Zeroed, all that the options may take.
    room: &'a mut [u8],
    length: usize,
    /// Bytes of `room` that [`Options::finish`] needs; more than there is if the request is hostile.
    reserved: usize,
    written: [bool; 256],
    request: &'a Request<'a>,
}

impl<'a> Options<'a> {
    /// No options in `room`.
    pub(super) fn new(room: &'a mut [u8], request: &'a Request<'a>) -> Self {
        let echoed: usize = echoed(request).map(|(_, data)| 2 + data.len()).sum();
        Self { room, length: 0, reserved: echoed + 1, written: [false; 256], request }
    }

    /// Puts an option; gives whether it is in the reply. One without data is not put.
    pub(super) fn put<I>(&mut self, code: u8, data: I) -> bool
    where
        I: IntoIterator<Item = u8, IntoIter: Clone>,
    {
        if self.written[usize::from(code)] {
            return true;
        }
        let mut data = data.into_iter();
        let mut count = data.clone().count();
        let needed = count + 2 * count.div_ceil(255);
        if count == 0 || self.length + needed + self.reserved > self.room.len() {
            return false;
        }
        while count > 0 {
            let part = count.min(255);
            self.push(code);
            self.push(part as u8);
            data.by_ref().take(part).for_each(|byte| self.push(byte));
            count -= part;
        }
        self.written[usize::from(code)] = true;
        true
    }

    /// Puts what the client wants back and the end mark; gives the bytes of all options, or `None` if
    /// there is no room for them.
    pub(super) fn finish(mut self) -> Option<usize> {
        if self.length + self.reserved > self.room.len() {
            return None;
        }
        for (code, data) in echoed(self.request) {
            self.push(code);
            self.push(data.len() as u8);
            data.iter().for_each(|&byte| self.push(byte));
        }
        self.push(option::END);
        Some(self.length)
    }

    fn push(&mut self, byte: u8) {
        self.room[self.length] = byte;
        self.length += 1;
    }
}

/// The options that are sent back as they came (RFC 6842), in their parts; the relay agent's last
/// (RFC 3046, 2.1).
fn echoed<'a>(request: &Request<'a>) -> impl Iterator<Item = (u8, &'a [u8])> {
    let parts = |wanted| request.options().filter(move |&(code, _)| code == wanted);
    parts(option::CLIENT_IDENTIFIER).chain(parts(option::RELAY_AGENT_INFORMATION))
}
