//! Jobs: work that was promised with a state change and not yet done.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    Create,
    Restore,
    Delete,
}

impl JobKind {
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::Create => "create",
            JobKind::Restore => "restore",
            JobKind::Delete => "delete",
        }
    }

    fn from_stored(name: &str) -> JobKind {
        match name {
            "create" => JobKind::Create,
            "restore" => JobKind::Restore,
            _ => JobKind::Delete, // the schema allows no fourth
        }
    }
}

#[derive(Clone, Debug)]
pub struct Job {
    pub kind: JobKind,
    pub backup_id: i64,
    /// Work on one instance is done one after another.
    pub instance_id: i64,
    /// Where a restore goes.
    pub target: Value,
}

const SELECT: &str = "SELECT j.kind, j.backup_id, b.instance_id, j.target FROM job j JOIN backup b ON b.id = j.backup_id";

fn read(row: &Row) -> rusqlite::Result<Job> {
    let kind: String = row.get(0)?;
    let target: String = row.get(3)?;
    Ok(Job {
        kind: JobKind::from_stored(&kind),
        backup_id: row.get(1)?,
        instance_id: row.get(2)?,
        target: serde_json::from_str(&target).unwrap_or(Value::Null),
    })
}

pub fn insert(connection: &Connection, kind: JobKind, backup_id: i64, target: &Value, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO job (kind, backup_id, target, created) VALUES (?, ?, ?, ?)",
        params![kind.as_str(), backup_id, target.to_string(), now],
    )?;
    Ok(())
}

pub fn remove(connection: &Connection, backup_id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM job WHERE backup_id = ?", [backup_id])?;
    Ok(())
}

/// The promised work, oldest first.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Job>> {
    connection.prepare_cached(&format!("{SELECT} ORDER BY j.id"))?.query_map([], read)?.collect()
}

/// Is there work to be done on the instance's volumes?
pub fn on_instance(connection: &Connection, instance_id: i64) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM job j JOIN backup b ON b.id = j.backup_id WHERE b.instance_id = ? AND j.kind <> 'delete')",
        [instance_id],
        |row| row.get(0),
    )
}

pub fn of_backup(connection: &Connection, backup_id: i64) -> rusqlite::Result<Option<Job>> {
    connection.prepare_cached(&format!("{SELECT} WHERE j.backup_id = ?"))?.query_row([backup_id], read).optional()
}
