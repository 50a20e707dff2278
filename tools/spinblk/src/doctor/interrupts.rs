//! Checks of what disturbs isolated cores although the scheduler leaves them alone: interrupts and the kernel's workqueues.

use super::cpu::{CPU, parse_list};
use super::{Check, Host, Status};

const IRQS: &str = "/proc/irq";
const WORKQUEUES: &str = "/sys/devices/virtual/workqueue/cpumask";
/// Interrupts that are named before the rest is only counted.
const NAMED: usize = 4;

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let list = host.read(&format!("{CPU}/isolated")).unwrap_or_default();
    let isolated = parse_list(&list);
    vec![interrupts(host, &isolated), workqueues(host, &isolated)]
}

fn interrupts(host: &Host, isolated: &[usize]) -> Check {
    let (name, why) = ("interrupts", "each one on a reactor's core makes the requests of that moment wait");
    if isolated.is_empty() {
        return Check::ok(name, "no isolated cores to keep them off", why);
    }
    // The kernel's own choice among the allowed cores; where it does not tell, all that are allowed.
    let goes_to = |irq: &String| {
        let list = |file: &str| host.read(&format!("{IRQS}/{irq}/{file}")).filter(|list| !list.is_empty());
        list("effective_affinity_list").or_else(|| list("smp_affinity_list")).unwrap_or_default()
    };
    let mut there = host.names_in(IRQS);
    there.retain(|irq| {
        irq.bytes().all(|b| b.is_ascii_digit())
            && parse_list(&goes_to(irq)).iter().any(|core| isolated.contains(core))
    });
    if there.is_empty() {
        return Check::ok(name, "none goes to an isolated core", why);
    }
    there.sort_unstable_by_key(|irq| irq.parse::<u32>().unwrap_or(u32::MAX));
    let more = if there.len() > NAMED { ", ..." } else { "" };
    let found = format!(
        "{} may go to isolated cores: {}{more}",
        there.len(),
        there[..there.len().min(NAMED)].join(", ")
    );
    let fix = "echo CORES >/proc/irq/N/smp_affinity_list with the other cores, and stop irqbalance or ban it from these \
               (IRQBALANCE_BANNED_CPULIST); for good: irqaffinity=CORES on the kernel command line. Those of NVMe \
               queues cannot be moved; isolcpus=managed_irq,... keeps them off";
    Check::bad(Status::Warning, name, found, why, fix)
}

fn workqueues(host: &Host, isolated: &[usize]) -> Check {
    let (name, why) =
        ("kernel workqueues", "the kernel's unbound work may run on a reactor's core otherwise");
    let mask = host.read(WORKQUEUES).unwrap_or_default();
    let shared = isolated.iter().filter(|core| mask_has(&mask, **core)).count();
    if shared == 0 {
        let found =
            if isolated.is_empty() { "no isolated cores to keep it off" } else { "off isolated cores" };
        return Check::ok(name, found, why);
    }
    let found = format!("the mask {mask} has {shared} isolated core(s)");
    let fix = format!("write a mask without the isolated cores: echo MASK >{WORKQUEUES}");
    Check::bad(Status::Warning, name, found, why, fix)
}

/// Whether a core is in a mask as the kernel writes it: hexadecimal words of 32 bits, the highest first, with commas.
fn mask_has(mask: &str, core: usize) -> bool {
    let word = mask.rsplit(',').nth(core / 32).and_then(|word| u32::from_str_radix(word.trim(), 16).ok());
    word.is_some_and(|word| word & (1 << (core % 32)) != 0)
}

#[cfg(test)]
mod tests {
    use super::mask_has;

    #[test]
    fn masks_have_their_lowest_word_last() {
        assert!(mask_has("5", 0) && !mask_has("5", 1) && mask_has("5", 2));
        assert!(mask_has("00000001,00000000", 32) && !mask_has("00000001,00000000", 0));
        assert!(!mask_has("ffffffff", 32) && !mask_has("", 0) && !mask_has("x", 0));
    }
}
