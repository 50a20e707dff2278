//! A disk that grows while a client uses it: the client is told, reads the new capacity, and does I/O in the new part.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use common::{Client, Guest, Rig, alone, code, reactor, words32};
use spinblk_bdev::{Aio, AioOptions, Bdev};
use tempfile::NamedTempFile;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
const WRITE: u32 = 1;
const OK: u8 = 0;
const IOERR: u8 = 1;

fn disk(size_bytes: u64) -> (NamedTempFile, Arc<Aio>) {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(size_bytes).unwrap();
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    (file, Arc::new(bdev))
}

/// The capacity in sectors, asked for by itself and as a part of all that a driver reads.
fn capacity(client: &Client) -> u64 {
    let read = |len_bytes: u32| {
        let mut body = words32(&[0, len_bytes, 0]);
        body.resize(12 + len_bytes as usize, 0);
        let answer = client.ask(code::GET_CONFIG, &body, &[]).unwrap();
        u64::from_le_bytes(answer[12..20].try_into().unwrap())
    };
    assert_eq!(read(8), read(60));
    read(8)
}

/// Writes 512 bytes; the status byte.
fn write(guest: &mut Guest, sector: u64, fill: u8) -> u8 {
    guest.ask(WRITE, sector, &[fill; 512]);
    guest.submit();
    assert!(guest.wait());
    guest.answer()
}

#[test]
fn a_client_is_told_of_a_disk_that_grew_and_uses_it() {
    let _alone = alone();
    let (file, bdev) = disk(MIB);
    let rig = Rig::over(2, Arc::clone(&bdev) as Arc<dyn Bdev>, &[reactor(0), reactor(1)]);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]), Some(0));
    assert!(guest.start(&client, 0));

    let mut sectors = MIB / 512;
    for round in 1..=5u8 {
        assert_eq!(capacity(&client), sectors);
        assert_eq!(write(&mut guest, sectors - 1, round), OK);
        assert_eq!(write(&mut guest, sectors, round), IOERR);
        // As the file is made longer by us, or by somebody else.
        let size_bytes = if round % 2 == 1 {
            bdev.resize(Some(sectors * 512 + MIB)).unwrap()
        } else {
            file.as_file().set_len(sectors * 512 + MIB).unwrap();
            bdev.resize(None).unwrap()
        };
        rig.announce_config_change();
        let mut message = [0; 12];
        ours.read_exact(&mut message).unwrap();
        assert_eq!(message[..], words32(&[2, 1, 0]), "CONFIG_CHANGE_MSG");
        sectors = size_bytes / 512;
        assert_eq!(capacity(&client), sectors);
        assert_eq!(write(&mut guest, sectors - 1, round), OK);
    }
    assert_eq!(sectors * 512, 6 * MIB);
    drop(client);
    rig.stop();
    // All of it is in the file: what was written last in each round, and no more.
    let data = std::fs::read(file.path()).unwrap();
    assert_eq!(data.len() as u64, 6 * MIB);
    for (number, sector) in data.chunks(512).enumerate() {
        let written = (number as u64 + 1).is_multiple_of(MIB / 512);
        let round = ((number as u64 + 1) / (MIB / 512)) as u8;
        let fill = if written { round.min(5) } else { 0 };
        assert!(sector.iter().all(|&byte| byte == fill), "sector {number}: {} for {fill}", sector[0]);
    }
}

fn blkio_wait(queue: &mut Blkioq) -> i32 {
    let mut done = [std::mem::MaybeUninit::<Completion>::uninit()];
    let mut timeout = Duration::from_secs(20);
    assert_eq!(queue.do_io(&mut done, 1, Some(&mut timeout), None).unwrap(), 1);
    // SAFETY: one completion was written, as the count says.
    unsafe { done[0].assume_init_ref() }.ret
}

/// A client that somebody else wrote, with requests under way all the time; the next one sees the same.
#[test]
fn a_disk_grows_under_the_requests_of_another_client() {
    let _alone = alone();
    let (_file, bdev) = disk(MIB);
    let rig = Rig::over(1, Arc::clone(&bdev) as Arc<dyn Bdev>, &[reactor(0)]);
    for size_bytes in [MIB, 8 * MIB, 9 * MIB] {
        let mut client = Blkio::new("virtio-blk-vhost-user").unwrap();
        client.set_str("path", rig.socket.to_str().unwrap()).unwrap();
        client.connect().unwrap();
        assert_eq!(client.get_u64("capacity").unwrap(), size_bytes);
        let mut queues = client.start().unwrap().queues;
        let region = client.alloc_mem_region(BLOCK).unwrap();
        client.map_mem_region(&region).unwrap();
        let (queue, buffer) = (&mut queues[0], region.addr as *mut u8);
        let mut grown = false;
        for round in 0..200 {
            let next =
                if round < 100 { size_bytes - BLOCK as u64 } else { bdev.info().size_bytes() - BLOCK as u64 };
            // SAFETY: no request is in flight, and the region holds a block.
            unsafe { buffer.write_bytes(round as u8, BLOCK) };
            queue.write(next, buffer, BLOCK, round, ReqFlags::empty());
            if round == 100 && size_bytes < 9 * MIB {
                bdev.resize(Some(if size_bytes == MIB { 8 * MIB } else { 9 * MIB })).unwrap();
                rig.announce_config_change();
                grown = true;
            }
            assert_eq!(blkio_wait(queue), 0, "round {round}");
            // SAFETY: as above.
            unsafe { buffer.write_bytes(0xEE, BLOCK) };
            queue.read(next, buffer, BLOCK, round, ReqFlags::empty());
            assert_eq!(blkio_wait(queue), 0);
            // SAFETY: as above, read only.
            let read = unsafe { std::slice::from_raw_parts(buffer, BLOCK) };
            assert!(read.iter().all(|&byte| byte == round as u8), "round {round}");
        }
        assert_eq!(bdev.info().size_bytes() > size_bytes, grown);
    }
    rig.stop();
}
