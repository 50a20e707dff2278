//! Drives one channel and the model side by side: several I/Os in flight, never two that overlap, each reported exactly
//! once, with the right answer, the right data, and no byte touched that is not its own.

use std::hash::{BuildHasher, Hasher, RandomState};

use spinblk_bdev::{Completion, Info, IoError, IoResult, Op, Ops};

use crate::common::{ARENA_BYTES, Bench, Request};
use crate::model::{Model, Noise};
use crate::steps::{Dice, Step};
use crate::targets::Target;

/// Which I/Os may fail that are not refused.
pub(crate) enum Faults {
    /// None.
    Never,
    /// Any.
    Anywhere,
    /// Those of these operations that touch one of these blocks (a flush touches them all), and no others.
    Exactly(Ops, Vec<bool>),
}

/// The answers that are right.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Succeeds,
    Refused(IoError),
    /// It has more segments than a channel needs to take.
    MayHaveTooManySegments,
    Fails,
    MayFail,
}

impl Verdict {
    fn allows(self, result: IoResult) -> bool {
        match self {
            Self::Succeeds => result.is_ok(),
            Self::Refused(error) => result == Err(error),
            Self::MayHaveTooManySegments => matches!(result, Ok(()) | Err(IoError::TooManySegments)),
            Self::Fails => result.is_err(),
            Self::MayFail => true,
        }
    }
}

struct Pending {
    request: Request,
    verdict: Verdict,
}

impl Pending {
    /// Where it does something; a refused I/O does nothing anywhere.
    fn overlaps(&self, request: &Request) -> bool {
        !matches!(self.verdict, Verdict::Refused(_))
            && request.offset_bytes < self.request.offset_bytes + self.request.len_bytes
            && self.request.offset_bytes < request.offset_bytes + request.len_bytes
    }
}

/// A channel, its model, and what is in flight.
pub(crate) struct Run {
    info: Info,
    keeps_data: bool,
    bench: Bench,
    model: Model,
    noise: Noise,
    random: u64,
    faults: Faults,
    pending: Vec<Option<Pending>>,
    gathered: Vec<u8>,
    /// I/Os that were not refused, and how they ended.
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
}

impl Run {
    pub(crate) fn new(target: &Target, depth: usize, faults: Faults) -> Self {
        let info = target.bdev.info().clone();
        Self {
            keeps_data: target.keeps_data,
            bench: Bench::new(target.bdev.as_ref(), depth),
            model: Model::new(info.size_bytes(), target.keeps_data),
            noise: Noise::new(),
            random: 1,
            faults,
            pending: (0..depth).map(|_| None).collect(),
            gathered: Vec::with_capacity(ARENA_BYTES),
            succeeded: 0,
            failed: 0,
            info,
        }
    }

    /// Writes all of the disk, makes `count` random I/Os, and reads all of it back.
    ///
    /// # Panics
    /// With the seed, when something is not as it should be. `SPINBLK_TEST_SEED` repeats it.
    pub(crate) fn at_random(&mut self, count: usize) {
        let seed = seed();
        // Now and not in the end: a test that fails by another panic shows it, too.
        println!("SPINBLK_TEST_SEED={seed} repeats the I/Os on {}", self.info.name);
        let mut random = seed | 1;
        let throws = (0..count).map(|_| Dice::throw(&mut random));
        if let Err(message) = self.steps(throws) {
            panic!("seed {seed}, disk {}: {message}", self.info.name);
        }
    }

    /// The same for the given steps; the message says what is wrong.
    pub(crate) fn steps(&mut self, throws: impl Iterator<Item = Dice>) -> Result<(), String> {
        self.whole_disk(Op::Write)?;
        for (number, dice) in throws.enumerate() {
            let step = Step::new(dice, &self.info);
            self.step(step).map_err(|message| format!("by step {number}: {message}"))?;
        }
        self.whole_disk(Op::Read)?;
        self.finish()
    }

    fn whole_disk(&mut self, op: Op) -> Result<(), String> {
        for offset_bytes in (0..self.info.size_bytes()).step_by(ARENA_BYTES) {
            let len_bytes = (self.info.size_bytes() - offset_bytes).min(ARENA_BYTES as u64);
            let request = Request::new(op, offset_bytes, len_bytes as usize);
            self.step(Step { request, refusal: None, polls: true })?;
        }
        Ok(())
    }

    fn step(&mut self, Step { request, refusal, polls }: Step) -> Result<(), String> {
        if polls {
            self.bench.turn();
            self.reap(0)?;
        }
        let verdict = refusal.map_or_else(|| self.verdict(&request), Verdict::Refused);
        let touches = refusal.is_none();
        while self.pending.iter().all(Option::is_some)
            || touches && self.pending.iter().flatten().any(|pending| pending.overlaps(&request))
        {
            self.reap(1)?;
        }
        let tag = self.pending.iter().position(Option::is_none).ok_or("no tag is free")?;
        let len_bytes = request.memory_len_bytes();
        let data = match request.op {
            Op::Write => self.noise.piece(&mut self.random, len_bytes),
            _ => &[],
        };
        self.bench.scatter(tag as u32, &request, data);
        match request.op {
            Op::Write if touches => self.model.write(request.offset_bytes, data),
            Op::Discard if touches => self.model.forget(request.offset_bytes, request.len_bytes),
            Op::WriteZeroes { .. } if touches => self.model.zero(request.offset_bytes, request.len_bytes),
            _ => {}
        }
        self.bench.submit(tag as u32, &request);
        self.pending[tag] = Some(Pending { request, verdict });
        Ok(())
    }

    fn verdict(&self, request: &Request) -> Verdict {
        match &self.faults {
            Faults::Anywhere => return Verdict::MayFail,
            Faults::Exactly(ops, blocks) if ops.contains(request.op) => {
                let block_size = u64::from(self.info.block_size);
                let start = (request.offset_bytes / block_size) as usize;
                let end = ((request.offset_bytes + request.len_bytes) / block_size) as usize;
                if request.op == Op::Flush || blocks[start..end].contains(&true) {
                    return Verdict::Fails;
                }
            }
            _ => {}
        }
        let too_many = request.lens.len() > spinblk_bdev::MAX_SEGMENTS;
        if too_many { Verdict::MayHaveTooManySegments } else { Verdict::Succeeds }
    }

    /// Takes `count` completions or more.
    fn reap(&mut self, count: usize) -> Result<(), String> {
        for Completion { tag, result } in self.bench.wait(count) {
            let pending = self.pending.get_mut(tag as usize).and_then(Option::take);
            let pending = pending.ok_or_else(|| format!("tag {tag} was reported without being in flight"))?;
            self.check(tag, &pending, result)
                .map_err(|what| format!("{what}: {:?} ended in {result:?}", pending.request))?;
        }
        Ok(())
    }

    fn check(
        &mut self,
        tag: u32,
        Pending { request, verdict }: &Pending,
        result: IoResult,
    ) -> Result<(), String> {
        if !verdict.allows(result) {
            return Err(format!("wrong answer, not {verdict:?}"));
        }
        if !self.bench.surroundings_hold(tag, request) {
            return Err("memory beside its own was written to".into());
        }
        if matches!(verdict, Verdict::Refused(_)) {
            return Ok(());
        }
        *(if result.is_ok() { &mut self.succeeded } else { &mut self.failed }) += 1;
        match request.op {
            Op::Read if result.is_err() => {}
            Op::Write if !self.keeps_data => {}
            // A write leaves its memory as it was, whatever becomes of it.
            Op::Read | Op::Write => {
                self.bench.gather(tag, request, &mut self.gathered);
                if let Some(at) = self.model.first_wrong(request.offset_bytes, &self.gathered) {
                    return Err(format!("byte {at} of the disk is wrong"));
                }
            }
            _ => {}
        }
        if result.is_err() && matches!(request.op, Op::Write | Op::WriteZeroes { .. }) {
            // The old, the new, or any mixture.
            self.model.forget(request.offset_bytes, request.len_bytes);
        }
        Ok(())
    }

    /// Waits for everything, and sees that nothing more comes.
    fn finish(&mut self) -> Result<(), String> {
        while self.pending.iter().any(Option::is_some) {
            self.reap(1)?;
        }
        self.bench.turn();
        self.reap(0)
    }
}

/// The seed that is asked for, or one that is new each time.
fn seed() -> u64 {
    match std::env::var("SPINBLK_TEST_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("SPINBLK_TEST_SEED={text}: give a number")),
        Err(_) => RandomState::new().build_hasher().finish(),
    }
}
