//! Schedules: when an instance is backed up, how long and how many of the backups are kept.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};

#[derive(Clone, Debug)]
pub struct Schedule {
    pub id: i64,
    pub uuid: String,
    pub instance_id: i64,
    pub instance_uuid: String,
    pub instance_name: String,
    pub project_id: i64,
    pub project_uuid: String,
    pub project_name: String,
    pub description: String,
    /// Days; 0: for ever.
    pub retention_time: i64,
    pub maximal_number: i64,
    pub cron: String,
    pub timezone: String,
    pub is_active: bool,
    pub next_trigger_at: i64,
    pub error_message: String,
    pub last_run_at: Option<i64>,
    pub last_skip_reason: String,
    pub created: i64,
    /// Name of where its backups go; empty: the default.
    pub repository: String,
}

pub const FROM: &str = "schedule s JOIN instance i ON i.id = s.instance_id JOIN project p ON p.id = i.project_id";
const COLUMNS: &str = "s.id, s.uuid, s.instance_id, i.uuid, i.name, i.project_id, p.uuid, p.name, s.description, s.retention_time, \
    s.maximal_number, s.cron, s.timezone, s.is_active, s.next_trigger_at, s.error_message, s.last_run_at, s.last_skip_reason, \
    s.created, s.repository";

fn read(row: &Row) -> rusqlite::Result<Schedule> {
    Ok(Schedule {
        id: row.get(0)?,
        uuid: row.get(1)?,
        instance_id: row.get(2)?,
        instance_uuid: row.get(3)?,
        instance_name: row.get(4)?,
        project_id: row.get(5)?,
        project_uuid: row.get(6)?,
        project_name: row.get(7)?,
        description: row.get(8)?,
        retention_time: row.get(9)?,
        maximal_number: row.get(10)?,
        cron: row.get(11)?,
        timezone: row.get(12)?,
        is_active: row.get(13)?,
        next_trigger_at: row.get(14)?,
        error_message: row.get(15)?,
        last_run_at: row.get(16)?,
        last_skip_reason: row.get(17)?,
        created: row.get(18)?,
        repository: row.get(19)?,
    })
}

/// Inserts the schedule (id and joined fields are ignored) and returns the id.
pub fn insert(connection: &Connection, schedule: &Schedule) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO schedule (uuid, instance_id, description, retention_time, maximal_number, cron, timezone, is_active, \
         next_trigger_at, created, repository) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            schedule.uuid,
            schedule.instance_id,
            schedule.description,
            schedule.retention_time,
            schedule.maximal_number,
            schedule.cron,
            schedule.timezone,
            schedule.is_active,
            schedule.next_trigger_at,
            schedule.created,
            schedule.repository
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

/// Writes back all that can change.
pub fn update(connection: &Connection, schedule: &Schedule) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE schedule SET description = ?, retention_time = ?, maximal_number = ?, cron = ?, timezone = ?, is_active = ?, \
         next_trigger_at = ?, error_message = ?, last_run_at = ?, last_skip_reason = ?, repository = ? WHERE id = ?",
        params![
            schedule.description,
            schedule.retention_time,
            schedule.maximal_number,
            schedule.cron,
            schedule.timezone,
            schedule.is_active,
            schedule.next_trigger_at,
            schedule.error_message,
            schedule.last_run_at,
            schedule.last_skip_reason,
            schedule.repository,
            schedule.id
        ],
    )?;
    Ok(())
}

pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM schedule WHERE id = ?", [id])?;
    Ok(())
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Schedule>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE s.uuid = ?"))?
        .query_row([uuid], read)
        .optional()
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<Schedule>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE s.id = ?"))?.query_row([id], read).optional()
}

/// Ids of the active schedules whose instant has come, the longest due first.
pub fn due(connection: &Connection, now: i64) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT id FROM schedule WHERE is_active AND next_trigger_at <= ? ORDER BY next_trigger_at, id")?
        .query_map([now], |row| row.get(0))?
        .collect()
}

/// The active schedules whose instant is still to come.
pub fn active_after(connection: &Connection, now: i64) -> rusqlite::Result<Vec<Schedule>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE s.is_active AND s.next_trigger_at > ?"))?
        .query_map([now], read)?
        .collect()
}

/// The schedules of an instance in creation order.
pub fn of_instance(connection: &Connection, instance_id: i64) -> rusqlite::Result<Vec<Schedule>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE s.instance_id = ? ORDER BY s.created, s.id"))?
        .query_map([instance_id], read)?
        .collect()
}

/// Filter columns: s.* (schedule), i.* (instance), p.* (project).
pub fn list(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<Schedule>)> {
    let select = format!("SELECT {COLUMNS} FROM {FROM}");
    Ok((list::count(connection, FROM, filter)?, list::rows(connection, &select, filter, page, read)?))
}
