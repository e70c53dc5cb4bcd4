//! Keystone's tokens: rows of `token` that say how they were got and which project they are for.

use rusqlite::{Connection, OptionalExtension, Row, params};

/// A token of either kind, as far as OpenStack's dialect asks about it.
#[derive(Clone, Debug)]
pub struct Token {
    pub id: i64,
    pub user_id: i64,
    pub created: i64,
    /// None: good for ever.
    pub expires: Option<i64>,
    /// None: a token of the API.
    pub session: Option<Session>,
}

/// What makes a token one of Keystone's.
#[derive(Clone, Debug)]
pub struct Session {
    /// Words: how the login was proved, the latest first.
    pub methods: String,
    /// Words: the token's own, then that of the login it comes from.
    pub audit_ids: String,
    /// Its scope; None: unscoped.
    pub project_id: Option<i64>,
    /// What it was got with, and ends with: a token of the API, or an application credential.
    pub source_id: Option<i64>,
    pub credential_id: Option<i64>,
}

const SELECT: &str = "SELECT id, user_id, created, expires, methods, audit_ids, project_id, source_id, credential_id FROM token";

fn read(row: &Row) -> rusqlite::Result<Token> {
    let methods: Option<String> = row.get(4)?;
    let session = match methods {
        Some(methods) => Some(Session {
            methods,
            audit_ids: row.get(5)?,
            project_id: row.get(6)?,
            source_id: row.get(7)?,
            credential_id: row.get(8)?,
        }),
        None => None,
    };
    Ok(Token { id: row.get(0)?, user_id: row.get(1)?, created: row.get(2)?, expires: row.get(3)?, session })
}

pub fn insert(c: &Connection, hash: &[u8], user_id: i64, session: &Session, created: i64, expires: i64) -> rusqlite::Result<Token> {
    c.prepare_cached(
        "INSERT INTO token (user_id, hash, created, expires, methods, audit_ids, project_id, source_id, credential_id) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        user_id,
        hash,
        created,
        expires,
        session.methods,
        session.audit_ids,
        session.project_id,
        session.source_id,
        session.credential_id
    ])?;
    Ok(Token { id: c.last_insert_rowid(), user_id, created, expires: Some(expires), session: Some(session.clone()) })
}

/// The token with this hash, of either kind, unless it has expired by `now`.
pub fn by_hash(connection: &Connection, hash: &[u8], now: i64) -> rusqlite::Result<Option<Token>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE hash = ? AND (expires IS NULL OR expires > ?)"))?
        .query_row(params![hash, now], read)
        .optional()
}

pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM token WHERE id = ?", [id])?;
    Ok(())
}

/// Ends them all, as a new password must.
pub fn end_all_of(connection: &Connection, user_id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM token WHERE user_id = ? AND methods IS NOT NULL", [user_id])?;
    Ok(())
}

/// Drops what has expired, and all but the newest `keep` of a user: a command line logs in for each command.
pub fn prune(connection: &Connection, user_id: i64, keep: i64, now: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM token WHERE expires <= ?")?.execute([now])?;
    connection
        .prepare_cached(
            "DELETE FROM token WHERE user_id = ?1 AND methods IS NOT NULL AND id <= \
             (SELECT id FROM token WHERE user_id = ?1 AND methods IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![user_id, keep])?;
    Ok(())
}
