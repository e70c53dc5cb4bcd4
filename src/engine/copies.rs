//! Copies of backups in further places. They are made one after the other by a thread of its own, so that no backup and no restore waits for
//! one; what is promised stands in the catalog (catalog/copies.rs), and an attempt that fails is made again later. What was sent before is
//! not sent again, because the other place knows it by then, and no collection takes it before the copy is finished.
//!
//! A copy is whole or not there: maps of its volumes, and in a repository a manifest of its own, so that this place alone gives the backup back.
//! It never changes what its backup is called, except that a damaged backup is mended from it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::ingest::{self, Ingested, Progress};
use super::manifest::Content;
use super::tasks::Task;
use super::{Engine, EngineError, RETRY, log_catalog, orders};
use crate::catalog::backups::{self, Backup};
use crate::catalog::copies::{self, Copy};
use crate::catalog::events::Severity;
use crate::catalog::volume_backups::{self, Part};
use crate::clock;
use crate::model::backup::BackupState;
use crate::store::{Home, Store, StoreError};

/// How often the queue is looked at even if nobody has called.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How often somebody who waits for copies looks at them.
const POLL: Duration = Duration::from_millis(50);

/// The thread that makes copies, and whoever has work for it.
#[derive(Default)]
pub struct Copies {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The places are known.
    open: bool,
    stopping: bool,
    wanted: bool,
    running: Option<Arc<Copying>>,
}

/// A copy that is being made, or mended from.
pub struct Copying {
    copy_id: i64,
    backup_id: i64,
    pub progress: Progress,
    cancel: Arc<AtomicBool>,
}

impl Copies {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is work, perhaps.
    pub fn wake(&self) {
        self.state().wanted = true;
        self.changed.notify_all();
    }

    /// The places are there, or are others now.
    pub(super) fn open(&self) {
        self.state().open = true;
        self.wake();
    }

    /// A backup is gone, with its copies.
    pub(super) fn cancel(&self, backup_id: i64) {
        if let Some(running) = self.state().running.as_ref().filter(|running| running.backup_id == backup_id) {
            running.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Nothing is begun any more, and what runs is left for the next start.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        if let Some(running) = &state.running {
            running.cancel.store(true, Ordering::Relaxed);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// How far it is, if this copy is being made.
    pub fn running(&self, copy_id: i64) -> Option<Arc<Copying>> {
        self.state().running.clone().filter(|running| running.copy_id == copy_id)
    }

    fn begin(&self, copy: &Copy) -> Option<Arc<Copying>> {
        let copying = Copying { copy_id: copy.id, backup_id: copy.backup_id, progress: Progress::default(), cancel: Arc::default() };
        let mut state = self.state();
        if state.stopping {
            return None;
        }
        state.running = Some(Arc::new(copying));
        state.running.clone()
    }

    fn end(&self) {
        self.state().running = None;
    }

    fn is_stopping(&self) -> bool {
        self.state().stopping
    }

    /// Sleeps so long, or until there is work. False: the engine stops.
    fn wait(&self, rest: Duration) -> bool {
        let until = Instant::now() + rest;
        let mut state = self.state();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.stopping {
                return false;
            }
            if state.open && (state.wanted || left.is_zero()) {
                state.wanted = false;
                return true;
            }
            state = self.changed.wait_timeout(state, left.max(POLL)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Takes a copy away: its maps, its manifest, its row. The bytes come back when maintenance collects garbage.
pub(super) fn remove(tx: &Transaction, copy: &Copy) -> rusqlite::Result<()> {
    for map_id in copies::release_maps(tx, copy.id)? {
        Store::delete_map(tx, map_id)?;
    }
    if let (Some(repository_id), Some(manifest)) = (copy.repository_id, &copy.manifest) {
        Store::discard(tx, repository_id, manifest)?;
    }
    copies::delete(tx, copy.id)
}

impl Engine {
    pub(super) fn keep_copies(&self) {
        let mut rest = Duration::ZERO;
        while self.copies.wait(rest) {
            let now = clock::now_ms();
            let due = self.db.read(|c| Ok::<_, rusqlite::Error>((copies::next_due(c, now)?, copies::next_at(c)?)));
            rest = match due {
                Ok((Some(copy), _)) => {
                    self.attend_to_copy(&copy);
                    Duration::ZERO
                }
                Ok((None, next)) => next.map_or(LOOK_AGAIN, |next| Duration::from_millis((next - now).max(0) as u64).min(LOOK_AGAIN)),
                Err(error) => {
                    log_catalog("look for copies to be made", &error);
                    RETRY
                }
            };
        }
    }

    fn attend_to_copy(&self, copy: &Copy) {
        let Some(copying) = self.copies.begin(copy) else { return };
        let attempt = std::panic::AssertUnwindSafe(|| match copy.finished {
            Some(_) => self.mend_from_copy(copy, &copying),
            None => self.make_copy(copy, &copying),
        });
        let internal = |_| Err(EngineError::Told("an internal error; see the daemon's log".into()));
        let outcome = std::panic::catch_unwind(attempt).unwrap_or_else(internal);
        if let Err(error) = &outcome {
            self.put_copy_off(copy, error);
        }
        self.copies.end();
        self.note_activity();
    }

    /// What it is a copy of; None if that is gone.
    fn backup_of(&self, copy: &Copy) -> rusqlite::Result<Option<(Backup, Vec<Part>)>> {
        self.db.read(|c| match copies::by_id(c, copy.id)? {
            Some(_) => Ok(backups::by_id(c, copy.backup_id)?.zip(Some(volume_backups::parts(c, copy.backup_id)?))),
            None => Ok(None),
        })
    }

    fn make_copy(&self, copy: &Copy, copying: &Copying) -> Result<(), EngineError> {
        let Some((backup, parts)) = self.backup_of(copy)? else { return Ok(()) };
        copying.progress.total.store(parts.iter().map(|part| part.size as u64).sum(), Ordering::Relaxed);
        let transfer = |home| self.transfer_parts(&parts, home, copying);
        let (parts, manifest) = match copy.repository_id {
            None => (transfer(Home::Coffer)?, None),
            Some(repository_id) => {
                let remote = self.remote(repository_id)?;
                self.store.upload(&remote, &copying.cancel, |upload| {
                    let parts = self.transfer_parts(&parts, Home::Repository(upload), copying)?;
                    let segments: Vec<i64> = parts.iter().flat_map(|(_, ingested)| ingested.segments()).copied().collect();
                    upload.finish(&segments)?;
                    let contents: Vec<Content> = parts.iter().map(|(_, ingested)| ingested.into()).collect();
                    let manifest = self.send_manifest(backup.id, &contents, upload, |tx, name| note_manifest(tx, copy, name))?;
                    Ok::<_, EngineError>((parts, Some(manifest)))
                })?
            }
        };
        self.db.write(|tx| {
            if copies::by_id(tx, copy.id)?.is_none() {
                // The backup was deleted meanwhile. What was noted of the manifest may have been removed before it was there.
                if let (Some(repository_id), Some(manifest)) = (copy.repository_id, &manifest) {
                    Store::discard(tx, repository_id, manifest)?;
                }
                return Ok(());
            }
            for map_id in copies::release_maps(tx, copy.id)? {
                Store::delete_map(tx, map_id)?; // it was not whole any more
            }
            for (part, ingested) in &parts {
                let map_id = ingested.commit(tx)?;
                copies::add_volume(tx, copy.id, part.id, map_id)?;
            }
            let stored = parts.iter().map(|(_, ingested)| ingested.stored() as i64).sum();
            copies::finish(tx, copy.id, stored, clock::now_ms())?;
            orders::log_backup(tx, &backup, "resource_backup_copy_succeeded", Severity::Info, || {
                format!("A backup of {} has been copied to {}.", backup.subject, copy.repository)
            })?;
            Ok::<_, EngineError>(())
        })
    }

    fn transfer_parts(&self, parts: &[Part], home: Home, copying: &Copying) -> Result<Vec<(Part, Ingested)>, EngineError> {
        let workers = self.settings().workers;
        let transfer = |part: &Part| {
            let map_id = part.map_id.ok_or_else(|| EngineError::Told("the backup has no data".into()))?;
            let ingested = ingest::transfer(&self.store, home, map_id, workers, &copying.progress, &copying.cancel)?;
            Ok((part.clone(), ingested))
        };
        parts.iter().map(transfer).collect()
    }

    /// An attempt has failed: it is made again later.
    fn put_copy_off(&self, copy: &Copy, error: &EngineError) {
        if matches!(error, EngineError::Cancelled) && self.copies.is_stopping() {
            return;
        }
        let reason = error.to_string();
        let place = matches!(error, EngineError::Store(StoreError::Repository(name, _)) if *name == copy.repository);
        self.write_down("record a failed copy", |tx| {
            let Some(before) = copies::by_id(tx, copy.id)? else { return Ok(()) };
            copies::fail(tx, copy, &reason, place, clock::now_ms())?;
            if before.error_message == reason {
                return Ok(()); // told already
            }
            let Some(backup) = backups::by_id(tx, copy.backup_id)? else { return Ok(()) };
            orders::log_backup(tx, &backup, "resource_backup_copy_failed", Severity::Warning, || {
                format!("A backup of {} could not be copied to {}, which is tried again later: {reason}", backup.subject, copy.repository)
            })
        });
    }

    // ---- what copies are good for

    /// The copies of a volume in a backup that are there, with their maps.
    pub(super) fn whole_copies(&self, part: &Part) -> rusqlite::Result<Vec<(Copy, i64)>> {
        self.db.read(|c| {
            let mut found = Vec::new();
            for copy in copies::of_part(c, part.id)? {
                if let Some(map_id) = copies::map_of(c, copy.id, part.id)? {
                    found.push((copy, map_id));
                }
            }
            Ok(found)
        })
    }

    /// A volume was restored from a copy, because its first place could not give it back.
    pub(super) fn note_use_of_copy(&self, copy: &Copy, part: &Part, error: &EngineError) -> Result<(), EngineError> {
        self.db.write(|tx| {
            if let EngineError::Corrupt { .. } = error {
                copies::order_mending(tx, copy.backup_id)?;
            }
            let Some(backup) = backups::by_id(tx, copy.backup_id)? else { return Ok(()) };
            orders::log_backup(tx, &backup, "resource_backup_copy_used", Severity::Warning, || {
                format!("{} of a backup of {} was restored from its copy in {}: {error}", part.label(), backup.subject, copy.repository)
            })
        })?;
        self.copies.wake();
        Ok(())
    }

    /// The backup is damaged in its first place: what is missing there is stored anew, from the copy.
    fn mend_from_copy(&self, copy: &Copy, copying: &Copying) -> Result<(), EngineError> {
        let Some((backup, parts)) = self.backup_of(copy)? else { return Ok(()) };
        let mut mended = 0;
        for part in &parts {
            let (Some(map_id), Some(from)) = (part.map_id, self.db.read(|c| copies::map_of(c, copy.id, part.id))?) else { continue };
            // What is damaged is known by this as such, so that it is not taken for what is there already.
            let damaged = match self.store.check_map(map_id, &|_| {}, &copying.cancel) {
                Ok(report) => report.corrupt_bytes,
                Err(StoreError::NoSuchMap(_)) => part.size as u64,
                Err(error) => return Err(error.into()),
            };
            if damaged == 0 {
                continue;
            }
            let workers = self.settings().workers;
            let transfer = |home| ingest::transfer(&self.store, home, from, workers, &copying.progress, &copying.cancel);
            let ingested = match backup.repository_id {
                None => transfer(Home::Coffer)?,
                Some(repository_id) => {
                    let remote = self.remote(repository_id)?;
                    self.store.upload(&remote, &copying.cancel, |upload| {
                        let ingested = ingest::transfer(&self.store, Home::Repository(upload), from, workers, &copying.progress, &copying.cancel)?;
                        upload.finish(ingested.segments())?;
                        Ok::<_, EngineError>(ingested)
                    })?
                }
            };
            self.db.write(|tx| {
                if copies::by_id(tx, copy.id)?.is_none() {
                    return Err(EngineError::Cancelled);
                }
                let now = ingested.commit(tx)?;
                if let Some(before) = volume_backups::replace_map(tx, part, now)? {
                    Store::delete_map(tx, before)?;
                }
                Ok::<_, EngineError>(())
            })?;
            mended += damaged;
        }
        self.db.write(|tx| {
            copies::end_mending(tx, copy.id)?;
            if mended == 0 {
                return Ok(());
            }
            log::warn!("backup {}: {mended} damaged bytes have been stored anew from the copy in {}", backup.uuid, copy.repository);
            orders::log_backup(tx, &backup, "resource_backup_healed", Severity::Warning, || {
                format!("{mended} bytes of a backup of {} were damaged; they have been stored anew from its copy in {}.", backup.subject, copy.repository)
            })
        })?;
        if backup.state == BackupState::Erred {
            self.mark_whole(&backup)?;
        }
        self.maintenance.request();
        Ok(())
    }

    /// What of this map is lost concerns a copy, if it is one's: it is made again.
    pub(super) fn break_off_copy(&self, map_id: i64, offset: u64, reason: &str) -> rusqlite::Result<()> {
        let message = format!("it was found damaged at byte {offset}: {reason}");
        if self.db.write(|tx| copies::break_off(tx, map_id, &message, clock::now_ms()))? {
            log::warn!("a copy is made again: {message}");
            self.copies.wake();
        }
        Ok(())
    }

    /// Waits until these copies are there, or have failed once.
    pub fn wait_for_copies(&self, ordered: &[i64], task: &Task) -> Result<Value, EngineError> {
        let begun = clock::now_ms();
        self.copies.wake();
        loop {
            let (mut copied, mut failed, mut done, mut total, mut stored, mut waiting) = (0, Vec::new(), 0, 0, 0, false);
            self.db.read(|c| {
                for id in ordered {
                    let Some(copy) = copies::by_id(c, *id)? else { continue };
                    let size = backups::by_id(c, copy.backup_id)?.map_or(0, |backup| backup.size as u64);
                    total += size;
                    match copy.state() {
                        "ready" => {
                            copied += 1;
                            done += size;
                            stored += if copy.finished >= Some(begun) { copy.stored } else { 0 };
                        }
                        "failed" => failed.push(json!({"backup": copy.backup_uuid, "error_message": copy.error_message})),
                        _ => waiting = true,
                    }
                }
                Ok::<_, rusqlite::Error>(())
            })?;
            for running in ordered.iter().filter_map(|id| self.copies.running(*id)) {
                done += running.progress.read.load(Ordering::Relaxed);
                for (ours, theirs) in [(&task.progress.new, &running.progress.new), (&task.progress.stored, &running.progress.stored)] {
                    ours.store(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            task.progress.total.store(total, Ordering::Relaxed);
            task.progress.read.store(done.min(total), Ordering::Relaxed);
            if !waiting {
                return Ok(json!({"copied": copied, "failed": failed, "stored_bytes": stored}));
            }
            if task.cancel.load(Ordering::Relaxed) || self.copies.is_stopping() {
                return Err(EngineError::Told("interrupted; it goes on when the daemon runs again".into()));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Writes down which object is about to be the copy's manifest. An earlier attempt may have left another one.
fn note_manifest(tx: &Transaction, copy: &Copy, name: &str) -> rusqlite::Result<()> {
    let Some(now) = copies::by_id(tx, copy.id)? else { return Ok(()) };
    if let (Some(repository_id), Some(before)) = (copy.repository_id, &now.manifest) {
        Store::discard(tx, repository_id, before)?;
    }
    copies::set_manifest(tx, copy.id, Some(name))
}
