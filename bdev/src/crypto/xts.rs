//! AES-256-XTS of whole sectors: the one place that calls AWS-LC's cipher.
//!
//! The key schedule is expanded once; between sectors only the tweak changes. A sector of 512 or 4096 bytes is whole
//! AES blocks, so there is no ciphertext stealing and no buffering: each call goes straight to the processor's
//! instructions. Memory is passed on as raw pointers, because a guest may change it at any time; what a block then
//! comes to is the guest's own affair.

use std::ptr::{NonNull, null, null_mut};

use aws_lc_sys::{
    AES_KEY, EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_Cipher, EVP_CipherInit_ex,
    EVP_aes_256_xts,
};

use super::key::XtsKey;
use super::locked::lock;
use crate::{IoError, IoResult};

/// dm-crypt's plain64 counts in these, whatever the sector size.
const TWEAK_UNIT_SHIFT: u32 = 9;
/// "As it was set before", for a context's direction.
const SAME_DIRECTION: i32 = -1;

/// Which way a cipher goes; the numbers are AWS-LC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Decrypt = 0,
    Encrypt = 1,
}

/// One direction of the cipher under one key. It stays on the thread that made it.
pub(super) struct Xts {
    context: NonNull<EVP_CIPHER_CTX>,
    sector_bytes: usize,
}

impl Xts {
    /// Expands `key` for sectors of `sector_bytes`. What is wrong, and what to do, if that cannot be.
    pub(super) fn new(key: &XtsKey, direction: Direction, sector_bytes: usize) -> Result<Self, String> {
        // SAFETY: it asks for memory and nothing else.
        let context = NonNull::new(unsafe { EVP_CIPHER_CTX_new() }).ok_or("out of memory for the cipher")?;
        let xts = Self { context, sector_bytes };
        xts.init(null(), direction as i32)?;
        xts.lock_schedules()?;
        xts.init(key.bytes().as_ptr(), SAME_DIRECTION)?;
        Ok(xts)
    }

    /// Without a key, chooses the cipher and allocates its schedules; with one (of 64 bytes), expands it into them.
    fn init(&self, key: *const u8, direction: i32) -> Result<(), String> {
        // SAFETY: the two functions take no arguments that could be wrong: the context is ours and alive, `key` is
        // null or the 64 bytes that this cipher reads, and a null engine and tweak mean none.
        let done = unsafe {
            let cipher = if key.is_null() { EVP_aes_256_xts() } else { null() };
            EVP_CipherInit_ex(self.context.as_ptr(), cipher, null_mut(), key, null(), direction)
        };
        if done == 1 { Ok(()) } else { Err("AWS-LC refuses it for AES-256-XTS".into()) }
    }

    /// Locks the pages that the schedules will be written to. They stay locked when the context is gone: what else the
    /// allocator has on them may be another cipher's. `EVP_CIPHER_CTX_free` wipes the schedules, as AWS-LC's
    /// `OPENSSL_free` does with all that it frees.
    fn lock_schedules(&self) -> Result<(), String> {
        // The two schedules come first in AWS-LC's EVP_AES_XTS_CTX, each in a multiple of eight bytes.
        const SCHEDULES_BYTES: usize = 2 * size_of::<AES_KEY>().next_multiple_of(8);
        // SAFETY: the context is alive, and `init` made it allocate its cipher's data, which are longer than that.
        unsafe { lock((*self.context.as_ptr()).cipher_data.cast(), SCHEDULES_BYTES) }
    }

    /// Puts the sectors at `from`, which lie on the disk from `offset_bytes` on, through the cipher to `to`.
    ///
    /// # Safety
    /// `len_bytes` is a multiple of the sector size; `from` is readable and `to` writable over it. The two are the
    /// same, or do not overlap.
    #[inline]
    pub(super) unsafe fn sectors(
        &mut self,
        offset_bytes: u64,
        from: *const u8,
        to: *mut u8,
        len_bytes: usize,
    ) -> IoResult {
        let mut done_bytes = 0;
        while done_bytes < len_bytes {
            let tweak = u128::from((offset_bytes + done_bytes as u64) >> TWEAK_UNIT_SHIFT).to_le_bytes();
            // SAFETY: the context has its key; without a new one, the first call copies the tweak's 16 bytes and
            // looks at no other memory. Our caller promised whole sectors, so the second stays within `from` and
            // `to`.
            let done = unsafe {
                let context = self.context.as_ptr();
                EVP_CipherInit_ex(context, null(), null_mut(), null(), tweak.as_ptr(), SAME_DIRECTION) == 1
                    && EVP_Cipher(context, to.add(done_bytes), from.add(done_bytes), self.sector_bytes) == 1
            };
            if !done {
                // Not seen yet: nothing of this is of a size or in a state that it refuses.
                return Err(IoError::Errno(libc::EIO));
            }
            done_bytes += self.sector_bytes;
        }
        Ok(())
    }
}

impl Drop for Xts {
    fn drop(&mut self) {
        // SAFETY: made by `EVP_CIPHER_CTX_new`, and freed only here.
        unsafe { EVP_CIPHER_CTX_free(self.context.as_ptr()) };
    }
}

#[cfg(test)]
mod tests;
