//! Application credentials: what programs log in with instead of a user's password.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::model::role::Level;

#[derive(Clone, Debug)]
pub struct Credential {
    pub id: i64,
    pub uuid: String,
    pub user_id: i64,
    pub project_id: i64,
    pub name: String,
    pub description: String,
    /// PHC string.
    pub secret: String,
    /// The most it gives.
    pub level: Level,
    pub created: i64,
    pub expires: Option<i64>,
}

const SELECT: &str =
    "SELECT id, uuid, user_id, project_id, name, description, secret, level, created, expires FROM application_credential";

fn read(row: &Row) -> rusqlite::Result<Credential> {
    Ok(Credential {
        id: row.get(0)?,
        uuid: row.get(1)?,
        user_id: row.get(2)?,
        project_id: row.get(3)?,
        name: row.get(4)?,
        description: row.get(5)?,
        secret: row.get(6)?,
        level: row.get(7)?,
        created: row.get(8)?,
        expires: row.get(9)?,
    })
}

/// False if the user has one of that name already. The id of `credential` is not looked at.
pub fn insert(connection: &Connection, credential: &Credential) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "INSERT INTO application_credential (uuid, user_id, project_id, name, description, secret, level, created, expires) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, name) DO NOTHING",
        params![
            credential.uuid,
            credential.user_id,
            credential.project_id,
            credential.name,
            credential.description,
            credential.secret,
            credential.level,
            credential.created,
            credential.expires
        ],
    )?;
    Ok(changed > 0)
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<Credential>> {
    connection.prepare_cached(&format!("{SELECT} WHERE id = ?"))?.query_row([id], read).optional()
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Credential>> {
    connection.prepare_cached(&format!("{SELECT} WHERE uuid = ?"))?.query_row([uuid], read).optional()
}

pub fn by_name(connection: &Connection, user_id: i64, name: &str) -> rusqlite::Result<Option<Credential>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE user_id = ? AND name = ?"))?
        .query_row(params![user_id, name], read)
        .optional()
}

pub fn of_user(connection: &Connection, user_id: i64) -> rusqlite::Result<Vec<Credential>> {
    connection.prepare_cached(&format!("{SELECT} WHERE user_id = ? ORDER BY id"))?.query_map([user_id], read)?.collect()
}

/// The tokens that were got with it go too.
pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM application_credential WHERE id = ?", [id])?;
    Ok(())
}
