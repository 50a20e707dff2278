//! What disturbed a measurement: who else had the cores, and how often our threads lost them.
//!
//! ```text
//!   /proc/stat                   busy and stolen time of each core, in ticks
//!   /proc/PID/task/*/schedstat   time on a core, time ready but waiting for one
//!   /proc/PID/task/*/status      how often a thread was taken off its core
//!   /proc/PID/task/*/stat        on which core it ran
//! ```
//! Two looks, one at each end of a measurement; the difference counts. Time of others on a core is its busy time less
//! that of our threads there.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

/// From this share of a core or of a thread's time on, a measurement counts as disturbed.
pub(super) const DISTURBED_PERCENT: f64 = 2.0;
/// /proc/stat counts in ticks of 10 ms, whatever the kernel's own tick.
const TICK_NS: f64 = 1e7;
/// Place of the core's number in /proc/PID/task/TID/stat, counted from behind the name.
const STAT_PROCESSOR: usize = 36;

/// Whose threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Server,
    Client,
}

/// One look.
pub(super) struct Look {
    at: Instant,
    cores: Vec<CoreTimes>,
    threads: BTreeMap<(Role, u32), Thread>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct CoreTimes {
    busy_ticks: u64,
    stolen_ticks: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Thread {
    ran_ns: u64,
    waited_ns: u64,
    taken_off: u64,
    core: usize,
}

/// What happened between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Noise {
    /// Of each of the cores in question: the share that others had, and that the hypervisor kept.
    pub(super) others_percent: Vec<f64>,
    pub(super) stolen_percent: Vec<f64>,
    /// How often in a second a thread of ours was taken off its core.
    pub(super) server_switches_per_s: f64,
    pub(super) client_switches_per_s: f64,
    /// The share of the time that our threads were ready and waited.
    pub(super) server_waited_percent: f64,
    pub(super) client_waited_percent: f64,
}

impl Look {
    /// Looks at these cores and processes. What has ended is not there.
    pub(super) fn take(cores: &[usize], processes: &[(Role, u32)]) -> Look {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let cores = cores.iter().map(|&core| core_times(&stat, core).unwrap_or_default()).collect();
        let mut threads = BTreeMap::new();
        for &(role, process) in processes {
            let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
            let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            threads.extend(ids.filter_map(|id: u32| Some(((role, id), Thread::look(process, id)?))));
        }
        Look { at: Instant::now(), cores, threads }
    }

    /// What happened since an earlier look at the same things; `cores` as they were given there.
    pub(super) fn since(&self, earlier: &Look, cores: &[usize]) -> Noise {
        let window_ns = (self.at - earlier.at).as_nanos().max(1) as f64;
        let percent = |ns: f64| (100.0 * ns / window_ns).max(0.0);
        let both = || {
            let before = |key| earlier.threads.get(key).copied().unwrap_or_default();
            self.threads.iter().map(move |(key, now)| (key.0, before(key), now))
        };
        let sum = |role: Role, field: fn(&Thread) -> u64| {
            let of_role = both().filter(|(whose, ..)| *whose == role);
            of_role.map(|(_, before, now)| field(now).saturating_sub(field(&before))).sum::<u64>() as f64
        };
        let ours_ns = |core: usize| {
            let here = both().filter(|(.., now)| now.core == core);
            here.map(|(_, before, now)| now.ran_ns.saturating_sub(before.ran_ns)).sum::<u64>() as f64
        };
        let ticks = |now: u64, before: u64| now.saturating_sub(before) as f64 * TICK_NS;
        let pairs = || self.cores.iter().zip(&earlier.cores).zip(cores);
        Noise {
            others_percent: pairs()
                .map(|((now, before), &core)| {
                    percent(ticks(now.busy_ticks, before.busy_ticks) - ours_ns(core))
                })
                .collect(),
            stolen_percent: pairs()
                .map(|((now, before), _)| percent(ticks(now.stolen_ticks, before.stolen_ticks)))
                .collect(),
            server_switches_per_s: sum(Role::Server, |thread| thread.taken_off) * 1e9 / window_ns,
            client_switches_per_s: sum(Role::Client, |thread| thread.taken_off) * 1e9 / window_ns,
            server_waited_percent: percent(sum(Role::Server, |thread| thread.waited_ns)),
            client_waited_percent: percent(sum(Role::Client, |thread| thread.waited_ns)),
        }
    }
}

impl Noise {
    /// The worst of all shares.
    pub(super) fn worst_percent(&self) -> f64 {
        let cores = self.others_percent.iter().chain(&self.stolen_percent);
        cores.chain([&self.server_waited_percent, &self.client_waited_percent]).copied().fold(0.0, f64::max)
    }

    pub(super) fn is_disturbed(&self) -> bool {
        self.worst_percent() > DISTURBED_PERCENT
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "others_percent": self.others_percent,
            "stolen_percent": self.stolen_percent,
            "server_switches_per_s": self.server_switches_per_s,
            "client_switches_per_s": self.client_switches_per_s,
            "server_waited_percent": self.server_waited_percent,
            "client_waited_percent": self.client_waited_percent,
        })
    }
}

impl Thread {
    fn look(process: u32, id: u32) -> Option<Thread> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{process}/task/{id}/{name}")).ok();
        Thread::parse(&read("schedstat")?, &read("status")?, &read("stat")?)
    }

    fn parse(schedstat: &str, status: &str, stat: &str) -> Option<Thread> {
        let mut times = schedstat.split_whitespace().map(|word| word.parse().ok());
        let taken_off = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
        // The name is in brackets, and may hold anything.
        let behind_name = stat.rsplit_once(')')?.1;
        Some(Thread {
            ran_ns: times.next()??,
            waited_ns: times.next()??,
            taken_off: taken_off.trim().parse().ok()?,
            core: behind_name.split_whitespace().nth(STAT_PROCESSOR)?.parse().ok()?,
        })
    }
}

/// `cpuN user nice system idle iowait irq softirq steal guest guest_nice`; guest is part of user.
fn core_times(stat: &str, core: usize) -> Option<CoreTimes> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, stolen_ticks, ..] = ticks[..] else { return None };
    Some(CoreTimes { busy_ticks: user + nice + system + irq + softirq, stolen_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu10 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(core_times(stat, 0), Some(CoreTimes { busy_ticks: 19, stolen_ticks: 8 }));
        assert_eq!(core_times(stat, 1), None);
        let me = std::process::id();
        let look = Look::take(&[0], &[(Role::Server, me)]);
        assert!(!look.threads.is_empty(), "this process has threads");
    }

    #[test]
    fn others_are_what_is_not_ours() {
        let at = Instant::now();
        let look = |after_ms, busy_ticks, ran_ns| Look {
            at: at + Duration::from_millis(after_ms),
            cores: vec![CoreTimes { busy_ticks, stolen_ticks: 0 }],
            threads: [(
                (Role::Server, 7),
                Thread { ran_ns, waited_ns: 0, taken_off: ran_ns / 1000, core: 3 },
            )]
            .into(),
        };
        let noise = look(1000, 200, 900_000_000).since(&look(0, 100, 0), &[3]);
        assert_eq!(noise.others_percent, [10.0]);
        assert_eq!(noise.server_switches_per_s, 900_000.0);
        assert!(noise.is_disturbed());
        assert!(!look(1000, 190, 900_000_000).since(&look(0, 100, 0), &[3]).is_disturbed());
    }
}
