//! Bases for a volume that has no previous version here: a clone of another one, or of the image that both began as.
//!
//! Packs are in the order of the volume they were first read from. So where a clone differs in one chunk, the chunk next to
//! it is known, and what lies next to that in its pack is most likely what the clone had there before it went its own way.
//! A wrong guess costs one attempt; where guesses are mostly wrong, no more are made.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::format::{Address, PACK_SLOTS};

/// How many chunks away a neighbour may be.
const REACH: u64 = 8;
/// Chunks remembered: more than are under way at once, and some that lie before them.
const REMEMBERED: usize = 256;
/// So many more wrong guesses than right ones end it, and right ones count no further.
const PATIENCE: i32 = 16;

pub(super) struct Neighbours {
    inner: Mutex<Inner>,
}

struct Inner {
    /// Where chunks of the volume, by number, lie in the store, or what they are deltas to.
    known: BTreeMap<u64, Address>,
    patience: i32,
}

impl Neighbours {
    pub fn new() -> Neighbours {
        Neighbours { inner: Mutex::new(Inner { known: BTreeMap::new(), patience: PATIENCE }) }
    }

    /// This chunk of the volume was found there.
    pub fn note(&self, chunk: u64, address: Address) {
        self.lock().note(chunk, address);
    }

    /// The place of what may be much like this chunk.
    pub fn guess(&self, chunk: u64) -> Option<Address> {
        let inner = self.lock();
        if inner.patience <= 0 {
            return None;
        }
        let before = inner.known.range(chunk.saturating_sub(REACH)..chunk).next_back();
        let after = inner.known.range(chunk + 1..=chunk + REACH).next();
        let before = before.map(|(known, address)| (chunk - known, address.slot() as u64 + (chunk - known), address.pack()));
        let after = after.and_then(|(known, address)| Some((known - chunk, (address.slot() as u64).checked_sub(known - chunk)?, address.pack())));
        let (_, slot, pack) = [before, after].into_iter().flatten().min()?;
        (slot < PACK_SLOTS as u64).then(|| Address::new(pack, slot as usize))
    }

    /// A guess turned out to be good for a delta, or not.
    pub fn judge(&self, chunk: u64, base: Address, good: bool) {
        let mut inner = self.lock();
        if good {
            inner.note(chunk, base);
            inner.patience = (inner.patience + 1).min(PATIENCE);
        } else {
            inner.patience -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, chunk: u64, address: Address) {
        self.known.insert(chunk, address);
        if self.known.len() > REMEMBERED {
            self.known.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guess_lies_as_far_from_the_nearest_known_chunk_as_the_chunk_does() {
        let neighbours = Neighbours::new();
        assert_eq!(neighbours.guess(10), None);
        neighbours.note(7, Address::new(3, 20));
        assert_eq!(neighbours.guess(10), Some(Address::new(3, 23)));
        assert_eq!(neighbours.guess(5), Some(Address::new(3, 18)));
        assert_eq!(neighbours.guess(7 + REACH + 1), None);
        neighbours.note(11, Address::new(4, 0));
        assert_eq!(neighbours.guess(10), Some(Address::new(3, 23)), "nothing lies before the first of a pack");
        neighbours.note(12, Address::new(4, 2));
        assert_eq!(neighbours.guess(13), Some(Address::new(4, 3)));
        neighbours.note(20, Address::new(5, PACK_SLOTS - 1));
        assert_eq!(neighbours.guess(21), None);
    }

    #[test]
    fn wrong_guesses_end_it_and_right_ones_carry_it_on() {
        let neighbours = Neighbours::new();
        neighbours.note(0, Address::new(1, 0));
        for chunk in 1..100 {
            assert_eq!(neighbours.guess(chunk), Some(Address::new(1, chunk as usize)), "a good base is as good as a known chunk");
            neighbours.judge(chunk, Address::new(1, chunk as usize), true);
        }
        for _ in 0..PATIENCE {
            assert!(neighbours.guess(100).is_some());
            neighbours.judge(100, Address::new(1, 100), false);
        }
        assert_eq!(neighbours.guess(100), None);
    }
}
