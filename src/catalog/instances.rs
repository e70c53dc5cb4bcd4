//! Instances: the records of virtual machines.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::list::{self, Filter, Page};
use crate::model::instance::InstanceState;

#[derive(Clone, Debug)]
pub struct Instance {
    pub id: i64,
    pub uuid: String,
    pub project_id: i64,
    pub project_uuid: String,
    pub project_name: String,
    pub name: String,
    pub description: String,
    pub state: InstanceState,
    pub error_message: String,
    pub cores: i64,
    /// MiB
    pub ram: i64,
    pub flavor_name: String,
    pub image_name: String,
    /// MiB
    pub min_ram: i64,
    /// MiB
    pub min_disk: i64,
    pub key_name: String,
    pub key_fingerprint: String,
    pub user_data: String,
    pub tags: Vec<String>,
    pub internal_ips: Vec<String>,
    pub external_ips: Vec<String>,
    pub created: i64,
}

impl Instance {
    /// What a backup's metadata tells of the instance that it was made of; without identity, project and disks.
    pub fn recorded(metadata: &Value) -> Instance {
        let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_string();
        let number = |key: &str| metadata[key].as_i64().unwrap_or(0);
        let tags = metadata["tags"].as_array().map(|tags| tags.iter().filter_map(|tag| tag.as_str().map(str::to_string)).collect());
        Instance {
            id: 0,
            uuid: String::new(),
            project_id: 0,
            project_uuid: String::new(),
            project_name: String::new(),
            name: text("name"),
            description: text("description"),
            state: InstanceState::Offline,
            error_message: String::new(),
            cores: number("cores"),
            ram: number("ram"),
            flavor_name: text("flavor_name"),
            image_name: text("image_name"),
            min_ram: number("min_ram"),
            min_disk: number("min_disk"),
            key_name: text("key_name"),
            key_fingerprint: text("key_fingerprint"),
            user_data: text("user_data"),
            tags: tags.unwrap_or_default(),
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            created: 0,
        }
    }
}

pub const FROM: &str = "instance i JOIN project p ON p.id = i.project_id";
const COLUMNS: &str = "i.id, i.uuid, i.project_id, p.uuid, p.name, i.name, i.description, i.state, i.error_message, i.cores, i.ram, \
    i.flavor_name, i.image_name, i.min_ram, i.min_disk, i.key_name, i.key_fingerprint, i.user_data, i.tags, i.internal_ips, \
    i.external_ips, i.created";

fn strings(row: &Row, index: usize) -> rusqlite::Result<Vec<String>> {
    let text: String = row.get(index)?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

fn read(row: &Row) -> rusqlite::Result<Instance> {
    Ok(Instance {
        id: row.get(0)?,
        uuid: row.get(1)?,
        project_id: row.get(2)?,
        project_uuid: row.get(3)?,
        project_name: row.get(4)?,
        name: row.get(5)?,
        description: row.get(6)?,
        state: row.get(7)?,
        error_message: row.get(8)?,
        cores: row.get(9)?,
        ram: row.get(10)?,
        flavor_name: row.get(11)?,
        image_name: row.get(12)?,
        min_ram: row.get(13)?,
        min_disk: row.get(14)?,
        key_name: row.get(15)?,
        key_fingerprint: row.get(16)?,
        user_data: row.get(17)?,
        tags: strings(row, 18)?,
        internal_ips: strings(row, 19)?,
        external_ips: strings(row, 20)?,
        created: row.get(21)?,
    })
}

/// Inserts the instance (id, project_uuid and project_name are ignored) and returns the id.
pub fn insert(connection: &Connection, instance: &Instance) -> rusqlite::Result<i64> {
    let json = |list: &Vec<String>| serde_json::Value::from(list.clone()).to_string();
    connection.execute(
        "INSERT INTO instance (uuid, project_id, name, description, state, error_message, cores, ram, flavor_name, image_name, \
         min_ram, min_disk, key_name, key_fingerprint, user_data, tags, internal_ips, external_ips, created) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            instance.uuid,
            instance.project_id,
            instance.name,
            instance.description,
            instance.state,
            instance.error_message,
            instance.cores,
            instance.ram,
            instance.flavor_name,
            instance.image_name,
            instance.min_ram,
            instance.min_disk,
            instance.key_name,
            instance.key_fingerprint,
            instance.user_data,
            json(&instance.tags),
            json(&instance.internal_ips),
            json(&instance.external_ips),
            instance.created
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

pub fn set_texts(connection: &Connection, id: i64, name: &str, description: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE instance SET name = ?, description = ? WHERE id = ?", params![name, description, id])?;
    Ok(())
}

pub fn set_state(connection: &Connection, id: i64, state: InstanceState, error: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE instance SET state = ?, error_message = ? WHERE id = ?", params![state, error, id])?;
    Ok(())
}

/// Counts one more scheduled backup and returns its number.
pub fn count_backup(connection: &Connection, id: i64) -> rusqlite::Result<i64> {
    connection.query_row(
        "UPDATE instance SET backup_counter = backup_counter + 1 WHERE id = ? RETURNING backup_counter",
        [id],
        |row| row.get(0),
    )
}

/// Removes the record, its schedules and its places for volumes. Fails while it has backups.
pub fn delete(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM instance WHERE id = ?", [id])?;
    Ok(())
}

pub fn get(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Instance>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE i.uuid = ?"))?
        .query_row([uuid], read)
        .optional()
}

pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Instance> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE i.id = ?"))?.query_row([id], read)
}

/// Filter columns: i.* (instance), p.* (project).
pub fn rows(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<Vec<Instance>> {
    list::rows(connection, &format!("SELECT {COLUMNS} FROM {FROM}"), filter, page, read)
}
