//! Copies: backups that are kept in a further place. A row is a promise until it is finished; then the maps of its volumes there are
//! in `copy_volume`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};
use super::repositories::COFFER;
use super::volume_backups::is_map_used;

/// A failed attempt is made again after this long at first, and at the longest, in milliseconds.
const FIRST_PAUSE_MS: i64 = 60_000;
const LONGEST_PAUSE_MS: i64 = 3_600_000;

#[derive(Clone, Debug)]
pub struct Copy {
    pub id: i64,
    pub backup_id: i64,
    pub backup_uuid: String,
    /// None: in the coffer.
    pub repository_id: Option<i64>,
    /// Its name, or `coffer`.
    pub repository: String,
    /// The configuration wants it.
    pub automatic: bool,
    pub created: i64,
    /// None: it is not there, or not whole.
    pub finished: Option<i64>,
    pub next_at: i64,
    pub error_message: String,
    /// Its object there.
    pub manifest: Option<String>,
    /// Bytes that its making added there.
    pub stored: i64,
}

impl Copy {
    pub fn state(&self) -> &'static str {
        match (self.finished, self.error_message.is_empty()) {
            (Some(_), _) => "ready",
            (None, true) => "waiting",
            (None, false) => "failed",
        }
    }
}

/// Filter columns: c.* (copy), b.* (backup), r.* (repository).
const FROM: &str = "copy c JOIN backup b ON b.id = c.backup_id LEFT JOIN repository r ON r.id = c.repository_id";
const COLUMNS: &str = "c.id, c.backup_id, b.uuid, c.repository_id, ifnull(r.name, 'coffer'), c.automatic, c.created, c.finished, \
    c.next_at, c.error_message, c.manifest, c.stored";
/// Which backups a repository `r` wants copies of, with the present place `home` of a backup `b`. Snapshots stay where they are.
const WANTED: &str = "b.state IN ('ready', 'restoring') AND b.kind <> 'snapshot' AND b.repository_id IS NOT r.id AND (r.copies = '\"all\"' \
    OR r.copies = '\"scheduled\"' AND b.trigger_at IS NOT NULL \
    OR json_type(r.copies) = 'array' AND EXISTS (SELECT 1 FROM json_each(r.copies) WHERE value = ifnull(home.name, ?1)))";

fn read(row: &Row) -> rusqlite::Result<Copy> {
    Ok(Copy {
        id: row.get(0)?,
        backup_id: row.get(1)?,
        backup_uuid: row.get(2)?,
        repository_id: row.get(3)?,
        repository: row.get(4)?,
        automatic: row.get(5)?,
        created: row.get(6)?,
        finished: row.get(7)?,
        next_at: row.get(8)?,
        error_message: row.get(9)?,
        manifest: row.get(10)?,
        stored: row.get(11)?,
    })
}

fn select(connection: &Connection, rest: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<Copy>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} {rest}"))?.query_map(values, read)?.collect()
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<Copy>> {
    Ok(select(connection, "WHERE c.id = ?", [id])?.pop())
}

pub fn count(connection: &Connection, filter: &Filter) -> rusqlite::Result<i64> {
    list::count(connection, FROM, filter)
}

/// For columns see [`FROM`].
pub fn rows(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<Vec<Copy>> {
    list::rows(connection, &format!("SELECT {COLUMNS} FROM {FROM}"), filter, page, read)
}

pub fn of_backup(connection: &Connection, backup_id: i64) -> rusqlite::Result<Vec<Copy>> {
    select(connection, "WHERE c.backup_id = ? ORDER BY c.id", [backup_id])
}

/// Those that have this volume of a backup, whole.
pub fn of_part(connection: &Connection, part_id: i64) -> rusqlite::Result<Vec<Copy>> {
    select(connection, "WHERE c.finished IS NOT NULL AND c.id IN (SELECT copy_id FROM copy_volume WHERE part_id = ?) ORDER BY c.id", [part_id])
}

/// The copy of a backup at this place.
pub fn at(connection: &Connection, backup_id: i64, repository_id: Option<i64>) -> rusqlite::Result<Option<Copy>> {
    Ok(select(connection, "WHERE c.backup_id = ?1 AND c.repository_id IS ?2", params![backup_id, repository_id])?.pop())
}

/// The manifests of copies in a repository, each with its copy, and whether that is whole.
pub fn with_manifest(connection: &Connection, repository_id: i64) -> rusqlite::Result<Vec<(String, i64, bool)>> {
    connection
        .prepare_cached("SELECT manifest, id, finished IS NOT NULL FROM copy WHERE repository_id = ? AND manifest IS NOT NULL")?
        .query_map([repository_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

/// Places (0: the coffer) of copies that are not there yet, each with when the first of them was promised, or `after`, if that is later:
/// attempts may have stored a part.
pub fn unfinished(connection: &Connection, after: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    connection
        .prepare_cached("SELECT ifnull(repository_id, 0), max(min(created), ?1) FROM copy WHERE finished IS NULL GROUP BY repository_id")?
        .query_map([after], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Promises a copy that somebody asks for, to be made at once, and returns its id. One that is there stays.
pub fn order(connection: &Connection, backup_id: i64, repository_id: Option<i64>, now: i64) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO copy (backup_id, repository_id, automatic, created, next_at) VALUES (?1, ?2, 0, ?3, 0) \
             ON CONFLICT DO UPDATE SET automatic = 0, next_at = 0, error_message = '' WHERE finished IS NULL",
        )?
        .execute(params![backup_id, repository_id, now])?;
    connection
        .prepare_cached("SELECT id FROM copy WHERE backup_id = ?1 AND repository_id IS ?2")?
        .query_row(params![backup_id, repository_id], |row| row.get(0))
}

/// Promises the copies of a Ready backup, or of all, that the configuration wants.
pub fn order_wanted(connection: &Connection, backup_id: Option<i64>, now: i64) -> rusqlite::Result<usize> {
    let one = if backup_id.is_some() { "b.id = ?2" } else { "?2 IS NULL" };
    connection
        .prepare_cached(&format!(
            "INSERT INTO copy (backup_id, repository_id, automatic, created, next_at) SELECT b.id, r.id, 1, ?3, ?3 \
             FROM repository r JOIN backup b ON {one} LEFT JOIN repository home ON home.id = b.repository_id \
             WHERE r.copies <> 'null' AND {WANTED} ORDER BY b.id ON CONFLICT DO NOTHING"
        ))?
        .execute(params![COFFER, backup_id, now])
}

/// Promises that the configuration does not want any more. What is there stays.
pub fn unwanted(connection: &Connection) -> rusqlite::Result<Vec<Copy>> {
    select(connection, "WHERE c.automatic AND c.finished IS NULL AND r.copies = 'null'", [])
}

/// Removes the row. Its maps are to be released first.
pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM copy WHERE id = ?", [id])?;
    Ok(())
}

/// What is to be done next, and may be done now: first what somebody has asked for.
pub fn next_due(connection: &Connection, now: i64) -> rusqlite::Result<Option<Copy>> {
    // A time that is further away than any pause comes from a clock that has been set back.
    let rest = "WHERE (c.finished IS NULL OR c.mends) AND (c.next_at <= ?1 OR c.next_at > ?1 + ?2) ORDER BY c.automatic, c.next_at, c.id LIMIT 1";
    Ok(select(connection, rest, [now, LONGEST_PAUSE_MS])?.pop())
}

/// When the next one that waits may be tried.
pub fn next_at(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT min(next_at) FROM copy WHERE finished IS NULL OR mends")?.query_row([], |row| row.get(0))
}

/// All that wait may be tried now: something has changed.
pub fn hurry(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE copy SET next_at = 0 WHERE (finished IS NULL OR mends) AND next_at > 0", [])?;
    Ok(())
}

/// An attempt has failed. `place`: so would all others to the same place, which are put off too.
pub fn fail(connection: &Connection, copy: &Copy, reason: &str, place: bool, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE copy SET error_message = ?2, attempts = attempts + 1, next_at = ?3 + min(?4 << min(attempts, 10), ?5) WHERE id = ?1",
        params![copy.id, reason, now, FIRST_PAUSE_MS, LONGEST_PAUSE_MS],
    )?;
    if place {
        connection.execute(
            "UPDATE copy SET error_message = ?2, next_at = max(next_at, (SELECT next_at FROM copy WHERE id = ?3)) \
             WHERE finished IS NULL AND repository_id IS ?1",
            params![copy.repository_id, reason, copy.id],
        )?;
    }
    Ok(())
}

pub fn set_manifest(connection: &Connection, id: i64, name: Option<&str>) -> rusqlite::Result<()> {
    connection.execute("UPDATE copy SET manifest = ? WHERE id = ?", params![name, id])?;
    Ok(())
}

/// It is there. False if it is not wanted any more.
pub fn finish(connection: &Connection, id: i64, stored: i64, now: i64) -> rusqlite::Result<bool> {
    Ok(connection.execute(
        "UPDATE copy SET finished = ?2, stored = ?3, attempts = 0, error_message = '' WHERE id = ?1",
        params![id, now, stored],
    )? == 1)
}

/// It is not whole: it is made again, of what is left of it and of what it is a copy of.
pub fn break_off(connection: &Connection, map_id: i64, reason: &str, now: i64) -> rusqlite::Result<bool> {
    Ok(connection.execute(
        "UPDATE copy SET finished = NULL, mends = 0, error_message = ?2, next_at = ?3 \
         WHERE id IN (SELECT copy_id FROM copy_volume WHERE map_id = ?1)",
        params![map_id, reason, now],
    )? > 0)
}

/// Its manifest is gone from its repository: it is made again.
pub fn lose(connection: &Connection, id: i64, reason: &str, now: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE copy SET finished = NULL, manifest = NULL, mends = 0, error_message = ?2, next_at = ?3 WHERE id = ?1",
        params![id, reason, now],
    )?;
    Ok(())
}

// ---- their volumes

pub fn add_volume(connection: &Connection, id: i64, part_id: i64, map_id: i64) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO copy_volume (part_id, copy_id, map_id) VALUES (?, ?, ?)", [part_id, id, map_id])?;
    Ok(())
}

/// Takes the maps away from a copy. Returns those that nothing else refers to, so that the store may delete them.
pub fn release_maps(connection: &Connection, id: i64) -> rusqlite::Result<Vec<i64>> {
    let maps: Vec<i64> =
        connection.prepare_cached("SELECT map_id FROM copy_volume WHERE copy_id = ?")?.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    connection.execute("DELETE FROM copy_volume WHERE copy_id = ?", [id])?;
    let mut unused = Vec::new();
    for map in maps {
        if !is_map_used(connection, map)? && !unused.contains(&map) {
            unused.push(map);
        }
    }
    Ok(unused)
}

/// The map that a copy has of a volume in a backup.
pub fn map_of(connection: &Connection, id: i64, part_id: i64) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT map_id FROM copy_volume WHERE copy_id = ? AND part_id = ?")?
        .query_row([id, part_id], |row| row.get(0))
        .optional()
}

/// The copies that have this map, each as the backup, the number of the volume, and the place.
pub fn of_map(connection: &Connection, map_id: i64) -> rusqlite::Result<Vec<(String, i64, String)>> {
    connection
        .prepare_cached(
            "SELECT b.uuid, p.position, ifnull(r.name, ?2) FROM copy_volume v JOIN copy c ON c.id = v.copy_id JOIN backup b ON b.id = c.backup_id \
             JOIN volume_backup p ON p.id = v.part_id LEFT JOIN repository r ON r.id = c.repository_id WHERE v.map_id = ?1",
        )?
        .query_map(params![map_id, COFFER], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

// ---- mending

/// The backup is damaged in its first place: it is mended from a copy that is there. False if there is none.
pub fn order_mending(connection: &Connection, backup_id: i64) -> rusqlite::Result<bool> {
    Ok(connection.execute(
        "UPDATE copy SET mends = 1, next_at = 0 WHERE id = (SELECT id FROM copy WHERE backup_id = ? AND finished IS NOT NULL \
         ORDER BY repository_id IS NOT NULL, id LIMIT 1)",
        [backup_id],
    )? == 1)
}

pub fn end_mending(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE copy SET mends = 0 WHERE id = ?", [id])?;
    Ok(())
}
