//! Cinder's error shape: one key chosen by the status, with `code` and `message` in it (Cinder contract 0.2).

use serde_json::{Value, json};

use crate::engine::orders::Refusal;
use crate::http::Response;

/// The end of a request that is not answered with what was asked for.
#[derive(Debug)]
pub struct CinderError {
    status: u16,
    message: String,
    /// Seconds, for the header and, as a string, for the body.
    retry_after: Option<u64>,
}

impl CinderError {
    pub(super) fn new(status: u16, message: impl Into<String>) -> CinderError {
        CinderError { status, message: message.into(), retry_after: None }
    }

    pub fn bad_request(message: impl Into<String>) -> CinderError {
        CinderError::new(400, message)
    }

    pub fn forbidden(message: impl Into<String>) -> CinderError {
        CinderError::new(403, message)
    }

    /// `what` names the kind of thing with a capital: "Backup", "Volume".
    pub fn no_such(what: &str, id: &str) -> CinderError {
        CinderError::new(404, format!("{what} {id} could not be found."))
    }

    pub fn not_found() -> CinderError {
        CinderError::new(404, "The resource could not be found.")
    }

    pub fn not_acceptable(message: String) -> CinderError {
        CinderError::new(406, message)
    }

    pub fn precondition_failed() -> CinderError {
        CinderError::new(412, "It has changed since; look at it again.")
    }

    pub fn too_large(limit: usize) -> CinderError {
        CinderError::new(413, format!("The request body is larger than {limit} bytes."))
    }

    pub fn media_type(found: &str) -> CinderError {
        CinderError::new(415, format!("The content type {found} is not supported; send JSON with Content-Type: application/json."))
    }

    pub fn throttled(seconds: u64) -> CinderError {
        CinderError { retry_after: Some(seconds), ..CinderError::new(429, "Too many logins; try again later.") }
    }

    /// A refused order; `subject` names what was asked for: "volume", "backup", "snapshot".
    pub fn refused(subject: &str, refusal: Refusal) -> CinderError {
        match refusal {
            // Clients tell a quota from rate limiting by the word "exceed".
            Refusal::Quota(sentences) => {
                let message = format!("This would exceed a quota of the project: {}", sentences.join(" "));
                CinderError { retry_after: Some(0), ..CinderError::new(413, message) }
            }
            Refusal::Catalog(error) => error.into(),
            other => CinderError::bad_request(format!("Invalid {subject}: {other}.")),
        }
    }

    pub fn into_response(self) -> Response {
        let mut fault = json!({"code": self.status, "message": self.message});
        if let Some(seconds) = self.retry_after {
            fault["retryAfter"] = Value::from(seconds.to_string());
        }
        let response = Response::json(self.status, &json!({key(self.status): fault}));
        match self.retry_after {
            Some(seconds) => response.with_header("Retry-After", seconds.to_string()),
            None => response,
        }
    }
}

fn key(status: u16) -> &'static str {
    match status {
        400 => "badRequest",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        415 => "badMediaType",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    }
}

impl From<rusqlite::Error> for CinderError {
    fn from(error: rusqlite::Error) -> CinderError {
        log::error!("a request failed: {error}");
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                CinderError::new(507, "The coffer's disk is full; delete backups or make room, then try again.")
            }
            Some(rusqlite::ErrorCode::DatabaseBusy) => {
                CinderError { retry_after: Some(1), ..CinderError::new(503, "The coffer is busy; try again.") }
            }
            _ => CinderError::new(500, "Internal error; the daemon's log says more."),
        }
    }
}
