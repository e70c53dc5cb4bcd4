//! Sending what is staged to its repository. Packs are stored in the coffer first, as all packs are; threads send them from
//! there while the volume is still being read, and each leaves the coffer when its object is there. So a failure or a crash
//! costs nothing that was stored, and the next try goes on with the next pack.
//!
//! The order is that of all writing: packs before the segments that list them, these before the manifest that names them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::format::{self, Address, Hash};
use super::object::{self, Name, PackHead};
use super::read;
use super::remote::Remote;
use super::{Store, StoreError};
use crate::clock;
use crate::db::Db;
use crate::objects::Objects;

/// Packs that may wait to be sent before reading waits for them.
pub(super) const STAGED_PACKS: i64 = 32;
/// How often those who wait look whether the work was cancelled.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// One piece of work's way into a repository.
pub struct Upload<'a> {
    store: &'a Store,
    remote: Arc<Remote>,
    /// The same place, given up when the work is cancelled.
    objects: Box<dyn Objects>,
    cancel: &'a AtomicBool,
    /// No more packs come.
    closing: AtomicBool,
    /// Why the first pack could not be sent. Nothing: it was given up.
    failure: Mutex<Option<Option<String>>>,
}

struct Staged {
    pack: i64,
    name: Name,
    /// The table of contents.
    entries: Vec<u8>,
    object: Vec<u8>,
    /// The object it replaces.
    old: Option<String>,
}

impl Store {
    /// Does `work` while threads send what it stages.
    pub fn upload<T, E: From<StoreError>>(
        &self,
        remote: &Arc<Remote>,
        cancel: &Arc<AtomicBool>,
        work: impl FnOnce(&Upload) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writing = remote.writing.read().unwrap_or_else(PoisonError::into_inner);
        remote.guard()?;
        let objects = remote.until(cancel);
        let upload = Upload { store: self, remote: remote.clone(), objects, cancel, closing: AtomicBool::new(false), failure: Mutex::default() };
        std::thread::scope(|scope| {
            for _ in 0..remote.connections {
                scope.spawn(|| upload.send_all());
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&upload)));
            upload.closing.store(true, Ordering::Relaxed);
            remote.sent.notify_all();
            // The threads end before a panic goes on, or they would wait for ever.
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Does anything wait to be sent there?
    pub fn is_staged(&self, repository: i64) -> Result<bool, StoreError> {
        Ok(self.db.read(|c| is_staged(c, repository))?)
    }
}

/// Does anything wait to be sent there?
pub(super) fn is_staged(c: &Connection, repository: i64) -> rusqlite::Result<bool> {
    c.prepare_cached(
        "SELECT 1 FROM pack_toc WHERE repository = ?1 AND staged UNION ALL SELECT 1 FROM segment WHERE repository = ?1 AND staged LIMIT 1",
    )?
    .exists([repository])
}

impl Upload<'_> {
    pub fn repository(&self) -> i64 {
        self.remote.id
    }

    /// There is one more pack to be sent. Waits while too many are.
    pub(super) fn offer(&self) -> Result<(), StoreError> {
        self.remote.sent.notify_all();
        self.wait_until(|| {
            Ok(staged_packs(&self.store.db, self.remote.id)? < STAGED_PACKS)
        })
    }

    /// Waits until all packs that are stored by now have been sent.
    fn packs_sent(&self) -> Result<(), StoreError> {
        let last = self.store.db.read(|c| staged(c, self.remote.id, "max(id)"))?;
        let Some(last) = last else { return Ok(()) };
        self.wait_until(|| Ok(self.store.db.read(|c| staged(c, self.remote.id, "min(id)"))?.is_none_or(|first| first > last)))
    }

    fn wait_until(&self, done: impl Fn() -> Result<bool, StoreError>) -> Result<(), StoreError> {
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(StoreError::Cancelled);
            }
            if let Some(reason) = self.failure() {
                return Err(reason.map_or(StoreError::Cancelled, |reason| StoreError::Repository(self.remote.name.clone(), reason)));
            }
            if done()? {
                return Ok(());
            }
            let sending = self.remote.sending();
            drop(self.remote.sent.wait_timeout(sending, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn failure(&self) -> Option<Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends all packs that are stored by now, then these segments; 0 is one of zeros. Returns how many objects were sent for
    /// the segments.
    pub fn finish(&self, segments: &[i64]) -> Result<u64, StoreError> {
        self.packs_sent()?;
        let (next, sent) = (AtomicUsize::new(0), AtomicU64::new(0));
        let send = || {
            while let Some(id) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.cancel.load(Ordering::Relaxed) {
                    return Err(StoreError::Cancelled);
                }
                if *id != 0 && self.send_segment(*id)? {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.remote.connections.min(segments.len())).map(|_| scope.spawn(send)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(sent.into_inner())
    }

    /// Stores an object as it is.
    fn put(&self, name: &str, body: &[u8]) -> Result<(), StoreError> {
        self.objects.put(name, body).map_err(|e| self.remote.failed(e))
    }

    /// Stores an object that the coffer does not know of before `known` has ended.
    fn put_unknown(&self, name: &str, body: &[u8], known: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.remote.sending().names.insert(name.to_string());
        let done = self.put(name, body).and_then(|()| known());
        self.remote.sending().names.remove(name);
        done
    }

    /// Of an object and the one that it replaces, this is the one that is of no use now.
    fn discard_one(&self, tx: &Transaction, object: Option<&str>) -> Result<(), StoreError> {
        object.map(|object| discard(tx, self.remote.id, object)).transpose()?;
        Ok(())
    }

    /// Sends everything that waits, whoever has stored it.
    pub fn finish_all(&self) -> Result<u64, StoreError> {
        let segments: Vec<i64> = self.store.db.read(|c| {
            let mut statement = c.prepare("SELECT id FROM segment WHERE repository = ?1 AND staged")?;
            statement.query_map([self.remote.id], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()
        })?;
        self.finish(&segments)
    }

    /// Stores the object that makes all that was sent before it known, unless another coffer has taken the repository over. One that
    /// comes while it is stored may not see it; one that comes later does.
    pub fn put_last(&self, name: &str, body: &[u8]) -> Result<(), StoreError> {
        self.remote.guard()?;
        self.put(name, body)?;
        self.remote.guard()
    }

    fn send_all(&self) {
        loop {
            // What this work itself has stored is sent by then; others send theirs.
            if self.closing.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed) || self.failure().is_some() {
                return;
            }
            match self.claim().and_then(|claimed| claimed.map(|pack| self.send_pack(pack)).transpose()) {
                Ok(Some(())) => {}
                Ok(None) => {
                    let sending = self.remote.sending();
                    drop(self.remote.sent.wait_timeout(sending, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner));
                }
                Err(error) => {
                    let reason = match error {
                        StoreError::Cancelled => None,
                        StoreError::Repository(_, reason) => Some(reason),
                        error => Some(error.to_string()),
                    };
                    self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
                    self.remote.sent.notify_all();
                    return;
                }
            }
        }
    }

    /// Takes the first pack that waits and that nobody is sending.
    fn claim(&self) -> Result<Option<i64>, StoreError> {
        let mut sending = self.remote.sending();
        let limit = sending.packs.len() as i64 + 1;
        let waiting: Vec<i64> = self.store.db.read(|c| {
            let mut statement = c.prepare_cached("SELECT id FROM pack_toc WHERE repository = ?1 AND staged ORDER BY id LIMIT ?2")?;
            statement.query_map([self.remote.id, limit], |row| row.get(0))?.collect::<Result<_, _>>()
        })?;
        let free = waiting.into_iter().find(|pack| !sending.packs.contains(pack));
        sending.packs.extend(free);
        Ok(free)
    }

    fn send_pack(&self, pack: i64) -> Result<(), StoreError> {
        let send = || self.load(pack).and_then(|staged| staged.map(|staged| self.send_staged(&staged)).transpose());
        let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(send));
        self.remote.sending().packs.remove(&pack);
        if sent.is_err() {
            // Or those who wait for the pack would do so for ever.
            let reason = Some("an internal error; see the daemon's log".to_string());
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        }
        self.remote.sent.notify_all();
        sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(drop)
    }

    /// None if it is no longer staged.
    fn load(&self, pack: i64) -> Result<Option<Staged>, StoreError> {
        let nonce = random()?;
        let key = random()?;
        self.store.db.read(|c| {
            let row = c
                .prepare_cached("SELECT format, entries, object FROM pack_toc WHERE id = ?1 AND staged")?
                .query_row([pack], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Option<String>>(2)?)))
                .optional()?;
            let Some((format, entries, old)) = row else { return Ok(None) };
            let data = read::open_pack(c, pack)?.ok_or_else(|| StoreError::Damaged(format!("pack {pack}, which was to be sent, is missing")))?;
            let name = match old.as_deref().and_then(Name::parse) {
                Some(name) => name.next(nonce as u32),
                None => Name::pack(key, nonce as u32),
            };
            let head = PackHead { key: name.pack_key().unwrap_or_default(), generation: name.generation, format, entries };
            // Straight to its place: a copy of each pack that is under way would take as much memory again.
            let mut object = head.with_room(data.len());
            let begin = object.len() - data.len();
            data.read_at_exact(&mut object[begin..], 0)?;
            Ok(Some(Staged { pack, name, entries: head.entries, object, old }))
        })
    }

    fn send_staged(&self, staged: &Staged) -> Result<(), StoreError> {
        let name = staged.name.to_string();
        let known = || self.store.db.write(|tx| {
            // It may have been dropped or compacted while it was sent.
            let same = tx
                .prepare_cached("UPDATE pack_toc SET object = ?2, staged = 0 WHERE id = ?1 AND staged AND entries = ?3")?
                .execute(params![staged.pack, name, staged.entries])?;
            if same > 0 {
                tx.prepare_cached("DELETE FROM pack WHERE id = ?1")?.execute([staged.pack])?;
                keep(tx, self.remote.id, &name)?;
            }
            self.discard_one(tx, if same > 0 { staged.old.as_deref() } else { Some(&name) })
        });
        self.put_unknown(&name, &staged.object, known)
    }

    /// False if it is there already. One that another piece of work is sending is waited for.
    fn send_segment(&self, id: i64) -> Result<bool, StoreError> {
        let mut sending = self.remote.sending();
        while !sending.segments.insert(id) {
            sending = self.remote.sent.wait(sending).unwrap_or_else(PoisonError::into_inner);
        }
        drop(sending);
        let sent = self.send_claimed_segment(id);
        self.remote.sending().segments.remove(&id);
        self.remote.sent.notify_all();
        sent
    }

    fn send_claimed_segment(&self, id: i64) -> Result<bool, StoreError> {
        let row = self.store.db.read(|c| {
            let row = c
                .prepare_cached("SELECT hash, format, chunks, object FROM segment WHERE id = ?1 AND staged")?
                .query_row([id], |row| {
                    Ok((row.get::<_, Hash>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Option<String>>(3)?))
                })
                .optional()?;
            let Some((hash, format, chunks, old)) = row else { return Ok::<_, rusqlite::Error>(None) };
            let addresses = format::addresses_from_bytes(format, &chunks).unwrap_or_default();
            let keys = keys(c, &addresses)?;
            Ok(Some((hash, chunks, old, object::by_key(&addresses, |pack| keys.get(&pack).copied()))))
        })?;
        let Some((hash, chunks, old, places)) = row else { return Ok(false) };
        let places = places.ok_or_else(|| StoreError::Damaged(format!("segment {id} lists packs that are not in repository {}", self.remote.name)))?;
        let name = match old.as_deref().and_then(Name::parse) {
            Some(name) => name.next(random()? as u32),
            None => Name::segment(&hash, random()? as u32),
        };
        let name = name.to_string();
        let known = || self.store.db.write(|tx| {
            let same = tx
                .prepare_cached("UPDATE segment SET object = ?2, staged = 0 WHERE id = ?1 AND staged AND chunks = ?3")?
                .execute(params![id, name, chunks])?;
            if same > 0 {
                keep(tx, self.remote.id, &name)?;
            }
            // It may list other places by now, or be gone.
            self.discard_one(tx, if same > 0 { old.as_deref() } else { Some(&name) })
        });
        self.put_unknown(&name, &object::segment_object(&hash, &places), known)?;
        Ok(true)
    }
}

/// How many packs wait to be sent there.
pub(super) fn staged_packs(db: &Db, repository: i64) -> Result<i64, StoreError> {
    Ok(db.read(|c| staged(c, repository, "count(*)"))?.unwrap_or_default())
}

/// Something about the packs that wait; None if there are none, unless they are counted.
fn staged(c: &Connection, repository: i64, what: &str) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached(&format!("SELECT {what} FROM pack_toc WHERE repository = ?1 AND staged"))?.query_row([repository], |row| row.get(0))
}

/// The keys of the packs of these addresses.
fn keys(c: &Connection, addresses: &[Address]) -> rusqlite::Result<HashMap<i64, u64>> {
    let mut packs: Vec<i64> = addresses.iter().filter(|address| !address.is_zero()).map(|address| address.pack()).collect();
    packs.sort_unstable();
    packs.dedup();
    let mut statement = c.prepare_cached("SELECT object FROM pack_toc WHERE id = ?1")?;
    let mut keys = HashMap::new();
    for pack in packs {
        let object: Option<Option<String>> = statement.query_row([pack], |row| row.get(0)).optional()?;
        if let Some(key) = object.flatten().as_deref().and_then(Name::parse).and_then(|name| name.pack_key()) {
            keys.insert(pack, key);
        }
    }
    Ok(keys)
}

/// Nothing needs this object any more. Returns whether that is new.
pub(super) fn discard(tx: &Transaction, repository: i64, object: &str) -> rusqlite::Result<bool> {
    let added = tx
        .prepare_cached("INSERT OR IGNORE INTO trash (repository, object, since) VALUES (?1, ?2, ?3)")?
        .execute(params![repository, object, clock::now_ms()])?;
    Ok(added > 0)
}

/// Somebody needs this object after all: it was seen there before the tables knew of it.
fn keep(tx: &Transaction, repository: i64, object: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM trash WHERE repository = ?1 AND object = ?2")?.execute(params![repository, object])?;
    Ok(())
}

fn random() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|e| StoreError::Damaged(format!("no random numbers: {e}")))
}
