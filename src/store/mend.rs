//! Which backups need a damaged chunk, and how they get a whole one: it is stored anew, and the segments that list the damaged
//! one list the new one from then on.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{OptionalExtension, Transaction};

use super::codec::Encoder;
use super::format::{self, Address, FORMAT, FORMAT_WITH_DELTAS, SEGMENT_CHUNKS};
use super::intake::{Home, Ingest, PackDraft};
use super::read;
use super::scrub::Bad;
use super::toc::Stored;
use super::{Store, StoreError};

/// Tables of contents read in one transaction.
const PACKS_AT_ONCE: usize = 8;
/// Segments read, or changed, in one transaction: 1 MiB of rows.
const SEGMENTS_AT_ONCE: usize = 128;
/// Volume maps read in one transaction.
const MAPS_AT_ONCE: i64 = 64;

/// A place in a stored volume where a damaged chunk belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub map: i64,
    /// Where the map's chunks lie: 0 in the coffer.
    pub repository: i64,
    pub offset: u64,
    pub length: u64,
    pub address: Address,
}

/// What damaged chunks mean for the stored volumes.
#[derive(Debug, Default)]
pub struct Concern {
    /// The damaged chunks, and the deltas to them.
    pub bad: BTreeMap<Address, Bad>,
    /// By map and offset.
    pub places: Vec<Place>,
    /// Damaged chunks that nothing needs and that were not known before.
    pub unused: u64,
    /// Work that is under way uses some of them, so what it makes must be looked at when it is done.
    pub unsettled: bool,
    segments: Vec<i64>,
}

impl Store {
    /// Finds the places of damaged chunks, which are distrusted already.
    pub fn concern(&self, bad: Vec<Bad>, cancel: &AtomicBool) -> Result<Concern, StoreError> {
        let mut concern = Concern { bad: bad.into_iter().map(|bad| (bad.address, bad)).collect(), ..Concern::default() };
        let bases = self.add_deltas(&mut concern.bad)?;
        // In this order: what running work uses without holding it any more is in a segment, and then in a map.
        let (chunks_held, segments_held) = self.state.lock().held(|address| concern.bad.contains_key(address));
        let lists = self.segments_with(&concern.bad, cancel)?;
        concern.unsettled = chunks_held || lists.keys().any(|id| segments_held.contains(id));
        if !lists.is_empty() {
            concern.places = self.places(&lists)?;
        }
        if !concern.unsettled {
            let needed: HashSet<Address> = concern.places.iter().map(|place| place.address).collect();
            let is_unused = |bad: &&Bad| !bad.known && !bad.delta && !needed.contains(&bad.address) && !bases.contains(&bad.address);
            concern.unused = concern.bad.values().filter(is_unused).count() as u64;
        }
        concern.segments = lists.into_keys().collect();
        concern.segments.sort_unstable();
        Ok(concern)
    }

    /// Adds the deltas to damaged chunks. Returns what they are deltas to.
    fn add_deltas(&self, bad: &mut BTreeMap<Address, Bad>) -> Result<HashSet<Address>, StoreError> {
        let packs: Vec<i64> = self.db.read(|c| {
            // As schema.sql has it, so that its index over the few packs with deltas is used.
            let mut statement = c.prepare(&format!("SELECT id FROM pack_toc WHERE format = {FORMAT_WITH_DELTAS}"))?;
            let ids = statement.query_map([], |row| row.get(0))?;
            Ok::<_, StoreError>(ids.collect::<Result<_, _>>()?)
        })?;
        let (mut deltas, mut bases) = (Vec::new(), HashSet::new());
        for packs in packs.chunks(PACKS_AT_ONCE) {
            let tocs = self.db.read(|c| packs.iter().map(|pack| Stored::load(c, *pack)).collect::<Result<Vec<_>, _>>())?;
            for (pack, toc) in packs.iter().zip(&tocs) {
                for (slot, entry) in toc.iter().filter_map(Stored::toc).flat_map(|toc| toc.entries()).enumerate() {
                    let Some(base) = entry.base().and_then(|base| bad.get(&base)) else { continue };
                    bases.insert(base.address);
                    let reason = read::damaged_base(&base.reason);
                    deltas.push(Bad { address: Address::new(*pack, slot), hash: entry.hash, reason, known: entry.is_damaged(), delta: true });
                }
            }
        }
        let news: Vec<_> = deltas.iter().filter(|delta| !delta.known).map(|delta| (delta.address, delta.hash)).collect();
        self.distrust(&news);
        for delta in deltas {
            bad.entry(delta.address).or_insert(delta);
        }
        Ok(bases)
    }

    /// The segments that list damaged chunks, and where in them.
    fn segments_with(&self, bad: &BTreeMap<Address, Bad>, cancel: &AtomicBool) -> Result<HashMap<i64, Vec<(usize, Address)>>, StoreError> {
        let (mut found, mut after) = (HashMap::new(), 0);
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(StoreError::Cancelled);
            }
            let rows = self.db.read(|c| {
                let mut statement = c.prepare_cached("SELECT id, format, chunks FROM segment WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                let rows = statement
                    .query_map([after, SEGMENTS_AT_ONCE as i64], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?)))?;
                Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?)
            })?;
            let Some((last, ..)) = rows.last() else { return Ok(found) };
            after = *last;
            for (id, format, chunks) in &rows {
                let addresses = format::addresses_from_bytes(*format, chunks).unwrap_or_default();
                let places: Vec<_> = addresses.into_iter().enumerate().filter(|(_, address)| bad.contains_key(address)).collect();
                if !places.is_empty() {
                    found.insert(*id, places);
                }
            }
        }
    }

    /// Where in volumes these chunks of segments are.
    fn places(&self, lists: &HashMap<i64, Vec<(usize, Address)>>) -> Result<Vec<Place>, StoreError> {
        let (mut places, mut after) = (Vec::new(), 0);
        loop {
            let maps = self.db.read(|c| {
                let mut statement =
                    c.prepare_cached("SELECT id, repository, size, chunk_size, segments FROM volume_map WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                let rows = statement.query_map([after, MAPS_AT_ONCE], |row| {
                    let (size, chunk_size) = (row.get::<_, i64>(2)? as u64, row.get::<_, i64>(3)? as u64);
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, size, chunk_size, row.get::<_, Vec<u8>>(4)?))
                })?;
                Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?)
            })?;
            let Some((last, ..)) = maps.last() else { return Ok(places) };
            after = *last;
            for (map, repository, size, chunk_size, segments) in maps {
                let segments = format::segments_from_bytes(&segments).unwrap_or_default();
                for (number, (at, address)) in segments.iter().enumerate().flat_map(|(n, id)| lists.get(id).into_iter().flatten().map(move |l| (n, *l))) {
                    let offset = (number * SEGMENT_CHUNKS + at) as u64 * chunk_size;
                    let length = chunk_size.min(size.saturating_sub(offset));
                    places.push(Place { map, repository, offset, length, address });
                }
            }
        }
    }

    /// Begins to store damaged chunks anew.
    pub fn mender(&self) -> Result<Mender<'_>, StoreError> {
        let encoder = Encoder::new().map_err(StoreError::Codec)?;
        Ok(Mender { store: self, encoder, wards: HashMap::new(), moved: HashMap::new() })
    }
}

/// Takes whole chunks for damaged ones. What it finds or stores is safe from garbage collection until it is dropped.
pub struct Mender<'a> {
    store: &'a Store,
    encoder: Encoder,
    /// By repository, because a segment lists chunks of its own alone.
    wards: HashMap<i64, Ward<'a>>,
    /// From the damaged chunk to the whole one.
    moved: HashMap<Address, Address>,
}

/// What is mended in one place, the coffer or a repository.
struct Ward<'a> {
    ingest: Ingest<'a>,
    pack: Option<PackDraft>,
}

impl<'a> Mender<'a> {
    fn ward(&mut self, repository: i64) -> Result<&mut Ward<'a>, StoreError> {
        Ok(match self.wards.entry(repository) {
            MapEntry::Occupied(ward) => ward.into_mut(),
            MapEntry::Vacant(none) => {
                let home = if repository == 0 { Home::Coffer } else { Home::Later(repository) };
                none.insert(Ward { ingest: self.store.begin(home, None)?, pack: None })
            }
        })
    }

    /// Takes another copy that is stored of the chunk that is damaged here; false if there is none. A later backup of the same data may
    /// have stored it anew, or one that lies elsewhere.
    pub fn find_copy(&mut self, place: &Place, bad: &Bad) -> Result<bool, StoreError> {
        let store = self.store;
        // Each copy that turns out to be damaged leaves the index.
        while let Some(copy) = self.ward(place.repository)?.ingest.find(0, &bad.hash)? {
            if read::whole_chunk(store, copy, &bad.hash)?.is_some() {
                self.moved.insert(bad.address, copy);
                return Ok(true);
            }
        }
        let copies = store.state.lock().index.candidates(&bad.hash);
        for copy in copies {
            let toc = store.db.read(|c| Stored::load(c, copy.pack()))?;
            if toc.as_ref().and_then(|stored| stored.toc()?.entry(copy.slot())).is_none_or(|entry| entry.hash != bad.hash) {
                continue; // another chunk with the same beginning of its name
            }
            match read::whole_chunk(store, copy, &bad.hash) {
                Ok(Some(raw)) => return self.put(place, bad, &raw),
                // One that cannot be reached now is no copy.
                Ok(None) | Err(StoreError::Repository(..)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Takes these bytes, if they are the chunk's.
    pub fn put(&mut self, place: &Place, bad: &Bad, raw: &[u8]) -> Result<bool, StoreError> {
        if *blake3::hash(raw).as_bytes() != bad.hash {
            return Ok(false);
        }
        let store = self.store;
        if self.ward(place.repository)?.pack.as_ref().is_some_and(PackDraft::is_full) {
            self.commit_with(&[])?;
        }
        let (encoding, stored) = self.encoder.encode(raw, None);
        let ward = self.ward(place.repository)?;
        let pack = match &mut ward.pack {
            Some(pack) => pack,
            none => none.insert(PackDraft::new(store, place.repository)?),
        };
        let address = pack.push(bad.hash, raw.len() as u32, encoding, stored);
        ward.ingest.lease.hold(0, address);
        self.moved.insert(bad.address, address);
        Ok(true)
    }

    /// Commits what was put and changes the segments: from now on the backups that need the damaged chunks have whole ones.
    pub fn commit(mut self, concern: &Concern) -> Result<(), StoreError> {
        if self.moved.is_empty() {
            return Ok(());
        }
        for segments in concern.segments.chunks(SEGMENTS_AT_ONCE) {
            self.commit_with(segments)?;
        }
        Ok(self.store.db.checkpoint()?)
    }

    /// One transaction with the open packs and the segments that list their chunks.
    fn commit_with(&mut self, segments: &[i64]) -> Result<(), StoreError> {
        let packs: Vec<PackDraft> = self.wards.values_mut().filter_map(|ward| ward.pack.take()).collect();
        let bytes = packs.iter().map(|pack| pack.len as u64).sum();
        if !self.store.db.make_room_for(bytes)? {
            return Err(StoreError::Full);
        }
        self.store.db.write(|tx| {
            packs.iter().try_for_each(|pack| pack.insert(tx))?;
            segments.iter().try_for_each(|id| repoint(tx, *id, &self.moved))
        })?;
        packs.iter().for_each(|pack| pack.announce(self.store));
        Ok(())
    }
}

/// Lets a segment list whole chunks instead of damaged ones. It may be gone, or be changed by a later backup, since it was read.
fn repoint(tx: &Transaction, id: i64, moved: &HashMap<Address, Address>) -> Result<(), StoreError> {
    let row = tx
        .prepare_cached("SELECT format, chunks FROM segment WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()?;
    let Some(old) = row.and_then(|(format, chunks)| format::addresses_from_bytes(format, &chunks)) else { return Ok(()) };
    let new: Vec<Address> = old.iter().map(|address| *moved.get(address).unwrap_or(address)).collect();
    if new != old {
        let chunks = format::addresses_to_bytes(&new);
        tx.prepare_cached("UPDATE segment SET format = ?2, chunks = ?3, staged = repository <> 0 WHERE id = ?1")?.execute((id, FORMAT, chunks))?;
    }
    Ok(())
}
