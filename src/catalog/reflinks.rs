//! Reflink copies of image files that are kept beside them, to tell at the next backup what has changed since (engine/reading.rs).

use rusqlite::{Connection, OptionalExtension, params};

use crate::model::backup::BackupState;

/// The newest copy of a volume whose backup is complete: its path and the map of what it holds.
pub fn newest(connection: &Connection, volume_id: i64) -> rusqlite::Result<Option<(String, i64)>> {
    connection
        .prepare_cached(
            "SELECT path, map_id FROM reflink JOIN volume_backup p ON p.id = part_id
             WHERE p.volume_id = ? AND map_id IS NOT NULL ORDER BY p.id DESC LIMIT 1",
        )?
        .query_row([volume_id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Writes down that a copy is about to be made for a part of a backup, so that it is found whatever happens.
pub fn insert(connection: &Connection, path: &str, part_id: i64) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO reflink (path, part_id) VALUES (?, ?)", params![path, part_id])?;
    Ok(())
}

/// Copies that are of no use (any more): the backup they were made for has failed or is gone, the volume is, or there is a
/// newer one.
pub fn stale(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT path FROM reflink LEFT JOIN volume_backup p ON p.id = part_id LEFT JOIN backup b ON b.id = p.backup_id
             WHERE b.id IS NULL OR p.volume_id IS NULL OR b.state <> ?1 AND (p.map_id IS NULL OR EXISTS (
                 SELECT 1 FROM reflink JOIN volume_backup newer ON newer.id = part_id
                 WHERE newer.volume_id = p.volume_id AND newer.id > p.id AND newer.map_id IS NOT NULL))",
        )?
        .query_map([BackupState::BackingUp], |row| row.get(0))?
        .collect()
}

/// All copies but those that a backup is just being made from.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT path FROM reflink LEFT JOIN volume_backup p ON p.id = part_id LEFT JOIN backup b ON b.id = p.backup_id
             WHERE b.state IS NOT ?1",
        )?
        .query_map([BackupState::BackingUp], |row| row.get(0))?
        .collect()
}

pub fn remove(connection: &Connection, path: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM reflink WHERE path = ?", [path])?;
    Ok(())
}
