//! The only place with SQL over the domain: one file a group of tables. Functions take a connection, so that a caller can
//! make several of them one transaction; what must happen together (a state and its job, a check and its reservation) is
//! one function here.

pub mod backups;
pub mod events;
pub mod images;
pub mod instances;
pub mod jobs;
pub mod list;
pub mod meta;
pub mod projects;
pub mod schedules;
pub mod users;
pub mod volumes;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::model::backup::BackupState;
use crate::model::instance::InstanceState;
use crate::model::role::Role;

/// A new identifier: random, 32 lower-case hex digits.
pub fn new_uuid() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Stores a domain enum by its stable name.
macro_rules! stored_by_name {
    ($($type:ty),*) => {$(
        impl ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.as_str().as_bytes())))
            }
        }
        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let name = value.as_str()?;
                <$type>::from_stored(name)
                    .ok_or_else(|| FromSqlError::Other(format!("unknown {} '{name}'", stringify!($type)).into()))
            }
        }
    )*};
}
stored_by_name!(BackupState, InstanceState, Role);
