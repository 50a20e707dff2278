//! `spinblk hist`: latency histograms, kept in logs, shown, compared and plotted.
//!
//! ```text
//!   serve, perf, record ──► LogWriter ──► interval log ──► LogReader ──┐
//!                                                                      ├──► Source ──► Recording ──► show, compare, plot
//!   a running serve ──► control socket ────────────────────────────────┘
//! ```
//! Anything that measures writes intervals with [`LogWriter`], by way of [`DeltaLog`] where its counters only grow;
//! everything here reads them through [`Source`].

mod args;
mod bars;
mod compare;
mod delta;
mod log;
mod plot;
mod record;
mod recording;
mod show;
mod source;
mod stages;
mod stats;

use std::io::Write;

use comfy_table::Table;

pub use args::{CompareArgs, Filter, HistArgs, HistCommand, PlotArgs, PlotKind, RecordArgs, ShowArgs};
pub(crate) use args::{HIST_EXAMPLES, HIST_HELP};
pub use delta::DeltaLog;
pub use log::{Interval, LogReader, LogWriter, Tag};
pub use recording::{Op, Recording, Slice};
pub use source::{LogFile, Socket, Source, open};

use crate::Error;

/// The width of text that goes to no terminal.
const WIDTH: usize = 80;

/// Does what `args` say.
///
/// # Errors
/// [`Error::HistRead`], [`Error::HistLine`], [`Error::HistSource`] for a source that will not do; [`Error::Report`] for a
/// picture or a log that cannot be written; those of the control socket.
pub fn hist(args: &HistArgs) -> Result<(), Error> {
    let text = match &args.command {
        HistCommand::Show(args) => show(args)?,
        HistCommand::Compare(args) => {
            let (a, b) = (read(&args.a, &args.filter)?, read(&args.b, &args.filter)?);
            compare::text(&a, &b).unwrap_or_default()
        }
        HistCommand::Plot(args) => {
            let recording = read(&args.source, &args.filter)?;
            let failed = |source| Error::Report { path: args.output.clone(), source };
            let svg = plot::svg(&recording, args.kind)
                .map_err(|why| Error::HistSource { origin: args.source.clone(), why: why.to_string() })?;
            std::fs::write(&args.output, svg).map_err(failed)?;
            String::new()
        }
        HistCommand::Record(args) => record::record(args)?,
    };
    // A reader that has gone away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn show(args: &ShowArgs) -> Result<String, Error> {
    let recording = read(&args.source, &args.filter)?;
    // Neither can fail: numbers and plain names always serialise, and text always has room.
    Ok(if args.json {
        serde_json::to_string_pretty(&show::Shown::new(&recording)).unwrap_or_default() + "\n"
    } else {
        let width = Table::new().width().map_or(WIDTH, usize::from);
        show::text(&recording, args.stage, width).unwrap_or_default()
    })
}

/// What `source` holds of the requests that were asked for.
fn read(source: &str, filter: &Filter) -> Result<Recording, Error> {
    let mut recording = open(source)?.read()?;
    let held: Vec<String> = recording.ops.iter().map(Op::name).collect();
    recording.ops.retain(|op| {
        filter.disk.as_ref().is_none_or(|disk| *disk == op.disk)
            && filter.op.is_none_or(|kind| kind == op.kind)
    });
    if recording.ops.is_empty() {
        let why = format!("holds nothing of that; it has {}", held.join(", "));
        return Err(Error::HistSource { origin: source.into(), why });
    }
    Ok(recording)
}
