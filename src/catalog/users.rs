//! Users, their tokens and roles.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};
use crate::model::role::Role;

#[derive(Clone, Debug, Default)]
pub struct User {
    pub id: i64,
    pub uuid: String,
    pub username: String,
    pub full_name: String,
    pub native_name: String,
    pub job_title: String,
    pub email: String,
    pub phone_number: String,
    pub organization: String,
    pub civil_number: Option<String>,
    pub description: String,
    pub is_staff: bool,
    pub is_active: bool,
    /// PHC string; None: no login by password.
    pub password: Option<String>,
    pub created: i64,
}

const SELECT: &str = "SELECT id, uuid, username, full_name, native_name, job_title, email, phone_number, organization, \
    civil_number, description, is_staff, is_active, password, created FROM user";

fn read(row: &Row) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get(0)?,
        uuid: row.get(1)?,
        username: row.get(2)?,
        full_name: row.get(3)?,
        native_name: row.get(4)?,
        job_title: row.get(5)?,
        email: row.get(6)?,
        phone_number: row.get(7)?,
        organization: row.get(8)?,
        civil_number: row.get(9)?,
        description: row.get(10)?,
        is_staff: row.get(11)?,
        is_active: row.get(12)?,
        password: row.get(13)?,
        created: row.get(14)?,
    })
}

pub fn insert(connection: &Connection, user: &User) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO user (uuid, username, full_name, native_name, job_title, email, phone_number, organization, civil_number, \
         description, is_staff, is_active, password, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            user.uuid,
            user.username,
            user.full_name,
            user.native_name,
            user.job_title,
            user.email,
            user.phone_number,
            user.organization,
            user.civil_number,
            user.description,
            user.is_staff,
            user.is_active,
            user.password,
            user.created
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

/// Writes back all that can change (not uuid, created).
pub fn update(connection: &Connection, user: &User) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE user SET username = ?, full_name = ?, native_name = ?, job_title = ?, email = ?, phone_number = ?, \
         organization = ?, civil_number = ?, description = ?, is_staff = ?, is_active = ?, password = ? WHERE id = ?",
        params![
            user.username,
            user.full_name,
            user.native_name,
            user.job_title,
            user.email,
            user.phone_number,
            user.organization,
            user.civil_number,
            user.description,
            user.is_staff,
            user.is_active,
            user.password,
            user.id
        ],
    )?;
    Ok(())
}

/// Changes the password (a PHC string) and nothing else.
pub fn set_password(connection: &Connection, id: i64, password: Option<&str>) -> rusqlite::Result<()> {
    connection.execute("UPDATE user SET password = ? WHERE id = ?", params![password, id])?;
    Ok(())
}

pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM user WHERE id = ?", [id])?;
    Ok(())
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<User>> {
    connection.prepare_cached(&format!("{SELECT} WHERE uuid = ?"))?.query_row([uuid], read).optional()
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<User>> {
    connection.prepare_cached(&format!("{SELECT} WHERE id = ?"))?.query_row([id], read).optional()
}

pub fn by_name(connection: &Connection, username: &str) -> rusqlite::Result<Option<User>> {
    connection.prepare_cached(&format!("{SELECT} WHERE username = ?"))?.query_row([username], read).optional()
}

pub fn list(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<User>)> {
    Ok((list::count(connection, "user", filter)?, list::rows(connection, SELECT, filter, page, read)?))
}

/// The active staff user that local administrators act as when they come without a token.
pub fn any_staff(connection: &Connection) -> rusqlite::Result<Option<User>> {
    connection.prepare_cached(&format!("{SELECT} WHERE is_staff AND is_active ORDER BY id LIMIT 1"))?.query_row([], read).optional()
}

// ---- tokens of the API; Keystone's are in sessions.rs

#[derive(Clone, Debug)]
pub struct Token {
    pub id: i64,
    pub username: String,
    pub name: String,
    pub created: i64,
    pub expires: Option<i64>,
}

pub fn insert_token(
    connection: &Connection,
    user_id: i64,
    hash: &[u8],
    name: &str,
    created: i64,
    expires: Option<i64>,
) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO token (user_id, hash, name, created, expires) VALUES (?, ?, ?, ?, ?)",
        params![user_id, hash, name, created, expires],
    )?;
    Ok(connection.last_insert_rowid())
}

/// The user whose token has this hash, unless it has expired by `now`.
pub fn by_token(connection: &Connection, hash: &[u8], now: i64) -> rusqlite::Result<Option<User>> {
    connection
        .prepare_cached(&format!(
            "{SELECT} WHERE id = (SELECT user_id FROM token WHERE hash = ?1 AND methods IS NULL \
             AND (expires IS NULL OR expires > ?2))"
        ))?
        .query_row(params![hash, now], read)
        .optional()
}

pub fn tokens(connection: &Connection, username: Option<&str>) -> rusqlite::Result<Vec<Token>> {
    connection
        .prepare_cached(
            "SELECT t.id, u.username, t.name, t.created, t.expires FROM token t JOIN user u ON u.id = t.user_id \
             WHERE t.methods IS NULL AND (?1 IS NULL OR u.username = ?1) ORDER BY t.id",
        )?
        .query_map([username], |row| {
            Ok(Token { id: row.get(0)?, username: row.get(1)?, name: row.get(2)?, created: row.get(3)?, expires: row.get(4)? })
        })?
        .collect()
}

/// True if there was such a token.
pub fn delete_token(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    Ok(connection.execute("DELETE FROM token WHERE id = ? AND methods IS NULL", [id])? > 0)
}

/// Drops expired tokens, and all but the newest `keep` login tokens of a user, so that logging in often leaves no heap.
pub fn prune_tokens(connection: &Connection, user_id: i64, name: &str, keep: i64, now: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM token WHERE expires <= ?", [now])?;
    connection.execute(
        "DELETE FROM token WHERE user_id = ?1 AND name = ?2 AND methods IS NULL AND id NOT IN \
         (SELECT id FROM token WHERE user_id = ?1 AND name = ?2 AND methods IS NULL ORDER BY id DESC LIMIT ?3)",
        params![user_id, name, keep],
    )?;
    Ok(())
}

/// Ends all of a user's sessions, as a new password must.
pub fn delete_tokens_of(connection: &Connection, user_id: i64, name: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM token WHERE user_id = ? AND name = ?", params![user_id, name])?;
    Ok(())
}

// ---- roles

#[derive(Clone, Debug)]
pub struct RoleRow {
    pub id: i64,
    pub uuid: String,
    pub role: Role,
    pub created: i64,
    pub user: User,
    /// uuid and name; None for an owner of the customer.
    pub project: Option<(String, String)>,
}

const ROLE_FROM: &str = "role r JOIN user u ON u.id = r.user_id LEFT JOIN project p ON p.id = r.project_id";

fn read_role(row: &Row) -> rusqlite::Result<RoleRow> {
    let project: Option<String> = row.get(8)?;
    Ok(RoleRow {
        id: row.get(0)?,
        uuid: row.get(1)?,
        role: row.get(2)?,
        created: row.get(3)?,
        user: User {
            uuid: row.get(4)?,
            username: row.get(5)?,
            full_name: row.get(6)?,
            native_name: row.get(7)?,
            email: row.get(10)?,
            ..User::default()
        },
        project: match project {
            Some(uuid) => Some((uuid, row.get(9)?)),
            None => None,
        },
    })
}

/// Roles of a user: project id (None: all projects) and role.
pub fn roles_of(connection: &Connection, user_id: i64) -> rusqlite::Result<Vec<(Option<i64>, Role)>> {
    connection
        .prepare_cached("SELECT project_id, role FROM role WHERE user_id = ?")?
        .query_map([user_id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// None if the user already has exactly this role there.
pub fn insert_role(
    connection: &Connection,
    uuid: &str,
    user_id: i64,
    project_id: Option<i64>,
    role: Role,
    created: i64,
) -> rusqlite::Result<Option<i64>> {
    let changed = connection.execute(
        "INSERT INTO role (uuid, user_id, project_id, role, created) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        params![uuid, user_id, project_id, role, created],
    )?;
    Ok((changed > 0).then(|| connection.last_insert_rowid()))
}

pub fn delete_role(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM role WHERE id = ?", [id])?;
    Ok(())
}

/// Filter columns: r.*, u.* (user), p.* (project).
pub fn list_roles(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<RoleRow>)> {
    let select = format!(
        "SELECT r.id, r.uuid, r.role, r.created, u.uuid, u.username, u.full_name, u.native_name, p.uuid, p.name, u.email FROM {ROLE_FROM}"
    );
    Ok((list::count(connection, ROLE_FROM, filter)?, list::rows(connection, &select, filter, page, read_role)?))
}
