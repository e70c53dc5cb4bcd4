//! Verifying what is stored, and remembering what turned out to be damaged.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use rusqlite::MAIN_DB;

use super::format::{Address, ENTRY_BYTES, Entry, FLAG_DAMAGED, Hash};
use super::read::{Corrupt, MapReader, Piece, ReadError};
use super::toc::Stored;
use super::{Store, StoreError};

/// Damaged parts that a report names; more are only counted.
const NAMED: usize = 1000;
/// Where in an entry its flags are.
const FLAGS_OFFSET: usize = 45;

/// What a check of one volume found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MapReport {
    pub chunks: u64,
    /// Bytes of the volume.
    pub bytes: u64,
    /// Damaged parts by offset; neighbours with the same reason are one. At most a thousand.
    pub corrupt: Vec<Corrupt>,
    /// Bytes of the volume that are damaged.
    pub corrupt_bytes: u64,
}

impl Store {
    /// Reads a whole volume and verifies every hash. `progress` is called with the number of bytes done since its last call,
    /// from several threads.
    pub fn check_map(&self, map_id: i64, progress: &(dyn Fn(u64) + Sync), cancel: &AtomicBool) -> Result<MapReport, StoreError> {
        let reader = match MapReader::open(self, map_id) {
            Ok(reader) => reader,
            Err(ReadError::Corrupt(all)) => {
                return Ok(MapReport { chunks: 0, bytes: all.length, corrupt_bytes: all.length, corrupt: vec![all] });
            }
            Err(ReadError::Store(e)) => return Err(e),
        };
        let corrupt = Mutex::new(reader.check_top()?);
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(16);
        reader.for_each(workers, cancel, |len| vec![0; len], |piece| {
            progress(match piece {
                Piece::Zeros { length, .. } => length,
                Piece::Data { bytes, .. } => bytes.len() as u64,
                Piece::Bad(bad) => {
                    let length = bad.length;
                    corrupt.lock().unwrap_or_else(PoisonError::into_inner).push(bad);
                    length
                }
            });
            Ok::<_, StoreError>(())
        })?;
        let corrupt = corrupt.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(report(reader.chunks(), reader.size(), corrupt))
    }

    /// Makes sure that no later backup shares these chunks, so that the same data is stored anew: they leave the index, and
    /// their entries say why for the next start. What is stored of them stays, for whoever wants to save some of it.
    pub(super) fn distrust(&self, chunks: &[(Address, Hash)]) {
        {
            let mut state = self.state.lock();
            for (address, hash) in chunks {
                state.index.remove(hash, *address);
            }
        }
        let mut chunks = chunks.to_vec();
        chunks.sort_unstable();
        for pack in chunks.chunk_by(|(a, _), (b, _)| a.pack() == b.pack()) {
            self.tocs.forget(pack[0].0.pack());
            // If this fails, it is only forgotten with the next start and found again by the next check.
            let _ = self.db.write(|tx| flag(tx, pack));
        }
    }
}

fn flag(tx: &rusqlite::Transaction, chunks: &[(Address, Hash)]) -> Result<(), StoreError> {
    let pack = chunks[0].0.pack();
    let Some(stored) = Stored::load(tx, pack)? else { return Ok(()) };
    let Some(toc) = stored.toc() else { return Ok(()) };
    let mut entries = tx.blob_open(MAIN_DB, c"pack_toc", c"entries", pack, false)?;
    for (address, _) in chunks {
        // A dead slot has nothing to be shared; a slot out of range is the fault of a damaged segment.
        if let Some(Entry { flags, .. }) = toc.entry(address.slot()).filter(|entry| !entry.is_dead()) {
            entries.write_all_at(&[flags | FLAG_DAMAGED], address.slot() * ENTRY_BYTES + FLAGS_OFFSET)?;
        }
    }
    Ok(())
}

/// Puts together what was found in a volume: in order, each part once.
pub fn report(chunks: u64, bytes: u64, mut found: Vec<Corrupt>) -> MapReport {
    found.sort_unstable_by(|a, b| (a.offset, a.length, &a.reason).cmp(&(b.offset, b.length, &b.reason)));
    found.dedup();
    let mut report = MapReport { chunks, bytes, ..MapReport::default() };
    let mut end = 0;
    for bad in found {
        // Parts overlap if a segment or the map as a whole is damaged too.
        report.corrupt_bytes += (bad.offset + bad.length).saturating_sub(end.max(bad.offset));
        end = end.max(bad.offset + bad.length);
        let room = report.corrupt.len() < NAMED;
        match report.corrupt.last_mut() {
            Some(last) if last.offset + last.length == bad.offset && last.reason == bad.reason => last.length += bad.length,
            _ if room => report.corrupt.push(bad),
            _ => {}
        }
    }
    report
}
