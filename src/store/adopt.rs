//! Taking in what lies in a repository: the tables of a coffer are filled from the objects alone, as on a host that has lost its
//! own coffer, or has never had it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Transaction, params};

use super::format::{self, Address, FORMAT, Hash, MAX_PACKS, Toc};
use super::object::{self, LARGEST_HEAD, Name, PACKS, PackHead, SEGMENTS};
use super::read;
use super::remote::Remote;
use super::{Store, StoreError};
use crate::clock;
use crate::objects::Listed;

/// Bytes got of a pack's object at first: the heads of most packs fit.
const FIRST_BYTES: u64 = 8 << 10;
/// Bytes of a segment's object, at most.
const LARGEST_SEGMENT: usize = 64 << 10;
/// Heads in one transaction.
const AT_ONCE: usize = 256;

/// What was found.
#[derive(Debug, Default, Clone)]
pub struct Adopted {
    pub packs: u64,
    pub segments: u64,
    /// Objects that are not what their name says.
    pub unreadable: Vec<String>,
    /// By name.
    segments_by_hash: HashMap<Hash, i64>,
}

/// An object that was got.
type Got<T> = (Name, String, T);

impl Store {
    /// Fills the tables of packs and segments from a repository of which the coffer knows nothing yet, or adds what it does not know.
    pub fn adopt(&self, remote: &Arc<Remote>, cancel: &AtomicBool, progress: &(dyn Fn(u64) + Sync)) -> Result<Adopted, StoreError> {
        let dying: HashSet<String> = remote.announced()?.iter().map(Name::to_string).collect();
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
        let ids: Option<Vec<i64>> =
            segments.iter().map(|name| name.map_or(Some(0), |name| adopted.segments_by_hash.get(&name).copied())).collect();
        let made = format::map_hash(size, chunk_size, segments.iter().map(|name| name.as_ref().unwrap_or(&format::ZERO_HASH)));
        let Some(ids) = ids.filter(|_| made == *hash) else { return Ok(None) };
        tx.prepare_cached("INSERT INTO volume_map (hash, size, chunk_size, segments, repository) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![hash, size as i64, chunk_size, format::segments_to_bytes(&ids), repository])?;
        Ok(Some(tx.last_insert_rowid()))
    }

    /// Returns the numbers of all packs by their keys.
    fn adopt_packs(
        &self,
        remote: &Remote,
        dying: &HashSet<String>,
        adopted: &mut Adopted,
        cancel: &AtomicBool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<HashMap<u64, i64>, StoreError> {
        let known: HashMap<String, i64> = self.db.read(|c| {
            c.prepare("SELECT object, id FROM pack_toc WHERE repository = ?1 AND object IS NOT NULL")?
                .query_map([remote.id], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, rusqlite::Error>>()
        })?;
        let newest = newest(remote, PACKS, dying, cancel)?;
        let mut numbers = HashMap::new();
        for objects in newest.chunks(AT_ONCE) {
            let heads = get_all(remote, objects, cancel, |remote, object| {
                for most in [FIRST_BYTES, LARGEST_HEAD as u64] {
                    let range = 0..object.size.min(most);
                    let bytes = remote.objects.get(&object.name, Some(range), LARGEST_HEAD).map_err(|e| remote.failed(e))?;
                    if let Some(head) = PackHead::parse(&bytes) {
                        return Ok(Some(head));
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
                match known.get(&object) {
                    Some(id) => drop(numbers.insert(head.key, *id)),
                    None => new.push((object, head)),
                }
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
                for (id, (object, head)) in (first..).zip(&new) {
                    tx.prepare_cached(
                        "INSERT INTO pack_toc (id, format, slots, stored, entries, repository, object, staged) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
                    )?
                    .execute(params![id, head.format, head.slots() as i64, head.data_bytes() as i64, head.entries, remote.id, object])?;
                    tx.prepare_cached("INSERT OR REPLACE INTO verified (pack, at) VALUES (?1, ?2)")?.execute([id, clock::now_ms()])?;
                }
                Ok::<_, StoreError>(())
            })?;
            let mut state = self.state.lock();
            for (id, (_, head)) in (first..).zip(new) {
                state.packs += 1;
                state.stored += head.data_bytes();
                for (slot, entry) in Toc::parse(head.format, &head.entries).iter().flat_map(|toc| toc.entries()).enumerate() {
                    if entry.encoding().is_some() && !entry.is_damaged() {
                        state.index.insert(&entry.hash, Address::new(id, slot));
                    }
                }
                adopted.packs += 1;
                numbers.insert(head.key, id);
            }
        }
        Ok(numbers)
    }

    fn adopt_segments(
        &self,
        remote: &Remote,
        dying: &HashSet<String>,
        numbers: &HashMap<u64, i64>,
        adopted: &mut Adopted,
        cancel: &AtomicBool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        let newest = newest(remote, SEGMENTS, dying, cancel)?;
        for objects in newest.chunks(AT_ONCE) {
            let lists = get_all(remote, objects, cancel, |remote, object| {
                Ok(object::parse_segment(&remote.get(&object.name, LARGEST_SEGMENT)?))
            })?;
            progress(objects.len() as u64);
            self.db.write(|tx| {
                for (name, object, list) in &lists {
                    let list = list.as_ref().filter(|(hash, _)| Name::segment(hash, 0).key == name.key);
                    let addresses = match list {
                        Some((hash, chunks)) => addresses(tx, chunks, hash, numbers)?.map(|addresses| (hash, addresses)),
                        None => None,
                    };
                    let Some((hash, addresses)) = addresses else {
                        adopted.unreadable.push(object.clone());
                        continue;
                    };
                    let bytes = format::addresses_to_bytes(&addresses);
                    tx.prepare_cached(
                        "INSERT INTO segment (hash, format, chunks, repository, object) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![hash, FORMAT, bytes, remote.id, object])?;
                    let id = tx
                        .prepare_cached("SELECT id FROM segment WHERE hash = ?1 AND repository = ?2")?
                        .query_row(params![hash, remote.id], |row| row.get(0))?;
                    adopted.segments_by_hash.insert(*hash, id);
                    adopted.segments += 1;
                }
                Ok::<_, StoreError>(())
            })?;
        }
        Ok(())
    }
}

/// The addresses of a segment's chunks in this coffer; None if a pack is missing or the chunks do not make its name.
fn addresses(
    tx: &Transaction,
    chunks: &[Option<(u64, usize)>],
    hash: &Hash,
    numbers: &HashMap<u64, i64>,
) -> Result<Option<Vec<Address>>, StoreError> {
    let address = |chunk: &Option<(u64, usize)>| match chunk {
        None => Some(Address::ZERO),
        Some((key, slot)) => Some(Address::new(*numbers.get(key)?, *slot)),
    };
    let Some(addresses) = chunks.iter().map(address).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let names = read::names(tx, &addresses)?;
    Ok((format::segment_hash(&names) == *hash).then_some(addresses))
}

/// All objects of a kind, of each key the one of the highest generation.
fn newest(remote: &Remote, kind: &str, dying: &HashSet<String>, cancel: &AtomicBool) -> Result<Vec<(Name, Listed)>, StoreError> {
    let mut newest: HashMap<String, (Name, Listed)> = HashMap::new();
    let mut after = String::new();
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled);
        }
        let page = remote.list(&format!("{kind}/"), &after)?;
        let Some(last) = page.last() else { break };
        after = last.name.clone();
        for object in page.into_iter().filter(|object| !dying.contains(&object.name)) {
            let Some(name) = Name::parse(&object.name) else { continue };
            match newest.get(&name.key) {
                Some((known, _)) if known.generation >= name.generation => {}
                _ => drop(newest.insert(name.key.clone(), (name, object))),
            }
        }
    }
    let mut newest: Vec<_> = newest.into_values().collect();
    newest.sort_unstable_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    Ok(newest)
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
