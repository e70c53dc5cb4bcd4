//! Object stores in which backups may lie. The configuration names them; the rows keep what must not change with it.

use rusqlite::{Connection, OptionalExtension, Row, params};

#[derive(Clone, Debug)]
pub struct Repository {
    pub id: i64,
    pub name: String,
    /// Who we are there.
    pub writer: String,
    /// Which writer we are: one there with a later number has taken our place.
    pub epoch: i64,
}

/// The name of the coffer itself among the places for backups.
pub const COFFER: &str = "coffer";

const COLUMNS: &str = "id, name, writer, epoch";

fn read(row: &Row) -> rusqlite::Result<Repository> {
    Ok(Repository { id: row.get(0)?, name: row.get(1)?, writer: row.get(2)?, epoch: row.get(3)? })
}

pub fn by_name(connection: &Connection, name: &str) -> rusqlite::Result<Option<Repository>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM repository WHERE name = ?"))?.query_row([name], read).optional()
}

/// The repository of this name; it is made if there is none.
pub fn ensure(connection: &Connection, name: &str, now: i64) -> rusqlite::Result<Repository> {
    if let Some(found) = by_name(connection, name)? {
        return Ok(found);
    }
    connection.execute(
        "INSERT INTO repository (uuid, name, writer, epoch, created) VALUES (?, ?, ?, 0, ?)",
        params![super::new_uuid(), name, super::new_uuid(), now],
    )?;
    by_name(connection, name)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// What lies in a repository, as far as this coffer knows.
#[derive(Default)]
pub struct Holdings {
    pub backups: i64,
    /// Of backups that lie elsewhere.
    pub copies: i64,
    pub packs: i64,
    /// Of packs, those included that are still to be sent.
    pub bytes: i64,
    /// Bytes of packs that lie in the coffer until they are sent.
    pub waiting_bytes: i64,
    /// Objects that nothing needs any more and that are still there.
    pub trash: i64,
}

pub fn holdings(connection: &Connection, id: i64) -> rusqlite::Result<Holdings> {
    connection
        .prepare_cached(
            "SELECT (SELECT count(*) FROM backup WHERE repository_id = ?1),
                    (SELECT count(*) FROM copy WHERE repository_id = ?1 AND finished IS NOT NULL), count(*), ifnull(sum(stored), 0),
                    ifnull(sum(iif(staged, stored, 0)), 0), (SELECT count(*) FROM trash WHERE repository = ?1)
             FROM pack_toc WHERE repository = ?1",
        )?
        .query_row([id], |row| {
            Ok(Holdings {
                backups: row.get(0)?,
                copies: row.get(1)?,
                packs: row.get(2)?,
                bytes: row.get(3)?,
                waiting_bytes: row.get(4)?,
                trash: row.get(5)?,
            })
        })
}

pub fn set_default(connection: &Connection, name: Option<&str>) -> rusqlite::Result<()> {
    connection.execute("UPDATE repository SET is_default = name IS ?1 WHERE is_default <> (name IS ?1)", [name])?;
    Ok(())
}

/// Which backups of other places are copied there: `"all"`, `"scheduled"`, or a list of places, as JSON; `null` for none.
pub fn set_copies(connection: &Connection, name: &str, rule: &serde_json::Value) -> rusqlite::Result<()> {
    connection.execute("UPDATE repository SET copies = ?2 WHERE name = ?1", params![name, rule.to_string()])?;
    Ok(())
}

/// Nothing is copied anywhere by itself.
pub fn clear_copies(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE repository SET copies = 'null' WHERE copies <> 'null'", [])?;
    Ok(())
}

pub fn set_epoch(connection: &Connection, id: i64, epoch: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE repository SET epoch = ? WHERE id = ?", params![epoch, id])?;
    Ok(())
}

/// Is there such a place, or may it be left open with an empty name?
pub fn is_place(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    Ok(name.is_empty() || name == COFFER || by_name(connection, name)?.is_some())
}

/// Where a backup goes that asks for this place: the repository of that name, the coffer if it is named, else the default.
/// None: into the coffer.
pub fn destination(connection: &Connection, asked: Option<&str>) -> rusqlite::Result<Option<Repository>> {
    let Some(name) = asked else { return default(connection) };
    match by_name(connection, name)? {
        Some(found) => Ok(Some(found)),
        None if name == COFFER => Ok(None),
        None => default(connection),
    }
}

fn default(connection: &Connection) -> rusqlite::Result<Option<Repository>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM repository WHERE is_default"))?.query_row([], read).optional()
}
