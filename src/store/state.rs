//! What ingests, restores and garbage collection must agree on, behind one mutex: the index, what running work holds on to,
//! and what a running collection has found alive.
//!
//! Rules. The writer's transaction may take this mutex; nobody who holds it waits for a connection. Bytes are dropped only
//! after their index entry was removed under the mutex; an address is used only after it was held under the mutex while its
//! index entry was there. So nothing can be found and dropped at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::format::{Address, Hash};
use super::index::Index;
use super::slots::{Pack, Slots};

pub(super) struct State {
    pub index: Index,
    pub next_pack: i64,
    pub packs: u64,
    /// Bytes in packs.
    pub stored: u64,
    pub marks: Option<Marks>,
    holds: HashMap<u64, Hold>,
    next_hold: u64,
}

/// What one running piece of work needs to stay.
#[derive(Default)]
struct Hold {
    /// Rows of `segment`, and through them their chunks.
    segments: HashSet<i64>,
    /// Chunks of segments that are not stored yet, by the segment's place in the volume.
    chunks: BTreeMap<u64, Vec<Address>>,
}

impl State {
    pub fn new(index: Index, next_pack: i64, packs: u64, stored: u64) -> State {
        State { index, next_pack, packs, stored, marks: None, holds: HashMap::new(), next_hold: 0 }
    }

    /// Does running work hold such a chunk, and which segments does it hold?
    pub fn held(&self, is_such: impl Fn(&Address) -> bool) -> (bool, HashSet<i64>) {
        let chunks = self.holds.values().any(|hold| hold.chunks.values().flatten().any(&is_such));
        (chunks, self.holds.values().flat_map(|hold| &hold.segments).copied().collect())
    }

    /// Begins to record what is alive among the given packs, starting with all that is held.
    pub fn begin_marks(&mut self, packs: Vec<Pack>) {
        let mut marks = Marks::new(packs);
        for hold in self.holds.values() {
            marks.segments.extend(&hold.segments);
            hold.chunks.values().flatten().for_each(|address| marks.mark(*address));
        }
        self.marks = Some(marks);
    }
}

/// The state, shared.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub fn new(state: State) -> Shared {
        Shared(Arc::new(Mutex::new(state)))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can happen between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what running work uses safe from garbage collection, until dropped.
pub struct Lease {
    state: Shared,
    id: u64,
}

impl Lease {
    pub(super) fn new(state: &Shared) -> Lease {
        let mut guard = state.lock();
        let id = guard.next_hold;
        guard.next_hold += 1;
        guard.holds.insert(id, Hold::default());
        drop(guard);
        Lease { state: state.clone(), id }
    }

    /// Holds chunks, such as one that the index led to and its base. False if one of them was removed from the index
    /// meanwhile: then none is held, and none must be used.
    pub(super) fn hold_if_indexed(&self, segment: u64, chunks: &[(Hash, Address)]) -> bool {
        let mut state = self.state.lock();
        let there = chunks.iter().all(|(hash, address)| state.index.contains(hash, *address));
        if there {
            chunks.iter().for_each(|(_, address)| self.hold_in(&mut state, segment, *address));
        }
        there
    }

    /// Holds a chunk that this work itself is about to store.
    pub(super) fn hold(&self, segment: u64, address: Address) {
        self.hold_in(&mut self.state.lock(), segment, address);
    }

    fn hold_in(&self, state: &mut State, segment: u64, address: Address) {
        if let Some(marks) = &mut state.marks {
            marks.mark(address);
        }
        if let Some(hold) = state.holds.get_mut(&self.id) {
            hold.chunks.entry(segment).or_default().push(address);
        }
    }

    /// Holds stored segments, and through them their chunks.
    pub(super) fn hold_segments(&self, ids: impl IntoIterator<Item = i64> + Clone) {
        let mut state = self.state.lock();
        if let Some(marks) = &mut state.marks {
            marks.segments.extend(ids.clone());
        }
        if let Some(hold) = state.holds.get_mut(&self.id) {
            hold.segments.extend(ids);
        }
    }

    /// The chunks held for the volume's segments before this place are held by their stored segments now.
    pub(super) fn release_chunks_before(&self, segment: u64) {
        if let Some(hold) = self.state.lock().holds.get_mut(&self.id) {
            hold.chunks = hold.chunks.split_off(&segment);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.lock().holds.remove(&self.id);
    }
}

/// What a running collection must leave: a bit for each slot of the packs it looks at, and segments by id.
pub(super) struct Marks {
    slots: Slots,
    bits: Vec<u64>,
    /// Segments that running work holds or held since the collection began.
    pub segments: HashSet<i64>,
}

impl Marks {
    /// `packs` by ascending number. All others are not looked at.
    fn new(packs: Vec<Pack>) -> Marks {
        let slots = Slots::new(packs);
        let bits = vec![0; slots.len().div_ceil(64)];
        Marks { slots, bits, segments: HashSet::new() }
    }

    pub fn mark(&mut self, address: Address) {
        if let Some(bit) = self.slots.place(address) {
            self.bits[bit / 64] |= 1 << (bit % 64);
        }
    }

    pub fn is_marked(&mut self, address: Address) -> bool {
        self.slots.place(address).is_some_and(|bit| self.bits[bit / 64] & 1 << (bit % 64) != 0)
    }

    /// Is this pack looked at?
    pub fn covers(&self, pack: i64) -> bool {
        self.slots.covers(pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_know_their_packs_and_slots_only() {
        let mut marks = Marks::new(vec![(2, 3), (5, 100), (9, 1)]);
        for address in [Address::new(2, 2), Address::new(5, 0), Address::new(5, 99), Address::new(9, 0)] {
            assert!(!marks.is_marked(address));
            marks.mark(address);
            assert!(marks.is_marked(address));
        }
        marks.mark(Address::new(2, 3)); // would be the first slot of the next pack
        marks.mark(Address::new(7, 0));
        assert!(marks.is_marked(Address::new(5, 0)) && !marks.is_marked(Address::new(5, 1)));
        assert!(!marks.is_marked(Address::new(7, 0)) && !marks.is_marked(Address::new(2, 3)));
    }

    #[test]
    fn a_lease_holds_until_it_is_dropped_even_for_a_collection_that_began_before() {
        let shared = Shared::new(State::new(Index::with_capacity(0), 1, 0, 0));
        let hash = [3; 32];
        let (early, late) = (Address::new(1, 0), Address::new(1, 1));
        let lease = Lease::new(&shared);
        lease.hold(0, early);
        lease.hold_segments([7]);
        shared.lock().begin_marks(vec![(1, 3)]);
        assert!(!lease.hold_if_indexed(1, &[(hash, late)]));
        shared.lock().index.insert(&hash, late);
        assert!(!lease.hold_if_indexed(1, &[(hash, late), (hash, Address::new(1, 2))]));
        assert!(lease.hold_if_indexed(1, &[(hash, late)]));
        lease.hold_segments([8]);
        drop(lease);
        let mut state = shared.lock();
        assert!(state.holds.is_empty());
        let marks = state.marks.as_mut().unwrap();
        assert!(marks.is_marked(early) && marks.is_marked(late) && !marks.is_marked(Address::new(1, 2)));
        assert_eq!(marks.segments, HashSet::from([7, 8]));
    }
}
