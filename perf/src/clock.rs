//! A clock cheap enough to read for every batch of requests.
//!
//! On x86-64 with an invariant TSC (CPUID 8000_0007h, EDX bit 8: it ticks at one rate in all power states and
//! on all cores) a stamp is one `rdtsc`; elsewhere it is `clock_gettime(CLOCK_MONOTONIC)` through the vDSO.
//! The rate is measured once per process against CLOCK_MONOTONIC.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A stamp in units of the clock that made it. Only differences of stamps of one process mean anything.
pub type Ticks = u64;

/// How long the TSC is measured against the monotonic clock; the error is below 10 ppm.
const CALIBRATION: Duration = Duration::from_millis(20);
/// Fixed point of the ticks-to-nanoseconds factor.
const SHIFT: u32 = 24;

/// The process's clock; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Nanoseconds per tick, times 2^SHIFT; `None` where ticks are nanoseconds already.
    ns_per_tick: Option<u64>,
    origin: Instant,
}

impl Clock {
    /// The process-wide clock. The first call measures the TSC and takes some 20 ms.
    #[must_use]
    pub fn get() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(Self::calibrate)
    }

    /// The current stamp.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Ticks {
        match self.ns_per_tick {
            Some(_) => tsc::read(),
            None => u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Nanoseconds from `earlier` to `later`; 0 where a core's TSC lags a hair behind another's.
    #[inline]
    #[must_use]
    pub fn ns_between(&self, earlier: Ticks, later: Ticks) -> u64 {
        self.to_ns(later.saturating_sub(earlier))
    }

    /// A number of ticks as nanoseconds.
    #[inline]
    #[must_use]
    pub fn to_ns(&self, ticks: Ticks) -> u64 {
        match self.ns_per_tick {
            Some(factor) => ((u128::from(ticks) * u128::from(factor)) >> SHIFT) as u64,
            None => ticks,
        }
    }

    /// So many nanoseconds as ticks, rounded down.
    #[must_use]
    pub fn to_ticks(&self, ns: u64) -> Ticks {
        let ticks = |factor: u64| (u128::from(ns) << SHIFT) / u128::from(factor.max(1));
        self.ns_per_tick.map_or(ns, |factor| u64::try_from(ticks(factor)).unwrap_or(u64::MAX))
    }

    /// What the stamps come from, for reports: `"tsc"` or `"clock_gettime"`.
    #[must_use]
    pub fn source(&self) -> &'static str {
        if self.ns_per_tick.is_some() { "tsc" } else { "clock_gettime" }
    }

    fn calibrate() -> Self {
        let origin = Instant::now();
        if !tsc::is_invariant() {
            return Self { ns_per_tick: None, origin };
        }
        let (t0, c0) = (Instant::now(), tsc::read());
        std::thread::sleep(CALIBRATION);
        let (t1, c1) = (Instant::now(), tsc::read());
        let ns = u64::try_from((t1 - t0).as_nanos()).unwrap_or(u64::MAX);
        let ticks = c1.saturating_sub(c0);
        // A TSC slower than 100 MHz or stopped is no clock: fall back.
        let usable = ticks > ns / 10 && ns < 1 << 38;
        Self { ns_per_tick: usable.then(|| (ns << SHIFT) / ticks), origin }
    }
}

#[cfg(target_arch = "x86_64")]
mod tsc {
    use core::arch::x86_64::{__cpuid, _rdtsc};

    pub(super) fn is_invariant() -> bool {
        let extended = __cpuid(0x8000_0000).eax;
        extended >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
    }

    #[inline]
    pub(super) fn read() -> u64 {
        // SAFETY: rdtsc touches no memory; x86-64 user space may execute it (CR4.TSD is clear on Linux unless
        // a process asks for it with PR_SET_TSC, which nothing here does).
        unsafe { _rdtsc() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod tsc {
    pub(super) fn is_invariant() -> bool {
        false
    }
    pub(super) fn read() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow() {
        let clock = Clock::get();
        let a = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        let b = clock.now();
        assert!(clock.ns_between(a, b) >= 1_900_000, "{} ns", clock.ns_between(a, b));
        assert_eq!(clock.ns_between(b, a), 0);
    }

    #[test]
    fn ticks_and_nanoseconds_go_both_ways() {
        let clock = Clock { ns_per_tick: Some((1 << SHIFT) / 3), origin: Instant::now() };
        assert_eq!(clock.to_ticks(1000), 3000);
        assert_eq!(Clock { ns_per_tick: None, ..clock }.to_ticks(1000), 1000);
        let there_and_back = Clock::get().to_ns(Clock::get().to_ticks(20_000));
        assert!((19_990..=20_000).contains(&there_and_back), "{there_and_back}");
    }

    #[test]
    fn long_spans_do_not_overflow() {
        let clock = Clock { ns_per_tick: Some((1 << SHIFT) / 3), origin: Instant::now() };
        let year_of_ticks = 3_000_000_000u64 * 3600 * 24 * 365;
        let ns = clock.to_ns(year_of_ticks);
        let want = year_of_ticks / 3;
        assert!(ns.abs_diff(want) < want / 1_000_000, "{ns} {want}");
    }
}
