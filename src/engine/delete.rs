//! Deleting a backup: one transaction takes its maps and rows away; the bytes come back when maintenance collects garbage.

use rusqlite::Transaction;

use super::{Engine, orders};
use crate::catalog::backups;
use crate::catalog::events::Severity;
use crate::catalog::jobs::{self, Job};
use crate::store::{Store, StoreError};

impl Engine {
    pub(super) fn run_delete(&self, job: &Job) {
        loop {
            match self.db.write(|tx| remove(tx, job.backup_id)) {
                Ok(()) => return self.maintenance.request(),
                // Nothing is wrong with the backup, and deleting is what makes room: it goes as soon as it can be written.
                Err(StoreError::Full) if !self.is_stopping() => {
                    log::error!("backup {} cannot be deleted yet: {}", job.backup_id, StoreError::Full);
                    std::thread::sleep(super::RETRY);
                }
                Err(StoreError::Full) => return, // the next start goes on
                Err(error) => return self.fail_delete(job, &error.to_string()),
            }
        }
    }

    pub(super) fn fail_delete(&self, job: &Job, reason: &str) {
        log::error!("deletion of backup {} failed: {reason}", job.backup_id);
        self.write_down("record a failed deletion", |tx| {
            backups::mark_corrupt(tx, job.backup_id, &format!("deletion failed: {reason}"))?;
            jobs::remove(tx, job.backup_id)?;
            let Some(backup) = backups::by_id(tx, job.backup_id)? else { return Ok(()) };
            orders::log_backup(tx, &backup, "resource_backup_deletion_failed", Severity::Error, || {
                format!("Deletion of a backup of {} has failed: {reason}", backup.instance_name)
            })
        });
    }
}

fn remove(tx: &Transaction, backup_id: i64) -> Result<(), StoreError> {
    let Some(backup) = backups::by_id(tx, backup_id)? else { return Ok(()) };
    for part in backups::parts(tx, backup_id)? {
        if let Some(map_id) = part.map_id {
            backups::forget_map(tx, part.id)?;
            Store::delete_map(tx, map_id)?;
        }
    }
    backups::delete(tx, backup_id)?;
    orders::log_backup(tx, &backup, "resource_backup_deletion_succeeded", Severity::Info, || {
        format!("A backup of {} has been deleted.", backup.instance_name)
    })?;
    Ok(())
}
