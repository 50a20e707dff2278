//! When to send an interrupt that the driver wants: at once, or a moment later for several requests together.
//!
//! An interrupt costs the driver a context switch. A driver that waits for its one request wants it now; one that is
//! busy submitting, with completions coming back as fast as it submits, is better off with one for many. From the
//! ring alone both look the same, so the queue tries: one interrupt in a while is *held*, and if new requests arrive
//! meanwhile, the driver was not waiting, and the next ones are held too.
//!
//! ```text
//!   submitting driver   r r r r r r . .            waiting driver   r . . . . r . .
//!   held interrupt      └───────────┴─► I          held (a trial)   └─────┴─► I        then at once: r►I  r►I  r►I
//!                          pause or limit                             nobody came
//! ```
//!
//! A hold ends when arrivals pause for twice their usual gap, after eight gaps, after 200 us, or with 32 requests.
//! A waiting driver pays for a trial of two gaps once in 64 interrupts.

use spinblk_perf::{Clock, Ticks};

/// Interrupts sent at once between two trials, and held after a trial that paid.
const TRIAL_EVERY: u32 = 64;
/// Requests after which a held interrupt goes out.
const MAX_REQUESTS: u32 = 32;
/// Gaps between arrivals that a hold may last, and that end it when nothing arrives.
const MAX_GAPS: u64 = 8;
const PAUSE_GAPS: u64 = 2;
/// Longest hold.
const MAX_HOLD_NS: u64 = 200_000;

/// The decision for one queue.
#[derive(Debug)]
pub(super) struct Coalescer {
    enabled: bool,
    max_hold_ticks: Ticks,
    /// Moving average of the time between polls that found requests.
    gap_ticks: Ticks,
    last_arrival: Ticks,
    held_since: Option<Ticks>,
    arrived_in_hold: u32,
    /// Interrupts that may be held because the last trial paid.
    credit: u32,
    until_trial: u32,
}

impl Coalescer {
    pub(super) fn new(enabled: bool, clock: &Clock) -> Self {
        // The clock has no inverse of `to_ns`; ticks of a microsecond are close enough to scale from.
        let ticks_of_ns = |ns: u64| {
            let per_2_20 = clock.to_ns(1 << 20).max(1);
            (ns << 20) / per_2_20
        };
        Self {
            enabled,
            max_hold_ticks: ticks_of_ns(MAX_HOLD_NS),
            gap_ticks: 0,
            last_arrival: 0,
            held_since: None,
            arrived_in_hold: 0,
            credit: 0,
            until_trial: TRIAL_EVERY,
        }
    }

    /// Notes that `requests` were taken at `now`.
    #[inline]
    pub(super) fn arrived(&mut self, requests: u32, now: Ticks) {
        // A pause longer than any hold says nothing about how fast a busy driver submits.
        let gap = now.saturating_sub(self.last_arrival).min(self.max_hold_ticks);
        self.last_arrival = now;
        self.gap_ticks = (self.gap_ticks * 7 + gap) / 8;
        self.arrived_in_hold += requests;
    }

    /// The driver wants an interrupt at `now`: true to send it, false to hold it.
    #[inline]
    pub(super) fn wanted(&mut self, now: Ticks) -> bool {
        if !self.enabled {
            return true;
        }
        if self.held_since.is_some() {
            return false;
        }
        if self.credit == 0 && self.until_trial > 0 {
            self.until_trial -= 1;
            return true;
        }
        self.credit = self.credit.saturating_sub(1);
        self.held_since = Some(now);
        self.arrived_in_hold = 0;
        false
    }

    /// Whether an interrupt is being held.
    #[inline]
    pub(super) fn is_holding(&self) -> bool {
        self.held_since.is_some()
    }

    /// Whether the held interrupt is to go out at `now`; it counts as sent then.
    #[inline]
    pub(super) fn due(&mut self, now: Ticks) -> bool {
        let Some(since) = self.held_since else { return false };
        let held = now.saturating_sub(since);
        let quiet = now.saturating_sub(self.last_arrival.max(since));
        let over = held >= (MAX_GAPS * self.gap_ticks).min(self.max_hold_ticks)
            || quiet >= PAUSE_GAPS * self.gap_ticks
            || self.arrived_in_hold >= MAX_REQUESTS;
        if over {
            self.release();
        }
        over
    }

    /// Ends the hold; true if there was one.
    pub(super) fn release(&mut self) -> bool {
        if self.held_since.take().is_none() {
            return false;
        }
        if self.arrived_in_hold > 0 {
            self.credit = TRIAL_EVERY;
        } else {
            self.credit = 0;
            self.until_trial = TRIAL_EVERY;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coalescer() -> Coalescer {
        Coalescer { max_hold_ticks: 200_000, ..Coalescer::new(true, &Clock::get()) }
    }

    /// Interrupts and the sum of the time that requests waited for theirs, for a driver with `depth` requests that takes
    /// `submit` ticks to submit one and `react` ticks from interrupt to the next submission.
    fn run(depth: u32, submit: u64, react: u64, rounds: u32) -> (u32, u64) {
        let (mut c, mut now, mut interrupts, mut waited) = (coalescer(), 0, 0, 0);
        for _ in 0..rounds {
            let mut left = depth;
            let mut pending = Vec::new();
            let mut next = now;
            // Polls are a tick apart; the device finishes at once.
            while left > 0 || !pending.is_empty() {
                let mut sent = false;
                if left > 0 && now >= next {
                    (left, next) = (left - 1, now + submit);
                    c.arrived(1, now);
                    pending.push(now);
                    sent = c.wanted(now);
                }
                if sent || c.due(now) {
                    interrupts += 1;
                    waited += pending.drain(..).map(|at| now - at).sum::<u64>();
                }
                now += 1;
            }
            now += react;
        }
        (interrupts, waited)
    }

    #[test]
    fn a_waiting_driver_is_hardly_ever_kept_waiting() {
        let (interrupts, waited) = run(1, 1, 1000, 6500);
        assert_eq!(interrupts, 6500);
        let per_request = waited / 6500;
        assert!(per_request <= 40, "{per_request} of a round trip of 1000");
    }

    #[test]
    fn a_submitting_driver_is_interrupted_less() {
        let (interrupts, waited) = run(32, 100, 1000, 1000);
        assert!(interrupts < 32_000 / 4, "{interrupts} interrupts for 32000 requests");
        assert!(waited / 32_000 <= 800, "each waits {} on average", waited / 32_000);
    }

    #[test]
    fn a_hold_ends_even_when_arrivals_never_pause() {
        let mut c = coalescer();
        c.credit = 1;
        c.gap_ticks = 1_000_000;
        assert!(!c.wanted(0));
        assert!(!c.due(199_999) && c.due(200_000));
        c.credit = 1;
        assert!(!c.wanted(300_000));
        c.arrived(32, 300_001);
        assert!(c.due(300_001), "32 requests");
    }

    #[test]
    fn turned_off_it_never_holds() {
        let mut c = Coalescer::new(false, &Clock::get());
        assert!((0..1000).all(|now| c.wanted(now)));
        assert!(!c.is_holding());
    }
}
