//! Coffers of older formats are brought up to date when they are opened, in one transaction: a crash leaves the old one.
//!
//! The store's tables, where the bytes are, stay as they are. The catalog's are small: they are set aside under other names,
//! made anew as schema.sql has them, filled from the old ones, and the old ones are dropped. Triggers count the tallies anew.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{DbError, FORMAT_VERSION, SCHEMA};

/// Where the catalog begins in schema.sql.
const CATALOG: &str = "---------------------------------------------------------------- the catalog";
const STORE_TABLES: [&str; 4] = ["pack", "pack_toc", "segment", "volume_map"];
/// Fills the new tables from those of format 1, which have `old_` before their names.
const FROM_1: &str = include_str!("from_format_1.sql");

/// What format 3 added to the store's tables: packs may hold deltas, and are read again from time to time, older ones first.
const STORE_3: &str = "CREATE INDEX pack_toc_deltas ON pack_toc(id) WHERE format = 2;
    CREATE TABLE verified (pack INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
    INSERT INTO verified SELECT id, 0 FROM pack_toc;";

/// What format 3 added to the catalog.
const CATALOG_3: &str = "
    CREATE TABLE reflink (path TEXT PRIMARY KEY, part_id INTEGER REFERENCES volume_backup(id) ON DELETE SET NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX reflink_part ON reflink(part_id);";

/// What format 4 adds to the store: repositories. The rows of `segment` are made anew, because one name may have a segment in each.
const STORE_4: &str = "ALTER TABLE pack_toc ADD COLUMN repository INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE pack_toc ADD COLUMN object TEXT;
    ALTER TABLE pack_toc ADD COLUMN staged INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX pack_toc_staged ON pack_toc(repository, id) WHERE staged;
    CREATE UNIQUE INDEX pack_toc_object ON pack_toc(object, repository) WHERE object IS NOT NULL;
    ALTER TABLE volume_map ADD COLUMN repository INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE segment RENAME TO old_segment;
    CREATE TABLE segment (
        id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL, format INTEGER NOT NULL, chunks BLOB NOT NULL,
        repository INTEGER NOT NULL DEFAULT 0, object TEXT, staged INTEGER NOT NULL DEFAULT 0, UNIQUE (hash, repository)
    ) STRICT;
    INSERT INTO segment (id, hash, format, chunks) SELECT id, hash, format, chunks FROM old_segment;
    UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'old_segment') WHERE name = 'segment';
    DROP TABLE old_segment;
    CREATE UNIQUE INDEX segment_object ON segment(object, repository) WHERE object IS NOT NULL;
    CREATE TABLE trash (
        repository INTEGER NOT NULL, object TEXT NOT NULL, since INTEGER NOT NULL, PRIMARY KEY (repository, object)
    ) STRICT, WITHOUT ROWID;";

/// And to the catalog of format 3.
const CATALOG_4: &str = "
    CREATE TABLE repository (
        id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, writer TEXT NOT NULL,
        epoch INTEGER NOT NULL, is_default INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL, copies TEXT NOT NULL DEFAULT 'null'
    ) STRICT;
    CREATE TABLE copy (
        id INTEGER PRIMARY KEY AUTOINCREMENT, backup_id INTEGER NOT NULL REFERENCES backup(id) ON DELETE CASCADE,
        repository_id INTEGER REFERENCES repository(id), automatic INTEGER NOT NULL, created INTEGER NOT NULL, finished INTEGER,
        next_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, error_message TEXT NOT NULL DEFAULT '', manifest TEXT,
        stored INTEGER NOT NULL DEFAULT 0, mends INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE UNIQUE INDEX copy_place ON copy(backup_id, ifnull(repository_id, 0));
    CREATE INDEX copy_due ON copy(next_at) WHERE finished IS NULL OR mends;
    CREATE TABLE copy_volume (
        part_id INTEGER NOT NULL REFERENCES volume_backup(id) ON DELETE CASCADE,
        copy_id INTEGER NOT NULL REFERENCES copy(id) ON DELETE CASCADE,
        map_id INTEGER NOT NULL REFERENCES volume_map(id), PRIMARY KEY (part_id, copy_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX copy_volume_copy ON copy_volume(copy_id);
    CREATE INDEX copy_volume_map ON copy_volume(map_id);
    ALTER TABLE backup ADD COLUMN repository_id INTEGER REFERENCES repository(id);
    ALTER TABLE backup ADD COLUMN manifest TEXT;
    ALTER TABLE schedule ADD COLUMN repository TEXT NOT NULL DEFAULT '';";

/// Upgrades a coffer of this format, older than the present one. The connection has foreign keys switched on afterwards, as
/// before.
pub(super) fn from_format(found: i32, connection: &mut Connection) -> Result<(), DbError> {
    log::info!("the coffer is brought from format {found} to {FORMAT_VERSION}");
    // Neither can be changed within a transaction. Without them a table can be renamed and those that refer to it keep doing so.
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "legacy_alter_table", true)?;
    let upgraded = upgrade(found, connection);
    connection.pragma_update(None, "legacy_alter_table", false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    upgraded
}

fn upgrade(found: i32, connection: &mut Connection) -> Result<(), DbError> {
    let tx = Transaction::new(connection, TransactionBehavior::Immediate)?;
    match found {
        1 => rebuild_catalog(&tx)?, // as it is now
        2 => tx.execute_batch(&[CATALOG_3, CATALOG_4].concat())?,
        _ => tx.execute_batch(CATALOG_4)?,
    }
    if found < 3 {
        tx.execute_batch(STORE_3)?;
    }
    tx.execute_batch(STORE_4)?;
    tx.pragma_update(None, "user_version", FORMAT_VERSION)?;
    tx.commit()?;
    Ok(())
}

fn rebuild_catalog(tx: &Transaction) -> Result<(), DbError> {
    let tables: Vec<String> = names(tx, "table")?.into_iter().filter(|name| !STORE_TABLES.contains(&name.as_str())).collect();
    for kind in ["trigger", "index"] {
        for name in names(tx, kind)? {
            tx.execute_batch(&format!("DROP {kind} {name}"))?;
        }
    }
    for table in &tables {
        tx.execute_batch(&format!("ALTER TABLE {table} RENAME TO old_{table}"))?;
    }
    let catalog = SCHEMA.split_once(CATALOG).map_or("", |(_, catalog)| catalog);
    tx.execute_batch("CREATE INDEX volume_map_hash ON volume_map(hash)")?;
    tx.execute_batch(catalog)?;
    tx.execute_batch(FROM_1)?;
    for table in &tables {
        tx.execute_batch(&format!("DROP TABLE old_{table}"))?;
    }
    if tx.prepare("PRAGMA foreign_key_check")?.exists([])? {
        return Err(DbError::Sqlite(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY),
            Some("the catalog of format 1 has references that lead nowhere".into()),
        )));
    }
    Ok(())
}

/// What schema.sql made of this kind; not what SQLite made for itself.
fn names(tx: &Transaction, kind: &str) -> rusqlite::Result<Vec<String>> {
    tx.prepare("SELECT name FROM sqlite_schema WHERE type = ?1 AND sql IS NOT NULL AND name NOT LIKE 'sqlite%'")?
        .query_map([kind], |row| row.get(0))?
        .collect()
}
