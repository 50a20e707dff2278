//! The methods: a function each, from parameters to result, or to the change that has one.

mod change;
mod configure;
mod measure;
mod status;

pub(crate) use measure::latency_of;
pub(crate) use status::disk_info;

use serde_json::{Map, Value};

use super::rpc::{RpcError, no_such_method, params};
use super::state::{Disk, Queue, State};
use crate::api::{self, Method};
use configure::CHANGES;

/// What a method does.
trait Handle: Method {
    fn handle(params: Self::Params, state: &mut State) -> Result<Self::Result, RpcError>;
}

type Run = fn(Map<String, Value>, &mut State) -> Result<Value, RpcError>;

/// The methods by name; as in the published schema.
const TABLE: &[(&str, Run)] = &[
    entry::<api::Version>(),
    entry::<api::Schema>(),
    entry::<api::Disks>(),
    entry::<api::Bdevs>(),
    entry::<api::Reactors>(),
    entry::<api::Stats>(),
    entry::<api::Histograms>(),
    entry::<api::Slow>(),
    entry::<api::Reset>(),
    entry::<api::SetThreshold>(),
    entry::<api::LogLevel>(),
];

const fn entry<M: Handle>() -> (&'static str, Run) {
    (M::NAME, run_one::<M>)
}

fn run_one<M: Handle>(given: Map<String, Value>, state: &mut State) -> Result<Value, RpcError> {
    let result = M::handle(params(given)?, state)?;
    serde_json::to_value(result).map_err(|e| RpcError::internal(&e))
}

/// What running a method came to.
pub(super) enum Ran {
    /// Its result.
    Now(Value),
    /// A change that was asked for, by its ticket.
    Later(u64),
}

/// Runs the method of this name; only one that is `alone` may be answered later.
pub(super) fn run(
    name: &str,
    given: Map<String, Value>,
    state: &mut State,
    alone: bool,
) -> Result<Ran, RpcError> {
    if let Some((_, run)) = TABLE.iter().find(|(known, _)| *known == name) {
        return run(given, state).map(Ran::Now);
    }
    let Some((_, read)) = CHANGES.iter().find(|(known, _)| *known == name) else {
        return Err(no_such_method(name, &names().collect::<Vec<_>>().join(", ")));
    };
    let change = read(given)?;
    if !alone {
        return Err(RpcError::in_a_batch());
    }
    match &mut state.changes {
        Some(changes) => changes.ask(change).map(Ran::Later),
        None => Err(RpcError::unavailable("the disks belong to another part of this program")),
    }
}

/// The names of all methods.
pub fn names() -> impl Iterator<Item = &'static str> {
    let changes = CHANGES.iter().map(|(name, _)| *name);
    TABLE.iter().map(|(name, _)| *name).chain(changes)
}

/// The disk and queue that a request names, or all of them. A name that nobody has is a mistake.
struct Selection<'a> {
    disk: Option<&'a str>,
    queue: Option<u16>,
}

impl<'a> Selection<'a> {
    fn new(disk: Option<&'a str>, queue: Option<u16>, state: &State) -> Result<Self, RpcError> {
        let selection = Self { disk, queue };
        if let Some(name) = disk {
            find(&state.disks, name)?;
        }
        match queue {
            Some(index) if selection.queues(state).next().is_none() => {
                Err(RpcError::param("queue", format!("there is no queue {index}")))
            }
            _ => Ok(selection),
        }
    }

    fn disks(&self, state: &'a State) -> impl Iterator<Item = &'a Disk> {
        let wanted = self.disk;
        state.disks.iter().filter(move |disk| wanted.is_none_or(|name| disk.name == name))
    }

    fn queues_of(&self, disk: &'a Disk) -> impl Iterator<Item = &'a Queue> {
        let wanted = self.queue;
        disk.queues.iter().filter(move |queue| wanted.is_none_or(|index| queue.index == index))
    }

    fn queues(&self, state: &'a State) -> impl Iterator<Item = (&'a Disk, &'a Queue)> {
        let pairs = |disk: &'a Disk| self.queues_of(disk).map(move |queue| (disk, queue)).collect::<Vec<_>>();
        self.disks(state).flat_map(pairs).collect::<Vec<_>>().into_iter()
    }
}

fn find<'a>(disks: &'a [Disk], name: &str) -> Result<&'a Disk, RpcError> {
    disks.iter().find(|disk| disk.name == name).ok_or_else(|| {
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        RpcError::param("disk", format!("there is no such disk; there are: {}", names.join(", ")))
    })
}
