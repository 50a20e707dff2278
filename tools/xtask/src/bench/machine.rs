//! What the figures were taken on, in a line.

use std::fs;

/// CPU, cores, kernel, and whether it is a virtual machine. No date: the line is the same as long as the machine is.
pub(super) fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    describe_from(&cpu, kernel.trim(), cores)
}

fn describe_from(cpu: &str, kernel: &str, cores: usize) -> String {
    let value = |key: &str| {
        let line = cpu.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let model = value("model name").unwrap_or("unknown CPU");
    let family = match (value("cpu family"), value("model")) {
        (Some(family), Some(model)) => format!(" (family {family} model {model})"),
        _ => String::new(),
    };
    let is_virtual = value("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let kind = if is_virtual { "virtual machine" } else { "bare metal" };
    format!("{model}{family}, {cores} cores, {kind}, Linux {kernel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_machine() {
        let cpu = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor sse\n";
        assert_eq!(
            describe_from(cpu, "6.1.0", 2),
            "Some CPU (family 25 model 17), 2 cores, virtual machine, Linux 6.1.0"
        );
        assert_eq!(describe_from("", "6.1.0", 4), "unknown CPU, 4 cores, bare metal, Linux 6.1.0");
    }
}
