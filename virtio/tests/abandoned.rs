//! A queue whose storage hangs is given up: its memory stays, the driver's rings are not touched again, and it goes away
//! by itself when the storage answers.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use spinblk_bdev::{Bdev, Channel, Completion, Error, Info, Io, IoResult};
use spinblk_reactor::{Poller, Progress, Ring};
use spinblk_virtio::MemoryMap;
use spinblk_virtio::testing::{Buffer, Driver, Rig, header};

thread_local! {
    static ANSWER: Rc<Cell<bool>> = Rc::new(Cell::new(false));
}

/// Answers nothing until told to.
struct Hanging(Info);

struct HangingChannel(Vec<u32>);

impl Bdev for Hanging {
    fn info(&self) -> &Info {
        &self.0
    }
    fn open(&self, _: &mut Ring, _: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(HangingChannel(Vec::new())))
    }
}

impl Channel for HangingChannel {
    fn submit(&mut self, io: &Io, _: &mut Ring) -> Option<IoResult> {
        self.0.push(io.tag);
        None
    }
    fn poll(&mut self, _: &mut Ring, done: &mut Vec<Completion>) {
        if ANSWER.with(|answer| answer.get()) {
            done.extend(self.0.drain(..).map(|tag| Completion { tag, result: Ok(()) }));
        }
    }
    fn close(&mut self, _: &mut Ring) {
        assert!(self.0.is_empty(), "closed with I/O in flight");
    }
}

#[test]
fn an_abandoned_queue_keeps_its_memory_and_leaves_the_rings_alone() {
    let bdev = Hanging(Info::new("hang", 1 << 20, 512).unwrap());
    let mut rig = Rig::new(Driver::new(8, 4096, false, 0), &bdev);
    let head =
        rig.driver.submit(&[Buffer::Out(header(0, 0)), Buffer::In(512), Buffer::In(1)], false, 8).unwrap();
    rig.poll();
    assert!(!rig.queue.is_quiet());
    let (token, map) = (Arc::new(()), rig.driver.memory_map());
    rig.queue.abandon(token.clone(), &mut rig.core.ring);
    // A map without the old regions must not replace them under the I/O in flight.
    rig.queue.set_memory(Arc::new(MemoryMap::default()), &mut rig.core.ring);
    drop(map);
    assert_eq!(rig.queue.poll(&mut rig.core), Progress::Idle);
    ANSWER.with(|answer| answer.set(true));
    assert_eq!(rig.queue.poll(&mut rig.core), Progress::Finished);
    assert!(rig.driver.completed().is_empty(), "the used ring was written");
    assert_eq!(rig.driver.buffer(head, 2), [0xee], "the status byte was written");
    assert_eq!(Arc::strong_count(&token), 2);
    drop(rig);
    assert_eq!(Arc::strong_count(&token), 1);
}
