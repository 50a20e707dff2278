//! A histogram out of the text of a log's line: base64, zlib, version 2.
//!
//! ```text
//!   base64 ─► cookie, length │ zlib ─► cookie, length, ... (40 bytes) │ counts ─► the library
//! ```
//! The library makes room for as many bytes as the data says there are; here the lengths are held against what is there
//! first, so that a broken log cannot ask for all memory.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

/// What version 2 with compression begins with, and what is inside.
const COMPRESSED_COOKIE: u32 = 0x1c84_9314;
const COOKIE: u32 = 0x1c84_9313;
/// What stands before the compressed data, and before the counts.
const OUTER_BYTES: usize = 8;
const INNER_BYTES: usize = 40;
/// More than a histogram of five digits takes with every count at its longest.
const MAX_BYTES: u64 = 64 << 20;

/// The histogram, or what is wrong with it.
pub(super) fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let packed = STANDARD.decode(text).map_err(|e| format!("its histogram is no base64 ({e})"))?;
    let deflated = body(&packed, COMPRESSED_COOKIE, OUTER_BYTES)?;
    let mut plain = Vec::new();
    let inflated = ZlibDecoder::new(deflated).take(MAX_BYTES).read_to_end(&mut plain);
    inflated.map_err(|e| format!("its histogram cannot be inflated ({e})"))?;
    body(&plain, COOKIE, INNER_BYTES)?;
    Deserializer::new()
        .deserialize(&mut plain.as_slice())
        .map_err(|e| format!("its histogram cannot be read ({e})"))
}

/// What follows a header that holds this cookie and the length of what follows.
fn body(bytes: &[u8], cookie: u32, header_bytes: usize) -> Result<&[u8], String> {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    if number(0) != Some(cookie) {
        return Err("its histogram is not of version 2 with compression".into());
    }
    match bytes.get(header_bytes..) {
        Some(body) if number(4).map(|len| len as usize) == Some(body.len()) => Ok(body),
        _ => Err("its histogram is cut short or too long".into()),
    }
}
