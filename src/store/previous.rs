//! What a volume's previous version had in the place of a chunk that is new now: the base of a delta.
//!
//! A base is stored whole; where the previous version itself has a delta, that one's base is taken. So a chunk is never more
//! than one step away from its bytes, and a delta grows with every change until storing the chunk whole costs less than twice
//! as much.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::OptionalExtension;

use super::format::{self, Address, CHUNK_SIZE, SEGMENT_CHUNKS};
use super::read;
use super::state::Lease;
use super::{Store, StoreError};

pub use super::read::FullChunk;

/// Segments kept in memory: as many as the threads of an ingest may be in at once.
const KEPT_SEGMENTS: usize = 4;

/// A stored version of the volume that is being taken in. Safe from garbage collection as long as the lease is.
pub(super) struct Previous {
    segments: Vec<i64>,
    recent: Mutex<VecDeque<(usize, Arc<Vec<Address>>)>>,
}

impl Previous {
    /// None if there is no such map (any more), or if it has chunks of another size.
    pub fn open(store: &Store, map: i64, lease: &Lease) -> Result<Option<Previous>, StoreError> {
        let load = || {
            store.db.read(|c| {
                c.prepare_cached("SELECT segments FROM volume_map WHERE id = ?1 AND chunk_size = ?2")?
                    .query_row((map, CHUNK_SIZE), |row| row.get::<_, Vec<u8>>(0))
                    .optional()
            })
        };
        let Some(segments) = load()?.as_deref().and_then(format::segments_from_bytes) else { return Ok(None) };
        lease.hold_segments(segments.iter().copied().filter(|id| *id != 0).collect::<Vec<_>>());
        // Only if the map is still there was it there when its segments began to be held.
        Ok(load()?.map(|_| Previous { segments, recent: Mutex::default() }))
    }

    /// The chunk that is stored whole in this place of the previous version, or that the delta there refers to. None if there
    /// is none that can be read. It must be held before it is used.
    pub fn chunk(&self, store: &Store, chunk: u64) -> Result<Option<FullChunk>, StoreError> {
        let Some(address) = self.address(store, chunk)?.filter(|address| !address.is_zero()) else { return Ok(None) };
        let entry = store.tocs.entry_at(&store.db, address)?;
        let Some(address) = entry.map(|entry| entry.base().unwrap_or(address)) else { return Ok(None) };
        read::full_chunk(store, address)
    }

    /// Where the previous version's chunk of this number lies; None if it has none or its segment cannot be read.
    pub fn address(&self, store: &Store, chunk: u64) -> Result<Option<Address>, StoreError> {
        let number = (chunk / SEGMENT_CHUNKS as u64) as usize;
        let Some(id) = self.segments.get(number) else { return Ok(None) };
        if *id == 0 {
            return Ok(Some(Address::ZERO));
        }
        let addresses = match self.recent(number) {
            Some(addresses) => addresses,
            None => self.load(store, number, *id)?,
        };
        Ok(addresses.get((chunk % SEGMENT_CHUNKS as u64) as usize).copied())
    }

    fn recent(&self, number: usize) -> Option<Arc<Vec<Address>>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|(segment, _)| *segment == number).map(|(_, addresses)| addresses.clone())
    }

    /// A segment that cannot be read has no bases.
    fn load(&self, store: &Store, number: usize, id: i64) -> Result<Arc<Vec<Address>>, StoreError> {
        let row = store.db.read(|c| {
            c.prepare_cached("SELECT format, chunks FROM segment WHERE id = ?1")?
                .query_row([id], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))
                .optional()
        })?;
        let addresses = Arc::new(row.and_then(|(format, bytes)| format::addresses_from_bytes(format, &bytes)).unwrap_or_default());
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((number, addresses.clone()));
        if recent.len() > KEPT_SEGMENTS {
            recent.pop_front();
        }
        Ok(addresses)
    }
}
