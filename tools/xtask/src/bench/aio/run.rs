//! One measurement of the file through one of the three.

use super::super::client::perf_figures;
use super::super::noise::Noise;
use super::super::raw::Load;
use super::super::servers::Server;
use super::super::watched::{WARM_UP, until_free, watch};
use crate::error::{Error, Result};
use crate::process::command;
use crate::programs::find;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Who does the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Fio,
    /// fio while the other core polls, as the load generator's does in front of a server. On a virtual machine that alone
    /// makes a disk slower: its host has less time for it.
    FioBeside,
    /// The load generator and the bdev, in one thread.
    Bdev,
    /// A server, and the load generator on the other core.
    Server,
}

/// What to measure: blocks of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) target: Target,
    pub(super) load: Load,
    pub(super) depth: u16,
}

/// What came out.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) case: Case,
    pub(super) repeat: u32,
    pub(super) iops: f64,
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    /// Threads to which io_uring gave what would have blocked.
    pub(super) io_workers: usize,
    pub(super) noise: Noise,
}

/// The programs, the file, the cores, and how long to measure.
pub(super) struct Bench {
    pub(super) spinblk: PathBuf,
    pub(super) file: PathBuf,
    pub(super) core: usize,
    pub(super) client_core: usize,
    pub(super) time: Duration,
    /// For logs, sockets and results.
    pub(super) folder: PathBuf,
}

impl Target {
    pub(super) const ALL: [Target; 4] = [Target::Fio, Target::FioBeside, Target::Bdev, Target::Server];

    pub(super) fn name(self) -> &'static str {
        match self {
            Target::Fio => "fio",
            Target::FioBeside => "fio, both cores busy",
            Target::Bdev => "spinblk, bdev alone",
            Target::Server => "spinblk, vhost-user",
        }
    }
}

impl Bench {
    /// Measures one case once. While another poller has a core, it waits.
    pub(super) fn measure(&self, case: Case, repeat: u32) -> Result<Measured> {
        let core = if case.target == Target::Server { self.client_core } else { self.core };
        until_free(core, || self.try_measure(case, repeat))
    }

    fn try_measure(&self, case: Case, repeat: u32) -> Result<Option<Measured>> {
        let result = self.folder.join("result.json");
        let _ = fs::remove_file(&result);
        let (server, line) = match case.target {
            Target::Fio => (None, self.fio(case, &result)?),
            Target::FioBeside => {
                let poller = Server::start_spinblk(
                    "type=null,size=1GiB",
                    &self.spinblk,
                    self.client_core,
                    &self.folder,
                )?;
                (Some(poller), self.fio(case, &result)?)
            }
            Target::Bdev => {
                let target = format!("aio:path={},direct=on", self.file.display());
                (None, self.perf(case, &target, self.core, &result))
            }
            Target::Server => {
                let disk = format!("type=aio,path={},direct=on", self.file.display());
                let server = Server::start_spinblk(&disk, &self.spinblk, self.core, &self.folder)?;
                let target = format!("vhost-user:{}", server.socket.display());
                (Some(server), self.perf(case, &target, self.client_core, &result))
            }
        };
        let process = server.as_ref().filter(|_| case.target == Target::Server).and_then(Server::process);
        let cores = [self.core, self.client_core];
        let watched = watch(&line, &cores, process, self.time, &self.folder)?;
        server.map_or(Ok(()), Server::stop)?;
        let Some(watched) = watched else { return Ok(None) };
        let text = fs::read_to_string(&result).map_err(Error::file("read", &result))?;
        let what = || format!("the result of {}", case.target.name());
        let value = serde_json::from_str(&text).map_err(|source| Error::Json { what: what(), source })?;
        let [iops, p50_ns, p99_ns, _] = match case.target {
            Target::Fio | Target::FioBeside => fio_figures(case.load, &value),
            Target::Bdev | Target::Server => perf_figures(&value),
        }
        .ok_or_else(|| Error::Lab(format!("{} lacks figures: {value}", what())))?;
        let (io_workers, noise) = (watched.io_workers, watched.noise);
        Ok(Some(Measured { case, repeat, iops, p50_ns, p99_ns, io_workers, noise }))
    }

    /// One job, a thread of fio's process; only it is pinned, so that what else fio does is elsewhere.
    fn fio(&self, case: Case, result: &Path) -> Result<Command> {
        let mut fio = command(
            &find("fio")?.to_string_lossy(),
            [
                "--name=bench",
                "--thread",
                "--ioengine=io_uring",
                "--direct=1",
                "--fixedbufs",
                "--registerfiles",
            ],
        );
        fio.args(["--bs=4k", "--norandommap", "--time_based", "--lat_percentiles=1", "--eta=never"]);
        fio.arg(format!("--rw={}", case.load.name())).arg(format!("--iodepth={}", case.depth));
        fio.arg(format!("--filename={}", self.file.display())).arg(format!("--cpus_allowed={}", self.core));
        fio.arg(format!("--ramp_time={}ms", WARM_UP.as_millis()));
        fio.arg(format!("--runtime={}ms", self.time.as_millis()));
        fio.arg("--output-format=json").arg(format!("--output={}", result.display()));
        Ok(fio)
    }

    fn perf(&self, case: Case, target: &str, core: usize, result: &Path) -> Command {
        let mut perf = command(&self.spinblk.to_string_lossy(), ["perf", "--bs", "4KiB", "--target", target]);
        perf.args(["--rw", case.load.name(), "--qd", &case.depth.to_string(), "--cores", &core.to_string()]);
        perf.args(["--warmup-s", &WARM_UP.as_secs_f64().to_string()]);
        perf.args(["--time-s", &self.time.as_secs_f64().to_string(), "--json"]).arg(result);
        perf
    }
}

/// IOPS, and p50, p99, p99.9 from submission to completion, as spinblk measures them.
fn fio_figures(load: Load, value: &Value) -> Option<[f64; 4]> {
    let direction = if load == Load::Randread { "read" } else { "write" };
    let all = &value["jobs"][0][direction];
    let percentile = |name: &str| all["lat_ns"]["percentile"][name].as_f64();
    let iops = all["iops"].as_f64().filter(|iops| *iops > 0.0)?;
    Some([iops, percentile("50.000000")?, percentile("99.000000")?, percentile("99.900000")?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_fio_prints_of_the_right_direction() {
        let percentile = json!({"50.000000": 2, "99.000000": 3, "99.900000": 4});
        let value = json!({"jobs": [{
            "read": {"iops": 0.0, "lat_ns": {"percentile": {}}},
            "write": {"iops": 1.5, "lat_ns": {"percentile": percentile}},
        }]});
        assert_eq!(fio_figures(Load::Randwrite, &value), Some([1.5, 2.0, 3.0, 4.0]));
        assert_eq!(fio_figures(Load::Randread, &value), None);
    }
}
