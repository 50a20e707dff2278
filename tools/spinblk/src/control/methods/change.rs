//! What can be changed.

use super::{Handle, find};
use crate::api;
use crate::control::rpc::RpcError;
use crate::control::state::State;

impl Handle for api::Reset {
    fn handle(_: api::NoParams, state: &mut State) -> Result<api::ResetResult, RpcError> {
        let since_ms = state.since_ms();
        state.reset();
        Ok(api::ResetResult { since_ms })
    }
}

impl Handle for api::SetThreshold {
    fn handle(
        params: api::SetThresholdParams,
        state: &mut State,
    ) -> Result<api::SetThresholdResult, RpcError> {
        let disk = find(&state.disks, &params.disk)?;
        let ns = match params.threshold {
            api::Threshold::Ns(ns) => Some(ns),
            api::Threshold::Auto(_) => None,
        };
        disk.queues.iter().for_each(|queue| queue.board.slow.set_threshold(ns));
        Ok(api::SetThresholdResult {
            disk: params.disk,
            threshold: params.threshold,
            queues: disk.queues.len(),
        })
    }
}

impl Handle for api::LogLevel {
    fn handle(params: api::LogLevelParams, state: &mut State) -> Result<api::LogLevelResult, RpcError> {
        let Some(before) = state.log.get() else {
            return Err(RpcError::unavailable("the log belongs to another part of this program"));
        };
        state.log.set(&params.filter).map_err(|why| RpcError::param("filter", why))?;
        Ok(api::LogLevelResult { before, filter: state.log.get().unwrap_or_default() })
    }
}
