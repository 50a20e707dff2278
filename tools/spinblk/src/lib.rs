//! The `spinblk` program, as a library so that tests reach every part.
//!
//! ```text
//!   cli ──► config ──► serve ──► cores (reactors) , backend (bdev) , transport (VDUSE, vhost-user)
//!     │                  ├─────► notify (systemd), memory_lock
//!     │                  └─────► stop ──► report       changes of what is served come from control to serve
//!     ├───► doctor ◄──── serve asks it, too
//!     ├───► bdev_check ──► config, backend, tree: what stacks look like
//!     ├───► ctl, top ──► api ──► the control socket of a running serve: control, metrics
//!     └───► perf ──► the load generator, over a backend or a vhost-user socket
//! ```
//!
//! The top floor of the house: it knows all others and none knows it. Nothing here is on the road of a request.

#![forbid(unsafe_code)]

pub mod api;
pub mod backend;
pub mod bdev_check;
pub mod cli;
pub mod config;
pub mod control;
mod cores;
pub mod ctl;
pub mod doctor;
mod error;
pub mod hist;
pub mod memory_lock;
pub mod metrics;
mod notify;
pub mod perf;
mod replace;
pub mod report;
pub mod serve;
mod signals;
mod stop;
pub mod top;
pub mod transport;
pub mod tree;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cli::{BdevCommand, CheckArgs, Cli, Command};
use control::LogFilter;
pub use error::Error;

/// Runs the program with these arguments (the first is its own name) and returns its exit status.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version come this way, too. There is nobody to tell if even that cannot be printed.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match run(&cli) {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {}", e.one_line());
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    let log = LogFilter::start(&cli.log)?;
    match &cli.command {
        Command::Serve(args) => {
            let config = args.to_config()?;
            serve::serve(&config, &args.to_options(log), &transport::System::default())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Ctl(args) => {
            ctl::ctl(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Top(args) => {
            top::top(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bdev { command: BdevCommand::Check(args) } => {
            check(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(args) => Ok(doctor(args.json)),
        Command::Perf(args) => {
            perf::perf(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Hist(args) => {
            hist::hist(args)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(args: &CheckArgs) -> Result<(), Error> {
    let trees = bdev_check::check(&args.file)?;
    let text = if args.json {
        // Numbers and strings, which always serialise; paths come from a text.
        serde_json::to_string_pretty(&trees).unwrap_or_default() + "\n"
    } else {
        tree::to_text(&trees)
    };
    // A reader that has gone away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn doctor(json: bool) -> ExitCode {
    let checks = doctor::examine(&doctor::Host::default());
    let text = if json {
        // The checks are plain strings, which always serialise.
        serde_json::to_string_pretty(&checks).unwrap_or_default() + "\n"
    } else {
        doctor::to_text(&checks)
    };
    // A reader that has gone away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!doctor::can_serve(&checks)))
}
