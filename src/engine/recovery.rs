//! What the daemon does at start with the work it was at when it ended, however it ended: a backup in the making is Erred
//! and its schedule deactivated, a backup being restored is Ready and what was being made of it in error; a volume being copied
//! is in error; what takes no time (deleting, making an empty volume, extending) goes on.

use rusqlite::Transaction;

use super::restore::{self, Goal};
use super::{Engine, EngineStartError, create, volumes};
use crate::catalog::jobs::{self, Job, JobKind};
use crate::catalog::{self, backups};
use crate::clock;
use crate::model::backup::BackupState;
use crate::model::volume::VolumeState;

const INTERRUPTED: &str = "interrupted: the daemon ended while this was running";

impl Engine {
    pub(super) fn recover(&self) -> Result<(), EngineStartError> {
        let promised = self.db.read(jobs::all)?;
        for job in &promised {
            match job.kind {
                JobKind::Create => {
                    let backup_id = job.backup_id.unwrap_or_default();
                    log::warn!("the making of backup {backup_id} was interrupted");
                    self.db.write(|tx| create::fail(tx, backup_id, INTERRUPTED))?;
                }
                JobKind::Restore => self.interrupt_restore(job)?,
                JobKind::Copy => {
                    self.remove_new_file(job.volume_id.unwrap_or_default());
                    self.db.write(|tx| volumes::fail(tx, job, INTERRUPTED))?;
                }
                JobKind::Delete | JobKind::Provision | JobKind::Extend | JobKind::Erase => {}
            }
        }
        self.db.write(settle_without_job)?;
        // What an interrupted backup had stored already is nobody's now.
        if promised.iter().any(|job| job.kind == JobKind::Create) {
            self.maintenance.request();
        }
        Ok(())
    }

    fn interrupt_restore(&self, job: &Job) -> Result<(), rusqlite::Error> {
        log::warn!("the restoration of backup {} was interrupted", job.backup_id.unwrap_or_default());
        let goal = Goal::read(&job.target);
        self.remove_half_written(goal.as_ref());
        let reason = match goal {
            Some(Goal::Volume { fresh: false, .. }) => format!("{INTERRUPTED}; the volume is incomplete: restore to it once more"),
            // Whether the file there is the one that was being made cannot be known any more, so it stays.
            Some(Goal::Path { path, .. }) => {
                log::warn!("{} may be incomplete: restore over it once more, or remove it", path.display());
                format!("{INTERRUPTED}; the target may be incomplete: restore over it once more, or remove it")
            }
            _ => INTERRUPTED.to_string(),
        };
        self.db.write(|tx| restore::fail(tx, job, &reason, None, false))
    }
}

/// States that only a job can lead out of, without one: it cannot happen by our own hand, but nothing must stay so for ever.
fn settle_without_job(tx: &Transaction) -> rusqlite::Result<()> {
    let now = clock::now_ms();
    for backup in backups::in_state(tx, BackupState::BackingUp)? {
        create::fail(tx, backup.id, INTERRUPTED)?;
    }
    for backup in backups::in_state(tx, BackupState::Restoring)? {
        backups::transition(tx, backup.id, BackupState::Restoring, BackupState::Ready)?;
    }
    for backup in backups::in_state(tx, BackupState::Deleting)? {
        if jobs::of_backup(tx, backup.id)?.is_empty() {
            jobs::insert(tx, JobKind::Delete, backup.id, None, &serde_json::Value::Null, now)?;
        }
    }
    for (state, end) in [(VolumeState::Creating, VolumeState::Error), (VolumeState::Extending, VolumeState::ErrorExtending)] {
        for volume in catalog::volumes::in_state(tx, state)? {
            if !jobs::on_volume(tx, volume.id)? {
                catalog::volumes::set_state(tx, volume.id, end, INTERRUPTED, now)?;
            }
        }
    }
    Ok(())
}
