//! The memory that a test's driver shares with the device.

/// Zeroed heap memory, so that an address sanitizer sees every step outside it.
pub(super) struct Arena {
    pub(super) start: *mut u8,
    pub(super) len_bytes: usize,
}

// SAFETY: plain memory; all access goes through raw pointers, on whatever thread has the driver or the queue.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    const ALIGN: usize = 4096;

    pub(super) fn new(len_bytes: usize) -> Self {
        let layout = Self::layout(len_bytes);
        // SAFETY: the layout's size is not zero: a ring has at least one entry.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Self { start, len_bytes }
    }

    fn layout(len_bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len_bytes, Self::ALIGN)
            .unwrap_or(std::alloc::Layout::new::<u64>())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { std::alloc::dealloc(self.start, Self::layout(self.len_bytes)) };
    }
}

/// Volatile access in the units that rings are made of, little-endian.
impl Arena {
    pub(super) fn read8(&self, offset: usize) -> u8 {
        assert!(offset < self.len_bytes);
        // SAFETY: within the arena.
        unsafe { self.start.add(offset).read_volatile() }
    }

    pub(super) fn write8(&self, offset: usize, byte: u8) {
        assert!(offset < self.len_bytes);
        // SAFETY: within the arena.
        unsafe { self.start.add(offset).write_volatile(byte) };
    }

    pub(super) fn read16(&self, offset: usize) -> u16 {
        assert!(offset + 2 <= self.len_bytes && offset.is_multiple_of(2));
        // SAFETY: within the arena, which starts on a page, and aligned.
        u16::from_le(unsafe { self.start.add(offset).cast::<u16>().read_volatile() })
    }

    pub(super) fn write16(&self, offset: usize, value: u16) {
        assert!(offset + 2 <= self.len_bytes && offset.is_multiple_of(2));
        // SAFETY: as above.
        unsafe { self.start.add(offset).cast::<u16>().write_volatile(value.to_le()) };
    }

    pub(super) fn read32(&self, offset: usize) -> u32 {
        u32::from(self.read16(offset)) | u32::from(self.read16(offset + 2)) << 16
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        bytes.iter().enumerate().for_each(|(i, &byte)| self.write8(offset + i, byte));
    }
}
