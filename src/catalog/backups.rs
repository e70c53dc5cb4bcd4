//! Backups of instances, their parts (one a volume), and the instances that were restored from them.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::jobs::{self, JobKind};
use super::list::{self, Filter, Page};
use super::new_uuid;
use super::volumes::Volume;
use crate::model::backup::BackupState;

#[derive(Clone, Debug)]
pub struct Backup {
    pub id: i64,
    pub uuid: String,
    pub project_id: i64,
    pub project_uuid: String,
    pub project_name: String,
    pub instance_uuid: String,
    pub instance_name: String,
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
}

/// A backup about to be made.
pub struct NewBackup<'a> {
    pub project_id: i64,
    pub instance_id: i64,
    /// The schedule and the instant it fired for.
    pub schedule: Option<(i64, i64)>,
    pub description: &'a str,
    pub created_at: i64,
    pub kept_until: Option<i64>,
    pub metadata: Value,
    pub volumes: &'a [Volume],
}

pub const FROM: &str = "backup b JOIN instance i ON i.id = b.instance_id JOIN project p ON p.id = b.project_id \
    LEFT JOIN schedule s ON s.id = b.schedule_id";
const COLUMNS: &str = "b.id, b.uuid, b.project_id, p.uuid, p.name, i.uuid, i.name, b.schedule_id, s.uuid, \
    b.description, b.state, b.error_message, b.created_at, b.finished_at, b.kept_until, b.size, b.stored, b.metadata, \
    (SELECT json_group_array(json_object('uuid', ri.uuid, 'name', ri.name, 'state', ri.state, 'created', r.created)) \
     FROM restoration r JOIN instance ri ON ri.id = r.instance_id WHERE r.backup_id = b.id)";

fn read(row: &Row) -> rusqlite::Result<Backup> {
    Ok(Backup {
        id: row.get(0)?,
        uuid: row.get(1)?,
        project_id: row.get(2)?,
        project_uuid: row.get(3)?,
        project_name: row.get(4)?,
        instance_uuid: row.get(5)?,
        instance_name: row.get(6)?,
        schedule_id: row.get(7)?,
        schedule_uuid: row.get(8)?,
        description: row.get(9)?,
        state: row.get(10)?,
        error_message: row.get(11)?,
        created_at: row.get(12)?,
        finished_at: row.get(13)?,
        kept_until: row.get(14)?,
        size: row.get(15)?,
        stored: row.get(16)?,
        metadata: row.get(17)?,
        restorations: row.get(18)?,
    })
}

/// Inserts the backup in state Backing up, its parts and its job. Returns id and uuid.
pub fn insert(connection: &Connection, new: &NewBackup) -> rusqlite::Result<(i64, String)> {
    let uuid = new_uuid();
    let size: i64 = new.volumes.iter().map(|volume| volume.size).sum();
    connection.execute(
        "INSERT INTO backup (uuid, project_id, instance_id, schedule_id, trigger_at, description, state, created_at, kept_until, \
         size, reserved, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            uuid,
            new.project_id,
            new.instance_id,
            new.schedule.map(|(id, _)| id),
            new.schedule.map(|(_, at)| at),
            new.description,
            BackupState::BackingUp,
            new.created_at,
            new.kept_until,
            size,
            size,
            new.metadata.to_string()
        ],
    )?;
    let id = connection.last_insert_rowid();
    for volume in new.volumes {
        connection.execute(
            "INSERT INTO volume_backup (uuid, backup_id, position, volume_id, name, bootable, size, created) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![new_uuid(), id, volume.position, volume.id, volume.name, volume.bootable, volume.size, new.created_at],
        )?;
    }
    jobs::insert(connection, JobKind::Create, id, &Value::Null, new.created_at)?;
    Ok((id, uuid))
}

/// Moves the backup from one state to another; false if it was not in the first.
pub fn transition(connection: &Connection, id: i64, from: BackupState, to: BackupState) -> rusqlite::Result<bool> {
    Ok(connection.execute("UPDATE backup SET state = ? WHERE id = ? AND state = ?", params![to, id, from])? == 1)
}

/// Backing up -> Ready.
pub fn complete(connection: &Connection, id: i64, stored: i64, now: i64) -> rusqlite::Result<bool> {
    Ok(connection.execute(
        "UPDATE backup SET state = ?, stored = ?, finished_at = ? WHERE id = ? AND state = ?",
        params![BackupState::Ready, stored, now, id, BackupState::BackingUp],
    )? == 1)
}

/// The making failed: Erred, and the quota is given back because none of its data is kept.
pub fn fail(connection: &Connection, id: i64, message: &str, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE backup SET state = ?, error_message = ?, finished_at = ?, reserved = 0 WHERE id = ?",
        params![BackupState::Erred, message, now, id],
    )?;
    Ok(())
}

/// The stored data was found corrupt: Erred, but the data stays until the backup is deleted.
pub fn mark_corrupt(connection: &Connection, id: i64, message: &str) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE backup SET state = ?, error_message = ? WHERE id = ?",
        params![BackupState::Erred, message, id],
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

/// Filter columns: b.* (backup), i.* (instance), p.* (project), s.* (schedule).
pub fn rows(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<Vec<Backup>> {
    list::rows(connection, &format!("SELECT {COLUMNS} FROM {FROM}"), filter, page, read)
}

pub fn in_state(connection: &Connection, state: BackupState) -> rusqlite::Result<Vec<Backup>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE b.state = ? ORDER BY b.id"))?
        .query_map([state], read)?
        .collect()
}

/// Uuids of a schedule's backups in creation order.
pub fn uuids_of_schedule(connection: &Connection, schedule_id: i64) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached("SELECT uuid FROM backup WHERE schedule_id = ? ORDER BY created_at, id")?
        .query_map([schedule_id], |row| row.get(0))?
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

/// The backups whose time was over before `now`, whatever their state.
pub fn past_kept_until(connection: &Connection, now: i64) -> rusqlite::Result<Vec<Backup>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE b.kept_until < ? ORDER BY b.kept_until, b.id"))?
        .query_map([now], read)?
        .collect()
}

/// Ready or Erred -> Deleting with its job, in one go; false if the state forbids it.
pub fn begin_delete(connection: &Connection, id: i64, now: i64) -> rusqlite::Result<bool> {
    let begun = transition(connection, id, BackupState::Ready, BackupState::Deleting)?
        || transition(connection, id, BackupState::Erred, BackupState::Deleting)?;
    if begun {
        jobs::insert(connection, JobKind::Delete, id, &Value::Null, now)?;
    }
    Ok(begun)
}

/// Ready -> Restoring with its job, in one go; false if the state forbids it.
pub fn begin_restore(connection: &Connection, id: i64, target: &Value, now: i64) -> rusqlite::Result<bool> {
    let begun = transition(connection, id, BackupState::Ready, BackupState::Restoring)?;
    if begun {
        jobs::insert(connection, JobKind::Restore, id, target, now)?;
    }
    Ok(begun)
}

// ---- parts

/// The backup of one volume, a part of an instance's backup.
#[derive(Clone, Debug)]
pub struct VolumeBackup {
    pub id: i64,
    pub position: i64,
    pub volume_id: Option<i64>,
    pub name: String,
    pub bootable: bool,
    pub size: i64,
    pub map_id: Option<i64>,
}

impl VolumeBackup {
    /// What it is called in messages.
    pub fn label(&self) -> String {
        format!("volume {} ({})", self.position, self.name)
    }
}

pub fn parts(connection: &Connection, backup_id: i64) -> rusqlite::Result<Vec<VolumeBackup>> {
    connection
        .prepare_cached(
            "SELECT id, position, volume_id, name, bootable, size, map_id FROM volume_backup WHERE backup_id = ? ORDER BY position",
        )?
        .query_map([backup_id], |row| {
            Ok(VolumeBackup {
                id: row.get(0)?,
                position: row.get(1)?,
                volume_id: row.get(2)?,
                name: row.get(3)?,
                bootable: row.get(4)?,
                size: row.get(5)?,
                map_id: row.get(6)?,
            })
        })?
        .collect()
}

/// The part's bytes are all stored.
pub fn complete_part(connection: &Connection, id: i64, map_id: i64, stored: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume_backup SET map_id = ?, stored = ? WHERE id = ?", params![map_id, stored, id])?;
    Ok(())
}

/// The volume has another size than when the backup was ordered; see [`reserve_parts`].
pub fn resize_part(connection: &Connection, id: i64, size: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume_backup SET size = ? WHERE id = ?", params![size, id])?;
    Ok(())
}

/// Takes what its parts need of the quota.
pub fn reserve_parts(connection: &Connection, backup_id: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE backup SET (size, reserved) = (SELECT sum(size), sum(size) FROM volume_backup WHERE backup_id = ?1) WHERE id = ?1",
        [backup_id],
    )?;
    Ok(())
}

/// Takes the map away from a part, before the store deletes the map.
pub fn forget_map(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume_backup SET map_id = NULL WHERE id = ?", [id])?;
    Ok(())
}

// ---- restorations

pub fn insert_restoration(connection: &Connection, backup_id: i64, instance_id: i64, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO restoration (backup_id, instance_id, created) VALUES (?, ?, ?)",
        params![backup_id, instance_id, now],
    )?;
    Ok(())
}
