//! Projects, their quotas and the running sums that quotas and counts are read from.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};
use super::new_uuid;
use crate::model::quota::{QuotaName, Standing, UNLIMITED};

#[derive(Clone, Debug)]
pub struct Project {
    pub id: i64,
    pub uuid: String,
    pub name: String,
    pub description: String,
    pub created: i64,
}

const SELECT: &str = "SELECT p.id, p.uuid, p.name, p.description, p.created FROM project p";

fn read(row: &Row) -> rusqlite::Result<Project> {
    Ok(Project { id: row.get(0)?, uuid: row.get(1)?, name: row.get(2)?, description: row.get(3)?, created: row.get(4)? })
}

/// Makes a project with its quota rows, all at their defaults.
pub fn insert(connection: &Connection, name: &str, description: &str, created: i64) -> rusqlite::Result<Project> {
    let uuid = new_uuid();
    connection.execute(
        "INSERT INTO project (uuid, name, description, created) VALUES (?, ?, ?, ?)",
        params![uuid, name, description, created],
    )?;
    let id = connection.last_insert_rowid();
    for quota in QuotaName::all() {
        connection.execute(
            "INSERT INTO quota (project_id, name, uuid) VALUES (?, ?, ?)",
            params![id, quota.as_str(), new_uuid()],
        )?;
    }
    Ok(Project { id, uuid, name: name.into(), description: description.into(), created })
}

pub fn update(connection: &Connection, project: &Project) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE project SET name = ?, description = ? WHERE id = ?",
        params![project.name, project.description, project.id],
    )?;
    Ok(())
}

pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM project WHERE id = ?", [id])?;
    Ok(())
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Project>> {
    connection.prepare_cached(&format!("{SELECT} WHERE p.uuid = ?"))?.query_row([uuid], read).optional()
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Project> {
    connection.prepare_cached(&format!("{SELECT} WHERE p.id = ?"))?.query_row([id], read)
}

/// Names need not be unique.
pub fn by_name(connection: &Connection, name: &str) -> rusqlite::Result<Vec<Project>> {
    connection.prepare_cached(&format!("{SELECT} WHERE p.name = ? ORDER BY p.id"))?.query_map([name], read)?.collect()
}

pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Project>> {
    connection.prepare_cached(&format!("{SELECT} ORDER BY p.id"))?.query_map([], read)?.collect()
}

/// Filter columns: p.*.
pub fn list(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<Project>)> {
    Ok((list::count(connection, "project p", filter)?, list::rows(connection, SELECT, filter, page, read)?))
}

// ---- tallies

fn tallies(connection: &Connection, project_id: i64) -> rusqlite::Result<HashMap<String, i64>> {
    connection
        .prepare_cached("SELECT name, value FROM tally WHERE project_id = ?")?
        .query_map([project_id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// The sum of one tally ("backups", "instances", ...) over all projects, or over those given.
pub fn tally(connection: &Connection, name: &str, projects: Option<&[i64]>) -> rusqlite::Result<i64> {
    let mut filter = Filter::default();
    filter.equals("name", name.to_string());
    if let Some(projects) = projects {
        filter.one_of("project_id", projects.iter().copied());
    }
    let page = Page { order: "1".into(), limit: 1, offset: 0 };
    let sums = list::rows(connection, "SELECT ifnull(sum(value), 0) FROM tally", &filter, &page, |row| row.get(0))?;
    Ok(sums.first().copied().unwrap_or(0))
}

/// Recomputes every tally from the rows and returns those that differ: (project, name, kept, true value).
pub fn wrong_tallies(connection: &Connection) -> rusqlite::Result<Vec<(i64, String, i64, i64)>> {
    connection
        .prepare(
            "WITH truth (project_id, name, value) AS (
                SELECT project_id, 'instances', count(*) FROM instance GROUP BY project_id
                UNION ALL SELECT project_id, 'vcpu', sum(cores) FROM instance GROUP BY project_id
                UNION ALL SELECT project_id, 'ram', sum(ram) FROM instance GROUP BY project_id
                UNION ALL SELECT project_id, 'volumes', count(*) FROM volume GROUP BY project_id
                UNION ALL SELECT project_id, 'volume_bytes', sum(size) FROM volume GROUP BY project_id
                UNION ALL SELECT project_id, 'volume_gib', sum((size + 1073741823) >> 30) FROM volume GROUP BY project_id
                UNION ALL SELECT project_id, 'volume_backups', count(*) FROM volume_backup WHERE kind <> 'snapshot' GROUP BY project_id
                UNION ALL SELECT project_id, 'volume_backup_gib', sum((size + 1073741823) >> 30) FROM volume_backup WHERE kind <> 'snapshot'
                    GROUP BY project_id
                UNION ALL SELECT project_id, 'snapshots', count(*) FROM volume_backup WHERE kind = 'snapshot' GROUP BY project_id
                UNION ALL SELECT project_id, 'snapshot_gib', sum((size + 1073741823) >> 30) FROM volume_backup WHERE kind = 'snapshot'
                    GROUP BY project_id
                UNION ALL SELECT project_id, 'backups', count(*) FROM backup WHERE kind = 'instance' GROUP BY project_id
                UNION ALL SELECT project_id, 'backup_bytes', sum(reserved) FROM backup GROUP BY project_id)
             SELECT ifnull(t.project_id, truth.project_id), ifnull(t.name, truth.name), ifnull(t.value, 0), ifnull(truth.value, 0)
             FROM tally t FULL JOIN truth ON truth.project_id = t.project_id AND truth.name = t.name
             WHERE ifnull(t.value, 0) <> ifnull(truth.value, 0)",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect()
}

// ---- quotas

#[derive(Clone, Debug)]
pub struct Quota {
    pub uuid: String,
    pub project_uuid: String,
    pub standing: Standing,
}

fn usage(tallies: &HashMap<String, i64>, name: QuotaName) -> i64 {
    let of = |key: &str| tallies.get(key).copied().unwrap_or(0);
    match name {
        QuotaName::Storage => of("volume_bytes").saturating_add(of("backup_bytes")),
        QuotaName::Ram => of("ram"),
        QuotaName::Vcpu => of("vcpu"),
        QuotaName::Instances => of("instances"),
        QuotaName::Volumes => of("volumes"),
        QuotaName::Snapshots => of("snapshots"),
        QuotaName::Gigabytes => of("volume_gib") + of("snapshot_gib"),
        QuotaName::Backups => of("volume_backups"),
        QuotaName::BackupGigabytes => of("volume_backup_gib"),
        QuotaName::PerVolumeGigabytes | QuotaName::Groups => 0,
    }
}

/// The quotas of one project.
pub fn quotas(connection: &Connection, project: &Project) -> rusqlite::Result<Vec<Quota>> {
    let tallies = tallies(connection, project.id)?;
    let rows: Vec<(String, String, i64)> = connection
        .prepare_cached(
            "SELECT q.uuid, q.name, coalesce(q.\"limit\", d.\"limit\", ?2) FROM quota q LEFT JOIN quota_default d ON d.name = q.name \
             WHERE q.project_id = ?1 ORDER BY q.name",
        )?
        .query_map(params![project.id, UNLIMITED], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let quota = |(uuid, name, limit): (String, String, i64)| {
        let name = QuotaName::from_stored(&name)?;
        let standing = Standing { name, limit, usage: usage(&tallies, name) };
        Some(Quota { uuid, project_uuid: project.uuid.clone(), standing })
    };
    Ok(rows.into_iter().filter_map(quota).collect())
}

pub fn quota_project(connection: &Connection, quota_uuid: &str) -> rusqlite::Result<Option<Project>> {
    connection
        .prepare_cached(&format!("{SELECT} JOIN quota q ON q.project_id = p.id WHERE q.uuid = ?"))?
        .query_row([quota_uuid], read)
        .optional()
}

pub fn set_limit(connection: &Connection, quota_uuid: &str, limit: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE quota SET \"limit\" = ? WHERE uuid = ?", params![limit, quota_uuid])?;
    Ok(())
}

/// Takes a project's own limits away, so that it follows the defaults again.
pub fn clear_limits(connection: &Connection, project_id: i64, names: impl Iterator<Item = QuotaName>) -> rusqlite::Result<()> {
    for name in names {
        connection.execute("UPDATE quota SET \"limit\" = NULL WHERE project_id = ? AND name = ?", params![project_id, name.as_str()])?;
    }
    Ok(())
}

/// The limit of projects that have none of their own.
pub fn default_limit(connection: &Connection, name: QuotaName) -> rusqlite::Result<i64> {
    let found = connection
        .prepare_cached("SELECT \"limit\" FROM quota_default WHERE name = ?")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(UNLIMITED))
}

pub fn set_default_limit(connection: &Connection, name: QuotaName, limit: i64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO quota_default (name, \"limit\") VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET \"limit\" = excluded.\"limit\"",
        params![name.as_str(), limit],
    )?;
    Ok(())
}

/// Every reason why these additions would break the project's quotas; empty if they fit. Call it in the transaction that
/// makes the additions. Storage is given in bytes.
pub fn refusals(connection: &Connection, project_id: i64, additions: &[(QuotaName, i64)]) -> rusqlite::Result<Vec<String>> {
    let project = by_id(connection, project_id)?;
    let quotas = quotas(connection, &project)?;
    let refusal = |(name, delta): &(QuotaName, i64)| {
        quotas.iter().find(|q| q.standing.name == *name).and_then(|q| q.standing.refusal(&project.name, *delta))
    };
    Ok(additions.iter().filter_map(refusal).collect())
}
