//! Checks of the cores: how many, how quiet, how fast, and the clock that stamps requests.

use spinblk_perf::Clock;

use super::{Check, Host, Status};

pub(super) const CPU: &str = "/sys/devices/system/cpu";

pub(super) fn checks(host: &Host) -> Vec<Check> {
    vec![cores(host), isolation(host), siblings(host), governor(host), clock()]
}

fn cores(host: &Host) -> Check {
    let why = "a reactor takes a core whole, and one core must be left for everything else";
    let allowed = host.status_field("Cpus_allowed_list").unwrap_or_default();
    let count = parse_list(&allowed).len();
    let found = format!("{count} usable ({allowed})");
    if count >= 2 {
        return Check::ok("cores", found, why);
    }
    let fix = "give this machine or container at least two cores (docker run --cpuset-cpus=0-1)";
    Check::bad(Status::Warning, "cores", found, why, fix)
}

fn isolation(host: &Host) -> Check {
    let why = "nothing else runs on isolated cores, so that tail latencies stay short";
    let list = |file: &str| host.read(&format!("{CPU}/{file}")).unwrap_or_default();
    let (isolated, tickless) = (list("isolated"), list("nohz_full"));
    let isolated_cores = parse_list(&isolated);
    let tickless_cores = parse_list(&tickless);
    if isolated_cores.is_empty() {
        let last = host.status_field("Cpus_allowed_list").and_then(|list| parse_list(&list).last().copied());
        let core = last.unwrap_or(1);
        let fix = format!(
            "add to the kernel command line, for the reactors' cores: isolcpus=managed_irq,domain,{core} \
             nohz_full={core} rcu_nocbs={core}"
        );
        return Check::bad(Status::Warning, "isolated cores", "none", why, fix);
    }
    if isolated_cores.iter().all(|core| tickless_cores.contains(core)) {
        return Check::ok("isolated cores", format!("{isolated}, without timer ticks"), why);
    }
    let found = format!("{isolated}, but with timer ticks (nohz_full: {})", or_none(&tickless));
    let fix = format!("add to the kernel command line: nohz_full={isolated} rcu_nocbs={isolated}");
    Check::bad(Status::Warning, "isolated cores", found, why, fix)
}

fn siblings(host: &Host) -> Check {
    let why = "two hyper-threads share one core's speed";
    if host.read(&format!("{CPU}/smt/active")).as_deref() != Some("1") {
        return Check::ok("hyper-threads", "one thread per core", why);
    }
    let mut pairs: Vec<String> = cpu_dirs(host)
        .filter_map(|cpu| host.read(&format!("{CPU}/{cpu}/topology/thread_siblings_list")))
        .collect();
    pairs.sort_unstable_by_key(|pair| parse_list(pair).first().copied());
    pairs.dedup();
    let found = format!("sharing a core: {}", pairs.join("; "));
    let fix = "give reactors cores of different pairs and leave the siblings idle, or: echo off \
               >/sys/devices/system/cpu/smt/control";
    Check::bad(Status::Warning, "hyper-threads", found, why, fix)
}

fn governor(host: &Host) -> Check {
    let why = "a core that changes its speed blurs latencies";
    let mut names: Vec<String> = cpu_dirs(host)
        .filter_map(|cpu| host.read(&format!("{CPU}/{cpu}/cpufreq/scaling_governor")))
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => Check::ok("cpufreq governor", "none (a virtual machine, or the firmware decides)", why),
        [only] if only == "performance" => Check::ok("cpufreq governor", only, why),
        _ => {
            let fix = "cpupower frequency-set -g performance";
            Check::bad(Status::Warning, "cpufreq governor", names.join(", "), why, fix)
        }
    }
}

fn clock() -> Check {
    let why = "stamps every request several times";
    match Clock::get().source() {
        "tsc" => Check::ok("clock", "invariant TSC", why),
        other => {
            let fix = "on a virtual machine pass the invariant TSC through (QEMU: -cpu host,+invtsc)";
            Check::bad(Status::Warning, "clock", format!("{other}, some 20 ns a stamp"), why, fix)
        }
    }
}

fn cpu_dirs(host: &Host) -> impl Iterator<Item = String> {
    host.names_in(CPU).into_iter().filter(|name| {
        name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn or_none(list: &str) -> &str {
    if list.is_empty() { "none" } else { list }
}

/// The kernel's list form, such as `0-3,7`. What is none (`(null)` in some kernels) is empty.
pub(super) fn parse_list(list: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            cores.extend(first..=last.min(first.saturating_add(4096)));
        }
    }
    cores
}
