//! Changes of what is served: understood here, made by whoever owns the disks.

use serde_json::{Map, Value};

use crate::api::{self, Method};
use crate::control::changes::Change;
use crate::control::rpc::{RpcError, params};

type Read = fn(Map<String, Value>) -> Result<Change, RpcError>;

/// The changes by name.
pub(super) const CHANGES: &[(&str, Read)] = &[
    (api::BdevAdd::NAME, |given| Ok(Change::AddBdevs(params_of::<api::BdevAdd>(given)?))),
    (api::BdevRemove::NAME, |given| Ok(Change::RemoveBdev(params_of::<api::BdevRemove>(given)?.bdev))),
    (api::DiskAdd::NAME, |given| Ok(Change::AddDisk(params_of::<api::DiskAdd>(given)?))),
    (api::DiskRemove::NAME, |given| Ok(Change::RemoveDisk(params_of::<api::DiskRemove>(given)?.disk))),
    (api::Resize::NAME, resize),
    (api::SaveConfig::NAME, save_config),
];

fn params_of<M: Method>(given: Map<String, Value>) -> Result<M::Params, RpcError> {
    params(given)
}

fn resize(given: Map<String, Value>) -> Result<Change, RpcError> {
    let params = params_of::<api::Resize>(given)?;
    match (&params.disk, &params.bdev) {
        (Some(_), None) | (None, Some(_)) => Ok(Change::Resize(params)),
        (Some(_), Some(_)) => Err(RpcError::param("bdev", "give a disk or a bdev, not both")),
        (None, None) => Err(RpcError::param("disk", "give a disk or a bdev")),
    }
}

fn save_config(given: Map<String, Value>) -> Result<Change, RpcError> {
    let path = params_of::<api::SaveConfig>(given)?.path;
    match path {
        Some(path) if !path.is_absolute() => Err(RpcError::param("path", "an absolute path is wanted")),
        path => Ok(Change::SaveConfig(path)),
    }
}
