//! The repositories that are open: where the bytes of packs lie that are not in the coffer, and how they are got from there.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, TryLockError};

use rusqlite::OptionalExtension;

use super::ahead::Batch;
use super::codec::Decoder;
use super::fence::Mark;
use super::format::{Encoding, Entry};
use super::object::pack_head_bytes;
use super::read::{Far, LARGEST_CHUNK};
use super::toc::Stored;
use super::{Store, StoreError};
use crate::objects::{Listed, ObjectError, Objects};

/// Bytes of a pack's object, at most.
pub(super) const LARGEST_OBJECT: usize = 96 << 20;

/// A repository that can be reached.
pub struct Remote {
    pub id: i64,
    pub name: String,
    pub(super) objects: Box<dyn Objects>,
    /// Everything there is given up.
    hurry: Arc<AtomicBool>,
    /// Objects that are sent or brought at once.
    pub connections: usize,
    /// What is being sent.
    pub(super) sending: Arc<Mutex<Sending>>,
    pub(super) sent: Arc<Condvar>,
    /// Who we are there.
    pub(super) mark: Arc<Mutex<Mark>>,
    /// It was taken, or used, since the start.
    pub(super) renewed: Arc<AtomicBool>,
    /// Many may send, or one may take in what is there.
    pub(super) writing: Arc<RwLock<()>>,
    /// Held by who takes it, takes in what is there, or removes something.
    alone: Arc<Mutex<()>>,
}

#[derive(Default)]
pub(super) struct Sending {
    /// Numbers of packs.
    pub packs: HashSet<i64>,
    /// Ids.
    pub segments: HashSet<i64>,
    /// Objects that are there or about to be, and not yet in the tables.
    pub names: HashSet<String>,
}

/// All that are open, by id.
#[derive(Default)]
pub struct Remotes {
    open: RwLock<HashMap<i64, Arc<Remote>>>,
    /// Also those that are not open any more, as they were last: work may still send there.
    ever: Mutex<HashMap<i64, Arc<Remote>>>,
}

impl Remotes {
    /// From now on these are open and no others. Work that has begun keeps the one that it has, and what it is sending is known to
    /// the one that takes its place.
    pub fn replace(&self, remotes: impl Iterator<Item = Remote>) {
        let mut ever = self.ever.lock().unwrap_or_else(PoisonError::into_inner);
        let in_place_of = |remote: Remote| match ever.get(&remote.id) {
            Some(old) => Remote {
                sending: old.sending.clone(),
                sent: old.sent.clone(),
                mark: old.mark.clone(),
                renewed: old.renewed.clone(),
                writing: old.writing.clone(),
                alone: old.alone.clone(),
                ..remote
            },
            None => remote,
        };
        let now: HashMap<i64, Arc<Remote>> = remotes.map(|remote| (remote.id, Arc::new(in_place_of(remote)))).collect();
        ever.extend(now.iter().map(|(id, remote)| (*id, remote.clone())));
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// None: it is not in the configuration, or cannot be opened.
    fn get(&self, id: i64) -> Option<Arc<Remote>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Remote>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Store {
    /// A repository, if it is open.
    pub fn remote(&self, id: i64) -> Result<Arc<Remote>, StoreError> {
        if let Some(remote) = self.remotes.get(id) {
            return Ok(remote);
        }
        let name = self.db.read(|c| c.query_row("SELECT name FROM repository WHERE id = ?1", [id], |row| row.get(0)).optional())?;
        let name = name.unwrap_or_else(|| format!("number {id}"));
        Err(StoreError::Repository(name, "is not in the configuration, or its credentials cannot be read: see the log".into()))
    }

    /// Brings what [`super::read::fetch`] has left to be brought. What is lost gets a fault; a repository that cannot be
    /// reached is an error.
    pub(super) fn bring(&self, far: &[Far], stored: &mut [u8], faults: &mut [Option<String>]) -> Result<(), StoreError> {
        self.bring_rest(far, None, stored, faults)
    }

    /// The same, but for what is in the batch.
    pub(super) fn bring_rest(
        &self,
        far: &[Far],
        batch: Option<&Batch>,
        stored: &mut [u8],
        faults: &mut [Option<String>],
    ) -> Result<(), StoreError> {
        for far in far {
            let remote = self.remote(far.repository)?;
            if let Some(reason) = remote.bring(far, batch, stored)? {
                far.places.iter().for_each(|place| faults[*place] = Some(reason.clone()));
            }
        }
        Ok(())
    }
}

/// Are these the stored bytes of this chunk? Deltas are not stored in repositories.
fn is_chunk(decoder: &mut Decoder, entry: &Entry, stored: &[u8]) -> bool {
    match entry.encoding() {
        None | Some(Encoding::Delta { .. }) => false,
        Some(encoding) => {
            let mut raw = vec![0; (entry.raw as usize).min(LARGEST_CHUNK)];
            decoder.decode(encoding, stored, &[], &mut raw).is_ok() && *blake3::hash(&raw).as_bytes() == entry.hash
        }
    }
}

impl Store {
    /// The data of a pack that lies in an object, every chunk of it compared with its name; None if it cannot be had, which is
    /// logged.
    pub(super) fn far_pack(&self, stored: &Stored) -> Result<Option<Vec<u8>>, StoreError> {
        let (Some(object), Some(toc)) = (&stored.object, stored.toc()) else { return Ok(None) };
        let Some(remote) = self.remotes.get(stored.repository) else { return Ok(None) };
        let head = pack_head_bytes(toc.slots());
        let mut data = match remote.objects.get(object, None, LARGEST_OBJECT) {
            Ok(data) if data.len() == head + stored.stored as usize => data,
            Ok(_) => return Ok(None),
            Err(error) => {
                log::warn!("repository {}: {error}", remote.name);
                return Ok(None);
            }
        };
        data.drain(..head);
        let mut decoder = Decoder::new().map_err(StoreError::Codec)?;
        let mut live = toc.entries().filter(|entry| entry.encoding().is_some());
        let whole = live.all(|entry| {
            let bytes = data.get(entry.offset as usize..entry.offset as usize + entry.stored as usize);
            bytes.is_some_and(|bytes| is_chunk(&mut decoder, &entry, bytes))
        });
        Ok(whole.then_some(data))
    }
}

impl Remote {
    pub fn new(id: i64, name: String, objects: &dyn Objects, connections: usize, mark: Mark, hurry: Arc<AtomicBool>) -> Remote {
        let given_up = hurry.clone();
        Remote {
            id,
            name,
            objects: objects.until(Arc::new(move || given_up.load(Ordering::Relaxed))),
            hurry,
            connections: connections.max(1),
            sending: Arc::default(),
            sent: Arc::default(),
            mark: Arc::new(Mutex::new(mark)),
            renewed: Arc::default(),
            writing: Arc::default(),
            alone: Arc::default(),
        }
    }

    /// The same place, given up when this is set.
    pub(super) fn until(&self, cancel: &Arc<AtomicBool>) -> Box<dyn Objects> {
        let (cancel, hurry) = (cancel.clone(), self.hurry.clone());
        self.objects.until(Arc::new(move || cancel.load(Ordering::Relaxed) || hurry.load(Ordering::Relaxed)))
    }

    pub(super) fn failed(&self, error: ObjectError) -> StoreError {
        match error {
            ObjectError::Cancelled => StoreError::Cancelled,
            error => StoreError::Repository(self.name.clone(), error.to_string()),
        }
    }

    /// One page of the objects whose names begin so.
    pub fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>, StoreError> {
        self.objects.list(prefix, after).map_err(|e| self.failed(e))
    }

    /// An object as a whole.
    pub fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.objects.get(name, None, limit).map_err(|e| self.failed(e))
    }

    /// Is this object there?
    pub fn has_object(&self, name: &str) -> Result<bool, StoreError> {
        self.objects.size(name).map(|size| size.is_some()).map_err(|e| self.failed(e))
    }

    /// For who takes it, takes in what is there, or removes something: one after another.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For who takes in what is there: nobody sends meanwhile. None: somebody does.
    pub fn silence(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.writing.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ok(Some): why it cannot be had, ever.
    fn bring(&self, far: &Far, batch: Option<&Batch>, stored: &mut [u8]) -> Result<Option<String>, StoreError> {
        let head = pack_head_bytes(far.slots);
        for run in &far.runs {
            let stored = &mut stored[run.place()];
            if batch.is_some_and(|batch| batch.copy(&far.object, run, stored)) {
                continue;
            }
            match self.objects.get(&far.object, Some((head + run.from) as u64..(head + run.to) as u64), stored.len()) {
                Ok(bytes) if bytes.len() == stored.len() => stored.copy_from_slice(&bytes),
                Ok(_) => return Ok(Some(format!("object {} is too short", far.object))),
                Err(error) => return self.lost(far, error),
            }
        }
        Ok(None)
    }

    /// Is this chunk of a pack of so many slots there as it was stored? One that cannot be reached is an error.
    pub(super) fn is_whole(&self, object: &str, slots: usize, entry: &Entry) -> Result<bool, StoreError> {
        let from = (pack_head_bytes(slots) + entry.offset as usize) as u64;
        match self.objects.get(object, Some(from..from + u64::from(entry.stored)), entry.stored as usize) {
            Ok(bytes) => Ok(is_chunk(&mut Decoder::new().map_err(StoreError::Codec)?, entry, &bytes)),
            Err(ObjectError::NotFound(_)) => self.check_place().map(|()| false),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn lost(&self, far: &Far, error: ObjectError) -> Result<Option<String>, StoreError> {
        match error {
            ObjectError::NotFound(_) => {
                self.check_place()?;
                Ok(Some(format!("pack {} is missing: repository {} has no object {}", far.pack, self.name, far.object)))
            }
            ObjectError::Short { .. } => Ok(Some(error.to_string())),
            error => Err(self.failed(error)),
        }
    }
}
