//! Tables of contents kept in memory for a while. Consecutive chunks of a volume mostly lie in one pack, so confirming them
//! costs one query a pack instead of one a chunk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension};

use super::StoreError;
use super::format::{Address, ENTRY_BYTES, Entry, Toc};
use crate::db::Db;

/// Bytes of entries kept: some hundred packs of usual size.
const KEPT_BYTES: usize = 4 << 20;

/// A table of contents as it lies in the file.
pub(super) struct Stored {
    format: i64,
    entries: Vec<u8>,
    /// Where the pack lies: 0 in the coffer.
    pub repository: i64,
    /// Bytes of the pack.
    pub stored: u64,
    /// The object that it is, if it is not in the coffer.
    pub object: Option<String>,
}

impl Stored {
    /// None if the pack does not exist.
    pub fn load(connection: &Connection, pack: i64) -> Result<Option<Stored>, rusqlite::Error> {
        connection
            .prepare_cached("SELECT format, entries, repository, stored, iif(staged, NULL, object) FROM pack_toc WHERE id = ?1")?
            .query_row([pack], |row| {
                let stored = row.get::<_, i64>(3)? as u64;
                Ok(Stored { format: row.get(0)?, entries: row.get(1)?, repository: row.get(2)?, stored, object: row.get(4)? })
            })
            .optional()
    }

    /// None if it cannot be understood.
    pub fn toc(&self) -> Option<Toc<'_>> {
        Toc::parse(self.format, &self.entries)
    }
}

pub(super) struct Cache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    tocs: HashMap<i64, Cached>,
    bytes: usize,
    clock: u64,
}

struct Cached {
    toc: Arc<Stored>,
    used: u64,
}

impl Cache {
    pub fn new() -> Cache {
        Cache { inner: Mutex::default() }
    }

    /// What is known of the chunk at an address; None if there is no such chunk in this repository. What is cached may be older than a
    /// compaction: whoever relies on the name must hold the address (state.rs), and nobody may rely on the place in the pack.
    pub fn entry_at(&self, db: &Db, repository: i64, address: Address) -> Result<Option<Entry>, StoreError> {
        let toc = match self.get(address.pack()) {
            Some(toc) => toc,
            None => match db.read(|c| Stored::load(c, address.pack()))? {
                Some(toc) => self.keep(address.pack(), toc),
                None => return Ok(None),
            },
        };
        let entry = toc.toc().filter(|_| toc.repository == repository).and_then(|toc| toc.entry(address.slot()));
        Ok(entry.filter(|entry| !entry.is_dead()))
    }

    fn get(&self, pack: i64) -> Option<Arc<Stored>> {
        let mut inner = self.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let cached = inner.tocs.get_mut(&pack)?;
        cached.used = clock;
        Some(cached.toc.clone())
    }

    fn keep(&self, pack: i64, toc: Stored) -> Arc<Stored> {
        let toc = Arc::new(toc);
        let mut inner = self.lock();
        inner.clock += 1;
        let used = inner.clock;
        inner.bytes += toc.weight();
        if let Some(old) = inner.tocs.insert(pack, Cached { toc: toc.clone(), used }) {
            inner.bytes -= old.toc.weight();
        }
        while inner.bytes > KEPT_BYTES && inner.tocs.len() > 1 {
            let oldest = inner.tocs.iter().min_by_key(|(_, cached)| cached.used).map(|(pack, _)| *pack);
            if let Some(old) = oldest.and_then(|pack| inner.tocs.remove(&pack)) {
                inner.bytes -= old.toc.weight();
            }
        }
        toc
    }

    /// Forgets a pack that was changed.
    pub fn forget(&self, pack: i64) {
        let mut inner = self.lock();
        if let Some(old) = inner.tocs.remove(&pack) {
            inner.bytes -= old.toc.weight();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    fn weight(&self) -> usize {
        self.entries.len() + ENTRY_BYTES
    }
}
