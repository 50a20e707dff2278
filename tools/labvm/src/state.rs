//! The kernel's side of things, read from proc, sysfs and devfs: what is open, mapped, left behind.

use std::fs;
use std::path::Path;

/// The names in a directory, sorted; none if it is not there.
pub(crate) fn names_in(directory: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A small file's text without white space around it; empty if it cannot be read.
pub(crate) fn text_of(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// How many descriptors a process has open.
pub(crate) fn open_fds(pid: u32) -> usize {
    names_in(format!("/proc/{pid}/fd")).len()
}

/// How many mappings a process has.
pub(crate) fn mappings(pid: u32) -> usize {
    fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default().lines().count()
}

/// The VDUSE devices that exist.
pub(crate) fn vduse_nodes() -> Vec<String> {
    names_in("/dev/vduse").into_iter().filter(|name| name != "control").collect()
}

/// What a finished scenario must not leave behind, in words; `None` when all is clean.
pub(crate) fn leftovers() -> Option<String> {
    let vdpa = names_in(crate::vdpa::DEVICES);
    if !vdpa.is_empty() {
        return Some(format!("vDPA devices still attached: {}", vdpa.join(", ")));
    }
    let nodes = vduse_nodes();
    (!nodes.is_empty()).then(|| format!("VDUSE devices still there: {}", nodes.join(", ")))
}

/// The user processes, except init and the caller.
pub(crate) fn processes() -> Vec<u32> {
    let own = std::process::id();
    names_in("/proc")
        .iter()
        .filter_map(|name| name.parse::<u32>().ok())
        .filter(|pid| *pid > 1 && *pid != own && is_user_process(*pid))
        .collect()
}

/// Kernel threads have no executable.
fn is_user_process(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// Every user process, its state, and the kernel stack of those that are stuck in the kernel.
pub(crate) fn process_report() -> String {
    processes().into_iter().map(describe_process).collect()
}

fn describe_process(pid: u32) -> String {
    let name = text_of(format!("/proc/{pid}/comm"));
    let mut report = String::new();
    for task in names_in(format!("/proc/{pid}/task")) {
        let state = state_letter(&text_of(format!("/proc/{pid}/task/{task}/stat")));
        report += &format!("  {state} {pid}/{task} {name}\n");
        if state == 'D' {
            let stack = text_of(format!("/proc/{pid}/task/{task}/stack"));
            report += &stack.lines().map(|line| format!("      {line}\n")).collect::<String>();
        }
    }
    report
}

/// The state in a line of `/proc/PID/stat`: the first letter after the name, which may itself hold brackets.
fn state_letter(stat: &str) -> char {
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_state_after_an_awkward_name() {
        assert_eq!(state_letter("12 (a) b) D 1 12 12"), 'D');
        assert_eq!(state_letter(""), '?');
    }

    #[test]
    fn counts_what_this_process_holds() {
        let before = open_fds(std::process::id());
        let file = fs::File::open("/proc/self/maps").unwrap();
        assert!(open_fds(std::process::id()) > before || before == 0);
        drop(file);
        assert!(mappings(std::process::id()) > 3);
    }
}
