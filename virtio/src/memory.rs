//! Guest memory as the device sees it: regions of IOVA space, each mapped at a host address.
//!
//! A [`MemoryMap`] is immutable and shared; a change makes a new one. Each queue turns it into a [`CoreMemory`], which
//! adds the registered-buffer ids of its core's ring and remembers the last region hit. The mapping behind a region lives
//! as long as any map that holds it.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use spinblk_reactor::{BufId, Ring};

use crate::chain::HEADER_BYTES;

/// Registered buffers are at most this long, so longer regions are cut.
const PIECE_BYTES: u64 = 1 << 30;

/// A stretch of IOVA space and where it is mapped.
#[derive(Clone)]
pub struct Region {
    iova: u64,
    len_bytes: u64,
    host: *mut u8,
    for_data: bool,
    _mapping: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a region is an address and a length; the memory behind it is reached only through raw pointers, by queues
// that follow the virtio protocol, and lives as long as `_mapping`, which is itself Send + Sync.
unsafe impl Send for Region {}
// SAFETY: as above; a shared region gives out nothing but copies of its fields.
unsafe impl Sync for Region {}

impl Region {
    /// The region `[iova, iova + len_bytes)` at `host`. `for_data` regions carry request data and are registered with the
    /// ring; others hold rings only.
    ///
    /// # Safety
    /// `[host, host + len_bytes)` must be mapped readable and writable for as long as `mapping` lives, and hold no
    /// Rust object that anyone has a reference to.
    #[must_use]
    pub unsafe fn new(
        iova: u64,
        len_bytes: u64,
        host: *mut u8,
        for_data: bool,
        mapping: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { iova, len_bytes, host, for_data, _mapping: mapping }
    }

    /// First IOVA.
    #[must_use]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

/// An immutable set of regions, sorted, without overlap.
#[derive(Clone, Default)]
pub struct MemoryMap {
    regions: Vec<Region>,
}

impl MemoryMap {
    /// A map of these regions. One that overlaps an earlier one, is empty or wraps around is left out.
    #[must_use]
    pub fn new(regions: impl IntoIterator<Item = Region>) -> Self {
        let mut map = Self::default();
        for region in regions {
            map.insert(region);
        }
        map
    }

    /// This map with one more region; unchanged when the region does not fit in.
    #[must_use]
    pub fn with(&self, region: Region) -> Self {
        let mut map = self.clone();
        map.insert(region);
        map
    }

    /// Whether `iova` lies in a region.
    #[must_use]
    pub fn contains(&self, iova: u64) -> bool {
        self.regions.iter().any(|r| iova.wrapping_sub(r.iova) < r.len_bytes)
    }

    /// Reads a little-endian 16-bit word, aligned, from guest memory; for looking at rings off the hot path.
    #[must_use]
    pub fn read_u16(&self, iova: u64) -> Option<u16> {
        let region = self.regions.iter().find(|r| iova.wrapping_sub(r.iova) < r.len_bytes)?;
        let offset = iova - region.iova;
        let at = region.host.wrapping_add(usize::try_from(offset).ok()?);
        let inside = offset + 2 <= region.len_bytes && at.addr().is_multiple_of(2);
        // SAFETY: two bytes inside a mapped region, aligned; volatile because the guest may write at the same time.
        inside.then(|| u16::from_le(unsafe { at.cast::<u16>().read_volatile() }))
    }

    /// Its regions, ascending.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn insert(&mut self, region: Region) {
        let Some(end) = region.iova.checked_add(region.len_bytes) else { return };
        let at = self.regions.partition_point(|r| r.iova < region.iova);
        let clear_below = at == 0 || {
            let below = &self.regions[at - 1];
            below.iova + below.len_bytes <= region.iova
        };
        let clear_above = self.regions.get(at).is_none_or(|above| end <= above.iova);
        if region.len_bytes > 0 && clear_below && clear_above {
            self.regions.insert(at, region);
        }
    }
}

/// The registered buffer of a piece, if it has one: comparable in one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufKey(u32);

impl BufKey {
    /// No buffer: one more than there can be.
    pub(crate) const NONE: Self = Self(1 << 16);

    fn new(buf: Option<BufId>) -> Self {
        buf.map_or(Self::NONE, |BufId(id)| Self(id.into()))
    }

    /// The buffer again.
    #[inline]
    pub(crate) fn buf(self) -> Option<BufId> {
        u16::try_from(self.0).ok().map(BufId)
    }

    /// A number of less than 17 bits.
    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

/// Where an IOVA lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Location {
    /// Host address of the byte.
    pub(crate) host: *mut u8,
    /// Mapped bytes from there on.
    pub(crate) len_bytes: u64,
    /// The registered buffer that holds them.
    pub(crate) buf: BufKey,
}

/// Where the parts of a request lie, and the registered buffer that holds the data.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) header: *mut u8,
    pub(crate) data: *mut u8,
    pub(crate) status: *mut u8,
    pub(crate) buf: BufKey,
}

/// A stretch that is mapped, and registered, in one.
#[derive(Clone, Copy)]
struct Piece {
    iova: u64,
    len_bytes: u64,
    host: *mut u8,
    buf: BufKey,
}

impl Piece {
    /// Holds no address.
    const NOWHERE: Self = Self { iova: 0, len_bytes: 0, host: std::ptr::null_mut(), buf: BufKey::NONE };
}

/// One queue's view of a map, on its core. A lookup that hits the piece of the last one touches nothing else.
pub(crate) struct CoreMemory {
    last_hit: Piece,
    pieces: Vec<Piece>,
    /// Keeps the mappings alive.
    map: Arc<MemoryMap>,
}

impl CoreMemory {
    /// Takes up a map and registers its data regions with the core's ring. Control path.
    #[must_use]
    pub(crate) fn new(map: Arc<MemoryMap>, ring: &mut Ring) -> Self {
        let mut pieces = Vec::new();
        for region in map.regions() {
            let mut offset = 0;
            while offset < region.len_bytes {
                let len_bytes = (region.len_bytes - offset).min(PIECE_BYTES);
                let host = region.host.wrapping_add(offset as usize);
                let buf = if region.for_data {
                    // SAFETY: `Region::new` promised that the range is mapped while `map` lives, and this
                    // `CoreMemory` holds the map until `release` took the buffer back.
                    unsafe { ring.acquire_buffer(host, len_bytes as usize) }
                } else {
                    None
                };
                pieces.push(Piece { iova: region.iova + offset, len_bytes, host, buf: BufKey::new(buf) });
                offset += len_bytes;
            }
        }
        Self { last_hit: Piece::NOWHERE, pieces, map }
    }

    /// Gives the registered buffers back. Call it before dropping, with no I/O in flight.
    pub(crate) fn release(&mut self, ring: &mut Ring) {
        for buf in self.pieces.drain(..).filter_map(|piece| piece.buf.buf()) {
            ring.release_buffer(buf);
        }
        self.last_hit = Piece::NOWHERE;
        self.map = Arc::default();
    }

    /// Where `iova` lies if that is the piece that the last lookup hit.
    #[inline]
    pub(crate) fn locate_again(&self, iova: u64) -> Option<Location> {
        self.last_hit.locate(iova)
    }

    /// Where the parts of a request lie: a header, so many bytes of data, a status byte. `None` when one of them is not
    /// mapped in one piece.
    #[inline(always)]
    pub(crate) fn locate_parts(
        &mut self,
        header: u64,
        data: u64,
        data_bytes: u64,
        status: u64,
    ) -> Option<Parts> {
        let piece = &self.last_hit;
        let [a, b, c] = [header, data, status].map(|iova| iova.wrapping_sub(piece.iova));
        // Pieces are shorter than 2^31 bytes and buffers than 2^32: past the first test no sum overflows.
        if a | b | c < 1 << 31 {
            let last = (a + HEADER_BYTES as u64).max(b + data_bytes).max(c + 1);
            if last <= piece.len_bytes {
                let host = |offset: u64| piece.host.wrapping_add(offset as usize);
                return Some(Parts { header: host(a), data: host(b), status: host(c), buf: piece.buf });
            }
        }
        self.locate_parts_apart(header, data, data_bytes, status)
    }

    /// The same for parts in pieces of their own, as in a large guest.
    #[inline(never)]
    fn locate_parts_apart(&mut self, header: u64, data: u64, data_bytes: u64, status: u64) -> Option<Parts> {
        let (a, b, c) = (*self.piece_of(header)?, *self.piece_of(data)?, *self.piece_of(status)?);
        let parts = [(a, header, HEADER_BYTES as u64), (b, data, data_bytes), (c, status, 1)];
        if parts.iter().any(|(piece, iova, len_bytes)| *len_bytes > piece.len_bytes - (iova - piece.iova)) {
            return None;
        }
        // Changing it each time would only make it miss each time.
        if a.iova == b.iova && b.iova == c.iova {
            self.last_hit = a;
        }
        let host = |piece: Piece, iova: u64| piece.host.wrapping_add((iova - piece.iova) as usize);
        Some(Parts { header: host(a, header), data: host(b, data), status: host(c, status), buf: b.buf })
    }

    /// The piece that holds `iova`. Few regions, sorted: the last one that begins at or below.
    #[inline]
    fn piece_of(&self, iova: u64) -> Option<&Piece> {
        let index = self.pieces.partition_point(|piece| piece.iova <= iova).checked_sub(1)?;
        self.pieces.get(index).filter(|piece| iova - piece.iova < piece.len_bytes)
    }

    /// Where `[iova, iova + len_bytes)`, less than 2^32 bytes, lies, if in one piece; does not make that the last one hit.
    #[inline]
    pub(crate) fn find(&self, iova: u64, len_bytes: u64) -> Option<NonNull<u8>> {
        let piece = &self.last_hit;
        let offset = iova.wrapping_sub(piece.iova);
        // As above: past the first test the sum does not overflow.
        if offset < 1 << 31 && offset + len_bytes <= piece.len_bytes {
            return NonNull::new(piece.host.wrapping_add(offset as usize));
        }
        self.find_apart(iova, len_bytes)
    }

    #[inline(never)]
    fn find_apart(&self, iova: u64, len_bytes: u64) -> Option<NonNull<u8>> {
        let at = self.piece_of(iova)?.locate(iova)?;
        if len_bytes <= at.len_bytes { NonNull::new(at.host) } else { None }
    }

    /// Where `iova` lies; `None` where nothing is mapped.
    pub(crate) fn locate(&mut self, iova: u64) -> Option<Location> {
        if let Some(found) = self.locate_again(iova) {
            return Some(found);
        }
        let piece = *self.piece_of(iova)?;
        self.last_hit = piece;
        piece.locate(iova)
    }

    /// The host address of `[iova, iova + len_bytes)` when it is mapped in one stretch.
    #[inline]
    #[must_use]
    pub(crate) fn contiguous(&mut self, iova: u64, len_bytes: u64) -> Option<*mut u8> {
        match self.locate_again(iova) {
            Some(at) if len_bytes <= at.len_bytes => Some(at.host),
            _ => self.contiguous_elsewhere(iova, len_bytes),
        }
    }

    #[inline(never)]
    fn contiguous_elsewhere(&mut self, iova: u64, len_bytes: u64) -> Option<*mut u8> {
        let first = self.locate(iova)?;
        let mut have_bytes = first.len_bytes;
        // Long regions are cut into pieces, which lie side by side.
        while have_bytes < len_bytes {
            let next = self.locate(iova.checked_add(have_bytes)?)?;
            if next.host != first.host.wrapping_add(have_bytes as usize) {
                return None;
            }
            have_bytes += next.len_bytes;
        }
        Some(first.host)
    }

    /// The map, to keep its mappings alive.
    pub(crate) fn map(&self) -> &Arc<MemoryMap> {
        &self.map
    }
}

impl Piece {
    #[inline]
    fn locate(&self, iova: u64) -> Option<Location> {
        let offset = iova.wrapping_sub(self.iova);
        (offset < self.len_bytes).then(|| Location {
            host: self.host.wrapping_add(offset as usize),
            len_bytes: self.len_bytes - offset,
            buf: self.buf,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(iova: u64, len_bytes: u64) -> Region {
        // SAFETY: nothing in these tests follows the host address.
        unsafe {
            Region::new(iova, len_bytes, std::ptr::without_provenance_mut(0x10_0000), false, Arc::new(()))
        }
    }

    fn core_memory(regions: Vec<Region>) -> CoreMemory {
        CoreMemory::new(Arc::new(MemoryMap::new(regions)), &mut Ring::new(1).unwrap())
    }

    #[test]
    fn finds_first_and_last_bytes_and_no_more() {
        let mut memory =
            core_memory(vec![region(0x1000, 0x1000), region(0x4000, 5126), region(0x2000, 0x100)]);
        assert!(memory.locate(0xfff).is_none());
        assert_eq!(memory.locate(0x1000).unwrap().len_bytes, 0x1000);
        assert_eq!(memory.locate(0x1fff).unwrap().len_bytes, 1);
        assert_eq!(memory.locate(0x2000).unwrap().len_bytes, 0x100);
        assert!(memory.locate(0x2100).is_none());
        assert_eq!(memory.locate(0x4000 + 5125).unwrap().len_bytes, 1);
        assert!(memory.locate(0x4000 + 5126).is_none());
        assert!(memory.locate(u64::MAX).is_none());
        assert!(memory.contiguous(0x1f00, 0x100).is_some());
        assert!(memory.contiguous(0x1f00, 0x101).is_none());
    }

    #[test]
    fn regions_that_do_not_fit_are_left_out() {
        let map = MemoryMap::new([
            region(0x1000, 0x1000),
            region(0x1fff, 2),
            region(0xfff, 2),
            region(0x3000, 0),
            region(u64::MAX, 2),
        ]);
        assert_eq!(map.regions().len(), 1);
        assert_eq!(map.with(region(0x2000, 1)).regions().len(), 2);
        assert!(map.contains(0x1fff) && !map.contains(0x2000));
    }

    #[test]
    fn long_regions_are_cut_for_the_ring() {
        let mut memory = core_memory(vec![region(0, 3 * PIECE_BYTES + 5)]);
        assert_eq!(memory.pieces.len(), 4);
        assert_eq!(memory.locate(PIECE_BYTES - 1).unwrap().len_bytes, 1);
        assert_eq!(memory.locate(3 * PIECE_BYTES).unwrap().len_bytes, 5);
        assert!(memory.contiguous(PIECE_BYTES - 8, 16).is_some(), "across a cut");
        assert!(memory.contiguous(3 * PIECE_BYTES, 6).is_none());
    }
}
