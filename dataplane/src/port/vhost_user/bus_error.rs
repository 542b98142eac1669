//! A file that a front end has shared can be cut short while it is mapped here. Who then touches what is gone gets the
//! signal SIGBUS, which ends a process: one guest's front end would end the switch of all.
//!
//! So that signal is handled: if the address lies in a watched mapping, empty memory of our own takes the place of the
//! whole mapping, the mapping is marked as lost, and the access is made again and succeeds. Anything else goes to the
//! handler that was there before.
//!
//! The handler runs on a worker in the middle of anything. It reads atomics, makes one system call, and keeps `errno`.

use crate::limits::vhost_user::MAPPINGS;
use std::sync::Once;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A mapping. Its start is written last and taken back first: 0 is none.
struct Entry {
    taken: AtomicBool,
    start: AtomicUsize,
    bytes: AtomicUsize,
    lost: AtomicBool,
}

static ENTRIES: [Entry; MAPPINGS] = [const {
    Entry {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MAPPINGS];

/// What handled the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A mapping that is watched as long as this exists. Drop it before the mapping is taken away: somebody else's may come
/// to lie there.
#[derive(Debug)]
pub(super) struct Watched(usize);

impl Watched {
    /// Watches a mapping; `None`: too many are.
    pub fn new(start: usize, bytes: usize) -> Option<Self> {
        static HANDLED: Once = Once::new();
        HANDLED.call_once(handle_bus_errors);
        let index = ENTRIES.iter().position(|entry| {
            entry.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        let entry = &ENTRIES[index];
        entry.lost.store(false, Ordering::Relaxed);
        entry.bytes.store(bytes, Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
        Some(Self(index))
    }

    /// Whether it was replaced by empty memory.
    pub fn is_lost(&self) -> bool {
        ENTRIES[self.0].lost.load(Ordering::Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let entry = &ENTRIES[self.0];
        entry.start.store(0, Ordering::Release);
        entry.taken.store(false, Ordering::Release);
    }
}

fn handle_bus_errors() {
    // SAFETY: all zeroes is a valid `sigaction`; the handler has the form that SA_SIGINFO wants, and does only what a
    // handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) == 0 {
            let _ = BEFORE.set(before);
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    }
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid structure, which for SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    for entry in &ENTRIES {
        let (start, bytes) = (entry.start.load(Ordering::Acquire), entry.bytes.load(Ordering::Relaxed));
        if start == 0 || address.wrapping_sub(start) >= bytes {
            continue;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: the mapping is ours and stays one, of the same place and size; nobody holds references into it.
        // `errno` belongs to what was interrupted.
        let replaced = unsafe {
            let errno = *libc::__errno_location();
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let mapped = libc::mmap(start as *mut libc::c_void, bytes, protection, flags, -1, 0);
            *libc::__errno_location() = errno;
            mapped != libc::MAP_FAILED
        };
        if replaced {
            entry.lost.store(true, Ordering::Relaxed);
            return;
        }
    }
    // Not ours: what handled it before does so when the access is made again.
    // SAFETY: what is set was the action before.
    unsafe {
        match BEFORE.get() {
            Some(before) => libc::sigaction(signal, before, std::ptr::null_mut()),
            None => {
                libc::signal(signal, libc::SIG_DFL);
                0
            }
        };
    }
}
