//! `spinblk doctor`: what this machine has and lacks for serving disks, and how to mend it.
//!
//! ```text
//!   Host (files under / ) ──► checks: vduse, uring, memory, cpu, interrupts ──► [Check] ──► text or JSON, exit status
//!                                       └──► require_vduse ──► serve, before it starts anything
//! ```
//!
//! Every check reads files, so that tests can show it any machine. Nothing is changed.

mod cpu;
mod host;
mod interrupts;
mod memory;
mod uring;
mod vduse;

use std::fmt::Write;

use serde::Serialize;

use crate::Error;
pub use host::Host;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Disks are served, but slower, or not with every option.
    Warning,
    /// Disks cannot be served.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// What it came to.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What it is good for.
    pub why: &'static str,
    /// What to do, when something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>, why: &'static str) -> Self {
        Self { name: name.into(), status: Status::Ok, found: found.into(), why, fix: None }
    }

    fn bad(
        status: Status,
        name: &str,
        found: impl Into<String>,
        why: &'static str,
        fix: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), status, found: found.into(), why, fix: Some(fix.into()) }
    }
}

/// Looks at everything.
#[must_use]
pub fn examine(host: &Host) -> Vec<Check> {
    let mut checks = vec![vduse::kernel(host)];
    checks.extend(vduse::modules(host));
    checks.extend([vduse::control_node(host), vduse::net_admin(host), uring::io_uring(host)]);
    checks.extend([memory::hugepages(host), memory::memlock(host), memory::locked(host), memory::oom(host)]);
    checks.extend(cpu::checks(host));
    checks.extend(interrupts::checks(host));
    checks
}

/// Whether serving is possible after all these checks.
#[must_use]
pub fn can_serve(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.status != Status::Missing)
}

/// Whether VDUSE is there, with the bus drivers that are wanted.
///
/// # Errors
/// [`Error::Host`] for the first thing that is missing.
pub fn require_vduse(host: &Host, virtio_vdpa: bool, vhost_vdpa: bool) -> Result<(), Error> {
    let mut checks = vec![vduse::vduse_module(host), vduse::control_node(host), vduse::net_admin(host)];
    if virtio_vdpa {
        checks.push(vduse::virtio_vdpa_module(host));
    }
    if vhost_vdpa {
        checks.push(vduse::vhost_vdpa_module(host, Status::Missing));
    }
    match checks.into_iter().find(|check| check.status == Status::Missing) {
        Some(Check { name, found, fix, .. }) => {
            Err(Error::Host { found: format!("{name}: {found}"), fix: fix.unwrap_or_default() })
        }
        None => Ok(()),
    }
}

/// The checks for people, the fix below each that needs one.
#[must_use]
pub fn to_text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Check { name, status, found, why, fix } in checks {
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Missing => "MISSING",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{status:<8} {name:<width$}  {found} ({why})");
        if let Some(fix) = fix {
            let _ = writeln!(text, "{:<8} {:<width$}  fix: {fix}", "", "");
        }
    }
    let count = |wanted| checks.iter().filter(|check| check.status == wanted).count();
    let verdict = match (count(Status::Missing), count(Status::Warning)) {
        (0, 0) => "this machine is ready to serve disks".into(),
        (0, warnings) => format!("this machine can serve disks; {warnings} warning(s)"),
        (missing, warnings) => {
            format!("this machine cannot serve disks yet: {missing} thing(s) missing, {warnings} warning(s)")
        }
    };
    text + "\n" + &verdict + "\n"
}

#[cfg(test)]
mod tests;
