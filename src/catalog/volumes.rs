//! Volumes: disk images and block devices of the host that can be backed up.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};

#[derive(Clone, Debug)]
pub struct Volume {
    pub id: i64,
    pub uuid: String,
    pub project_id: i64,
    pub name: String,
    pub path: String,
    /// "file" or "block".
    pub kind: String,
    pub size: i64,
    /// The file was made by cofferd and goes with the volume.
    pub managed: bool,
    pub state: String,
    pub error_message: String,
    pub created: i64,
    /// Of the instance it belongs to.
    pub instance_id: Option<i64>,
    pub position: i64,
    pub bootable: bool,
}

const SELECT: &str = "SELECT v.id, v.uuid, v.project_id, v.name, v.path, v.kind, v.size, v.managed, v.state, v.error_message, \
    v.created, iv.instance_id, iv.position, iv.bootable FROM volume v LEFT JOIN instance_volume iv ON iv.volume_id = v.id";

fn read(row: &Row) -> rusqlite::Result<Volume> {
    Ok(Volume {
        id: row.get(0)?,
        uuid: row.get(1)?,
        project_id: row.get(2)?,
        name: row.get(3)?,
        path: row.get(4)?,
        kind: row.get(5)?,
        size: row.get(6)?,
        managed: row.get(7)?,
        state: row.get(8)?,
        error_message: row.get(9)?,
        created: row.get(10)?,
        instance_id: row.get(11)?,
        position: row.get::<_, Option<i64>>(12)?.unwrap_or(0),
        bootable: row.get::<_, Option<bool>>(13)?.unwrap_or(false),
    })
}

/// Inserts the volume (its id is ignored) and returns the id. A path that is already registered is a constraint error.
pub fn insert(connection: &Connection, volume: &Volume) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO volume (uuid, project_id, name, path, kind, size, managed, state, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            volume.uuid,
            volume.project_id,
            volume.name,
            volume.path,
            volume.kind,
            volume.size,
            volume.managed,
            volume.state,
            volume.created
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

pub fn set_state(connection: &Connection, id: i64, state: &str, error: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume SET state = ?, error_message = ? WHERE id = ?", params![state, error, id])?;
    Ok(())
}

/// The size as found on disk: a volume may be extended between backups.
pub fn set_size(connection: &Connection, id: i64, size: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE volume SET size = ? WHERE id = ? AND size <> ?", params![size, id, size])?;
    Ok(())
}

pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM volume WHERE id = ?", [id])?;
    Ok(())
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Volume>> {
    connection.prepare_cached(&format!("{SELECT} WHERE v.uuid = ?"))?.query_row([uuid], read).optional()
}

pub fn by_path(connection: &Connection, path: &str) -> rusqlite::Result<Option<Volume>> {
    connection.prepare_cached(&format!("{SELECT} WHERE v.path = ?"))?.query_row([path], read).optional()
}

/// The volumes of an instance in their order.
pub fn of_instance(connection: &Connection, instance_id: i64) -> rusqlite::Result<Vec<Volume>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE iv.instance_id = ? ORDER BY iv.position"))?
        .query_map([instance_id], read)?
        .collect()
}

/// Filter columns: v.* (volume), iv.* (its place in an instance).
pub fn list(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<Volume>)> {
    let from = "volume v LEFT JOIN instance_volume iv ON iv.volume_id = v.id";
    Ok((list::count(connection, from, filter)?, list::rows(connection, SELECT, filter, page, read)?))
}
