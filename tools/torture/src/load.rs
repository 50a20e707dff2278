//! Random reads, writes and flushes on the whole disk, a thread of its own; everything that is read is checked.
//!
//! Contract: a block has one request at most, so what it must hold is known whenever none is there.

use crate::driver::{DEPTH, Driver, MAX_BYTES, Op, QUEUES};
use crate::error::Error;
use labvm::contents::{Block, Contents};
use labvm::dice::Dice;
use labvm::pattern::Pattern;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) const BLOCK_BYTES: usize = 4096;
const MAX_BLOCKS: u64 = (MAX_BYTES / BLOCK_BYTES) as u64;
/// Patterns have as many numbers; a block that is so many writes old could pass for a new one.
const PATTERNS: u64 = 1 << 16;
/// How long nothing may come back.
const HANG_LIMIT: Duration = Duration::from_secs(60);
/// How late the thread sees that it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// What a read that moves nothing leaves.
const POISON: u8 = 0xa5;

/// What the thread and its watcher tell each other.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
}

/// The running thread.
pub(crate) struct Load {
    thread: Option<JoinHandle<Result<Contents, Error>>>,
    shared: Arc<Shared>,
    /// When each server's first answer was seen.
    served: Receiver<Instant>,
}

impl Load {
    /// Starts on a disk of so many blocks, all of them zeroes.
    pub(crate) fn start(socket: &Path, packed: bool, blocks: usize, seed: u64) -> Result<Load, Error> {
        let driver = Driver::open(socket, packed)?;
        let mut contents = Contents::unknown(BLOCK_BYTES, blocks);
        contents.give_back(0..blocks, Some(Block::Zeroes));
        let shared = Arc::new(Shared::default());
        let (sender, served) = channel();
        let mut client = Client::new(driver, contents, sender);
        let of_thread = shared.clone();
        let body = move || client.work(&of_thread, Dice(seed)).map(|()| client.contents);
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(body);
        let thread = Some(thread.map_err(Error::system("start a thread"))?);
        Ok(Load { thread, shared, served })
    }

    /// Requests that have come back.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Waits so long; the load must not end meanwhile.
    pub(crate) fn go_on_for(&mut self, time: Duration) -> Result<(), Error> {
        std::thread::sleep(time);
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join()?;
            return Err(Error::Wrong("the load ended by itself".to_owned()));
        }
        Ok(())
    }

    /// Waits for the first answer of the server that was started at `since`; how long that was after `since`.
    pub(crate) fn served_since(&mut self, since: Instant) -> Result<Duration, Error> {
        loop {
            match self.served.recv_timeout(HANG_LIMIT + LOOK) {
                Ok(at) if at > since => return Ok(at - since),
                // Of an earlier server.
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.join()?;
                    return Err(Error::Wrong("the load ended by itself".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.go_on_for(Duration::ZERO)?;
                    let limit_s = HANG_LIMIT.as_secs();
                    return Err(Error::Wrong(format!("the new daemon has served nothing in {limit_s} s")));
                }
            }
        }
    }

    /// Ends it when all its requests have come back; gives what the disk must hold now.
    pub(crate) fn finish(mut self) -> Result<Contents, Error> {
        self.join()
    }

    fn join(&mut self) -> Result<Contents, Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let died = || Error::Wrong("the load has panicked; the message above says why".to_owned());
        self.thread.take().and_then(|thread| thread.join().ok()).ok_or_else(died)?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads the whole disk over a new connection, and asks that it holds this.
pub(crate) fn check_all(socket: &Path, packed: bool, contents: Contents) -> Result<(), Error> {
    let (sender, _nobody) = channel();
    Client::new(Driver::open(socket, packed)?, contents, sender).check_all(&Shared::default())
}

#[derive(Clone)]
struct Request {
    op: Op,
    pattern: Pattern,
    blocks: Range<usize>,
}

struct Client {
    driver: Driver<Request>,
    contents: Contents,
    begun: u64,
    last_done: Instant,
    served: Sender<Instant>,
    is_new: bool,
    buffer: Vec<u8>,
}

impl Client {
    fn new(driver: Driver<Request>, contents: Contents, served: Sender<Instant>) -> Client {
        let (last_done, buffer) = (Instant::now(), vec![0; MAX_BYTES]);
        Client { driver, contents, begun: 0, last_done, served, is_new: true, buffer }
    }

    /// Keeps both queues full until it is told to stop, then reads everything.
    fn work(&mut self, shared: &Shared, mut dice: Dice) -> Result<(), Error> {
        while !shared.stop.load(Ordering::Relaxed) {
            for queue in 0..QUEUES {
                self.fill(queue, &mut dice)?;
            }
            self.reap(shared)?;
        }
        self.drain(shared)?;
        self.check_all(shared)
    }

    fn check_all(&mut self, shared: &Shared) -> Result<(), Error> {
        for start in (0..self.contents.len()).step_by(MAX_BLOCKS as usize) {
            let end = self.contents.len().min(start + MAX_BLOCKS as usize);
            let queue = start / MAX_BLOCKS as usize % QUEUES;
            while !self.driver.has_room(queue) {
                self.reap(shared)?;
            }
            self.begin(queue, Op::Read, start..end)?;
            self.driver.submit(queue)?;
        }
        self.drain(shared)
    }

    fn drain(&mut self, shared: &Shared) -> Result<(), Error> {
        while self.driver.in_flight() > 0 {
            self.reap(shared)?;
        }
        Ok(())
    }

    fn fill(&mut self, queue: usize, dice: &mut Dice) -> Result<(), Error> {
        // Not for ever: one that meets another is left out.
        for _ in 0..2 * DEPTH {
            if !self.driver.has_room(queue) {
                break;
            }
            let count = dice.within(1..MAX_BLOCKS + 1) as usize;
            let start = dice.within(0..(self.contents.len() - count + 1) as u64) as usize;
            match dice.within(0..20) {
                0 => self.begin(queue, Op::Flush, 0..0)?,
                1..8 => self.begin(queue, Op::Read, start..start + count)?,
                _ => self.begin(queue, Op::Write, start..start + count)?,
            }
        }
        self.driver.submit(queue)
    }

    /// Begins a request, unless another one is at its blocks.
    fn begin(&mut self, queue: usize, op: Op, blocks: Range<usize>) -> Result<(), Error> {
        if !self.contents.take(blocks.clone()) {
            return Ok(());
        }
        let (offset_bytes, pattern) = ((blocks.start * BLOCK_BYTES) as u64, Pattern(self.begun % PATTERNS));
        let data = &mut self.buffer[..blocks.len() * BLOCK_BYTES];
        match op {
            Op::Write => pattern.fill(offset_bytes, data),
            Op::Read | Op::Flush => data.fill(POISON),
        }
        self.begun += 1;
        self.driver.begin(queue, op, offset_bytes, data, Request { op, pattern, blocks })
    }

    /// Waits, and takes what an interrupt tells of.
    fn reap(&mut self, shared: &Shared) -> Result<(), Error> {
        if self.driver.wait(LOOK)? {
            (self.last_done, self.is_new) = (Instant::now(), true);
        }
        for queue in 0..QUEUES {
            if !self.driver.was_called(queue) {
                continue;
            }
            while let Some(request) = self.driver.next_done(queue, &mut self.buffer)? {
                self.finish(request)?;
                shared.done.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.driver.in_flight() > 0 && self.last_done.elapsed() > HANG_LIMIT {
            let (in_flight, unseen) = (self.driver.in_flight(), self.driver.unseen());
            return Err(Error::Hangs { in_flight, limit_s: HANG_LIMIT.as_secs(), unseen });
        }
        Ok(())
    }

    fn finish(&mut self, request: Request) -> Result<(), Error> {
        self.last_done = Instant::now();
        if std::mem::take(&mut self.is_new) {
            // Nobody need listen.
            let _ = self.served.send(self.last_done);
        }
        let Request { op, pattern, blocks } = request;
        if op == Op::Read {
            let read = &self.buffer[..blocks.len() * BLOCK_BYTES];
            if let Some((block, wanted)) = self.contents.first_wrong(blocks.clone(), read) {
                return Err(Error::Wrong(format!("block {block} does not hold {wanted:?}")));
            }
        }
        self.contents.give_back(blocks, (op == Op::Write).then_some(Block::Written(pattern)));
        Ok(())
    }
}
