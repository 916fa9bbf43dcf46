//! The machine that a simulation believes to be on: its clocks, and its source of random numbers.
//!
//! Invariant: from the beginning of a simulation on, everything on its thread that asks the system for the time or for random
//! bytes, here or in a library, gets what follows from the seed. On other threads, and in every other test, it gets the system's own.

use std::{
    cell::Cell,
    ffi::{c_int, c_uint, c_void},
    slice,
    time::Duration,
};

use libc::{clockid_t, size_t, ssize_t, timespec};

/// What the wall clock shows at the beginning, since the Unix epoch.
pub(super) const EPOCH: Duration = Duration::from_secs(1_800_000_000);
/// What the monotonic clock shows at the beginning.
const UPTIME: Duration = Duration::from_secs(100_000);

#[derive(Clone, Copy)]
struct Machine {
    /// What the next random number follows from.
    random: u64,
    elapsed: Duration,
    /// How many events have been given an order since the clocks have moved.
    order: u64,
}

thread_local! {
    static MACHINE: Cell<Option<Machine>> = const { Cell::new(None) };
}

/// Whether this thread is a simulation's.
pub(crate) fn is_simulated() -> bool {
    MACHINE.get().is_some()
}

/// This thread is a simulation's from here on.
pub(super) fn begin(seed: u64) {
    MACHINE.set(Some(Machine { random: seed, elapsed: Duration::ZERO, order: 0 }));
}

/// Moves the clocks to this time since the beginning.
pub(super) fn advance_to(elapsed: Duration) {
    with(|machine| (machine.elapsed, machine.order) = (elapsed, 0));
}

/// Since the beginning.
pub(super) fn elapsed() -> Duration {
    with(|machine| machine.elapsed).unwrap_or_default()
}

/// The same in nanoseconds, later with each call.
pub(super) fn stamp_ns() -> u64 {
    let stamp = with(|machine| {
        machine.order += 1;
        machine.elapsed.as_nanos() as u64 + machine.order
    });
    stamp.unwrap_or_default()
}

fn with<T>(act: impl FnOnce(&mut Machine) -> T) -> Option<T> {
    let mut machine = MACHINE.get()?;
    let given = act(&mut machine);
    MACHINE.set(Some(machine));
    Some(given)
}

impl Machine {
    /// SplitMix64.
    const fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.random().to_le_bytes()[..piece.len()]);
        }
    }

    /// What a clock shows, if it is one of those that are simulated.
    fn read(&self, clock: clockid_t) -> Option<timespec> {
        let began = match clock {
            libc::CLOCK_REALTIME => EPOCH,
            libc::CLOCK_MONOTONIC => UPTIME,
            _ => return None,
        };
        let now = began + self.elapsed;
        Some(timespec { tv_sec: now.as_secs() as i64, tv_nsec: now.subsec_nanos().into() })
    }
}

/// In place of the C library's.
///
/// # Safety
///
/// `len` bytes can be written at `bytes`.
// SAFETY: it has the type of the C library's, and does what that promises.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(bytes: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    let fill = |machine: &mut Machine| {
        if len > 0 {
            // SAFETY: the caller says that there is room for so many bytes, and of bytes every value is one.
            machine.fill(unsafe { slice::from_raw_parts_mut(bytes.cast::<u8>(), len) });
        }
        len as ssize_t
    };
    // SAFETY: the caller's word is passed on.
    with(fill).unwrap_or_else(|| unsafe { libc::syscall(libc::SYS_getrandom, bytes, len, flags) as ssize_t })
}

/// In place of the C library's.
///
/// # Safety
///
/// A `timespec` can be written at `time`, unless it is null.
// SAFETY: it has the type of the C library's, and does what that promises.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    match MACHINE.get().and_then(|machine| machine.read(clock)) {
        Some(now) if !time.is_null() => {
            // SAFETY: the caller says that there is room, and it is not null.
            unsafe { time.write(now) };
            0
        }
        // SAFETY: the caller's word is passed on.
        _ => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int },
    }
}
