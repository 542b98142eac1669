//! What receiving a recording and discarding it costs, without a switch between: ours with the ports and packet
//! memory of `weft-switch` (`receive_and_discard`), DPDK's with its `testpmd`, which forwards between the same two
//! ports that Open vSwitch has.

use super::contender::Contender;
use super::hugepages::Hugepages;
use super::place::Place;
use super::process::{PATIENCE, Plan, Process, Thread};
use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout};
use weft_up::settings::sibling;

/// Ours.
pub struct ReceiveAndDiscard {
    process: Process,
    thread: Thread,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl ReceiveAndDiscard {
    /// Starts it.
    pub fn start(place: &Place, recording: &Path) -> Result<Self> {
        let directory = place.directory("ours-io")?;
        let mut process = Process::start(Plan {
            name: "receive_and_discard",
            file: &sibling("examples/receive_and_discard")?,
            arguments: vec![recording.display().to_string(), place.core.to_string()],
            environment: Vec::new(),
            namespace: None,
            directory: &directory,
            spoken_with: true,
        })?;
        let thread = process.thread("worker-0")?;
        let (input, output) = process.pipes()?;
        Ok(Self { process, thread, input, output: BufReader::new(output) })
    }
}

impl Contender for ReceiveAndDiscard {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn thread(&self) -> &Thread {
        &self.thread
    }

    fn packets(&mut self) -> Result<u64> {
        writeln!(self.input)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().context("receive_and_discard does not answer")
    }
}

/// DPDK's.
pub struct Testpmd {
    process: Process,
    thread: Thread,
    telemetry: OwnedFd,
    /// It ends when its input does.
    _input: ChildStdin,
    /// And when nobody reads what it says.
    _output: ChildStdout,
}

impl Testpmd {
    /// Starts it, with `frames` in the recording.
    pub fn start(place: &Place, recording: &Path, frames: usize, hugepages: Option<&Hugepages>) -> Result<Self> {
        let directory = place.directory("theirs-io")?;
        let prefix = format!("weft-bench-io-{}", std::process::id());
        // The port keeps the whole recording in buffers.
        let buffers = frames + 32_768;
        let core = place.core;
        let other = place.other_core();
        let mut arguments = words(&format!("-l {other},{core} --main-lcore {other} --no-pci --file-prefix={prefix}"));
        arguments.extend(Hugepages::arguments(hugepages, buffers));
        arguments.push(format!("--vdev=eth_pcap0,rx_pcap={},infinite_rx=1", recording.display()));
        arguments.push("--vdev=eth_null1,size=60,no-rx=1".to_owned());
        arguments.extend(words("-- --forward-mode=io --auto-start --burst=32 --nb-cores=1 --no-lsc-interrupt"));
        arguments.push(format!("--total-num-mbufs={buffers}"));
        let mut process = Process::start(Plan {
            name: "testpmd",
            file: Path::new("dpdk-testpmd"),
            arguments,
            environment: Vec::new(),
            namespace: None,
            directory: &directory,
            spoken_with: true,
        })
        .context("install dpdk-dev, or see deploy/prerequisites.sh bench")?;
        let (input, output) = process.pipes()?;
        let socket = PathBuf::from(format!("/var/run/dpdk/{prefix}/dpdk_telemetry.v2"));
        let telemetry = process.wait_for("telemetry", || connect(&socket).ok())?;
        let _greeting = receive(&telemetry)?;
        let thread = process.thread(&format!("rte-worker-{core}"))?;
        let mut testpmd = Self { process, thread, telemetry, _input: input, _output: output };
        let begin = std::time::Instant::now();
        while testpmd.packets()? == 0 {
            testpmd.process.check()?;
            if begin.elapsed() > PATIENCE {
                bail!("testpmd forwards nothing");
            }
        }
        Ok(testpmd)
    }
}

impl Contender for Testpmd {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn thread(&self) -> &Thread {
        &self.thread
    }

    fn packets(&mut self) -> Result<u64> {
        rustix::net::send(&self.telemetry, b"/ethdev/stats,0", SendFlags::empty())?;
        let answer: serde_json::Value = serde_json::from_str(&receive(&self.telemetry)?)?;
        answer["/ethdev/stats"]["ipackets"].as_u64().context("testpmd does not tell what it has received")
    }
}

/// Words separated by spaces.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn connect(path: &Path) -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn receive(socket: &OwnedFd) -> Result<String> {
    let mut buffer = vec![0; 16_384];
    let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(String::from_utf8(buffer)?)
}
