//! The previous version of a volume that is being taken in: what it has in the place of a chunk that is new now, which is the
//! base of a delta, or of one that is known to be the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::format::{Address, CHUNK_SIZE, Hash, SEGMENT_CHUNKS, ZERO_HASH};
use super::read::{MapReader, Plan, ReadError};
use super::{Store, StoreError};

/// Segments kept in memory: as many as the threads of an ingest may be in at once.
const KEPT_SEGMENTS: usize = 4;

/// A stored version of the volume that is being taken in. What it lists is verified before it is used, as for a restore: who
/// takes something from it unread passes on what is said here.
pub(super) struct Previous<'a> {
    map: MapReader<'a>,
    recent: Mutex<VecDeque<(usize, Arc<Plan>)>>,
}

impl<'a> Previous<'a> {
    /// None if there is no such map (any more), if it has chunks of another size or lies elsewhere, or if it is damaged.
    pub fn open(store: &'a Store, map: i64, repository: i64) -> Result<Option<Previous<'a>>, StoreError> {
        let map = match MapReader::open(store, map) {
            Ok(map) => map,
            Err(ReadError::Corrupt(_) | ReadError::Store(StoreError::NoSuchMap(_))) => return Ok(None),
            Err(ReadError::Store(e)) => return Err(e),
        };
        let fit = map.chunk_size() == CHUNK_SIZE as usize && map.repository() == repository && map.check_top()?.is_empty();
        Ok(fit.then(|| Previous { map, recent: Mutex::default() }))
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
