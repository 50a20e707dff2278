//! What repeats of a measurement came to.

use serde::Serialize;

/// A median, and how far the repeats were apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (below, above) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        Spread {
            median: f64::midpoint(at(below), at(above)),
            min: at(0),
            max: at(sorted.len().saturating_sub(1)),
        }
    }

    /// `median (min-max)`.
    pub(crate) fn text(self, decimals: usize) -> String {
        let Spread { median, min, max } = self;
        format!("{median:.decimals$} ({min:.decimals$}-{max:.decimals$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 9.0].into_iter()), Spread { median: 3.0, min: 1.0, max: 9.0 });
        assert_eq!(Spread::of([1.0, 2.0, 4.0, 8.0].into_iter()).median, 3.0);
        assert!(Spread::of(std::iter::empty()).median.is_nan());
        assert_eq!(Spread::of([1.0].into_iter()).text(1), "1.0 (1.0-1.0)");
    }
}
