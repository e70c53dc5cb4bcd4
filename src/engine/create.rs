//! Making a backup: read every volume of the instance into the store, then declare all of them Ready in one commit.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use rusqlite::Transaction;
use serde_json::Value;

use super::ingest::{self, Ingested, Known};
use super::places::open_source;
use super::manifest::Content;
use super::{Engine, EngineError, Running, Settings, orders};
use crate::catalog::backups::{self, Backup};
use crate::catalog::copies;
use crate::catalog::events::Severity;
use crate::catalog::jobs::{self, Job, JobKind};
use crate::catalog::schedules;
use crate::catalog::volume_backups::{self, Part};
use crate::catalog::volumes::{self, Volume};
use crate::clock;
use crate::model::backup::{BackupKind, BackupState};
use crate::model::quota::{QuotaName, gib};
use crate::model::retention::{self, PruneCandidate};
use crate::source::Source;
use crate::store::{Home, Store};

impl Engine {
    pub(super) fn run_create(&self, job: &Job, running: &Running) {
        let outcome = match self.describe_known(job, running) {
            Ok(false) => self.take_in_all(job, running).and_then(|parts| self.declare_ready(job, parts)),
            Ok(true) => self.declare_ready(job, Vec::new()),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                self.wake(); // pruning may have promised deletions, and the configuration may want copies
                self.remove_stale_copies();
            }
            Err(EngineError::Cancelled) => self.fail_create(job, "interrupted: the daemon was stopped while the backup was being made"),
            Err(error) => self.fail_create(job, &error.to_string()),
        }
    }

    /// Stores all volumes where the backup is to lie. Of one in a repository everything is there when this ends.
    fn take_in_all(&self, job: &Job, running: &Running) -> Result<Vec<(Part, Ingested)>, EngineError> {
        let backup = self.db.read(|c| backups::by_id(c, job.backup_id.unwrap_or_default()))?.ok_or(EngineError::Cancelled)?;
        let Some(repository_id) = backup.repository_id else { return self.take_in_at(job, Home::Coffer, running) };
        let remote = self.remote(repository_id)?;
        self.store.upload(&remote, &running.cancel, |upload| {
            let parts = self.take_in_at(job, Home::Repository(upload), running)?;
            let segments: Vec<i64> = parts.iter().flat_map(|(_, ingested)| ingested.segments()).copied().collect();
            upload.finish(&segments)?;
            let contents: Vec<Content> = parts.iter().map(|(_, ingested)| ingested.into()).collect();
            self.send_manifest(backup.id, &contents, upload, |tx, name| backups::set_manifest(tx, backup.id, Some(name)))?;
            Ok(parts)
        })
    }

    fn take_in_at(&self, job: &Job, home: Home, running: &Running) -> Result<Vec<(Part, Ingested)>, EngineError> {
        match job.source_map() {
            Some(map_id) => self.transfer_map(job, map_id, home, running),
            None => self.read_volumes(job, home, running),
        }
    }

    /// The backup of a snapshot: its bytes are in the store already, but at another place.
    fn transfer_map(&self, job: &Job, map_id: i64, home: Home, running: &Running) -> Result<Vec<(Part, Ingested)>, EngineError> {
        let part = self.db.read(|c| volume_backups::parts(c, job.backup_id.unwrap_or_default()))?.into_iter().next();
        let part = part.ok_or(EngineError::Cancelled)?;
        running.progress.total.store(part.size as u64, Ordering::Relaxed);
        let workers = self.settings().workers;
        let ingested = ingest::transfer(&self.store, home, map_id, workers, &running.progress, &running.cancel).map_err(|error| match error {
            EngineError::Corrupt { offset, reason } => EngineError::Told(format!("the snapshot is damaged at byte {offset}: {reason}")),
            error => error,
        })?;
        Ok(vec![(part, ingested)])
    }

    /// Of a backup that was made of data which is in its repository already (a record was imported), only the manifest is missing.
    /// False: it is none.
    fn describe_known(&self, job: &Job, running: &Running) -> Result<bool, EngineError> {
        let backup_id = job.backup_id.unwrap_or_default();
        let (backup, parts) = self.db.read(|c| Ok::<_, rusqlite::Error>((backups::by_id(c, backup_id)?, volume_backups::parts(c, backup_id)?)))?;
        let backup = backup.ok_or(EngineError::Cancelled)?;
        let Some(repository_id) = backup.repository_id.filter(|_| parts.iter().all(|part| part.map_id.is_some())) else { return Ok(false) };
        let contents = parts.iter().map(|part| self.content(part)).collect::<Result<Vec<_>, _>>()?;
        let remote = self.remote(repository_id)?;
        self.store.upload(&remote, &running.cancel, |upload| {
            self.send_manifest(backup.id, &contents, upload, |tx, name| backups::set_manifest(tx, backup.id, Some(name)))
        })?;
        Ok(true)
    }

    fn read_volumes(&self, job: &Job, home: Home, running: &Running) -> Result<Vec<(Part, Ingested)>, EngineError> {
        let settings = self.settings();
        let mut opened = Vec::new();
        for (part, volume) in self.parts_and_volumes(job)? {
            // A restore that was promised earlier may have come to a bad end.
            if !volume.state.is_whole() {
                return Err(EngineError::Told(format!("{} is in state '{}': {}", part.label(), volume.state.as_str(), orders::NOT_WHOLE)));
            }
            let path = PathBuf::from(&volume.path);
            let source = open_source(&path, &settings).map_err(|error| error.without_path(&path, &part.label()))?;
            opened.push((part, source, path));
        }
        self.reserve(job, &mut opened)?;
        running.progress.total.store(opened.iter().map(|(_, source, _)| source.size()).sum(), Ordering::Relaxed);
        // Copies of all disks are made before the first is read: so they are of one moment, or nearly.
        let mut readings = Vec::new();
        for (part, source, path) in opened {
            let (source, known) = self.reading(&part, home.id(), source, &path, &settings)?;
            readings.push((part, source, known, path));
        }
        let mut done = Vec::new();
        for (part, source, known, path) in readings {
            let ingested = self.take_in(&part, home, &source, known, &settings, running);
            let ingested = ingested.map_err(|error| error.without_path(&path, &part.label()))?;
            done.push((part, ingested));
        }
        Ok(done)
    }

    fn take_in(
        &self,
        part: &Part,
        home: Home,
        source: &Source,
        known: Known,
        settings: &Settings,
        running: &Running,
    ) -> Result<Ingested, EngineError> {
        let ingest = |known: &Known| ingest::ingest(&self.store, home, source, known, settings.workers, &running.progress, &running.cancel);
        let before = running.progress.read.load(Ordering::Relaxed);
        match ingest(&known) {
            Err(EngineError::Unchanged { offset }) => {
                log::error!(
                    "{} differs at byte {offset} from its last backup, although the file system says that nothing has changed there; \
                     all of it is read now, and volumes.reflinks is better switched off for this file system",
                    part.label()
                );
                running.progress.read.store(before, Ordering::Relaxed);
                ingest(&Known { changed: None, ..known })
            }
            ingested => ingested,
        }
    }

    fn parts_and_volumes(&self, job: &Job) -> Result<Vec<(Part, Volume)>, EngineError> {
        let backup_id = job.backup_id.unwrap_or_default();
        self.db.read(|c| {
            let find = |part: Part| match part.volume_id.map(|id| volumes::by_id(c, id)).transpose()?.flatten() {
                Some(volume) => Ok((part, volume)),
                None => Err(EngineError::Told(format!("{} is no longer registered", part.label()))),
            };
            volume_backups::parts(c, backup_id)?.into_iter().map(find).collect()
        })
    }

    /// Disks grow: what they are now must fit the quota before anything is read.
    fn reserve(&self, job: &Job, opened: &mut [(Part, Source, PathBuf)]) -> Result<(), EngineError> {
        if opened.iter().all(|(part, source, _)| part.size == source.size() as i64) {
            return Ok(());
        }
        self.db.write(|tx| {
            let backup_id = job.backup_id.unwrap_or_default();
            let Some(backup) = backups::by_id(tx, backup_id)? else { return Err(EngineError::Cancelled) };
            let growth: i64 = opened.iter().map(|(part, source, _)| source.size() as i64 - part.size).sum();
            let gigabytes = opened.iter().map(|(part, source, _)| gib(source.size() as i64) - gib(part.size)).sum();
            // The volumes themselves count as much as their backup. What they take of Cinder's gigabytes they have taken already: those
            // limit what is asked for, and this was done on the host.
            let counted_as = if backup.kind == BackupKind::Snapshot { QuotaName::Gigabytes } else { QuotaName::BackupGigabytes };
            orders::fits(tx, backup.project_id, &[(QuotaName::Storage, growth.saturating_mul(2)), (counted_as, gigabytes)])
                .map_err(|refusal| EngineError::Told(format!("its disks have grown: {refusal}")))?;
            for (part, source, _) in opened.iter_mut() {
                part.size = source.size() as i64;
                volume_backups::resize(tx, part.id, part.size)?;
                if let Some(volume_id) = part.volume_id {
                    volumes::set_size(tx, volume_id, part.size)?;
                }
            }
            Ok(volume_backups::reserve(tx, backup_id)?)
        })
    }

    /// The commit that makes the backup available. It is durable before anybody is told.
    fn declare_ready(&self, job: &Job, parts: Vec<(Part, Ingested)>) -> Result<(), EngineError> {
        let backup_id = job.backup_id.unwrap_or_default();
        self.db.write(|tx| {
            let mut stored = 0;
            for (part, ingested) in &parts {
                let map_id = ingested.commit(tx)?;
                volume_backups::complete(tx, part.id, map_id, ingested.stored() as i64, ingested.objects() as i64)?;
                stored += ingested.stored() as i64;
            }
            if !backups::complete(tx, backup_id, stored, clock::now_ms())? {
                return Err(EngineError::Cancelled);
            }
            jobs::remove(tx, job.id)?;
            release_source(tx, job)?;
            if let Some(backup) = backups::by_id(tx, backup_id)? {
                orders::log_backup(tx, &backup, "resource_backup_creation_succeeded", Severity::Info, || {
                    match backup.kind {
                        BackupKind::Instance => format!("Backup of {} has been created.", backup.subject),
                        kind => format!("A {} of {} has been created.", kind.noun(), backup.subject),
                    }
                })?;
                warn_of_changes(tx, &backup, &parts)?;
                copies::order_wanted(tx, Some(backup_id), clock::now_ms())?;
                prune(tx, &backup)?;
            }
            Ok(())
        })
    }

    /// Erred, quota given back, and the schedule that asked for it deactivated: nobody must believe in backups that fail.
    pub(super) fn fail_create(&self, job: &Job, reason: &str) {
        self.write_down("record a failed backup", |tx| fail(tx, job.backup_id.unwrap_or_default(), reason));
        self.maintenance.request();
    }
}

/// A volume that was written to while it was read holds a mixture of several moments: Ready, but its user must know.
fn warn_of_changes(tx: &Transaction, backup: &Backup, parts: &[(Part, Ingested)]) -> rusqlite::Result<()> {
    let changed = parts.iter().filter(|(_, ingested)| ingested.modified);
    let warnings: Vec<String> = changed
        .map(|(part, _)| {
            format!("{} was written to while it was read; stop the machine or back up a snapshot of it", part.label())
        })
        .collect();
    if warnings.is_empty() {
        return Ok(());
    }
    let mut metadata: Value = serde_json::from_str(&backup.metadata).unwrap_or_default();
    metadata["warnings"] = warnings.clone().into();
    backups::set_metadata(tx, backup.id, &metadata)?;
    orders::log_backup(tx, backup, "resource_backup_inconsistent", Severity::Warning, || warnings.join(" "))
}

/// Records that the making of a backup failed; also used at the next start after a crash. One that was given another state
/// meanwhile keeps that.
pub(super) fn fail(tx: &Transaction, backup_id: i64, reason: &str) -> rusqlite::Result<()> {
    revoke(tx, backup_id)?;
    let failed = backups::fail(tx, backup_id, reason, clock::now_ms())?;
    let Some(backup) = backups::by_id(tx, backup_id)? else { return Ok(()) };
    if let (Some(repository_id), Some(manifest)) = (backup.repository_id, &backup.manifest) {
        Store::discard(tx, repository_id, manifest)?;
        backups::set_manifest(tx, backup_id, None)?;
    }
    if !failed {
        return Ok(());
    }
    orders::log_backup(tx, &backup, "resource_backup_creation_failed", Severity::Error, || match backup.kind {
        BackupKind::Instance => format!("Backup of {} has failed: {reason}", backup.subject),
        kind => format!("A {} of {} has failed: {reason}", kind.noun(), backup.subject),
    })?;
    let Some(schedule_id) = backup.schedule_id else { return Ok(()) };
    let message = format!("Failed to execute backup schedule for {}. Error: {reason}", backup.subject);
    deactivate(tx, schedule_id, &message)
}

/// Takes the promise of a backup back.
pub(super) fn revoke(tx: &Transaction, backup_id: i64) -> rusqlite::Result<()> {
    let promised: Vec<Job> = jobs::of_backup(tx, backup_id)?.into_iter().filter(|job| job.kind == JobKind::Create).collect();
    jobs::revoke(tx, backup_id, JobKind::Create)?;
    promised.iter().try_for_each(|job| release_source(tx, job))
}

/// What a backup was to be made from may have been kept for that alone.
fn release_source(tx: &Transaction, job: &Job) -> rusqlite::Result<()> {
    match job.source_map() {
        Some(map_id) if !volume_backups::is_map_used(tx, map_id)? => Store::delete_map(tx, map_id),
        _ => Ok(()),
    }
}

/// Switches a schedule off and says why.
pub fn deactivate(tx: &Transaction, schedule_id: i64, message: &str) -> rusqlite::Result<()> {
    let Some(mut schedule) = schedules::by_id(tx, schedule_id)? else { return Ok(()) };
    let was_active = std::mem::replace(&mut schedule.is_active, false);
    schedule.error_message = message.to_string();
    schedules::update(tx, &schedule)?;
    if was_active {
        orders::log_schedule(tx, &schedule, "resource_backup_schedule_deactivated", Severity::Warning, || {
            format!("Backup schedule of {} has been deactivated. {message}", schedule.instance_name)
        })?;
    }
    Ok(())
}

/// After a success: the oldest Ready backups of the schedule go until no more than its maximal number are left.
fn prune(tx: &Transaction, backup: &Backup) -> rusqlite::Result<()> {
    let Some(schedule_id) = backup.schedule_id else { return Ok(()) };
    let Some(schedule) = schedules::by_id(tx, schedule_id)? else { return Ok(()) };
    // None is newer than the one just made. One that says so was made while the clock was ahead, and would have every new one
    // pruned in its stead until its day comes.
    let candidate = |(id, state, created_at): (i64, BackupState, i64)| PruneCandidate {
        id,
        state,
        created_at: clock::from_ms(created_at.min(backup.created_at)),
    };
    let candidates: Vec<PruneCandidate> = backups::of_schedule(tx, schedule_id)?.into_iter().map(candidate).collect();
    let victims = retention::prune_victims(&candidates, u32::try_from(schedule.maximal_number).unwrap_or(u32::MAX));
    let mut pruned = 0;
    for id in &victims {
        if let Some(victim) = backups::by_id(tx, *id)? {
            match orders::delete(tx, &victim) {
                Ok(()) => pruned += 1,
                Err(orders::Refusal::Catalog(error)) => return Err(error),
                Err(_) => {} // it has just changed its state: the next run looks again
            }
        }
    }
    if pruned > 0 {
        orders::log_schedule(tx, &schedule, "resource_backup_schedule_cleaned_up", Severity::Info, || {
            format!("{pruned} of {} backups of {} were more than its schedule keeps and are deleted.", candidates.len(), schedule.instance_name)
        })?;
    }
    Ok(())
}
