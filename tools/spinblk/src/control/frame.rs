//! Finds where one JSON value ends and the next begins in a stream of bytes that arrive in any pieces.
//!
//! A value is over when the bracket that opened it is closed; nothing else is looked at, so each byte costs the same
//! however the pieces are cut. Whether it is JSON is for the parser to say, which gets it whole.

/// More than any request needs, and less than the parser's own limit.
const MAX_DEPTH: usize = 100;

/// Why no more values can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Something stands where `{` or `[` should.
    NoRequest,
    /// Brackets in brackets in brackets.
    TooDeep,
    /// It does not end.
    TooLong,
}

/// Bytes that came and were not given away yet.
#[derive(Debug)]
pub struct Framer {
    bytes: Vec<u8>,
    /// How many of them were looked at.
    looked: usize,
    depth: usize,
    in_string: bool,
    /// The byte before was a backslash in a string.
    escaped: bool,
    max_bytes: usize,
}

impl Framer {
    /// One that refuses values of more than `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { bytes: Vec::new(), looked: 0, depth: 0, in_string: false, escaped: false, max_bytes }
    }

    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a value has begun and not ended.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.depth > 0
    }

    /// The next whole value; `None` when more bytes are needed. After an error there is nothing more to be had.
    #[allow(clippy::should_implement_trait, reason = "an end is not final: more bytes may come")]
    pub fn next(&mut self) -> Option<Result<Vec<u8>, FrameError>> {
        while let Some(&byte) = self.bytes.get(self.looked) {
            let outside = self.depth == 0;
            if outside && byte.is_ascii_whitespace() {
                self.looked += 1;
                continue;
            }
            if outside {
                // Only blanks so far.
                self.bytes.drain(..self.looked);
                self.looked = 0;
                if !matches!(byte, b'{' | b'[') {
                    return Some(Err(FrameError::NoRequest));
                }
            }
            self.looked += 1;
            self.step(byte);
            if self.looked > self.max_bytes {
                return Some(Err(FrameError::TooLong));
            }
            if self.depth > MAX_DEPTH {
                return Some(Err(FrameError::TooDeep));
            }
            if self.depth == 0 {
                let rest = self.bytes.split_off(self.looked);
                self.looked = 0;
                return Some(Ok(std::mem::replace(&mut self.bytes, rest)));
            }
        }
        if self.depth == 0 {
            self.bytes.clear();
            self.looked = 0;
        }
        None
    }

    fn step(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(pieces: &[&[u8]], max_bytes: usize) -> (Vec<String>, Option<FrameError>) {
        let (mut framer, mut found) = (Framer::new(max_bytes), Vec::new());
        for piece in pieces {
            framer.push(piece);
            while let Some(next) = framer.next() {
                match next {
                    Ok(frame) => found.push(String::from_utf8(frame).unwrap()),
                    Err(e) => return (found, Some(e)),
                }
            }
        }
        (found, None)
    }

    #[test]
    fn values_end_where_their_bracket_closes() {
        let text = br#" {"a":"}]\"{"}{} [1,{"b":[]}]
            {"half":"#;
        let want = (vec![r#"{"a":"}]\"{"}"#.to_string(), "{}".into(), r#"[1,{"b":[]}]"#.into()], None);
        for cut in 0..text.len() {
            assert_eq!(frames(&[&text[..cut], &text[cut..]], 100), want, "{cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(frames(&bytes, 100), want);
    }

    #[test]
    fn what_is_no_request_is_refused_at_once() {
        let cases: [(&[u8], FrameError); 6] = [
            (b"  true", FrameError::NoRequest),
            (b"}", FrameError::NoRequest),
            (b"\"text\"", FrameError::NoRequest),
            (&[0xff], FrameError::NoRequest),
            (&[b'['; 101], FrameError::TooDeep),
            (&[b'['; 1001], FrameError::TooDeep),
        ];
        for (text, want) in cases {
            assert_eq!(frames(&[text], 2000), (vec![], Some(want)));
        }
        assert_eq!(frames(&[&[b'['; 100]], 2000), (vec![], None));
    }

    #[test]
    fn the_longest_value_passes_and_one_byte_more_does_not() {
        let text = format!("{{\"a\":\"{}\"}}", "x".repeat(100));
        assert_eq!(frames(&[text.as_bytes()], text.len()), (vec![text.clone()], None));
        assert_eq!(frames(&[text.as_bytes()], text.len() - 1), (vec![], Some(FrameError::TooLong)));
        // Blanks between values are no part of them.
        let blanks = " ".repeat(1000);
        assert_eq!(frames(&[blanks.as_bytes(), text.as_bytes()], text.len()), (vec![text], None));
    }

    proptest! {
        #[test]
        fn the_parser_and_the_framer_agree(text in r#"([\[\]{}",:\\ 1a]|\{"a":\[1,"\\""\]\}){0,40}"#) {
            let whole = frames(&[text.as_bytes()], 1000);
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            prop_assert_eq!(&frames(&bytes, 1000), &whole);
            // Whatever the parser takes for a value that begins with a bracket is one frame, to the byte.
            let mut values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
            let (mut at, mut found) = (0, whole.0.into_iter());
            while let Some(Ok(value)) = values.next() {
                if !(value.is_object() || value.is_array()) {
                    break;
                }
                let end = values.byte_offset();
                let frame = found.next();
                prop_assert_eq!(frame.as_deref(), Some(text[at..end].trim_start()));
                at = end;
            }
        }
    }
}
