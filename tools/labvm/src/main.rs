//! `labvm`: init of the lab's guest, the process of each scenario, and on the host a list of scenarios.

use labvm::{Fail, blkio_client, init, run_scenario, scenarios};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::main();
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--list"] => list(),
        ["run", name] => run(name),
        ["write", path, value] => write(path, value),
        ["blkio", ref words @ ..] => blkio(words),
        _ => {
            eprintln!(
                "usage: labvm --list | run SCENARIO | write PATH VALUE | blkio DEVICE ... (inside the lab only, but the list)"
            );
            ExitCode::from(2)
        }
    }
}

fn list() -> ExitCode {
    for scenario in scenarios::TABLE {
        println!("{:<24} {}", scenario.name, scenario.what);
    }
    ExitCode::SUCCESS
}

fn run(name: &str) -> ExitCode {
    let Err(fail) = run_scenario(name) else { return ExitCode::SUCCESS };
    // Init reads the reason there, the host finds it among the results.
    let _ = std::fs::write(format!("/tmp/out/{name}/failure.txt"), fail.to_string());
    ExitCode::FAILURE
}

/// A write that the kernel may never return from, so callers run it as a bounded child.
fn write(path: &str, value: &str) -> ExitCode {
    let result = std::fs::write(path, value).map_err(|source| Fail::File {
        action: "write",
        path: path.into(),
        source,
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            eprintln!("{fail} (value {value})");
            ExitCode::FAILURE
        }
    }
}

fn blkio(words: &[&str]) -> ExitCode {
    match blkio_client::run(words) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(fail) => {
            eprintln!("{fail}");
            ExitCode::FAILURE
        }
    }
}
