//! What backups and snapshots hold of each volume. One volume in a backup is also what Cinder shows as a backup or a snapshot;
//! its state is that of the backup that it is part of.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};
use super::volumes::Volume;
use super::repositories::COFFER;
use crate::model::backup::{BackupKind, BackupState};

/// The availability zone that everything is in.
pub const ZONE: &str = "nova";

// ---- as jobs see it

/// One volume in a backup, as far as those who read and write it need to know.
#[derive(Clone, Debug)]
pub struct Part {
    pub id: i64,
    pub uuid: String,
    pub kind: BackupKind,
    pub position: i64,
    pub volume_id: Option<i64>,
    pub name: String,
    pub bootable: bool,
    pub size: i64,
    pub map_id: Option<i64>,
}

impl Part {
    /// What it is called in messages.
    pub fn label(&self) -> String {
        match (self.kind, self.name.as_str()) {
            (BackupKind::Instance, name) => format!("volume {} ({name})", self.position),
            (_, "") => "the volume".into(),
            (_, name) => format!("volume {name}"),
        }
    }
}

const PART: &str = "id, position, volume_id, name, bootable, size, map_id, kind, uuid";

fn read_part(row: &Row) -> rusqlite::Result<Part> {
    Ok(Part {
        id: row.get(0)?,
        uuid: row.get(8)?,
        kind: row.get(7)?,
        position: row.get(1)?,
        volume_id: row.get(2)?,
        name: row.get(3)?,
        bootable: row.get(4)?,
        size: row.get(5)?,
        map_id: row.get(6)?,
    })
}

/// The volumes in a backup, in their order.
pub fn parts(connection: &Connection, backup_id: i64) -> rusqlite::Result<Vec<Part>> {
    connection
        .prepare_cached(&format!("SELECT {PART} FROM volume_backup WHERE backup_id = ? ORDER BY position"))?
        .query_map([backup_id], read_part)?
        .collect()
}

/// All that share a volume map, each with the id of its backup.
pub fn of_map(connection: &Connection, map_id: i64) -> rusqlite::Result<Vec<(i64, Part)>> {
    connection
        .prepare_cached(&format!("SELECT {PART}, backup_id FROM volume_backup WHERE map_id = ? ORDER BY id"))?
        .query_map([map_id], |row| Ok((row.get(9)?, read_part(row)?)))?
        .collect()
}

/// What of the store belongs to which backup, with its copies: (map, backup) by map, ascending.
pub fn maps(connection: &Connection) -> rusqlite::Result<Vec<(i64, i64)>> {
    connection
        .prepare_cached(
            "SELECT map_id, backup_id FROM volume_backup WHERE map_id IS NOT NULL \
             UNION SELECT cv.map_id, c.backup_id FROM copy_volume cv JOIN copy c ON c.id = cv.copy_id ORDER BY 1, 2",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// What is stored in this place of the volume as it was last.
pub fn latest_map(connection: &Connection, volume_id: i64, repository_id: Option<i64>) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT max(map_id) FROM volume_backup vb JOIN backup b ON b.id = vb.backup_id WHERE vb.volume_id = ? AND b.repository_id IS ?",
        )?
        .query_row(params![volume_id, repository_id], |row| row.get(0))
}

/// The part's bytes are all stored.
pub fn complete(connection: &Connection, id: i64, map_id: i64, stored: i64, objects: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE volume_backup SET map_id = ?1, stored = ?2, objects = ?3, container = coalesce((SELECT r.name FROM backup b \
         JOIN repository r ON r.id = b.repository_id WHERE b.id = backup_id), container, ?4) WHERE id = ?5",
        params![map_id, stored, objects, COFFER, id],
    )?;
    Ok(())
}

/// The part's bytes have another map from now on. Returns the one before if nothing else refers to it, so that the store may delete it.
pub fn replace_map(connection: &Connection, part: &Part, map_id: i64) -> rusqlite::Result<Option<i64>> {
    let before = release_map(connection, part)?;
    connection.execute("UPDATE volume_backup SET map_id = ? WHERE id = ?", [map_id, part.id])?;
    Ok(before)
}

/// The volume has another size than when the backup was ordered; see [`reserve`].
pub fn resize(connection: &Connection, id: i64, size: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume_backup SET size = ? WHERE id = ?", params![size, id])?;
    Ok(())
}

/// Takes what a backup's parts need of the quota.
pub fn reserve(connection: &Connection, backup_id: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE backup SET (size, reserved) = (SELECT sum(size), sum(size) FROM volume_backup WHERE backup_id = ?1) WHERE id = ?1",
        [backup_id],
    )?;
    Ok(())
}

/// Takes the map away from a part. Returns it if nothing else refers to it, so that the store may delete it.
pub fn release_map(connection: &Connection, part: &Part) -> rusqlite::Result<Option<i64>> {
    let Some(map_id) = part.map_id else { return Ok(None) };
    connection.execute("UPDATE volume_backup SET map_id = NULL WHERE id = ?", [part.id])?;
    Ok((!is_map_used(connection, map_id)?).then_some(map_id))
}

/// Does a backup that is Ready, or a copy that is there, have this map?
pub fn is_map_whole(connection: &Connection, map_id: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM volume_backup v JOIN backup b ON b.id = v.backup_id WHERE v.map_id = ?1 AND b.state IN ('ready', 'restoring') \
             UNION ALL SELECT 1 FROM copy_volume v JOIN copy c ON c.id = v.copy_id WHERE v.map_id = ?1 AND c.finished IS NOT NULL",
        )?
        .exists([map_id])
}

/// Does anything refer to the map: a backup, a snapshot, a copy, or a backup that is to be made from it?
pub fn is_map_used(connection: &Connection, map_id: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM volume_backup WHERE map_id = ?1) OR EXISTS (SELECT 1 FROM copy_volume WHERE map_id = ?1) \
                OR EXISTS (SELECT 1 FROM job WHERE kind = 'create' AND json_extract(target, '$.map') = ?1)",
        )?
        .query_row([map_id], |row| row.get(0))
}

// ---- as Cinder sees it

#[derive(Clone, Debug)]
pub struct VolumeBackup {
    pub id: i64,
    pub uuid: String,
    pub backup_id: i64,
    pub kind: BackupKind,
    pub project_id: i64,
    pub project_uuid: String,
    pub user_uuid: String,
    pub state: BackupState,
    pub fail_reason: Option<String>,
    pub created: i64,
    pub updated: Option<i64>,
    /// Bytes.
    pub size: i64,
    /// Bytes that its making added to the store.
    pub stored: i64,
    /// Chunks that its making added to the store.
    pub objects: i64,
    pub map_id: Option<i64>,
    /// All zeros if it is not known.
    pub volume_uuid: String,
    pub volume_id: Option<i64>,
    /// The volume as it was.
    pub volume_name: String,
    pub volume_description: Option<String>,
    /// JSON object of strings.
    pub volume_labels: String,
    pub bootable: bool,
    pub title: Option<String>,
    pub description: Option<String>,
    /// JSON object of strings.
    pub labels: String,
    pub container: Option<String>,
    pub zone: Option<String>,
    pub snapshot_uuid: Option<String>,
    pub data_timestamp: Option<i64>,
    pub parent_uuid: Option<String>,
    /// A finished backup was asked to be incremental to this one.
    pub has_children: bool,
    /// uuid of the instance's backup that it is part of, and the instance's name.
    pub whole: Option<(String, String)>,
}

/// One about to be inserted, of an existing backup row.
pub struct NewVolumeBackup<'a> {
    pub uuid: &'a str,
    pub backup_id: i64,
    pub kind: BackupKind,
    pub project_id: i64,
    pub position: i64,
    pub volume_id: Option<i64>,
    pub volume_uuid: &'a str,
    pub volume_name: &'a str,
    pub volume_description: Option<&'a str>,
    pub volume_labels: &'a str,
    pub bootable: bool,
    pub size: i64,
    pub created: i64,
    pub face: Face<'a>,
}

/// What Cinder alone knows of a backup or snapshot.
#[derive(Clone, Copy, Default)]
pub struct Face<'a> {
    pub title: Option<&'a str>,
    pub description: Option<&'a str>,
    /// JSON object of strings; empty: none.
    pub labels: &'a str,
    pub container: Option<&'a str>,
    pub zone: Option<&'a str>,
    pub parent_id: Option<i64>,
    pub snapshot_uuid: Option<&'a str>,
    pub data_timestamp: Option<i64>,
}

/// What a volume is at the moment, to be remembered with its backup.
impl<'a> NewVolumeBackup<'a> {
    pub fn of(volume: &'a Volume, uuid: &'a str, backup_id: i64, kind: BackupKind, created: i64, face: Face<'a>) -> NewVolumeBackup<'a> {
        NewVolumeBackup {
            uuid,
            backup_id,
            kind,
            project_id: volume.project_id,
            position: volume.position,
            volume_id: Some(volume.id),
            volume_uuid: &volume.uuid,
            volume_name: &volume.name,
            volume_description: volume.description.as_deref(),
            volume_labels: &volume.labels,
            bootable: volume.bootable,
            size: volume.size,
            created,
            face,
        }
    }
}

pub fn insert(connection: &Connection, new: &NewVolumeBackup) -> rusqlite::Result<i64> {
    let face = &new.face;
    connection.execute(
        "INSERT INTO volume_backup (uuid, backup_id, kind, project_id, position, volume_id, volume_uuid, name, volume_description, \
         volume_labels, bootable, size, created, title, description, labels, container, zone, parent_id, snapshot_uuid, data_timestamp) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            new.uuid,
            new.backup_id,
            new.kind,
            new.project_id,
            new.position,
            new.volume_id,
            new.volume_uuid,
            new.volume_name,
            new.volume_description,
            new.volume_labels,
            new.bootable,
            new.size,
            new.created,
            face.title,
            face.description,
            if face.labels.is_empty() { "{}" } else { face.labels },
            face.container,
            face.zone.unwrap_or(ZONE),
            face.parent_id,
            face.snapshot_uuid,
            face.data_timestamp
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

/// Filter columns: vb.* (the volume in the backup), b.* (the backup), p.* (project), parent.*.
pub const FROM: &str = "volume_backup vb JOIN backup b ON b.id = vb.backup_id JOIN project p ON p.id = vb.project_id \
    LEFT JOIN volume_backup parent ON parent.id = vb.parent_id LEFT JOIN instance i ON i.id = b.instance_id";
const COLUMNS: &str = "vb.id, vb.uuid, vb.backup_id, vb.kind, vb.project_id, p.uuid, b.user_uuid, b.state, b.fail_reason, vb.created, \
    b.updated_at, vb.size, vb.objects, vb.map_id, vb.volume_uuid, vb.volume_id, vb.name, vb.volume_description, vb.volume_labels, \
    vb.bootable, vb.title, coalesce(vb.description, iif(vb.kind = 'instance', b.description, NULL)), vb.labels, vb.container, vb.zone, \
    vb.snapshot_uuid, vb.data_timestamp, parent.uuid, \
    EXISTS (SELECT 1 FROM volume_backup c WHERE c.parent_id = vb.id AND c.map_id IS NOT NULL), \
    b.uuid, i.name, vb.stored";

fn read(row: &Row) -> rusqlite::Result<VolumeBackup> {
    let instance: Option<String> = row.get(30)?;
    Ok(VolumeBackup {
        id: row.get(0)?,
        uuid: row.get(1)?,
        backup_id: row.get(2)?,
        kind: row.get(3)?,
        project_id: row.get(4)?,
        project_uuid: row.get(5)?,
        user_uuid: row.get(6)?,
        state: row.get(7)?,
        fail_reason: row.get(8)?,
        created: row.get(9)?,
        updated: row.get(10)?,
        size: row.get(11)?,
        stored: row.get(31)?,
        objects: row.get(12)?,
        map_id: row.get(13)?,
        volume_uuid: row.get(14)?,
        volume_id: row.get(15)?,
        volume_name: row.get(16)?,
        volume_description: row.get(17)?,
        volume_labels: row.get(18)?,
        bootable: row.get(19)?,
        title: row.get(20)?,
        description: row.get(21)?,
        labels: row.get(22)?,
        container: row.get(23)?,
        zone: row.get(24)?,
        snapshot_uuid: row.get(25)?,
        data_timestamp: row.get(26)?,
        parent_uuid: row.get(27)?,
        has_children: row.get(28)?,
        whole: match instance {
            Some(name) => Some((row.get(29)?, name)),
            None => None,
        },
    })
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<VolumeBackup>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE vb.uuid = ?"))?.query_row([uuid], read).optional()
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<VolumeBackup>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE vb.id = ?"))?.query_row([id], read).optional()
}

pub fn count(connection: &Connection, filter: &Filter) -> rusqlite::Result<i64> {
    list::count(connection, FROM, filter)
}

pub fn rows(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<Vec<VolumeBackup>> {
    list::rows(connection, &format!("SELECT {COLUMNS} FROM {FROM}"), filter, page, read)
}

/// Name, description and labels as a user wants them.
pub fn set_texts(
    connection: &Connection,
    backup: &VolumeBackup,
    title: Option<&str>,
    description: Option<&str>,
    labels: &str,
    now: i64,
) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE volume_backup SET title = ?, description = ?, labels = ? WHERE id = ?",
        params![title, description, labels, backup.id],
    )?;
    connection.execute("UPDATE backup SET updated_at = ? WHERE id = ?", params![now, backup.backup_id])?;
    Ok(())
}

/// What an incremental backup is incremental to: the newest available one of this volume in this project, and if a snapshot is
/// the source, of what was before it (Cinder contract 1.1).
pub fn newest_parent(connection: &Connection, project_id: i64, volume_id: i64, before: Option<i64>) -> rusqlite::Result<Option<i64>> {
    connection
        .query_row(
            "SELECT vb.id FROM volume_backup vb JOIN backup b ON b.id = vb.backup_id \
             WHERE vb.volume_id = ?1 AND vb.project_id = ?2 AND vb.kind <> 'snapshot' AND b.state = 'ready' \
                AND (?3 IS NULL OR vb.data_timestamp < ?3) ORDER BY vb.data_timestamp DESC, vb.id DESC LIMIT 1",
            params![volume_id, project_id, before],
            |row| row.get(0),
        )
        .optional()
}

/// Was another backup, in whatever state, asked to be incremental to this one?
pub fn is_parent(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM volume_backup WHERE parent_id = ?)", [id], |row| row.get(0))
}
