//! Taking in what lies in a repository: the tables of a coffer are filled from the objects alone, as on a host that has lost its
//! own coffer, or has never had it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{OptionalExtension, Transaction, params};

use super::format::{self, Address, Encoding, Entry, FORMAT, Hash, MAX_PACKS, SEGMENT_CHUNKS, Toc};
use super::object::{self, LARGEST_HEAD, Name, PACKS, PackHead, SEGMENTS, pack_head_bytes};
use super::read::{self, LARGEST_CHUNK};
use super::remote::Remote;
use super::toc::Stored;
use super::{Store, StoreError};
use crate::clock;
use crate::objects::Listed;

/// Bytes got of a pack's object at first: the heads of most packs fit.
const FIRST_BYTES: u64 = 8 << 10;
/// Bytes of a segment's object, at most.
const LARGEST_SEGMENT: usize = 64 << 10;
/// Stored bytes of a chunk beyond its raw ones, at most.
const MOST_OVERHEAD: usize = 4096;
/// Heads in one transaction.
const AT_ONCE: usize = 256;

/// What was found.
#[derive(Debug, Default, Clone)]
pub struct Adopted {
    pub packs: u64,
    pub segments: u64,
    /// Objects that are not what their name says, or that need what is not there.
    pub unreadable: Vec<String>,
    /// Packs that this coffer knew and that are gone.
    pub lost: Vec<String>,
    /// By name.
    segments_by_hash: HashMap<Hash, i64>,
}

/// An object that was got.
type Got<T> = (Name, String, T);

/// The packs that are there, by key. What two coffers have made of one pack, because one of them did not know yet that it was not
/// the writer any more, lacks different chunks; so each is a pack of its own here, that of the highest generation first.
#[derive(Default)]
struct Numbers {
    by_key: HashMap<u64, Vec<(u32, i64)>>,
    /// All of them, and those that are still to be sent.
    there: HashSet<i64>,
}

impl Numbers {
    fn add(&mut self, name: &Name, id: i64) {
        let Some(key) = name.pack_key() else { return };
        let packs = self.by_key.entry(key).or_default();
        packs.push((name.generation, id));
        packs.sort_unstable_by(|a, b| b.cmp(a));
        self.there.insert(id);
    }

    fn find(&self, tx: &Transaction, key: u64, slot: usize) -> Result<Option<Address>, StoreError> {
        let Some(packs) = self.by_key.get(&key) else { return Ok(None) };
        for (_, id) in packs {
            if packs.len() == 1 || Stored::load(tx, *id)?.as_ref().and_then(Stored::toc).is_some_and(|toc| toc.entry(slot).is_some_and(|e| !e.is_dead())) {
                return Ok(Some(Address::new(*id, slot)));
            }
        }
        Ok(None)
    }

    fn has_all(&self, addresses: &[Address]) -> bool {
        addresses.iter().all(|address| address.is_zero() || self.there.contains(&address.pack()))
    }
}

impl Store {
    /// Fills the tables of packs and segments from a repository. What the coffer knew of it already is compared with what is there:
    /// another may have written since.
    pub fn adopt(&self, remote: &Arc<Remote>, cancel: &AtomicBool, progress: &(dyn Fn(u64) + Sync)) -> Result<Adopted, StoreError> {
        let mut dying = remote.announced()?;
        self.db.read(|c| {
            let mut statement = c.prepare("SELECT object FROM trash WHERE repository = ?1")?;
            for object in statement.query_map([remote.id], |row| row.get(0))? {
                dying.insert(object?);
            }
            Ok::<_, StoreError>(())
        })?;
        let mut adopted = Adopted::default();
        let numbers = self.adopt_packs(remote, &dying, &mut adopted, cancel, progress)?;
        self.adopt_segments(remote, &dying, &numbers, &mut adopted, cancel, progress)?;
        Ok(adopted)
    }

    /// Inserts a volume map whose segments were adopted; None if one of them was not, or they do not make this hash.
    pub fn adopt_map(
        tx: &Transaction,
        repository: i64,
        adopted: &Adopted,
        size: u64,
        chunk_size: u32,
        segments: &[Option<Hash>],
        hash: &Hash,
    ) -> Result<Option<i64>, StoreError> {
        let segment_bytes = u64::from(chunk_size) * SEGMENT_CHUNKS as u64;
        let sound = chunk_size.is_power_of_two() && (4096..=LARGEST_CHUNK as u32).contains(&chunk_size) && size > 0;
        if !sound || segments.len() as u64 != size.div_ceil(segment_bytes) {
            return Ok(None);
        }
        let ids: Option<Vec<i64>> =
            segments.iter().map(|name| name.map_or(Some(0), |name| adopted.segments_by_hash.get(&name).copied())).collect();
        let made = format::map_hash(size, chunk_size, segments.iter().map(|name| name.as_ref().unwrap_or(&format::ZERO_HASH)));
        let Some(ids) = ids.filter(|_| made == *hash) else { return Ok(None) };
        tx.prepare_cached("INSERT INTO volume_map (hash, size, chunk_size, segments, repository) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![hash, size as i64, chunk_size, format::segments_to_bytes(&ids), repository])?;
        Ok(Some(tx.last_insert_rowid()))
    }

    /// Returns the numbers of all packs that are there.
    fn adopt_packs(
        &self,
        remote: &Remote,
        dying: &HashSet<String>,
        adopted: &mut Adopted,
        cancel: &AtomicBool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Numbers, StoreError> {
        let mut known: HashMap<String, i64> = self.db.read(|c| {
            c.prepare("SELECT object, id FROM pack_toc WHERE repository = ?1 AND object IS NOT NULL")?
                .query_map([remote.id], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, rusqlite::Error>>()
        })?;
        let mut numbers = Numbers::default();
        let mut unknown = listed(remote, PACKS, dying, cancel)?;
        unknown.retain(|(name, object)| known.remove(&object.name).map(|id| numbers.add(name, id)).is_none());
        for objects in unknown.chunks(AT_ONCE) {
            let heads = get_all(remote, objects, cancel, |remote, object| {
                for most in [FIRST_BYTES, LARGEST_HEAD as u64] {
                    let range = 0..object.size.min(most);
                    let bytes = remote.objects.get(&object.name, Some(range), LARGEST_HEAD).map_err(|e| remote.failed(e))?;
                    if let Some(head) = PackHead::parse(&bytes) {
                        let length = pack_head_bytes(head.slots()) as u64 + head.data_bytes();
                        return Ok(Some(head).filter(|head| object.size == length && is_sound(head)));
                    }
                }
                Ok(None)
            })?;
            progress(objects.len() as u64);
            let mut new = Vec::new();
            for (name, object, head) in heads {
                let head = head.filter(|head| Some(head.key) == name.pack_key());
                let Some(head) = head else {
                    adopted.unreadable.push(object);
                    continue;
                };
                new.push((name, object, head));
            }
            let first = {
                let mut state = self.state.lock();
                let first = state.next_pack;
                if first + new.len() as i64 > MAX_PACKS {
                    return Err(StoreError::TooManyPacks);
                }
                state.next_pack += new.len() as i64;
                first
            };
            self.db.write(|tx| {
                for (id, (_, object, head)) in (first..).zip(&new) {
                    tx.prepare_cached(
                        "INSERT INTO pack_toc (id, format, slots, stored, entries, repository, object, staged) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
                    )?
                    .execute(params![id, head.format, head.slots() as i64, head.data_bytes() as i64, head.entries, remote.id, object])?;
                    tx.prepare_cached("INSERT OR REPLACE INTO verified (pack, at) VALUES (?1, ?2)")?.execute([id, clock::now_ms()])?;
                }
                Ok::<_, StoreError>(())
            })?;
            let mut state = self.state.lock();
            for (id, (name, _, head)) in (first..).zip(new) {
                state.packs += 1;
                state.stored += head.data_bytes();
                for (slot, entry) in Toc::parse(head.format, &head.entries).iter().flat_map(|toc| toc.entries()).enumerate() {
                    if entry.encoding().is_some() && !entry.is_damaged() {
                        state.index.insert(&entry.hash, Address::new(id, slot));
                    }
                }
                adopted.packs += 1;
                numbers.add(&name, id);
            }
        }
        self.look_after(remote, known, dying, &mut numbers, adopted, cancel)?;
        Ok(numbers)
    }

    /// Looks after packs that the coffer knows and that were not listed. What is gone is shared by no later backup.
    fn look_after(
        &self,
        remote: &Remote,
        known: HashMap<String, i64>,
        dying: &HashSet<String>,
        numbers: &mut Numbers,
        adopted: &mut Adopted,
        cancel: &AtomicBool,
    ) -> Result<(), StoreError> {
        self.db.read(|c| {
            let mut statement = c.prepare("SELECT id FROM pack_toc WHERE repository = ?1 AND staged")?;
            for id in statement.query_map([remote.id], |row| row.get(0))? {
                numbers.there.insert(id?);
            }
            Ok::<_, StoreError>(())
        })?;
        for (object, id) in known {
            if cancel.load(Ordering::Relaxed) {
                return Err(StoreError::Cancelled);
            }
            if numbers.there.contains(&id) {
                continue;
            }
            // A list may lag behind.
            if !dying.contains(&object) && remote.has_object(&object)? {
                Name::parse(&object).iter().for_each(|name| numbers.add(name, id));
                continue;
            }
            let stored = self.db.read(|c| Stored::load(c, id))?;
            let entries = stored.as_ref().and_then(Stored::toc).map(|toc| toc.entries().collect::<Vec<_>>()).unwrap_or_default();
            let slots = entries.iter().enumerate().filter(|(_, entry)| !entry.is_dead());
            self.distrust(&slots.map(|(slot, entry)| (Address::new(id, slot), entry.hash)).collect::<Vec<_>>());
            adopted.lost.push(object);
        }
        Ok(())
    }

    fn adopt_segments(
        &self,
        remote: &Remote,
        dying: &HashSet<String>,
        numbers: &Numbers,
        adopted: &mut Adopted,
        cancel: &AtomicBool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        let mut found = listed(remote, SEGMENTS, dying, cancel)?;
        // Of one name the highest generation first: if that lists what is not there, an older one may do.
        found.sort_by(|(a, _), (b, _)| (&a.key, b.generation).cmp(&(&b.key, a.generation)));
        let mut unusable: Vec<(Hash, String)> = Vec::new();
        for objects in found.chunks(AT_ONCE) {
            let mut lists = get_all(remote, objects, cancel, |remote, object| {
                Ok(object::parse_segment(&remote.get(&object.name, LARGEST_SEGMENT)?))
            })?;
            lists.sort_by(|(a, ..), (b, ..)| (&a.key, b.generation).cmp(&(&b.key, a.generation)));
            progress(objects.len() as u64);
            self.db.write(|tx| {
                for (name, object, list) in &lists {
                    let Some((hash, chunks)) = list.as_ref().filter(|(hash, _)| Name::segment(hash, 0).key == name.key) else {
                        adopted.unreadable.push(object.clone());
                        continue;
                    };
                    if adopted.segments_by_hash.contains_key(hash) {
                        continue;
                    }
                    match addresses(tx, chunks, hash, numbers)? {
                        Some(addresses) => {
                            let (id, new) = adopt_segment(tx, remote.id, object, hash, &addresses, numbers)?;
                            adopted.segments += u64::from(new);
                            adopted.segments_by_hash.insert(*hash, id);
                        }
                        None => unusable.push((*hash, object.clone())),
                    }
                }
                Ok::<_, StoreError>(())
            })?;
        }
        unusable.retain(|(hash, _)| !adopted.segments_by_hash.contains_key(hash));
        adopted.unreadable.extend(unusable.into_iter().map(|(_, object)| object));
        Ok(self.db.write(|tx| send_again(tx, remote.id, adopted, numbers))?)
    }
}

/// Can its chunks be read, as far as the head tells? Deltas do not lie in repositories.
fn is_sound(head: &PackHead) -> bool {
    let fits = |entry: Entry| match entry.encoding() {
        Some(Encoding::Delta { .. }) => false,
        Some(_) => entry.raw as usize <= LARGEST_CHUNK && entry.stored as usize <= LARGEST_CHUNK + MOST_OVERHEAD,
        None => true,
    };
    Toc::parse(head.format, &head.entries).is_some_and(|toc| toc.entries().all(fits))
}

/// Notes a segment that lies in an object. Returns its id, and whether it was not known.
fn adopt_segment(
    tx: &Transaction,
    repository: i64,
    object: &str,
    hash: &Hash,
    addresses: &[Address],
    numbers: &Numbers,
) -> Result<(i64, bool), StoreError> {
    let theirs = format::addresses_to_bytes(addresses);
    let known = tx
        .prepare_cached("SELECT id, format, chunks FROM segment WHERE hash = ?1 AND repository = ?2")?
        .query_row(params![hash, repository], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?)))
        .optional()?;
    let Some((id, format, ours)) = known else {
        tx.prepare_cached("INSERT INTO segment (hash, format, chunks, repository, object) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![hash, FORMAT, theirs, repository, object])?;
        return Ok((tx.last_insert_rowid(), true));
    };
    // What this coffer lists may be gone by now, or may be better than what is there and was not sent.
    let good = format::addresses_from_bytes(format, &ours).is_some_and(|ours| numbers.has_all(&ours));
    let chunks = if good { &ours } else { &theirs };
    tx.prepare_cached("UPDATE segment SET format = ?2, chunks = ?3, object = ?4, staged = ?5 WHERE id = ?1")?
        .execute(params![id, FORMAT, chunks, object, *chunks != theirs])?;
    Ok((id, false))
}

/// Segments that this coffer knows and that are not there, although their chunks are, are sent once more.
fn send_again(tx: &Transaction, repository: i64, adopted: &Adopted, numbers: &Numbers) -> Result<(), rusqlite::Error> {
    let there: HashSet<i64> = adopted.segments_by_hash.values().copied().collect();
    let mut statement = tx.prepare("SELECT id, format, chunks FROM segment WHERE repository = ?1 AND NOT staged")?;
    let mut rows = statement.query([repository])?;
    let mut missing = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, chunks): (i64, Vec<u8>) = (row.get(0)?, row.get(2)?);
        if !there.contains(&id) && format::addresses_from_bytes(row.get(1)?, &chunks).is_some_and(|addresses| numbers.has_all(&addresses)) {
            missing.push(id);
        }
    }
    let mut statement = tx.prepare_cached("UPDATE segment SET object = NULL, staged = 1 WHERE id = ?1")?;
    missing.iter().try_for_each(|id| statement.execute([id]).map(drop))
}

/// The addresses of a segment's chunks in this coffer; None if a pack is missing or the chunks do not make its name.
fn addresses(tx: &Transaction, chunks: &[Option<(u64, usize)>], hash: &Hash, numbers: &Numbers) -> Result<Option<Vec<Address>>, StoreError> {
    let mut addresses = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let address = match chunk {
            None => Some(Address::ZERO),
            Some((key, slot)) => numbers.find(tx, *key, *slot)?,
        };
        let Some(address) = address else { return Ok(None) };
        addresses.push(address);
    }
    let names = read::names(tx, &addresses)?;
    Ok((format::segment_hash(&names) == *hash).then_some(addresses))
}

/// All objects of a kind, without those that may go at any moment.
fn listed(remote: &Remote, kind: &str, dying: &HashSet<String>, cancel: &AtomicBool) -> Result<Vec<(Name, Listed)>, StoreError> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled);
        }
        let page = remote.list(&format!("{kind}/"), &after)?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.name.clone();
        let alive = page.into_iter().filter(|object| !dying.contains(&object.name));
        found.extend(alive.filter_map(|object| Some((Name::parse(&object.name)?, object))));
    }
}

/// Gets objects with as many threads as the repository has connections.
fn get_all<T: Send>(
    remote: &Remote,
    objects: &[(Name, Listed)],
    cancel: &AtomicBool,
    get: impl Fn(&Remote, &Listed) -> Result<T, StoreError> + Sync,
) -> Result<Vec<Got<T>>, StoreError> {
    let (next, got) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(objects.len())));
    std::thread::scope(|scope| {
        let work = || {
            while let Some((name, object)) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                if cancel.load(Ordering::Relaxed) {
                    return Err(StoreError::Cancelled);
                }
                let value = get(remote, object)?;
                got.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), object.name.clone(), value));
            }
            Ok(())
        };
        let threads: Vec<_> = (0..remote.connections.min(objects.len())).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(got.into_inner().unwrap_or_else(PoisonError::into_inner))
}
