//! Backups of instances and of single volumes, snapshots of volumes: their states, and the instances restored from them. What
//! they hold of each volume is in volume_backups.rs.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::jobs::{self, JobKind};
use super::list::{self, Filter, Page};
use crate::model::backup::{BackupKind, BackupState};

#[derive(Clone, Debug)]
pub struct Backup {
    pub id: i64,
    pub uuid: String,
    pub kind: BackupKind,
    pub project_id: i64,
    pub project_uuid: String,
    pub project_name: String,
    /// Empty unless it is an instance's.
    pub instance_uuid: String,
    /// Of what it is: the instance's name, or the volume's.
    pub subject: String,
    pub schedule_id: Option<i64>,
    pub schedule_uuid: Option<String>,
    pub description: String,
    pub state: BackupState,
    pub error_message: String,
    pub created_at: i64,
    pub finished_at: Option<i64>,
    pub kept_until: Option<i64>,
    /// Sum of the virtual sizes of its volumes, bytes.
    pub size: i64,
    /// Bytes that its making added to the store.
    pub stored: i64,
    /// The instance as it was, as JSON text.
    pub metadata: String,
    /// JSON array of {uuid, name, state, created}.
    pub restorations: String,
    /// Where its data lies or goes; None: in the coffer.
    pub repository_id: Option<i64>,
    /// Its name.
    pub repository: String,
    /// Its object there.
    pub manifest: Option<String>,
    /// Where else it is or is to be: JSON array of {id, repository, state, error_message}.
    pub copies: String,
}

/// A backup about to be made.
pub struct NewBackup<'a> {
    pub uuid: &'a str,
    pub kind: BackupKind,
    pub project_id: i64,
    pub user_uuid: &'a str,
    /// Of an instance's backup.
    pub instance_id: Option<i64>,
    /// The schedule and the instant it fired for.
    pub schedule: Option<(i64, i64)>,
    pub description: &'a str,
    pub created_at: i64,
    pub kept_until: Option<i64>,
    pub metadata: Value,
    /// Sum of the virtual sizes of its volumes, bytes.
    pub size: i64,
    /// Where its data goes; None: into the coffer.
    pub repository_id: Option<i64>,
}

/// Filter columns: b.* (backup), i.* (instance), p.* (project), s.* (schedule).
pub const FROM: &str = "backup b JOIN project p ON p.id = b.project_id LEFT JOIN instance i ON i.id = b.instance_id \
    LEFT JOIN schedule s ON s.id = b.schedule_id";
const COLUMNS: &str = "b.id, b.uuid, b.kind, b.project_id, p.uuid, p.name, ifnull(i.uuid, ''), \
    coalesce(i.name, (SELECT iif(name = '', 'volume ' || volume_uuid, name) FROM volume_backup WHERE backup_id = b.id), ''), b.schedule_id, s.uuid, \
    b.description, b.state, b.error_message, b.created_at, b.finished_at, b.kept_until, b.size, b.stored, b.metadata, \
    (SELECT json_group_array(json_object('uuid', ri.uuid, 'name', ri.name, 'state', ri.state, 'created', r.created)) \
     FROM restoration r JOIN instance ri ON ri.id = r.instance_id WHERE r.backup_id = b.id), b.repository_id, b.manifest, \
    coalesce((SELECT name FROM repository WHERE id = b.repository_id), 'coffer'), \
    (SELECT json_group_array(json_object('id', c.id, 'repository', ifnull(cr.name, 'coffer'), \
        'state', CASE WHEN c.finished IS NOT NULL THEN 'ready' WHEN c.error_message = '' THEN 'waiting' ELSE 'failed' END, \
        'error_message', c.error_message)) \
     FROM copy c LEFT JOIN repository cr ON cr.id = c.repository_id WHERE c.backup_id = b.id)";

fn read(row: &Row) -> rusqlite::Result<Backup> {
    Ok(Backup {
        id: row.get(0)?,
        uuid: row.get(1)?,
        kind: row.get(2)?,
        project_id: row.get(3)?,
        project_uuid: row.get(4)?,
        project_name: row.get(5)?,
        instance_uuid: row.get(6)?,
        subject: row.get(7)?,
        schedule_id: row.get(8)?,
        schedule_uuid: row.get(9)?,
        description: row.get(10)?,
        state: row.get(11)?,
        error_message: row.get(12)?,
        created_at: row.get(13)?,
        finished_at: row.get(14)?,
        kept_until: row.get(15)?,
        size: row.get(16)?,
        stored: row.get(17)?,
        metadata: row.get(18)?,
        restorations: row.get(19)?,
        repository_id: row.get(20)?,
        manifest: row.get(21)?,
        repository: row.get(22)?,
        copies: row.get(23)?,
    })
}

/// Inserts the backup in state Backing up; its volumes and its job are inserted apart. Returns its id.
pub fn insert(connection: &Connection, new: &NewBackup) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO backup (uuid, kind, project_id, user_uuid, instance_id, schedule_id, trigger_at, description, state, created_at, \
         kept_until, size, reserved, metadata, repository_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            new.uuid,
            new.kind,
            new.project_id,
            new.user_uuid,
            new.instance_id,
            new.schedule.map(|(id, _)| id),
            new.schedule.map(|(_, at)| at),
            new.description,
            BackupState::BackingUp,
            new.created_at,
            new.kept_until,
            new.size,
            new.size,
            new.metadata.to_string(),
            new.repository_id
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

/// Moves the backup from one state to another; false if it was not in the first.
pub fn transition(connection: &Connection, id: i64, from: BackupState, to: BackupState) -> rusqlite::Result<bool> {
    Ok(connection.execute(
        "UPDATE backup SET state = ?, updated_at = ? WHERE id = ? AND state = ?",
        params![to, crate::clock::now_ms(), id, from],
    )? == 1)
}

/// Backing up -> Ready.
pub fn complete(connection: &Connection, id: i64, stored: i64, now: i64) -> rusqlite::Result<bool> {
    Ok(connection.execute(
        "UPDATE backup SET state = ?1, stored = ?2, finished_at = ?3, updated_at = ?3 WHERE id = ?4 AND state = ?5",
        params![BackupState::Ready, stored, now, id, BackupState::BackingUp],
    )? == 1)
}

/// The object that names all its data in its repository.
pub fn set_manifest(connection: &Connection, id: i64, name: Option<&str>) -> rusqlite::Result<()> {
    connection.execute("UPDATE backup SET manifest = ? WHERE id = ?", params![name, id])?;
    Ok(())
}

/// The making failed: Backing up -> Erred, and the quota is given back because none of its data is kept.
pub fn fail(connection: &Connection, id: i64, message: &str, now: i64) -> rusqlite::Result<bool> {
    Ok(connection.execute(
        "UPDATE backup SET state = ?1, error_message = ?2, fail_reason = ?2, finished_at = ?3, updated_at = ?3, reserved = 0 \
         WHERE id = ?4 AND state = ?5",
        params![BackupState::Erred, message, now, id, BackupState::BackingUp],
    )? == 1)
}

/// The stored data was found corrupt: Erred, but the data stays until the backup is deleted. One that is on its way out goes on.
pub fn mark_corrupt(connection: &Connection, id: i64, message: &str) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE backup SET state = ?1, error_message = ?2, fail_reason = ?2, updated_at = ?3 WHERE id = ?4 AND state <> ?5",
        params![BackupState::Erred, message, crate::clock::now_ms(), id, BackupState::Deleting],
    )?;
    Ok(())
}

/// Remembers why a restore failed, whatever becomes of the backup.
pub fn set_fail_reason(connection: &Connection, id: i64, message: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE backup SET fail_reason = ? WHERE id = ?", params![message, id])?;
    Ok(())
}

/// Puts the backup into a state, whatever it was in, without an error. For administrators (Cinder's os-reset_status).
pub fn reset(connection: &Connection, id: i64, state: BackupState, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE backup SET state = ?, error_message = '', updated_at = ? WHERE id = ?",
        params![state, now, id],
    )?;
    Ok(())
}

/// What was wrong is right again.
pub fn clear_error(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE backup SET error_message = '' WHERE id = ?", [id])?;
    Ok(())
}

pub fn set_texts(connection: &Connection, id: i64, description: &str, kept_until: Option<i64>) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE backup SET description = ?, kept_until = ? WHERE id = ?",
        params![description, kept_until, id],
    )?;
    Ok(())
}

pub fn set_metadata(connection: &Connection, id: i64, metadata: &Value) -> rusqlite::Result<()> {
    connection.execute("UPDATE backup SET metadata = ? WHERE id = ?", params![metadata.to_string(), id])?;
    Ok(())
}

/// Removes the row, its parts, its job and its restoration records. The parts' maps are the store's to delete first.
pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM backup WHERE id = ?", [id])?;
    Ok(())
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Backup>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE b.uuid = ?"))?
        .query_row([uuid], read)
        .optional()
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<Backup>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE b.id = ?"))?.query_row([id], read).optional()
}

/// Instances' backups only. For columns see [`FROM`].
pub fn rows(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<Vec<Backup>> {
    list::rows(connection, &format!("SELECT {COLUMNS} FROM {FROM}"), filter, page, read)
}

pub fn in_state(connection: &Connection, state: BackupState) -> rusqlite::Result<Vec<Backup>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE b.state = ? ORDER BY b.id"))?
        .query_map([state], read)?
        .collect()
}

/// The snapshots of a volume.
pub fn snapshots_of(connection: &Connection, volume_id: i64) -> rusqlite::Result<Vec<Backup>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM {FROM} WHERE b.id IN (SELECT backup_id FROM volume_backup WHERE volume_id = ? AND kind = ?) ORDER BY b.id"
        ))?
        .query_map(params![volume_id, BackupKind::Snapshot], read)?
        .collect()
}

/// Uuids of a schedule's newest backups in creation order.
pub fn uuids_of_schedule(connection: &Connection, schedule_id: i64, limit: i64) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT uuid FROM (SELECT uuid, created_at, id FROM backup WHERE schedule_id = ? ORDER BY created_at DESC, id DESC LIMIT ?) \
             ORDER BY created_at, id",
        )?
        .query_map([schedule_id, limit], |row| row.get(0))?
        .collect()
}

pub fn instance_has_backups(connection: &Connection, instance_id: i64) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM backup WHERE instance_id = ?)", [instance_id], |row| row.get(0))
}

/// Is a backup of this schedule still being made?
pub fn schedule_is_running(connection: &Connection, schedule_id: i64) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM backup WHERE schedule_id = ? AND state = ?)",
        params![schedule_id, BackupState::BackingUp],
        |row| row.get(0),
    )
}

/// (id, state, created_at) of a schedule's backups, for retention.
pub fn of_schedule(connection: &Connection, schedule_id: i64) -> rusqlite::Result<Vec<(i64, BackupState, i64)>> {
    connection
        .prepare_cached("SELECT id, state, created_at FROM backup WHERE schedule_id = ? ORDER BY created_at, id")?
        .query_map([schedule_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

/// (id, state, kept_until) of the backups whose time was over before `now`, whatever their state.
pub fn past_kept_until(connection: &Connection, now: i64) -> rusqlite::Result<Vec<(i64, BackupState, i64)>> {
    connection
        .prepare_cached("SELECT id, state, kept_until FROM backup WHERE kept_until < ? ORDER BY kept_until, id")?
        .query_map([now], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

/// Ready or Erred -> Deleting with its job, in one go; false if the state forbids it.
pub fn begin_delete(connection: &Connection, id: i64, now: i64) -> rusqlite::Result<bool> {
    let begun = transition(connection, id, BackupState::Ready, BackupState::Deleting)?
        || transition(connection, id, BackupState::Erred, BackupState::Deleting)?;
    if begun {
        jobs::insert(connection, JobKind::Delete, id, None, &Value::Null, now)?;
    }
    Ok(begun)
}

/// Ready -> Restoring with its job, in one go; false if the state forbids it. A snapshot stays Ready. `volume_id`: the
/// registered volume that is written to, if it is one.
pub fn begin_restore(
    connection: &Connection,
    id: i64,
    volume_id: Option<i64>,
    target: &Value,
    now: i64,
) -> rusqlite::Result<bool> {
    let begun = connection.execute(
        "UPDATE backup SET state = iif(kind = ?1, state, ?2), updated_at = ?3 WHERE id = ?4 AND state = ?5",
        params![BackupKind::Snapshot, BackupState::Restoring, now, id, BackupState::Ready],
    )? == 1;
    if begun {
        jobs::insert(connection, JobKind::Restore, id, volume_id, target, now)?;
    }
    Ok(begun)
}

// ---- repositories

/// Repositories to which backups were sent that failed since `after`, each with the beginning of the first of them.
pub fn failed_uploads(connection: &Connection, after: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    connection
        .prepare_cached(
            "SELECT repository_id, min(created_at) FROM backup b WHERE state = ?1 AND finished_at >= ?2 AND repository_id IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM volume_backup WHERE backup_id = b.id AND map_id IS NOT NULL) GROUP BY repository_id",
        )?
        .query_map(params![BackupState::Erred, after], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Backups of a repository by the object of their manifest, each with its id and state and whether its data is known.
pub fn with_manifest(connection: &Connection, repository_id: i64) -> rusqlite::Result<Vec<(String, i64, BackupState, bool)>> {
    connection
        .prepare_cached(
            "SELECT manifest, id, state, NOT EXISTS (SELECT 1 FROM volume_backup WHERE backup_id = b.id AND map_id IS NULL) FROM backup b \
             WHERE repository_id = ? AND manifest IS NOT NULL",
        )?
        .query_map([repository_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect()
}

// ---- restorations

pub fn insert_restoration(connection: &Connection, backup_id: i64, instance_id: i64, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO restoration (backup_id, instance_id, created) VALUES (?, ?, ?)",
        params![backup_id, instance_id, now],
    )?;
    Ok(())
}
