//! Files that are created when they are missing, and left alone when they are not.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Bench, disk_dir, file_in, pattern};
use spinblk_bdev::{Aio, AioOptions, Bdev, Direct};

const MIB: u64 = 1 << 20;

fn sized(create_bytes: u64) -> AioOptions {
    AioOptions { create_bytes: Some(create_bytes), ..AioOptions::default() }
}

fn text_of_failure(path: &Path, options: AioOptions) -> String {
    Aio::open("d0", path, options).unwrap_err().to_string()
}

#[test]
fn a_missing_file_is_created_and_found_again() {
    let dir = tempfile::tempdir_in(disk_dir()).unwrap();
    let path = dir.path().join("disk.img");
    for direct in [Direct::Auto, Direct::Off] {
        let bdev = Aio::open("d0", &path, AioOptions { direct, ..sized(MIB) }).unwrap();
        assert_eq!(bdev.info().size_bytes(), MIB);
        let mut bench = Bench::new(&bdev, 1);
        if direct == Direct::Auto {
            assert_eq!(bench.read(MIB - 4096, 4096).unwrap(), [0; 4096]);
            bench.write(4096, &pattern(1, 8192)).unwrap();
        }
        assert_eq!(bench.read(4096, 8192).unwrap(), pattern(1, 8192), "{direct:?}");
    }
    let read_only = AioOptions { read_only: true, ..sized(MIB) };
    let bdev = Aio::open("d0", &path, read_only).unwrap();
    assert_eq!(Bench::new(&bdev, 1).read(4096, 8192).unwrap(), pattern(1, 8192));
}

#[test]
fn a_file_of_another_size_is_left_alone() {
    let file = file_in(&disk_dir(), MIB);
    std::fs::write(file.path(), pattern(2, MIB as usize)).unwrap();
    let text = text_of_failure(file.path(), sized(2 * MIB));
    let wanted = ["d0", file.path().to_str().unwrap(), "1048576", "2097152", "leave create_size out"];
    assert!(wanted.iter().all(|part| text.contains(part)), "{text}");
    assert!(std::fs::read(file.path()).unwrap() == pattern(2, MIB as usize));
}

#[test]
fn what_cannot_be_created_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir_in(disk_dir()).unwrap();
    let path = dir.path().join("disk.img");
    let blocks_of_512 = AioOptions { block_size: Some(512), ..sized(MIB + 100) };
    let read_only = AioOptions { read_only: true, ..sized(MIB) };
    for (options, wanted) in [
        (sized(0), "whole number of blocks"),
        (sized(MIB + 512), "whole number of blocks"),
        (blocks_of_512, "whole number of blocks"),
        (read_only, "create it first"),
        // More than any file may have.
        (sized(1 << 63), "create"),
    ] {
        let text = text_of_failure(&path, options);
        assert!(text.contains("d0") && text.contains(wanted), "{text}");
    }
    let text = text_of_failure(&path.join("below"), sized(MIB));
    assert!(text.contains("its directory does not exist"), "{text}");
    assert!(text_of_failure(dir.path(), sized(MIB)).contains("is a directory"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // Blocks of 512 bytes were asked for: so many will do.
    let options = AioOptions { block_size: Some(512), direct: Direct::Off, ..sized(MIB + 512) };
    assert_eq!(Aio::open("d0", &path, options).unwrap().info().size_bytes(), MIB + 512);
}
