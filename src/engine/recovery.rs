//! What the daemon does at start with the work it was at when it ended, however it ended: a backup in the making is Erred
//! and its schedule deactivated, a backup being restored is Ready and the half-made machine Erred, deletions go on.

use super::{Engine, EngineStartError, create, restore};
use crate::catalog::backups;
use crate::catalog::jobs;
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
            self.db.write(|tx| {
                match jobs::of_backup(tx, backup.id)? {
                    Some(job) => restore::fail(tx, &job, INTERRUPTED, None),
                    None => backups::transition(tx, backup.id, BackupState::Restoring, BackupState::Ready).map(|_| ()),
                }
            })?;
        }
        self.resume_deletions()?;
        // What an interrupted backup had stored already is nobody's now.
        if !making.is_empty() {
            self.maintenance.request();
        }
        Ok(())
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
