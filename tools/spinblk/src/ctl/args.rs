//! The command line of `ctl`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::Error;
use crate::api::{
    Auto, Class, DEFAULT_SOCKET, Given, HistogramsParams, Op, ResizeParams, SlowParams, StageName,
    StatsParams, Threshold,
};
use crate::config::{SIZE_FORMS, parse_size, read};

pub(crate) const CTL_HELP: &str = "\
Asks a `spinblk serve` that was started with --control (or [control] socket = \"...\" in its file), by the same user.

Nothing that is asked disturbs the disks: the answers are read from counters that the cores write anyway. \
What is changed (disk, bdev, resize) takes as long as it needs, one change after the other, and disturbs no other disk. \
Changes are gone with the daemon unless they are saved.";

pub(crate) const CTL_EXAMPLES: &str = "\
Examples:
  spinblk ctl --socket /run/spinblk.sock disks
  spinblk ctl hist d0 --op read --stage total
  spinblk ctl slow d0 --last 20
  spinblk ctl threshold d0 2ms
  spinblk ctl stats --json
  spinblk ctl disk add name=d1,type=malloc,size=64MiB
  spinblk ctl disk add --file d1.toml
  spinblk ctl disk remove d1
  spinblk ctl bdev add name=a,type=aio,path=/srv/a.img
  spinblk ctl resize d0 2GiB
  spinblk ctl save-config /etc/spinblk.toml
  spinblk ctl raw '{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"reactors\"}'";

/// Flags of `ctl`.
#[derive(Clone, Debug, Args)]
pub struct CtlArgs {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", global = true, env = "SPINBLK_CONTROL", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to ask.
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What can be asked.
#[derive(Clone, Debug, Subcommand)]
pub enum CtlCommand {
    /// The daemon's version and how long it runs
    Version,
    /// The JSON schema of everything that can be asked
    Schema,
    /// The disks
    Disks,
    /// The block devices under them
    Bdevs,
    /// How the cores spend their time
    Reactors,
    /// Counters of disks and queues since the last reset
    Stats(QueueFlags),
    /// Latencies since the last reset
    Hist(HistFlags),
    /// The last slow requests and where their time went
    Slow(SlowFlags),
    /// Count from now on
    Reset,
    /// Say from when on a request is slow
    Threshold {
        /// The disk
        disk: String,
        /// Such as 2ms or 500us, or `auto` for the slowest in a thousand
        #[arg(value_parser = parse_threshold)]
        value: Threshold,
    },
    /// Say what the daemon logs
    Log {
        /// As --log: error, warn, info, debug, trace, or a filter such as spinblk_vduse=debug
        filter: String,
    },
    /// Add or remove a disk
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Add or remove a block device
    #[command(subcommand)]
    Bdev(BdevCommand),
    /// Give a disk another size, or take on what its file or device has now
    Resize(ResizeFlags),
    /// Print the running configuration as TOML, or have the daemon write it
    SaveConfig {
        /// The file, which is replaced
        path: Option<PathBuf>,
    },
    /// Send any request and print its answer
    Raw {
        /// A JSON-RPC request, or an array of them
        request: String,
    },
}

/// What is done about disks.
#[derive(Clone, Debug, Subcommand)]
pub enum DiskCommand {
    /// Serve one more disk, on the cores that are polled already
    Add(AddFlags),
    /// Drain a disk, detach its driver or client, and serve it no more; its bdevs stay for others
    Remove {
        /// The disk
        disk: String,
    },
}

/// What is done about bdevs.
#[derive(Clone, Debug, Subcommand)]
pub enum BdevCommand {
    /// Add one to the configuration, for disks to stand on; it is opened with the first of them
    Add(AddFlags),
    /// Remove one that nobody stands on
    Remove {
        /// The bdev
        bdev: String,
    },
}

/// What is added.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct AddFlags {
    /// As in `serve --disk`; for a bdev with the keys of its type, lists as a+b
    #[arg(value_name = "KEY=VALUE,...")]
    pub keys: Option<String>,
    /// A TOML file with the [[bdev]] sections; for a disk with one [[disk]] and the bdevs that it needs
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// What gets which size.
#[derive(Clone, Debug, Args)]
pub struct ResizeFlags {
    /// The disk; a bdev with --bdev
    pub name: String,
    /// The size, such as 2GiB; without it, what the file or device has now
    #[arg(value_parser = |text: &str| parse_size(text).ok_or(format!("wanted: {SIZE_FORMS}")))]
    pub size: Option<u64>,
    /// The name is that of a bdev under a disk
    #[arg(long)]
    pub bdev: bool,
}

impl AddFlags {
    pub(super) fn to_given(&self) -> Result<Given, Error> {
        match (&self.keys, &self.file) {
            (_, Some(file)) => Ok(Given::Toml(read(file)?)),
            (keys, None) => Ok(Given::Flags(keys.clone().unwrap_or_default())),
        }
    }
}

impl ResizeFlags {
    pub(super) fn to_params(&self) -> ResizeParams {
        let name = Some(self.name.clone());
        let (disk, bdev) = if self.bdev { (None, name) } else { (name, None) };
        ResizeParams { disk, bdev, size_bytes: self.size }
    }
}

/// Which queues.
#[derive(Clone, Debug, Args)]
pub struct QueueFlags {
    /// This disk only
    pub disk: Option<String>,
    /// The queue of this number only
    #[arg(long, value_name = "NUMBER")]
    pub queue: Option<u16>,
}

/// Which latencies.
#[derive(Clone, Debug, Args)]
pub struct HistFlags {
    /// Which queues.
    #[command(flatten)]
    pub queues: QueueFlags,
    /// This operation only
    #[arg(long)]
    pub op: Option<Op>,
    /// Reads and writes of this size only
    #[arg(long)]
    pub class: Option<Class>,
    /// This stage only
    #[arg(long)]
    pub stage: Option<StageName>,
    /// With the whole histograms, for --json
    #[arg(long)]
    pub raw: bool,
}

/// Which slow requests.
#[derive(Clone, Debug, Args)]
pub struct SlowFlags {
    /// Which queues.
    #[command(flatten)]
    pub queues: QueueFlags,
    /// This operation only
    #[arg(long)]
    pub op: Option<Op>,
    /// Those after this number, which each queue counts by itself
    #[arg(long, value_name = "NUMBER", requires = "disk", requires = "queue")]
    pub since: Option<u64>,
    /// At most this many in the table, the latest
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub last: usize,
}

impl QueueFlags {
    pub(super) fn to_params(&self) -> StatsParams {
        StatsParams { disk: self.disk.clone(), queue: self.queue }
    }
}

impl HistFlags {
    pub(super) fn to_params(&self) -> HistogramsParams {
        let Self { queues: QueueFlags { disk, queue }, op, class, stage, raw } = self.clone();
        HistogramsParams { disk, queue, op, class, stage, raw }
    }
}

impl SlowFlags {
    pub(super) fn to_params(&self) -> SlowParams {
        let Self { queues: QueueFlags { disk, queue }, op, since, .. } = self.clone();
        SlowParams { disk, queue, op, since }
    }
}

/// `auto`, or a whole number with its unit.
fn parse_threshold(text: &str) -> Result<Threshold, String> {
    if text == "auto" {
        return Ok(Threshold::Auto(Auto::Auto));
    }
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let ns_per_unit: u64 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err("wanted: a whole number with ns, us, ms or s, or auto".into()),
    };
    let ns = number.parse::<u64>().ok().and_then(|number| number.checked_mul(ns_per_unit));
    ns.map(Threshold::Ns).ok_or_else(|| "wanted: a whole number, not that large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_have_units() {
        let cases =
            [("1ns", 1), ("500us", 500_000), ("7µs", 7000), ("2ms", 2_000_000), ("1s", 1_000_000_000)];
        for (text, ns) in cases {
            assert_eq!(parse_threshold(text), Ok(Threshold::Ns(ns)), "{text}");
        }
        assert_eq!(parse_threshold("auto"), Ok(Threshold::Auto(Auto::Auto)));
        for bad in ["", "5", "ms", "-1ms", "1.5ms", "2 ms", "99999999999999999999s", "18446744074s", "Auto"] {
            assert!(parse_threshold(bad).is_err(), "{bad}");
        }
    }
}
