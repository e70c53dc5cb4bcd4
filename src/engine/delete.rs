//! Deleting a backup: one transaction takes its maps and rows away; the bytes come back when maintenance collects garbage.

use std::sync::atomic::Ordering;

use rusqlite::Transaction;

use super::{Engine, Running, orders};
use crate::catalog::{backups, copies};
use crate::catalog::events::Severity;
use crate::catalog::jobs::{self, Job};
use crate::catalog::volume_backups;
use crate::model::backup::BackupState;
use crate::store::{Store, StoreError};

impl Engine {
    pub(super) fn run_delete(&self, job: &Job, running: &Running) {
        match self.db.write(|tx| remove(tx, job)) {
            Ok(()) => {
                self.copies.cancel(job.backup_id.unwrap_or_default());
                self.maintenance.request();
            }
            // Nothing is wrong with the backup, and deleting is what makes room: it goes as soon as it can be written.
            Err(error) if error.may_pass() => {
                log::error!("backup {} cannot be deleted yet: {error}", job.backup_id.unwrap_or_default());
                // On a full disk that gives the room back that the write-ahead log takes, if there is any.
                if let Err(error) = self.db.checkpoint() {
                    log::debug!("and nothing can be moved into the coffer: {error}");
                }
                running.put_off.store(true, Ordering::Relaxed);
            }
            Err(error) => self.fail_delete(job, &error.to_string()),
        }
    }

    pub(super) fn fail_delete(&self, job: &Job, reason: &str) {
        let backup_id = job.backup_id.unwrap_or_default();
        log::error!("deletion of backup {backup_id} failed: {reason}");
        self.write_down("record a failed deletion", |tx| {
            backups::transition(tx, backup_id, BackupState::Deleting, BackupState::Erred)?;
            backups::mark_corrupt(tx, backup_id, &format!("deletion failed: {reason}"))?;
            jobs::remove(tx, job.id)?;
            let Some(backup) = backups::by_id(tx, backup_id)? else { return Ok(()) };
            orders::log_backup(tx, &backup, "resource_backup_deletion_failed", Severity::Error, || {
                format!("Deletion of a {} of {} has failed: {reason}", backup.kind.noun(), backup.subject)
            })
        });
    }
}

fn remove(tx: &Transaction, job: &Job) -> Result<(), StoreError> {
    let backup_id = job.backup_id.unwrap_or_default();
    let Some(backup) = backups::by_id(tx, backup_id)? else { return Ok(()) };
    jobs::remove(tx, job.id)?;
    if backup.state != BackupState::Deleting {
        return Ok(()); // an administrator has thought better of it
    }
    copies::of_backup(tx, backup_id)?.iter().try_for_each(|copy| super::copies::remove(tx, copy))?;
    for part in volume_backups::parts(tx, backup_id)? {
        // Others may have been made of the same data.
        if let Some(map_id) = volume_backups::release_map(tx, &part)? {
            Store::delete_map(tx, map_id)?;
        }
    }
    if let (Some(repository_id), Some(manifest)) = (backup.repository_id, &backup.manifest) {
        Store::discard(tx, repository_id, manifest)?;
    }
    backups::delete(tx, backup_id)?;
    orders::log_backup(tx, &backup, "resource_backup_deletion_succeeded", Severity::Info, || {
        format!("A {} of {} has been deleted.", backup.kind.noun(), backup.subject)
    })?;
    Ok(())
}
