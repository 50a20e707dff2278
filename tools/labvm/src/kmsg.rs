//! The kernel's log, and whether the kernel complained in it.

use crate::fail::Fail;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const DEVICE: &str = "/dev/kmsg";
/// What the kernel prints when something in it is wrong.
const COMPLAINTS: [&str; 10] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "general protection fault",
    "blocked for more than",
    "scheduling while atomic",
    "refcount_t:",
    "UBSAN:",
    // A stall of RCU: what it was and where is said before any trace.
    "rcu: ",
    "Call Trace:",
];

/// A place in the kernel's log; reads what was logged after it.
pub(crate) struct Kmsg {
    device: File,
}

impl Kmsg {
    /// From now on.
    pub(crate) fn from_here() -> Result<Kmsg, Fail> {
        let path = Path::new(DEVICE);
        let mut device = File::options()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(Fail::file("open", path))?;
        device.seek(SeekFrom::End(0)).map_err(Fail::file("seek in", path))?;
        Ok(Kmsg { device })
    }

    /// The lines logged since the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = vec![0u8; 8192];
        loop {
            match self.device.read(&mut record) {
                Ok(0) => return lines,
                Ok(len_bytes) => lines.push(message_of(&String::from_utf8_lossy(&record[..len_bytes]))),
                // EPIPE: records were overwritten before they were read; the next read goes on after the gap.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(_) => return lines,
            }
        }
    }
}

/// The text of a record `level,sequence,time,flags;text\n KEY=value…`.
fn message_of(record: &str) -> String {
    let text = record.split_once(';').map_or(record, |(_, text)| text);
    text.lines().next().unwrap_or_default().to_owned()
}

/// The first line with which the kernel complains, and what follows it.
pub(crate) fn complaint(lines: &[String]) -> Option<String> {
    let first = lines.iter().position(|line| COMPLAINTS.iter().any(|word| line.contains(word)))?;
    Some(lines[first..].iter().take(60).map(String::as_str).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_text_out_of_a_record() {
        assert_eq!(message_of("6,339,5140900,-;vda: vda1\n SUBSYSTEM=block\n"), "vda: vda1");
        assert_eq!(message_of("no separator"), "no separator");
    }

    #[test]
    fn finds_complaints_only() {
        let quiet = ["virtio_blk virtio1: [vda] 2048 blocks".to_owned()];
        assert_eq!(complaint(&quiet), None);
        let loud = ["fine".to_owned(), "WARNING: CPU: 0 at kernel/x.c:1".to_owned(), "more".to_owned()];
        assert_eq!(complaint(&loud).unwrap(), "WARNING: CPU: 0 at kernel/x.c:1\nmore");
        let stall =
            ["rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:".to_owned(), "Call Trace:".to_owned()];
        assert_eq!(complaint(&stall).unwrap(), stall.join("\n"));
    }
}
