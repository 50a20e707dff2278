//! What only a file can do wrong: shrink, be missing, be a directory, be short of alignment; and what the backend tells
//! about it.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use common::{Bench, Request, disk_dir, file_in, memory_dir, pattern};
use spinblk_bdev::{Aio, AioOptions, Bdev, Direct, IoError, Op};

const MIB: u64 = 1 << 20;

fn direct(direct: Direct) -> AioOptions {
    AioOptions { direct, ..AioOptions::default() }
}

fn text_of_failure(path: &Path, options: AioOptions) -> String {
    Aio::open("d0", path, options).unwrap_err().to_string()
}

#[test]
fn a_file_that_shrank_fails_its_reads_and_no_others() {
    for mode in [Direct::On, Direct::Off] {
        let file = file_in(&disk_dir(), MIB);
        let bdev = Aio::open("d0", file.path(), direct(mode)).unwrap();
        let mut bench = Bench::new(&bdev, 1);
        bench.write(0, &pattern(1, 65536)).unwrap();
        // The new end lies inside a block, inside a page and on a page.
        for new_len in [40_000, 33_280, 32_768] {
            file.as_file().set_len(new_len).unwrap();
            let error = Err(IoError::Errno(libc::ENODATA));
            assert_eq!(bench.read(0, 65536), error, "{mode:?} {new_len}");
            assert_eq!(bench.read(65536, 4096), error, "{mode:?} {new_len}");
            let mut pieces = Request::new(Op::Read, 0, 65536);
            pieces.lens = vec![16384; 4];
            assert_eq!(bench.run(&pieces), error.map(|_: Vec<u8>| ()), "{mode:?} {new_len}");
            pieces.skew = 1;
            assert_eq!(bench.run(&pieces), Err(IoError::Errno(libc::ENODATA)), "{mode:?} {new_len}");
            assert_eq!(bench.read(0, 32768).unwrap(), pattern(1, 65536)[..32768]);
        }
        // Written again, the device is whole again.
        bench.write(MIB - 65536, &pattern(2, 65536)).unwrap();
        assert_eq!(bench.read(MIB - 65536, 65536).unwrap(), pattern(2, 65536));
    }
}

#[test]
fn read_only_reads_and_flushes_and_refuses_the_rest() {
    let file = file_in(&disk_dir(), MIB);
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o444)).unwrap();
    let options = AioOptions { read_only: true, ..AioOptions::default() };
    let bdev = Aio::open("d0", file.path(), options).unwrap();
    assert!(bdev.info().read_only && !bdev.info().caps.discard && !bdev.info().caps.write_zeroes);
    let mut bench = Bench::new(&bdev, 1);
    assert_eq!(bench.read(4096, 4096).unwrap(), [0; 4096]);
    assert_eq!(bench.run(&Request::new(Op::Flush, 0, 0)), Ok(()));
    assert_eq!(bench.write(0, &[1; 512]), Err(IoError::ReadOnly));
    assert_eq!(bench.run(&Request::new(Op::Discard, 0, 512)), Err(IoError::ReadOnly));
    assert_eq!(bench.run(&Request::new(Op::WriteZeroes { unmap: false }, 0, 512)), Err(IoError::ReadOnly));
}

#[test]
fn errors_name_the_device_the_path_and_the_fix() {
    let dir = tempfile::tempdir_in(disk_dir()).unwrap();
    let missing = dir.path().join("missing");
    let text = text_of_failure(&missing, AioOptions::default());
    assert!(text.contains("d0") && text.contains("missing") && text.contains("create it first"), "{text}");

    let text = text_of_failure(dir.path(), AioOptions::default());
    assert!(text.contains("is a directory; give a regular file or a block device"), "{text}");
    let text = text_of_failure(Path::new("/dev/null"), AioOptions::default());
    assert!(text.contains("/dev/null is a character device"), "{text}");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(std::fs::metadata(&fifo).unwrap().file_type().is_fifo());
    assert!(text_of_failure(&fifo, AioOptions::default()).contains("is a FIFO"));

    let tiny = file_in(dir.path(), 511);
    let text = text_of_failure(tiny.path(), AioOptions::default());
    let wanted = ["d0", "511 bytes", "one block of 512", "truncate -s", tiny.path().to_str().unwrap()];
    assert!(wanted.iter().all(|part| text.contains(part)), "{text}");

    let file = file_in(dir.path(), MIB);
    for bad in [0, 256, 1000, 8192] {
        let options = AioOptions { block_size: Some(bad), direct: Direct::Off, ..AioOptions::default() };
        let text = text_of_failure(file.path(), options);
        assert!(text.contains("powers of two from 512 to 4096"), "{text}");
    }
    assert!(!missing.exists(), "opening created the file");
}

#[test]
fn no_permission_is_said_with_the_fix() {
    if !nix::unistd::geteuid().is_root() {
        let file = file_in(&disk_dir(), MIB);
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o444)).unwrap();
        let text = text_of_failure(file.path(), AioOptions::default());
        assert!(text.contains("give this user read and write permission"), "{text}");
    }
}

#[test]
fn one_piece_in_a_registered_buffer_counts_as_fixed() {
    let file = file_in(&disk_dir(), MIB);
    let bdev = Aio::open("d0", file.path(), direct(Direct::On)).unwrap();
    let mut bench = Bench::new(&bdev, 1);
    if !bench.has_buffer() {
        eprintln!("skipped: the kernel registers no buffers here");
        return;
    }
    let data = pattern(3, 8192);
    bench.fill(0, 0, &data);
    let mut write = Request::new(Op::Write, 4096, 8192);
    write.fixed = true;
    bench.run(&write).unwrap();
    assert_eq!(bench.fixed_buffer_ios(), 1);
    let mut read = Request::new(Op::Read, 4096, 8192);
    read.fixed = true;
    bench.run(&read).unwrap();
    assert_eq!(bench.fixed_buffer_ios(), 2);
    assert_eq!(bench.read_back(0, 0, 8192), data);
    // Not registered, not aligned: done all the same, by other ways.
    assert_eq!(bench.read(4096, 8192).unwrap(), data);
    let skewed = Request { skew: 1, ..read };
    bench.run(&skewed).unwrap();
    assert_eq!(bench.read_back(0, 1, 8192), data);
    assert_eq!(bench.fixed_buffer_ios(), 2);
}

#[test]
fn several_pieces_in_a_registered_buffer_count_as_fixed_where_the_kernel_can() {
    for mode in [Direct::On, Direct::Off] {
        let file = file_in(&disk_dir(), MIB);
        let bdev = Aio::open("d0", file.path(), direct(mode)).unwrap();
        let mut bench = Bench::new(&bdev, 1);
        if !bench.has_buffer() {
            eprintln!("skipped: the kernel registers no buffers here");
            return;
        }
        let data = pattern(5, 16384);
        bench.fill(0, 0, &data);
        let pieces = |op| {
            let lens = vec![4096, 512, 7680, 4096];
            Request { lens, fixed: true, ..Request::new(op, 8192, 16384) }
        };
        bench.run(&pieces(Op::Write)).unwrap();
        bench.fill(0, 0, &[0; 16384]);
        bench.run(&pieces(Op::Read)).unwrap();
        assert_eq!(bench.read_back(0, 0, 16384), data, "{mode:?}");
        assert_eq!(bench.read(8192, 16384).unwrap(), data, "{mode:?}");
        let counted = if bench.has_fixed_vectors() { 2 } else { 0 };
        assert_eq!(bench.fixed_buffer_ios(), counted, "{mode:?}");
    }
}

#[test]
fn more_segments_than_one_call_takes() {
    for mode in [Direct::On, Direct::Off] {
        let file = file_in(&disk_dir(), MIB);
        let bdev = Aio::open("d0", file.path(), direct(mode)).unwrap();
        let mut bench = Bench::new(&bdev, 1);
        let data = pattern(4, 3000 * 64);
        bench.fill(0, 0, &data);
        let mut request = Request::new(Op::Write, 0, data.len());
        // 3000 pieces of 64 bytes in the page cache's case, 375 of 512 with O_DIRECT; and then 2999 odd ones.
        let piece = if mode == Direct::On { 512 } else { 64 };
        request.lens = vec![piece; data.len() / piece];
        bench.run(&request).unwrap();
        request.op = Op::Read;
        request.lens = [vec![127], vec![64; 2998], vec![1]].concat();
        bench.fill(0, 0, &vec![0; data.len()]);
        bench.run(&request).unwrap();
        assert!(bench.read_back(0, 0, data.len()) == data, "{mode:?}");
    }
}

#[test]
fn the_whole_depth_is_usable_with_unaligned_memory_and_flushes_between() {
    const DEPTH: usize = 64;
    let file = file_in(&disk_dir(), 16 * MIB);
    let bdev = Aio::open("d0", file.path(), direct(Direct::On)).unwrap();
    let mut bench = Bench::new(&bdev, DEPTH);
    for (op, skew) in [(Op::Write, 3), (Op::Read, 7), (Op::Read, 0), (Op::Flush, 0)] {
        for tag in 0..DEPTH as u32 {
            // Each in several bounce buffers' worth.
            let (offset, len) = (u64::from(tag) * 163_840, 163_840);
            let data = if op == Op::Write { pattern(tag.into(), len) } else { vec![0; len] };
            bench.fill(tag, skew, &data);
            bench.submit(tag, &Request { skew, ..Request::new(op, offset, len) });
        }
        let mut tags = Vec::new();
        while tags.len() < DEPTH {
            for completion in bench.wait(1) {
                assert_eq!(completion.result, Ok(()));
                tags.push(completion.tag);
            }
        }
        tags.sort_unstable();
        assert_eq!(tags, (0..DEPTH as u32).collect::<Vec<_>>());
        if op == Op::Read {
            for tag in 0..DEPTH as u32 {
                assert!(bench.read_back(tag, skew, 163_840) == pattern(tag.into(), 163_840), "tag {tag}");
            }
        }
    }
}

#[test]
fn two_channels_on_two_rings_share_the_file() {
    let file = file_in(&disk_dir(), MIB);
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    let mut writer = Bench::new(&bdev, 1);
    let mut reader = Bench::new(&bdev, 1);
    writer.write(8192, &pattern(5, 4096)).unwrap();
    assert_eq!(reader.read(8192, 4096).unwrap(), pattern(5, 4096));
}

#[test]
fn opening_leaves_the_file_as_it_was() {
    for dir in [disk_dir(), memory_dir()] {
        let file = file_in(&dir, MIB + 777);
        std::fs::write(file.path(), pattern(6, (MIB + 777) as usize)).unwrap();
        file.as_file().sync_all().unwrap();
        let before = file.as_file().metadata().unwrap();
        let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
        let after = file.as_file().metadata().unwrap();
        assert_eq!((before.len(), before.blocks()), (after.len(), after.blocks()), "{}", dir.display());
        assert!(std::fs::read(file.path()).unwrap() == pattern(6, (MIB + 777) as usize));
        assert_eq!(bdev.info().size_bytes(), MIB + 512);
        assert_eq!(bdev.info().physical_block_size, 4096);
    }
}

#[test]
fn discard_and_write_zeroes_do_what_they_say_to_the_allocation() {
    let file = file_in(&disk_dir(), MIB);
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    let caps = bdev.info().caps;
    if !caps.discard || !caps.write_zeroes {
        eprintln!("skipped: the file system has no punch or zero range");
        return;
    }
    let mut bench = Bench::new(&bdev, 1);
    let blocks = || file.as_file().metadata().unwrap().blocks();
    for (op, gives_back) in [
        (Op::Discard, true),
        (Op::WriteZeroes { unmap: true }, true),
        (Op::WriteZeroes { unmap: false }, false),
    ] {
        bench.write(0, &pattern(7, 65536)).unwrap();
        let full = blocks();
        bench.run(&Request::new(op, 0, 65536)).unwrap();
        assert_eq!(blocks() < full, gives_back, "{op:?}");
        assert_eq!(bench.read(0, 65536).unwrap(), vec![0; 65536], "{op:?}");
        assert_eq!(file.as_file().metadata().unwrap().len(), MIB);
    }
}

#[test]
fn an_empty_request_is_done_at_once() {
    let file = file_in(&disk_dir(), MIB);
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    let mut bench = Bench::new(&bdev, 1);
    for op in [Op::Read, Op::Write, Op::Discard, Op::WriteZeroes { unmap: true }] {
        let mut request = Request::new(op, 0, 0);
        request.lens.clear();
        assert_eq!(bench.run(&request), Ok(()), "{op:?}");
    }
    assert_eq!(bench.submitted(), 0);
}
