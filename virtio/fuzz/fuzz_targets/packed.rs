//! A hostile driver of a packed ring: any descriptors, tables, headers and wrap counters, changed between polls. The queue must not
//! panic, spin, or touch memory outside the arena, which the address sanitizer watches.
#![no_main]

mod common;

use arbitrary::Arbitrary;
use common::{Address, Length, SIZE, WINDOW_BYTES, perform, remap, submit, write_header};
use libfuzzer_sys::fuzz_target;
use spinblk_virtio::testing::{Driver, Rig};

#[derive(Arbitrary, Debug)]
enum Step {
    /// A descriptor anywhere in the ring; the upper bits of its flags are AVAIL and USED.
    Descriptor { place: u8, at: Address, len: Length, id: u16, flags: u8, avail: bool, used: bool },
    /// The same where the device looks next, available to it.
    Next { ahead: u8, at: Address, len: Length, id: u16, flags: u8 },
    /// An entry of an indirect table, and a descriptor that names the table where the device looks next.
    Table { id: u8, entry: u8, at: Address, len: Length, flags: u8, table_len: u16 },
    /// A request header in an id's window.
    Header { id: u8, kind: u8, sector: u64 },
    /// A well-formed request.
    Good { kind: u8, sector: u8, sectors: u8, indirect: bool },
    /// The driver takes what came back.
    Reap,
    /// Any byte anywhere.
    Poke { offset: u32, byte: u8 },
    /// The device runs.
    Poll,
    /// The host answers a queue that waits for memory.
    Remap,
}

/// NEXT, WRITE and INDIRECT, with AVAIL and USED.
fn flags(flags: u8, avail: bool, used: bool) -> u16 {
    u16::from(flags % 8) | u16::from(avail) << 7 | u16::from(used) << 15
}

/// The place that the device looks at, so many further on, and the wrap counter there.
fn ahead(rig: &Rig, by: u8) -> (u16, bool) {
    let avail = rig.queue.state().avail;
    let (place, wrap) = ((avail & 0x7fff) + u16::from(by) % SIZE, avail & 0x8000 != 0);
    if place < SIZE { (place, wrap) } else { (place - SIZE, !wrap) }
}

fn play(rig: &mut Rig, step: &Step) {
    match step {
        Step::Descriptor { place, at, len, id, flags: bits, avail, used } => {
            let (iova, bits) = (at.resolve(&rig.driver), flags(*bits, *avail, *used));
            rig.driver.write_packed_descriptor(u16::from(*place) % SIZE, iova, len.resolve(), *id, bits);
        }
        Step::Next { ahead: by, at, len, id, flags: bits } => {
            let (place, wrap) = ahead(rig, by % 6);
            let iova = at.resolve(&rig.driver);
            rig.driver.write_packed_descriptor(place, iova, len.resolve(), *id, flags(*bits, wrap, !wrap));
        }
        Step::Table { id, entry, at, len, flags: bits, table_len } => {
            let (iova, id, entry) = (at.resolve(&rig.driver), u16::from(*id) % SIZE, usize::from(entry % 8));
            // In a table the flags come last.
            let table =
                rig.driver.write_table_entry(id, entry, iova, len.resolve(), 0, flags(*bits, false, false));
            let (place, wrap) = ahead(rig, 0);
            rig.driver.write_packed_descriptor(place, table, (*table_len).into(), id, flags(4, wrap, !wrap));
        }
        Step::Header { id, kind, sector } => write_header(rig, u16::from(*id) % SIZE, *kind, *sector),
        Step::Good { kind, sector, sectors, indirect } => submit(rig, *kind, *sector, *sectors, *indirect),
        Step::Reap => drop(rig.driver.completed()),
        Step::Poke { offset, byte } => rig.driver.poke(*offset as usize, *byte),
        Step::Poll => {
            rig.poll();
        }
        Step::Remap => remap(rig),
    }
}

fuzz_target!(|input: (bool, u16, Vec<Step>)| {
    let (event_idx, start, steps) = input;
    perform(Driver::packed(SIZE, WINDOW_BYTES, event_idx, start), |rig| {
        steps.iter().take(200).for_each(|step| play(rig, step));
    });
});
