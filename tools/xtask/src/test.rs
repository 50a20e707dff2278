//! `cargo xtask test`: everything that must hold, cheapest first; the first failure ends it.

use crate::cargo_tools;
use crate::error::Result;
use crate::lab::{Lab, Verdict};
use crate::packages::{Packages, TEST};
use crate::process::{command, run};
use crate::unpacked;
use crate::workspace::Workspace;
use labvm::scenarios::{Scenario, TABLE};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const STEP_LIMIT_S: u64 = 1500;
const DENY_VERSION: &str = "0.20.2";
const FUZZ_VERSION: &str = "0.13.2";
const FUZZ_SECONDS: u32 = 60;

/// What was counted.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    /// Whether nothing failed.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0
    }

    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let started = Instant::now();
        let result = work();
        let seconds = started.elapsed().as_secs_f64();
        match &result {
            Ok(()) => println!("== {name} passed in {seconds:.1} s"),
            Err(error) => println!("== {name} FAILED after {seconds:.1} s: {error}"),
        }
        self.count(result.is_ok());
        result
    }

    /// A machine that could not be run at all counts as one failure.
    fn lab_result<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            println!("== scenarios FAILED: {error}");
            self.count(false);
        }
        result
    }

    fn count(&mut self, passed: bool) {
        self.passed += usize::from(passed);
        self.failed += usize::from(!passed);
    }
}

/// Runs it all; the last line printed is the tally.
pub(crate) fn test() -> Result<Tally> {
    let workspace = Workspace::find()?;
    let mut tally = Tally::default();
    // An error is printed and counted where it happens.
    let _ = all(&workspace, &mut tally);
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally)
}

fn all(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    tally.step("packages", || Packages::new(workspace)?.ensure(TEST))?;
    tally.step("formatting", || cargo(workspace, &["fmt", "--all", "--check"]))?;
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    tally.step("lints", || cargo(workspace, &lints))?;
    tally.step("dependencies", || deny(workspace))?;
    tally.step("tests", || tests(workspace))?;
    tally.step("loom models", || loom(workspace))?;
    for target in &FUZZ_TARGETS {
        tally.step(&format!("fuzzing {}", target.name), || fuzz(workspace, target))?;
    }
    end_to_end(workspace, tally)
}

fn tests(workspace: &Workspace) -> Result<()> {
    let mut cargo = cargo_command(workspace, &["test", "--workspace"]);
    // A test has it look at our metrics.
    let promtool = unpacked::program(workspace, "prometheus", "promtool")?;
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let ours = promtool.parent().map(Path::to_owned).into_iter();
    let joined = std::env::join_paths(ours.chain(std::env::split_paths(&paths)));
    cargo.env("PATH", joined.unwrap_or(paths));
    run(cargo, STEP_LIMIT_S)
}

fn cargo_command(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut cargo = command("cargo", arguments);
    cargo.current_dir(&workspace.root);
    cargo
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    run(cargo_command(workspace, arguments), STEP_LIMIT_S)
}

fn deny(workspace: &Workspace) -> Result<()> {
    let program = cargo_tools::install(workspace, "cargo-deny", DENY_VERSION, &["--no-default-features"])?;
    let mut deny = command(&program.to_string_lossy(), ["check", "bans", "licenses", "sources"]);
    deny.current_dir(&workspace.root);
    run(deny, STEP_LIMIT_S)
}

/// In a target directory of its own: other flags would rebuild everything, twice.
fn loom(workspace: &Workspace) -> Result<()> {
    let mut cargo = cargo_command(
        workspace,
        &["test", "-p", "spinblk-reactor", "-p", "spinblk-perf", "--release", "--lib", "loom"],
    );
    cargo.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", workspace.target.join("loom"));
    run(cargo, STEP_LIMIT_S)
}

/// One fuzz target: the folder of its crate, its name, and libFuzzer's options.
struct FuzzTarget {
    folder: &'static str,
    name: &'static str,
    options: &'static [&'static str],
}

const FUZZ_TARGETS: [FuzzTarget; 5] = [
    FuzzTarget { folder: "virtio/fuzz", name: "split", options: &[] },
    FuzzTarget { folder: "virtio/fuzz", name: "packed", options: &[] },
    // Sessions are long; without these the fuzzer would try short ones for minutes.
    FuzzTarget { folder: "vhost-user/fuzz", name: "messages", options: &["-len_control=0", "-max_len=1024"] },
    // Chance alone makes no TOML.
    FuzzTarget {
        folder: "tools/spinblk/fuzz",
        name: "config",
        options: &[
            "-dict=tools/spinblk/fuzz/config.dict",
            "-seed_inputs=tools/spinblk/fuzz/seeds/stack.toml,tools/spinblk/fuzz/seeds/rules.toml,\
             tools/spinblk/example.toml",
        ],
    },
    FuzzTarget {
        folder: "tools/spinblk/fuzz",
        name: "control",
        options: &["-dict=tools/spinblk/fuzz/control.dict"],
    },
];

fn fuzz(workspace: &Workspace, target: &FuzzTarget) -> Result<()> {
    let folder = workspace.root.join(target.folder);
    let program = cargo_tools::install(workspace, "cargo-fuzz", FUZZ_VERSION, &[])?;
    let mut fuzz = command(&program.to_string_lossy(), ["run", "--fuzz-dir"]);
    fuzz.arg(&folder).args([target.name, "--"]).args(target.options);
    fuzz.args([&format!("-max_total_time={FUZZ_SECONDS}"), "-timeout=30", "-print_final_stats=1"]);
    // cargo-fuzz wants flags of the compiler that are not stable.
    fuzz.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", workspace.target.join("fuzz"));
    fuzz.current_dir(&workspace.root);
    run(fuzz, STEP_LIMIT_S)
}

fn end_to_end(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let mut lab = None;
    tally.step("lab", || {
        lab = Some(Lab::prepare(workspace, true)?);
        Ok(())
    })?;
    let Some(lab) = lab else { return Ok(()) };
    println!("== scenarios, in {}", lab.describe());
    let scenarios: Vec<&Scenario> = TABLE.iter().filter(|scenario| scenario.in_test).collect();
    let reports = tally.lab_result(lab.run(&scenarios, None))?;
    for report in &reports {
        tally.count(report.verdict == Verdict::Passed);
    }
    for report in reports.iter().filter(|report| report.verdict != Verdict::Passed) {
        println!("== {} FAILED after {:.1} s: {}", report.name, report.seconds, report.message);
        println!("   again: cargo xtask lab run {}", report.name);
    }
    Ok(())
}
