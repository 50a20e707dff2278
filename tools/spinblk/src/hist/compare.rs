//! `hist compare`: two sources side by side, and which differences are more than chance.
//!
//! A percentile's true value lies within a range around the measured one (`stats::quantile_range`: the sampling noise at a
//! certainty of 99 %, and the width of the buckets). A difference counts when the ranges of A and B do not meet:
//!
//! ```text
//!   A  ├──────┤                     A  ├──────┤
//!   B           ├───┤  slower       B      ├───┤  may be chance
//! ```
//! This takes samples to be independent, which those of one run are only in part: repeat a run before trusting a small step.

use std::fmt::{self, Write};
use std::ops::RangeInclusive;

use spinblk_perf::Stage;

use super::recording::{Op, Recording};
use super::show::{new_table, write_table};
use super::stages::{StageShare, shares};
use super::stats::{QUANTILES, mean_range, quantile_range};
use crate::report::show_ns;

/// What a difference is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Within the buckets' width and the noise.
    Same,
    /// B takes longer.
    Slower,
    /// B takes less time.
    Faster,
    /// Too few samples reach so far.
    TooFew,
}

impl Judgement {
    /// From where the two true values lie.
    pub(super) fn of(a: &RangeInclusive<u64>, b: &RangeInclusive<u64>) -> Self {
        if a.end() < b.start() {
            Self::Slower
        } else if b.end() < a.start() {
            Self::Faster
        } else if *a.end() == u64::MAX || *b.end() == u64::MAX {
            Self::TooFew
        } else {
            Self::Same
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::TooFew => "too few samples",
        }
    }

    fn matters(self) -> bool {
        matches!(self, Self::Slower | Self::Faster)
    }
}

/// Both as text.
pub(super) fn text(a: &Recording, b: &Recording) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let same = |one: &Op, other: &Op| one.disk == other.disk && one.kind == other.kind;
    for op in &a.ops {
        match b.ops.iter().find(|other| same(op, other)) {
            Some(other) => write_op(&mut text, op, other)?,
            None => writeln!(text, "{}: only in A\n", op.name())?,
        }
    }
    for op in b.ops.iter().filter(|op| !a.ops.iter().any(|other| same(op, other))) {
        writeln!(text, "{}: only in B\n", op.name())?;
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(text)
}

fn write_op(text: &mut String, a: &Op, b: &Op) -> fmt::Result {
    writeln!(text, "{}: {} requests in A, {} in B", a.name(), a.total.len(), b.total.len())?;
    let mut table = new_table(["", "A", "B", "B/A", ""]);
    let mut row = |name: &str, a_ns: u64, b_ns: u64, worth: &str| {
        let ratio = b_ns as f64 / a_ns.max(1) as f64;
        table.add_row([name.into(), show_ns(a_ns), show_ns(b_ns), format!("{ratio:.3}"), worth.into()]);
    };
    let mean = Judgement::of(&mean_range(&a.total), &mean_range(&b.total));
    row("mean", a.total.mean() as u64, b.total.mean() as u64, mean.name());
    let mut p99 = Judgement::Same;
    for (name, quantile) in QUANTILES {
        let judgement =
            Judgement::of(&quantile_range(&a.total, quantile), &quantile_range(&b.total, quantile));
        row(name, a.total.value_at_quantile(quantile), b.total.value_at_quantile(quantile), judgement.name());
        if name == "p99" {
            p99 = judgement;
        }
    }
    // One sample each: nothing to judge by.
    row("max", a.total.max(), b.total.max(), "");
    write_table(text, table)?;
    if let (Some(a), Some(b)) = (shares(a), shares(b)) {
        write_stages(text, &a, &b)?;
        writeln!(text, "mean: {}", moved(mean, &a, &b, |share| share.mean_ns))?;
        writeln!(text, "p99: {}", moved(p99, &a, &b, |share| share.tail_ns))?;
    }
    writeln!(text)
}

fn write_stages(text: &mut String, a: &[StageShare; 5], b: &[StageShare; 5]) -> fmt::Result {
    let mut table =
        new_table(["stage", "mean A", "mean B", "B - A", "slowest 1 % A", "slowest 1 % B", "B - A"]);
    for (index, stage) in Stage::ALL.into_iter().enumerate() {
        let (a, b) = (&a[index], &b[index]);
        table.add_row([
            stage.name().to_string(),
            show_ns(a.mean_ns.round() as u64),
            show_ns(b.mean_ns.round() as u64),
            show_change(b.mean_ns - a.mean_ns),
            show_ns(a.tail_ns.round() as u64),
            show_ns(b.tail_ns.round() as u64),
            show_change(b.tail_ns - a.tail_ns),
        ]);
    }
    write_table(text, table)
}

/// Which stage a difference comes from.
fn moved(
    judgement: Judgement,
    a: &[StageShare; 5],
    b: &[StageShare; 5],
    ns: fn(&StageShare) -> f64,
) -> String {
    if !judgement.matters() {
        return "no difference that matters".into();
    }
    let sign = if judgement == Judgement::Slower { 1.0 } else { -1.0 };
    let changes = a.iter().zip(b).map(|(a, b)| (ns(b) - ns(a), a.stage));
    match changes.max_by(|(x, _), (y, _)| (sign * x).total_cmp(&(sign * y))) {
        Some((change, stage)) if sign * change > 0.0 => {
            format!("{}, most in {stage} ({})", judgement.name(), show_change(change))
        }
        _ => format!("{}, in no stage alone", judgement.name()),
    }
}

fn show_change(ns: f64) -> String {
    let size = ns.abs().round() as u64;
    let sign = match ns {
        _ if size == 0 => "",
        ns if ns < 0.0 => "-",
        _ => "+",
    };
    format!("{sign}{}", show_ns(size))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    #[test]
    fn only_ranges_that_do_not_meet_differ() {
        assert_eq!(Judgement::of(&(1..=5), &(6..=9)), Judgement::Slower);
        assert_eq!(Judgement::of(&(6..=9), &(1..=5)), Judgement::Faster);
        assert_eq!(Judgement::of(&(1..=6), &(6..=9)), Judgement::Same);
        assert_eq!(Judgement::of(&(1..=u64::MAX), &(6..=9)), Judgement::TooFew);
        assert_eq!(Judgement::of(&(10..=u64::MAX), &(6..=9)), Judgement::Faster, "at least 10 is enough");
    }

    #[test]
    fn chance_is_no_difference_and_two_percent_is_one() {
        let mut state = 1u64;
        // Latencies with a long tail: the sum of an even and of an exponential part.
        let mut sample = |factor: f64| {
            let mut histogram = Histogram::<u64>::new(3).unwrap();
            for _ in 0..100_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let even = ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
                histogram.record((factor * (20_000.0 - 5_000.0 * even.ln())) as u64).unwrap();
            }
            histogram
        };
        let (a, same, slower) = (sample(1.0), sample(1.0), sample(1.02));
        let judge = |b: &Histogram<u64>| {
            let quantiles = [0.5, 0.9, 0.99];
            quantiles
                .map(|quantile| Judgement::of(&quantile_range(&a, quantile), &quantile_range(b, quantile)))
        };
        assert_eq!(judge(&same), [Judgement::Same; 3]);
        assert_eq!(judge(&slower)[0], Judgement::Slower);
        assert_eq!(Judgement::of(&mean_range(&a), &mean_range(&same)), Judgement::Same);
        assert_eq!(Judgement::of(&mean_range(&a), &mean_range(&slower)), Judgement::Slower);
    }

    #[test]
    fn changes_have_signs() {
        assert_eq!([0.2, -0.2, 1500.0, -7.0].map(show_change), ["0 ns", "0 ns", "+1.50 µs", "-7 ns"]);
    }
}
