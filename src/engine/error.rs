//! Why a job failed, in words that help whoever started it.

use super::places::PlaceError;
use crate::source::SourceError;
use crate::store::StoreError;

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
    #[error("{0}")]
    Store(StoreError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What the job was about is no longer in the catalog.
    #[error("{0}")]
    Gone(String),
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> EngineError {
        match error {
            StoreError::Cancelled => EngineError::Cancelled,
            error => EngineError::Store(error),
        }
    }
}

impl From<rusqlite::Error> for EngineError {
    fn from(error: rusqlite::Error) -> EngineError {
        EngineError::Store(error.into())
    }
}
