//! Jobs: work that was promised with a state change and not yet done.

use rusqlite::{Connection, Row, params};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Reads volumes into the store.
    Create,
    /// Writes a backup or a snapshot to volumes or a path.
    Restore,
    /// Removes a backup or a snapshot.
    Delete,
    /// Makes the empty file of a new volume.
    Provision,
    /// Fills a new volume with another one's bytes.
    Copy,
    /// Makes a volume's file larger.
    Extend,
    /// Removes a volume, or only the file of one that is forgotten already.
    Erase,
}

const NAMES: [(JobKind, &str); 7] = [
    (JobKind::Create, "create"),
    (JobKind::Restore, "restore"),
    (JobKind::Delete, "delete"),
    (JobKind::Provision, "provision"),
    (JobKind::Copy, "copy"),
    (JobKind::Extend, "extend"),
    (JobKind::Erase, "erase"),
];

impl JobKind {
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    pub fn from_stored(name: &str) -> Option<JobKind> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }
}

#[derive(Clone, Debug)]
pub struct Job {
    pub id: i64,
    pub kind: JobKind,
    pub backup_id: Option<i64>,
    /// The volume that is written to.
    pub volume_id: Option<i64>,
    /// The volume that a copy reads.
    pub source_id: Option<i64>,
    /// Where a restore goes, how large a volume was before, which file is left of a forgotten one, what a backup is made from.
    pub target: Value,
    /// All volumes that it reads or writes.
    volumes: Vec<i64>,
}

/// What a job needs for itself while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    Backup(i64),
    Volume(i64),
    /// A file or device of the host, which need not be a volume.
    Path(String),
}

impl Job {
    /// The map that a backup is made from, if not from its volumes.
    pub fn source_map(&self) -> Option<i64> {
        self.target["map"].as_i64()
    }

    pub fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        let paths = ["path", "file"].into_iter().filter_map(|key| Some(Claim::Path(self.target[key].as_str()?.into())));
        self.backup_id.map(Claim::Backup).into_iter().chain(self.volumes.iter().copied().map(Claim::Volume)).chain(paths)
    }
}

/// The last column: the volumes that a backup reads unless it is made from a map, or those of the instance that a restore makes.
const SELECT: &str = "SELECT j.id, j.kind, j.backup_id, j.volume_id, j.source_id, j.target, CASE j.kind \
    WHEN 'create' THEN (SELECT json_group_array(b.volume_id) FROM volume_backup b WHERE b.backup_id = j.backup_id \
        AND json_extract(j.target, '$.map') IS NULL) \
    WHEN 'restore' THEN (SELECT json_group_array(iv.volume_id) FROM instance_volume iv \
        WHERE iv.instance_id = json_extract(j.target, '$.instance')) \
    ELSE '[]' END FROM job j";

fn read(row: &Row) -> rusqlite::Result<Job> {
    let target: String = row.get(5)?;
    let more: String = row.get(6)?;
    let (volume_id, source_id) = (row.get(3)?, row.get(4)?);
    let more: Vec<Option<i64>> = serde_json::from_str(&more).unwrap_or_default();
    Ok(Job {
        id: row.get(0)?,
        kind: row.get(1)?,
        backup_id: row.get(2)?,
        volume_id,
        source_id,
        target: serde_json::from_str(&target).unwrap_or(Value::Null),
        volumes: more.into_iter().chain([volume_id, source_id]).flatten().collect(),
    })
}

/// Work on a backup; a restore to a registered volume names that.
pub fn insert(
    connection: &Connection,
    kind: JobKind,
    backup_id: i64,
    volume_id: Option<i64>,
    target: &Value,
    now: i64,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO job (kind, backup_id, volume_id, target, created) VALUES (?, ?, ?, ?, ?)",
        params![kind, backup_id, volume_id, target.to_string(), now],
    )?;
    Ok(())
}

/// Work on a volume alone.
pub fn insert_volume_job(
    connection: &Connection,
    kind: JobKind,
    volume_id: i64,
    source_id: Option<i64>,
    target: &Value,
    now: i64,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO job (kind, volume_id, source_id, target, created) VALUES (?, ?, ?, ?, ?)",
        params![kind, volume_id, source_id, target.to_string(), now],
    )?;
    Ok(())
}

/// The removal of what is left of a volume that has no row any more; `own_directory`: the file lies in one that was made for it.
pub fn insert_file_removal(connection: &Connection, file: &str, own_directory: bool, now: i64) -> rusqlite::Result<()> {
    let target = json!({"file": file, "own_directory": own_directory});
    connection.execute("INSERT INTO job (kind, target, created) VALUES (?, ?, ?)", params![JobKind::Erase, target.to_string(), now])?;
    Ok(())
}

pub fn remove(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM job WHERE id = ?", [id])?;
    Ok(())
}

/// Takes promised work of this kind on a backup back.
pub fn revoke(connection: &Connection, backup_id: i64, kind: JobKind) -> rusqlite::Result<bool> {
    Ok(connection.execute("DELETE FROM job WHERE backup_id = ? AND kind = ?", params![backup_id, kind])? > 0)
}

/// The same for work on a volume itself.
pub fn revoke_on_volume(connection: &Connection, volume_id: i64, kind: JobKind) -> rusqlite::Result<bool> {
    Ok(connection.execute("DELETE FROM job WHERE volume_id = ? AND kind = ?", params![volume_id, kind])? > 0)
}

/// The promised work, oldest first.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Job>> {
    after(connection, 0)
}

/// The work that was promised after the job with this id, oldest first.
pub fn after(connection: &Connection, id: i64) -> rusqlite::Result<Vec<Job>> {
    connection.prepare_cached(&format!("{SELECT} WHERE j.id > ? ORDER BY j.id"))?.query_map([id], read)?.collect()
}

/// Is the job still promised?
pub fn is_there(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM job WHERE id = ?)")?.query_row([id], |row| row.get(0))
}

/// Is there work of this kind to be done on the volume itself?
pub fn is_promised(connection: &Connection, kind: JobKind, volume_id: i64) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM job WHERE kind = ? AND volume_id = ?)",
        params![kind, volume_id],
        |row| row.get(0),
    )
}

/// Is this path to be restored to, or to be removed?
pub fn on_path(connection: &Connection, path: &str) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM job WHERE kind = 'restore' AND json_extract(target, '$.path') = ?1
            OR kind = 'erase' AND json_extract(target, '$.file') = ?1)",
        [path],
        |row| row.get(0),
    )
}

/// Is there work to be done on the volume?
pub fn on_volume(connection: &Connection, volume_id: i64) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM job WHERE volume_id = ?1 OR source_id = ?1)
            OR EXISTS (SELECT 1 FROM job j JOIN volume_backup b ON b.backup_id = j.backup_id WHERE j.kind = 'create' AND b.volume_id = ?1
                AND json_extract(j.target, '$.map') IS NULL)
            OR EXISTS (SELECT 1 FROM instance_volume iv JOIN restoration r ON r.instance_id = iv.instance_id JOIN job j ON j.backup_id = r.backup_id
                WHERE iv.volume_id = ?1 AND j.kind = 'restore' AND json_extract(j.target, '$.instance') = iv.instance_id)",
        [volume_id],
        |row| row.get(0),
    )
}

/// The promised work that names the volume, oldest first.
pub fn of_volume(connection: &Connection, volume_id: i64) -> rusqlite::Result<Vec<Job>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE j.volume_id = ?1 OR j.source_id = ?1 ORDER BY j.id"))?
        .query_map([volume_id], read)?
        .collect()
}

/// The promised work on a backup, oldest first.
pub fn of_backup(connection: &Connection, backup_id: i64) -> rusqlite::Result<Vec<Job>> {
    connection.prepare_cached(&format!("{SELECT} WHERE j.backup_id = ? ORDER BY j.id"))?.query_map([backup_id], read)?.collect()
}
