//! `spinblk ctl`: asks a running daemon, and shows the answer as tables or as JSON.
//!
//! Each subcommand is one method of the control socket; `raw` sends anything.

mod args;
mod tables;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

pub use args::{
    AddFlags, BdevCommand, CtlArgs, CtlCommand, DiskCommand, HistFlags, QueueFlags, ResizeFlags, SlowFlags,
};
pub(crate) use args::{CTL_EXAMPLES, CTL_HELP};

use crate::Error;
use crate::api::{self, Client, Method};

/// Runs the subcommand.
///
/// # Errors
/// [`Error::Daemon`], [`Error::Refused`], [`Error::Usage`].
pub fn ctl(args: &CtlArgs) -> Result<(), Error> {
    let mut client = Client::connect(&args.socket)?;
    let text = match &args.command {
        CtlCommand::Raw { request } => raw(&mut client, request)?,
        command => ask(&mut client, command, args.json)?,
    };
    // A reader that has gone away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn ask(client: &mut Client, command: &CtlCommand, json: bool) -> Result<String, Error> {
    let none = api::NoParams {};
    let mut asked = Asked { client, json };
    match command {
        CtlCommand::Version => asked.show::<api::Version>(&none, tables::version),
        CtlCommand::Schema => asked.show::<api::Schema>(&none, pretty),
        CtlCommand::Disks => asked.show::<api::Disks>(&none, tables::disks),
        CtlCommand::Bdevs => asked.show::<api::Bdevs>(&none, tables::bdevs),
        CtlCommand::Reactors => asked.show::<api::Reactors>(&none, tables::reactors),
        CtlCommand::Stats(flags) => asked.show::<api::Stats>(&flags.to_params(), tables::stats),
        CtlCommand::Hist(flags) => asked.show::<api::Histograms>(&flags.to_params(), tables::histograms),
        CtlCommand::Slow(flags) => {
            let last = flags.last;
            asked.show::<api::Slow>(&flags.to_params(), |slow| tables::slow(slow, last))
        }
        CtlCommand::Reset => asked.show::<api::Reset>(&none, tables::reset),
        CtlCommand::Threshold { disk, value } => {
            let params = api::SetThresholdParams { disk: disk.clone(), threshold: *value };
            asked.show::<api::SetThreshold>(&params, tables::threshold)
        }
        CtlCommand::Log { filter } => {
            asked.show::<api::LogLevel>(&api::LogLevelParams { filter: filter.clone() }, tables::log)
        }
        CtlCommand::Disk(DiskCommand::Add(flags)) => {
            asked.show::<api::DiskAdd>(&flags.to_given()?, tables::disk_added)
        }
        CtlCommand::Disk(DiskCommand::Remove { disk }) => remove_disk(&mut asked, disk),
        CtlCommand::Bdev(BdevCommand::Add(flags)) => {
            asked.show::<api::BdevAdd>(&flags.to_given()?, tables::bdevs_added)
        }
        CtlCommand::Bdev(BdevCommand::Remove { bdev }) => {
            asked.show::<api::BdevRemove>(&api::BdevName { bdev: bdev.clone() }, tables::bdev_removed)
        }
        CtlCommand::Resize(flags) => asked.show::<api::Resize>(&flags.to_params(), tables::resized),
        CtlCommand::SaveConfig { path } => {
            let params = api::SaveConfigParams { path: path.as_deref().map(absolute).transpose()? };
            asked.show::<api::SaveConfig>(&params, tables::saved)
        }
        CtlCommand::Raw { request } => raw(asked.client, request),
    }
}

/// A disk that was not put away as it should be is a failure, though it is gone.
fn remove_disk(asked: &mut Asked<'_>, disk: &str) -> Result<String, Error> {
    let removed = asked.client.call::<api::DiskRemove>(&api::DiskName { disk: disk.into() })?;
    match removed.problems.join("; ") {
        none if none.is_empty() => {
            Ok(if asked.json { pretty(&removed) } else { tables::disk_removed(&removed) })
        }
        problems => Err(Error::Unclean(format!("disk {disk} was removed, but: {problems}"))),
    }
}

/// The daemon may be in another folder.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
}

/// A daemon, and how its answers are shown.
struct Asked<'a> {
    client: &'a mut Client,
    json: bool,
}

impl Asked<'_> {
    fn show<M: Method>(
        &mut self,
        params: &M::Params,
        table: impl FnOnce(&M::Result) -> String,
    ) -> Result<String, Error> {
        let result = self.client.call::<M>(params)?;
        Ok(if self.json { pretty(&result) } else { table(&result) })
    }
}

fn pretty(value: &impl Serialize) -> String {
    // Plain data, which always serialises.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// A request without an id has no answer to wait for, and text that never ends would be waited for.
fn raw(client: &mut Client, request: &str) -> Result<String, Error> {
    let wrong = |why: &str| Error::Usage(format!("ctl raw: {why}"));
    let value: Value = serde_json::from_str(request).map_err(|e| wrong(&format!("this is no JSON: {e}")))?;
    let is_asking = |one: &Value| !one.is_object() || one.get("id").is_some() || one.get("method").is_none();
    let answered = match &value {
        Value::Array(batch) => batch.is_empty() || batch.iter().any(is_asking),
        one => is_asking(one),
    };
    if !answered {
        return Err(wrong("a request without \"id\" has no answer; give it one"));
    }
    Ok(pretty(&client.exchange(request)?))
}
