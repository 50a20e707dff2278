//! A hostile driver: any descriptors, tables, headers and ring indices, changed between polls. The queue must not panic,
//! spin, or touch memory outside the arena, which the address sanitizer watches.
#![no_main]

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use spinblk_bdev::Malloc;
use spinblk_reactor::{Core, Hugepages};
use spinblk_virtio::testing::{BASE, Buffer, Driver, Rig, header};

const SIZE: u16 = 16;
const WINDOW_BYTES: usize = 4096;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A descriptor of the ring's own table.
    Descriptor { index: u8, at: Address, len: Length, flags: u8, next: u8 },
    /// An entry of an indirect table, and a descriptor that names the table.
    Table { head: u8, entry: u8, at: Address, len: Length, flags: u8, next: u8, table_len: u16 },
    /// A request header in a head's window.
    Header { head: u8, kind: u8, sector: u64 },
    /// A well-formed request.
    Good { kind: u8, sector: u8, sectors: u8, indirect: bool },
    /// Any byte anywhere.
    Poke { offset: u32, byte: u8 },
    /// A head becomes available.
    Available { head: u8 },
    /// The avail index jumps.
    Jump { by: u8 },
    /// The device runs.
    Poll,
    /// The host answers a queue that waits for memory.
    Remap,
}

#[derive(Arbitrary, Debug)]
enum Address {
    Window { head: u8, offset: u16 },
    Near { offset: i32 },
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Length {
    Sectors(u8),
    Small(u8),
    Any(u32),
}

impl Address {
    fn resolve(&self, driver: &Driver) -> u64 {
        match *self {
            Self::Window { head, offset } => driver.window(u16::from(head) % SIZE) + u64::from(offset) % WINDOW_BYTES as u64,
            // Around the ends of the map.
            Self::Near { offset } => {
                (BASE + driver.arena_bytes() as u64).wrapping_add_signed(i64::from(offset) % 8192)
            }
            Self::Any(iova) => iova,
        }
    }
}

impl Length {
    fn resolve(&self) -> u32 {
        match *self {
            Self::Sectors(n) => u32::from(n) * 512,
            Self::Small(n) => n.into(),
            Self::Any(n) => n,
        }
    }
}

fn play(rig: &mut Rig, step: &Step) {
    match step {
        Step::Descriptor { index, at, len, flags, next } => {
            let iova = at.resolve(&rig.driver);
            rig.driver.write_descriptor(u16::from(index % 16), iova, len.resolve(), u16::from(flags % 8), u16::from(next % 18));
        }
        Step::Table { head, entry, at, len, flags, next, table_len } => {
            let (iova, head) = (at.resolve(&rig.driver), u16::from(head % 16));
            let entry = usize::from(entry % 8);
            let table = rig.driver.write_table_entry(head, entry, iova, len.resolve(), u16::from(flags % 8), u16::from(next % 10));
            rig.driver.write_descriptor(head, table, u32::from(*table_len), 4, 0);
        }
        Step::Header { head, kind, sector } => {
            let at = (rig.driver.window(u16::from(head % 16)) - BASE) as usize;
            for (i, byte) in header(u32::from(kind % 16), *sector).into_iter().enumerate() {
                rig.driver.poke(at + i, byte);
            }
        }
        Step::Good { kind, sector, sectors, indirect } => {
            let kind = u32::from(kind % 16);
            let data = usize::from(sectors % 6) * 512;
            let mut out = header(kind, u64::from(*sector));
            let chain = if kind == 1 {
                out.resize(16 + data, 7);
                vec![Buffer::Out(out), Buffer::In(1)]
            } else {
                vec![Buffer::Out(out), Buffer::In(data + 1)]
            };
            rig.driver.submit(&chain, *indirect, 0);
        }
        Step::Poke { offset, byte } => rig.driver.poke(*offset as usize, *byte),
        Step::Available { head } => rig.driver.make_available(u16::from(head % 18)),
        Step::Jump { by } => rig.driver.set_avail_index(rig.queue.state().avail.wrapping_add(u16::from(*by))),
        Step::Poll => {
            rig.poll();
        }
        Step::Remap => {
            let iova = rig.log.last_unmapped.load(Ordering::Relaxed);
            rig.queue.answer(iova, rig.driver.memory_map(), &mut rig.core.ring);
        }
    }
}

thread_local! {
    // Making an io_uring for every input would take most of the time.
    static STAGE: RefCell<Option<(Malloc, Box<Core>)>> = const { RefCell::new(None) };
}

fuzz_target!(|input: (bool, u16, Vec<Step>)| {
    let (event_idx, start, steps) = input;
    STAGE.with_borrow_mut(|stage| {
        let (bdev, core) = stage.take().unwrap_or_else(|| {
            (Malloc::new("fuzz", 64 << 10, 512, Hugepages::Off).expect("malloc"), Rig::core())
        });
        let mut rig = Rig::on(core, Driver::new(SIZE, WINDOW_BYTES, event_idx, start), &bdev);
        for step in steps.iter().take(200) {
            play(&mut rig, step);
        }
        // Whatever happened, the device comes to rest.
        for _ in 0..100 {
            play(&mut rig, &Step::Remap);
            rig.poll();
        }
        assert!(rig.queue.is_quiet(), "a synchronous bdev leaves nothing in flight");
        assert!(rig.log.broken.load(Ordering::Relaxed) <= 1, "a queue breaks once");
        *stage = Some((bdev, rig.into_core()));
    });
});
