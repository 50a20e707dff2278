//! Waiting for a condition, never without a bound.

use crate::fail::Fail;
use std::thread::sleep;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);

/// Polls until `condition` holds; `what` completes the sentence "waited in vain for …".
pub(crate) fn wait_for(what: &str, limit_s: u64, mut condition: impl FnMut() -> bool) -> Result<(), Fail> {
    wait_some(what, limit_s, || condition().then_some(()))
}

/// Polls until `look` finds something.
pub(crate) fn wait_some<T>(what: &str, limit_s: u64, mut look: impl FnMut() -> Option<T>) -> Result<T, Fail> {
    let deadline = Instant::now() + Duration::from_secs(limit_s);
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(Fail::Waited { what: what.to_owned(), limit_s });
        }
        sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_gives_up() {
        let mut count = 0;
        let found = wait_some("three", 5, || {
            count += 1;
            (count == 3).then_some(count)
        });
        assert_eq!(found.unwrap(), 3);
        let late = wait_for("the impossible", 0, || false).unwrap_err();
        assert_eq!(late.to_string(), "waited 0 s in vain for the impossible");
    }
}
