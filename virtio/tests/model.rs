//! The queue against a model: random requests in random layouts over a byte array, ring indices that wrap, EVENT_IDX on
//! and off, direct and indirect chains. Every request must come back once, with the right data, status and length.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use spinblk_bdev::Malloc;
use spinblk_reactor::Hugepages;
use spinblk_virtio::RingKind;
use spinblk_virtio::testing::{Buffer, Driver, Rig, header};

const SECTORS: u64 = 64;
const WINDOW_BYTES: usize = 16 << 10;

#[derive(Clone, Debug)]
enum What {
    Read { sector: u64, sectors: u64 },
    Write { sector: u64, sectors: u64, fill: u8 },
    Flush,
    GetId,
    Discard { sector: u64, sectors: u32, ranges: usize, flags: u32 },
    WriteZeroes { sector: u64, sectors: u32, flags: u32 },
    Unknown(u32),
}

#[derive(Clone, Debug)]
struct Request {
    what: What,
    indirect: bool,
    /// Where the readable and the writable bytes are cut into buffers.
    cuts: Vec<prop::sample::Index>,
    gap: usize,
}

fn what() -> impl Strategy<Value = What> {
    // Up to four sectors past the end, so that some requests fail.
    let place = (0..SECTORS + 4, 1..8u64);
    prop_oneof![
        4 => place.clone().prop_map(|(sector, sectors)| What::Read { sector, sectors }),
        4 => (place, any::<u8>()).prop_map(|((sector, sectors), fill)| What::Write { sector, sectors, fill }),
        1 => Just(What::Flush),
        1 => Just(What::GetId),
        1 => (0..SECTORS, 0..8u32, 1..3usize, 0..3u32)
            .prop_map(|(sector, sectors, ranges, flags)| What::Discard { sector, sectors, ranges, flags }),
        1 => (0..SECTORS + 4, 0..8u32, 0..4u32)
            .prop_map(|(sector, sectors, flags)| What::WriteZeroes { sector, sectors, flags }),
        1 => (14..u32::MAX).prop_map(What::Unknown),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    (what(), any::<bool>(), cuts, prop_oneof![Just(0usize), Just(7), Just(64)])
        .prop_map(|(what, indirect, cuts, gap)| Request { what, indirect, cuts, gap })
}

/// The readable bytes and the count of writable bytes, status included.
fn content(what: &What) -> (Vec<u8>, usize) {
    let range = |kind, sector: u64, sectors: u32, flags: u32, ranges| {
        let mut bytes = header(kind, 0);
        for _ in 0..ranges {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        (bytes, 1)
    };
    match *what {
        What::Read { sector, sectors } => (header(0, sector), sectors as usize * 512 + 1),
        What::Write { sector, sectors, fill } => {
            let mut bytes = header(1, sector);
            bytes.extend((0..sectors * 512).map(|i| fill.wrapping_add(i as u8)));
            (bytes, 1)
        }
        What::Flush => (header(4, 0), 1),
        What::GetId => (header(8, 0), 21),
        What::Discard { sector, sectors, ranges, flags } => range(11, sector, sectors, flags, ranges),
        What::WriteZeroes { sector, sectors, flags } => range(13, sector, sectors, flags, 1),
        What::Unknown(kind) => (header(kind, 0), 1),
    }
}

fn cut(total: usize, cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(total)).filter(|&at| at > 0).collect();
    at.push(0);
    at.push(total);
    at.sort_unstable();
    at.dedup();
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn buffers(request: &Request) -> (Vec<Buffer>, usize) {
    let (out, writable) = content(&request.what);
    let mut rest = &out[..];
    let mut buffers: Vec<Buffer> = cut(out.len(), &request.cuts)
        .into_iter()
        .map(|len| {
            let (now, later) = rest.split_at(len);
            rest = later;
            Buffer::Out(now.to_vec())
        })
        .collect();
    let readable = buffers.len();
    buffers.extend(cut(writable, &request.cuts).into_iter().map(Buffer::In));
    (buffers, readable)
}

struct Model {
    bytes: Vec<u8>,
    /// Sectors whose content is not defined (discarded).
    unknown: Vec<bool>,
}

impl Model {
    fn inside(sector: u64, sectors: u64) -> bool {
        sector + sectors <= SECTORS
    }

    /// Applies a request and says what its status and data must be.
    fn apply(&mut self, what: &What) -> (u8, Option<Vec<Option<u8>>>) {
        match *what {
            What::Read { sector, sectors } if Self::inside(sector, sectors) => {
                let start = sector as usize * 512;
                let data = (start..start + sectors as usize * 512)
                    .map(|at| (!self.unknown[at / 512]).then(|| self.bytes[at]))
                    .collect();
                (0, Some(data))
            }
            What::Write { sector, sectors, fill } if Self::inside(sector, sectors) => {
                for i in 0..sectors * 512 {
                    self.bytes[(sector * 512 + i) as usize] = fill.wrapping_add(i as u8);
                }
                self.unknown[sector as usize..(sector + sectors) as usize].fill(false);
                (0, None)
            }
            What::Flush => (0, None),
            What::GetId => {
                let mut id = b"spinblk-test-serial".to_vec();
                id.resize(20, 0);
                (0, Some(id.into_iter().map(Some).collect()))
            }
            What::Discard { ranges, flags, .. } if ranges > 1 || flags != 0 => (2, None),
            What::WriteZeroes { flags, .. } if flags > 1 => (2, None),
            What::Discard { sector, sectors, .. } if sectors > 0 && Self::inside(sector, sectors.into()) => {
                self.unknown[sector as usize..(sector as usize + sectors as usize)].fill(true);
                (0, None)
            }
            What::WriteZeroes { sector, sectors, .. }
                if sectors > 0 && Self::inside(sector, sectors.into()) =>
            {
                self.bytes[sector as usize * 512..(sector as usize + sectors as usize) * 512].fill(0);
                self.unknown[sector as usize..(sector as usize + sectors as usize)].fill(false);
                (0, None)
            }
            What::Unknown(_) => (2, None),
            _ => (1, None),
        }
    }
}

fn check(
    rig: &Rig,
    head: u16,
    written: u32,
    readable: usize,
    buffers: &[Buffer],
    want: (u8, Option<Vec<Option<u8>>>),
) {
    let mut writable: Vec<u8> = (readable..buffers.len()).flat_map(|i| rig.driver.buffer(head, i)).collect();
    let status = writable.pop().unwrap();
    let (want_status, want_data) = want;
    assert_eq!(status, want_status);
    if let Some(want_data) = want_data {
        assert_eq!(written as usize, writable.len() + 1);
        for (at, (got, want)) in writable.iter().zip(&want_data).enumerate() {
            assert!(want.is_none_or(|want| want == *got), "byte {at}: {got} is not {want:?}");
        }
    } else {
        assert!(written as usize <= writable.len() + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn random_requests_come_back_right(
        batches in prop::collection::vec(prop::collection::vec(request(), 1..12), 1..24),
        packed in any::<bool>(),
        event_idx in any::<bool>(),
        size in prop_oneof![Just(8u16), Just(16), Just(64)],
        // A packed ring may have any size.
        crooked in prop_oneof![Just(0u16), Just(3)],
        start in prop_oneof![Just(0u16), Just(65_530), any::<u16>()],
    ) {
        let (kind, size) = if packed { (RingKind::Packed, size + crooked) } else { (RingKind::Split, size) };
        let bdev = Malloc::new("model", SECTORS * 512, 512, Hugepages::Off).unwrap();
        let mut rig = Rig::new(Driver::with_ring(kind, size, WINDOW_BYTES, event_idx, start), &bdev);
        let mut model = Model { bytes: vec![0; SECTORS as usize * 512], unknown: vec![false; SECTORS as usize] };
        let mut interrupts = 0;
        for batch in batches {
            let mut pending = HashMap::new();
            rig.driver.want_interrupt(batch.len() % 2 == 0);
            for request in &batch {
                let (buffers, readable) = buffers(request);
                let Some(head) = rig.driver.submit(&buffers, request.indirect, request.gap) else { continue };
                // Malloc finishes in order, so the model can go along.
                pending.insert(head, (buffers, readable, model.apply(&request.what)));
            }
            let submitted = pending.len();
            let got = rig.drain();
            prop_assert_eq!(got.len(), submitted);
            for (head, written) in got {
                let (buffers, readable, want) = pending.remove(&head).unwrap();
                check(&rig, head, written, readable, &buffers, want);
            }
            let now = rig.log.interrupts.load(Ordering::Relaxed);
            let sent = now - interrupts;
            interrupts = now;
            // One interrupt for the batch when it was asked for, none when not.
            prop_assert_eq!(sent, u64::from(batch.len() % 2 == 0 && submitted > 0));
        }
        prop_assert_eq!(rig.driver.kicks(), 0);
        prop_assert_eq!(rig.log.broken.load(Ordering::Relaxed), 0);
    }
}

/// Far more requests than the ring and the 16-bit indices are long: no kick, no lost interrupt, right to the end.
#[test]
fn indices_wrap_around_twice() {
    let kinds = [(RingKind::Split, 8), (RingKind::Packed, 8), (RingKind::Packed, 7)];
    for ((kind, size), event_idx) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let bdev = Malloc::new("wrap", SECTORS * 512, 512, Hugepages::Off).unwrap();
        let mut rig = Rig::new(Driver::with_ring(kind, size, WINDOW_BYTES, event_idx, 0), &bdev);
        let mut interrupts = 0;
        for round in 0..50_000u64 {
            rig.driver.want_interrupt(round % 3 == 0);
            for _ in 0..3 {
                rig.driver.submit(&[Buffer::Out(header(4, 0)), Buffer::In(1)], true, 0).unwrap();
            }
            rig.poll();
            assert_eq!(rig.driver.completed().len(), 3);
            interrupts += u64::from(round % 3 == 0);
        }
        assert_eq!(rig.log.interrupts.load(Ordering::Relaxed), interrupts, "{kind:?}, event_idx {event_idx}");
        assert_eq!(rig.driver.kicks(), 0, "{kind:?}, event_idx {event_idx}");
    }
}
