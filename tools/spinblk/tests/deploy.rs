//! The files of `deploy/`: the program takes what the unit gives it, systemd takes the unit, and the example is a
//! configuration.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use clap::Parser;
use spinblk_cli::cli::{Cli, Command as Task};
use spinblk_cli::config::{Config, Via};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

/// The values of a key, in every section of the unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    unit.lines().filter_map(value).collect()
}

#[test]
fn the_unit_starts_a_command_line_that_the_program_takes() {
    let unit = std::fs::read_to_string(deploy("spinblk.service")).unwrap();
    let start = values(&unit, "ExecStart");
    assert_eq!(start.len(), 1);
    let cli = Cli::try_parse_from(start[0].split_whitespace()).unwrap();
    let Task::Serve(args) = cli.command else { panic!("{start:?}") };
    // Both places are directories that the unit has systemd make.
    assert!(args.config.unwrap().starts_with("/etc/spinblk"));
    assert!(args.control.unwrap().starts_with("/run/spinblk/"));
    assert_eq!(values(&unit, "ConfigurationDirectory"), ["spinblk"]);
    assert_eq!(values(&unit, "RuntimeDirectory"), ["spinblk"]);
    for (key, value) in [
        ("Type", "notify"),
        ("Restart", "always"),
        ("WatchdogSec", "10"),
        ("OOMScoreAdjust", "-1000"),
        ("LimitMEMLOCK", "infinity"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("KillMode", "process"),
    ] {
        assert_eq!(values(&unit, key), [value], "{key}");
    }
    // Each of these would take the devices away, which are all that the service is for.
    for key in ["PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"] {
        assert!(values(&unit, key).is_empty(), "{key}");
    }
}

#[test]
fn systemd_takes_the_unit() {
    let unit = std::fs::read_to_string(deploy("spinblk.service")).unwrap();
    // It looks whether the program is there.
    let unit = unit.replace("=/usr/bin/spinblk ", &format!("={} ", cargo_bin("spinblk").display()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spinblk.service");
    std::fs::write(&path, unit).unwrap();
    let output = match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
        Ok(output) => output,
        // A machine without systemd; the other tests look at what they can.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => panic!("{e}"),
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    // Keys that it does not know are told, but are no failure to it.
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("spinblk.service")).collect();
    assert!(about_ours.is_empty(), "{about_ours:?}");
}

#[test]
fn the_example_is_a_configuration_for_containers_and_machines() {
    let config = Config::from_file(&deploy("spinblk.toml")).unwrap();
    assert!(config.disks.iter().any(|disk| matches!(disk.via, Via::Vduse { .. })));
    let sockets: Vec<&PathBuf> = config
        .disks
        .iter()
        .filter_map(|disk| match &disk.via {
            Via::VhostUser { socket } => Some(socket),
            Via::Vduse { .. } => None,
        })
        .collect();
    assert!(sockets.iter().all(|socket| socket.starts_with("/run/spinblk")) && !sockets.is_empty());
}
