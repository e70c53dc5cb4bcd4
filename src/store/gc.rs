//! Garbage collection: what no volume map and no running work refers to is removed, and its space given back.
//!
//! Mark: all segments of all maps, the addresses in them, and the bases of deltas among these get a bit. Sweep: dead segments first, so that a segment that is
//! there has all its chunks at every moment; then packs, dropped if nothing in them is alive, or else rewritten without
//! their dead chunks, keeping number and slots of the others. All writing is done in transactions of some ten milliseconds,
//! and each leaves the coffer complete, so it may be interrupted anywhere and runs beside ingests and restores.
//!
//! Packs and segments that came after the beginning are not looked at. What running work finds or holds meanwhile is marked
//! at that moment (state.rs), and a chunk's index entry goes before its bytes, so nothing can be found and dropped at once.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::blob::Blob;
use rusqlite::{MAIN_DB, OptionalExtension, Transaction, params};

use super::format::{self, Address, Entry, FORMAT_WITH_DELTAS, Hash};
use super::slots::Pack;
use super::toc::Stored;
use super::upload::{STAGED_PACKS, discard, staged_packs};
use super::{Store, StoreError};

/// Volume maps read in one transaction.
const MAPS_AT_ONCE: i64 = 64;
/// Segments read in one transaction.
const SEGMENTS_READ_AT_ONCE: usize = 128;
/// Segments deleted in one transaction: 1 MiB of rows.
const SEGMENTS_DELETED_AT_ONCE: usize = 128;
/// Packs deleted in one transaction, at most: some MiB of changed pages, which a full disk has room for; and for how long, which is
/// what others wait for the writer.
const PACKS_DELETED_AT_ONCE: usize = 64;
const SLICE: Duration = Duration::from_millis(15);
/// Tables of contents read in one transaction.
const PACKS_AT_ONCE: usize = 64;
/// Free pages given back in one transaction: 8 MiB.
const PAGES_AT_ONCE: u32 = 128;
/// A pack in a repository is brought and sent again to be compacted: at least so much of it must be dead.
const FAR_DEAD_FRACTION: f32 = 0.5;

pub struct GcOptions<'a> {
    /// A pack is rewritten when at least this part of its bytes is dead, and the file is made smaller when more than this
    /// part of it is free; 0.0: always. Free space is what the next backups are written to, and giving it back costs as
    /// much writing as it frees.
    pub dead_fraction: f32,
    /// Rest between two transactions, so that others get the disk.
    pub pause: Duration,
    /// Set to true, it ends the collection early, with what was done so far.
    pub cancel: &'a AtomicBool,
    /// Repositories of which the packs that were stored since this moment (in milliseconds) stay, whether anything needs them or not.
    pub spared: Vec<(i64, i64)>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct GcReport {
    pub segments_dropped: u64,
    pub packs_dropped: u64,
    pub packs_compacted: u64,
    /// Bytes of packs that were freed.
    pub bytes_freed: u64,
    /// Pages of the file still free, for the next backups.
    pub free_pages: u64,
    /// False if it was cancelled.
    pub complete: bool,
}

impl Store {
    /// Removes what nothing refers to. Runs beside everything else; a second caller waits for the first.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let _one_at_a_time = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = GcReport::default();
        let collection = Collection { store: self, options };
        match collection.run(&mut report) {
            Ok(()) => report.complete = true,
            Err(StoreError::Cancelled) => {}
            Err(e) => return Err(e),
        }
        Ok(report)
    }

    /// As long as this is held nothing is collected.
    pub fn without_collection(&self) -> MutexGuard<'_, ()> {
        self.collecting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Collection<'a> {
    store: &'a Store,
    options: &'a GcOptions<'a>,
}

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        self.store.state.lock().marks = None;
    }
}

impl Collection<'_> {
    fn run(&self, report: &mut GcReport) -> Result<(), StoreError> {
        let packs = self.packs()?;
        self.collect(packs, report)
    }

    /// Looks at these packs, which were all there were a moment ago.
    fn collect(&self, packs: Vec<Pack>, report: &mut GcReport) -> Result<(), StoreError> {
        let last_segment = self.store.db.read(|c| c.query_row("SELECT ifnull(max(id), 0) FROM segment", [], |row| row.get::<_, i64>(0)))?;
        self.store.state.lock().begin_marks(packs.clone());
        let segments = self.live_segments()?;
        self.mark(&segments, true)?;
        // What is held from now on is, or was a moment ago, seen in a map, or its chunks are held too. A segment may be held
        // before its transaction is committed.
        let mut held: Vec<i64> = self.store.state.lock().marks.iter().flat_map(|marks| &marks.segments).copied().collect();
        sort(&mut held);
        self.mark(&held, false)?;
        self.mark_bases()?;
        self.drop_segments(&segments, last_segment, report)?;
        let (dead, sparse) = self.verdicts(&packs)?;
        // First what makes room without needing any.
        let mut dead = dead.as_slice();
        while !dead.is_empty() {
            dead = &dead[self.drop_packs(dead, report)?..];
        }
        let compacted = sparse.iter().try_for_each(|pack| self.compact(*pack, report));
        if matches!(compacted, Err(StoreError::Full)) {
            // Rewriting needs some room first: let the next collection have what was freed.
            self.shrink(report)?;
        }
        compacted?;
        self.shrink(report)
    }

    /// The packs to be dropped, and those to be rewritten.
    fn verdicts(&self, packs: &[Pack]) -> Result<(Vec<Pack>, Vec<i64>), StoreError> {
        let (mut dead, mut sparse) = (Vec::new(), Vec::new());
        let spared = self.spared()?;
        for (pack, slots) in packs {
            match self.look_at(*pack, *slots)? {
                Verdict::Keep => {}
                _ if spared.contains(pack) => {}
                Verdict::Compact => sparse.push(*pack),
                Verdict::Drop => dead.push((*pack, *slots)),
            }
            self.check_cancelled()?;
        }
        Ok((dead, sparse))
    }

    /// Packs that stay in any case.
    fn spared(&self) -> Result<HashSet<i64>, StoreError> {
        let mut spared = HashSet::new();
        for (repository, since) in &self.options.spared {
            self.store.db.read(|c| {
                let mut statement = c.prepare_cached("SELECT id FROM pack_toc JOIN verified ON pack = id WHERE repository = ?1 AND at >= ?2")?;
                for id in statement.query_map([repository, since], |row| row.get(0))? {
                    spared.insert(id?);
                }
                Ok::<_, StoreError>(())
            })?;
        }
        Ok(spared)
    }

    /// All packs. Only a collection that is to leave nothing also looks for those whose table of contents was lost.
    fn packs(&self) -> Result<Vec<Pack>, StoreError> {
        let mut packs = self.store.packs()?;
        if self.options.dead_fraction == 0.0 {
            packs.extend(self.store.packs_without_toc()?);
            packs.sort_unstable();
        }
        Ok(packs)
    }

    /// The segments of all maps, ascending.
    fn live_segments(&self) -> Result<Vec<i64>, StoreError> {
        let mut segments = Vec::new();
        let mut after = 0;
        loop {
            let maps = self.store.db.read(|c| {
                let mut statement = c.prepare_cached("SELECT id, segments FROM volume_map WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                let rows = statement.query_map([after, MAPS_AT_ONCE], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
                Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?)
            })?;
            let Some((last, _)) = maps.last() else { break };
            after = *last;
            for (id, bytes) in &maps {
                let ids = format::segments_from_bytes(bytes).ok_or_else(|| damaged(&format!("volume map {id} is unreadable")))?;
                segments.extend(ids.iter().filter(|id| **id != 0));
            }
            sort(&mut segments);
            self.check_cancelled()?;
        }
        Ok(segments)
    }

    /// Marks the chunks of segments. Those that maps refer to must be there; nothing has been dropped yet, so if one is
    /// damaged, nothing that could mend it is lost.
    fn mark(&self, segments: &[i64], referenced: bool) -> Result<(), StoreError> {
        for ids in segments.chunks(SEGMENTS_READ_AT_ONCE) {
            let lists = self.store.db.read(|c| {
                let mut statement = c.prepare_cached("SELECT format, chunks FROM segment WHERE id = ?1")?;
                ids.iter()
                    .map(|id| match statement.query_row([id], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?))) {
                        Ok((format, bytes)) => {
                            format::addresses_from_bytes(format, &bytes).ok_or_else(|| damaged(&format!("segment {id} is unreadable")))
                        }
                        Err(rusqlite::Error::QueryReturnedNoRows) if !referenced => Ok(Vec::new()),
                        Err(rusqlite::Error::QueryReturnedNoRows) => Err(damaged(&format!("segment {id} is missing"))),
                        Err(e) => Err(e.into()),
                    })
                    .collect::<Result<Vec<_>, StoreError>>()
            })?;
            if let Some(marks) = &mut self.store.state.lock().marks {
                lists.iter().flatten().filter(|address| !address.is_zero()).for_each(|address| marks.mark(*address));
            }
            self.check_cancelled()?;
        }
        Ok(())
    }

    /// Marks what deltas that are alive refer to, and those in packs that came since the others were listed: their bases lie in
    /// packs that are looked at. Whoever finds or makes a delta from now on holds its base too.
    fn mark_bases(&self) -> Result<(), StoreError> {
        let packs = self.store.db.read(|c| {
            // As schema.sql has it, so that its index over the few packs with deltas is used.
            let mut statement = c.prepare(&format!("SELECT id FROM pack_toc WHERE format = {FORMAT_WITH_DELTAS}"))?;
            let ids = statement.query_map([], |row| row.get::<_, i64>(0))?;
            Ok::<_, StoreError>(ids.collect::<Result<Vec<_>, _>>()?)
        })?;
        for packs in packs.chunks(PACKS_AT_ONCE) {
            let stored = self.store.db.read(|c| packs.iter().map(|pack| Stored::load(c, *pack)).collect::<Result<Vec<_>, _>>())?;
            if let Some(marks) = &mut self.store.state.lock().marks {
                for (pack, toc) in packs.iter().zip(&stored) {
                    for (slot, entry) in toc.iter().filter_map(Stored::toc).flat_map(|toc| toc.entries()).enumerate() {
                        if let Some(base) = entry.base().filter(|_| !marks.covers(*pack) || marks.is_marked(Address::new(*pack, slot))) {
                            marks.mark(base);
                        }
                    }
                }
            }
            self.check_cancelled()?;
        }
        Ok(())
    }

    /// Deletes the segments up to `last` that are not among the live ones.
    fn drop_segments(&self, live: &[i64], last: i64, report: &mut GcReport) -> Result<(), StoreError> {
        // Slice by slice of the index over names: the rows themselves, two hundred times as large, are not read.
        for first in 0..=u8::MAX {
            let from = if first == 0 { Vec::new() } else { vec![first] };
            let to = if first == u8::MAX { vec![u8::MAX; size_of::<Hash>() + 1] } else { vec![first + 1] };
            let dead = self.store.db.read(|c| {
                let mut statement = c.prepare_cached("SELECT id FROM segment WHERE hash >= ?1 AND hash < ?2")?;
                let ids = statement.query_map(params![from, to], |row| row.get::<_, i64>(0))?;
                let dead = ids.filter(|id| id.as_ref().map_or(true, |id| *id <= last && live.binary_search(id).is_err()));
                Ok::<_, StoreError>(dead.collect::<Result<Vec<_>, _>>()?)
            })?;
            for ids in dead.chunks(SEGMENTS_DELETED_AT_ONCE) {
                report.segments_dropped += self.store.db.write(|tx| self.delete_segments(tx, ids))?;
                self.rest()?;
            }
        }
        Ok(())
    }

    fn delete_segments(&self, tx: &Transaction, ids: &[i64]) -> Result<u64, StoreError> {
        let mut object = tx.prepare_cached("SELECT repository, object FROM segment WHERE id = ?1 AND object IS NOT NULL")?;
        let mut statement = tx.prepare_cached("DELETE FROM segment WHERE id = ?1")?;
        let mut deleted = 0;
        for id in ids {
            // Work that has just found it again holds it within its own transaction, so before this one.
            if self.store.state.lock().marks.as_ref().is_some_and(|marks| !marks.segments.contains(id)) {
                let row = object.query_row([id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))).optional()?;
                if let Some((repository, object)) = row {
                    discard(tx, repository, &object)?;
                }
                deleted += statement.execute([id])? as u64;
            }
        }
        Ok(deleted)
    }

    fn look_at(&self, pack: i64, slots: usize) -> Result<Verdict, StoreError> {
        let marked: Vec<bool> = {
            let mut state = self.store.state.lock();
            let Some(marks) = &mut state.marks else { return Ok(Verdict::Keep) };
            (0..slots).map(|slot| marks.is_marked(Address::new(pack, slot))).collect()
        };
        if marked.iter().all(|marked| !marked) {
            return Ok(Verdict::Drop);
        }
        if marked.iter().all(|marked| *marked) {
            return Ok(Verdict::Keep);
        }
        let stored = self.store.db.read(|c| Stored::load(c, pack))?;
        let Some(toc) = stored.as_ref().and_then(Stored::toc).filter(|toc| toc.slots() == slots) else {
            return Ok(Verdict::Keep);
        };
        let (mut all, mut dead) = (0, 0);
        for (entry, marked) in toc.entries().zip(marked) {
            all += u64::from(entry.stored);
            dead += if marked { 0 } else { u64::from(entry.stored) };
        }
        let fraction = match &stored {
            Some(Stored { object: Some(_), .. }) => self.options.dead_fraction.max(FAR_DEAD_FRACTION),
            _ => self.options.dead_fraction,
        };
        let enough = dead > 0 && dead as f64 >= all as f64 * f64::from(fraction);
        Ok(if enough { Verdict::Compact } else { Verdict::Keep })
    }

    /// Deletes the first of these packs, in which nothing is alive unless it was found meanwhile. Returns how many were dealt with.
    fn drop_packs(&self, packs: &[Pack], report: &mut GcReport) -> Result<usize, StoreError> {
        let (done, dropped, freed) = self.store.db.write(|tx| {
            let started = Instant::now();
            let (mut done, mut dropped, mut freed) = (0, 0, 0);
            for (pack, slots) in packs.iter().take(PACKS_DELETED_AT_ONCE) {
                if done > 0 && started.elapsed() > SLICE {
                    break;
                }
                done += 1;
                let toc = Stored::load(tx, *pack)?;
                let mut entries: Vec<Entry> = toc.as_ref().and_then(Stored::toc).map(|toc| toc.entries().collect()).unwrap_or_default();
                entries.resize((*slots).max(entries.len()), Entry::dead());
                if self.take_dead(*pack, &entries).contains(&false) {
                    continue;
                }
                let row = tx
                    .prepare_cached("SELECT stored, repository, object FROM pack_toc WHERE id = ?1")?
                    .query_row([pack], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<String>>(2)?)))
                    .optional()?;
                let (stored, repository, object) = row.unwrap_or_default();
                if let Some(object) = object {
                    discard(tx, repository, &object)?;
                }
                tx.prepare_cached("DELETE FROM pack WHERE id = ?1")?.execute([pack])?;
                tx.prepare_cached("DELETE FROM pack_toc WHERE id = ?1")?.execute([pack])?;
                tx.prepare_cached("DELETE FROM verified WHERE pack = ?1")?.execute([pack])?;
                dropped += 1;
                freed += stored as u64;
            }
            Ok::<_, StoreError>((done, dropped, freed))
        })?;
        packs[..done].iter().for_each(|(pack, _)| self.store.tocs.forget(*pack));
        report.packs_dropped += dropped;
        report.bytes_freed += freed;
        let mut state = self.store.state.lock();
        state.packs = state.packs.saturating_sub(dropped);
        state.stored = state.stored.saturating_sub(freed);
        drop(state);
        self.rest()?;
        Ok(done)
    }

    /// Rewrites a pack without its dead chunks.
    fn compact(&self, pack: i64, report: &mut GcReport) -> Result<(), StoreError> {
        let far = match self.store.db.read(|c| Stored::load(c, pack))? {
            // What is left of it lies here until it is sent again, which is done after the collection.
            Some(stored) if stored.object.is_some() && staged_packs(&self.store.db, stored.repository)? >= STAGED_PACKS => return Ok(()),
            Some(stored) if stored.object.is_some() => match self.store.far_pack(&stored)? {
                Some(data) => Some((stored.object, data)),
                None => return Ok(()), // damaged, or out of reach for now
            },
            _ => None,
        };
        if let Some((_, data)) = &far
            && !self.store.db.make_room_for(data.len() as u64)?
        {
            return Err(StoreError::Full);
        }
        let freed = self.store.db.write(|tx| {
            let stored = Stored::load(tx, pack)?;
            let Some((toc, object)) = stored.as_ref().and_then(|stored| Some((stored.toc()?, &stored.object))) else { return Ok(0) };
            let mut entries: Vec<Entry> = toc.entries().collect();
            let old = match (&far, object) {
                (Some((brought, data)), Some(_)) if brought == object => Old::Far(data),
                (None, None) => Old::Here(tx.blob_open(MAIN_DB, c"pack", c"data", pack, true)?),
                _ => return Ok(0), // it has been sent meanwhile
            };
            if entries.iter().any(|entry| entry.offset as usize + entry.stored as usize > old.len()) {
                return Ok(0); // damaged: what is left of it stays as it is
            }
            let dead = self.take_dead(pack, &entries);
            let data = live_data(&old, &mut entries, &dead)?;
            let write = match old {
                Old::Here(_) => "UPDATE pack SET data = zeroblob(?2) WHERE id = ?1",
                // It is sent again, and until then it lies here.
                Old::Far(_) => "INSERT INTO pack (id, data) VALUES (?1, zeroblob(?2))",
            };
            drop(old);
            let before: i64 = tx.query_row("SELECT stored FROM pack_toc WHERE id = ?1", [pack], |row| row.get(0))?;
            tx.prepare_cached(write)?.execute(params![pack, data.len() as i64])?;
            tx.blob_open(MAIN_DB, c"pack", c"data", pack, false)?.write_all_at(&data, 0)?;
            let (format, bytes) = format::entries_to_bytes(&entries);
            tx.prepare_cached("UPDATE pack_toc SET format = ?2, stored = ?3, entries = ?4, staged = repository <> 0 WHERE id = ?1")?
                .execute(params![pack, format, data.len() as i64, bytes])?;
            Ok::<_, StoreError>((before as u64).saturating_sub(data.len() as u64))
        })?;
        self.store.tocs.forget(pack);
        report.packs_compacted += 1;
        report.bytes_freed += freed;
        let mut state = self.store.state.lock();
        state.stored = state.stored.saturating_sub(freed);
        drop(state);
        self.rest()
    }

    /// Decides for good which chunks of a pack are dead, and removes those from the index: from now on nobody can find them.
    fn take_dead(&self, pack: i64, entries: &[Entry]) -> Vec<bool> {
        let mut state = self.store.state.lock();
        let Some(mut marks) = state.marks.take() else { return vec![false; entries.len()] };
        let dead = entries
            .iter()
            .enumerate()
            .map(|(slot, entry)| {
                let address = Address::new(pack, slot);
                let dead = !marks.is_marked(address);
                if dead {
                    state.index.remove(&entry.hash, address);
                }
                dead
            })
            .collect();
        state.marks = Some(marks);
        dead
    }

    /// Moves what was written into the file, and gives free pages back if they are many.
    fn shrink(&self, report: &mut GcReport) -> Result<(), StoreError> {
        self.store.db.checkpoint()?;
        loop {
            let (free, pages) = self.store.db.read(|c| {
                let number = |name| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(|n| n as u64);
                Ok::<_, StoreError>((number("freelist_count")?, number("page_count")?))
            })?;
            report.free_pages = free;
            if free as f64 <= pages as f64 * f64::from(self.options.dead_fraction) {
                return Ok(());
            }
            report.free_pages = self.store.db.shrink(PAGES_AT_ONCE)?;
            self.store.db.checkpoint()?;
            if report.free_pages >= free {
                return Ok(());
            }
            self.rest()?;
        }
    }

    fn rest(&self) -> Result<(), StoreError> {
        if !self.options.pause.is_zero() {
            std::thread::sleep(self.options.pause);
        }
        self.check_cancelled()
    }

    fn check_cancelled(&self) -> Result<(), StoreError> {
        if self.options.cancel.load(Ordering::Relaxed) { Err(StoreError::Cancelled) } else { Ok(()) }
    }
}

enum Verdict {
    Keep,
    Compact,
    Drop,
}

/// The stored bytes of a pack before it is compacted.
enum Old<'a> {
    Here(Blob<'a>),
    Far(&'a [u8]),
}

impl Old<'_> {
    fn len(&self) -> usize {
        match self {
            Old::Here(data) => data.len(),
            Old::Far(data) => data.len(),
        }
    }

    fn read(&self, into: &mut [u8], from: usize) -> Result<(), rusqlite::Error> {
        match self {
            Old::Here(data) => data.read_at_exact(into, from),
            Old::Far(data) => {
                into.copy_from_slice(&data[from..from + into.len()]);
                Ok(())
            }
        }
    }
}

/// The stored bytes of the chunks that are not dead, one after the other; their entries are set to where they lie now.
fn live_data(old: &Old, entries: &mut [Entry], dead: &[bool]) -> Result<Vec<u8>, StoreError> {
    let mut data = Vec::new();
    for (entry, dead) in entries.iter_mut().zip(dead) {
        if *dead || entry.is_dead() {
            *entry = Entry::dead();
            continue;
        }
        let at = data.len();
        data.resize(at + entry.stored as usize, 0);
        old.read(&mut data[at..], entry.offset as usize)?;
        entry.offset = at as u32;
    }
    Ok(data)
}

fn sort(ids: &mut Vec<i64>) {
    ids.sort_unstable();
    ids.dedup();
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!(
        "{what}; no space is given back until the backups that `cofferd check` names are deleted"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;
    use crate::store::codec::{Base, Encoder};
    use crate::store::Home;
    use crate::store::format::Encoding;
    use std::sync::Arc;

    #[test]
    fn the_base_of_a_delta_that_was_stored_since_the_packs_were_listed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&dir.path().join("coffer.db")).unwrap());
        let store = Store::open(db.clone()).unwrap();
        // A volume of one chunk.
        let back_up = |previous, raw: &[u8]| {
            let ingest = store.begin(Home::Coffer, previous).unwrap();
            let base = ingest.base(0).unwrap();
            let base = base.as_ref().map(|base| Base { address: base.address, raw: &base.raw, stored: base.stored });
            let (encoding, stored) = Encoder::new().unwrap().encode(raw, base);
            let mut writer = ingest.writer();
            writer.put_new(*blake3::hash(raw).as_bytes(), raw.len() as u32, encoding, stored).unwrap();
            let finished = writer.finish(raw.len() as u64).unwrap();
            let sealed = ingest.seal(finished);
            (db.write(|tx| sealed.commit(tx)).unwrap(), encoding)
        };
        let mut bytes = vec![0; 50_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let (first, _) = back_up(None, &bytes);
        let cancel = AtomicBool::new(false);
        let options = GcOptions { dead_fraction: 0.0, pause: Duration::ZERO, cancel: &cancel, spared: Vec::new() };
        let collection = Collection { store: &store, options: &options };
        let packs = collection.packs().unwrap();
        bytes[7] ^= 1;
        let (second, encoding) = back_up(Some(first), &bytes);
        assert!(matches!(encoding, Encoding::Delta { .. }));
        db.write(|tx| Store::delete_map(tx, first)).unwrap();
        collection.collect(packs, &mut GcReport::default()).unwrap();
        let report = store.check_map(second, &|_| {}, &cancel).unwrap();
        assert!(report.corrupt.is_empty(), "{report:?}");
    }
}
