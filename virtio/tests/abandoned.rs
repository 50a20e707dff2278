//! A queue whose storage hangs is given up: its memory stays, the driver's rings are not touched again, and it goes away
//! by itself when the storage answers.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Delayed, answer, held};
use spinblk_reactor::{Poller, Progress, Ring};
use spinblk_virtio::blk::QueueHost;
use spinblk_virtio::testing::{Buffer, Driver, Rig, header};
use spinblk_virtio::{MemoryMap, QueueError};

/// Held while the queue waits.
struct Rest(#[allow(dead_code, reason = "held, not read")] Arc<()>);

impl QueueHost for Rest {
    fn interrupt(&mut self, _: &mut Ring) {
        unreachable!("nobody is interrupted");
    }
    fn unmapped(&mut self, _: u64) {
        unreachable!("nothing is taken");
    }
    fn broken(&mut self, _: QueueError) {
        unreachable!("nothing is taken");
    }
}

#[test]
fn an_abandoned_queue_keeps_its_memory_and_leaves_the_rings_alone() {
    let mut rig = Rig::new(Driver::new(8, 4096, false, 0), &Delayed::new());
    let chain = [Buffer::Out(header(0, 0)), Buffer::In(512), Buffer::In(1)];
    let head = rig.driver.submit(&chain, false, 8).unwrap();
    rig.poll();
    assert!(!rig.queue.is_quiet());
    let token = Arc::new(());
    rig.queue.abandon(Box::new(Rest(token.clone())), &mut rig.core.ring);
    // A map without the old regions must not replace them under the I/O in flight.
    rig.queue.set_memory(Arc::new(MemoryMap::default()), &mut rig.core.ring);
    assert_eq!(rig.queue.poll(&mut rig.core), Progress::Idle);
    answer(held()[0], Ok(()));
    assert_eq!(rig.queue.poll(&mut rig.core), Progress::Finished);
    assert!(rig.driver.completed().is_empty(), "the used ring was written");
    assert_eq!(rig.driver.buffer(head, 2), [0xee], "the status byte was written");
    assert_eq!(Arc::strong_count(&token), 2);
    drop(rig);
    assert_eq!(Arc::strong_count(&token), 1);
}
