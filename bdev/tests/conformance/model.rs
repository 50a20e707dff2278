//! What a disk must hold: its bytes, and in which of its smallest blocks they are known.

use crate::common::xorshift;

/// The smallest block of any disk; what is known is known in these.
const SECTOR_BYTES: usize = 512;
const NOISE_BYTES: usize = 1 << 20;

/// The disk as it should be.
pub(crate) struct Model {
    bytes: Vec<u8>,
    known: Vec<bool>,
    /// Whether it keeps what is written to it; otherwise it is all zeroes for ever.
    keeps_data: bool,
}

impl Model {
    /// A disk of which nothing is known, if it keeps data.
    pub(crate) fn new(size_bytes: u64, keeps_data: bool) -> Self {
        let size_bytes = usize::try_from(size_bytes).unwrap();
        Self { bytes: vec![0; size_bytes], known: vec![!keeps_data; size_bytes / SECTOR_BYTES], keeps_data }
    }

    /// `data` was written at `offset_bytes`.
    pub(crate) fn write(&mut self, offset_bytes: u64, data: &[u8]) {
        if self.keeps_data {
            let start = offset_bytes as usize;
            self.bytes[start..start + data.len()].copy_from_slice(data);
            self.mark(offset_bytes, data.len() as u64, true);
        }
    }

    /// The range reads as zeroes.
    pub(crate) fn zero(&mut self, offset_bytes: u64, len_bytes: u64) {
        if self.keeps_data {
            self.bytes[offset_bytes as usize..(offset_bytes + len_bytes) as usize].fill(0);
            self.mark(offset_bytes, len_bytes, true);
        }
    }

    /// The range may read as anything, until it is written.
    pub(crate) fn forget(&mut self, offset_bytes: u64, len_bytes: u64) {
        if self.keeps_data {
            self.mark(offset_bytes, len_bytes, false);
        }
    }

    fn mark(&mut self, offset_bytes: u64, len_bytes: u64, known: bool) {
        let (start, end) = (offset_bytes as usize, (offset_bytes + len_bytes) as usize);
        self.known[start / SECTOR_BYTES..end / SECTOR_BYTES].fill(known);
    }

    /// The first byte on the disk where `got`, read at `offset_bytes`, is not what it must be.
    pub(crate) fn first_wrong(&self, offset_bytes: u64, got: &[u8]) -> Option<usize> {
        let start = offset_bytes as usize;
        // The whole at once: mostly it is as it should be.
        if got == &self.bytes[start..start + got.len()] {
            return None;
        }
        (start..start + got.len()).step_by(SECTOR_BYTES).find_map(|sector| {
            let (want, got) =
                (&self.bytes[sector..sector + SECTOR_BYTES], &got[sector - start..][..SECTOR_BYTES]);
            let wrong = self.known[sector / SECTOR_BYTES] && got != want;
            wrong.then(|| sector + got.iter().zip(want).position(|(got, want)| got != want).unwrap_or(0))
        })
    }
}

/// Random bytes to write. Any two pieces of it differ, as good as surely.
pub(crate) struct Noise(Vec<u8>);

impl Noise {
    pub(crate) fn new() -> Self {
        Self(crate::common::pattern(1, NOISE_BYTES))
    }

    pub(crate) fn piece(&self, random: &mut u64, len_bytes: usize) -> &[u8] {
        let start = xorshift(random) as usize % (NOISE_BYTES - len_bytes + 1);
        &self.0[start..start + len_bytes]
    }
}
