//! A bdev that grows under a queue at work: what failed beyond its old end is served after, with nothing in between.
#![allow(clippy::unwrap_used)]

use spinblk_bdev::{Aio, AioOptions, Bdev};
use spinblk_virtio::RingKind;
use spinblk_virtio::testing::{Buffer, Driver, Rig, header};

const READ: u32 = 0;
const WRITE: u32 = 1;
const WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;
const IOERR: u8 = 1;
/// Of the disk at first, and after it has grown.
const SECTORS: u64 = 128;
const MORE_SECTORS: u64 = 1 << 20;

/// One request from beginning to end: its status byte, and what it read.
fn run(rig: &mut Rig, chain: &[Buffer]) -> (u8, Vec<u8>) {
    let id = rig.driver.submit(chain, false, 0).unwrap();
    assert_eq!(rig.drain().iter().map(|done| done.0).collect::<Vec<_>>(), [id]);
    (rig.driver.buffer(id, chain.len() - 1)[0], rig.driver.buffer(id, 1))
}

fn write(rig: &mut Rig, sector: u64, fill: u8) -> u8 {
    run(rig, &[Buffer::Out(header(WRITE, sector)), Buffer::Out(vec![fill; 4096]), Buffer::In(1)]).0
}

fn read(rig: &mut Rig, sector: u64) -> (u8, Vec<u8>) {
    run(rig, &[Buffer::Out(header(READ, sector)), Buffer::In(4096), Buffer::In(1)])
}

fn zero(rig: &mut Rig, sector: u64) -> u8 {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend([8, 0, 0, 0, 0, 0, 0, 0]);
    run(rig, &[Buffer::Out(header(WRITE_ZEROES, 0)), Buffer::Out(range), Buffer::In(1)]).0
}

#[test]
fn a_queue_at_work_serves_the_new_part() {
    for driver in [Driver::new(8, 8192, true, 0), Driver::packed(8, 8192, true, 0)] {
        let packed = driver.ring_config().kind == RingKind::Packed;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SECTORS * 512).unwrap();
        let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
        let mut rig = Rig::new(driver, &bdev);
        assert_eq!(write(&mut rig, SECTORS - 8, 1), OK);
        for sector in [SECTORS, SECTORS - 4, MORE_SECTORS - 8] {
            assert_eq!(write(&mut rig, sector, 2), IOERR, "packed {packed}");
            assert_eq!((read(&mut rig, sector).0, zero(&mut rig, sector)), (IOERR, IOERR), "packed {packed}");
        }
        bdev.resize(Some(MORE_SECTORS * 512)).unwrap();
        assert_eq!(read(&mut rig, SECTORS), (OK, vec![0; 4096]));
        for (sector, fill) in [(SECTORS, 3), (MORE_SECTORS - 8, 4)] {
            assert_eq!(write(&mut rig, sector, fill), OK, "packed {packed}");
            assert_eq!(read(&mut rig, sector), (OK, vec![fill; 4096]));
        }
        assert_eq!(zero(&mut rig, SECTORS), OK);
        assert_eq!(read(&mut rig, SECTORS), (OK, vec![0; 4096]));
        assert_eq!(read(&mut rig, SECTORS - 8), (OK, vec![1; 4096]));
        assert_eq!((write(&mut rig, MORE_SECTORS - 4, 5), write(&mut rig, MORE_SECTORS, 5)), (IOERR, IOERR));
    }
}
