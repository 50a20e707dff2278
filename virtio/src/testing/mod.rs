//! A driver for tests, fuzzing and benches: the other end of a virtqueue, and a rig that joins it to a queue.
//!
//! ```text
//!   arena at IOVA 0x1_0000:  descriptors | driver area | device area | one indirect table per id | one data window per id
//! ```
//! It is a model of a driver, written from the specification and apart from the device code; it may break every rule
//! when a test asks for it (see [`Driver::poke`]).

mod arena;
mod driver;
mod rig;
mod rings;

pub use driver::Driver;
pub use rig::{HostLog, Rig};

/// First IOVA of the arena.
pub const BASE: u64 = 0x1_0000;
/// Entries of an indirect table.
pub const TABLE_ENTRIES: usize = 64;

/// One buffer of a chain.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// The device reads these bytes.
    Out(Vec<u8>),
    /// The device may write so many bytes.
    In(usize),
}

/// The 16 bytes that open a request.
#[must_use]
pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}
