//! What both targets share: hostile addresses and lengths, requests, and the stage that they play on.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use arbitrary::Arbitrary;
use spinblk_bdev::Malloc;
use spinblk_reactor::{Core, Hugepages};
use spinblk_virtio::testing::{BASE, Buffer, Driver, Rig, header};

pub const SIZE: u16 = 16;
pub const WINDOW_BYTES: usize = 4096;

#[derive(Arbitrary, Debug)]
pub enum Address {
    Window { head: u8, offset: u16 },
    Near { offset: i32 },
    Any(u64),
}

#[derive(Arbitrary, Debug)]
pub enum Length {
    Sectors(u8),
    Small(u8),
    Any(u32),
}

impl Address {
    pub fn resolve(&self, driver: &Driver) -> u64 {
        match *self {
            Self::Window { head, offset } => {
                driver.window(u16::from(head) % SIZE) + u64::from(offset) % WINDOW_BYTES as u64
            }
            // Around the ends of the map.
            Self::Near { offset } => {
                (BASE + driver.arena_bytes() as u64).wrapping_add_signed(i64::from(offset) % 8192)
            }
            Self::Any(iova) => iova,
        }
    }
}

impl Length {
    pub fn resolve(&self) -> u32 {
        match *self {
            Self::Sectors(n) => u32::from(n) * 512,
            Self::Small(n) => n.into(),
            Self::Any(n) => n,
        }
    }
}

/// Writes a request header into the window of an id.
pub fn write_header(rig: &Rig, id: u16, kind: u8, sector: u64) {
    let at = (rig.driver.window(id) - BASE) as usize;
    for (i, byte) in header(u32::from(kind % 16), sector).into_iter().enumerate() {
        rig.driver.poke(at + i, byte);
    }
}

/// A well-formed request.
pub fn submit(rig: &mut Rig, kind: u8, sector: u8, sectors: u8, indirect: bool) {
    let kind = u32::from(kind % 16);
    let data = usize::from(sectors % 6) * 512;
    let mut out = header(kind, u64::from(sector));
    let chain = match (kind, sector % 2) {
        (1, 0) => vec![Buffer::Out(out), Buffer::Out(vec![7; data.max(1)]), Buffer::In(1)],
        (1, _) => {
            out.resize(16 + data, 7);
            vec![Buffer::Out(out), Buffer::In(1)]
        }
        (_, 0) => vec![Buffer::Out(out), Buffer::In(data.max(1)), Buffer::In(1)],
        _ => vec![Buffer::Out(out), Buffer::In(data + 1)],
    };
    rig.driver.submit(&chain, indirect, 0);
}

/// The host answers a queue that waits for memory.
pub fn remap(rig: &mut Rig) {
    let iova = rig.log.last_unmapped.load(Ordering::Relaxed);
    rig.queue.answer(iova, rig.driver.memory_map(), &mut rig.core.ring);
}

thread_local! {
    // Making an io_uring for every input would take most of the time.
    static STAGE: RefCell<Option<(Malloc, Box<Core>)>> = const { RefCell::new(None) };
}

/// Lets `driver` play its steps against a queue. Whatever happens, the queue comes to rest.
pub fn perform(driver: Driver, play: impl FnOnce(&mut Rig)) {
    STAGE.with_borrow_mut(|stage| {
        let (bdev, core) = stage.take().unwrap_or_else(|| {
            (Malloc::new("fuzz", 64 << 10, 512, Hugepages::Off).expect("malloc"), Rig::core())
        });
        let mut rig = Rig::on(core, driver, &bdev);
        play(&mut rig);
        let mut asked = 0;
        for _ in 0..100 {
            // Only when there is a new question: a new map costs a system call.
            let questions = rig.log.unmapped.load(Ordering::Relaxed);
            if questions != asked {
                asked = questions;
                remap(&mut rig);
            }
            rig.poll();
        }
        assert!(rig.queue.is_quiet(), "a synchronous bdev leaves nothing in flight");
        assert!(rig.log.broken.load(Ordering::Relaxed) <= 1, "a queue breaks once");
        *stage = Some((bdev, rig.into_core()));
    });
}
