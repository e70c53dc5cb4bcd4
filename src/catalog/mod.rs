//! The only place with SQL over the domain: one file a group of tables. Functions take a connection, so that a caller can
//! make several of them one transaction; what must happen together (a state and its job, a check and its reservation) is
//! one function here.

pub mod backups;
pub mod copies;
pub mod credentials;
pub mod events;
pub mod images;
pub mod instances;
pub mod jobs;
pub mod list;
pub mod manifests;
pub mod meta;
pub mod projects;
pub mod reflinks;
pub mod repositories;
pub mod schedules;
pub mod sessions;
pub mod users;
pub mod volume_backups;
pub mod volumes;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::model::backup::{BackupKind, BackupState};
use crate::model::instance::InstanceState;
use crate::model::role::{Level, Role};
use crate::model::volume::VolumeState;

/// A new identifier: random, 32 lower-case hex digits.
pub fn new_uuid() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// An identifier as OpenStack writes it (RFC 9562); what is none is returned as it is.
pub fn dashed(uuid: &str) -> String {
    uuid::Uuid::try_parse(uuid).map_or_else(|_| uuid.to_string(), |uuid| uuid.hyphenated().to_string())
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
stored_by_name!(jobs::JobKind, BackupKind, BackupState, InstanceState, Level, Role, VolumeState);
