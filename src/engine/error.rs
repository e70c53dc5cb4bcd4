//! Why a job failed, in words that help whoever started it.

use std::path::Path;

use super::places::PlaceError;
use crate::source::SourceError;
use crate::store::StoreError;
use crate::store::read::ReadError;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("it was cancelled")]
    Cancelled,
    #[error("{0}")]
    Source(SourceError),
    #[error("{0}")]
    Target(SourceError),
    #[error("the backup is damaged at byte {offset}: {reason}")]
    Corrupt { offset: u64, reason: String },
    /// What was to be the same as in the last backup is not.
    #[error("byte {offset} has changed, although the file system says that it has not")]
    Unchanged { offset: u64 },
    #[error("{0}")]
    Store(StoreError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Put into words that everybody who sees the backup may read: no path of the host.
    #[error("{0}")]
    Told(String),
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> EngineError {
        match error {
            StoreError::Cancelled => EngineError::Cancelled,
            error => EngineError::Store(error),
        }
    }
}

impl From<ReadError> for EngineError {
    fn from(error: ReadError) -> EngineError {
        match error {
            ReadError::Corrupt(corrupt) => EngineError::Corrupt { offset: corrupt.offset, reason: corrupt.reason },
            ReadError::Store(error) => error.into(),
        }
    }
}

impl EngineError {
    /// The same error for those who must not learn where on the host a volume lies; the log keeps the path.
    pub fn without_path(self, path: &Path, label: &str) -> EngineError {
        match self {
            EngineError::Source(error) | EngineError::Target(error) => {
                log::error!("{label}: {error}");
                let told = error.to_string().replace(&path.display().to_string(), label);
                // It may name a directory above the volume instead.
                let told = if told.contains(" /") || told.starts_with('/') { format!("{label} cannot be opened; the daemon's log says why") } else { told };
                EngineError::Told(told)
            }
            EngineError::Place(error) => {
                log::error!("{label}: {error}");
                EngineError::Told(match error {
                    PlaceError::Own(_) => format!("{label} has become one of the coffer's own files"),
                    _ => format!("{label} does not lie under a root that the administrator has configured"),
                })
            }
            other => other,
        }
    }
}

impl From<rusqlite::Error> for EngineError {
    fn from(error: rusqlite::Error) -> EngineError {
        EngineError::Store(error.into())
    }
}
