//! Survives a client that takes its memory away.
//!
//! A file that is mapped can be made shorter by whoever shares it; touching what is gone raises SIGBUS in the thread that
//! touches it, a reactor. The handler here finds out whether the address lies in a client's mapping. If so, it lays
//! fresh zero pages over that whole mapping, so that the access succeeds, notes the fault, and wakes the disk's control
//! thread, which ends that session. Any other SIGBUS goes to whoever handled it before.
//!
//! The handler allocates and locks nothing: it reads a static table, and calls mmap and write. A slot of the table is
//! changed only while its mapping is not in use by anyone, and read under a sequence number, so the slot that a faulting
//! address is found in is always the one of the mapping that the faulting thread uses.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, Once, PoisonError};

use libc::{c_int, c_void, siginfo_t};
use nix::sys::eventfd::EventFd;
use tracing::warn;

/// Mappings that can be guarded at a time, all disks together.
const SLOTS: usize = 4096;

/// What the handler knows of one mapping.
struct Slot {
    /// Odd while the rest is changed.
    sequence: AtomicUsize,
    /// First address; 0 when the slot is free.
    start: AtomicUsize,
    len_bytes: AtomicUsize,
    /// What to write to when it faults.
    wake_fd: AtomicI32,
    faulted: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        sequence: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        len_bytes: AtomicUsize::new(0),
        wake_fd: AtomicI32::new(-1),
        faulted: AtomicBool::new(false),
    }
}; SLOTS];

/// Slots below this have been used: as far as the handler looks.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Serialises those who take and free slots; the handler never takes it.
static CHANGING: Mutex<()> = Mutex::new(());
/// The handler that was there before; written once, before ours is installed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// A mapping under guard for as long as this lives.
pub(crate) struct Guard {
    slot: &'static Slot,
    /// Keeps the descriptor that the handler writes to.
    _wake: Arc<EventFd>,
}

impl Guard {
    /// Guards `[start, start + len_bytes)`, a whole mapping; `wake` is written to when it faults. `None`, with a
    /// warning, when the table is full or the handler cannot be installed.
    ///
    /// # Safety
    /// The range must be one mapping of the caller's, and stay mapped for as long as the guard lives. Nobody may hold Rust
    /// references into it: its content may turn to zeroes at any time.
    pub(crate) unsafe fn new(start: *mut c_void, len_bytes: usize, wake: &Arc<EventFd>) -> Option<Self> {
        install();
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let free = TABLE.iter().position(|slot| slot.start.load(Ordering::Relaxed) == 0);
        let installed = !PREVIOUS.load(Ordering::Acquire).is_null();
        let Some(index) = free.filter(|_| installed) else {
            warn!(
                "no guard for {len_bytes} bytes of client memory: a client that takes it away ends this process"
            );
            return None;
        };
        let slot = &TABLE[index];
        slot.change(|| {
            slot.len_bytes.store(len_bytes, Ordering::Relaxed);
            slot.wake_fd.store(wake.as_raw_fd(), Ordering::Relaxed);
            slot.faulted.store(false, Ordering::Relaxed);
            slot.start.store(start.addr(), Ordering::Relaxed);
        });
        USED.fetch_max(index + 1, Ordering::Release);
        Some(Self { slot, _wake: Arc::clone(wake) })
    }

    /// Whether the memory went away.
    pub(crate) fn has_faulted(&self) -> bool {
        self.slot.faulted.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.change(|| self.slot.start.store(0, Ordering::Relaxed));
    }
}

impl Slot {
    /// Changes the slot so that the handler sees all of it or none. Call it with `CHANGING` held.
    fn change(&self, change: impl FnOnce()) {
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        self.sequence.store(before.wrapping_add(2), Ordering::Release);
    }

    /// Its range and descriptor, if it holds `address` and nobody changes it now.
    fn find(&self, address: usize) -> Option<(usize, usize, c_int)> {
        let before = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len_bytes = self.len_bytes.load(Ordering::Relaxed);
        let wake_fd = self.wake_fd.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let steady = before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
        let inside = start != 0 && address.wrapping_sub(start) < len_bytes;
        (steady && inside).then_some((start, len_bytes, wake_fd))
    }
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all-zero bytes are a valid sigaction: no handler, no flags, an empty mask.
        let (mut ours, mut previous): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigbus;
        ours.sa_sigaction = handler as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: asks for the current action only; the pointer is to a local.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
            return;
        }
        // The handler may run at once, so what it needs comes first. Never freed: there is one per process.
        PREVIOUS.store(Box::into_raw(Box::new(previous)), Ordering::Release);
        // SAFETY: `on_sigbus` does only what a signal handler may do, and has the signature that SA_SIGINFO asks for.
        if unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) } != 0 {
            PREVIOUS.store(std::ptr::null_mut(), Ordering::Release);
        }
    });
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler, and `si_addr` is set for SIGBUS.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // BUS_ADRERR: the page lies beyond the end of its file. Broken hardware, the other cause, is not ours to hide.
    if code == libc::BUS_ADRERR && cover(address) {
        return;
    }
    pass_on(signal, info, context);
}

/// Lays zero pages over the mapping that holds `address`, and tells its control thread. False when there is none.
fn cover(address: usize) -> bool {
    let used = USED.load(Ordering::Acquire).min(SLOTS);
    let found = TABLE[..used].iter().find_map(|slot| Some((slot, slot.find(address)?)));
    let Some((slot, (start, len_bytes, wake_fd))) = found else { return false };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let at = std::ptr::with_exposed_provenance_mut::<c_void>(start);
    // SAFETY: errno is this thread's own. The range is a live mapping (the faulting thread is using it) that `Guard::new`
    // was given whole; replacing it is one step for everyone else. The descriptor is kept open by the guard.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let covered = libc::mmap(at, len_bytes, protection, flags, -1, 0) != libc::MAP_FAILED;
        if covered {
            slot.faulted.store(true, Ordering::Release);
            let one = 1u64;
            libc::write(wake_fd, (&raw const one).cast(), size_of::<u64>());
        }
        *errno = before;
        covered
    }
}

/// Does what would have been done without us.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: `install` stored a leaked sigaction before this handler could run; the kernel accepted the function in it
    // as a handler with the signature that its flags say. Without one, the default action is put back, and the access
    // that faulted, done again, ends the process as it should.
    unsafe {
        let (function, flags) = match previous.as_ref() {
            Some(previous) => (previous.sa_sigaction, previous.sa_flags),
            None => (libc::SIG_DFL, 0),
        };
        if function == libc::SIG_DFL || function == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
        } else if flags & libc::SA_SIGINFO != 0 {
            let function: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                std::mem::transmute(std::ptr::with_exposed_provenance::<()>(function));
            function(signal, info, context);
        } else {
            let function: extern "C" fn(c_int) =
                std::mem::transmute(std::ptr::with_exposed_provenance::<()>(function));
            function(signal);
        }
    }
}
