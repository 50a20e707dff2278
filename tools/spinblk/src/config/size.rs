//! Sizes as people write them (`256MiB`, `4K`, `1G`), and back.

/// What a size may look like, for messages.
pub(crate) const SIZE_FORMS: &str = "bytes or a number with KiB, MiB, GiB, TiB (also k, M, G, T)";

/// Reads a size: a whole number and a unit as `truncate` takes it. `K`, `k` and `KiB` are 1024; `KB` is 1000.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    number.checked_mul(unit_bytes(unit.trim_start())?)
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let mut letters = unit.chars();
    let power = match letters.next().map(|c| c.to_ascii_lowercase()) {
        None => return Some(1),
        Some('b') if unit.len() == 1 => return Some(1),
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return None,
    };
    match letters.as_str() {
        "" | "iB" | "ib" => Some(1 << (10 * power)),
        "B" => Some(1000u64.pow(power)),
        _ => None,
    }
}

/// Bytes for people: `256 MiB`, `1.5 GiB`, `100 B`. Exact up to one digit.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit_index = 0;
    while unit_index + 1 < UNITS.len() && bytes >> (10 * (unit_index + 1)) > 0 {
        unit_index += 1;
    }
    let value = bytes as f64 / (1u64 << (10 * unit_index)) as f64;
    let digits = usize::from(value.fract() > 0.0);
    format!("{value:.digits$} {}", UNITS[unit_index])
}

/// Bytes in the largest unit that leaves them whole, as [`parse_size`] reads them: `64KiB`, `1000`.
pub(crate) fn exact_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["", "KiB", "MiB", "GiB", "TiB"];
    let power = if bytes == 0 { 0 } else { (bytes.trailing_zeros() as usize / 10).min(UNITS.len() - 1) };
    format!("{}{}", bytes >> (10 * power), UNITS[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_all_forms() {
        let good = [
            ("0", 0),
            ("512", 512),
            ("512 B", 512),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("4 KiB", 4096),
            ("4KB", 4000),
            ("256MiB", 256 << 20),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
            ("1MB", 1_000_000),
        ];
        for (text, want) in good {
            assert_eq!(parse_size(text), Some(want), "{text}");
        }
        for text in ["", "K", "-1", "1.5G", "1X", "1KiBs", "99999999999TiB", "1 2", "0x10", "1µB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn exact_sizes_are_read_again() {
        for (bytes, text) in
            [(0, "0"), (1000, "1000"), (64 << 10, "64KiB"), (3 << 29, "1536MiB"), (1 << 63, "8388608TiB")]
        {
            assert_eq!((exact_size(bytes).as_str(), parse_size(text)), (text, Some(bytes)));
        }
        assert_eq!(parse_size(&exact_size(u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn sizes_for_people() {
        let cases = [
            (0, "0 B"),
            (100, "100 B"),
            (512 << 10, "512 KiB"),
            (256 << 20, "256 MiB"),
            (3 << 29, "1.5 GiB"),
            ((3 << 29) + 1, "1.5 GiB"),
        ];
        for (bytes, want) in cases {
            assert_eq!(show_size(bytes), want);
        }
    }
}
