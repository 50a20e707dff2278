//! How fast the host's time stamp counter runs.
//!
//! An emulated guest reads the host's counter. Left to itself it finds out its rate within milliseconds and against an
//! emulated timer, and on a busy host it may be wrong forty times over: its clock would run that much too fast, and
//! everything in it that waits would give up that much too soon.

use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(10);

/// Its ticks per millisecond: the median of some rounds, because any of them may be interrupted.
pub(super) fn khz() -> u64 {
    let mut found: [u64; ROUNDS] = std::array::from_fn(|_| round());
    found.sort_unstable();
    found[ROUNDS / 2]
}

fn round() -> u64 {
    let (started, first) = (Instant::now(), ticks());
    std::thread::sleep(ROUND);
    let (elapsed, last) = (started.elapsed(), ticks());
    let khz = u128::from(last.wrapping_sub(first)) * 1_000_000 / elapsed.as_nanos();
    u64::try_from(khz).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    // SAFETY: reads a register that every x86-64 CPU has, and touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// On no other CPU does the lab boot anything.
#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    0
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn is_what_a_cpu_of_our_days_can_have() {
        let khz = khz();
        assert!((500_000..10_000_000).contains(&khz), "{khz} kHz");
    }
}
