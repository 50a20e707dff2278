//! One measurement: a server, the load on it, and a look at the noise at both ends.
//!
//! ```text
//!   round trip ─► server ─► client ─► warm-up ─► look ─── measured ─── look ─► end of client ─► end of server
//! ```
//! The round trip between the two cores is measured first, for a moment: on a virtual machine it changes when the host
//! moves a core, and no two measurements with different ones can be compared.

use super::raw::{Case, Measured};
use super::servers::{Server, Target};
use super::watched::{WARM_UP, until_free, watch};
use crate::error::{Error, Result};
use crate::process::{command, output};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const ROUND_TRIP_S: f64 = 0.05;
const ROUND_TRIP_LIMIT_S: u64 = 30;

/// The programs, the cores, and how long to measure.
pub(super) struct Bench {
    pub(super) spinblk: PathBuf,
    /// The spinblk that serves, where it is another one than the load's.
    pub(super) server: Option<PathBuf>,
    pub(super) bare_ring: PathBuf,
    pub(super) client_core: usize,
    pub(super) server_core: usize,
    /// Whether requests are tables of descriptors.
    pub(super) indirect: bool,
    pub(super) time: Duration,
    /// For logs, sockets and results.
    pub(super) folder: PathBuf,
}

impl Bench {
    /// Measures one case once. While another poller has a core, it waits.
    pub(super) fn measure(&self, case: Case, repeat: u32) -> Result<Measured> {
        until_free(self.client_core, || self.try_measure(case, repeat))
    }

    /// `None` if another poller has the client's core.
    fn try_measure(&self, case: Case, repeat: u32) -> Result<Option<Measured>> {
        let round_trip_ns = self.round_trip_ns()?;
        let spinblk = self.server.as_ref().unwrap_or(&self.spinblk);
        let server = Server::start(case.target, spinblk, self.server_core, &self.folder)?;
        let result = self.folder.join("result.json");
        let _ = fs::remove_file(&result);
        let line = self.client(case, &server.socket, &result);
        // The server's first: that is the order of the columns in every table.
        let cores = [self.server_core, self.client_core];
        let Some(watched) = watch(&line, &cores, server.process(), self.time, &self.folder)? else {
            server.stop()?;
            return Ok(None);
        };
        let text = match case.target {
            // Its log has more than results in it.
            Target::BareRing => {
                watched.client.text().lines().find(|line| line.starts_with('{')).unwrap_or("").to_owned()
            }
            _ => fs::read_to_string(&result).map_err(Error::file("read", &result))?,
        };
        server.stop()?;
        let value = serde_json::from_str(&text).map_err(|source| Error::Json {
            what: format!("the result of {}", case.target.name()),
            source,
        })?;
        let [iops, p50_ns, p99_ns, p999_ns] = figures(case.target, &value).ok_or_else(|| {
            Error::Lab(format!("the result of {} lacks figures: {value}", case.target.name()))
        })?;
        let noise = watched.noise;
        Ok(Some(Measured { case, repeat, iops, p50_ns, p99_ns, p999_ns, round_trip_ns, noise }))
    }

    /// Of a bare ring at depth 1, the best of many moments.
    fn round_trip_ns(&self) -> Result<f64> {
        let text = output(self.bare_ring(1, ROUND_TRIP_S), ROUND_TRIP_LIMIT_S)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: "the result of bare-ring".to_owned(), source })?;
        value["best_round_trip_ns"]
            .as_f64()
            .ok_or_else(|| Error::Lab(format!("bare-ring prints no round trip: {value}")))
    }

    fn bare_ring(&self, depth: u16, seconds: f64) -> Command {
        let (depth, seconds) = (depth.to_string(), seconds.to_string());
        // As many as the load generator's chains take: the ring is to be as long as the servers' is.
        let entries = if self.indirect { "1" } else { "4" };
        let cores = format!("{},{}", self.client_core, self.server_core);
        let words = [
            "--json",
            "--traffic",
            "block",
            "--depth",
            &depth,
            "--cores",
            &cores,
            "--seconds",
            &seconds,
            "--entries",
            entries,
        ];
        command(&self.bare_ring.to_string_lossy(), words)
    }

    fn client(&self, case: Case, socket: &Path, result: &Path) -> Command {
        if case.target == Target::BareRing {
            // It needs no warm-up: what it counts as one is part of its time.
            return self.bare_ring(case.depth, (WARM_UP + self.time).as_secs_f64());
        }
        let mut perf =
            command(&self.spinblk.to_string_lossy(), ["perf", "--bs", "4KiB", "--rw", case.load.name()]);
        perf.args(["--target", &format!("vhost-user:{}", socket.display()), "--qd", &case.depth.to_string()]);
        perf.args(["--cores", &self.client_core.to_string()]);
        perf.args(["--warmup-s", &WARM_UP.as_secs_f64().to_string()]);
        perf.args(["--time-s", &self.time.as_secs_f64().to_string(), "--json"]).arg(result);
        if case.target == Target::NullPacked {
            perf.args(["--ring", "packed"]);
        }
        if self.indirect {
            perf.arg("--indirect");
        }
        perf
    }
}

/// Requests per second, and the latencies that we show.
fn figures(target: Target, value: &Value) -> Option<[f64; 4]> {
    if target == Target::BareRing {
        let round_trip_ns = value["median_round_trip_ns"].as_f64()?;
        return Some([value["requests_per_s"].as_f64()?, round_trip_ns, round_trip_ns, round_trip_ns]);
    }
    perf_figures(value)
}

/// Those of a result of `spinblk perf`.
pub(super) fn perf_figures(value: &Value) -> Option<[f64; 4]> {
    let all = &value["ops"]["all"];
    let figure = |name: &str| all[name].as_f64();
    Some([figure("iops")?, figure("p50_ns")?, figure("p99_ns")?, figure("p999_ns")?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_both_kinds_of_results() {
        let bare = json!({"requests_per_s": 5e6, "median_round_trip_ns": 200.0});
        assert_eq!(figures(Target::BareRing, &bare), Some([5e6, 200.0, 200.0, 200.0]));
        let perf = json!({"ops": {"all": {"iops": 1.5, "p50_ns": 2, "p99_ns": 3, "p999_ns": 4}}});
        assert_eq!(figures(Target::Null, &perf), Some([1.5, 2.0, 3.0, 4.0]));
        assert_eq!(figures(Target::Null, &bare), None);
    }
}
