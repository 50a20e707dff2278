//! JSON over a unix socket, one value per line each way, read without blocking longer than one wants.

use crate::error::{Error, Result};
use crate::process::interrupted;
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);

/// A connection.
pub(crate) struct JsonLines {
    input: BufReader<UnixStream>,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// Who is at the other end, for errors.
    peer: &'static str,
}

impl JsonLines {
    pub(crate) fn new(stream: UnixStream, peer: &'static str) -> Result<JsonLines> {
        stream.set_nonblocking(true).map_err(|error| lost(peer, &error))?;
        Ok(JsonLines { input: BufReader::new(stream), line: Vec::new(), peer })
    }

    /// The next value; `None` if there is none by the deadline. A deadline that has passed takes what is there.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            match self.input.read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.ends_with(b"\n") => return self.take_line().map(Some),
                Ok(_) => return Err(Error::Closed(self.peer)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(lost(self.peer, &error)),
            }
            if interrupted() {
                return Err(Error::Interrupted);
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(STEP);
        }
    }

    /// Lines are short, and the other end reads them: this does not wait.
    pub(crate) fn send(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n");
        self.input.get_mut().write_all(line.as_bytes()).map_err(|error| lost(self.peer, &error))
    }

    fn take_line(&mut self) -> Result<Value> {
        let line = std::mem::take(&mut self.line);
        let what = || format!("`{}` from {}", String::from_utf8_lossy(&line).trim_end(), self.peer);
        serde_json::from_slice(&line).map_err(|source| Error::Json { what: what(), source })
    }
}

/// An end that dies with something unread resets the connection, or breaks it.
fn lost(peer: &'static str, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Error::Closed(peer),
        _ => Error::Lab(format!("lost {peer}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn puts_pieces_together_and_notices_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut lines = JsonLines::new(ours, "a test").unwrap();
        assert!(lines.next(Instant::now()).unwrap().is_none());
        theirs.write_all(b"{\"a\":").unwrap();
        assert!(lines.next(Instant::now()).unwrap().is_none());
        theirs.write_all(b"1}\n\"b\"\n").unwrap();
        assert_eq!(lines.next(Instant::now()).unwrap(), Some(json!({"a": 1})));
        lines.send(&json!({"Ok": null})).unwrap();
        drop(theirs);
        assert_eq!(lines.next(Instant::now()).unwrap(), Some(json!("b")));
        let end = lines.next(Instant::now()).unwrap_err().to_string();
        assert_eq!(end, "a test has closed the connection");
    }
}
