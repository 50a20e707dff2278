//! A few words that one thread writes over and over and any number read whole, without a lock.
//!
//! The number is odd while the words are written. A reader that finds it odd, or changed after reading, passes the words
//! over; the writer never waits. The loom test walks the interleavings.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// `W` words and the number of their last writing.
pub(crate) struct Seqlock<const W: usize> {
    /// Twice the number of what is in it; one less while that is written; 0 before the first.
    number: AtomicU64,
    words: [AtomicU64; W],
}

impl<const W: usize> Seqlock<W> {
    pub(crate) fn new() -> Self {
        Self { number: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Writes `words` as number `number`, which is above 0 and grows. One thread at a time.
    pub(crate) fn write(&self, number: u64, words: [u64; W]) {
        self.number.store(2 * number - 1, Ordering::Relaxed);
        // Whoever sees a new word sees this number too, or a later one.
        fence(Ordering::Release);
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.number.store(2 * number, Ordering::Release);
    }

    /// The last words and their number; `None` before the first and while others are written.
    pub(crate) fn read(&self) -> Option<(u64, [u64; W])> {
        let before = self.number.load(Ordering::Acquire);
        let words = std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
        // The words are read before the number is read again.
        fence(Ordering::Acquire);
        let whole = before != 0 && before.is_multiple_of(2) && self.number.load(Ordering::Relaxed) == before;
        whole.then_some((before / 2, words))
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;

    use super::*;

    #[test]
    fn words_are_whole_or_passed_over() {
        loom::model(|| {
            let lock = Arc::new(Seqlock::<2>::new());
            let theirs = Arc::clone(&lock);
            let writer = loom::thread::spawn(move || {
                theirs.write(1, [1, 1]);
                theirs.write(2, [2, 2]);
            });
            if let Some((number, words)) = lock.read() {
                assert_eq!(words, [number; 2]);
            }
            writer.join().unwrap();
            assert_eq!(lock.read(), Some((2, [2, 2])));
        });
    }
}
