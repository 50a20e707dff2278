//! A hostile driver of a split ring: any descriptors, tables, headers and indices, changed between polls. The queue must not
//! panic, spin, or touch memory outside the arena, which the address sanitizer watches.
#![no_main]

mod common;

use arbitrary::Arbitrary;
use common::{Address, Length, SIZE, WINDOW_BYTES, perform, remap, submit, write_header};
use libfuzzer_sys::fuzz_target;
use spinblk_virtio::testing::{Driver, Rig};

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

fn play(rig: &mut Rig, step: &Step) {
    match step {
        Step::Descriptor { index, at, len, flags, next } => {
            let (iova, len) = (at.resolve(&rig.driver), len.resolve());
            let (index, flags, next) = ((index % 16).into(), (flags % 8).into(), (next % 18).into());
            rig.driver.write_descriptor(index, iova, len, flags, next);
        }
        Step::Table { head, entry, at, len, flags, next, table_len } => {
            let (iova, head, entry) = (at.resolve(&rig.driver), u16::from(head % 16), usize::from(entry % 8));
            let (flags, next) = ((flags % 8).into(), (next % 10).into());
            let table = rig.driver.write_table_entry(head, entry, iova, len.resolve(), flags, next);
            rig.driver.write_descriptor(head, table, (*table_len).into(), 4, 0);
        }
        Step::Header { head, kind, sector } => write_header(rig, (head % 16).into(), *kind, *sector),
        Step::Good { kind, sector, sectors, indirect } => submit(rig, *kind, *sector, *sectors, *indirect),
        Step::Poke { offset, byte } => rig.driver.poke(*offset as usize, *byte),
        Step::Available { head } => rig.driver.make_available((head % 18).into()),
        Step::Jump { by } => rig.driver.set_avail_index(rig.queue.state().avail.wrapping_add((*by).into())),
        Step::Poll => {
            rig.poll();
        }
        Step::Remap => remap(rig),
    }
}

fuzz_target!(|input: (bool, u16, Vec<Step>)| {
    let (event_idx, start, steps) = input;
    perform(Driver::new(SIZE, WINDOW_BYTES, event_idx, start), |rig| {
        steps.iter().take(200).for_each(|step| play(rig, step));
    });
});
