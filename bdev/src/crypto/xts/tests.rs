use aes::Aes256;
use aes::cipher::{KeyInit, generic_array::GenericArray};
use proptest::prelude::*;
use xts_mode::Xts128;

use super::*;
use crate::crypto::locked::is_locked;

/// The key of the vectors, as its file has it.
const KEY: &str = "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383\
                   279502884197169399375105820974944592\n";

fn key_of(content: &[u8]) -> XtsKey {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, content).unwrap();
    XtsKey::from_file("c0", file.path()).unwrap()
}

/// Runs `data`, which lies at `offset_bytes`, through the cipher in place.
fn run(key: &XtsKey, direction: Direction, sector_bytes: usize, offset_bytes: u64, data: &mut [u8]) {
    let mut xts = Xts::new(key, direction, sector_bytes).unwrap();
    let start = data.as_mut_ptr();
    // SAFETY: `data` is whole sectors, and ours.
    unsafe { xts.sectors(offset_bytes, start, start, data.len()) }.unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_vectors_of_ieee_1619_2007_for_aes_256() {
    // Vectors 10 to 14: the data unit's number, the first and the last 32 of its 512 bytes. Each block's tweak
    // follows from the one before, so the last ones tell of all.
    let vectors = [
        (
            0xff,
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
            "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
        ),
        (
            0xffff,
            "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11",
            "54fbff89eeaeea791f4a7ab1f9868294a4f9e27b42af8100cb9d59cef9645803",
        ),
        (
            0xff_ffff,
            "e387aaa58ba483afa7e8eb469778317ecf4cf573aa9d4eac23f2cdf914e4e200",
            "ed242c8900dd1fa965bc950dfce09b132263a1eef52dd6888c309f5a7d712826",
        ),
        (
            0xffff_ffff,
            "bf53d2dade78e822a4d949a9bc6766b01b06a8ef70d26748c6a7fc36d80ae4c5",
            "f6516139420fcff3b7361d86322c4bd84c82f335abb152c4a93411373aaa8220",
        ),
        (
            0xff_ffff_ffff,
            "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed23",
            "6975be5e0b4efce51cd3e70c25a1fbbbd609d273ad5b0d59631c531f6a0a57b9",
        ),
    ];
    let key = key_of(KEY.as_bytes());
    let plain: Vec<u8> = (0..512).map(|index| index as u8).collect();
    for (number, first, last) in vectors {
        let mut data = plain.clone();
        run(&key, Direction::Encrypt, 512, number * 512, &mut data);
        assert_eq!((hex(&data[..32]), hex(&data[480..])), (first.into(), last.into()), "unit {number:#x}");
        run(&key, Direction::Decrypt, 512, number * 512, &mut data);
        assert!(data == plain, "unit {number:#x}");
    }
}

#[test]
fn the_expanded_schedules_are_locked_too() {
    let xts = Xts::new(&key_of(KEY.as_bytes()), Direction::Encrypt, 512).unwrap();
    // SAFETY: the context is alive.
    let start = unsafe { (*xts.context.as_ptr()).cipher_data.addr() };
    assert!(is_locked(start) && is_locked(start + 2 * size_of::<AES_KEY>() - 1));
}

#[test]
fn a_sector_may_go_to_other_memory() {
    let key = key_of(KEY.as_bytes());
    let plain = vec![7; 8192];
    let (mut apart, mut in_place) = (vec![0; 8192], plain.clone());
    let mut xts = Xts::new(&key, Direction::Encrypt, 4096).unwrap();
    // SAFETY: two vectors of two sectors each.
    unsafe { xts.sectors(4096, plain.as_ptr(), apart.as_mut_ptr(), 8192) }.unwrap();
    run(&key, Direction::Encrypt, 4096, 4096, &mut in_place);
    assert!(apart == in_place && plain == [7; 8192]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn another_implementation_gives_the_same_bytes(
        key in prop::collection::vec(any::<u8>(), 64),
        large in any::<bool>(),
        number in 0u64..1 << 54,
        sectors in 1usize..5,
        seed in any::<u8>(),
    ) {
        prop_assume!(key[..32] != key[32..]);
        let sector_bytes = if large { 4096 } else { 512 };
        let offset_bytes = (number * 512) & !(sector_bytes as u64 - 1);
        let plain: Vec<u8> =
            (0..sectors * sector_bytes).map(|index| (index.wrapping_mul(31) >> 3) as u8 ^ seed).collect();
        let cipher = |half: &[u8]| Aes256::new(GenericArray::from_slice(half));
        let other = Xts128::new(cipher(&key[..32]), cipher(&key[32..]));
        let mut want = plain.clone();
        for (index, sector) in want.chunks_mut(sector_bytes).enumerate() {
            let unit = (offset_bytes + (index * sector_bytes) as u64) / 512;
            other.encrypt_sector(sector, u128::from(unit).to_le_bytes());
        }
        let key = key_of(&key);
        let mut data = plain.clone();
        run(&key, Direction::Encrypt, sector_bytes, offset_bytes, &mut data);
        prop_assert!(data == want);
        run(&key, Direction::Decrypt, sector_bytes, offset_bytes, &mut data);
        prop_assert!(data == plain);
    }
}
