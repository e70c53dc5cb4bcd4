//! What can go wrong with a place for objects, worded for the administrator who has to mend it. No text holds a secret: what a
//! server said has passed `http.rs`, which takes ours out of it.

use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("{0} is not there")]
    NotFound(String),
    #[error("there is no {0}: make it, or correct its name in the configuration")]
    NoPlace(String),
    #[error("{place} refuses access (status {status}: {message}); {remedy}")]
    Refused { place: String, status: u16, message: String, remedy: String },
    #[error("user {user} may not use {path}: {error}; give it access")]
    Denied { path: String, user: String, error: std::io::Error },
    #[error("{host} does not prove that it is what it says ({error}); if its certificate is of an authority of your own, name that with ca_file, else correct the address")]
    Untrusted { host: String, error: String },
    #[error("{host} cannot be reached: {error}")]
    Unreachable { host: String, error: String },
    #[error("{place} is out of order or has too much to do (status {status}: {message})")]
    Unavailable { place: String, status: u16, message: String, retry_after: Option<Duration> },
    #[error("{name} was changed on its way: {why}")]
    Corrupt { name: String, why: String },
    #[error("{name} is shorter than it should be: {why}")]
    Short { name: String, why: String },
    #[error("{name} has more than the {limit} bytes that were expected")]
    TooLarge { name: String, limit: usize },
    #[error("{place} is full, or its quota is used up ({message}); make room there, or have the quota raised")]
    Full { place: String, message: String },
    #[error("{place} gave an answer that was not expected: {what}")]
    Unexpected { place: String, what: String },
    #[error("{0}")]
    Settings(String),
    #[error("interrupted")]
    Cancelled,
    #[error("{last} (tried {attempts} times in {seconds} s)")]
    GaveUp { attempts: u32, seconds: u64, last: Box<ObjectError> },
}

impl ObjectError {
    /// Whether the same may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, ObjectError::Unreachable { .. } | ObjectError::Unavailable { .. } | ObjectError::Corrupt { .. })
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ObjectError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
