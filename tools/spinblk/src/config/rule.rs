//! Which I/Os a delay or error bdev strikes, and how long a delay holds them.

use std::time::Duration;

use super::Backend;
use super::leaf::size_bytes;
use super::setting::{Section, Value};
use super::size::{SIZE_FORMS, show_size};
use crate::Error;
use crate::backend::{Ops, Rule};

pub(super) const MILLION: u32 = 1_000_000;
/// A longer one is a typing mistake.
const MAX_LATENCY: Duration = Duration::from_secs(60);
/// The names of operations, in the order in which they are shown.
const OPS: [(&str, Ops); 5] = [
    ("read", Ops::READ),
    ("write", Ops::WRITE),
    ("flush", Ops::FLUSH),
    ("discard", Ops::DISCARD),
    ("write-zeroes", Ops::WRITE_ZEROES),
];

/// Reads `ops`, `rate`, `offset`, `length` and `seed`.
pub(super) fn rule(section: &Section, child: &Backend) -> Result<Rule, Error> {
    let all = Rule::default();
    let names = OPS.map(|(name, _)| name).join(", ");
    let ops = section.read("ops", &format!("a list of {names}, at least one"), ops)?;
    let per_million = section.read("rate", "0, or 0.000001 to 1", |value| {
        let rate = value.number()?;
        let per_million = (rate * f64::from(MILLION)).round();
        // Rounded to nothing, it would never strike, and nobody would know why.
        ((0.0..=1.0).contains(&rate) && (rate == 0.0 || per_million > 0.0)).then_some(per_million as u32)
    })?;
    let offset = section.read("offset", SIZE_FORMS, size_bytes)?.unwrap_or(0);
    let length = section.read("length", &format!("at least one byte; {SIZE_FORMS}"), |value| {
        size_bytes(value).filter(|bytes| *bytes > 0)
    })?;
    if let Some(size_bytes) = child.known_size_bytes().filter(|size_bytes| offset >= *size_bytes) {
        let why =
            format!("beyond the end of {}, which has {}; make it less", child.name, show_size(size_bytes));
        return Err(section.refuse_key("offset", &why));
    }
    let seed = section
        .read("seed", "a whole number from 0 to 2^63 - 1", |value| u64::try_from(value.integer()?).ok())?;
    Ok(Rule {
        ops: ops.unwrap_or(all.ops),
        range_bytes: offset..length.map_or(u64::MAX, |length| offset.saturating_add(length)),
        per_million: per_million.unwrap_or(all.per_million),
        seed: seed.unwrap_or(all.seed),
    })
}

/// Reads `latency`.
pub(super) fn latency(section: &Section) -> Result<Duration, Error> {
    let latency = section.read("latency", "a whole number with us, ms or s, from 1us to 60s", |value| {
        duration(value.text()?).filter(|time| (Duration::from_micros(1)..=MAX_LATENCY).contains(time))
    })?;
    latency.ok_or_else(|| section.missing("latency", "for example \"2ms\""))
}

fn ops(value: &Value) -> Option<Ops> {
    let named = |word: String| OPS.iter().find(|(name, _)| *name == word).map(|(_, op)| *op);
    let sets: Option<Vec<Ops>> = value.texts()?.into_iter().map(named).collect();
    sets.filter(|sets| !sets.is_empty()).map(|sets| sets.into_iter().fold(Ops::NONE, Ops::and))
}

/// What `parse_interval` takes, for people.
pub(crate) const INTERVAL_FORMS: &str = "a whole number with ms or s, from 50ms to a day";

/// How often something is to be done, or for how long.
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_millis(50)..=Duration::from_secs(24 * 3600);
    let interval = duration(text).filter(|interval| allowed.contains(interval));
    interval.ok_or_else(|| format!("allowed: {INTERVAL_FORMS}"))
}

/// Reads a time: a whole number and a unit.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit.trim_start() {
        "us" | "µs" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

/// The names of the operations in a set.
pub(crate) fn op_names(ops: Ops) -> Vec<&'static str> {
    OPS.iter().filter(|(_, op)| ops.and(*op) == ops).map(|(name, _)| *name).collect()
}

/// A time for people, in the largest unit that leaves it whole: `2 ms`, `1500 us`.
pub(crate) fn show_latency(latency: Duration) -> String {
    let us = latency.as_micros();
    match us {
        _ if us.is_multiple_of(1_000_000) => format!("{} s", us / 1_000_000),
        _ if us.is_multiple_of(1000) => format!("{} ms", us / 1000),
        _ => format!("{us} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_all_forms_and_back() {
        for (text, us, shown) in [
            ("1us", 1, "1 us"),
            ("250 us", 250, "250 us"),
            ("1500µs", 1500, "1500 us"),
            ("2ms", 2000, "2 ms"),
            ("3s", 3_000_000, "3 s"),
        ] {
            let time = duration(text).unwrap();
            assert_eq!((time, show_latency(time).as_str()), (Duration::from_micros(us), shown), "{text}");
        }
        for text in ["", "2", "ms", "2m", "2.5ms", "-1s", "1h", "99999999999999999999s", "٣ms"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sets_of_operations_are_named_in_order() {
        assert_eq!(op_names(Ops::FLUSH.and(Ops::READ)), ["read", "flush"]);
        assert_eq!(op_names(Ops::ALL).len(), OPS.len());
    }
}
