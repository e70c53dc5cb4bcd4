//! Images and flavors: the profiles a restored machine is made with. Deleting one never touches a backup.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::list::{self, Filter, Page};

/// Sizes in MiB.
#[derive(Clone, Debug)]
pub struct Image {
    pub id: i64,
    pub uuid: String,
    pub name: String,
    pub min_disk: i64,
    pub min_ram: i64,
    pub created: i64,
}

/// Sizes in MiB.
#[derive(Clone, Debug)]
pub struct Flavor {
    pub id: i64,
    pub uuid: String,
    pub name: String,
    pub cores: i64,
    pub ram: i64,
    pub disk: i64,
    pub created: i64,
}

const IMAGE: &str = "SELECT id, uuid, name, min_disk, min_ram, created FROM image";
const FLAVOR: &str = "SELECT id, uuid, name, cores, ram, disk, created FROM flavor";

fn read_image(row: &Row) -> rusqlite::Result<Image> {
    Ok(Image {
        id: row.get(0)?,
        uuid: row.get(1)?,
        name: row.get(2)?,
        min_disk: row.get(3)?,
        min_ram: row.get(4)?,
        created: row.get(5)?,
    })
}

fn read_flavor(row: &Row) -> rusqlite::Result<Flavor> {
    Ok(Flavor {
        id: row.get(0)?,
        uuid: row.get(1)?,
        name: row.get(2)?,
        cores: row.get(3)?,
        ram: row.get(4)?,
        disk: row.get(5)?,
        created: row.get(6)?,
    })
}

/// Inserts, or writes back the image with this uuid.
pub fn put_image(connection: &Connection, image: &Image) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO image (uuid, name, min_disk, min_ram, created) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, min_disk = excluded.min_disk, min_ram = excluded.min_ram",
        params![image.uuid, image.name, image.min_disk, image.min_ram, image.created],
    )?;
    Ok(())
}

/// Inserts, or writes back the flavor with this uuid.
pub fn put_flavor(connection: &Connection, flavor: &Flavor) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO flavor (uuid, name, cores, ram, disk, created) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, cores = excluded.cores, ram = excluded.ram, disk = excluded.disk",
        params![flavor.uuid, flavor.name, flavor.cores, flavor.ram, flavor.disk, flavor.created],
    )?;
    Ok(())
}

pub fn image(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Image>> {
    connection.prepare_cached(&format!("{IMAGE} WHERE uuid = ?"))?.query_row([uuid], read_image).optional()
}

pub fn flavor(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<Flavor>> {
    connection.prepare_cached(&format!("{FLAVOR} WHERE uuid = ?"))?.query_row([uuid], read_flavor).optional()
}

pub fn delete_image(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM image WHERE id = ?", [id])?;
    Ok(())
}

pub fn delete_flavor(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM flavor WHERE id = ?", [id])?;
    Ok(())
}

pub fn list_images(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<Image>)> {
    Ok((list::count(connection, "image", filter)?, list::rows(connection, IMAGE, filter, page, read_image)?))
}

pub fn list_flavors(connection: &Connection, filter: &Filter, page: &Page) -> rusqlite::Result<(i64, Vec<Flavor>)> {
    Ok((list::count(connection, "flavor", filter)?, list::rows(connection, FLAVOR, filter, page, read_flavor)?))
}
