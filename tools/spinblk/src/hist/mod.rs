//! `spinblk hist`: latency histograms, kept in logs, shown, compared and plotted.
//!
//! ```text
//!   LogWriter ──► interval log ──► LogReader ──┐
//!                                              ├──► Source ──► Recording ──► show, compare, plot
//!   a running serve ──► control socket ────────┘
//! ```
//! Anything that measures writes intervals with [`LogWriter`]; everything here reads them through [`Source`].

mod args;
mod bars;
mod compare;
mod log;
mod plot;
mod recording;
mod show;
mod source;
mod stages;
mod stats;

use std::io::Write;

use comfy_table::Table;

pub use args::{CompareArgs, Filter, HistArgs, HistCommand, PlotArgs, PlotKind, ShowArgs};
pub(crate) use args::{HIST_EXAMPLES, HIST_HELP};
pub use log::{Interval, LogReader, LogWriter, Tag};
pub use recording::{Op, Recording, Slice};
pub use source::{LogFile, Socket, Source, open};

use crate::Error;

/// The width of text that goes to no terminal.
const WIDTH: usize = 80;

/// Does what `args` say.
///
/// # Errors
/// [`Error::Usage`] for a source that cannot be read, [`Error::Report`] for a picture that cannot be written.
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
                .map_err(|why| Error::Usage(format!("{}: {why}", args.source)))?;
            std::fs::write(&args.output, svg).map_err(failed)?;
            String::new()
        }
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
        return Err(Error::Usage(format!("{source}: holds nothing of that; it has {}", held.join(", "))));
    }
    Ok(recording)
}
