//! Manifests: all that the catalog knows of a backup, as an object that lies beside its data in a repository. They alone fill
//! the catalog of a new host.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::instances::{self, Instance};
use crate::model::backup::{BackupKind, BackupState};

/// The present layout.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// As the catalog has the kind of a backup.
    pub kind: String,
    pub uuid: String,
    pub project: Project,
    pub user: String,
    /// Of an instance's backup.
    pub instance: Option<Machine>,
    pub description: String,
    /// Milliseconds since 1970-01-01T00:00Z, as are all times here.
    pub created: i64,
    pub kept_until: Option<i64>,
    /// When this object was made: no two have the same content, not even after the first was removed.
    #[serde(default)]
    pub sent: i64,
    /// Bytes that its making added to the repository.
    pub stored: i64,
    /// The instance as it was, as JSON text.
    pub metadata: String,
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    pub uuid: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub uuid: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub uuid: String,
    pub position: i64,
    /// What it is a backup of, as it was.
    pub volume: String,
    pub name: String,
    pub volume_description: Option<String>,
    pub volume_labels: String,
    pub bootable: bool,
    /// Bytes.
    pub size: u64,
    pub chunk_size: u32,
    /// Names of its segments, in hexadecimal digits; empty for one of zeros.
    pub segments: Vec<String>,
    /// The hash that names the whole.
    pub hash: String,
    pub stored: i64,
    pub objects: i64,
    pub created: i64,
    pub title: Option<String>,
    pub description: Option<String>,
    pub labels: String,
    pub zone: Option<String>,
    pub parent: Option<String>,
    pub snapshot: Option<String>,
    pub data_timestamp: Option<i64>,
}

/// What the catalog knows; where its bytes are is still to be filled in: `size`, `chunk_size`, `segments`, `hash`, `stored` and
/// `objects` of each volume.
pub fn of(connection: &Connection, backup_id: i64) -> rusqlite::Result<Manifest> {
    let volumes = connection
        .prepare_cached(
            "SELECT vb.uuid, vb.position, vb.volume_uuid, vb.name, vb.volume_description, vb.volume_labels, vb.bootable, vb.size, \
             vb.created, vb.title, vb.description, vb.labels, vb.zone, parent.uuid, vb.snapshot_uuid, vb.data_timestamp \
             FROM volume_backup vb LEFT JOIN volume_backup parent ON parent.id = vb.parent_id WHERE vb.backup_id = ? ORDER BY vb.position",
        )?
        .query_map([backup_id], |row| {
            Ok(Volume {
                uuid: row.get(0)?,
                position: row.get(1)?,
                volume: row.get(2)?,
                name: row.get(3)?,
                volume_description: row.get(4)?,
                volume_labels: row.get(5)?,
                bootable: row.get(6)?,
                size: row.get::<_, i64>(7)? as u64,
                created: row.get(8)?,
                title: row.get(9)?,
                description: row.get(10)?,
                labels: row.get(11)?,
                zone: row.get(12)?,
                parent: row.get(13)?,
                snapshot: row.get(14)?,
                data_timestamp: row.get(15)?,
                chunk_size: 0,
                segments: Vec::new(),
                hash: String::new(),
                stored: 0,
                objects: 0,
            })
        })?
        .collect::<Result<_, _>>()?;
    connection
        .prepare_cached(
            "SELECT b.kind, b.uuid, p.uuid, p.name, b.user_uuid, i.uuid, i.name, b.description, b.created_at, b.kept_until, b.metadata \
             FROM backup b JOIN project p ON p.id = b.project_id LEFT JOIN instance i ON i.id = b.instance_id WHERE b.id = ?",
        )?
        .query_row([backup_id], |row| {
            let machine: Option<String> = row.get(5)?;
            let machine = machine.map(|uuid| Ok::<_, rusqlite::Error>(Machine { uuid, name: row.get(6)? })).transpose()?;
            Ok(Manifest {
                format: FORMAT,
                kind: row.get(0)?,
                uuid: row.get(1)?,
                project: Project { uuid: row.get(2)?, name: row.get(3)? },
                user: row.get(4)?,
                instance: machine,
                description: row.get(7)?,
                created: row.get(8)?,
                kept_until: row.get(9)?,
                sent: 0,
                stored: 0,
                metadata: row.get(10)?,
                volumes,
            })
        })
}

/// Fills the catalog from a manifest of a backup that it does not have, whose volumes have these maps. Returns the backup's id.
pub fn insert(
    connection: &Connection,
    manifest: &Manifest,
    repository_id: i64,
    object: &str,
    maps: &[Option<i64>],
    now: i64,
) -> rusqlite::Result<i64> {
    let project_id = project(connection, &manifest.project, now)?;
    let instance_id = match &manifest.instance {
        Some(machine) => Some(instance(connection, machine, project_id, manifest)?),
        None => None,
    };
    let size: u64 = manifest.volumes.iter().map(|volume| volume.size).sum();
    connection.execute(
        "INSERT INTO backup (uuid, kind, project_id, user_uuid, instance_id, description, state, created_at, finished_at, kept_until, \
         size, reserved, stored, metadata, repository_id, manifest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10, ?10, ?11, ?12, ?13, ?14)",
        params![
            manifest.uuid,
            manifest.kind,
            project_id,
            manifest.user,
            instance_id,
            manifest.description,
            BackupState::Ready,
            manifest.created,
            manifest.kept_until,
            size as i64,
            manifest.stored,
            manifest.metadata,
            repository_id,
            object
        ],
    )?;
    let backup_id = connection.last_insert_rowid();
    for (volume, map_id) in manifest.volumes.iter().zip(maps) {
        connection.execute(
            "INSERT INTO volume_backup (uuid, backup_id, kind, project_id, position, volume_id, volume_uuid, name, volume_description, \
             volume_labels, bootable, size, map_id, stored, objects, created, title, description, labels, container, zone, parent_id, \
             snapshot_uuid, data_timestamp) VALUES (?1, ?2, ?3, ?4, ?5, (SELECT id FROM volume WHERE uuid = ?6), ?6, ?7, ?8, ?9, ?10, ?11, \
             ?12, ?13, ?14, ?15, ?16, ?17, ?18, (SELECT name FROM repository WHERE id = ?19), ?20, \
             (SELECT id FROM volume_backup WHERE uuid = ?21), ?22, ?23)",
            params![
                volume.uuid,
                backup_id,
                manifest.kind,
                project_id,
                volume.position,
                volume.volume,
                volume.name,
                volume.volume_description,
                volume.volume_labels,
                volume.bootable,
                volume.size as i64,
                map_id,
                volume.stored,
                volume.objects,
                volume.created,
                volume.title,
                volume.description,
                volume.labels,
                repository_id,
                volume.zone,
                volume.parent,
                volume.snapshot,
                volume.data_timestamp
            ],
        )?;
    }
    Ok(backup_id)
}

/// The project of this uuid, or else of this name; it is made if there is neither.
fn project(connection: &Connection, project: &Project, now: i64) -> rusqlite::Result<i64> {
    let found = connection
        .prepare_cached("SELECT id FROM project WHERE uuid = ?1 OR name = ?2 ORDER BY uuid = ?1 DESC LIMIT 1")?
        .query_row([&project.uuid, &project.name], |row| row.get(0))
        .optional()?;
    match found {
        Some(id) => Ok(id),
        None => Ok(super::projects::insert(connection, &project.name, "found in a repository", now)?.id),
    }
}

/// The instance of this uuid; it is made, without disks, if there is none.
fn instance(connection: &Connection, machine: &Machine, project_id: i64, manifest: &Manifest) -> rusqlite::Result<i64> {
    if let Some(found) = instances::get(connection, &machine.uuid)? {
        return Ok(found.id);
    }
    let recorded = Instance::recorded(&serde_json::from_str(&manifest.metadata).unwrap_or_default());
    let (uuid, name) = (machine.uuid.clone(), machine.name.clone());
    instances::insert(connection, &Instance { uuid, project_id, name, created: manifest.created, ..recorded })
}

/// Is this a manifest that can be taken in?
pub fn is_plausible(manifest: &Manifest) -> bool {
    let kind = BackupKind::from_stored(&manifest.kind);
    // What all of them take fits where it is counted.
    let total = manifest.volumes.iter().try_fold(0_i64, |sum, volume| sum.checked_add(i64::try_from(volume.size).ok()?));
    total.is_some_and(|total| total < i64::MAX / 4) && manifest.format == FORMAT && kind.is_some_and(|kind| (kind == BackupKind::Instance) == manifest.instance.is_some()) && !manifest.volumes.is_empty()
}
