//! The command line: what `spinblk` is told and how it explains itself.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Flags};
use crate::control::LogFilter;
use crate::ctl::{CTL_EXAMPLES, CTL_HELP, CtlArgs};
use crate::hist::{HIST_EXAMPLES, HIST_HELP, HistArgs};
use crate::perf::{PERF_EXAMPLES, PERF_HELP, PerfArgs};
use crate::top::{TOP_EXAMPLES, TOP_HELP, TopArgs};
use crate::{Error, serve};

const ABOUT: &str = "Serves virtio-blk disks from cores that never sleep.";

const AFTER_HELP: &str = "\
First steps, as root:
  spinblk doctor
      says what this machine lacks and how to mend it
  spinblk serve --cores 1 --disk name=d0,type=malloc,size=256MiB
      makes a RAM disk, prints its device (such as /dev/vda), serves until Ctrl-C, prints latencies";

const SERVE_HELP: &str = "\
Exports disks through the kernel's VDUSE or on vhost-user sockets and serves them until SIGINT, SIGTERM or SIGHUP.

Each core of --cores gets one thread that polls all the time and takes that core whole: leave at least one core for \
everything else. Prints a line for each disk, then `ready`; at the end the operations, latencies and queues of each. \
With --control, `spinblk ctl` adds and removes disks meanwhile.";

const SERVE_EXAMPLES: &str = "\
Keys of --disk (in brackets what is taken when a key is not given):
  name         letters, digits, . _ -, at most 64; required
  type         null, malloc (RAM), aio (file or block device); required
  size         256MiB, 1G, bytes; required for null and malloc
  path         file or block device; required for aio, a comma in it is doubled
  direct       aio with O_DIRECT: auto, on, off [auto]
  reads        what null reads give: untouched, zeroes [untouched]
  block-size   512, 1024, 2048, 4096 [512; aio: the target's own]
  queues       number of virtqueues, 1 to 64 [1]
  queue-size   entries of each, a power of two from 4 to 1024 [256]
  cores        cores for the queues, dealt in turn, such as 1+2 [all]
  serial       what guests see, at most 20 characters [the name]
  read-only    true, false [false]
  transport    vduse (the kernel's vDPA bus), vhost-user (a unix socket for a VM) [vduse]
  driver       vduse: virtio-vdpa (a /dev/vdX here), vhost-vdpa (VMs) [virtio-vdpa]
  bounce-size  vduse: bounce region, 1MiB to 1GiB [the kernel's own, 64MiB]
  packed       vduse: true to offer packed virtqueues [false]
  resume       vduse: note what is in flight, to go on after kill -9: true, false [true]
  state-dir    vduse: the folder for that, on a tmpfs [/run/spinblk/inflight]
  socket       vhost-user: where it listens; required

Examples:
  spinblk serve --cores 1,2 --disk name=d0,type=malloc,size=256MiB,queues=2
  spinblk serve --cores 1 --disk name=d0,type=aio,path=/srv/disk.img,serial=ABC
  spinblk serve --cores 1 --disk name=d0,type=malloc,size=1G,transport=vhost-user,socket=/run/d0.sock
  spinblk serve --config spinblk.toml

A file has disks over stacks of bdevs, too; see `spinblk bdev check --help`. It says the same as the first example:
  [reactor]
  cores = [1, 2]

  [control]
  socket = \"/run/spinblk.sock\"
  metrics = \"127.0.0.1:9500\"

  [[disk]]
  name = \"d0\"
  type = \"malloc\"
  size = \"256MiB\"
  queues = 2";

const CHECK_HELP: &str = "\
Checks a TOML file as `serve --config` would, opens its files, reads its keys, and shows each stack of bdevs: names, types, \
sizes, blocks (logical/physical), abilities, and what is special about each.

A file with [[bdev]] sections alone will do. No memory is taken for malloc bdevs and no file is created or changed. A file \
that another process serves is refused, as `serve` would refuse it. Exit status: 0 when all is right, 2 for a bad file, 1 \
when something on this machine is wrong.";

const CHECK_EXAMPLES: &str = "\
Keys of each [[bdev]] (in brackets what is taken when a key is not given):
  name            letters, digits, . _ -, at most 64; required; each bdev is used once, by a disk or another bdev
  type            null, malloc, aio, raid0, crypto, delay, error; required
null, malloc:
  size            \"256MiB\", \"1G\", bytes; required
  block_size      512, 1024, 2048, 4096 [512]
  reads           null only, what reads give: \"untouched\", \"zeroes\" [\"untouched\"]
aio:
  path            file or block device; required
  direct          O_DIRECT: \"auto\", \"on\", \"off\" [\"auto\"]
  poll            the device's poll queues: \"auto\" (where it has them), \"on\" (try), \"off\" [\"auto\"]
  block_size      512, 1024, 2048, 4096 [the target's own]
  read_only       true, false [false]
  create_size     the size that the file must have; created with it if missing [not created]
raid0:
  children        [\"a\", \"b\"], 1 to 32; required
  chunk           a power of two, at least 4KiB [64KiB]
crypto:
  child           \"NAME\"; required
  key_file        the file that holds the key
  key_credential  or the service's credential that does; one of them is required
  sector_size     512, 4096 [512]
  discard         pass discards on: true, false [false]
delay:
  child           \"NAME\"; required
  latency         \"250us\", \"2ms\", \"1s\"; required
error:
  child           \"NAME\"; required
  error           \"EIO\", \"ENOSPC\", \"EOPNOTSUPP\", \"ETIMEDOUT\" [\"EIO\"]
  moved           how much data moves all the same: \"nothing\", \"part\", \"all\" [\"nothing\"]
delay, error:
  ops             a list of \"read\", \"write\", \"flush\", \"discard\", \"write-zeroes\" [all]
  rate            how many of them are struck, 0 to 1 [1]
  offset, length  only I/Os in this range, as sizes [the whole device]
  seed            where chances start, a whole number [0]

Examples:
  spinblk bdev check spinblk.toml
  spinblk bdev check --json spinblk.toml

A file:
  [[bdev]]
  name = \"a\"
  type = \"aio\"
  path = \"/srv/disk.img\"

  [[bdev]]
  name = \"c0\"
  type = \"crypto\"
  child = \"a\"
  key_file = \"/etc/spinblk/c0.key\"

  [reactor]
  cores = [1]

  [[disk]]
  name = \"d0\"
  bdev = \"c0\"";

const DOCTOR_HELP: &str = "\
Looks at the kernel, its modules, permissions, io_uring, hugepages, limits, cores and interrupts; changes nothing.

Each line is ok, warning (disks are served, but slower or not with every option) or MISSING (disks cannot be served), \
with the command that mends it. Exit status: 0 when disks can be served, 1 when something is missing.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  spinblk doctor
  spinblk doctor --json";

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "spinblk", version, about = ABOUT, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// What to log to stderr: error, warn, info, debug, trace, or a filter such as spinblk_vduse=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "SPINBLK_LOG", default_value = "warn")]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Export disks and serve them until a signal comes
    #[command(long_about = SERVE_HELP, after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Look at the block devices that a file describes
    #[command(disable_help_subcommand = true)]
    Bdev {
        /// What to do with them.
        #[command(subcommand)]
        command: BdevCommand,
    },
    /// Ask a running `spinblk serve` about its disks, latencies and reactors, and change its disks
    #[command(long_about = CTL_HELP, after_help = CTL_EXAMPLES)]
    Ctl(CtlArgs),
    /// Show live what a running `spinblk serve` does
    #[command(long_about = TOP_HELP, after_help = TOP_EXAMPLES)]
    Top(TopArgs),
    /// Tell what this machine lacks for serving disks, and the fix for each
    #[command(long_about = DOCTOR_HELP, after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Put a disk, a vhost-user server or a vhost-vdpa device under load and tell its speed
    #[command(long_about = PERF_HELP, after_help = PERF_EXAMPLES)]
    Perf(PerfArgs),
    /// Show, compare and plot latency histograms
    #[command(long_about = HIST_HELP, after_help = HIST_EXAMPLES)]
    Hist(HistArgs),
}

/// What can be done with stacks of bdevs.
#[derive(Clone, Debug, Subcommand)]
pub enum BdevCommand {
    /// Check a TOML file, open what it describes, and show it
    #[command(long_about = CHECK_HELP, after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
}

/// Flags of `bdev check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The TOML file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print the stacks as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Read everything from a TOML file instead of --cores, --hugepages, --lock-memory and --disk
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Cores that poll, one reactor each: 1,2 or 1-4
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,
    /// Take memory from the hugepage pool: try, require or off [default: try]
    #[arg(long, value_name = "MODE")]
    pub hugepages: Option<String>,
    /// Keep all memory out of swap: try, require or off [default: try]
    #[arg(long, value_name = "MODE")]
    pub lock_memory: Option<String>,
    /// A disk; may be given many times. The keys are below
    #[arg(long = "disk", value_name = "KEY=VALUE,...")]
    pub disks: Vec<String>,
    /// Answer `spinblk ctl` on this unix socket [default: none]
    #[arg(long, value_name = "PATH")]
    pub control: Option<String>,
    /// Serve Prometheus metrics: ADDRESS:PORT such as 127.0.0.1:9500, or unix:PATH [default: none]
    #[arg(long, value_name = "WHERE")]
    pub metrics: Option<String>,
    /// Write latencies as an HdrHistogram log to this file, one interval a second, for `spinblk hist` [default: none]
    #[arg(long, value_name = "FILE")]
    pub hist_log: Option<PathBuf>,
    /// Write the final report as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    pub report_json: Option<PathBuf>,
}

/// Flags of `doctor`.
#[derive(Clone, Copy, Debug, Args)]
pub struct DoctorArgs {
    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

impl ServeArgs {
    /// The checked configuration, from the file or from the flags.
    ///
    /// # Errors
    /// Those of [`Config`]; [`Error::Usage`] for both at once or neither.
    pub fn to_config(&self) -> Result<Config, Error> {
        let flags = Flags {
            cores: self.cores.clone(),
            hugepages: self.hugepages.clone(),
            lock_memory: self.lock_memory.clone(),
            disks: self.disks.clone(),
        };
        let reactor_flags = [&flags.cores, &flags.hugepages, &flags.lock_memory];
        let any_flag = reactor_flags.iter().any(|flag| flag.is_some()) || !flags.disks.is_empty();
        let mut config = match &self.config {
            Some(_) if any_flag => Err(Error::Usage(
                "--config together with --cores, --hugepages, --lock-memory or --disk: put everything into the \
                 file, or use flags alone"
                    .into(),
            )),
            Some(path) => Config::from_file(path),
            None if any_flag => Config::from_flags(&flags),
            None => Err(Error::Usage(
                "nothing to serve: give --config FILE, or --cores and --disk; `spinblk serve --help` has examples".into(),
            )),
        }?;
        // These say where this process is found, so they go with a file, and before it.
        config.control.set(self.control.as_deref(), self.metrics.as_deref())?;
        config.set_hist_log(self.hist_log.as_deref());
        Ok(config)
    }

    /// What `serve` is told besides the configuration.
    #[must_use]
    pub fn to_options(&self, log: LogFilter) -> serve::Options {
        serve::Options { report_json: self.report_json.clone(), log }
    }
}
