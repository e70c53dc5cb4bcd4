//! The audit log: what happened, to what, in which project.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::list::{self, Filter, Page};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// An event about to be logged. `scope` is the uuid of what it is about.
pub struct NewEvent<'a> {
    pub kind: &'a str,
    pub severity: Severity,
    pub message: String,
    pub context: Value,
    pub project_id: Option<i64>,
    pub scope: &'a str,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub id: i64,
    pub created: i64,
    pub kind: String,
    pub severity: String,
    pub message: String,
    pub context: Value,
    /// uuid of what it is about.
    pub scope: String,
}

/// Kept events; older ones are dropped by the timer.
pub const KEPT: i64 = 100_000;

pub fn insert(connection: &Connection, now: i64, event: &NewEvent) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO event (created, type, severity, message, context, project_id, scope) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            now,
            event.kind,
            event.severity.as_str(),
            event.message,
            event.context.to_string(),
            event.project_id,
            event.scope
        ])?;
    Ok(())
}

/// Drops all but the newest [`KEPT`].
pub fn prune(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?", [KEPT])
}

/// When the last one was logged.
pub fn last(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT created FROM event ORDER BY id DESC LIMIT 1", [], |row| row.get(0)).optional()
}

fn read(row: &Row) -> rusqlite::Result<Event> {
    let context: String = row.get(5)?;
    Ok(Event {
        id: row.get(0)?,
        created: row.get(1)?,
        kind: row.get(2)?,
        severity: row.get(3)?,
        message: row.get(4)?,
        context: serde_json::from_str(&context).unwrap_or(Value::Null),
        scope: row.get(6)?,
    })
}

pub fn count(connection: &Connection, filter: &Filter) -> rusqlite::Result<i64> {
    list::count(connection, "event", filter)
}

pub fn list(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<Event>)> {
    let select = "SELECT id, created, type, severity, message, context, scope FROM event";
    Ok((count(connection, filter)?, list::rows(connection, select, filter, page, read)?))
}
