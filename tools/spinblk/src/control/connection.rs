//! One client: what it said, what it is to be told, and how long it may take.
//!
//! ```text
//!   open ──an answer waits──► answering ──all is sent──► open          closing: the last answer is sent, what still
//!     ├────── the last answer ──► answering ──► closing ──► gone        comes is thrown away until the client leaves
//!     └── a change ──► waiting ──its outcome──► answering               waiting has no deadline; a client may hang up
//! ```
//! It is read from only while no answer waits, so a client that does not read holds one answer at most.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{Shutdown, shutdown};

use super::changes::Outcome;
use super::frame::Framer;
use super::rpc::{Answer, Later, RpcError, answer, answer_later, last};
use super::server::Limits;
use super::state::State;
use crate::metrics::Scrape;

const READ_BYTES: usize = 64 << 10;
/// How long a client that was told its last answer may take to leave.
const LINGER: Duration = Duration::from_secs(2);

/// What is spoken.
#[derive(Debug)]
enum Talk {
    /// JSON-RPC.
    Rpc(Framer),
    /// HTTP, for metrics.
    Http(Scrape),
}

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: File,
    talk: Talk,
    output: Vec<u8>,
    sent: usize,
    /// The output is the last.
    last: bool,
    closing: bool,
    /// The client will send no more.
    ended: bool,
    /// The request whose change is not made yet.
    waiting: Option<Later>,
    /// There may be a whole request that is not answered yet.
    unread: bool,
    /// When the client last got on: the deadline counts from here.
    since: Instant,
}

impl Connection {
    pub(super) fn rpc(stream: OwnedFd, limits: &Limits) -> Self {
        Self::new(stream, Talk::Rpc(Framer::new(limits.request_bytes)))
    }

    pub(super) fn http(stream: OwnedFd) -> Self {
        Self::new(stream, Talk::Http(Scrape::default()))
    }

    fn new(stream: OwnedFd, talk: Talk) -> Self {
        Self {
            // Sockets are read and written as files are.
            stream: File::from(stream),
            talk,
            output: Vec::new(),
            sent: 0,
            last: false,
            closing: false,
            ended: false,
            waiting: None,
            unread: false,
            since: Instant::now(),
        }
    }

    pub(super) fn is_http(&self) -> bool {
        matches!(self.talk, Talk::Http(_))
    }

    /// What it waits for.
    pub(super) fn interest(&self) -> PollFlags {
        match &self.waiting {
            // Hanging up is told all the same.
            Some(_) => PollFlags::empty(),
            None if self.answering() => PollFlags::POLLOUT,
            None => PollFlags::POLLIN,
        }
    }

    /// Whether it has something to do that no event will tell of.
    pub(super) fn is_ready(&self) -> bool {
        self.unread && !self.answering() && self.waiting.is_none()
    }

    /// When it will have taken too long.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let limit = match &self.talk {
            _ if self.waiting.is_some() => return None,
            _ if self.answering() => limits.stalled,
            _ if self.closing => LINGER.min(limits.stalled),
            Talk::Http(_) => limits.partial,
            Talk::Rpc(framer) if framer.is_partial() => limits.partial,
            Talk::Rpc(_) => return None,
        };
        Some(self.since + limit)
    }

    fn answering(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Gets on as far as it can without waiting, by one request at most. `false` when it is over.
    pub(super) fn turn(&mut self, state: &mut State, limits: &Limits) -> bool {
        if self.waiting.is_some() {
            // Nothing was waited for but that the client leaves.
            return false;
        }
        if self.answering() {
            return self.send();
        }
        if self.closing {
            return self.receive(true) && !self.ended;
        }
        if !self.unread && !self.ended && !self.receive(false) {
            return false;
        }
        match self.next_answer(state, limits) {
            Some(answer) => self.begin(answer),
            None => {
                self.unread = false;
                !self.ended
            }
        }
    }

    fn begin(&mut self, Answer { bytes, last, later }: Answer) -> bool {
        (self.output, self.sent, self.last) = (bytes, 0, last);
        self.waiting = later;
        self.unread = !last;
        self.since = Instant::now();
        self.send()
    }

    /// Whether it waits for the change of this ticket.
    pub(super) fn waits_for(&self, ticket: u64) -> bool {
        self.waiting.as_ref().is_some_and(|later| later.ticket == ticket)
    }

    /// Answers what it has waited for. `false` when it is over.
    pub(super) fn finish(&mut self, outcome: Outcome, limits: &Limits) -> bool {
        match self.waiting.take() {
            Some(later) => self.begin(answer_later(later, outcome, limits.answer_bytes)),
            None => true,
        }
    }

    fn next_answer(&mut self, state: &mut State, limits: &Limits) -> Option<Answer> {
        match &mut self.talk {
            Talk::Http(scrape) => scrape.next(state),
            Talk::Rpc(framer) => match framer.next() {
                Some(Ok(frame)) => Some(answer(&frame, state, limits.answer_bytes)),
                Some(Err(e)) => Some(last(&e.into())),
                None if self.ended && framer.is_partial() => Some(last(&RpcError::cut_short())),
                None => None,
            },
        }
    }

    /// Takes what has come, or throws it away.
    fn receive(&mut self, discard: bool) -> bool {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(_) if discard => {}
            Ok(len) => {
                let begins = match &mut self.talk {
                    Talk::Http(scrape) => {
                        scrape.push(&bytes[..len]);
                        false
                    }
                    Talk::Rpc(framer) => {
                        let begins = !framer.is_partial();
                        framer.push(&bytes[..len]);
                        begins
                    }
                };
                if begins {
                    self.since = Instant::now();
                }
                self.unread = true;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
        true
    }

    fn send(&mut self) -> bool {
        while self.answering() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return false,
                Ok(len) => {
                    self.sent += len;
                    self.since = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        // A long answer's memory is not kept for the next, which may be short.
        self.output = Vec::new();
        self.sent = 0;
        if self.last {
            // Closing at once would throw away what the client has not read yet, if it still sends.
            self.closing = true;
            self.since = Instant::now();
            return !self.ended && shutdown(self.stream.as_raw_fd(), Shutdown::Write).is_ok();
        }
        true
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
