//! What is no vhost-vdpa device is refused, with the way out. The load itself needs the kernel's help: see the lab's
//! scenario `vhost-vdpa-perf`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use spinblk_load::{RingFormat, RingOptions, VhostVdpa};

const OPTIONS: RingOptions = RingOptions {
    queues: 1,
    depth: 8,
    block_bytes: 4096,
    format: RingFormat::Split,
    indirect: false,
    event_idx: true,
};

fn refusal(path: &Path, options: RingOptions) -> String {
    let error = VhostVdpa::open(path, options).err().unwrap().to_string();
    assert!(error.contains(&path.display().to_string()) && error.lines().count() == 1, "{error}");
    error
}

#[test]
fn what_is_no_such_device_is_told_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("vhost-vdpa-9");
    let error = refusal(&none, OPTIONS);
    assert!(error.contains("driver=vhost-vdpa"), "{error}");
    std::fs::write(&none, "a plain file").unwrap();
    for path in [&none, Path::new("/dev/null")] {
        let error = refusal(path, OPTIONS);
        assert!(error.contains("it is no vhost-vdpa device"), "{error}");
    }
    refusal(dir.path(), OPTIONS);
    assert_eq!(std::fs::read_to_string(&none).unwrap(), "a plain file");
}

#[test]
fn a_depth_that_no_ring_holds_is_refused_before_the_device_is_touched() {
    let error = refusal(Path::new("/dev/null"), RingOptions { depth: 4097, ..OPTIONS });
    assert!(error.contains("--qd 4097: allowed: 1 to 4096"), "{error}");
}
