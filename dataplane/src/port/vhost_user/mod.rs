//! The vhost-user port: the switch is the device side of a virtio network device (virtio 1.2, 5.1), whose driver is a
//! virtual machine's, or DPDK's `net_virtio_user`. Frames are copied between the driver's memory and packet memory, so
//! that they never enter the kernel.
//!
//! The switch listens on a Unix socket, and the *front end* (QEMU) connects, and connects again when either side has
//! been started anew: nothing is lost but frames under way, as no buffer is ever kept for longer than a batch.
//!
//! In reading order:
//! - [`message`], [`session`]: what a front end says; one control thread for each port.
//! - [`exchange`]: how rings come to workers and back.
//! - [`queue`]: a worker's queue; [`ring`]: one virtqueue.
//! - [`memory`], [`bus_error`]: the guest's memory.
//!
//! Whom to believe. The *guest* writes rings and buffers: nothing in there is believed, and a ring that breaks the rules
//! is stopped, counted (`bad_ring`) and logged; the worker and other ports never notice. The *front end* may open the
//! socket (its mode and group say who), and is believed in one thing only: that the events it hands over do not block
//! (they are made so, but whoever shares one could undo that).
//!
//! What is not there: live migration (dirty logging), a packed ring, an in-flight record (buffers are given back in the
//! batch in which they were taken), an IOMMU.

mod bus_error;
pub mod exchange;
pub mod memory;
pub mod message;
pub mod queue;
pub mod ring;
pub mod session;
#[cfg(test)]
mod tests;

use crate::limits::vhost_user::{MESSAGES_PER_SECOND, PAIRS};
use crate::port::tap::{LARGEST_MTU, LINK_HEADER};
use crate::port::{Offloads, PortSlot};
use exchange::Lane;
use message::Message;
use queue::VhostUserQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use session::{Connected, Session};
use std::io::{Error as IoError, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of a path that a Unix socket can have.
pub const LONGEST_PATH: usize = 107;

/// How long the rest of a message may take, once it has begun; and our reply.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a vhost-user port should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserSettings {
    /// The port's name, for log lines.
    pub name: String,
    /// Where front ends connect, at most [`LONGEST_PATH`] bytes. Its directory exists.
    pub socket: PathBuf,
    /// Who besides root may connect: the members of this group; `None`: nobody.
    pub group: Option<u32>,
    /// Bytes, 68 to [`LARGEST_MTU`]: longer frames are not sent, segments of large ones counted each by itself.
    pub mtu: u32,
    /// Queue pairs that a front end may use, 1 to [`PAIRS`].
    pub pairs: usize,
    /// How many workers there are.
    pub workers: usize,
}

/// Why a vhost-user port does not open.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// Settings that can never be right.
    #[error("{field}: {problem}. {remedy}")]
    Settings {
        /// Which setting.
        field: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Something else is at the path.
    #[error("{0} exists and is not a socket. Remove it, or give another path.")]
    NotASocket(PathBuf),
    /// Somebody listens there.
    #[error("another program listens on {0}. End it, or give another path.")]
    Taken(PathBuf),
    /// Anything else.
    #[error("{doing} failed: {source}. Give a path in a directory that the switch may write to.")]
    System {
        /// What we were doing.
        doing: String,
        /// What the kernel says.
        source: IoError,
    },
}

/// Who wants to know that the state changed. Called from the port's thread; must not block.
pub type OnChange = Arc<dyn Fn() + Send + Sync>;

/// How a port is connected now; clones look at the same one.
#[derive(Clone, Default)]
pub struct VhostUserState(Arc<Mutex<Connected>>);

impl VhostUserState {
    /// The state now.
    #[must_use]
    pub fn get(&self) -> Connected {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this is another one.
    fn set(&self, connected: Connected) -> bool {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *own != connected;
        *own = connected;
        changed
    }
}

/// The control side of a port. Dropping it ends the connection and removes the socket; drop it before the queues are
/// closed, while workers still have them.
pub struct VhostUser {
    /// How it is connected.
    pub state: VhostUserState,
    lanes: Arc<[Lane]>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl VhostUser {
    /// Listens. One queue for each worker that the port has a queue pair for.
    ///
    /// # Errors
    /// See [`VhostUserError`]. Nothing is left behind.
    pub fn open(
        slot: PortSlot,
        settings: &VhostUserSettings,
        changed: OnChange,
    ) -> Result<(Self, Vec<VhostUserQueue>), VhostUserError> {
        check(settings)?;
        let failed = |doing: &str| {
            let doing = doing.to_owned();
            move |source: IoError| VhostUserError::System { doing, source }
        };
        let event = || {
            let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(IoError::from);
            event.map(Arc::new).map_err(failed("making an eventfd"))
        };
        let (stop, control) = (event()?, event()?);
        let lanes: Result<Vec<Lane>, _> =
            (0..settings.pairs.min(settings.workers).max(1)).map(|_| Lane::new(control.clone())).collect();
        let lanes: Arc<[Lane]> = lanes.map_err(failed("making an epoll descriptor"))?.into();
        let socket = Socket::bind(&settings.socket, settings.group)?;
        let max_frame = settings.mtu as usize + LINK_HEADER;
        let state = VhostUserState::default();
        state.set(waiting(&settings.socket));
        let service = Service {
            name: settings.name.clone(),
            socket,
            pairs: settings.pairs,
            max_frame,
            lanes: lanes.clone(),
            stop: stop.clone(),
            control,
            state: state.clone(),
            changed,
        };
        let thread = std::thread::Builder::new().name("vhost-user".to_owned()).stack_size(256 << 10);
        let thread = thread.spawn(move || service.run()).map_err(failed("starting a thread"))?;
        // While nobody is there everything is refused, as it is.
        let idle = Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: true, chains: true, max_frame };
        let queues = (0..lanes.len()).map(|lane| VhostUserQueue::new(slot, lanes.clone(), lane, idle)).collect();
        Ok((Self { state, lanes, stop, thread: Some(thread) }, queues))
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        self.lanes.iter().for_each(Lane::end);
        // An eventfd that is not full takes it.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn check(settings: &VhostUserSettings) -> Result<(), VhostUserError> {
    let refuse = |field, problem: String, remedy: String| Err(VhostUserError::Settings { field, problem, remedy });
    if settings.socket.as_os_str().len() > LONGEST_PATH {
        let problem = format!("a path of {} bytes", settings.socket.as_os_str().len());
        return refuse("socket", problem, format!("A socket's path has at most {LONGEST_PATH}."));
    }
    if !(68..=LARGEST_MTU).contains(&settings.mtu) {
        return refuse("mtu", format!("{} is out of range", settings.mtu), format!("Give 68 to {LARGEST_MTU} bytes."));
    }
    if !(1..=PAIRS).contains(&settings.pairs) {
        return refuse("queues", format!("{} is out of range", settings.pairs), format!("Give 1 to {PAIRS}."));
    }
    Ok(())
}

fn waiting(socket: &Path) -> Connected {
    Connected { up: false, detail: format!("no front end is connected to {}", socket.display()) }
}

/// The listening socket; its file goes with it.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// A socket file on which nobody answers is replaced: what a killed switch left.
    fn bind(path: &Path, group: Option<u32>) -> Result<Self, VhostUserError> {
        let failed = |doing: &str| {
            let doing = format!("{doing} {}", path.display());
            move |source: IoError| VhostUserError::System { doing, source }
        };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("looking at")(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(VhostUserError::NotASocket(path.to_owned())),
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed("removing"))?;
                }
                Err(error) => return Err(failed("looking at")(error)),
                Ok(_) => return Err(VhostUserError::Taken(path.to_owned())),
            },
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(IoError::from);
        let socket = socket.map_err(failed("making the socket"))?;
        let address = SocketAddrUnix::new(path).map_err(IoError::from).map_err(failed("making the socket"))?;
        bind(&socket, &address).map_err(IoError::from).map_err(failed("making the socket"))?;
        let inode = std::fs::symlink_metadata(path).map_err(failed("looking at"))?.ino();
        let bound = Self { listener: UnixListener::from(socket), path: path.to_owned(), inode };
        // Nobody can connect before it listens: until then it may be open to too many.
        if let Some(group) = group {
            std::os::unix::fs::chown(path, None, Some(group)).map_err(failed("giving a group to"))?;
        }
        let mode = Mode::from_raw_mode(if group.is_some() { 0o660 } else { 0o600 });
        rustix::fs::chmod(path, mode).map_err(IoError::from).map_err(failed("setting the mode of"))?;
        listen(&bound.listener, 4).map_err(IoError::from).map_err(failed("listening on"))?;
        Ok(bound)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // If it cannot be removed, the next one replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// How fast messages are done.
struct Pace {
    since: Instant,
    messages: u32,
}

impl Pace {
    /// Before each message: waits if there were too many.
    fn keep(&mut self) {
        const SECOND: Duration = Duration::from_secs(1);
        self.messages += 1;
        if self.messages > MESSAGES_PER_SECOND {
            std::thread::sleep(SECOND.saturating_sub(self.since.elapsed()));
            *self = Self { since: Instant::now(), messages: 1 };
        } else if self.since.elapsed() > SECOND {
            *self = Self { since: Instant::now(), messages: 1 };
        }
    }
}

/// What the port's thread works with.
struct Service {
    name: String,
    socket: Socket,
    pairs: usize,
    max_frame: usize,
    lanes: Arc<[Lane]>,
    stop: Arc<OwnedFd>,
    control: Arc<OwnedFd>,
    state: VhostUserState,
    changed: OnChange,
}

impl Service {
    /// Until it is told to stop.
    fn run(self) {
        let mut front_end: Option<(UnixStream, Session)> = None;
        let mut pace = Pace { since: Instant::now(), messages: 0 };
        loop {
            let ready = {
                let mut polled = vec![
                    PollFd::new(&*self.stop, PollFlags::IN),
                    PollFd::new(&*self.control, PollFlags::IN),
                    PollFd::new(&self.socket.listener, PollFlags::IN),
                ];
                polled.extend(front_end.as_ref().map(|(stream, _)| PollFd::new(stream, PollFlags::IN)));
                if poll(&mut polled, None).is_err() {
                    continue;
                }
                polled.iter().map(|one| !one.revents().is_empty()).collect::<Vec<_>>()
            };
            if ready[0] {
                break;
            }
            if ready[1] {
                let _ = rustix::io::read(&*self.control, &mut [0; 8]);
                if let Some((_, session)) = &mut front_end {
                    session.note_broken();
                }
            }
            if ready.get(3) == Some(&true) {
                pace.keep();
            }
            if ready.get(3) == Some(&true)
                && let Some((stream, session)) = &mut front_end
                && let Err(why) = self.serve(stream, session)
            {
                tracing::info!(port = self.name, "the front end has gone{why}");
                front_end = None;
            }
            if ready[2] {
                self.accept(&mut front_end);
            }
            let now = front_end.as_ref().map_or_else(|| waiting(&self.socket.path), |(_, session)| session.connected());
            self.show(now);
        }
        drop(front_end);
    }

    fn show(&self, now: Connected) {
        let before = self.state.get().up;
        let (up, detail) = (now.up, now.detail.clone());
        if self.state.set(now) {
            if up != before {
                tracing::info!(port = self.name, detail, "the port is {}", if up { "up" } else { "down" });
            }
            (self.changed)();
        }
    }

    fn accept(&self, front_end: &mut Option<(UnixStream, Session)>) {
        let Ok((stream, _)) = self.socket.listener.accept() else { return };
        let pid = rustix::net::sockopt::socket_peercred(&stream).map_or(0, |peer| peer.pid.as_raw_nonzero().get());
        if front_end.is_some() {
            tracing::warn!(port = self.name, pid, "a second front end is turned away: one is connected");
            return;
        }
        let timed = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        if timed.and_then(|()| stream.set_write_timeout(Some(PATIENCE))).is_err() {
            return;
        }
        tracing::info!(port = self.name, pid, "a front end has connected");
        *front_end = Some((stream, Session::new(&self.name, self.pairs, self.max_frame, self.lanes.clone())));
    }

    /// One message. The error is the rest of a sentence on why there are no more.
    fn serve(&self, stream: &mut UnixStream, session: &mut Session) -> Result<(), String> {
        let message = match Message::receive(stream) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(String::new()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(String::new()),
            Err(error) => return Err(format!(": {error}")),
        };
        let number = message.request;
        let (reply, done) = session.handle(message);
        if let Err(problem) = done {
            tracing::warn!(port = self.name, message = number, "what the front end wants is not done: {problem}");
        }
        match reply {
            Some(payload) => message::reply(stream, number, &payload).map_err(|error| format!(": {error}")),
            None => Ok(()),
        }
    }
}
