//! The pcap port: receives the frames of one recording, once or endlessly, writes what it sends to another. For
//! tests, recordings, and measuring all of the switch but devices (`weft bench`): received frames come from memory,
//! each copied into packet memory, and a port without a file to write to frees what it sends, and no more.
//!
//! The classic format (draft-ietf-opsawg-pcap) in either byte order, with microseconds or nanoseconds,
//! link type Ethernet. The file is read and checked whole when the port opens, so that a bad one is
//! refused then, with the offset, and never while frames flow. Written files have nanoseconds.

use super::{Offloads, PortQueue, PortSlot, QueueCounters, Refused};
use crate::drop::{DropCounters, DropReason};
use crate::packet::frame::Frame;
use crate::packet::pool::Pool;
use rustix::event::{EventfdFlags, eventfd};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest frame of a recording, bytes: what tcpdump takes by default is 262,144, but frames of
/// more than this do not exist on a link.
pub const LONGEST_FRAME: usize = 65_535 + 18;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

/// Why a pcap port does not open.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file cannot be read or written.
    #[error("{path}: {source}. Give a path that the switch may {doing}.")]
    File {
        /// Which.
        path: PathBuf,
        /// "read" or "write".
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a recording we understand.
    #[error("{path}, byte {offset}: {problem}. {remedy}")]
    Format {
        /// Which.
        path: PathBuf,
        /// Where in the file.
        offset: usize,
        /// What is there.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// Where the frames of a recording lie in its bytes; the error is offset, problem and remedy.
fn index(file: &[u8]) -> Result<Vec<std::ops::Range<usize>>, (usize, String, &'static str)> {
    const CONVERT: &str = "Convert it with: editcap -F nsecpcap IN OUT.";
    let word = |offset: usize| file.get(offset..offset + 4).map(|bytes| <[u8; 4]>::try_from(bytes).expect("4 bytes"));
    let short = || (file.len(), "the file ends within its 24-byte header".to_owned(), "Record it again.");
    let magic = word(0).ok_or_else(short)?;
    let read: fn([u8; 4]) -> u32 = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
        (MICROSECONDS | NANOSECONDS, _) => u32::from_le_bytes,
        (_, MICROSECONDS | NANOSECONDS) => u32::from_be_bytes,
        (0x0a0d_0d0a, _) => return Err((0, "this is a pcapng file".to_owned(), CONVERT)),
        (other, _) => return Err((0, format!("{other:#010x} does not begin a pcap file"), CONVERT)),
    };
    // The upper bits say whether frames end in a checksum, which we would take for payload.
    let link = read(word(20).ok_or_else(short)?);
    if link != ETHERNET {
        return Err((20, format!("the link type is {link:#x}, not Ethernet (1)"), "Record on an Ethernet interface."));
    }
    let mut frames = Vec::new();
    let mut offset = 24;
    while offset < file.len() {
        let cut =
            |what| (offset, format!("the file ends within {what}"), "Record it again, or cut the last frame off.");
        let captured = read(word(offset + 8).ok_or_else(|| cut("a frame's header"))?) as usize;
        let original = read(word(offset + 12).ok_or_else(|| cut("a frame's header"))?) as usize;
        if captured > LONGEST_FRAME {
            return Err((
                offset + 8,
                format!("a frame of {captured} bytes; the longest is {LONGEST_FRAME}"),
                "The file is damaged here: record it again.",
            ));
        }
        if captured < original {
            return Err((
                offset + 8,
                format!("only {captured} of a frame's {original} bytes were recorded"),
                "Record whole frames: tcpdump -s 0.",
            ));
        }
        let frame = offset + 16..offset + 16 + captured;
        if frame.end > file.len() {
            return Err(cut("a frame"));
        }
        offset = frame.end;
        frames.push(frame);
    }
    Ok(frames)
}

/// What is received: the frames of a recording, one after the other in memory.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    /// How long each frame is.
    lengths: Vec<u32>,
    /// The frame to come, and where it begins.
    next: usize,
    offset: usize,
    /// After the last frame the first one follows.
    repeat: bool,
}

impl Input {
    fn read(file: &[u8], repeat: bool) -> Result<Self, (usize, String, &'static str)> {
        let frames = index(file)?;
        let mut input = Self { repeat, ..Self::default() };
        input.bytes.reserve_exact(frames.iter().map(ExactSizeIterator::len).sum());
        input.lengths = frames.iter().map(|range| range.len() as u32).collect();
        frames.into_iter().for_each(|range| input.bytes.extend_from_slice(&file[range]));
        Ok(input)
    }

    fn left(&self) -> usize {
        self.lengths.len() - self.next
    }

    #[inline]
    fn next(&mut self) -> Option<&[u8]> {
        if self.next == self.lengths.len() {
            if !self.repeat || self.next == 0 {
                return None;
            }
            (self.next, self.offset) = (0, 0);
        }
        let length = self.lengths[self.next] as usize;
        let frame = &self.bytes[self.offset..self.offset + length];
        self.next += 1;
        self.offset += length;
        Some(frame)
    }
}

/// See the module comment.
pub struct PcapQueue {
    slot: PortSlot,
    input: Input,
    output: Option<BufWriter<File>>,
    /// Writing failed (the disk is full): a record may be cut there, so nothing may follow it.
    failed: bool,
    /// Readable until every frame was received, so always if they repeat: files cannot be polled.
    wake: OwnedFd,
    counters: QueueCounters,
}

impl PcapQueue {
    /// Opens the port. Without `receive` it receives nothing, without `transmit` it counts and
    /// discards what it sends; an existing `transmit` file is replaced. With `repeat` the recording is received
    /// again and again, as fast as it is asked for, which keeps a worker busy for good.
    ///
    /// # Errors
    /// A file that cannot be read, written or understood.
    pub fn open(
        slot: PortSlot,
        receive: Option<&Path>,
        transmit: Option<&Path>,
        repeat: bool,
    ) -> Result<Self, PcapError> {
        let fail = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| PcapError::File { path, doing, source }
        };
        let input = match receive {
            Some(path) => {
                let file = std::fs::read(path).map_err(fail(path, "read"))?;
                Input::read(&file, repeat).map_err(|(offset, problem, remedy)| PcapError::Format {
                    path: path.to_owned(),
                    offset,
                    problem,
                    remedy,
                })?
            }
            None => Input::default(),
        };
        let output = match transmit {
            Some(path) => Some(create(path).map_err(fail(path, "write"))?),
            None => None,
        };
        let wake = eventfd(u32::from(input.left() > 0), EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| fail(Path::new("eventfd"), "create")(error.into()))?;
        Ok(Self { slot, input, output, failed: false, wake, counters: QueueCounters::default() })
    }

    /// Frames of the recording that were not received yet; until it begins again, if it repeats.
    #[must_use]
    pub fn left(&self) -> usize {
        self.input.left()
    }
}

fn create(path: &Path) -> std::io::Result<BufWriter<File>> {
    let mut output = BufWriter::new(File::create(path)?);
    output.write_all(&NANOSECONDS.to_le_bytes())?;
    output.write_all(&[2, 0, 4, 0])?;
    output.write_all(&[0; 8])?;
    output.write_all(&262_144u32.to_le_bytes())?;
    output.write_all(&ETHERNET.to_le_bytes())?;
    output.flush()?;
    Ok(output)
}

fn write(output: &mut BufWriter<File>, frame: &Frame, time: std::time::Duration) -> std::io::Result<()> {
    let length = frame.len() as u32;
    for word in [time.as_secs() as u32, time.subsec_nanos(), length, length] {
        output.write_all(&word.to_le_bytes())?;
    }
    frame.segments().try_for_each(|segment| output.write_all(segment))
}

impl PortQueue for PcapQueue {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let before = frames.len();
        while frames.len() - before < budget {
            let Some(bytes) = self.input.next() else { break };
            let Some(frame) = pool.frame(self.slot, bytes) else {
                drops.count(self.slot, DropReason::NoBuffer);
                if self.input.repeat {
                    // There are always more: buffers must come back first.
                    break;
                }
                continue;
            };
            self.counters.received_packets += 1;
            self.counters.received_bytes += bytes.len() as u64;
            frames.push(frame);
        }
        if !self.input.repeat && self.input.left() == 0 && !self.input.lengths.is_empty() {
            self.input = Input::default();
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        }
        frames.len() - before
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, refused: &mut Refused) {
        if self.output.is_none() {
            for frame in frames.drain(..) {
                self.counters.sent_packets += 1;
                self.counters.sent_bytes += frame.len() as u64;
                pool.free(frame);
            }
            return;
        }
        // A recording needs the time of day; writing files is not for speed.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for frame in frames.drain(..) {
            if !self.failed && self.output.as_mut().is_some_and(|output| write(output, &frame, time).is_err()) {
                self.failed = true;
            }
            if self.failed {
                refused.push((frame, DropReason::PortDown));
                continue;
            }
            self.counters.sent_packets += 1;
            self.counters.sent_bytes += frame.len() as u64;
            pool.free(frame);
        }
    }

    fn service(&mut self, _pool: &mut Pool) {
        if !self.failed && self.output.as_mut().is_some_and(|output| output.flush().is_err()) {
            self.failed = true;
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.as_fd())
    }

    fn offloads(&self) -> Offloads {
        Offloads {
            checksum: false,
            tcp_segmentation: false,
            udp_segmentation: false,
            chains: true,
            max_frame: LONGEST_FRAME,
        }
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn close(&mut self, pool: &mut Pool) {
        self.service(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::memory::Memory;

    fn recording(magic: u32, big: bool, frames: &[&[u8]]) -> Vec<u8> {
        let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut file = Vec::new();
        for value in [magic, if big { 0x0002_0004 } else { 0x0004_0002 }, 0, 0, 65_535, ETHERNET] {
            file.extend(word(value));
        }
        for frame in frames {
            for value in [1, 2, frame.len() as u32, frame.len() as u32] {
                file.extend(word(value));
            }
            file.extend(*frame);
        }
        file
    }

    #[test]
    fn what_was_recorded_is_received_and_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
        for (magic, big) in [(MICROSECONDS, false), (MICROSECONDS, true), (NANOSECONDS, false), (NANOSECONDS, true)] {
            std::fs::write(&input, recording(magic, big, &[&[1; 60], &[2; 9000]])).unwrap();
            let mut pool = Pool::new(Memory::map(64, 64).unwrap());
            let mut drops = DropCounters::default();
            let mut port = PcapQueue::open(PortSlot::new(0), Some(&input), Some(&output), false).unwrap();
            let mut frames = Vec::new();
            assert_eq!(port.receive(&mut pool, &mut frames, 64, &mut drops), 2);
            assert_eq!((frames[0].to_vec(), frames[1].to_vec()), (vec![1; 60], vec![2; 9000]));
            port.transmit(&mut pool, &mut frames, &mut Refused::new());
            port.close(&mut pool);
            assert_eq!((port.left(), pool.outstanding(), port.counters().sent_bytes), (0, 0, 9060));
            let written = std::fs::read(&output).unwrap();
            let found: Vec<&[u8]> = index(&written).unwrap().into_iter().map(|range| &written[range]).collect();
            assert_eq!(found, [&[1; 60][..], &[2; 9000][..]]);
        }
    }

    #[test]
    fn a_recording_repeats_from_memory_as_long_as_there_are_buffers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.pcap");
        std::fs::write(&path, recording(MICROSECONDS, false, &[&[1; 60], &[2; 90], &[3; 60]])).unwrap();
        let mut pool = Pool::new(Memory::map(128, 64).unwrap());
        let mut drops = DropCounters::default();
        let mut port = PcapQueue::open(PortSlot::new(1), Some(&path), None, true).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut frames = Vec::new();
        for round in 0..100 {
            assert_eq!(port.receive(&mut pool, &mut frames, 4, &mut drops), 4);
            let first: Vec<u8> = frames.iter().map(|frame| frame.head()[0]).collect();
            let expected: Vec<u8> = (0..4).map(|frame| ((round * 4 + frame) % 3) as u8 + 1).collect();
            assert_eq!(first, expected);
            port.transmit(&mut pool, &mut frames, &mut Refused::new());
            assert!(frames.is_empty());
        }
        assert_eq!(pool.outstanding(), 0);
        let counters = port.counters();
        assert_eq!((counters.received_packets, counters.sent_packets), (400, 400));
        assert_eq!((counters.received_bytes, counters.sent_bytes), (400 * 70 - 10, 400 * 70 - 10));
        // It never blocks, and never ends: a call that finds no buffer counts one frame, and comes back.
        while port.receive(&mut pool, &mut frames, 64, &mut drops) > 0 {}
        assert_eq!(port.receive(&mut pool, &mut frames, 64, &mut drops), 0);
        assert!(drops.iter().all(|(_, reason, count)| reason == DropReason::NoBuffer && count <= 3));
        let mut readable = [rustix::event::PollFd::new(&port.wake, rustix::event::PollFlags::IN)];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut readable, Some(&at_once)), Ok(1));
        frames.into_iter().for_each(|frame| pool.free(frame));
        // A recording without frames is one that has ended.
        std::fs::write(&path, recording(MICROSECONDS, false, &[])).unwrap();
        let mut port = PcapQueue::open(PortSlot::new(1), Some(&path), None, true).unwrap();
        assert_eq!(port.receive(&mut pool, &mut Vec::new(), 64, &mut drops), 0);
    }

    #[test]
    fn frames_that_cannot_be_written_are_given_back() {
        let mut pool = Pool::new(Memory::map(64, 0).unwrap());
        let mut refused = Refused::new();
        assert!(PcapQueue::open(PortSlot::new(0), None, Some(Path::new("/dev/full")), false).is_err());
        let mut port = PcapQueue::open(PortSlot::new(0), None, None, false).unwrap();
        port.output = Some(BufWriter::with_capacity(8, File::create("/dev/full").unwrap()));
        for _ in 0..2 {
            let mut frames = vec![pool.frame(PortSlot::new(7), &[0; 60]).unwrap()];
            port.transmit(&mut pool, &mut frames, &mut refused);
        }
        let reasons: Vec<DropReason> = refused.iter().map(|(_, reason)| *reason).collect();
        assert_eq!(reasons, [DropReason::PortDown; 2]);
        refused.into_iter().for_each(|(frame, _)| pool.free(frame));
        assert_eq!((pool.outstanding(), port.counters().sent_packets), (0, 0));
    }

    #[test]
    fn a_bad_file_is_refused_with_its_offset_and_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.pcap");
        let good = recording(MICROSECONDS, false, &[&[1; 60]]);
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            PcapQueue::open(PortSlot::new(0), Some(&path), None, false).err().expect("refused").to_string()
        };
        let with = |offset: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            bytes
        };
        assert!(refused(&good[..10]).contains("byte 10: the file ends within its 24-byte header"));
        assert!(refused(&with(0, 7)).contains("byte 0: 0x00000007 does not begin a pcap file. Convert"));
        assert!(refused(&with(0, 0x0a0d_0d0a)).contains("pcapng"));
        assert!(refused(&with(20, 113)).contains("byte 20: the link type is 0x71"));
        assert!(refused(&with(32, u32::MAX)).contains("byte 32: a frame of 4294967295 bytes"));
        assert!(refused(&with(36, 61)).contains("only 60 of a frame's 61 bytes"));
        assert!(refused(&good[..30]).contains("byte 24: the file ends within a frame's header"));
        assert!(refused(&good[..90]).contains("byte 24: the file ends within a frame."));
        let missing = PcapQueue::open(PortSlot::new(0), Some(&directory.path().join("none")), None, false);
        assert!(missing.err().unwrap().to_string().contains("Give a path that the switch may read."));
    }
}
