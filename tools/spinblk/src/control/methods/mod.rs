//! The methods: a function each, from parameters to result.

mod change;
mod measure;
mod status;

pub(crate) use measure::latency_of;

use serde_json::{Map, Value};

use super::rpc::{RpcError, no_such_method, params};
use super::state::{Disk, Queue, State};
use crate::api::{self, Method};

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

/// Runs the method of this name.
pub(super) fn run(name: &str, given: Map<String, Value>, state: &mut State) -> Result<Value, RpcError> {
    match TABLE.iter().find(|(known, _)| *known == name) {
        Some((_, run)) => run(given, state),
        None => Err(no_such_method(name, &names().collect::<Vec<_>>().join(", "))),
    }
}

/// The names of all methods.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
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
