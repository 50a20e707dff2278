//! An open channel allocates nothing, whatever goes through it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use common::{Bench, Disks, Request, disk_dir};
use spinblk_bdev::{Bdev, Delay, Direct, Faulty, IoError, Moved, Op, Rule};

const SIZE_BYTES: u64 = 16 << 20;
const DEPTH: usize = 32;

/// Every module, those that strike striking half of the I/Os, and a stack of three.
fn disks(make: &mut Disks) -> Vec<Arc<dyn Bdev>> {
    let half = Rule { per_million: 500_000, ..Rule::default() };
    let aio = |make: &mut Disks, direct| make.aio(&disk_dir(), SIZE_BYTES, direct, 512);
    let malloc = |make: &mut Disks| make.malloc(SIZE_BYTES, 512);
    let children = vec![malloc(make), malloc(make)];
    let (below_crypto, below_delay, below_error) = (malloc(make), malloc(make), malloc(make));
    let files = vec![aio(make, Direct::On), aio(make, Direct::Off)];
    let striped_files = make.raid0(64 << 10, files);
    vec![
        make.null(SIZE_BYTES),
        malloc(make),
        aio(make, Direct::On),
        aio(make, Direct::Off),
        make.raid0(16 << 10, children),
        make.crypto(512, below_crypto),
        Arc::new(Delay::new("delay", half.clone(), Duration::from_micros(20), below_delay).unwrap()),
        Arc::new(Faulty::new("error", half, IoError::NoSpace, Moved::Part, below_error).unwrap()),
        make.crypto(4096, striped_files),
    ]
}

/// As it should be, unaligned, in a few pieces, in many, and in odd ones with gaps; and all that moves no data.
fn requests() -> Vec<Request> {
    const LEN_BYTES: usize = 131_072;
    let shapes = [
        (0, 0, vec![LEN_BYTES]),
        (5, 0, vec![LEN_BYTES]),
        (0, 0, vec![LEN_BYTES / 4; 4]),
        (0, 512, vec![LEN_BYTES / 128; 128]),
        (0, 77, vec![1, 4095, 100_000, 26_976]),
    ];
    let transfers = [Op::Write, Op::Read].into_iter().flat_map(|op| {
        shapes.clone().map(|(skew, gap, lens)| {
            let fixed = skew == 0;
            Request { lens, skew, gap, fixed, ..Request::new(op, 8192, LEN_BYTES) }
        })
    });
    let others = [Op::Flush, Op::Discard, Op::WriteZeroes { unmap: false }, Op::WriteZeroes { unmap: true }];
    transfers.chain(others.map(|op| Request::new(op, 0, 2 << 20))).collect()
}

/// Does all of them, each at full depth, and sees that they end as they should.
fn serve(disk: &dyn Bdev, bench: &mut Bench, requests: &[Request]) {
    for request in requests {
        for tag in 0..DEPTH as u32 {
            bench.submit(tag, request);
        }
        bench.drain();
        for completion in &bench.done {
            let (caps, name) = (disk.info().caps, &disk.info().name);
            let error = match request.op {
                Op::Discard if !caps.discard => Some(IoError::Unsupported),
                Op::WriteZeroes { .. } if !caps.write_zeroes => Some(IoError::Unsupported),
                _ if disk.kind() == "error" => completion.result.err(),
                _ => None,
            };
            assert_eq!(completion.result.err(), error, "{name}: {request:?}");
        }
        bench.forget_done();
    }
}

#[test]
fn an_open_channel_allocates_nothing() {
    let (mut make, requests) = (Disks::new(&|_, below| below), requests());
    for disk in disks(&mut make) {
        let mut bench = Bench::new(disk.as_ref(), DEPTH);
        let allocated = measure(|| serve(disk.as_ref(), &mut bench, &requests));
        assert_eq!(allocated.count_total, 0, "{}", disk.info().name);
    }
}
