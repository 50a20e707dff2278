//! The flags of `spinblk perf`, and the job that they describe.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use spinblk_load::{Access, Completions, Job, RingFormat};

use crate::Error;
use crate::config::{self, INLINE_KINDS, SIZE_FORMS, Stack, parse_size};
use crate::cores::allowed_cores;

pub(crate) const PERF_HELP: &str = "\
Puts a target under load from polling threads, one on each core of --cores, and prints its speed and latencies.

The target is a disk in this process (null, malloc, aio, as `serve --disk` makes them, or a [[bdev]] of a TOML file with \
all that it stands on), the socket of any vhost-user-blk server, or the node of any disk on the vhost-vdpa bus driver \
(`serve --disk ...,driver=vhost-vdpa`). Latency runs from before a request is written into the ring to the poll that \
finds it completed; requests that are still in flight when the time is up are not counted. A thread with --completions \
interrupt sleeps whenever it has nothing to do, and its latencies include waking up. Exit status: 1 when a request failed \
or --verify found wrong contents.

A verified run stamps every block with its offset, a generation and a checksum: reads come after a pass of writes, and \
after writes all of them are read back. It overwrites the target.";

pub(crate) const PERF_EXAMPLES: &str = "\
Examples:
  spinblk perf --target vhost-user:/run/d0.sock --qd 32 --cores 1
  spinblk perf --target malloc:size=1GiB --rw randrw --mix 70 --queues 2 --cores 1,2 --json result.json
  spinblk perf --target aio:path=/srv/disk.img,read-only=true --bs 128KiB --rw read --time-s 30
  spinblk perf --target config:file=spinblk.toml,bdev=c0 --rw randwrite --qd 8
  spinblk perf --target malloc:size=1GiB --hist-log result.hlog && spinblk hist show result.hlog
  spinblk perf --target vhost-user:/run/d0.sock --ring packed --indirect --qd 256
  spinblk perf --target vhost-user:/run/d0.sock --completions interrupt --qd 1
  spinblk perf --target vhost-vdpa:/dev/vhost-vdpa-0 --qd 32 --cores 1
  spinblk perf --target vhost-user:/run/d0.sock --rw randwrite --span 256MiB --verify";

const TARGET_FORMS: &str = "vhost-user:SOCKET, vhost-vdpa:DEVICE, null:size=1GiB, malloc:size=1GiB, aio:path=FILE, \
config:file=FILE,bdev=NAME";

/// Flags of `perf`.
#[derive(Clone, Debug, Args)]
pub struct PerfArgs {
    /// What to load: vhost-user:SOCKET; vhost-vdpa:DEVICE; null:size=1GiB, malloc:size=1GiB, aio:path=FILE, keys as for
    /// `serve --disk`; config:file=FILE,bdev=NAME
    #[arg(long, value_name = "TARGET")]
    pub target: String,
    /// The order of offsets and the kind of requests
    #[arg(long, value_name = "PATTERN", default_value = "randread")]
    pub rw: Pattern,
    /// Reads among a hundred requests, for randrw [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub mix: Option<u8>,
    /// Size of each request
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    pub bs: String,
    /// Requests in flight on each queue
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub qd: u32,
    /// Queues, each with a part of the target to itself [default: one for each core]
    #[arg(long, value_name = "N")]
    pub queues: Option<u16>,
    /// Cores that poll, such as 1,2; queues are dealt over them [default: the last one]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,
    /// How long to measure, in seconds
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub time_s: f64,
    /// Load before measuring, in seconds
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub warmup_s: f64,
    /// Use only so much of the target, from its beginning [default: all]
    #[arg(long, value_name = "SIZE")]
    pub span: Option<String>,
    /// Where random numbers come from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Stamp what is written and check what is read. Overwrites the target
    #[arg(long)]
    pub verify: bool,
    /// How completions are found [default: poll]
    #[arg(long, value_name = "HOW")]
    pub completions: Option<CompletionsArg>,
    /// The format of a vhost-user or vhost-vdpa target's rings [default: split]
    #[arg(long, value_name = "FORMAT")]
    pub ring: Option<RingArg>,
    /// Use indirect descriptors: a request takes one ring entry, not three (packed) or four (split)
    #[arg(long)]
    pub indirect: bool,
    /// Do not use EVENT_IDX even if the target offers it
    #[arg(long)]
    pub no_event_idx: bool,
    /// Write the results as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write latencies as an HdrHistogram log to this file, too, for `spinblk hist`: one interval a second, by
    /// queue and operation
    #[arg(long, value_name = "FILE")]
    pub hist_log: Option<PathBuf>,
    /// Show a live line on a terminal
    #[arg(long)]
    pub progress: bool,
}

/// What requests do and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Reads anywhere
    Randread,
    /// Writes anywhere
    Randwrite,
    /// Reads and writes anywhere, see --mix
    Randrw,
    /// Reads in sequence
    Read,
    /// Writes in sequence
    Write,
}

/// How completions are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletionsArg {
    /// By looking all the time
    Poll,
    /// By sleeping until the target interrupts; for vhost-user and vhost-vdpa targets
    Interrupt,
}

/// The formats of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RingArg {
    /// Descriptors, avail ring, used ring
    Split,
    /// One ring of descriptors that both sides write
    Packed,
}

/// A checked target.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TargetArg {
    /// A bdev in this process.
    Bdev(Stack),
    /// A server's socket.
    VhostUser(PathBuf),
    /// A character device.
    VhostVdpa(PathBuf),
}

impl Pattern {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Randread => "randread",
            Self::Randwrite => "randwrite",
            Self::Randrw => "randrw",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl PerfArgs {
    /// The job and the target, checked as far as they can be without touching the machine.
    pub(super) fn to_job(&self) -> Result<(Job, TargetArg), Error> {
        let target = self.to_target()?;
        let cores = match &self.cores {
            Some(list) => config::core_list(list)?,
            None => allowed_cores().into_iter().next_back().into_iter().collect(),
        };
        if self.mix.is_some() && self.rw != Pattern::Randrw {
            return Err(Error::Usage(format!("--mix: only for --rw randrw, not for {}", self.rw.name())));
        }
        let (access, read_percent) = match self.rw {
            Pattern::Randread => (Access::Random, 100),
            Pattern::Randwrite => (Access::Random, 0),
            Pattern::Randrw => (Access::Random, self.mix.unwrap_or(50)),
            Pattern::Read => (Access::Sequential, 100),
            Pattern::Write => (Access::Sequential, 0),
        };
        let block_bytes = u32::try_from(size("--bs", &self.bs)?).unwrap_or(u32::MAX);
        let job = Job {
            access,
            read_percent,
            block_bytes,
            depth: self.qd,
            queues: self.queues.unwrap_or_else(|| u16::try_from(cores.len()).unwrap_or(u16::MAX)),
            cores,
            completions: match self.completions {
                None | Some(CompletionsArg::Poll) => Completions::Poll,
                Some(CompletionsArg::Interrupt) => Completions::Interrupt,
            },
            warmup: seconds("--warmup-s", self.warmup_s)?,
            time: seconds("--time-s", self.time_s)?,
            interval: None,
            span_bytes: self.span.as_deref().map(|text| size("--span", text)).transpose()?,
            verify: self.verify,
            seed: self.seed,
        };
        Ok((job, target))
    }

    /// The format of the target's rings; `None` when it has none.
    pub(super) fn format(&self, target: &TargetArg) -> Option<RingFormat> {
        match (target, self.ring) {
            (TargetArg::Bdev(_), _) => None,
            (_, None | Some(RingArg::Split)) => Some(RingFormat::Split),
            (_, Some(RingArg::Packed)) => Some(RingFormat::Packed),
        }
    }

    fn to_target(&self) -> Result<TargetArg, Error> {
        let (kind, rest) = self.target.split_once(':').unwrap_or((&self.target, ""));
        match kind {
            "vhost-user" if !rest.is_empty() => Ok(TargetArg::VhostUser(rest.into())),
            "vhost-vdpa" if !rest.is_empty() => Ok(TargetArg::VhostVdpa(rest.into())),
            _ if kind != "config" && !INLINE_KINDS.contains(&kind) => {
                Err(Error::Usage(format!("--target {}: allowed: {TARGET_FORMS}", self.target)))
            }
            _ if self.ring.is_some() || self.indirect => {
                let flag = if self.indirect { "--indirect" } else { "--ring" };
                Err(Error::Usage(format!(
                    "{flag}: only for vhost-user and vhost-vdpa targets; a {kind} disk has no ring"
                )))
            }
            "config" => config::config_target(rest).map(TargetArg::Bdev),
            _ => config::target(kind, rest).map(TargetArg::Bdev),
        }
    }
}

fn size(flag: &str, text: &str) -> Result<u64, Error> {
    parse_size(text).ok_or_else(|| Error::Usage(format!("{flag} {text}: allowed: {SIZE_FORMS}")))
}

fn seconds(flag: &str, value: f64) -> Result<Duration, Error> {
    // A year is a typing mistake.
    let fits = (0.0..=31_536_000.0).contains(&value);
    let time = fits.then(|| Duration::try_from_secs_f64(value).ok()).flatten();
    time.ok_or_else(|| {
        Error::Usage(format!("{flag} {value}: allowed: seconds from 0 to a year, such as 2.5"))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::BackendKind;

    fn parse(flags: &str) -> PerfArgs {
        let words = ["spinblk", "perf"].into_iter().chain(flags.split_whitespace());
        let Command::Perf(args) = Cli::try_parse_from(words).unwrap().command else { panic!("no perf") };
        args
    }

    fn job(flags: &str) -> Result<(Job, TargetArg), Error> {
        parse(flags).to_job()
    }

    #[test]
    fn flags_become_a_job() {
        let (job, target) = job(
            "--target null:size=1GiB,block-size=4096 --rw randrw --mix 70 --bs 8k --qd 4 --queues 3 --cores 1-2 --time-s 0.5",
        )
        .unwrap();
        assert_eq!((job.read_percent, job.block_bytes, job.depth, job.queues), (70, 8192, 4, 3));
        assert_eq!((job.cores, job.time), (vec![1, 2], Duration::from_millis(500)));
        let TargetArg::Bdev(stack) = target else { panic!("{target:?}") };
        assert!(matches!(
            stack.top.kind,
            BackendKind::Null { size_bytes: 0x4000_0000, block_size: 4096, .. }
        ));
    }

    #[test]
    fn what_is_not_said_has_a_sensible_value() {
        let (job, target) = job("--target vhost-user:/run/x.sock").unwrap();
        assert_eq!((job.read_percent, job.block_bytes, job.depth, job.queues), (100, 4096, 32, 1));
        assert_eq!((job.access, job.cores.len()), (Access::Random, 1));
        assert_eq!(
            (job.completions, target),
            (Completions::Poll, TargetArg::VhostUser("/run/x.sock".into()))
        );
    }

    #[test]
    fn rings_are_those_of_targets_that_have_any() {
        for (flags, want) in [
            ("--target vhost-vdpa:/dev/vhost-vdpa-0", Some(RingFormat::Split)),
            ("--target vhost-vdpa:/dev/vhost-vdpa-0 --ring packed", Some(RingFormat::Packed)),
            ("--target vhost-user:/run/x.sock --ring packed", Some(RingFormat::Packed)),
            ("--target null:size=1M", None),
        ] {
            let args = parse(flags);
            let (_, target) = args.to_job().unwrap();
            assert_eq!(args.format(&target), want, "{flags}");
            if flags.contains("vdpa") {
                assert_eq!(target, TargetArg::VhostVdpa("/dev/vhost-vdpa-0".into()));
            }
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("--target disk", "--target disk: allowed: vhost-user:SOCKET"),
            ("--target vhost-user:", "--target vhost-user:: allowed: "),
            ("--target vhost-vdpa:", "--target vhost-vdpa:: allowed: "),
            ("--target null", "--target null: size: is missing"),
            ("--target null:size=1Q", "--target null: size=1Q: allowed: bytes"),
            ("--target malloc:size=1M,queues=2", "--target malloc: queues=2: unknown key"),
            ("--target null:size=1M,type=aio", "--target null: type=aio: this key was given before"),
            ("--target null:size=1M --bs x", "--bs x: allowed: bytes"),
            (
                "--target null:size=1M --ring packed",
                "--ring: only for vhost-user and vhost-vdpa targets; a null disk has no ring",
            ),
            ("--target null:size=1M --indirect", "--indirect: only for vhost-user and vhost-vdpa targets"),
            ("--target null:size=1M --mix 3", "--mix: only for --rw randrw, not for randread"),
            ("--target null:size=1M --cores 1,1", "--cores 1,1: core 1 is named twice"),
            ("--target null:size=1M --time-s -1", "--time-s -1: allowed: seconds"),
        ];
        for (flags, want) in cases {
            let flags = flags.replace("--time-s -1", "--time-s=-1");
            let message = job(&flags).unwrap_err().to_string();
            assert!(message.starts_with(want), "{message}\n{want}");
        }
    }
}
