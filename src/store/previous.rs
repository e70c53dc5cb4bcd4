//! What a volume's previous version had in the place of a chunk that is new now: the base of a delta.
//!
//! A base is stored whole; where the previous version itself has a delta, that one's base is taken. So a chunk is never more
//! than one step away from its bytes, and a delta grows with every change until storing the chunk whole costs less than twice
//! as much.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::format::{Address, CHUNK_SIZE, Hash, SEGMENT_CHUNKS, ZERO_HASH};
use super::read::{self, MapReader, Plan, ReadError};
use super::{Store, StoreError};

pub use super::read::FullChunk;

/// Segments kept in memory: as many as the threads of an ingest may be in at once.
const KEPT_SEGMENTS: usize = 4;

/// A stored version of the volume that is being taken in. What it lists is verified before it is used, as for a restore: who
/// takes something from it unread passes on what is said here.
pub(super) struct Previous<'a> {
    map: MapReader<'a>,
    recent: Mutex<VecDeque<(usize, Arc<Plan>)>>,
}

impl<'a> Previous<'a> {
    /// None if there is no such map (any more), if it has chunks of another size, or if it is damaged.
    pub fn open(store: &'a Store, map: i64) -> Result<Option<Previous<'a>>, StoreError> {
        let map = match MapReader::open(store, map) {
            Ok(map) => map,
            Err(ReadError::Corrupt(_) | ReadError::Store(StoreError::NoSuchMap(_))) => return Ok(None),
            Err(ReadError::Store(e)) => return Err(e),
        };
        let fit = map.chunk_size() == CHUNK_SIZE as usize && map.check_top()?.is_empty();
        Ok(fit.then(|| Previous { map, recent: Mutex::default() }))
    }

    /// The chunk that is stored whole in this place of the previous version, or that the delta there refers to. None if there
    /// is none that can be read. It must be held before it is used.
    pub fn chunk(&self, store: &Store, chunk: u64) -> Result<Option<FullChunk>, StoreError> {
        let Some((_, address)) = self.place(chunk)?.filter(|(_, address)| !address.is_zero()) else { return Ok(None) };
        let entry = store.tocs.entry_at(&store.db, address)?;
        let Some(address) = entry.map(|entry| entry.base().unwrap_or(address)) else { return Ok(None) };
        read::full_chunk(store, address)
    }

    /// Name and place of the previous version's chunk of this number; None if it has none or its segment is damaged.
    pub fn place(&self, chunk: u64) -> Result<Option<(Hash, Address)>, StoreError> {
        let number = (chunk / SEGMENT_CHUNKS as u64) as usize;
        match self.map.segments().get(number) {
            None => return Ok(None),
            Some(0) => return Ok(Some((ZERO_HASH, Address::ZERO))),
            Some(_) => {}
        }
        let plan = match self.recent(number) {
            Some(plan) => plan,
            None => self.load(number)?,
        };
        Ok(plan.chunk((chunk % SEGMENT_CHUNKS as u64) as usize))
    }

    fn recent(&self, number: usize) -> Option<Arc<Plan>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|(segment, _)| *segment == number).map(|(_, plan)| plan.clone())
    }

    fn load(&self, number: usize) -> Result<Arc<Plan>, StoreError> {
        let plan = Arc::new(self.map.plan(number)?);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((number, plan.clone()));
        if recent.len() > KEPT_SEGMENTS {
            recent.pop_front();
        }
        Ok(plan)
    }
}
