//! Taking a volume in: known chunks are found, new ones are packed, and packs and segments are committed together, a pack or
//! two at a time, so that a transaction is short and everything below a segment is there before the segment is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{MAIN_DB, OptionalExtension, Transaction, params};

use super::format::{
    self, Address, CHUNK_SIZE, Encoding, Entry, FORMAT, Hash, MAX_PACKS, PACK_BYTES, PACK_SLOTS, SEGMENT_CHUNKS, ZERO_HASH,
};
use super::neighbours::Neighbours;
use super::previous::Previous;
use super::read::{self, FullChunk};
use super::state::Lease;
use super::upload::Upload;
use super::{Store, StoreError};
use crate::clock;

/// Segments collected before they are committed even if the open pack is not full: 16 GiB of a volume with few changes.
const SEGMENTS_AT_ONCE: usize = 16;
/// Bytes of packs written before the WAL is moved into the file. Each time costs two waits for the disk.
const CHECKPOINT_BYTES: u64 = 4 * PACK_BYTES as u64;

/// One volume being taken in. All that it finds or stores is safe from garbage collection until it, and the [`Sealed`]
/// made from it, are dropped.
pub struct Ingest<'a> {
    store: &'a Store,
    home: Home<'a>,
    pub(super) lease: Lease,
    /// Chunks in packs that are not committed yet.
    pending: Mutex<HashMap<Hash, Address>>,
    bases: Bases<'a>,
}

/// Where an ingest's packs go.
#[derive(Clone, Copy)]
pub enum Home<'a> {
    Coffer,
    Repository(&'a Upload<'a>),
    /// A repository, to which it is sent by whoever comes next.
    Later(i64),
}

impl Home<'_> {
    /// None: the coffer.
    pub fn id(self) -> Option<i64> {
        match self {
            Home::Coffer => None,
            Home::Repository(upload) => Some(upload.repository()),
            Home::Later(id) => Some(id),
        }
    }

    /// As the store's tables have it.
    fn repository(self) -> i64 {
        self.id().unwrap_or(0)
    }
}

/// Where to look for what a new chunk may be a delta to.
enum Bases<'a> {
    /// In the volume's previous version.
    Previous(Previous<'a>),
    /// It has none.
    Neighbours(Neighbours),
}

impl<'a> Ingest<'a> {
    pub(super) fn new(store: &'a Store, home: Home<'a>, previous: Option<i64>) -> Result<Ingest<'a>, StoreError> {
        let previous = previous.map(|map| Previous::open(store, map, home.repository())).transpose()?.flatten();
        let bases = previous.map_or_else(|| Bases::Neighbours(Neighbours::new()), Bases::Previous);
        Ok(Ingest { store, home, lease: Lease::new(&store.state), pending: Mutex::default(), bases })
    }

    fn entry_at(&self, address: Address) -> Result<Option<Entry>, StoreError> {
        self.store.tocs.entry_at(&self.store.db, self.home.repository(), address)
    }

    /// Finds a stored chunk and holds it for the segment it is to be part of. `chunk` is its number in the volume. May be
    /// called by many threads, and ahead of the writer.
    pub fn find(&self, chunk: u64, hash: &Hash) -> Result<Option<Address>, StoreError> {
        let segment = chunk / SEGMENT_CHUNKS as u64;
        if let Some(address) = self.pending().get(hash) {
            // Still under the mutex of what is pending, so before its first hold is released.
            self.lease.hold(segment, *address);
            return Ok(Some(*address));
        }
        let candidates = self.store.state.lock().index.candidates(hash);
        for address in candidates {
            let Some(entry) = self.entry_at(address)?.filter(|entry| entry.hash == *hash) else { continue };
            if self.hold(segment, &entry, address)? {
                if let Bases::Neighbours(neighbours) = &self.bases {
                    neighbours.note(chunk, address);
                }
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// What the volume's previous version has in the place of a chunk that is known to be the same, held like one that was
    /// found. None if there is no such chunk or it is damaged: then it must be read.
    pub fn same(&self, chunk: u64) -> Result<Option<Same>, StoreError> {
        let Bases::Previous(previous) = &self.bases else { return Ok(None) };
        let Some((hash, address)) = previous.place(chunk)? else { return Ok(None) };
        if address.is_zero() {
            return Ok(Some(Same::Zero));
        }
        let entry = self.entry_at(address)?;
        let Some(entry) = entry.filter(|entry| entry.hash == hash) else { return Ok(None) };
        let held = self.hold(chunk / SEGMENT_CHUNKS as u64, &entry, address)?;
        Ok(held.then_some(Same::Chunk(entry.hash, address)))
    }

    /// Holds a stored chunk and what it is a delta to; false if it must not be used.
    fn hold(&self, segment: u64, entry: &Entry, address: Address) -> Result<bool, StoreError> {
        let mut needed = vec![(entry.hash, address)];
        if let Some(base) = entry.base() {
            // If both are garbage, the base may be gone and the number of its pack, if it was the highest, given to another.
            if base.pack() > address.pack() {
                return Ok(false);
            }
            // A base that was found damaged is no longer in the index, and then its deltas are no good either.
            let Some(entry) = self.entry_at(base)? else { return Ok(false) };
            needed.push((entry.hash, base));
        }
        Ok(self.lease.hold_if_indexed(segment, &needed))
    }

    /// A stored chunk that a new one may be stored as a delta to: what the volume's previous version has in its place, or else
    /// what lies beside the chunks that were found. It is held like one that was found.
    pub fn base(&self, chunk: u64) -> Result<Option<FullChunk>, StoreError> {
        // To be compared with, the base would have to be downloaded, which mostly costs as much as the delta saves.
        if self.home.id().is_some() {
            return Ok(None);
        }
        let address = match &self.bases {
            Bases::Previous(previous) => previous.place(chunk)?.map(|(_, address)| address).filter(|address| !address.is_zero()),
            Bases::Neighbours(neighbours) => neighbours.guess(chunk),
        };
        let Some(address) = address else { return Ok(None) };
        let Some(entry) = self.entry_at(address)? else { return Ok(None) };
        // Only what is stored whole can be a base: that of a delta takes the delta's place.
        let (address, entry) = match entry.base() {
            None => (address, Some(entry)),
            Some(base) => (base, self.entry_at(base)?),
        };
        // One that was found damaged is not in the index.
        match entry {
            Some(entry) if self.lease.hold_if_indexed(chunk / SEGMENT_CHUNKS as u64, &[(entry.hash, address)]) => {
                read::full_chunk(self.store, address, &entry.hash)
            }
            _ => Ok(None),
        }
    }

    /// Tells what has become of a chunk that [`Ingest::base`] has found a base for.
    pub fn judge(&self, chunk: u64, base: Address, encoding: Encoding) {
        if let Bases::Neighbours(neighbours) = &self.bases {
            neighbours.judge(chunk, base, matches!(encoding, Encoding::Delta { .. }));
        }
    }

    /// The one place where the chunks of the volume go, in their order.
    pub fn writer(&self) -> Writer<'_> {
        self.writer_of(CHUNK_SIZE)
    }

    /// The same for a volume that is cut into chunks of another size.
    pub(super) fn writer_of(&self, chunk_size: u32) -> Writer<'_> {
        Writer {
            ingest: self,
            chunk_size,
            hashes: Vec::with_capacity(SEGMENT_CHUNKS),
            addresses: Vec::with_capacity(SEGMENT_CHUNKS),
            segments: Vec::new(),
            map: Vec::new(),
            committed: 0,
            pack: None,
            waiting: 0,
            stored: 0,
            added: 0,
            packs: 0,
        }
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Hash, Address>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the work with what [`Writer::finish`] returned, keeping the lease.
    pub fn seal(self, finished: Finished) -> Sealed {
        Sealed { finished, repository: self.home.repository(), _lease: self.lease }
    }
}

/// A chunk of the previous version that need not be read.
pub enum Same {
    Zero,
    Chunk(Hash, Address),
}

/// A volume that is stored completely, except for the row that names it. Must be kept until the transaction that
/// [`Sealed::commit`] was part of has been committed, or garbage collection may take its chunks.
pub struct Sealed {
    finished: Finished,
    repository: i64,
    _lease: Lease,
}

pub struct Finished {
    pub size: u64,
    pub chunk_size: u32,
    pub hash: Hash,
    pub segments: Vec<i64>,
    /// Bytes added to packs.
    pub stored: u64,
    /// Chunks added to packs.
    pub added: u64,
    /// Packs that these are in.
    pub packs: u64,
}

impl Sealed {
    /// Where it lies: 0 in the coffer.
    pub fn repository(&self) -> i64 {
        self.repository
    }

    /// Inserts the volume map within the caller's transaction and returns its id.
    pub fn commit(&self, tx: &Transaction) -> Result<i64, StoreError> {
        let map = &self.finished;
        tx.prepare_cached("INSERT INTO volume_map (hash, size, chunk_size, segments, repository) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            map.hash,
            map.size as i64,
            map.chunk_size,
            format::segments_to_bytes(&map.segments),
            self.repository
        ])?;
        Ok(tx.last_insert_rowid())
    }
}

impl std::ops::Deref for Sealed {
    type Target = Finished;

    fn deref(&self) -> &Finished {
        &self.finished
    }
}

/// Puts the chunks of a volume in order into packs and segments.
pub struct Writer<'a> {
    ingest: &'a Ingest<'a>,
    chunk_size: u32,
    /// The chunks of the segment in the making.
    hashes: Vec<Hash>,
    addresses: Vec<Address>,
    /// The chunks of complete segments that are not committed.
    segments: Vec<Vec<Address>>,
    /// All complete segments: hash, and id once it is known (0 for zeros).
    map: Vec<(Hash, i64)>,
    /// How many of `map` have their id.
    committed: usize,
    pack: Option<PackDraft>,
    /// Bytes of packs committed and not yet moved from the WAL into the file.
    waiting: u64,
    stored: u64,
    added: u64,
    packs: u64,
}

pub(super) struct PackDraft {
    id: i64,
    /// Where it is to lie: 0 in the coffer.
    repository: i64,
    /// The stored bytes of its chunks; they are first put together by SQLite.
    data: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    /// Bytes of all chunks.
    pub len: usize,
}

impl<'a> Writer<'a> {
    /// The next `count` chunks are zeros.
    pub fn put_zeros(&mut self, mut count: u64) -> Result<(), StoreError> {
        while count > 0 {
            if self.hashes.is_empty() && count >= SEGMENT_CHUNKS as u64 {
                self.map.push((ZERO_HASH, 0));
                count -= SEGMENT_CHUNKS as u64;
            } else {
                self.put(ZERO_HASH, Address::ZERO)?;
                count -= 1;
            }
        }
        Ok(())
    }

    /// The next chunk is one that [`Ingest::find`] has found.
    pub fn put_known(&mut self, hash: Hash, address: Address) -> Result<(), StoreError> {
        self.put(hash, address)
    }

    /// The next chunk was not found. Returns the bytes added: 0 if the same was put since it was looked for.
    pub fn put_new(&mut self, hash: Hash, raw: u32, encoding: Encoding, stored: Vec<u8>) -> Result<u64, StoreError> {
        // Its like may have been put since it was looked for.
        if let Some(address) = self.ingest.find(self.chunk(), &hash)? {
            self.put(hash, address)?;
            return Ok(0);
        }
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => none.insert(PackDraft::new(self.ingest.store, self.ingest.home.repository())?),
        };
        let bytes = stored.len() as u64;
        let address = pack.push(hash, raw, encoding, stored);
        let full = pack.is_full();
        self.ingest.lease.hold(self.segment_number(), address);
        self.ingest.pending().insert(hash, address);
        self.stored += bytes;
        self.added += 1;
        self.put(hash, address)?;
        if full {
            self.commit()?;
        }
        Ok(bytes)
    }

    /// Commits the rest. The volume has `size` bytes, and as many chunks were put as that makes.
    pub fn finish(mut self, size: u64) -> Result<Finished, StoreError> {
        debug_assert_eq!(self.chunk(), size.div_ceil(u64::from(self.chunk_size)));
        if !self.hashes.is_empty() {
            self.close_segment();
        }
        self.commit()?;
        if self.waiting > 0 {
            self.ingest.store.db.checkpoint()?;
        }
        let hash = format::map_hash(size, self.chunk_size, self.map.iter().map(|(hash, _)| hash));
        let segments = self.map.iter().map(|(_, id)| *id).collect();
        Ok(Finished { size, chunk_size: self.chunk_size, hash, segments, stored: self.stored, added: self.added, packs: self.packs })
    }

    fn put(&mut self, hash: Hash, address: Address) -> Result<(), StoreError> {
        self.hashes.push(hash);
        self.addresses.push(address);
        if self.hashes.len() == SEGMENT_CHUNKS {
            self.close_segment();
            if self.segments.len() >= SEGMENTS_AT_ONCE {
                self.commit()?;
            }
        }
        Ok(())
    }

    fn close_segment(&mut self) {
        if self.addresses.iter().all(|address| address.is_zero()) {
            self.map.push((ZERO_HASH, 0));
        } else {
            self.map.push((format::segment_hash(&self.hashes), -1));
            self.segments.push(self.addresses.clone());
        }
        self.hashes.clear();
        self.addresses.clear();
    }

    /// Bytes of the volume in the chunks that were put, the last of which may be shorter.
    pub(super) fn bytes(&self) -> u64 {
        self.chunk() * u64::from(self.chunk_size)
    }

    /// Number of the next chunk.
    fn chunk(&self) -> u64 {
        self.segment_number() * SEGMENT_CHUNKS as u64 + self.hashes.len() as u64
    }

    fn segment_number(&self) -> u64 {
        self.map.len() as u64
    }

    /// One transaction with the open pack and all complete segments.
    fn commit(&mut self) -> Result<(), StoreError> {
        if self.pack.is_none() && self.segments.is_empty() {
            return Ok(());
        }
        let ingest = self.ingest;
        let bytes = self.pack.as_ref().map_or(0, |pack| pack.len as u64);
        if !ingest.store.db.make_room_for(bytes)? {
            return Err(StoreError::Full);
        }
        // What names all this, the volume map, is written durably, and that makes durable what was written before it.
        ingest.store.db.write_ahead(|tx| {
            if let Some(pack) = &self.pack {
                pack.insert(tx)?;
            }
            let waiting = self.map[self.committed..].iter_mut().filter(|(hash, _)| *hash != ZERO_HASH);
            for ((hash, id), addresses) in waiting.zip(&self.segments) {
                *id = store_segment(tx, ingest.home.repository(), hash, addresses)?;
                // Within the transaction, because a collection deletes segments within its own.
                ingest.lease.hold_segments([*id]);
            }
            Ok::<_, StoreError>(())
        })?;
        self.committed = self.map.len();
        self.segments.clear();
        if let Some(pack) = self.pack.take() {
            self.packs += 1;
            self.publish(pack)?;
        }
        ingest.lease.release_chunks_before(self.segment_number());
        if self.waiting >= CHECKPOINT_BYTES {
            self.waiting = 0;
            ingest.store.db.checkpoint()?;
        }
        Ok(())
    }

    /// Lets everybody find the chunks of a pack that was just committed.
    fn publish(&mut self, pack: PackDraft) -> Result<(), StoreError> {
        pack.announce(self.ingest.store);
        // Only now: at every moment a chunk is to be found in the one or the other.
        self.ingest.pending().clear();
        self.waiting += pack.len as u64;
        match self.ingest.home {
            Home::Coffer | Home::Later(_) => Ok(()),
            Home::Repository(upload) => upload.offer(),
        }
    }
}

impl PackDraft {
    pub fn new(store: &Store, repository: i64) -> Result<PackDraft, StoreError> {
        let mut state = store.state.lock();
        let id = state.next_pack;
        if id >= MAX_PACKS {
            return Err(StoreError::TooManyPacks);
        }
        state.next_pack += 1;
        Ok(PackDraft { id, repository, data: Vec::new(), entries: Vec::new(), len: 0 })
    }

    /// Adds a chunk and tells where it will lie.
    pub fn push(&mut self, hash: Hash, raw: u32, encoding: Encoding, stored: Vec<u8>) -> Address {
        let address = Address::new(self.id, self.entries.len());
        self.entries.push(Entry::new(hash, self.len as u32, stored.len() as u32, raw, encoding));
        self.len += stored.len();
        self.data.push(stored);
        address
    }

    pub fn is_full(&self) -> bool {
        self.len >= PACK_BYTES || self.entries.len() == PACK_SLOTS
    }

    pub fn insert(&self, tx: &Transaction) -> Result<(), StoreError> {
        // Written into a row of zeros: binding the data would make SQLite copy it once more.
        tx.prepare_cached("INSERT INTO pack (id, data) VALUES (?1, zeroblob(?2))")?.execute(params![self.id, self.len as i64])?;
        let mut data = tx.blob_open(MAIN_DB, c"pack", c"data", self.id, false)?;
        for (entry, stored) in self.entries.iter().zip(&self.data) {
            data.write_all_at(stored, entry.offset as usize)?;
        }
        drop(data);
        let (format, entries) = format::entries_to_bytes(&self.entries);
        tx.prepare_cached("INSERT INTO pack_toc (id, format, slots, stored, entries, repository, staged) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6 <> 0)")?
            .execute(params![self.id, format, self.entries.len() as i64, self.len as i64, entries, self.repository])?;
        tx.prepare_cached("INSERT OR REPLACE INTO verified (pack, at) VALUES (?1, ?2)")?.execute([self.id, clock::now_ms()])?;
        Ok(())
    }

    /// Lets everybody find its chunks, once it is committed.
    pub fn announce(&self, store: &Store) {
        let mut state = store.state.lock();
        state.packs += 1;
        state.stored += self.len as u64;
        for (slot, entry) in self.entries.iter().enumerate() {
            state.index.insert(&entry.hash, Address::new(self.id, slot));
        }
    }
}

/// Finds the segment of this name or inserts it. A segment that is there but lists other places of the same chunks is set
/// to ours, which were looked at just now: a damaged chunk that was stored anew is repaired in older backups too.
fn store_segment(tx: &Transaction, repository: i64, hash: &Hash, addresses: &[Address]) -> Result<i64, StoreError> {
    let ours = format::addresses_to_bytes(addresses);
    let found = tx
        .prepare_cached("SELECT id, format = ?2 AND chunks = ?3 FROM segment WHERE hash = ?1 AND repository = ?4")?
        .query_row(params![hash, FORMAT, ours, repository], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)))
        .optional()?;
    match found {
        Some((id, true)) => Ok(id),
        Some((id, false)) => {
            tx.prepare_cached("UPDATE segment SET format = ?2, chunks = ?3, staged = repository <> 0 WHERE id = ?1")?
                .execute(params![id, FORMAT, ours])?;
            Ok(id)
        }
        None => {
            tx.prepare_cached("INSERT INTO segment (hash, format, chunks, repository, staged) VALUES (?1, ?2, ?3, ?4, ?4 <> 0)")?
                .execute(params![hash, FORMAT, ours, repository])?;
            Ok(tx.last_insert_rowid())
        }
    }
}
