//! The flags of `spinblk hist`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use spinblk_perf::OpKind;

use super::log::kind_of;
use crate::api::DEFAULT_SOCKET;
use crate::config::parse_interval;

pub(crate) const HIST_HELP: &str = "\
Shows, compares and plots latency histograms.

A SOURCE is an interval log, or the control socket of a running `serve` (its path, or unix:PATH). A log is in HdrHistogram's \
own text format, which its tools read, too: each line holds the requests of one queue, operation, size and stage in one \
interval. They are summed up by disk and operation.";

pub(crate) const HIST_EXAMPLES: &str = "\
Examples:
  spinblk hist show d0.hlog
  spinblk hist show d0.hlog --disk d0 --op read --stage
  spinblk hist record --socket /run/spinblk/control.sock --duration 60s --stages -o d0.hlog
  spinblk hist show unix:/run/spinblk/control.sock
  spinblk hist compare before.hlog after.hlog
  spinblk hist plot d0.hlog -o d0.svg
  spinblk hist plot d0.hlog -o heat.svg --kind heatmap --op write";

const SHOW_HELP: &str = "\
Shows percentiles, bars and stages.

The share of a stage in the slowest 1 % is that of the 1 % that were slowest in this stage: stages are recorded each by \
itself, so these need not be the same requests.";

const COMPARE_HELP: &str = "\
Shows two sources side by side and marks what differs by more than chance and precision.

A difference is marked when the 99 % confidence intervals of both values do not meet: those of a percentile lie between two \
ranks of its samples, those of the mean within 2.6 standard errors; the width of a bucket is added. This takes requests to be \
independent of each other: repeat runs before trusting a small step.";

const RECORD_HELP: &str = "\
Asks a running `serve` again and again, and writes what it did in each interval as a log: by disk, queue, operation and size.

It ends after --duration, or at Ctrl-C; what was recorded until then is in the log either way. A `ctl reset` meanwhile loses \
the rest of its interval and nothing else.";

/// Flags of `hist`.
#[derive(Clone, Debug, Args)]
#[command(disable_help_subcommand = true)]
pub struct HistArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: HistCommand,
}

/// What can be done with histograms.
#[derive(Clone, Debug, Subcommand)]
pub enum HistCommand {
    /// Show percentiles, bars and stages
    #[command(long_about = SHOW_HELP)]
    Show(ShowArgs),
    /// Show two sources side by side and mark what differs
    #[command(long_about = COMPARE_HELP)]
    Compare(CompareArgs),
    /// Write what a running daemon does as an interval log
    #[command(long_about = RECORD_HELP)]
    Record(RecordArgs),
    /// Draw percentiles, stages and latencies over time as SVG
    Plot(PlotArgs),
}

/// Which requests to look at.
#[derive(Clone, Debug, Args)]
pub struct Filter {
    /// Only this disk
    #[arg(long, value_name = "NAME")]
    pub disk: Option<String>,
    /// Only this operation: read, write, flush, discard, write_zeroes, other
    #[arg(long, value_name = "OP", value_parser = parse_kind)]
    pub op: Option<OpKind>,
}

/// Flags of `hist show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// An interval log, or a control socket
    pub source: String,
    /// Which requests.
    #[command(flatten)]
    pub filter: Filter,
    /// Give each stage its own percentiles
    #[arg(long)]
    pub stage: bool,
    /// Print JSON, with everything
    #[arg(long)]
    pub json: bool,
}

/// Flags of `hist compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The source to compare with
    pub a: String,
    /// The source that may be better or worse
    pub b: String,
    /// Which requests.
    #[command(flatten)]
    pub filter: Filter,
}

/// Flags of `hist record`.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", env = "SPINBLK_CONTROL", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The length of an interval, such as 1s or 250ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub interval: Duration,
    /// How long to record [default: until Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    pub duration: Option<Duration>,
    /// The log
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Each stage, too, and not only all of them together
    #[arg(long)]
    pub stages: bool,
}

/// Flags of `hist plot`.
#[derive(Clone, Debug, Args)]
pub struct PlotArgs {
    /// An interval log, or a control socket
    pub source: String,
    /// The picture's file
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What to draw [default: all that the source tells, one below the other]
    #[arg(long)]
    pub kind: Option<PlotKind>,
    /// Which requests.
    #[command(flatten)]
    pub filter: Filter,
}

/// What can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlotKind {
    /// Latency by percentile
    Percentiles,
    /// The share of each stage
    Stages,
    /// Latencies over time
    Heatmap,
}

fn parse_kind(text: &str) -> Result<OpKind, String> {
    kind_of(text).ok_or_else(|| {
        let names = OpKind::ALL.map(OpKind::name);
        format!("allowed: {}", names.join(", "))
    })
}
