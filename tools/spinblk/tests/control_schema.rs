//! The published schema: what the methods take and give is what it says, and the file in `docs` is up to date.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

mod control_rig;

use std::path::Path;

use control_rig::{fill, record, serve};
use jsonschema::Validator;
use serde_json::{Value, json};
use spinblk_cli::api::{METHODS, document};
use spinblk_cli::control::{Limits, names};
use spinblk_perf::OpKind;

/// A method's schema of its `params` or `result`.
fn validator(method: &str, end: &str) -> Validator {
    let document = document();
    let mut schema = document["methods"][method][end].clone();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$defs".into(), document["$defs"].clone());
    }
    jsonschema::draft202012::new(&schema).unwrap()
}

fn is_valid(method: &str, end: &str, value: &Value) -> bool {
    validator(method, end).is_valid(value)
}

const CHANGES: [&str; 6] = ["bdev_add", "bdev_remove", "disk_add", "disk_remove", "resize", "save_config"];

/// Parameters that are right.
fn examples(method: &str) -> Vec<Value> {
    match method {
        "stats" => vec![json!({}), json!({ "disk": "d0" }), json!({ "disk": null, "queue": 1 })],
        "histograms" => vec![
            json!({ "raw": true }),
            json!({ "disk": "d0", "queue": 0, "op": "read", "class": "to_4k", "stage": "pick_up" }),
        ],
        "slow" => vec![json!({}), json!({ "disk": "d0", "queue": 0, "op": "write_zeroes", "since": 5 })],
        "set_threshold" => {
            vec![json!({ "disk": "d0", "threshold": 5 }), json!({ "disk": "d1", "threshold": "auto" })]
        }
        "log_level" => vec![json!({ "filter": "debug" })],
        "disk_add" | "bdev_add" => vec![
            json!({ "keys": { "name": "d2", "type": "null", "size": 4096 } }),
            json!({ "toml": "[[disk]]" }),
            json!({ "flags": "name=d2,type=null,size=1M" }),
        ],
        "disk_remove" => vec![json!({ "disk": "d0" })],
        "bdev_remove" => vec![json!({ "bdev": "b0" })],
        "resize" => vec![json!({ "disk": "d0" }), json!({ "bdev": "b0", "size_bytes": 4096 })],
        "save_config" => vec![json!({}), json!({ "path": "/etc/s.toml" })],
        _ => vec![json!({})],
    }
}

#[test]
fn params_and_results_are_as_the_schema_says() {
    let served = serve(Limits::default());
    fill(&served.boards);
    OpKind::ALL.into_iter().for_each(|kind| record(&served.boards[2], kind, 1 << 20, 2_000_000, 1));
    let mut client = served.client();
    for method in names() {
        for params in examples(method) {
            assert!(is_valid(method, "params", &params), "{method} {params}");
            match client.call(method, params.clone()) {
                Ok(result) => {
                    let wrong =
                        validator(method, "result").iter_errors(&result).next().map(|e| e.to_string());
                    assert_eq!(wrong, None, "{method} {params}");
                    // The schema says enough to find that out.
                    assert!(method == "schema" || !is_valid(method, "result", &json!({})), "{method}");
                }
                // The log is not ours, and nobody makes changes; `control_change` has those.
                Err(error) => {
                    let alone = method == "log_level" || CHANGES.contains(&method);
                    assert!(alone && error["code"] == -32002, "{method} {params} {error}");
                }
            }
        }
        let unknown = json!({ "disk": "d0", "threshold": 1, "filter": "info", "unknown": 1 });
        assert!(!is_valid(method, "params", &unknown), "{method}");
        assert!(!is_valid(method, "params", &json!([])), "{method}");
        assert!(client.call(method, unknown).is_err(), "{method}");
    }
}

#[test]
fn the_schema_and_the_daemon_know_the_same_methods() {
    let described: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
    assert_eq!(described, names().collect::<Vec<_>>());
    let served = serve(Limits::default());
    assert_eq!(served.client().call("schema", json!({})).unwrap(), document());
    assert!(jsonschema::meta::is_valid(&document()));
}

#[test]
fn the_file_in_docs_is_this_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control-schema.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("SPINBLK_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let is_same = std::fs::read_to_string(&path).is_ok_and(|found| found == text);
    assert!(
        is_same,
        "docs/control-schema.json is not what the types say; look what changed, for clients rely on it, and write it \
         anew: SPINBLK_WRITE_SCHEMA=1 cargo test -p spinblk --test control_schema the_file_in_docs"
    );
}
