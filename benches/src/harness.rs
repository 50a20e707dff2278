//! Repeating, summing up, pinning, printing.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use crate::Error;

/// A quiet machine's kernel threads take a core for moments now and then; more than this is somebody else's work.
const NOISY_PER_SECOND: f64 = 20.0;

/// The median of some repeats, with the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number the upper one of the two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Sums up what was measured; all `NaN` for nothing.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}

/// `median (min-max)`, with the precision of the format.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max)
    }
}

/// Measures each of `cases` once per repeat, in turn, the order turned round each time: what disturbs the machine
/// for a while then hits all of them. The results are in the order of `cases`.
///
/// # Errors
/// The first that `measure` gives.
pub fn interleaved<C>(
    repeats: usize,
    cases: &mut [C],
    mut measure: impl FnMut(&mut C) -> Result<f64, Error>,
) -> Result<Vec<Vec<f64>>, Error> {
    let mut results = vec![Vec::with_capacity(repeats); cases.len()];
    for repeat in 0..repeats {
        let forwards = repeat % 2 == 0;
        for step in 0..cases.len() {
            let index = if forwards { step } else { cases.len() - 1 - step };
            results[index].push(measure(&mut cases[index])?);
        }
    }
    Ok(results)
}

/// Nanoseconds that `work` takes for each of `count`.
pub fn ns_per(count: u64, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_nanos() as f64 / count.max(1) as f64
}

/// Nanoseconds for each of what `batch` does, again and again for `time`; it says how many those were.
///
/// # Errors
/// The first that `batch` gives.
pub fn ns_per_for(time: Duration, mut batch: impl FnMut() -> Result<u64, Error>) -> Result<f64, Error> {
    let (began, mut count) = (Instant::now(), 0);
    loop {
        count += batch()?;
        let elapsed = began.elapsed();
        if elapsed >= time {
            return Ok(elapsed.as_nanos() as f64 / count.max(1) as f64);
        }
    }
}

/// What `--seconds` says.
///
/// # Errors
/// [`Error::Argument`].
pub fn seconds(value: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(value).map_err(|e| Error::Argument(format!("--seconds {value}: {e}")))
}

/// Two cores as an argument: `0,1`.
///
/// # Errors
/// What is wanted instead.
pub fn two_cores(value: &str) -> Result<[usize; 2], String> {
    let cores: Option<Vec<usize>> = value.split(',').map(|core| core.parse().ok()).collect();
    cores.and_then(|cores| cores.try_into().ok()).ok_or_else(|| "two cores are wanted, such as 0,1".into())
}

/// Keeps the calling thread on `core`.
///
/// # Errors
/// [`Error::Core`] when it cannot run there.
pub fn pin(core: usize) -> Result<(), Error> {
    core_affinity::set_for_current(core_affinity::CoreId { id: core }).then_some(()).ok_or(Error::Core(core))
}

/// Prints results for programs, on one line.
///
/// # Errors
/// [`Error::Json`].
pub fn print_json(results: &impl Serialize) -> Result<(), Error> {
    println!("{}", serde_json::to_string(results)?);
    Ok(())
}

/// What every `main` here does: runs the measurement on a thread of its own, because the reactors that it starts may
/// use the cores of the main thread, which therefore is not pinned; then says whether the machine was quiet.
pub fn main_with(measure: impl FnOnce() -> Result<(), Error> + Send) -> ExitCode {
    let (began, before) = (Instant::now(), taken_off());
    let result = std::thread::scope(|scope| scope.spawn(measure).join().unwrap_or(Err(Error::Panicked)));
    if let Err(e) = result {
        eprintln!("error: {e}");
        return ExitCode::FAILURE;
    }
    let per_second = (taken_off() - before) as f64 / began.elapsed().as_secs_f64();
    let verdict = if per_second > NOISY_PER_SECOND { "WARNING: noisy" } else { "quiet" };
    eprintln!("{verdict}: threads were taken off their cores {per_second:.1} times a second");
    ExitCode::SUCCESS
}

/// How often threads of this process were taken off their cores, those that have ended included.
fn taken_off() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.involuntary_context_switches())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(format!("{:.0}", Spread::of(vec![3.0, 1.0])), "3 (1-3)");
        assert!(Spread::of(Vec::new()).median.is_nan());
    }

    #[test]
    fn cores_come_in_twos() {
        assert_eq!(two_cores("0,12"), Ok([0, 12]));
        for bad in ["", "0", "0,1,2", "0,x", "0,"] {
            assert!(two_cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_order_turns_round() {
        let mut order = String::new();
        let results = interleaved(2, &mut ['a', 'b'], |case| {
            order.push(*case);
            Ok(f64::from(order.len() as u8))
        });
        assert_eq!(order, "abba");
        assert_eq!(results.unwrap(), [[1.0, 4.0], [2.0, 3.0]]);
    }

    #[test]
    fn an_error_ends_it() {
        let fails = |_: &mut ()| Err(Error::Cipher("a test"));
        assert!(interleaved(1, &mut [()], fails).is_err());
        assert!(ns_per_for(Duration::MAX, || Err(Error::Cipher("a test"))).is_err());
        assert!(seconds(-1.0).is_err());
    }

    #[test]
    fn a_batch_counts_as_many_as_it_says() {
        let each = |count| ns_per_for(Duration::from_millis(2), move || Ok(count)).unwrap();
        assert!(each(1 << 40) < 1.0 && each(0) >= 2e6);
    }
}
