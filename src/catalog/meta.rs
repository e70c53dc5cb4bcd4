//! Facts about the coffer itself.

use rusqlite::{Connection, OptionalExtension, params};

pub const COFFER_UUID: &str = "coffer_uuid";
pub const CUSTOMER_UUID: &str = "customer_uuid";
pub const CREATED: &str = "created";
/// When it was last tried whether the disk takes anything.
const TOUCHED: &str = "touched";
/// While the clock is doubted: what it would have shown without its jump when that was noticed, in milliseconds.
pub const DOUBTED: &str = "clock_doubted";

pub fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.prepare_cached("SELECT value FROM meta WHERE key = ?")?.query_row([key], |row| row.get(0)).optional()
}

pub fn set(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        params![key, value],
    )?;
    Ok(())
}

/// A small change, to see whether the disk takes it. What stays as it is SQLite does not write.
pub fn touch(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    set(connection, TOUCHED, &now.to_string())
}

pub fn remove(connection: &Connection, key: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM meta WHERE key = ?", [key])?;
    Ok(())
}
