//! Memory for secrets: it is never swapped out, is left out of core dumps, and is wiped before it is given back.

use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise, mlock};
use spinblk_reactor::{Hugepages, Memory, page_bytes};

/// One page for a secret.
pub(super) struct Locked(Memory);

impl Locked {
    /// A page of zeroes, locked before anything is put into it.
    pub(super) fn new(purpose: &str) -> Result<Self, String> {
        let memory = Memory::new(page_bytes(), Hugepages::Off, purpose).map_err(|error| error.to_string())?;
        let page = Self(memory);
        // SAFETY: the page is mapped, and nobody counts on finding it in a core dump.
        unsafe { lock(page.0.as_ptr(), page.0.len_bytes()) }?;
        Ok(page)
    }

    /// What is in it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is mapped, initialised and ours alone; it changes through `&mut self` only.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len_bytes()) }
    }

    /// What is in it, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), self.0.len_bytes()) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        wipe(self.bytes_mut());
        // Unmapping the page, which comes next, unlocks it.
    }
}

/// Zeroes `secret` in a way that the compiler cannot leave out, though nobody reads it again.
pub(super) fn wipe(secret: &mut [u8]) {
    // SAFETY: the slice is ours to write, over its whole length.
    unsafe { aws_lc_sys::OPENSSL_cleanse(secret.as_mut_ptr().cast(), secret.len()) }
}

/// Keeps the pages of `[start, start + len_bytes)` out of swap and core dumps, for as long as they are mapped. What is
/// wrong, and what to do, if the kernel refuses.
///
/// # Safety
/// The range must be mapped.
pub(super) unsafe fn lock(start: *mut u8, len_bytes: usize) -> Result<(), String> {
    let before_bytes = start.addr() % page_bytes();
    let len_bytes = before_bytes + len_bytes;
    let Some(start) = NonNull::new(start.wrapping_sub(before_bytes)) else { return Ok(()) };
    // SAFETY: both change how the kernel treats the pages, not what is in them. They are mapped: our caller promised it
    // of a part of each.
    let done = unsafe {
        mlock(start.cast(), len_bytes)
            .and_then(|()| madvise(start.cast(), len_bytes, MmapAdvise::MADV_DONTDUMP))
    };
    done.map_err(|errno| {
        format!(
            "cannot keep it out of swap and core dumps ({errno}); raise RLIMIT_MEMLOCK (`ulimit -l`, or \
             LimitMEMLOCK= in the unit)"
        )
    })
}

/// Whether the kernel has the page at `address` locked and out of core dumps.
#[cfg(test)]
pub(super) fn is_locked(address: usize) -> bool {
    let mut inside = false;
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let bound = |text: &str| usize::from_str_radix(text, 16).ok();
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        if let Some((start, end)) = range.and_then(|(start, end)| bound(start).zip(bound(end))) {
            inside = (start..end).contains(&address);
        }
        if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return ["lo", "dd"].iter().all(|want| flags.split_whitespace().any(|flag| flag == *want));
        }
    }
    panic!("nothing is mapped at {address:#x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_locked_and_left_out_of_core_dumps() {
        let mut page = Locked::new("test").unwrap();
        assert!(is_locked(page.bytes().as_ptr().addr()));
        assert!(page.bytes().iter().all(|&byte| byte == 0));
        page.bytes_mut()[7] = 1;
        assert_eq!(page.bytes()[7], 1);
        let plain = Memory::new(1, Hugepages::Off, "test").unwrap();
        assert!(!is_locked(plain.as_ptr().addr()));
    }

    #[test]
    fn all_pages_that_a_range_touches_are_locked() {
        let plain = Memory::new(2 * page_bytes(), Hugepages::Off, "test").unwrap();
        // SAFETY: within the memory.
        unsafe { lock(plain.as_ptr().add(page_bytes() - 8), 16) }.unwrap();
        assert!(is_locked(plain.as_ptr().addr()) && is_locked(plain.as_ptr().addr() + page_bytes()));
    }

    #[test]
    fn wiping_leaves_nothing() {
        let mut secret = [7; 100];
        wipe(&mut secret[1..]);
        assert_eq!((secret[0], &secret[1..]), (7, &[0; 99][..]));
    }
}
