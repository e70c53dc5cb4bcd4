//! The data path as a whole: sources into the store and back out, with damage, changes and collections in between.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::EngineError;
use super::emit::emit;
use super::ingest::{Ingested, Known, Progress, ingest};
use crate::db::Db;
use crate::source::{Source, SourceError, Target};
use crate::store::format::{self, Address, CHUNK_SIZE, PACK_BYTES, Toc};
use crate::store::{Claim, GcOptions, GcReport, Home, Size, Store, StoreError, Usage};

pub(super) const CHUNK: usize = CHUNK_SIZE as usize;
/// Incompressible chunks in a pack.
const PACK: usize = PACK_BYTES / CHUNK;

/// A coffer in a directory of its own, and volumes beside it.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    db: Arc<Db>,
    pub store: Store,
    /// Of the last ingest: bytes that were not stored before.
    new: AtomicU64,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::at(tempfile::tempdir().unwrap())
    }

    fn at(dir: tempfile::TempDir) -> Bench {
        let db = Arc::new(Db::open(&dir.path().join("coffer.db")).unwrap());
        let store = Store::open(db.clone()).unwrap();
        Bench { dir, db, store, new: AtomicU64::default() }
    }

    pub fn reopen(self) -> Bench {
        let Bench { dir, db, store, new } = self;
        drop((db, store));
        let db = Arc::new(Db::open(&dir.path().join("coffer.db")).unwrap());
        let store = Store::open(db.clone()).unwrap();
        Bench { dir, db, store, new }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Writes an image so that chunks of zeros become holes.
    pub fn image(&self, name: &str, bytes: &[u8]) -> Source {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (at, chunk) in bytes.chunks(CHUNK).enumerate() {
            if chunk.iter().any(|byte| *byte != 0) {
                file.write_all_at(chunk, (at * CHUNK) as u64).unwrap();
            }
        }
        Source::open(&path).unwrap()
    }

    pub fn ingest(&self, source: &Source) -> Result<Ingested, EngineError> {
        // Whatever was taken in last counts as the previous version: for an unrelated volume that must do no harm.
        let previous = self.db.read(|c| c.query_row("SELECT max(id) FROM volume_map", [], |row| row.get(0))).unwrap();
        self.ingest_knowing(source, &Known { previous, changed: None })
    }

    fn ingest_knowing(&self, source: &Source, known: &Known) -> Result<Ingested, EngineError> {
        let progress = Progress::default();
        let ingested = ingest(&self.store, Home::Coffer, source, known, 3, &progress, &AtomicBool::new(false))?;
        assert_eq!(progress.read.into_inner(), source.size());
        assert_eq!(progress.stored.into_inner(), ingested.stored());
        self.new.store(progress.new.into_inner(), Ordering::Relaxed);
        Ok(ingested)
    }

    fn new_bytes(&self) -> u64 {
        self.new.load(Ordering::Relaxed)
    }

    pub fn commit(&self, ingested: &Ingested) -> i64 {
        self.db.write(|tx| ingested.commit(tx)).unwrap()
    }

    pub fn back_up(&self, bytes: &[u8]) -> i64 {
        let map = self.commit(&self.ingest(&self.image("source.img", bytes)).unwrap());
        assert_eq!(self.number(&format!("SELECT size FROM volume_map WHERE id = {map}")), bytes.len() as i64);
        map
    }

    fn emit(&self, map: i64, target: &Target, fresh: bool) -> Result<(), EngineError> {
        emit(&self.store, map, target, fresh, 3, &Progress::default(), &AtomicBool::new(false))
    }

    pub fn restore(&self, map: i64, size: usize) -> Result<Vec<u8>, EngineError> {
        let path = self.path("restored.img");
        let _ = std::fs::remove_file(&path);
        self.emit(map, &Target::create(&path, size as u64).unwrap(), true)?;
        Ok(std::fs::read(path).unwrap())
    }

    pub fn delete(&self, map: i64) {
        self.db.write(|tx| Store::delete_map(tx, map)).unwrap();
    }

    pub fn gc(&self, dead_fraction: f32) -> GcReport {
        let options = GcOptions { dead_fraction, pause: Duration::ZERO, cancel: &AtomicBool::new(false), spared: Vec::new() };
        let report = self.store.gc(&options).unwrap();
        assert!(report.complete);
        report
    }

    pub fn number(&self, sql: &str) -> i64 {
        self.db.read(|c| c.query_row(sql, [], |row| row.get::<_, i64>(0))).unwrap()
    }

    pub fn write<T>(&self, f: impl FnOnce(&rusqlite::Transaction) -> Result<T, crate::store::StoreError>) -> T {
        self.db.write(f).unwrap()
    }

    /// The names of a map's segments, and its own.
    pub fn content(&self, map: i64) -> (Vec<Option<format::Hash>>, format::Hash) {
        self.db
            .read(|c| {
                let (segments, hash): (Vec<u8>, format::Hash) =
                    c.query_row("SELECT segments, hash FROM volume_map WHERE id = ?1", [map], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok::<_, rusqlite::Error>((Store::segment_names(c, &format::segments_from_bytes(&segments).unwrap())?, hash))
            })
            .unwrap()
    }

    pub fn execute(&self, sql: &str) {
        self.db.write(|tx| tx.execute_batch(sql)).unwrap();
    }

    /// Changes one bit of a blob.
    pub fn flip(&self, table: &str, column: &str, row: i64, byte: usize) {
        let read = format!("SELECT {column} FROM {table} WHERE id = {row}");
        let mut blob: Vec<u8> = self.db.read(|c| c.query_row(&read, [], |row| row.get(0))).unwrap();
        blob[byte] ^= 0x10;
        let write = format!("UPDATE {table} SET {column} = ?1 WHERE id = {row}");
        self.db.write(|tx| tx.execute(&write, [blob])).unwrap();
    }

    fn check(&self, map: i64) -> Vec<(u64, u64)> {
        let report = self.store.check_map(map, &|_| {}, &AtomicBool::new(false)).unwrap();
        report.corrupt.iter().map(|corrupt| (corrupt.offset, corrupt.length)).collect()
    }

    /// The chunks that lie in packs.
    fn stored(&self) -> HashSet<Address> {
        self.entries().into_iter().map(|(address, _)| address).collect()
    }

    /// The chunks that segments list, and those that are bases of deltas among them.
    fn referenced(&self) -> (HashSet<Address>, HashSet<Address>) {
        let lists: Vec<Vec<u8>> = self.rows("SELECT chunks FROM segment");
        let chunks: HashSet<Address> = lists.iter().flat_map(|list| format::addresses_from_bytes(1, list).unwrap()).filter(|a| !a.is_zero()).collect();
        let bases = self.entries().into_iter().filter(|(address, _)| chunks.contains(address)).filter_map(|(_, entry)| entry.base()).collect();
        (chunks, bases)
    }

    fn entries(&self) -> Vec<(Address, format::Entry)> {
        let packs: Vec<i64> = self.rows("SELECT id FROM pack_toc ORDER BY id");
        let formats: Vec<i64> = self.rows("SELECT format FROM pack_toc ORDER BY id");
        let tocs: Vec<Vec<u8>> = self.rows("SELECT entries FROM pack_toc ORDER BY id");
        let mut entries = Vec::new();
        for ((pack, format), toc) in packs.iter().zip(formats).zip(&tocs) {
            let toc = Toc::parse(format, toc).unwrap();
            entries.extend(toc.entries().enumerate().map(|(slot, entry)| (Address::new(*pack, slot), entry)).filter(|(_, entry)| !entry.is_dead()));
        }
        entries
    }

    fn rows<T: rusqlite::types::FromSql>(&self, sql: &str) -> Vec<T> {
        self.db.read(|c| c.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<T>, rusqlite::Error>>()).unwrap()
    }

    pub fn assert_empty(&self) {
        for table in ["pack", "pack_toc", "verified", "segment"] {
            assert_eq!(self.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
        let stats = self.store.stats().unwrap();
        assert_eq!((stats.packs, stats.chunks, stats.stored_bytes), (0, 0, 0));
    }
}

/// Bytes that do not compress, different for each seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that compress, different for each seed.
fn text(seed: u64, len: usize) -> Vec<u8> {
    format!("line of text number {seed}, ").into_bytes().into_iter().cycle().take(len).collect()
}

#[test]
fn volumes_of_odd_sizes_come_back() {
    let bench = Bench::new();
    for size in [1, 511, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 17 * CHUNK + 4097] {
        for bytes in [noise(size as u64, size), text(size as u64, size), vec![0; size]] {
            let map = bench.back_up(&bytes);
            assert!(bench.restore(map, size).unwrap() == bytes, "{size}");
            assert!(bench.check(map).is_empty());
        }
    }
}

#[test]
fn holes_zeros_and_repetitions_cost_nothing() {
    let bench = Bench::new();
    let mut bytes = vec![0; 600 * CHUNK + 77];
    bytes[300 * CHUNK..301 * CHUNK].copy_from_slice(&noise(1, CHUNK));
    bytes[400 * CHUNK..401 * CHUNK].copy_from_slice(&noise(1, CHUNK));
    bytes[600 * CHUNK..].fill(9);
    let map = bench.back_up(&bytes);
    let stats = bench.store.stats().unwrap();
    assert_eq!(stats.chunks, 2);
    assert!(stats.stored_bytes < CHUNK as u64 + 200);
    assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
    let blocks = std::fs::metadata(bench.path("restored.img")).unwrap().blocks();
    assert!(blocks * 512 < 4 * CHUNK as u64, "holes stay holes");

    // Zeros that are data, not holes.
    std::fs::write(bench.path("full.img"), &bytes).unwrap();
    let again = bench.ingest(&Source::open(&bench.path("full.img")).unwrap()).unwrap();
    assert_eq!((bench.new_bytes(), again.stored()), (0, 0));
    assert_eq!(bench.store.stats().unwrap().segments, 1, "equal segments are shared");
}

#[test]
fn an_unchanged_volume_and_a_second_volume_share_all() {
    let bench = Bench::new();
    let bytes = [noise(1, 20 * CHUNK), text(2, 20 * CHUNK)].concat();
    let first = bench.ingest(&bench.image("a.img", &bytes)).unwrap();
    assert_eq!(bench.new_bytes(), 20 * CHUNK as u64 + text(2, 20 * CHUNK).chunks(CHUNK).collect::<std::collections::HashSet<_>>().len() as u64 * CHUNK as u64);
    bench.commit(&first);
    let bench = bench.reopen();
    let second = bench.ingest(&bench.image("b.img", &bytes)).unwrap();
    assert_eq!((bench.new_bytes(), second.stored()), (0, 0));
    let map = bench.commit(&second);
    assert_eq!(bench.number("SELECT count(DISTINCT hash) FROM volume_map"), 1, "equal volumes have equal names");
    assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
}

#[test]
fn an_existing_target_is_overwritten_with_zeros_where_the_volume_has_holes() {
    let bench = Bench::new();
    let mut bytes = vec![0; 2000 * CHUNK + 5];
    bytes[CHUNK * 1500..][..CHUNK].copy_from_slice(&noise(3, CHUNK));
    let map = bench.back_up(&bytes);
    let path = bench.path("existing.img");
    std::fs::write(&path, vec![0xee; bytes.len() + 3]).unwrap();
    bench.emit(map, &Target::open(&path, bytes.len() as u64).unwrap(), false).unwrap();
    let now = std::fs::read(&path).unwrap();
    assert!(now[..bytes.len()] == bytes);
    assert_eq!(now[bytes.len()..], [0xee; 3], "what is beyond the volume stays");
}

#[test]
fn a_source_that_changes_under_the_reader_fails_the_backup() {
    type Change = fn(&std::path::Path);
    type Expected = fn(&SourceError) -> bool;
    let changes: [(Change, Expected); 5] = [
        (|path| File::options().write(true).open(path).unwrap().set_len(9 * CHUNK as u64).unwrap(), |e| matches!(e, SourceError::Shrunk { .. })),
        (|path| File::options().write(true).open(path).unwrap().set_len(99 * CHUNK as u64).unwrap(), |e| matches!(e, SourceError::Grew { .. })),
        (|path| File::options().write(true).open(path).unwrap().set_len(0).unwrap(), |e| matches!(e, SourceError::Shrunk { found: 0, .. })),
        (|path| std::fs::remove_file(path).unwrap(), |e| matches!(e, SourceError::Vanished(_))),
        (
            |path| {
                std::fs::copy(path, path.with_extension("new")).unwrap();
                std::fs::rename(path.with_extension("new"), path).unwrap();
            },
            |e| matches!(e, SourceError::Replaced(_)),
        ),
    ];
    for (change, expected) in changes {
        let bench = Bench::new();
        let mut source = bench.image("a.img", &noise(1, 40 * CHUNK));
        let path = bench.path("a.img");
        let once = AtomicBool::new(false);
        source.hook = Some(Box::new(move |offset| {
            if offset >= 20 * CHUNK as u64 && !once.swap(true, Ordering::SeqCst) {
                change(&path);
            }
            Ok(())
        }));
        match bench.ingest(&source) {
            Err(EngineError::Source(e)) => assert!(expected(&e), "{e}"),
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("accepted"),
        }
        bench.gc(0.0);
        bench.assert_empty();
    }
}

#[test]
fn a_read_error_names_its_place_and_a_write_to_the_source_is_noticed() {
    let bench = Bench::new();
    let mut source = bench.image("a.img", &noise(1, 200 * CHUNK));
    source.hook = Some(Box::new(|offset| if offset == 8 << 20 { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }));
    let error = bench.ingest(&source).err().unwrap().to_string();
    assert!(error.contains("a.img cannot be read at byte 8388608"), "{error}");
    let path = bench.path("a.img");
    source.hook = Some(Box::new(move |_| File::options().write(true).open(&path)?.set_modified(std::time::UNIX_EPOCH)));
    assert!(bench.ingest(&source).unwrap().modified);
}

#[test]
fn a_panicking_worker_ends_the_backup_instead_of_hanging_it() {
    let bench = Bench::new();
    let mut source = bench.image("a.img", &noise(1, 200 * CHUNK));
    source.hook = Some(Box::new(|offset| if offset == 8 << 20 { panic!("on purpose") } else { Ok(()) }));
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.ingest(&source)));
    assert!(attempt.is_err());
    bench.gc(0.0);
    bench.assert_empty();
}

#[test]
fn cancelling_ends_both_ways_early() {
    let bench = Bench::new();
    let bytes = noise(1, 40 * CHUNK);
    let map = bench.back_up(&bytes);
    let cancelled = AtomicBool::new(true);
    let source = bench.image("b.img", &bytes);
    assert!(matches!(ingest(&bench.store, Home::Coffer, &source, &Known::default(), 2, &Progress::default(), &cancelled), Err(EngineError::Cancelled)));
    let target = Target::create(&bench.path("t.img"), bytes.len() as u64).unwrap();
    assert!(matches!(emit(&bench.store, map, &target, true, 2, &Progress::default(), &cancelled), Err(EngineError::Cancelled)));
    assert!(matches!(bench.store.check_map(map, &|_| {}, &cancelled), Err(StoreError::Cancelled)));
    let report = bench.store.gc(&GcOptions { dead_fraction: 0.0, pause: Duration::ZERO, cancel: &cancelled, spared: Vec::new() }).unwrap();
    assert!(!report.complete);
}

#[test]
fn a_flipped_bit_is_found_at_every_level_with_its_offset() {
    // 96 and 76 chunks in two segments, all different.
    let bytes = [noise(1, 96 * CHUNK), vec![0; (1024 - 96) * CHUNK], noise(2, 76 * CHUNK)].concat();
    let chunk = |n: usize| ((n * CHUNK) as u64, CHUNK as u64);
    let second_segment = (1024 * CHUNK as u64, 76 * CHUNK as u64);
    let whole = (0, bytes.len() as u64);
    // Where chunk 70 lies.
    let (pack, slot) = ((1 + 70 / PACK) as i64, 70 % PACK);
    type Damage<'a> = (&'a str, &'a str, i64, usize, (u64, u64));
    let damages: [Damage; 8] = [
        ("pack", "data", pack, slot * CHUNK + 1000, chunk(70)),
        ("pack_toc", "entries", pack, slot * 56, chunk(70)),          // hash
        ("pack_toc", "entries", pack, slot * 56 + 34, chunk(70)),     // offset
        ("pack_toc", "entries", pack, slot * 56 + 38, chunk(70)),     // stored length
        ("pack_toc", "entries", pack, slot * 56 + 44, chunk(70)),     // encoding
        ("segment", "chunks", 2, 8 * 10 + 3, chunk(1034)),      // a pack that does not exist
        ("segment", "hash", 2, 5, second_segment),
        ("volume_map", "hash", 1, 5, whole),
    ];
    let bench = Bench::new();
    let map = bench.back_up(&bytes);
    assert_eq!(bench.number("SELECT count(*) FROM pack"), 172usize.div_ceil(PACK) as i64);
    for (table, column, row, byte, expected) in damages {
        bench.flip(table, column, row, byte);
        assert!(bench.check(map).contains(&expected), "{table}.{column}: {:?}", bench.check(map));
        match bench.restore(map, bytes.len()) {
            Err(EngineError::Corrupt { offset, .. }) => assert_eq!(offset, expected.0, "{table}.{column}"),
            Err(e) => panic!("{table}.{column}: {e}"),
            Ok(_) => panic!("{table}.{column}: restored silently"),
        }
        bench.flip(table, column, row, byte);
        // The flags that the check has set must not hide the next damage, nor this one's repair.
        assert!(bench.check(map).is_empty());
    }
    // An address exchanged for another valid one, a segment exchanged for another, and a missing one.
    bench.execute("UPDATE segment SET chunks = CAST(substr(chunks, 9, 8) || substr(chunks, 9) AS BLOB) WHERE id = 2");
    assert_eq!(bench.check(map), [second_segment]);
    bench.execute("UPDATE segment SET chunks = substr(chunks, 1, 400) WHERE id = 2");
    assert_eq!(bench.check(map), [second_segment]);
    bench.execute("DELETE FROM segment WHERE id = 2");
    assert_eq!(bench.check(map), [second_segment]);
    bench.execute(&format!("DELETE FROM pack WHERE id = {pack}"));
    assert!(bench.check(map).contains(&(((70 - slot) * CHUNK) as u64, (PACK * CHUNK) as u64)));
}

#[test]
fn damaged_chunks_are_stored_anew_and_older_backups_are_repaired() {
    let bench = Bench::new();
    let bytes = noise(1, 100 * CHUNK);
    let old = bench.back_up(&bytes);
    bench.flip("pack", "data", 2, 5000);
    assert_eq!(bench.check(old), [((PACK * CHUNK) as u64, CHUNK as u64)]);
    let bench = bench.reopen(); // it is remembered
    let again = bench.ingest(&bench.image("b.img", &bytes)).unwrap();
    assert_eq!(bench.new_bytes(), CHUNK as u64);
    let new = bench.commit(&again);
    drop(again);
    for map in [old, new] {
        assert!(bench.check(map).is_empty());
        assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
    }
    bench.gc(0.0);
    assert!(bench.restore(old, bytes.len()).unwrap() == bytes);
    assert_eq!(bench.store.stats().unwrap().chunks, 100, "the damaged copy is gone");
}

#[test]
fn deleting_everything_leaves_nothing() {
    let bench = Bench::new();
    let first = bench.back_up(&noise(1, 200 * CHUNK));
    let second = bench.back_up(&[noise(1, 100 * CHUNK), vec![0; 1000 * CHUNK], noise(2, 100 * CHUNK)].concat());
    let size = bench.number("PRAGMA page_count");
    bench.delete(first);
    let report = bench.gc(0.0);
    assert_eq!((report.packs_dropped, report.packs_compacted), (3, 1));
    assert!(bench.check(second).is_empty());
    bench.delete(second);
    bench.gc(0.0);
    bench.assert_empty();
    assert!(bench.number("PRAGMA page_count") < size / 4, "space is given back");
    bench.reopen().assert_empty();
}

#[test]
fn a_pack_is_rewritten_only_if_enough_of_it_is_dead() {
    let bench = Bench::new();
    let bytes = noise(1, 64 * CHUNK);
    let first = bench.back_up(&bytes);
    let mut changed = bytes.clone();
    changed[..4 * CHUNK].copy_from_slice(&noise(2, 4 * CHUNK));
    let second = bench.back_up(&changed);
    bench.delete(first);
    assert_eq!(bench.gc(0.5).packs_compacted, 0);
    // What is dead but still there is found again.
    let again = bench.ingest(&bench.image("b.img", &bytes)).unwrap();
    assert_eq!(bench.new_bytes(), 0);
    drop(again);
    let report = bench.gc(0.1);
    assert_eq!((report.packs_compacted, report.bytes_freed), (1, 4 * CHUNK as u64));
    bench.ingest(&bench.image("b.img", &bytes)).unwrap();
    assert_eq!(bench.new_bytes(), 4 * CHUNK as u64);
    assert!(bench.restore(second, changed.len()).unwrap() == changed);
}

#[test]
fn what_a_lease_holds_survives_a_collection_until_it_is_dropped() {
    let bench = Bench::new();
    let bytes = noise(1, 1500 * CHUNK);
    let ingested = bench.ingest(&bench.image("a.img", &bytes)).unwrap();
    bench.gc(0.0);
    let map = bench.commit(&ingested);
    drop(ingested);
    bench.gc(0.0);
    assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
    bench.delete(map);
    // Found again after its only map was deleted: held from then on.
    let again = bench.ingest(&bench.image("a.img", &bytes)).unwrap();
    assert_eq!(bench.new_bytes(), 0);
    bench.gc(0.0);
    let map = bench.commit(&again);
    assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
    bench.delete(map);
    drop(again);
    bench.gc(0.0);
    bench.assert_empty();
}

#[test]
fn a_damaged_map_stops_the_collection_before_anything_is_dropped() {
    let bench = Bench::new();
    let map = bench.back_up(&noise(1, 40 * CHUNK));
    let other = bench.back_up(&noise(2, 40 * CHUNK));
    bench.delete(other);
    bench.execute("UPDATE volume_map SET segments = X'6300000000000000'");
    let packs = bench.number("SELECT count(*) FROM pack");
    let options = GcOptions { dead_fraction: 0.0, pause: Duration::ZERO, cancel: &AtomicBool::new(false), spared: Vec::new() };
    let error = bench.store.gc(&options).err().unwrap().to_string();
    assert!(error.contains("segment 99 is missing"), "{error}");
    assert_eq!(bench.number("SELECT count(*) FROM pack"), packs);
    bench.delete(map);
    bench.gc(0.0);
    bench.assert_empty();
}

#[test]
fn a_full_disk_fails_the_backup_and_leaves_the_coffer_whole() {
    let bench = Bench::new();
    let kept = noise(1, 40 * CHUNK);
    let map = bench.back_up(&kept);
    let limit = |pages: i64| bench.execute(&format!("PRAGMA max_page_count = {pages}"));
    limit(bench.number("PRAGMA page_count") + 75); // room for two packs
    let bytes = noise(2, 200 * CHUNK);
    let source = bench.image("a.img", &bytes);
    let error = bench.ingest(&source).err().unwrap();
    assert!(error.to_string().contains("disk of the coffer is full"), "{error}");
    assert!(bench.restore(map, kept.len()).unwrap() == kept);
    let stats = bench.store.stats().unwrap();
    limit(1 << 30);
    let again = bench.ingest(&source).unwrap();
    assert_eq!(bench.new_bytes(), 200 * CHUNK as u64 - (stats.chunks - 40) * CHUNK as u64, "what was stored is found again");
    let second = bench.commit(&again);
    drop(again);
    assert!(bench.restore(second, bytes.len()).unwrap() == bytes);
    [map, second].iter().for_each(|map| bench.delete(*map));
    limit(bench.number("PRAGMA page_count"));
    bench.gc(0.0);
    bench.assert_empty();
}

#[test]
fn the_same_new_data_taken_in_twice_at_once_is_stored_well() {
    let bench = Bench::new();
    let bytes = noise(5, 300 * CHUNK);
    let sources = ["a.img", "b.img", "c.img"].map(|name| bench.image(name, &bytes));
    let maps: Vec<i64> = std::thread::scope(|scope| {
        let tasks: Vec<_> = sources.iter().map(|source| scope.spawn(|| bench.commit(&bench.ingest(source).unwrap()))).collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    assert_eq!(bench.store.stats().unwrap().segments, 1);
    bench.gc(0.0);
    assert_eq!(bench.store.stats().unwrap().chunks, 300, "copies are dropped");
    for map in &maps {
        assert!(bench.restore(*map, bytes.len()).unwrap() == bytes);
        bench.delete(*map);
    }
    bench.gc(0.0);
    bench.assert_empty();
}

#[test]
fn a_target_that_is_too_small_is_refused() {
    let bench = Bench::new();
    let map = bench.back_up(&noise(1, 2 * CHUNK));
    let target = Target::create(&bench.path("t.img"), CHUNK as u64).unwrap();
    assert!(matches!(bench.emit(map, &target, true), Err(EngineError::Target(SourceError::TooSmall { .. }))));
}

#[test]
fn a_coffer_with_a_thousand_backups_opens_at_once() {
    // In memory if possible: a thousand backups wait for the disk five thousand times.
    let bench = Bench::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
    let mut bytes = noise(1, 3 * CHUNK);
    for n in 0..1000u64 {
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        bench.back_up(&bytes);
    }
    let started = std::time::Instant::now();
    let bench = bench.reopen();
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(bench.store.stats().unwrap().chunks, 1002);
}

/// A small deterministic generator, so that a failure can be repeated.
pub(super) struct Random(pub u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn no_flipped_bit_is_ever_restored() {
    let bench = Bench::new();
    let mut random = Random(11);
    let bytes = [random_image(&mut random), vec![0; 1000 * CHUNK], random_image(&mut random)].concat();
    let map = bench.back_up(&bytes);
    let blobs = [("pack", "data"), ("pack_toc", "entries"), ("segment", "hash"), ("segment", "chunks"), ("volume_map", "hash"), ("volume_map", "segments")];
    let numbers = [("pack_toc", "format"), ("pack_toc", "slots"), ("segment", "format"), ("volume_map", "size"), ("volume_map", "chunk_size")];
    let mut found = 0;
    for round in 0..200 {
        let undo: Box<dyn Fn(&Bench)> = if round % 4 == 0 {
            let (table, column) = numbers[random.below(numbers.len())];
            let row = bench.number(&format!("SELECT max(id) FROM {table}"));
            let before = bench.number(&format!("SELECT {column} FROM {table} WHERE id = {row}"));
            let set = move |bench: &Bench, value: i64| bench.execute(&format!("UPDATE {table} SET {column} = {value} WHERE id = {row}"));
            set(&bench, before ^ 1 << random.below(40));
            Box::new(move |bench| set(bench, before))
        } else {
            let (table, column) = blobs[random.below(blobs.len())];
            let row = bench.number(&format!("SELECT min(id) + {} % count(*) FROM {table}", random.below(1000)));
            let byte = random.below(bench.number(&format!("SELECT length({column}) FROM {table} WHERE id = {row}")) as usize);
            bench.flip(table, column, row, byte);
            Box::new(move |bench| bench.flip(table, column, row, byte))
        };
        let whole = bench.check(map).is_empty();
        match bench.restore(map, bytes.len()) {
            Ok(restored) => assert!(restored == bytes && whole, "round {round}"),
            Err(EngineError::Corrupt { .. } | EngineError::Target(SourceError::TooSmall { .. })) => {
                assert!(!whole, "round {round}: the check has missed it");
                found += 1;
            }
            Err(e) => panic!("round {round}: {e}"),
        }
        undo(&bench);
    }
    assert!(found > 100, "{found}");
    assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
}

#[test]
fn a_small_change_is_stored_as_a_delta_that_needs_no_other_delta() {
    let bench = Bench::new();
    let mut bytes = noise(1, 20 * CHUNK);
    let mut maps = vec![(bench.back_up(&bytes), bytes.clone())];
    for day in 1..5u8 {
        bytes[7 * CHUNK + usize::from(day) * 9000..][..4096].fill(day);
        let ingested = bench.ingest(&bench.image("source.img", &bytes)).unwrap();
        assert_eq!(ingested.added(), 1);
        assert!(ingested.stored() < 2_000, "{}", ingested.stored());
        maps.push((bench.commit(&ingested), bytes.clone()));
    }
    let (_, bases) = bench.referenced();
    assert_eq!(bases, HashSet::from([Address::new(1, 7)]), "all are deltas to the first");
    let whole: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    maps.push((bench.back_up(&whole), whole));
    for (map, bytes) in &maps {
        assert!(bench.check(*map).is_empty());
        assert!(bench.restore(*map, bytes.len()).unwrap() == *bytes);
    }
    // The base stays as long as one delta needs it, and nothing else of the first.
    bench.delete(maps[0].0);
    bench.delete(maps[5].0);
    bench.gc(0.0);
    assert!(bench.stored().contains(&Address::new(1, 7)));
    for (map, bytes) in &maps[1..5] {
        assert!(bench.restore(*map, bytes.len()).unwrap() == *bytes);
    }
    let bench = bench.reopen();
    // The base's own content is found again, and so is a delta's.
    let again = bench.ingest(&bench.image("source.img", &maps[0].1)).unwrap();
    assert_eq!(again.added(), 0);
    drop(again);
    maps[1..5].iter().for_each(|(map, _)| bench.delete(*map));
    bench.gc(0.0);
    bench.assert_empty();
}

#[test]
fn what_is_known_to_be_unchanged_is_not_read_and_a_lie_is_found_out() {
    let bench = Bench::new();
    let mut bytes = noise(1, 2000 * CHUNK);
    bytes[50 * CHUNK..60 * CHUNK].fill(0);
    let first = bench.back_up(&bytes);
    bytes[100 * CHUNK..][..10].fill(1);
    bytes[1999 * CHUNK..][..10].fill(2);
    let range = |chunk: usize| (chunk * CHUNK) as u64..((chunk + 1) * CHUNK) as u64;
    let known = |changed| Known { previous: Some(first), changed: Some(changed) };
    let mut source = bench.image("source.img", &bytes);
    let read = Arc::new(AtomicU64::default());
    let count = read.clone();
    source.hook = Some(Box::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }));
    let ingested = bench.ingest_knowing(&source, &known(vec![range(100), range(1999)])).unwrap();
    assert_eq!(ingested.added(), 2);
    // 125 spans, of which two hold changes and one in a hundred is read to see whether that is true.
    assert!((2..30).contains(&read.load(Ordering::Relaxed)), "{read:?}");
    let second = bench.commit(&ingested);
    assert!(bench.restore(second, bytes.len()).unwrap() == bytes);
    // A chunk that is damaged in the store is read, even if it is known to be unchanged.
    bench.flip("pack", "data", 1, 10 * CHUNK + 5);
    assert_eq!(bench.check(first), [(10 * CHUNK as u64, CHUNK as u64)]);
    let third = bench.commit(&bench.ingest_knowing(&source, &known(vec![range(100), range(1999)])).unwrap());
    assert!(bench.restore(third, bytes.len()).unwrap() == bytes);
    // When everything has changed and nothing is said to have, one read suffices to see it.
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    let source = bench.image("source.img", &other);
    let found = (0..20).any(|_| matches!(bench.ingest_knowing(&source, &known(Vec::new())), Err(EngineError::Unchanged { .. })));
    assert!(found);
}

#[test]
fn a_clone_that_went_its_own_way_is_stored_as_deltas_to_what_both_began_as() {
    let bench = Bench::new();
    let image = noise(1, 300 * CHUNK);
    bench.back_up(&image);
    let mut clone = image.clone();
    for chunk in (5..300).step_by(30) {
        clone[chunk * CHUNK + 100..][..4096].fill(7);
        clone[(chunk + 1) * CHUNK..][..4096].fill(8);
    }
    let ingested = bench.ingest_knowing(&bench.image("clone.img", &clone), &Known::default()).unwrap();
    assert_eq!(ingested.added(), 20);
    assert!(ingested.stored() < 5 * CHUNK as u64, "{}", ingested.stored());
    let map = bench.commit(&ingested);
    drop(ingested);
    assert!(bench.restore(map, clone.len()).unwrap() == clone);
    bench.delete(1);
    bench.gc(0.0);
    assert!(bench.restore(map, clone.len()).unwrap() == clone);
}

#[test]
fn a_damaged_base_is_found_and_neither_it_nor_its_deltas_are_shared_any_more() {
    let bench = Bench::new();
    let before = noise(1, 20 * CHUNK);
    let first = bench.back_up(&before);
    let mut after = before.clone();
    after[7 * CHUNK..7 * CHUNK + 100].fill(1);
    let second = bench.back_up(&after);
    bench.flip("pack", "data", 1, 7 * CHUNK + 30_000);
    // As a delta alone sees it, and after that as whoever takes the volume in does.
    assert_eq!(bench.check(second), [(7 * CHUNK as u64, CHUNK as u64)]);
    assert!(matches!(bench.restore(second, after.len()), Err(EngineError::Corrupt { offset, .. }) if offset == 7 * CHUNK as u64));
    let mut again = after.clone();
    again[7 * CHUNK + 5000] ^= 1;
    let third = bench.back_up(&again);
    assert_eq!(bench.new_bytes(), CHUNK as u64);
    assert!(bench.restore(third, again.len()).unwrap() == again, "it is no delta to the damaged base");
    for (map, bytes) in [(first, &before), (second, &after)] {
        let anew = bench.back_up(bytes);
        assert!(bench.restore(anew, bytes.len()).unwrap() == *bytes);
        assert!(bench.restore(map, bytes.len()).unwrap() == *bytes, "what was stored anew has repaired it");
    }
}

#[test]
fn a_base_that_turns_out_to_be_damaged_while_a_backup_is_made_is_not_used() {
    let bench = Bench::new();
    let before = noise(1, 20 * CHUNK);
    bench.back_up(&before);
    bench.flip("pack", "data", 1, 7 * CHUNK + 30_000);
    let mut after = before.clone();
    after[7 * CHUNK..7 * CHUNK + 100].fill(1);
    let second = bench.back_up(&after);
    assert!(bench.restore(second, after.len()).unwrap() == after);
}

#[test]
fn what_is_known_to_be_unchanged_is_not_taken_from_a_list_that_is_damaged() {
    let mut bench = Bench::new();
    let bytes = noise(1, 40 * CHUNK);
    let first = bench.back_up(&bytes);
    let damages: [&dyn Fn(&Bench); 4] = [
        // Two chunks exchanged; all of them zeros; a name that fits its place in the index, and its chunk no more.
        &|bench| bench.execute("UPDATE segment SET chunks = CAST(substr(chunks, 9, 8) || substr(chunks, 1, 8) || substr(chunks, 17) AS BLOB)"),
        &|bench| bench.execute("UPDATE segment SET chunks = zeroblob(length(chunks))"),
        &|bench| bench.flip("pack_toc", "entries", 1, 5 * 56 + 20),
        &|bench| bench.execute("UPDATE volume_map SET segments = zeroblob(8)"),
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage(&bench);
        bench = bench.reopen();
        let source = bench.image("source.img", &bytes);
        let known = Known { previous: Some(first), changed: Some(Vec::new()) };
        // An audit may have found it out.
        let ingested = (0..).find_map(|_| bench.ingest_knowing(&source, &known).ok()).unwrap();
        let map = bench.commit(&ingested);
        drop(ingested);
        assert!(bench.restore(map, bytes.len()).is_ok_and(|restored| restored == bytes), "{number}");
        bench.delete(map);
    }
}

#[test]
fn a_base_stays_although_its_segment_comes_to_list_another_place_of_its_chunk() {
    let bench = Arc::new(Bench::new());
    let bytes = noise(1, 20 * CHUNK);
    // Does something when the second span is read and the first is done.
    let amid = |name, bytes: &[u8], act: Box<dyn Fn(&Bench) + Send + Sync>| {
        let (mut source, bench) = (bench.image(name, bytes), bench.clone());
        source.hook = Some(Box::new(move |offset| {
            if offset > 0 {
                std::thread::sleep(Duration::from_millis(300));
                act(&bench);
            }
            Ok(())
        }));
        source
    };
    let whole = bytes.clone();
    let again = move |bench: &Bench| {
        bench.commit(&bench.ingest(&bench.image("other.img", &whole)).unwrap());
    };
    // Taken in twice at once, the first span is stored twice.
    bench.commit(&bench.ingest(&amid("source.img", &bytes, Box::new(again.clone()))).unwrap());
    assert_eq!(bench.stored().len(), 36);
    let mut changed = bytes.clone();
    changed[3 * CHUNK] ^= 1;
    let moved = move |bench: &Bench| {
        again(bench);
        bench.gc(0.0);
    };
    let map = bench.commit(&bench.ingest(&amid("source.img", &changed, Box::new(moved))).unwrap());
    assert_eq!(bench.referenced().1.len(), 1, "it is a delta");
    assert!(bench.restore(map, changed.len()).unwrap() == changed);
}

/// An image of chunks from a small set, so that much is shared, with an odd end.
pub(super) fn random_image(random: &mut Random) -> Vec<u8> {
    let chunks = 1 + random.below(60);
    let mut bytes = Vec::new();
    for place in 0..chunks {
        match random.below(5) {
            0 => bytes.resize(bytes.len() + CHUNK, 0),
            1 => bytes.extend(text(random.below(30) as u64, CHUNK)),
            2 => bytes.extend(noise(random.below(60) as u64, CHUNK)),
            _ => {
                // What is often in this place, changed a little: it may become a delta, or be the base of one.
                let mut chunk = noise(1000 + place as u64, CHUNK);
                chunk[random.below(CHUNK)..].iter_mut().take(random.below(3) * 4096).for_each(|byte| *byte = !*byte);
                bytes.extend(chunk);
            }
        }
    }
    bytes.truncate(bytes.len() - random.below(CHUNK));
    bytes
}

#[test]
fn any_sequence_of_backups_deletions_and_collections_keeps_what_is_referenced() {
    let mut deltas = 0;
    for seed in 0..4 {
        let mut random = Random(seed);
        let mut bench = Bench::new();
        let mut kept: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
        for _ in 0..40 {
            match random.below(6) {
                0 | 1 => {
                    let bytes = random_image(&mut random);
                    kept.insert(bench.back_up(&bytes), bytes);
                }
                2 if !kept.is_empty() => {
                    let map = *kept.keys().nth(random.below(kept.len())).unwrap();
                    bench.delete(map);
                    kept.remove(&map);
                }
                3 => drop(bench.gc([0.0, 0.3, 1.0][random.below(3)])),
                4 => bench = bench.reopen(),
                _ => {
                    // Taken in and never committed, as after a crash.
                    drop(bench.ingest(&bench.image("lost.img", &random_image(&mut random))).unwrap());
                }
            }
        }
        for (map, bytes) in &kept {
            assert!(bench.restore(*map, bytes.len()).unwrap() == *bytes, "seed {seed}");
        }
        bench.gc(0.0);
        let (chunks, bases) = bench.referenced();
        assert_eq!(bench.stored(), &chunks | &bases, "seed {seed}: exactly what is referenced is stored");
        deltas += bases.len();
        let different: HashSet<_> =
            kept.values().flat_map(|bytes| bytes.chunks(CHUNK)).filter(|chunk| chunk.iter().any(|b| *b != 0)).collect();
        assert_eq!(chunks.len(), different.len(), "seed {seed}: nothing is stored twice");
        kept.keys().for_each(|map| bench.delete(*map));
        bench.gc(0.0);
        bench.assert_empty();
    }
    assert!(deltas > 20, "{deltas}");
}

/// What each owner takes, whose maps are listed.
fn usage(bench: &Bench, owners: &[Vec<i64>]) -> Usage {
    let mut claims: Vec<Claim> = owners.iter().zip(0..).flat_map(|(maps, owner)| maps.iter().map(move |map| Claim { map: *map, owner })).collect();
    claims.sort_unstable();
    bench.store.usage(&claims, &AtomicBool::new(false)).unwrap()
}

#[test]
fn what_a_deletion_frees_is_what_was_said_before() {
    let (mut freed, mut shared) = (0, 0);
    for seed in 0..6 {
        let mut random = Random(100 + seed);
        let bench = Bench::new();
        // Backups of up to three volumes; some share a map of another.
        let mut owners: Vec<Vec<i64>> = Vec::new();
        let mut images: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
        for _ in 0..10 {
            let mut maps = Vec::new();
            for _ in 0..1 + random.below(3) {
                if random.below(4) == 0 && !images.is_empty() {
                    maps.push(*images.keys().nth(random.below(images.len())).unwrap());
                } else {
                    let bytes = random_image(&mut random);
                    let map = bench.back_up(&bytes);
                    images.insert(map, bytes);
                    maps.push(map);
                }
            }
            owners.push(maps);
        }
        while !owners.is_empty() {
            bench.gc(0.0);
            let before = usage(&bench, &owners);
            let stored = bench.store.stats().unwrap().stored_bytes;
            assert_eq!(before.all.stored, stored, "seed {seed}: nothing is dead");
            let mut claimed: Vec<i64> = owners.concat();
            claimed.sort_unstable();
            for (map, data) in claimed.iter().zip(&before.data) {
                let chunks = images[map].chunks(CHUNK).filter(|chunk| chunk.iter().any(|byte| *byte != 0));
                assert_eq!(*data, chunks.map(|chunk| chunk.len() as u64).sum::<u64>(), "seed {seed}");
            }
            // One, or several together.
            let gone: Vec<Vec<i64>> = (0..1 + random.below(owners.len().min(3))).map(|_| owners.swap_remove(random.below(owners.len()))).collect();
            let together = usage(&bench, &[gone.concat(), owners.concat()]).exclusive[0];
            if gone.len() == 1 {
                assert!(before.exclusive.contains(&together), "seed {seed}");
            }
            for map in gone.concat() {
                if !owners.concat().contains(&map) && images.remove(&map).is_some() {
                    bench.delete(map);
                }
            }
            bench.gc(0.0);
            let left = bench.store.stats().unwrap().stored_bytes;
            assert_eq!(together.stored, stored - left, "seed {seed}");
            assert_eq!(together.raw, before.all.raw - usage(&bench, &owners).all.raw, "seed {seed}");
            freed += together.stored;
            shared += before.all.stored - before.exclusive.iter().map(|size| size.stored).sum::<u64>();
        }
        bench.assert_empty();
    }
    assert!(freed > 0 && shared > 0);
}

#[test]
fn space_is_counted_beside_damage_and_until_it_is_cancelled() {
    let bench = Bench::new();
    let first = bench.back_up(&noise(1, 40 * CHUNK));
    let second = bench.back_up(&noise(2, 40 * CHUNK));
    bench.execute("DELETE FROM pack_toc WHERE id = (SELECT max(id) FROM pack_toc); DELETE FROM segment WHERE id = 1");
    let usage = usage(&bench, &[vec![first], vec![second]]);
    assert_eq!((usage.exclusive[0], usage.data[0]), (Size::default(), 0));
    assert!(usage.exclusive[1].stored > 0 && usage.data[1] == 40 * CHUNK as u64);
    // A map that nobody claims keeps what it has.
    let claim = [Claim { map: second, owner: 0 }];
    let third = bench.back_up(&noise(2, 40 * CHUNK));
    assert_ne!(second, third);
    assert_eq!(bench.store.usage(&claim, &AtomicBool::new(false)).unwrap().exclusive[0], Size::default());
    assert!(matches!(bench.store.usage(&claim, &AtomicBool::new(true)), Err(StoreError::Cancelled)));
}

#[test]
fn collections_run_beside_backups_and_restores() {
    let bench = Bench::new();
    let stop = AtomicBool::new(false);
    let steady = noise(7, 150 * CHUNK);
    let steady_map = bench.back_up(&steady);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while !stop.load(Ordering::Relaxed) {
                bench.gc(0.0);
                collections += 1;
            }
            collections
        });
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let (bench, steady) = (&bench, &steady);
                scope.spawn(move || {
                    let mut random = Random(worker);
                    for round in 0..12 {
                        let bytes = random_image(&mut random);
                        let (image, restored) = (format!("w{worker}.img"), bench.path(&format!("r{worker}-{round}.img")));
                        let ingested = bench.ingest(&bench.image(&image, &bytes)).unwrap();
                        let map = bench.commit(&ingested);
                        drop(ingested);
                        bench.emit(map, &Target::create(&restored, bytes.len() as u64).unwrap(), true).unwrap();
                        assert!(std::fs::read(&restored).unwrap() == bytes);
                        bench.delete(map);
                        std::fs::remove_file(&restored).unwrap();
                        bench.emit(steady_map, &Target::create(&restored, steady.len() as u64).unwrap(), true).unwrap();
                        assert!(std::fs::read(&restored).unwrap() == *steady);
                        std::fs::remove_file(&restored).unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
        results.into_iter().for_each(|result| result.unwrap());
    });
    bench.delete(steady_map);
    bench.gc(0.0);
    bench.assert_empty();
    assert_eq!(bench.db.read(|c| c.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))).unwrap(), "ok");
}

#[test]
fn no_base_is_lost_to_a_collection_while_older_backups_are_deleted() {
    let runs = std::env::var("COFFERD_TEST_RUNS").map_or(1, |runs| runs.parse().unwrap());
    let bench = Bench::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
    let stop = AtomicBool::new(false);
    let deltas = AtomicU64::default();
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bench.gc(0.0);
            }
        });
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (bench, deltas) = (&bench, &deltas);
                scope.spawn(move || {
                    let mut random = Random(worker);
                    // All begin with the same, so much is stored twice and lists of chunks change.
                    let fresh = noise(3, 24 * CHUNK + 777);
                    let mut bytes = fresh.clone();
                    let (mut previous, mut kept) = (None, Vec::new());
                    for round in 0..20 * runs {
                        match random.below(8) {
                            0 => bytes = fresh.clone(),
                            1 => bytes[random.below(24) * CHUNK..][..CHUNK].copy_from_slice(&noise(worker + round as u64 * 10, CHUNK)),
                            2 => {}
                            _ => (0..3).for_each(|_| {
                                let at = random.below(bytes.len());
                                bytes[at] = random.below(3) as u8;
                            }),
                        }
                        let known = Known { previous, changed: None };
                        let ingested = bench.ingest_knowing(&bench.image(&format!("w{worker}.img"), &bytes), &known).unwrap();
                        if ingested.added() > 0 && ingested.stored() < ingested.added() * CHUNK as u64 / 2 {
                            deltas.fetch_add(1, Ordering::Relaxed);
                        }
                        let map = bench.commit(&ingested);
                        drop(ingested);
                        kept.push((map, bytes.clone()));
                        previous = Some(map);
                        while kept.len() > random.below(4) + 1 {
                            let (map, bytes) = kept.remove(random.below(kept.len()));
                            let restored = bench.path(&format!("r{worker}.img"));
                            bench.emit(map, &Target::create(&restored, bytes.len() as u64).unwrap(), true).unwrap();
                            assert!(std::fs::read(&restored).unwrap() == bytes, "worker {worker}, round {round}");
                            std::fs::remove_file(&restored).unwrap();
                            bench.delete(map);
                        }
                    }
                    kept
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        for (map, bytes) in results.into_iter().flat_map(|kept| kept.unwrap()) {
            assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
            bench.delete(map);
        }
    });
    bench.gc(0.0);
    bench.assert_empty();
    assert!(deltas.into_inner() > 10);
}
