//! A busy queue between two cores: its driver on one, a reactor made for it on the other; and two such in turn.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use spinblk_bdev::Bdev;
use spinblk_reactor::{Config, Handle};
use spinblk_virtio::blk::BlkQueue;

use crate::{Driver, Error, Shape, Spread, interleaved, open_queue, pin};

/// For setting a queue up.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_millis(100);

/// Two cases that were measured in turn.
#[derive(Serialize)]
pub struct Pair {
    /// The first one.
    pub first: Spread,
    /// The second one.
    pub second: Spread,
    /// The second over the first, in each repeat.
    pub ratio: Spread,
}

impl Pair {
    /// Measures the first case (`false`) and the second (`true`) once per repeat.
    ///
    /// # Errors
    /// The first that `measure` gives.
    pub fn measure(
        repeats: usize,
        mut measure: impl FnMut(bool) -> Result<f64, Error>,
    ) -> Result<Self, Error> {
        let results = interleaved(repeats, &mut [false, true], |second| measure(*second))?;
        let ratios = results[1].iter().zip(&results[0]).map(|(second, first)| second / first).collect();
        let [first, second] = [0, 1].map(|case| Spread::of(results[case].clone()));
        Ok(Self { first, second, ratio: Spread::of(ratios) })
    }
}

/// Requests per second of one queue with `depth` in flight. `add` sets up what the reactor serves and gives that queue's driver.
///
/// # Errors
/// Those of `add`, and when a thread cannot run on its core.
pub fn rate_across(
    [client, reactor]: [usize; 2],
    depth: u16,
    time: Duration,
    add: impl FnOnce(&Handle) -> Result<Driver, Error>,
) -> Result<f64, Error> {
    let reactor = Handle::spawn(Config { claim: false, ..Config::new(reactor) })?;
    let mut driver = add(&reactor)?;
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| {
            pin(client)?;
            driver.offer(depth);
            driver.drive(WARM_UP);
            Ok(driver.drive(time))
        });
        driver.join().unwrap_or(Err(Error::Panicked))
    })
}

/// Sets one of the `queues` of a disk up on the reactor; `prepare` has it before it is polled. The queue keeps the memory when its
/// driver goes.
///
/// # Errors
/// Those of `prepare`, and when the queue cannot be opened.
pub fn add_queue(
    reactor: &Handle,
    disk: &Arc<dyn Bdev>,
    queues: u16,
    shape: Shape,
    prepare: impl FnOnce(&mut BlkQueue, &Driver) -> Result<(), Error> + Send + 'static,
) -> Result<Driver, Error> {
    let (driver, disk) = (Driver::new(shape), Arc::clone(disk));
    reactor.call(CALL_LIMIT, move |reactor| {
        let mut queue = open_queue(&*disk, queues, &driver, &mut reactor.core.ring)?;
        prepare(&mut queue, &driver)?;
        reactor.add(Box::new(queue));
        Ok(driver)
    })?
}
