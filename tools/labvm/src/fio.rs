//! fio: building a job, running it bounded, reading its JSON.

use crate::command::{Cmd, Job, tail};
use crate::container::Container;
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Time for fio to start, lay out and report, on top of the time that the job itself takes.
const SLACK_S: u64 = 120;

/// One fio job on one block device.
#[derive(Clone)]
pub(crate) struct FioJob {
    name: String,
    options: Vec<String>,
    limit_s: u64,
}

impl FioJob {
    /// A direct, unlimited io_uring job with one queued request.
    pub(crate) fn new(name: &str, device: &Path, rw: &str, block_size: &str) -> FioJob {
        let job = FioJob { name: name.to_owned(), options: Vec::new(), limit_s: SLACK_S };
        let size_option = if block_size.contains('-') { "bsrange" } else { "bs" };
        job.set("name", name)
            .set("filename", device.display())
            .set("rw", rw)
            .set(size_option, block_size)
            .set("ioengine", "io_uring")
            .set("direct", 1)
            .set("randseed", 42)
    }

    /// Any option of fio.
    pub(crate) fn set(mut self, option: &str, value: impl std::fmt::Display) -> FioJob {
        self.options.push(format!("--{option}={value}"));
        self
    }

    pub(crate) fn depth(self, iodepth: u32) -> FioJob {
        self.set("iodepth", iodepth)
    }

    /// Runs for this long, whatever the size.
    pub(crate) fn seconds(mut self, runtime_s: u64) -> FioJob {
        self.limit_s = runtime_s + SLACK_S;
        self.set("time_based", 1).set("runtime", runtime_s)
    }

    /// Writes with a checksum in every block, then reads everything back and compares.
    pub(crate) fn verify(self) -> FioJob {
        self.set("verify", "crc32c").set("do_verify", 1).set("verify_fatal", 1).set("verify_state_save", 0)
    }

    /// Several processes, each with its own part of the device.
    pub(crate) fn jobs(self, count: u32, part_mib: u32) -> FioJob {
        self.set("numjobs", count)
            .set("size", format!("{part_mib}M"))
            .set("offset_increment", format!("{part_mib}M"))
            .set("group_reporting", 1)
    }

    /// Its processes are dealt over CPUs 0 and 1, and so over two queues.
    pub(crate) fn on_both_cpus(self) -> FioJob {
        self.set("cpus_allowed", "0-1").set("cpus_allowed_policy", "split")
    }

    fn words(&self, format: &str) -> Vec<String> {
        let mut words = vec!["fio".to_owned(), "--eta=never".to_owned()];
        words.extend(self.options.iter().cloned());
        words.push(format!("--output-format={format}"));
        words
    }

    fn command(&self, format: &str) -> Cmd {
        let words = self.words(format);
        Cmd::new(&words[0]).args(words[1..].iter().cloned()).limit_s(self.limit_s)
    }

    fn command_in(&self, container: &Container, format: &str) -> Result<Cmd, Fail> {
        // Without privileges it may not drop the device's page cache, which it does not use.
        let words = self.clone().set("invalidate", 0).words(format);
        Ok(container.command(&words, &[])?.limit_s(self.limit_s))
    }

    /// Runs it to the end; fails unless fio found no error at all.
    pub(crate) fn run(&self, lab: &Lab) -> Result<FioResult, Fail> {
        self.result(lab, self.command("json"))
    }

    /// The same in a container.
    pub(crate) fn run_in(&self, lab: &Lab, container: &Container) -> Result<FioResult, Fail> {
        self.result(lab, self.command_in(container, "json")?)
    }

    fn result(&self, lab: &Lab, command: Cmd) -> Result<FioResult, Fail> {
        let text = command.run()?;
        lab.save(&format!("fio-{}.json", self.name), &text)?;
        let result = self.parse(&text)?;
        ensure!(result.error == 0, "fio job {} reports error {}", self.name, result.error);
        Ok(result)
    }

    /// Runs it and prints what fio itself prints to people.
    pub(crate) fn run_aloud(&self) -> Result<(), Fail> {
        println!("{}", self.command("normal").run()?);
        Ok(())
    }

    /// The same in a container.
    pub(crate) fn run_aloud_in(&self, container: &Container) -> Result<(), Fail> {
        println!("{}", self.command_in(container, "normal")?.run()?);
        Ok(())
    }

    /// Starts it in the background.
    pub(crate) fn start(&self) -> Result<RunningFio, Fail> {
        Ok(RunningFio { process: self.command("json").spawn()?, limit_s: self.limit_s, job: self.clone() })
    }

    fn parse(&self, text: &str) -> Result<FioResult, Fail> {
        let document = parse(text).map_err(|source| Fail::Json {
            what: format!("the JSON of fio job {}, which ends with:\n{}\n", self.name, tail(text)),
            source,
        })?;
        document
            .jobs
            .into_iter()
            .next()
            .ok_or_else(|| Fail::Check(format!("fio ran no job for {}", self.name)))
    }
}

/// A job in the background.
pub(crate) struct RunningFio {
    process: Job,
    limit_s: u64,
    job: FioJob,
}

impl RunningFio {
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// Waits for its end; I/O errors are allowed, hanging is not.
    pub(crate) fn finish_with_errors_allowed(&mut self) -> Result<(), Fail> {
        self.process.finish(self.limit_s).map(drop)
    }

    /// Waits for its end; no error is allowed.
    pub(crate) fn finish(&mut self) -> Result<FioResult, Fail> {
        let output = self.process.finish(self.limit_s)?;
        ensure!(
            output.status.success(),
            "fio job {} ended with {}:\n{}",
            self.job.name,
            output.status,
            tail(&output.text)
        );
        self.job.parse(&output.text)
    }
}

#[derive(Debug, Deserialize)]
struct Document {
    jobs: Vec<FioResult>,
}

/// What fio measured in one job (or in one group of jobs).
#[derive(Debug, Deserialize)]
pub(crate) struct FioResult {
    pub(crate) error: i64,
    pub(crate) read: Side,
    pub(crate) write: Side,
}

/// One direction of a job.
#[derive(Debug, Deserialize)]
pub(crate) struct Side {
    pub(crate) iops: f64,
    pub(crate) total_ios: u64,
    pub(crate) io_bytes: u64,
    clat_ns: Latency,
}

#[derive(Debug, Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: BTreeMap<String, u64>,
}

impl Side {
    /// A completion-latency percentile in ns, such as `percentile_ns(99.0)`; 0 if there was no I/O.
    pub(crate) fn percentile_ns(&self, percent: f64) -> u64 {
        self.clat_ns.percentile.get(&format!("{percent:.6}")).copied().unwrap_or(0)
    }
}

/// The JSON in fio's output; notes may stand before it.
fn parse(text: &str) -> Result<Document, serde_json::Error> {
    let start = text.find("\n{").map_or(0, |at| at + 1);
    serde_json::from_str(&text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"note: both iodepth >= 1 and synchronous I/O engine
{ "fio version": "fio-3.33", "jobs": [ { "error": 0,
  "read": {"iops": 1234.5, "total_ios": 99, "io_bytes": 4096, "bw": 7,
           "clat_ns": {"min": 1, "percentile": {"50.000000": 2000, "99.000000": 9000}}},
  "write": {"iops": 0.0, "total_ios": 0, "io_bytes": 0, "clat_ns": {"min": 0}} } ] }"#;

    #[test]
    fn reads_rates_and_percentiles() {
        let job = &parse(SAMPLE).unwrap().jobs[0];
        assert_eq!((job.error, job.read.total_ios), (0, 99));
        assert_eq!((job.read.percentile_ns(50.0), job.read.percentile_ns(99.0)), (2000, 9000));
        assert_eq!(job.write.percentile_ns(50.0), 0);
    }

    #[test]
    fn builds_options() {
        let job = FioJob::new("w", Path::new("/dev/vda"), "randwrite", "4k-256k").depth(32).seconds(3);
        assert!(job.options.contains(&"--bsrange=4k-256k".to_owned()));
        assert!(job.options.contains(&"--iodepth=32".to_owned()));
        assert_eq!(job.limit_s, 3 + SLACK_S);
    }
}
