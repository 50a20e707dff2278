//! One measurement: what was measured, what came out, what disturbed it.

use super::noise::Noise;
use super::servers::Target;
use serde_json::{Value, json};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) target: Target,
    pub(super) load: Load,
    pub(super) depth: u16,
}

/// Blocks of 4 KiB, anywhere on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Randread,
    Randwrite,
}

impl Load {
    pub(super) fn name(self) -> &'static str {
        match self {
            Load::Randread => "randread",
            Load::Randwrite => "randwrite",
        }
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) case: Case,
    pub(super) repeat: u32,
    pub(super) iops: f64,
    /// Of the bare ring only the median of short stretches' round trips is known, which stands in all three.
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    pub(super) p999_ns: f64,
    /// The round trip between the cores, just before.
    pub(super) round_trip_ns: f64,
    pub(super) noise: Noise,
}

/// Round trips that differ by more than this factor: the cores have moved.
const MOVED: f64 = 1.3;

impl Measured {
    /// Whether the cores were as far apart as they were for the other.
    pub(super) fn is_comparable_to(&self, other: &Measured) -> bool {
        let ratio = self.round_trip_ns / other.round_trip_ns;
        (1.0 / MOVED..=MOVED).contains(&ratio)
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "target": self.case.target.name(),
            "load": self.case.load.name(),
            "depth": self.case.depth,
            "repeat": self.repeat,
            "iops": self.iops,
            "p50_ns": self.p50_ns,
            "p99_ns": self.p99_ns,
            "p999_ns": self.p999_ns,
            "round_trip_ns": self.round_trip_ns,
            "noise": self.noise.to_json(),
        })
    }
}

/// Those of one case, in the order of the repeats.
pub(super) fn of_case(all: &[Measured], case: Case) -> impl Iterator<Item = &Measured> {
    all.iter().filter(move |measured| measured.case == case)
}
