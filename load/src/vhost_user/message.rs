//! The one message that the `vhost` crate cannot send: SET_VRING_BASE of a packed ring, which takes 32 bits where the
//! crate's call takes 16.
//!
//! Contract: the socket is the session's own, no other message is under way on it, and the server has been told to
//! answer every message if and only if `wants_ack`.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;

const SET_VRING_BASE: u32 = 10;
/// Flags of a header: the protocol's version, `reply` and `need_reply`.
const VERSION_1: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
const HEADER_BYTES: usize = 12;
const ACK_BYTES: usize = 8;

/// Tells the server where it finds `queue` to stand.
pub(super) fn set_vring_base(mut socket: &UnixStream, wants_ack: bool, queue: u16, base: u32) -> Result<()> {
    let flags = VERSION_1 | if wants_ack { NEED_REPLY } else { 0 };
    let words = [SET_VRING_BASE, flags, 8, queue.into(), base];
    // The protocol speaks in the machine's own byte order.
    let message: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    socket.write_all(&message)?;
    if !wants_ack {
        return Ok(());
    }
    let mut answer = [0; HEADER_BYTES + ACK_BYTES];
    socket.read_exact(&mut answer)?;
    let (words, _) = answer.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    match words[..] {
        [SET_VRING_BASE, flags, 8, 0, 0] if flags & REPLY != 0 => Ok(()),
        [SET_VRING_BASE, flags, 8, ..] if flags & REPLY != 0 => {
            Err(Error::new(ErrorKind::InvalidInput, format!("the server refuses the base {base:#x}")))
        }
        _ => Err(Error::new(ErrorKind::InvalidData, "the server's answer is to something else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKED_START: u32 = 0x8000_8000;

    fn exchange(answer: &[u32]) -> (Result<()>, Vec<u32>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let answer: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).collect();
        theirs.write_all(&answer).unwrap();
        let result = set_vring_base(&ours, !answer.is_empty(), 3, PACKED_START);
        let mut sent = [0; 20];
        theirs.read_exact(&mut sent).unwrap();
        (result, sent.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect())
    }

    #[test]
    fn the_whole_word_goes_out_and_the_answer_counts() {
        let (result, sent) = exchange(&[]);
        assert!(result.is_ok() && sent == [10, 1, 8, 3, 0x8000_8000], "{sent:x?}");
        let (result, sent) = exchange(&[10, 5, 8, 0, 0]);
        assert!(result.is_ok() && sent == [10, 9, 8, 3, 0x8000_8000], "{sent:x?}");
        assert!(
            exchange(&[10, 5, 8, 1, 0]).0.unwrap_err().to_string().contains("refuses the base 0x80008000")
        );
        for nonsense in [[11, 5, 8, 0, 0], [10, 1, 8, 0, 0], [10, 5, 4, 0, 0]] {
            assert!(exchange(&nonsense).0.is_err(), "{nonsense:?}");
        }
    }
}
