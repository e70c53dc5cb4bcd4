//! The store: the bytes of all backups, deduplicated, compressed and verifiable, in five tables of the coffer.
//!
//! A volume is cut into chunks of 1 MiB named by their BLAKE3 hash. New chunks are appended to packs of about 8 MiB, whole
//! or as deltas to what the volume had in their place; a chunk's address, pack and slot, never changes. A segment lists the
//! addresses of 1 GiB of a volume, a volume map lists segments; both are named by the hashes below them, so a whole volume is a Merkle tree and equal parts are shared between
//! backups. FORMAT.md describes the tables exactly.
//!
//! [`Store::begin`] takes a volume in, [`read`] gives it back, [`Store::gc`] removes what no map refers to.

mod adopt;
mod ahead;
mod check;
pub mod codec;
mod fence;
pub mod format;
#[cfg(fuzzing)]
pub mod fuzz;
mod gc;
mod index;
mod inspect;
mod intake;
mod mend;
mod neighbours;
mod object;
mod previous;
pub mod read;
mod remote;
mod scrub;
mod slots;
mod state;
mod toc;
mod transfer;
mod trash;
mod upload;
mod usage;

use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction};

use crate::db::Db;
pub use check::{MapReport, report};
pub use adopt::Adopted;
pub use fence::Mark;
pub use gc::{GcOptions, GcReport};
pub use intake::{Finished, Home, Ingest, Same, Sealed, Writer};
pub use mend::{Concern, Place};
pub use read::{Corrupt, LARGEST_CHUNK};
pub use remote::{Remote, Remotes};
pub use scrub::{Bad, Depth};
pub use transfer::Step;
pub use upload::Upload;
pub use usage::{Claim, Size, Usage};

use format::{Address, Toc};
use index::Index;
use state::{Shared, State};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk of the coffer is full; delete backups or make room there, then try again")]
    Full,
    #[error("the coffer has no volume map {0}: the backup is deleted or damaged")]
    NoSuchMap(i64),
    #[error("the coffer is damaged: {0}")]
    Damaged(String),
    #[error("the coffer holds the largest number of packs its format allows")]
    TooManyPacks,
    /// A repository, and what is the matter with it.
    #[error("repository {0}: {1}")]
    Repository(String, String),
    #[error("cancelled")]
    Cancelled,
    #[error("cannot set up compression: {0}")]
    Codec(std::io::Error),
    #[error("the coffer's database says: {0}")]
    Sqlite(rusqlite::Error),
}

impl StoreError {
    /// Is it the disk that could not do it now? Then the same may succeed later.
    pub fn may_pass(&self) -> bool {
        use ErrorCode::{DatabaseBusy, ReadOnly, SystemIoFailure};
        match self {
            StoreError::Full => true,
            // What cannot be read now cannot be read later.
            StoreError::Sqlite(error) if error.sqlite_error().is_some_and(|e| is_of_reading(e.extended_code)) => false,
            StoreError::Sqlite(error) => matches!(error.sqlite_error_code(), Some(DatabaseBusy | ReadOnly | SystemIoFailure)),
            _ => false,
        }
    }
}

fn is_of_reading(extended_code: i32) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ};
    matches!(extended_code, SQLITE_IOERR_READ | SQLITE_IOERR_SHORT_READ | SQLITE_IOERR_CORRUPTFS)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full,
            _ => StoreError::Sqlite(error),
        }
    }
}

/// The opened store. One for each coffer, shared by all threads.
pub struct Store {
    db: Arc<Db>,
    state: Shared,
    tocs: toc::Cache,
    collecting: std::sync::Mutex<()>,
    pub remotes: Remotes,
}

/// Sizes of the store, for people and for monitoring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub packs: u64,
    /// Chunks that a backup may share.
    pub chunks: u64,
    /// Bytes in packs, after compression.
    pub stored_bytes: u64,
    pub segments: u64,
    pub maps: u64,
    /// Memory of the index.
    pub index_bytes: u64,
    /// Pages of the file that hold nothing and will be used next.
    pub free_pages: u64,
    pub pages: u64,
    pub page_size: u64,
}

impl Store {
    /// Opens the store of a coffer: reads the tables of contents into the index, about a tenth of a second for a million
    /// chunks. Tables that cannot be understood are left out; restores that need them will say so.
    pub fn open(db: Arc<Db>) -> Result<Store, StoreError> {
        let state = db.read(load)?;
        Ok(Store { db, state: Shared::new(state), tocs: toc::Cache::new(), collecting: std::sync::Mutex::new(()), remotes: Remotes::default() })
    }

    /// Begins to take a volume in, to be stored at `home`. `previous`: the map of an earlier version of it, to which what has changed is stored as
    /// deltas; it makes no difference to what can be read back.
    pub fn begin<'a>(&'a self, home: Home<'a>, previous: Option<i64>) -> Result<Ingest<'a>, StoreError> {
        Ingest::new(self, home, previous)
    }

    /// Removes a volume map within the caller's transaction. The space of what only it referred to comes back by [`Store::gc`].
    pub fn delete_map(tx: &Transaction, map_id: i64) -> rusqlite::Result<()> {
        tx.prepare_cached("DELETE FROM volume_map WHERE id = ?1")?.execute([map_id])?;
        Ok(())
    }

    /// Nothing needs this object of a repository any more: it is removed by [`Store::empty_trash`].
    pub fn discard(tx: &Transaction, repository: i64, object: &str) -> rusqlite::Result<()> {
        upload::discard(tx, repository, object).map(|_| ())
    }

    /// A stored volume by the hash that names its content: its map, its size in bytes, and where it lies (0: in the coffer), rather
    /// there than elsewhere.
    pub fn find_map(connection: &Connection, hash: &[u8], there: i64) -> rusqlite::Result<Option<(i64, i64, i64)>> {
        connection
            .prepare_cached("SELECT id, size, repository FROM volume_map WHERE hash = ?1 ORDER BY repository = ?2 DESC, id LIMIT 1")?
            .query_row(rusqlite::params![hash, there], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
    }

    /// Of a stored volume: bytes, bytes of a chunk, hash and segments (0: zeros).
    pub fn map_content(connection: &Connection, map_id: i64) -> rusqlite::Result<Option<(u64, u32, format::Hash, Vec<i64>)>> {
        connection
            .prepare_cached("SELECT size, chunk_size, hash, segments FROM volume_map WHERE id = ?1")?
            .query_row([map_id], |row| {
                let segments = format::segments_from_bytes(&row.get::<_, Vec<u8>>(3)?).unwrap_or_default();
                Ok((row.get::<_, i64>(0)? as u64, row.get(1)?, row.get(2)?, segments))
            })
            .optional()
    }

    /// Where a stored volume lies: None if there is no such map, 0 in the coffer.
    pub fn map_repository(connection: &Connection, map_id: i64) -> rusqlite::Result<Option<i64>> {
        connection.prepare_cached("SELECT repository FROM volume_map WHERE id = ?1")?.query_row([map_id], |row| row.get(0)).optional()
    }

    /// The hash that names a stored volume's content.
    pub fn map_hash(connection: &Connection, map_id: i64) -> rusqlite::Result<Option<Vec<u8>>> {
        connection.prepare_cached("SELECT hash FROM volume_map WHERE id = ?1")?.query_row([map_id], |row| row.get(0)).optional()
    }

    /// The names of segments; None for 0, which is one of zeros.
    pub fn segment_names(connection: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<Option<format::Hash>>> {
        let mut statement = connection.prepare_cached("SELECT hash FROM segment WHERE id = ?1")?;
        ids.iter().map(|id| if *id == 0 { Ok(None) } else { statement.query_row([id], |row| row.get(0)).map(Some) }).collect()
    }

    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut stats = self.db.read(|c| {
            let number = |sql: &str| c.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64);
            Ok::<_, StoreError>(StoreStats {
                segments: number("SELECT count(*) FROM segment")?,
                maps: number("SELECT count(*) FROM volume_map")?,
                free_pages: number("PRAGMA freelist_count")?,
                pages: number("PRAGMA page_count")?,
                page_size: number("PRAGMA page_size")?,
                ..StoreStats::default()
            })
        })?;
        let state = self.state.lock();
        stats.packs = state.packs;
        stats.stored_bytes = state.stored;
        stats.chunks = state.index.len() as u64;
        stats.index_bytes = state.index.bytes() as u64;
        Ok(stats)
    }
}

fn load(connection: &Connection) -> Result<State, StoreError> {
    let (slots, next): (i64, i64) = connection.query_row(
        "SELECT (SELECT ifnull(sum(slots), 0) FROM pack_toc),
                1 + max((SELECT ifnull(max(id), 0) FROM pack), (SELECT ifnull(max(id), 0) FROM pack_toc))",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut state = State::new(Index::with_capacity(usize::try_from(slots).unwrap_or(0)), next, 0, 0);
    let mut statement = connection.prepare("SELECT id, format, stored, entries FROM pack_toc")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let pack = row.get(0)?;
        state.packs += 1;
        state.stored += row.get::<_, i64>(2)? as u64;
        let bytes = row.get_ref(3)?.as_blob().unwrap_or_default();
        let Some(toc) = Toc::parse(row.get(1)?, bytes) else { continue };
        for (slot, entry) in toc.entries().enumerate() {
            if entry.encoding().is_some() && !entry.is_damaged() {
                state.index.insert(&entry.hash, Address::new(pack, slot));
            }
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn a_page_that_cannot_be_read_now_is_not_waited_for() {
        let error = |code| StoreError::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_READONLY, ffi::SQLITE_BUSY] {
            assert!(error(code).may_pass(), "{code}");
        }
        for code in [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS, ffi::SQLITE_CORRUPT] {
            assert!(!error(code).may_pass(), "{code}");
        }
    }
}
