//! Which part of the data plane an instruction belongs to.
//!
//! The hot path is inlined into a few functions, so the function that an instruction lies in says little. The debug
//! information knows which functions it was inlined from, the innermost first; the first of them that is ours counts, so
//! what comes from the standard library goes to whoever uses it.

use crate::error::Result;
use crate::process::{command, output};
use crate::programs::find;
use std::collections::BTreeMap;
use std::path::Path;

const LIMIT_S: u64 = 120;

/// A part: functions whose path begins so and holds this. The first that fits counts.
const RULES: [(&str, &str, &str); 18] = [
    ("spinblk_virtio::in_flight::", "", LOG),
    ("spinblk_virtio::logged::", "", LOG),
    ("spinblk_virtio::split::", "used", USED_RING),
    ("spinblk_virtio::split::", "publish", USED_RING),
    ("spinblk_virtio::packed::", "used", USED_RING),
    ("spinblk_virtio::packed::", "publish", USED_RING),
    ("spinblk_virtio::virtqueue::", "used", USED_RING),
    ("spinblk_virtio::virtqueue::", "publish", USED_RING),
    ("spinblk_virtio::blk::queue::", "account", ACCOUNTING),
    ("spinblk_virtio::blk::request::", "", "request"),
    ("spinblk_virtio::blk::", "", "queue"),
    ("spinblk_virtio::chain::", "", TRANSLATION),
    ("spinblk_virtio::memory::", "", TRANSLATION),
    ("spinblk_virtio::", "", "ring walk"),
    ("spinblk_bdev::", "", "bdev"),
    ("spinblk_perf::", "", ACCOUNTING),
    ("hdrhistogram::", "", ACCOUNTING),
    ("spinblk_", "", "reactor"),
];
const LOG: &str = "in-flight log";
const USED_RING: &str = "used ring";
const ACCOUNTING: &str = "accounting";
const TRANSLATION: &str = "translation";
/// What no rule fits, and libraries.
pub(super) const OTHER: &str = "other";
/// All parts, in the order of a request's road.
pub(super) const PARTS: [&str; 10] =
    ["ring walk", TRANSLATION, "request", "queue", "bdev", USED_RING, LOG, ACCOUNTING, "reactor", OTHER];

/// The part and the function of each address of a program.
pub(super) fn attribute(
    program: &Path,
    addresses: impl Iterator<Item = u64>,
) -> Result<BTreeMap<u64, (&'static str, String)>> {
    let addr2line = find("addr2line")?;
    let mut line =
        command(&addr2line.to_string_lossy(), ["--functions", "--inlines", "--demangle", "--addresses"]);
    line.arg("--exe").arg(program).args(addresses.map(|address| format!("{address:#x}")));
    Ok(parse(&output(line, LIMIT_S)?))
}

/// A line with the address, then two for each function: its name, and its place in the source.
fn parse(text: &str) -> BTreeMap<u64, (&'static str, String)> {
    let mut found: BTreeMap<u64, (&'static str, String)> = BTreeMap::new();
    let (mut address, mut is_name) = (0, true);
    for line in text.lines() {
        if let Some(next) = line.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            (address, is_name) = (next, true);
            found.insert(address, (OTHER, String::new()));
        } else {
            if is_name
                && let Some(part) = part_of(line)
                && let Some(entry) = found.get_mut(&address).filter(|(_, name)| name.is_empty())
            {
                *entry = (part, line.to_owned());
            }
            is_name = !is_name;
        }
    }
    found
}

fn part_of(function: &str) -> Option<&'static str> {
    // `<spinblk_bdev::Op as core::cmp::PartialEq>::eq` is of the bdev.
    let path = function.trim_start_matches('<');
    let fits = |(begins, holds, _): &&(&str, &str, &'static str)| {
        path.strip_prefix(begins).is_some_and(|rest| rest.contains(holds))
    };
    RULES.iter().find(fits).map(|(.., part)| *part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_of_ours_counts() {
        let text = "0x0000000000000010\ncore::ptr::read\n/core/ptr.rs:5\nspinblk_virtio::split::SplitQueue::push_used\n\
            /a.rs:7\nspinblk_virtio::blk::queue::BlkQueue::take\n/b.rs:9\n0x0000000000000020\nmemcpy\n??:0\n";
        let found = parse(text);
        assert_eq!(found[&0x10], (USED_RING, "spinblk_virtio::split::SplitQueue::push_used".to_owned()));
        assert_eq!(found[&0x20], (OTHER, String::new()));
    }

    #[test]
    fn every_part_is_shown() {
        assert!(RULES.iter().all(|(.., part)| PARTS.contains(part)));
        assert_eq!(part_of("<spinblk_bdev::io::Op as core::cmp::PartialEq>::eq"), Some("bdev"));
        assert_eq!(
            part_of("<spinblk_virtio::blk::queue::BlkQueue as spinblk_reactor::Poller>::poll"),
            Some("queue")
        );
        assert_eq!(part_of("spinblk_virtio::descriptor::Table::read"), Some("ring walk"));
        assert_eq!(part_of("core::num::wrapping_add"), None);
    }
}
