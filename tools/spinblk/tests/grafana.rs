//! The Grafana board asks for nothing that the metrics endpoint does not give.

#![allow(clippy::unwrap_used, missing_docs)]

mod control_rig;

use std::collections::BTreeSet;
use std::path::Path;

use control_rig::{fill, state};
use serde_json::Value;
use spinblk_cli::metrics::render;

/// All texts of this key, however deep.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == key => found.push(text),
            value => texts(value, key, found),
        }),
        Value::Array(list) => list.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

/// Words that begin as our metrics do.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("spinblk_"))
}

/// `label="` or `label=~"` or `label!="` within braces, and the labels of `by (...)`.
fn labels(expression: &str) -> BTreeSet<&str> {
    let matchers = expression.split(['{', '}']).skip(1).step_by(2).flat_map(|inside| inside.split(','));
    let matched = matchers.map(|matcher| matcher.split(['=', '!']).next().unwrap_or_default());
    let lists = expression.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap_or_default());
    let grouped = lists.flat_map(|list| list.split(','));
    matched.chain(grouped).map(str::trim).filter(|label| !label.is_empty()).collect()
}

#[test]
fn every_name_of_the_board_is_a_metric_with_such_labels() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana/spinblk.json");
    let board: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (state, boards) = state();
    fill(&boards);
    let text = render(&state);
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let name_of = |sample: &str| sample.split(['{', ' ']).next().unwrap_or_default().to_string();
    let known: BTreeSet<String> = samples.iter().map(|sample| name_of(sample)).collect();

    let mut expressions = Vec::new();
    texts(&board["panels"], "expr", &mut expressions);
    assert!(expressions.len() > 10, "{expressions:?}");
    for expression in &expressions {
        assert!(names(expression).next().is_some(), "{expression}");
        for name in names(expression) {
            assert!(known.contains(name), "{name} is no metric: {expression}");
            let sample = samples.iter().find(|sample| name_of(sample) == name).unwrap();
            for label in labels(expression) {
                assert!(sample.contains(&format!("{label}=\"")), "{name} has no label {label}: {expression}");
            }
        }
    }
    let mut queries = Vec::new();
    texts(&board["templating"], "query", &mut queries);
    assert!(queries.iter().flat_map(|query| names(query)).all(|name| known.contains(name)), "{queries:?}");

    // What the board is for.
    let all = expressions.join("\n");
    for wanted in [
        "spinblk_ios_total",
        "spinblk_io_bytes_total",
        "spinblk_io_errors_total",
        "spinblk_request_duration_seconds_bucket",
        "spinblk_reactor_busy_seconds_total",
        "spinblk_slow_requests_total",
    ] {
        assert!(all.contains(wanted), "{wanted} is not on the board");
    }
}

#[test]
fn the_rule_finds_names_and_labels() {
    let expression = "histogram_quantile(0.5, sum by (le, disk) (rate(spinblk_x_bucket{disk=~\"$disk\",stage!=\"total\"}[1m])))";
    assert_eq!(names(expression).collect::<Vec<_>>(), ["spinblk_x_bucket"]);
    assert_eq!(labels(expression).into_iter().collect::<Vec<_>>(), ["disk", "le", "stage"]);
}
