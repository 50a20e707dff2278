//! Tests of the log: what is written is read, and what is broken is refused by its line.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use proptest::prelude::*;
use spinblk_perf::{DIGITS, MAX_NS, OpKind, SizeClass, Stage};

use super::*;
use crate::Error;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("x.hlog")
    }

    fn read(&self) -> Result<Vec<Interval>, Error> {
        LogReader::open(&self.path())?.collect()
    }

    /// Writes these lines and tells how reading them fails.
    fn refusal(&self, text: &[u8]) -> String {
        fs::write(self.path(), text).unwrap();
        self.read().unwrap_err().to_string().replace(&self.path().display().to_string(), "LOG")
    }
}

fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn histogram(values: &[u64]) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
    values.iter().for_each(|value| histogram.saturating_record(*value));
    histogram
}

/// A log of one interval.
fn log() -> String {
    let dir = Dir::new();
    let mut writer = LogWriter::create(&dir.path()).unwrap();
    let tag = Tag::new("d0", 0, OpKind::Read, None, None).unwrap();
    writer.interval(&tag, time(1_700_000_000_000), Duration::from_secs(1), &histogram(&[5, 700])).unwrap();
    drop(writer);
    fs::read_to_string(dir.path()).unwrap()
}

fn any_tag() -> impl Strategy<Value = Tag> {
    let class = prop::option::of(0..SizeClass::ALL.len());
    let stage = prop::option::of(0..Stage::ALL.len());
    ("[A-Za-z0-9._-]{1,64}", any::<u16>(), 0..OpKind::ALL.len(), class, stage).prop_map(
        |(disk, queue, kind, class, stage)| {
            let class = class.map(|class| SizeClass::ALL[class]);
            Tag::new(&disk, queue, OpKind::ALL[kind], class, stage.map(|stage| Stage::ALL[stage])).unwrap()
        },
    )
}

proptest! {
    #[test]
    fn tags_are_read_as_written(tag in any_tag()) {
        prop_assert_eq!(tag.to_string().parse::<Tag>(), Ok(tag));
    }

    #[test]
    fn any_text_is_a_tag_or_refused(text in "[a-z0-9/_]{0,40}|d0/q[0-9x]{0,6}/read/(all|to_4k|x)/(total|bdev|x)(/x)?") {
        if let Ok(tag) = text.parse::<Tag>() {
            prop_assert!(tag.to_string().len() <= text.len(), "only leading zeros are lost");
        }
    }

    #[test]
    fn logs_are_read_as_written(
        intervals in prop::collection::vec(
            (any_tag(), 0..4_000_000_000_000u64, 0..100_000_000u64, prop::collection::vec(any::<u64>(), 0..50)),
            0..8,
        ),
    ) {
        let dir = Dir::new();
        let mut writer = LogWriter::create(&dir.path()).unwrap();
        let want: Vec<Interval> = intervals
            .into_iter()
            .map(|(tag, start_ms, duration_ms, values)| Interval {
                tag,
                // From 2100 on: a year before the log's start and earlier are offsets from it.
                start: time(4_100_000_000_000 + start_ms),
                duration: Duration::from_millis(duration_ms),
                histogram: histogram(&values.iter().map(|value| value >> (value % 64)).collect::<Vec<_>>()),
            })
            .collect();
        for interval in &want {
            writer.interval(&interval.tag, interval.start, interval.duration, &interval.histogram).unwrap();
        }
        writer.flush().unwrap();
        prop_assert_eq!(dir.read().unwrap(), want);
    }

    #[test]
    fn a_changed_byte_is_an_error_or_another_log(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let dir = Dir::new();
        let mut bytes = log().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        fs::write(dir.path(), bytes).unwrap();
        // It must return, and what it returns must be whole.
        if let Ok(intervals) = dir.read() {
            prop_assert!(intervals.iter().all(|interval| interval.histogram.len() == 2));
        }
    }
}

#[test]
fn the_header_says_what_it_is() {
    let log = log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "#[Histogram log format version 1.3]");
    assert!(
        lines[1].starts_with("#[Logged with spinblk ") && lines[1].ends_with("latencies in nanoseconds]")
    );
    assert!(lines[2].starts_with("#[StartTime: ") && lines[2].ends_with(" (seconds since epoch)]"));
    assert!(lines[3].starts_with("\"StartTimestamp\",\"Interval_Length\""));
    // 700 is in a bucket of two or more.
    assert!(lines[4].starts_with("Tag=d0/q0/read/all/total,1700000000.000,1.000,70"), "{}", lines[4]);
    assert!(lines[4].contains(",HISTFAAAA"), "version 2 with compression begins like this: {}", lines[4]);
}

#[test]
fn names_that_would_break_a_line_make_no_tag() {
    for name in ["", "a b", "a,b", "a/b", "a\nb", "ä"] {
        assert_eq!(Tag::new(name, 0, OpKind::Read, None, None), None, "{name:?}");
    }
}

#[test]
fn a_log_that_is_cut_short_is_refused() {
    let (dir, log) = (Dir::new(), log());
    let cut = "LOG:5: the line is cut short; remove it to read what stands before";
    assert_eq!(dir.refusal(&log.as_bytes()[..log.len() - 1]), cut);
    assert_eq!(dir.refusal(&log.as_bytes()[..log.len() - 30]), cut);
    // Cut within the histogram, but with a line's end: base64 of whole groups.
    let end = log.rfind(',').unwrap() + 1;
    let part = format!("{}\n", &log[..end + 40]);
    assert_eq!(dir.refusal(part.as_bytes()), "LOG:5: its histogram is cut short or too long");
}

#[test]
fn what_is_no_log_of_ours_is_refused() {
    let (dir, log) = (Dir::new(), log());
    let last = log.lines().last().unwrap();
    let untagged = last.split_once(',').unwrap().1;
    let cases = [
        ("hello\n".to_string(), "LOG:1: no line of an HdrHistogram interval log"),
        (format!("#a\n\n{last}\n"), "LOG:2: no line of an HdrHistogram interval log"),
        (format!("{last}\n{untagged}\n"), "LOG:2: the interval has no tag"),
        (last.replace("d0/q0", "GET /") + "\n", "LOG:1: tag GET //read/all/total: expected DISK/qQUEUE/OP/"),
        (last.replace("q0", "q+1") + "\n", "LOG:1: tag d0/q+1/read/all/total: expected "),
        (last.replace("HISTF", "HISTE") + "\n", "LOG:1: its histogram is not of version 2"),
        (last.replace("HISTF", "HI*TF") + "\n", "LOG:1: its histogram is no base64"),
        ("Tag=d0/q0/read/all/total,18446744073709551615.0,1.0,1.0,x\n".into(), "LOG:1: its time is beyond"),
    ];
    for (text, want) in cases {
        let message = dir.refusal(text.as_bytes());
        assert!(message.starts_with(want), "{message}\n{want}");
    }
}

#[test]
fn a_length_that_is_not_there_is_not_believed() {
    use base64::Engine;
    use std::io::Write;
    // Version 2 that claims 4 GiB of counts.
    let mut plain = vec![0x1c, 0x84, 0x93, 0x13, 0xff, 0xff, 0xff, 0xff];
    plain.resize(40, 0);
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&plain).unwrap();
    let deflated = zlib.finish().unwrap();
    let mut packed = vec![0x1c, 0x84, 0x93, 0x14];
    packed.extend(u32::try_from(deflated.len()).unwrap().to_be_bytes());
    packed.extend(deflated);
    let text = base64::engine::general_purpose::STANDARD.encode(packed);
    assert_eq!(decode::decode(&text).unwrap_err(), "its histogram is cut short or too long");
}

#[test]
fn times_may_count_from_the_header() {
    let (dir, log) = (Dir::new(), log());
    let last = log.lines().last().unwrap().replace("1700000000.000,1.000", "2.500,1.000");
    let cases = [
        ("", 2_500),
        ("#[StartTime: 1700000000.0 (seconds)]\n", 1_700_000_002_500),
        ("#[StartTime: 1.0 (seconds)]\n", 2_500),
        ("#[StartTime: 1.0 (seconds)]\n#[BaseTime: 1600000000.0 (seconds)]\n", 1_600_000_002_500),
    ];
    for (header, want) in cases {
        fs::write(dir.path(), format!("{header}{last}\n")).unwrap();
        assert_eq!(dir.read().unwrap()[0].start, time(want), "{header}");
    }
}

#[test]
fn files_that_are_not_there_are_named() {
    let missing = PathBuf::from("/nowhere/x.hlog");
    assert!(matches!(LogWriter::create(&missing), Err(Error::Report { .. })));
    let message = LogReader::open(&missing).unwrap_err().to_string();
    assert!(message.starts_with("cannot read /nowhere/x.hlog: "), "{message}");
}
