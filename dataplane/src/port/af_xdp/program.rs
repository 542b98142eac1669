//! The XDP program that decides which frames are ours, written in a handful of BPF instructions by a
//! small assembler, so that nothing has to be compiled.
//!
//! Whatever it does not send to our socket goes on to the kernel as if it were not there: also what is
//! ours when no socket serves the queue.

use super::bpf::Instruction;
use crate::packet::header::{Gre, protocol};
use crate::packet::tunnel::Encapsulation;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_BYTE: u8 = 0x71;
const STORE_WORD: u8 = 0x63;
const STORE_HALF: u8 = 0x6b;
const LOAD_MAP: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const AND_IMMEDIATE: u8 = 0x57;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_IF_GREATER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const MAP_LOOKUP: i32 = 1;
const REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;

/// The context's fields: `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const QUEUE: i16 = 16;

/// Ethernet and IPv4 without options: what must be there to be ours.
const HEADERS: i32 = 14 + 20;
/// With UDP, or GRE with a key; or Ethernet and ARP.
const LONGER_HEADERS: i32 = 14 + 28;

/// The frame pointer; other registers go by number.
const STACK: u8 = 10;

/// Where jumps go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    /// Untagged IPv4.
    Plain,
    /// Other IPv4: its destination may be ours.
    Destination,
    /// ARP: its target may be.
    Target,
    /// Is the address in register 4 ours?
    LookUp,
    /// It is ours.
    Take,
    /// It is the host's.
    Pass,
}

/// Instructions in the making; jumps are resolved by [`Assembler::finish`].
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

impl Assembler {
    fn emit(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> &mut Self {
        self.instructions.push(Instruction { code, registers: destination | source << 4, offset, immediate });
        self
    }

    fn load(&mut self, code: u8, destination: u8, source: u8, offset: i16) -> &mut Self {
        self.emit(code, destination, source, offset, 0)
    }

    fn store(&mut self, code: u8, offset: i16, source: u8) -> &mut Self {
        self.emit(code, STACK, source, offset, 0)
    }

    fn copy(&mut self, destination: u8, source: u8) -> &mut Self {
        self.emit(MOVE, destination, source, 0, 0)
    }

    fn immediate(&mut self, code: u8, destination: u8, value: i32) -> &mut Self {
        self.emit(code, destination, 0, 0, value)
    }

    /// Two slots; source 1 says that the number is a map's descriptor.
    fn map(&mut self, destination: u8, map: &OwnedFd) -> &mut Self {
        self.emit(LOAD_MAP, destination, 1, 0, map.as_raw_fd()).emit(0, 0, 0, 0, 0)
    }

    fn call(&mut self, function: i32) -> &mut Self {
        self.emit(CALL, 0, 0, 0, function)
    }

    /// Goes there if the comparison holds.
    fn go(&mut self, label: Label, code: u8, left: u8, right: u8, immediate: i32) -> &mut Self {
        self.jumps.push((self.instructions.len(), label));
        self.emit(code, left, right, 0, immediate)
    }

    /// What jumps to this label arrives here.
    fn label(&mut self, label: Label) -> &mut Self {
        self.labels.push((label, self.instructions.len()));
        self
    }

    /// Register 4 is behind so many bytes of the frame, which is longer than that, or goes there.
    fn reach(&mut self, bytes: i32, otherwise: Label) -> &mut Self {
        self.copy(4, 2).immediate(ADD_IMMEDIATE, 4, bytes).go(otherwise, JUMP_IF_GREATER, 4, 3, 0)
    }

    /// Looks the key up that lies on the stack.
    fn look_up(&mut self, map: &OwnedFd, key: i32) -> &mut Self {
        self.map(1, map).copy(2, STACK).immediate(ADD_IMMEDIATE, 2, key).call(MAP_LOOKUP)
    }

    /// Gives the frame to the socket of the queue in register 2, else to the kernel.
    fn redirect(&mut self, sockets: &OwnedFd) -> &mut Self {
        self.map(1, sockets).immediate(MOVE_IMMEDIATE, 3, XDP_PASS).call(REDIRECT_MAP).emit(EXIT, 0, 0, 0, 0)
    }

    fn finish(&mut self) -> Vec<Instruction> {
        for &(jump, label) in &self.jumps {
            let (_, place) = self.labels.iter().find(|(one, _)| *one == label).expect("each label has a place");
            self.instructions[jump].offset = (place - jump - 1) as i16;
        }
        std::mem::take(&mut self.instructions)
    }
}

/// Every frame is ours.
pub(super) fn take_all(sockets: &OwnedFd) -> Vec<Instruction> {
    let mut program = Assembler::default();
    program.load(LOAD_WORD, 2, 1, QUEUE).redirect(sockets);
    program.instructions
}

/// Bytes of a key in the map of endpoints.
pub(super) const ENDPOINT: usize = 8;

/// What an unfragmented packet to this address looks up: address, the second half of the first word behind the IP header
/// (UDP's destination port, GRE's protocol type), and the IP protocol.
pub(super) fn endpoint(address: Ipv4Addr, encapsulation: Encapsulation) -> [u8; ENDPOINT] {
    let (kind, protocol) = match encapsulation {
        Encapsulation::Vxlan(port) => (port, protocol::UDP),
        Encapsulation::Gre => (Gre::ETHERNET, protocol::GRE),
    };
    let mut key = [0; ENDPOINT];
    key[..4].copy_from_slice(&address.octets());
    key[4..6].copy_from_slice(&kind.to_be_bytes());
    key[6..].copy_from_slice(&u16::from(protocol).to_ne_bytes());
    key
}

/// Bytes of a key in the map of addresses.
pub(super) const ADDRESS: usize = 4;

/// Ours is
/// - unfragmented UDP or GRE over IPv4 without options, untagged, to one of the endpoints;
/// - IPv4 to one of the addresses, and ARP that asks for one of them, with one VLAN tag at most.
///
/// The rest is the host's: fragments of tunnels' packets too, which only its stack can put together.
pub(super) fn take_ours(sockets: &OwnedFd, endpoints: &OwnedFd, addresses: &OwnedFd) -> Vec<Instruction> {
    use Label::{Destination, LookUp, Pass, Plain, Take, Target};
    // Halfwords as a load from a frame gives them on this machine.
    let network = |bytes: [u8; 2]| i32::from(u16::from_ne_bytes(bytes));
    let (ipv4, arp, tagged) = (network([0x08, 0x00]), network([0x08, 0x06]), network([0x81, 0x00]));
    let mut program = Assembler::default();
    program
        .copy(6, 1)
        .load(LOAD_WORD, 2, 6, DATA)
        .load(LOAD_WORD, 3, 6, DATA_END)
        .reach(HEADERS, Pass)
        .load(LOAD_HALF, 4, 2, 12)
        .go(Plain, JUMP_IF_EQUAL, 4, 0, ipv4)
        .go(Target, JUMP_IF_EQUAL, 4, 0, arp)
        .go(Pass, JUMP_UNLESS_EQUAL, 4, 0, tagged)
        // As if the tag were part of the addresses.
        .immediate(ADD_IMMEDIATE, 2, 4)
        .reach(HEADERS, Pass)
        .load(LOAD_HALF, 4, 2, 12)
        .go(Destination, JUMP_IF_EQUAL, 4, 0, ipv4)
        .go(Target, JUMP_IF_EQUAL, 4, 0, arp)
        .go(Pass, JUMP, 0, 0, 0);
    program
        .label(Plain)
        .load(LOAD_BYTE, 4, 2, 14)
        .go(Destination, JUMP_UNLESS_EQUAL, 4, 0, 0x45)
        // More fragments, or an offset.
        .load(LOAD_HALF, 4, 2, 14 + 6)
        .immediate(AND_IMMEDIATE, 4, network([0x3f, 0xff]))
        .go(Destination, JUMP_UNLESS_EQUAL, 4, 0, 0)
        .reach(LONGER_HEADERS, Destination)
        // The key on the stack: address, port or type, protocol.
        .load(LOAD_WORD, 4, 2, 14 + 16)
        .store(STORE_WORD, -8, 4)
        .load(LOAD_HALF, 4, 2, 14 + 20 + 2)
        .store(STORE_HALF, -4, 4)
        .load(LOAD_BYTE, 4, 2, 14 + 9)
        .store(STORE_HALF, -2, 4)
        .copy(7, 2)
        .look_up(endpoints, -8)
        .go(Take, JUMP_UNLESS_EQUAL, 0, 0, 0)
        .copy(2, 7);
    program.label(Destination).load(LOAD_WORD, 4, 2, 14 + 16).go(LookUp, JUMP, 0, 0, 0);
    program.label(Target).reach(LONGER_HEADERS, Pass).load(LOAD_WORD, 4, 2, 14 + 24);
    program.label(LookUp).store(STORE_WORD, -12, 4).look_up(addresses, -12).go(Pass, JUMP_IF_EQUAL, 0, 0, 0);
    program.label(Take).load(LOAD_WORD, 2, 6, QUEUE).redirect(sockets);
    program.label(Pass).immediate(MOVE_IMMEDIATE, 0, XDP_PASS).emit(EXIT, 0, 0, 0, 0);
    program.finish()
}
