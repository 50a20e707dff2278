//! AES-256-XTS as aws-lc does it, with nothing around it: the rate that a disk with encryption is held against.

use std::ptr::{NonNull, null, null_mut};

use aws_lc_sys::{
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_Cipher, EVP_CipherInit_ex, EVP_aes_256_xts,
};

use crate::Error;

/// Of both halves together.
pub const KEY_BYTES: usize = 64;
/// aws-lc's "as before".
const UNCHANGED: i32 = -1;

/// What is done to a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Direction {
    /// As a read does
    Decrypt = 0,
    /// As a write does
    Encrypt = 1,
}

/// A key and a direction, ready for sectors.
pub struct Xts {
    context: NonNull<EVP_CIPHER_CTX>,
    direction: Direction,
}

impl Xts {
    /// Expands the key.
    ///
    /// # Errors
    /// [`Error::Cipher`].
    pub fn new(key: &[u8; KEY_BYTES], direction: Direction) -> Result<Self, Error> {
        // SAFETY: takes nothing; what it gives is null or ours until `drop`.
        let context = NonNull::new(unsafe { EVP_CIPHER_CTX_new() });
        let mut xts = Self { context: context.ok_or(Error::Cipher("EVP_CIPHER_CTX_new"))?, direction };
        xts.expand(key)?;
        Ok(xts)
    }

    /// Expands a key, as whoever keeps nothing does for each sector.
    ///
    /// # Errors
    /// [`Error::Cipher`].
    #[inline]
    pub fn expand(&mut self, key: &[u8; KEY_BYTES]) -> Result<(), Error> {
        let (context, direction) = (self.context.as_ptr(), self.direction as i32);
        // SAFETY: the context lives as long as this does; the key has the 64 bytes that this cipher reads; no IV is given,
        // and null stands for the built-in implementation.
        let done = unsafe {
            EVP_CipherInit_ex(context, EVP_aes_256_xts(), null_mut(), key.as_ptr(), null(), direction)
        };
        if done == 1 { Ok(()) } else { Err(Error::Cipher("EVP_CipherInit_ex with a key")) }
    }

    /// Encrypts or decrypts the sector of this number, 16 bytes at least.
    ///
    /// # Errors
    /// [`Error::Cipher`].
    ///
    /// # Panics
    /// When the two are not of one length.
    #[inline]
    pub fn sector(&mut self, number: u64, from: &[u8], to: &mut [u8]) -> Result<(), Error> {
        assert_eq!(from.len(), to.len());
        let mut tweak = [0; 16];
        tweak[..8].copy_from_slice(&number.to_le_bytes());
        // SAFETY: cipher and key stay as they are, which null and `UNCHANGED` ask for; the tweak has the 16 bytes of this
        // cipher's IV, and is copied.
        let set = unsafe {
            EVP_CipherInit_ex(self.context.as_ptr(), null(), null_mut(), null(), tweak.as_ptr(), UNCHANGED)
        };
        if set != 1 {
            return Err(Error::Cipher("EVP_CipherInit_ex with an IV"));
        }
        // SAFETY: reads and writes `from.len()` bytes, which both slices have.
        let done = unsafe { EVP_Cipher(self.context.as_ptr(), to.as_mut_ptr(), from.as_ptr(), from.len()) };
        if done == 1 { Ok(()) } else { Err(Error::Cipher("EVP_Cipher")) }
    }
}

impl Drop for Xts {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed only here; wipes the key.
        unsafe { EVP_CIPHER_CTX_free(self.context.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decrypts_what_it_encrypts_and_only_there() {
        let key: [u8; KEY_BYTES] = std::array::from_fn(|at| at as u8);
        let (mut encrypt, mut decrypt) =
            (Xts::new(&key, Direction::Encrypt).unwrap(), Xts::new(&key, Direction::Decrypt).unwrap());
        let plain = [7u8; 512];
        let (mut secret, mut back) = ([0; 512], [0; 512]);
        for number in [0, 1, u64::MAX] {
            encrypt.sector(number, &plain, &mut secret).unwrap();
            assert_ne!(secret, plain);
            decrypt.sector(number, &secret, &mut back).unwrap();
            assert_eq!(back, plain);
            decrypt.sector(number ^ 2, &secret, &mut back).unwrap();
            assert_ne!(back, plain);
        }
        assert!(Xts::new(&[7; KEY_BYTES], Direction::Encrypt).is_err(), "equal halves are no key");
    }
}
