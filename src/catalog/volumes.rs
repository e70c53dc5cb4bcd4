//! Volumes: disk images and block devices of the host that can be backed up.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};
use crate::model::volume::VolumeState;

#[derive(Clone, Debug)]
pub struct Volume {
    pub id: i64,
    pub uuid: String,
    pub project_id: i64,
    pub project_uuid: String,
    pub user_uuid: String,
    pub name: String,
    pub description: Option<String>,
    pub path: String,
    /// "file" or "block".
    pub kind: String,
    pub size: i64,
    /// The file was made by cofferd and goes with the volume.
    pub managed: bool,
    /// The lasting state.
    pub state: VolumeState,
    /// The state with what is going on: jobs, and the instance it belongs to.
    pub status: VolumeState,
    pub error_message: String,
    pub bootable: bool,
    /// As a user has flagged it.
    pub readonly: Option<bool>,
    /// Cinder's metadata, a JSON object of strings.
    pub labels: String,
    /// JSON: who on the host uses it.
    pub attachment: Option<String>,
    /// JSON: what it was made from.
    pub origin: String,
    pub created: i64,
    pub updated: Option<i64>,
    /// Of the instance it belongs to.
    pub instance_id: Option<i64>,
    pub instance_uuid: Option<String>,
    pub position: i64,
}

impl Volume {
    /// Its name, or its id if it has none.
    pub fn title(&self) -> String {
        if self.name.is_empty() { super::dashed(&self.uuid) } else { self.name.clone() }
    }

    /// What it is called in messages about its file.
    pub fn label(&self) -> String {
        format!("volume {} ({})", super::dashed(&self.uuid), self.name)
    }
}

/// A volume about to be registered or made.
pub struct NewVolume<'a> {
    pub uuid: &'a str,
    pub project_id: i64,
    pub user_uuid: &'a str,
    pub name: &'a str,
    pub description: Option<&'a str>,
    pub path: &'a str,
    /// "file" or "block".
    pub kind: &'a str,
    pub size: i64,
    pub managed: bool,
    pub state: VolumeState,
    pub bootable: bool,
    /// JSON object of strings.
    pub labels: &'a str,
    /// JSON.
    pub origin: &'a str,
    pub created: i64,
}

/// Filter columns: v.* (volume), p.* (project), iv.* (its place in an instance), i.* (the instance), and [`STATUS`].
pub const FROM: &str = "volume v JOIN project p ON p.id = v.project_id LEFT JOIN instance_volume iv ON iv.volume_id = v.id \
    LEFT JOIN instance i ON i.id = iv.instance_id";
/// The state with what is going on, as SQL. The job of a restore to a new instance names that alone; its restoration leads to it
/// by indexes.
pub const STATUS: &str = "CASE \
    WHEN v.state <> 'creating' AND (EXISTS (SELECT 1 FROM job j WHERE j.kind = 'restore' AND j.volume_id = v.id) \
        OR EXISTS (SELECT 1 FROM restoration r JOIN job j ON j.backup_id = r.backup_id WHERE r.instance_id = iv.instance_id \
            AND j.kind = 'restore' AND json_extract(j.target, '$.instance') = r.instance_id)) THEN 'restoring-backup' \
    WHEN EXISTS (SELECT 1 FROM job j JOIN volume_backup b ON b.backup_id = j.backup_id \
        WHERE j.kind = 'create' AND b.volume_id = v.id AND b.kind <> 'snapshot' AND json_extract(j.target, '$.map') IS NULL) \
        THEN 'backing-up' \
    WHEN v.state = 'available' AND i.state = 'online' THEN 'in-use' \
    ELSE v.state END";
/// Bootable by its place in an instance, or by itself.
pub const BOOTABLE: &str = "ifnull(iv.bootable, v.bootable)";

fn select() -> String {
    format!(
        "SELECT v.id, v.uuid, v.project_id, p.uuid, v.user_uuid, v.name, v.description, v.path, v.kind, v.size, v.managed, v.state, \
         {STATUS}, v.error_message, {BOOTABLE}, v.readonly, v.labels, v.attachment, v.origin, v.created, v.updated, iv.instance_id, \
         i.uuid, iv.position FROM {FROM}"
    )
}

fn read(row: &Row) -> rusqlite::Result<Volume> {
    Ok(Volume {
        id: row.get(0)?,
        uuid: row.get(1)?,
        project_id: row.get(2)?,
        project_uuid: row.get(3)?,
        user_uuid: row.get(4)?,
        name: row.get(5)?,
        description: row.get(6)?,
        path: row.get(7)?,
        kind: row.get(8)?,
        size: row.get(9)?,
        managed: row.get(10)?,
        state: row.get(11)?,
        status: row.get(12)?,
        error_message: row.get(13)?,
        bootable: row.get(14)?,
        readonly: row.get(15)?,
        labels: row.get(16)?,
        attachment: row.get(17)?,
        origin: row.get(18)?,
        created: row.get(19)?,
        updated: row.get(20)?,
        instance_id: row.get(21)?,
        instance_uuid: row.get(22)?,
        position: row.get::<_, Option<i64>>(23)?.unwrap_or(0),
    })
}

/// Inserts the volume and returns its id. A path that is already registered is a constraint error.
pub fn insert(connection: &Connection, new: &NewVolume) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO volume (uuid, project_id, user_uuid, name, description, path, kind, size, managed, state, bootable, labels, origin, \
         created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            new.uuid,
            new.project_id,
            new.user_uuid,
            new.name,
            new.description,
            new.path,
            new.kind,
            new.size,
            new.managed,
            new.state,
            new.bootable,
            new.labels,
            new.origin,
            new.created
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

pub fn attach(connection: &Connection, instance_id: i64, position: i64, volume_id: i64, bootable: bool) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO instance_volume (instance_id, position, volume_id, bootable) VALUES (?, ?, ?, ?)",
        params![instance_id, position, volume_id, bootable],
    )?;
    Ok(())
}

pub fn set_state(connection: &Connection, id: i64, state: VolumeState, error: &str, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE volume SET state = ?, error_message = ?, updated = ? WHERE id = ?",
        params![state, error, now, id],
    )?;
    Ok(())
}

/// The state that work on the volume leaves it in. One that is to be deleted meanwhile stays so, or nothing would delete it.
pub fn leave(connection: &Connection, id: i64, state: VolumeState, error: &str, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE volume SET state = ?, error_message = ?, updated = ? WHERE id = ? AND state <> ?",
        params![state, error, now, id, VolumeState::Deleting],
    )?;
    Ok(())
}

/// The size as found on disk: a volume may be extended between backups.
pub fn set_size(connection: &Connection, id: i64, size: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume SET size = ? WHERE id = ? AND size <> ?", params![size, id, size])?;
    Ok(())
}

/// Name, description and labels as a user wants them.
pub fn set_texts(
    connection: &Connection,
    id: i64,
    name: &str,
    description: Option<&str>,
    labels: &str,
    now: i64,
) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE volume SET name = ?, description = ?, labels = ?, updated = ? WHERE id = ?",
        params![name, description, labels, now, id],
    )?;
    Ok(())
}

pub fn set_flags(connection: &Connection, id: i64, bootable: bool, readonly: Option<bool>, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE volume SET bootable = ?, readonly = ?, updated = ? WHERE id = ?",
        params![bootable, readonly, now, id],
    )?;
    Ok(())
}

/// Who on the host uses the volume; None: nobody.
pub fn set_attachment(connection: &Connection, id: i64, attachment: Option<&str>, now: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume SET attachment = ?, updated = ? WHERE id = ?", params![attachment, now, id])?;
    Ok(())
}

pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM volume WHERE id = ?", [id])?;
    Ok(())
}

pub fn in_state(connection: &Connection, state: VolumeState) -> rusqlite::Result<Vec<Volume>> {
    connection.prepare_cached(&format!("{} WHERE v.state = ? ORDER BY v.id", select()))?.query_map([state], read)?.collect()
}

fn one(connection: &Connection, condition: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<Option<Volume>> {
    connection.prepare_cached(&format!("{} WHERE {condition}", select()))?.query_row([value], read).optional()
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Volume>> {
    one(connection, "v.uuid = ?", uuid)
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<Volume>> {
    one(connection, "v.id = ?", id)
}

pub fn by_path(connection: &Connection, path: &str) -> rusqlite::Result<Option<Volume>> {
    one(connection, "v.path = ?", path)
}

/// The volumes of an instance in their order.
pub fn of_instance(connection: &Connection, instance_id: i64) -> rusqlite::Result<Vec<Volume>> {
    connection
        .prepare_cached(&format!("{} WHERE iv.instance_id = ? ORDER BY iv.position", select()))?
        .query_map([instance_id], read)?
        .collect()
}

pub fn count(connection: &Connection, filter: &Filter) -> rusqlite::Result<i64> {
    list::count(connection, FROM, filter)
}

pub fn rows(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<Vec<Volume>> {
    list::rows(connection, &select(), filter, page, read)
}

/// Sum of their sizes in GiB, each rounded up.
pub fn gigabytes(connection: &Connection, filter: &Filter) -> rusqlite::Result<i64> {
    let page = Page { order: "1".into(), limit: 1, offset: 0 };
    let select = format!("SELECT ifnull(sum((v.size + 1073741823) >> 30), 0) FROM {FROM}");
    Ok(list::rows(connection, &select, filter, &page, |row| row.get(0))?.pop().unwrap_or(0))
}

/// Are there snapshots of it, in whatever state?
pub fn has_snapshots(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM volume_backup WHERE volume_id = ? AND kind = 'snapshot')",
        [id],
        |row| row.get(0),
    )
}
