//! Which daemon dies when.
//!
//! ```text
//!   fresh starts   no client yet:  ─┬─ kill ─┬─ kill
//!   cycles   load ══════════════════╪═ waits ══════════════════════════╪══════════ everything read
//!            daemon   ready ─ random ─ kill ─ start ─ [kill ─ start …] ─ ready     file ═ new daemon
//!   once more with SIGTERM in place of kill, and then frozen for a while
//! ```
//! Of those that die while they start, some die at once, before there is a socket, some at any moment, and some when the client
//! has just connected.

use crate::daemon::{CONNECTED, Daemon, READY, Serve};
use crate::error::Error;
use crate::load::{BLOCK_BYTES, Load, check_all};
use labvm::contents::Contents;
use labvm::dice::Dice;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

const DISK_BYTES: usize = 48 << 20;
/// Starts that are killed before there is a client.
const FRESH_STARTS: u32 = 4;
/// A start, with a client that connects, may take so much longer than one without.
const CONNECTING_MS: u64 = 30;
/// For what a frozen daemon has handed over already.
const SETTLING: Duration = Duration::from_secs(1);

/// What is to happen.
pub struct Story<'a> {
    /// The program.
    pub program: &'a Path,
    /// Where its image file, socket and log go.
    pub folder: &'a Path,
    /// With packed virtqueues.
    pub packed: bool,
    /// How often the daemon is killed, and then how often it is stopped.
    pub cycles: u32,
    /// Other numbers, other moments.
    pub seed: u64,
    /// How long the disk works between two deaths, at least and at most.
    pub work_ms: Range<u64>,
    /// How long the daemon is frozen at the end.
    pub freeze: Option<Duration>,
    /// Is told what happens.
    pub say: &'a dyn Fn(&str),
    /// Whether to come to the end now.
    pub stop: &'a dyn Fn() -> bool,
}

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Daemons killed under load.
    pub killed: u32,
    /// Daemons killed while they started.
    pub killed_starting: u32,
    /// Daemons stopped by SIGTERM under load.
    pub stopped: u32,
    /// Requests that came back.
    pub requests: u64,
    /// Requests that a daemon did again for one before it.
    pub resumed: u64,
    /// From a kill to the first request served by the next daemon; where several died in a row, from the last one's.
    pub first_io_ms: Vec<u64>,
}

impl Story<'_> {
    /// Tells it to its end.
    ///
    /// # Errors
    /// [`Error`] is what the client found wrong, or what the daemon did.
    pub fn run(&self) -> Result<Tally, Error> {
        let mut serve = Serve::new(self.program, self.folder)?;
        let file = |source| Error::File { action: "make", path: serve.image.clone(), source };
        File::create(&serve.image).and_then(|image| image.set_len(DISK_BYTES as u64)).map_err(file)?;
        let mut dice = Dice(self.seed);
        let (mut daemon, start_ms) = self.fresh_starts(&mut serve, &mut dice)?;
        let load = Load::start(&serve.socket, self.packed, DISK_BYTES / BLOCK_BYTES, self.seed)?;
        let tally = Tally { killed_starting: FRESH_STARTS, ..Tally::default() };
        let mut scene = Scene { story: self, serve, load, dice, start_ms, tally };
        let goes_on = |_: &u32| !(self.stop)();
        for cycle in (1..=self.cycles).take_while(goes_on) {
            daemon = scene.die(daemon, cycle)?;
        }
        for cycle in (1..=self.cycles).take_while(goes_on) {
            daemon = scene.restart(daemon, cycle)?;
        }
        if let Some(time) = self.freeze
            && !(self.stop)()
        {
            scene.freeze(&daemon, time)?;
        }
        scene.end(daemon)
    }

    /// Gives the first that may live, and how long its start took.
    fn fresh_starts(&self, serve: &mut Serve, dice: &mut Dice) -> Result<(Daemon, u64), Error> {
        let start = |serve: &mut Serve| {
            let started = Instant::now();
            Ok::<_, Error>((serve.start(READY)?, started.elapsed().as_millis() as u64))
        };
        let (first, start_ms) = start(serve)?;
        first.kill()?;
        for _ in 0..FRESH_STARTS {
            let daemon = serve.spawn()?;
            std::thread::sleep(Duration::from_millis(dice.within(0..start_ms)));
            daemon.kill()?;
        }
        let (daemon, last_ms) = start(serve)?;
        (self.say)(&format!("a start takes {} ms; {FRESH_STARTS} were killed", start_ms.min(last_ms)));
        Ok((daemon, start_ms.min(last_ms)))
    }
}

/// The story under way.
struct Scene<'a> {
    story: &'a Story<'a>,
    serve: Serve,
    load: Load,
    dice: Dice,
    start_ms: u64,
    tally: Tally,
}

impl Scene<'_> {
    /// Kills the daemon, and some of its successors while they start; waits until the last one serves.
    fn die(&mut self, daemon: Daemon, cycle: u32) -> Result<Daemon, Error> {
        self.work()?;
        self.kill(daemon)?;
        let mut killed = Instant::now();
        self.tally.killed += 1;
        // None, one or two, each of them in one way or another.
        for number in 0..cycle % 3 {
            let daemon = match (cycle / 3 + number) % 3 {
                0 => self.serve.start(CONNECTED)?,
                1 => self.serve.spawn()?,
                _ => {
                    let daemon = self.serve.spawn()?;
                    let moment_ms = self.dice.within(0..self.start_ms + CONNECTING_MS);
                    self.load.go_on_for(Duration::from_millis(moment_ms))?;
                    daemon
                }
            };
            self.kill(daemon)?;
            killed = Instant::now();
            self.tally.killed_starting += 1;
        }
        let daemon = self.serve.start(READY)?;
        let first_io_ms = self.load.served_since(killed)?.as_millis() as u64;
        self.tally.first_io_ms.push(first_io_ms);
        let (more, say) = (cycle % 3, self.story.say);
        say(&format!(
            "cycle {cycle}: killed, {more} more killed while starting, first I/O after {first_io_ms} ms"
        ));
        Ok(daemon)
    }

    /// Stops the daemon as a user would, and starts the next one.
    fn restart(&mut self, daemon: Daemon, cycle: u32) -> Result<Daemon, Error> {
        self.work()?;
        self.tally.resumed += daemon.resumed();
        daemon.stop()?;
        let stopped = Instant::now();
        self.tally.stopped += 1;
        let daemon = self.serve.start(READY)?;
        let first_io_ms = self.load.served_since(stopped)?.as_millis();
        (self.story.say)(&format!("cycle {cycle}: stopped by SIGTERM, first I/O after {first_io_ms} ms"));
        Ok(daemon)
    }

    /// Stops the daemon where it is; nothing is served, nobody gives up, and it goes on.
    fn freeze(&mut self, daemon: &Daemon, time: Duration) -> Result<(), Error> {
        let before = self.load.done();
        daemon.freeze();
        self.load.go_on_for(SETTLING)?;
        let frozen = self.load.done();
        self.load.go_on_for(time)?;
        let (after, seconds) = (self.load.done(), time.as_secs());
        daemon.thaw();
        if frozen != after {
            return Err(Error::Wrong(format!("{} requests were served by a frozen daemon", after - frozen)));
        }
        while self.load.done() == after {
            self.load.go_on_for(Duration::from_millis(1))?;
        }
        (self.story.say)(&format!("frozen for {seconds} s after {before} requests, and it goes on"));
        Ok(())
    }

    /// Everything is there: for the client, in the file, and for a client of another daemon.
    fn end(mut self, daemon: Daemon) -> Result<Tally, Error> {
        self.tally.requests = self.load.done();
        let contents = self.load.finish()?;
        self.tally.resumed += daemon.resumed();
        daemon.stop()?;
        check_file(&self.serve.image, &contents)?;
        let daemon = self.serve.start(READY)?;
        check_all(&self.serve.socket, self.story.packed, contents)?;
        daemon.stop()?;
        // Without one, nothing was shown.
        if self.tally.killed > 0 && self.tally.resumed == 0 {
            return Err(Error::Wrong("no request was in flight at any kill".to_owned()));
        }
        Ok(self.tally)
    }

    /// Lets the disk work for a while.
    fn work(&mut self) -> Result<(), Error> {
        let time_ms = self.dice.within(self.story.work_ms.clone());
        self.load.go_on_for(Duration::from_millis(time_ms))
    }

    fn kill(&mut self, daemon: Daemon) -> Result<(), Error> {
        self.tally.resumed += daemon.resumed();
        daemon.kill()
    }
}

fn check_file(path: &Path, contents: &Contents) -> Result<(), Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut bytes = vec![0; BLOCK_BYTES];
    for block in 0..contents.len() {
        file.read_exact(&mut bytes).map_err(failed)?;
        if let Some((_, wanted)) = contents.first_wrong(block..block + 1, &bytes) {
            let path = path.display();
            return Err(Error::Wrong(format!("block {block} of {path} does not hold {wanted:?}")));
        }
    }
    Ok(())
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { killed, killed_starting, stopped, requests, resumed, first_io_ms } = self;
        write!(
            f,
            "killed under load: {killed}, while starting: {killed_starting}, stopped: {stopped}; {requests} requests, \
             {resumed} of them done again"
        )?;
        let mut sorted = first_io_ms.clone();
        sorted.sort_unstable();
        match sorted.as_slice() {
            [] => Ok(()),
            [.., max] => {
                write!(f, "; from kill to first I/O {} ms (median), {max} ms (max)", sorted[sorted.len() / 2])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_says_median_and_longest() {
        let tally = Tally { killed: 3, first_io_ms: vec![9, 2, 5], ..Tally::default() };
        assert!(tally.to_string().ends_with("from kill to first I/O 5 ms (median), 9 ms (max)"), "{tally}");
        assert!(!Tally::default().to_string().contains("first I/O"));
    }
}
