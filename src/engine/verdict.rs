//! What is known of stored data decides what its backup is called: damaged, or whole again. Both the check and the scrub say so here.
//! What has a copy is mended from it (copies.rs).

use super::{Engine, orders};
use crate::catalog::backups::{self, Backup};
use crate::catalog::copies;
use crate::catalog::events::Severity;
use crate::model::backup::BackupState;

impl Engine {
    /// A Ready backup that is not whole must not be called Ready any longer. `offset`: of the first damaged byte of this volume.
    pub fn mark_damaged(&self, backup: &Backup, volume: i64, offset: u64, reason: &str) -> rusqlite::Result<()> {
        let message = format!("the stored data is corrupt: volume {volume}, byte {offset}: {reason}");
        let marked = self.db.write(|tx| {
            // One that is being deleted goes on to go.
            if backups::by_id(tx, backup.id)?.is_none_or(|now| now.state == BackupState::Deleting) {
                return Ok(());
            }
            backups::mark_corrupt(tx, backup.id, &message)?;
            copies::order_mending(tx, backup.id)?;
            orders::log_backup(tx, backup, "resource_backup_verification_failed", Severity::Error, || {
                format!("A backup of {} has been found damaged: {message}", backup.subject)
            })
        });
        self.copies.wake();
        marked
    }

    /// A later backup of the same data has mended what was damaged: it can be restored again.
    pub fn mark_whole(&self, backup: &Backup) -> rusqlite::Result<()> {
        if !self.has_manifest(backup) {
            return Ok(()); // no other host would find it in its repository
        }
        self.db.write(|tx| {
            if backups::transition(tx, backup.id, BackupState::Erred, BackupState::Ready)? {
                backups::clear_error(tx, backup.id)?;
                orders::log_backup(tx, backup, "resource_backup_verification_succeeded", Severity::Info, || {
                    format!("A damaged backup of {} is whole again.", backup.subject)
                })?;
            }
            Ok(())
        })
    }

    /// Of a backup in a repository.
    fn has_manifest(&self, backup: &Backup) -> bool {
        let Some(repository_id) = backup.repository_id else { return true };
        let Some(manifest) = &backup.manifest else { return false };
        self.store.remote(repository_id).and_then(|remote| remote.has_object(manifest)).unwrap_or_else(|error| {
            log::warn!("backup {} cannot be called whole: {error}", backup.uuid);
            false
        })
    }
}
