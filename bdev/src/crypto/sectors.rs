//! The sectors of one I/O, wherever they lie in its memory.
//!
//! ```text
//!   segments   |████████████████|█████|██████████████|      of the guest, cut anywhere
//!   sectors    |   0   |   1   |   2   |   3   |            0, 1, 3: straight through the cipher
//!                               └──┬──┘                     2: put together first
//! ```

use super::key::XtsKey;
use super::xts::{Direction, Xts};
use crate::{Io, IoResult};

/// The largest sector that there is.
pub(super) const MAX_SECTOR_BYTES: usize = 4096;

/// How far an I/O has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    segment: usize,
    within_bytes: usize,
    /// Bytes of the I/O that lie before it.
    pub(super) done_bytes: u64,
}

impl Cursor {
    /// Moves over the whole sectors that lie in one piece from here on, `most_bytes` at most. No bytes, and no move,
    /// when the next sector is cut.
    #[inline]
    fn take_whole(&mut self, io: &Io, sector_bytes: usize, most_bytes: usize) -> (*mut u8, usize) {
        let mut start = std::ptr::null_mut();
        let mut rest_bytes = 0;
        while let Some(segment) = io.segments().get(self.segment) {
            start = segment.as_ptr().wrapping_add(self.within_bytes);
            rest_bytes = segment.len_bytes() - self.within_bytes;
            if rest_bytes > 0 {
                break;
            }
            self.segment += 1;
            self.within_bytes = 0;
        }
        // Sectors are a power of two long.
        let whole_bytes = rest_bytes.min(most_bytes) & !(sector_bytes - 1);
        self.within_bytes += whole_bytes;
        self.done_bytes += whole_bytes as u64;
        (start, whole_bytes)
    }

    /// Moves over `len_bytes`, calling `each(memory, len)` for the pieces that they lie in.
    fn take(&mut self, io: &Io, len_bytes: usize, mut each: impl FnMut(*mut u8, usize)) {
        let mut left_bytes = len_bytes;
        while let Some(segment) = io.segments().get(self.segment).filter(|_| left_bytes > 0) {
            let count = left_bytes.min(segment.len_bytes() - self.within_bytes);
            each(segment.as_ptr().wrapping_add(self.within_bytes), count);
            left_bytes -= count;
            self.within_bytes += count;
            self.done_bytes += count as u64;
            if self.within_bytes == segment.len_bytes() {
                self.segment += 1;
                self.within_bytes = 0;
            }
        }
    }
}

/// Both directions of the cipher, and room for a sector that is cut.
pub(super) struct Sectors {
    encrypt: Xts,
    decrypt: Xts,
    sector_bytes: usize,
    scratch: Box<[u8; MAX_SECTOR_BYTES]>,
}

impl Sectors {
    /// Expands `key` for both directions.
    pub(super) fn new(key: &XtsKey, sector_bytes: usize) -> Result<Self, String> {
        Ok(Self {
            encrypt: Xts::new(key, Direction::Encrypt, sector_bytes)?,
            decrypt: Xts::new(key, Direction::Decrypt, sector_bytes)?,
            sector_bytes,
            scratch: Box::new([0; MAX_SECTOR_BYTES]),
        })
    }

    /// Encrypts the next `len_bytes` of a checked write into `to` and moves the cursor over them. Every byte of the
    /// write's memory is read once.
    ///
    /// # Safety
    /// `len_bytes` is a multiple of the sector size and no more than is left of the write; `to` is the caller's own
    /// memory, writable over `len_bytes`.
    #[inline]
    pub(super) unsafe fn encrypt(
        &mut self,
        io: &Io,
        cursor: &mut Cursor,
        to: *mut u8,
        len_bytes: usize,
    ) -> IoResult {
        let mut done_bytes = 0;
        while done_bytes < len_bytes {
            let offset_bytes = io.offset_bytes() + cursor.done_bytes;
            let to = to.wrapping_add(done_bytes);
            let (from, count) = cursor.take_whole(io, self.sector_bytes, len_bytes - done_bytes);
            if count > 0 {
                // SAFETY: `from` is `count` bytes of one segment, readable by the promise of `Io::new`; `to` has as
                // many left, by our caller's, and is no guest's memory.
                unsafe { self.encrypt.sectors(offset_bytes, from, to, count) }?;
                done_bytes += count;
            } else {
                let mut end = to;
                cursor.take(io, self.sector_bytes, |piece, count| {
                    // SAFETY: as above; the pieces are a sector together.
                    unsafe {
                        end.copy_from_nonoverlapping(piece, count);
                        end = end.add(count);
                    }
                });
                // SAFETY: as above, in place.
                unsafe { self.encrypt.sectors(offset_bytes, to, to, self.sector_bytes) }?;
                done_bytes += self.sector_bytes;
            }
        }
        Ok(())
    }

    /// Decrypts the memory of a checked read in place.
    #[inline]
    pub(super) fn decrypt(&mut self, io: &Io) -> IoResult {
        let mut cursor = Cursor::default();
        let mut left_bytes = io.len_bytes();
        while left_bytes > 0 {
            let offset_bytes = io.offset_bytes() + cursor.done_bytes;
            let most_bytes = usize::try_from(left_bytes).unwrap_or(usize::MAX);
            let (start, count) = cursor.take_whole(io, self.sector_bytes, most_bytes);
            if count > 0 {
                // SAFETY: `start` is `count` bytes of one segment, readable and writable by the promise of `Io::new`.
                unsafe { self.decrypt.sectors(offset_bytes, start, start, count) }?;
                left_bytes -= count as u64;
            } else {
                self.decrypt_cut(io, &mut cursor)?;
                left_bytes -= self.sector_bytes as u64;
            }
        }
        Ok(())
    }

    /// Decrypts the next sector, which lies in more than one piece.
    #[inline(never)]
    fn decrypt_cut(&mut self, io: &Io, cursor: &mut Cursor) -> IoResult {
        let offset_bytes = io.offset_bytes() + cursor.done_bytes;
        let mut back = *cursor;
        let scratch = self.scratch.as_mut_ptr();
        let mut end = scratch;
        cursor.take(io, self.sector_bytes, |piece, count| {
            // SAFETY: the pieces are readable by the promise of `Io::new`, and a sector together, which the scratch
            // holds.
            unsafe {
                end.copy_from_nonoverlapping(piece, count);
                end = end.add(count);
            }
        });
        // SAFETY: the scratch is ours, and a sector long at least.
        unsafe { self.decrypt.sectors(offset_bytes, scratch, scratch, self.sector_bytes) }?;
        let mut end = scratch;
        back.take(io, self.sector_bytes, |piece, count| {
            // SAFETY: the same pieces again; those of a read are writable.
            unsafe {
                piece.copy_from_nonoverlapping(end, count);
                end = end.add(count);
            }
        });
        Ok(())
    }
}
