//! What the daemon does at start with the work it was at when it ended, however it ended: a backup in the making is Erred
//! and its schedule deactivated, a backup being restored is Ready and the half-made machine Erred, deletions go on.

use super::restore::{self, Goal};
use super::{Engine, EngineStartError, create};
use crate::catalog::backups;
use crate::catalog::jobs::{self, Job};
use crate::model::backup::BackupState;

const INTERRUPTED: &str = "interrupted: the daemon ended while this was running";

impl Engine {
    pub(super) fn recover(&self) -> Result<(), EngineStartError> {
        let (making, restoring) = self.db.read(|c| {
            Ok::<_, rusqlite::Error>((backups::in_state(c, BackupState::BackingUp)?, backups::in_state(c, BackupState::Restoring)?))
        })?;
        for backup in &making {
            log::warn!("backup {} of {} was interrupted", backup.uuid, backup.instance_name);
            self.db.write(|tx| create::fail(tx, backup.id, INTERRUPTED))?;
        }
        for backup in &restoring {
            log::warn!("the restoration of backup {} of {} was interrupted", backup.uuid, backup.instance_name);
            match self.db.read(|c| jobs::of_backup(c, backup.id))? {
                Some(job) => self.interrupt_restore(&job)?,
                None => self.db.write(|tx| backups::transition(tx, backup.id, BackupState::Restoring, BackupState::Ready).map(|_| ()))?,
            }
        }
        self.resume_deletions()?;
        // What an interrupted backup had stored already is nobody's now.
        if !making.is_empty() {
            self.maintenance.request();
        }
        Ok(())
    }

    fn interrupt_restore(&self, job: &Job) -> Result<(), rusqlite::Error> {
        let reason = match Goal::read(&job.target) {
            Some(Goal::Instance { id, .. }) => {
                self.remove_new_files(id);
                INTERRUPTED.to_string()
            }
            // Whether the file there is the one that was being made cannot be known any more, so it stays.
            Some(Goal::Path { path, .. }) => {
                log::warn!("{} may be incomplete: restore over it once more, or remove it", path.display());
                format!("{INTERRUPTED}; the target may be incomplete: restore over it once more, or remove it")
            }
            None => INTERRUPTED.to_string(),
        };
        self.db.write(|tx| restore::fail(tx, job, &reason, None))
    }

    /// A backup that is Deleting without a job (it cannot happen by our own hand) gets one, so that it does not stay for ever.
    fn resume_deletions(&self) -> Result<(), rusqlite::Error> {
        self.db.write(|tx| {
            for backup in backups::in_state(tx, BackupState::Deleting)? {
                if jobs::of_backup(tx, backup.id)?.is_none() {
                    let now = crate::clock::now_ms();
                    jobs::insert(tx, jobs::JobKind::Delete, backup.id, &serde_json::Value::Null, now)?;
                }
            }
            Ok(())
        })
    }
}
