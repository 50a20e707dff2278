//! The published schema: one JSON document made from the types.

use schemars::generate::SchemaSettings;
use schemars::{Schema as JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::{
    API_VERSION, BdevAdd, BdevRemove, Bdevs, DiskAdd, DiskRemove, Disks, Histograms, LogLevel, Method,
    Reactors, Reset, Resize, SaveConfig, Schema, SetThreshold, Slow, Stats, Version,
};

/// A method, and how to make the schemas of both its ends.
pub struct MethodSchema {
    /// Its name on the wire.
    pub name: &'static str,
    about: &'static str,
    params: fn(&mut SchemaGenerator) -> JsonSchema,
    result: fn(&mut SchemaGenerator) -> JsonSchema,
}

impl MethodSchema {
    const fn of<M: Method>() -> Self {
        Self {
            name: M::NAME,
            about: M::ABOUT,
            params: SchemaGenerator::subschema_for::<M::Params>,
            result: SchemaGenerator::subschema_for::<M::Result>,
        }
    }
}

/// All methods.
pub const METHODS: &[MethodSchema] = &[
    MethodSchema::of::<Version>(),
    MethodSchema::of::<Schema>(),
    MethodSchema::of::<Disks>(),
    MethodSchema::of::<Bdevs>(),
    MethodSchema::of::<Reactors>(),
    MethodSchema::of::<Stats>(),
    MethodSchema::of::<Histograms>(),
    MethodSchema::of::<Slow>(),
    MethodSchema::of::<Reset>(),
    MethodSchema::of::<SetThreshold>(),
    MethodSchema::of::<LogLevel>(),
    MethodSchema::of::<BdevAdd>(),
    MethodSchema::of::<BdevRemove>(),
    MethodSchema::of::<DiskAdd>(),
    MethodSchema::of::<DiskRemove>(),
    MethodSchema::of::<Resize>(),
    MethodSchema::of::<SaveConfig>(),
];

/// The document: each method's schemas under `methods`, the types that they share under `$defs`.
#[must_use]
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut methods = Map::new();
    for method in METHODS {
        let params = (method.params)(&mut generator);
        let result = (method.result)(&mut generator);
        let described = json!({ "description": method.about, "params": params, "result": result });
        methods.insert(method.name.into(), described);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "spinblk control socket",
        "description": "JSON-RPC 2.0 over a unix stream socket; parameters by name.",
        "api_version": API_VERSION,
        "methods": methods,
        "$defs": generator.take_definitions(true),
    })
}
