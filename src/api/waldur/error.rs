//! Waldur's error shapes: `{"detail": ...}`, or `{"field": ["message", ...]}` for 400.

use serde_json::{Map, Value, json};

use crate::api::auth::AuthError;
use crate::engine::orders::Refusal;
use crate::http::Response;
use crate::model::backup::BackupState;
use crate::store::StoreError;

/// The end of a request that is not answered with what was asked for.
#[derive(Debug)]
pub struct ApiError {
    status: u16,
    body: Value,
    headers: Vec<(&'static str, String)>,
}

impl ApiError {
    pub fn detail(status: u16, message: impl Into<String>) -> ApiError {
        ApiError { status, body: json!({"detail": message.into()}), headers: Vec::new() }
    }

    pub fn body(status: u16, body: Value) -> ApiError {
        ApiError { status, body, headers: Vec::new() }
    }

    /// 400 with messages by field.
    pub fn fields(errors: Map<String, Value>) -> ApiError {
        ApiError::body(400, Value::Object(errors))
    }

    pub fn field(name: &str, message: impl Into<String>) -> ApiError {
        ApiError::body(400, json!({name: [message.into()]}))
    }

    pub fn non_field(messages: Vec<String>) -> ApiError {
        ApiError::body(400, json!({"non_field_errors": messages}))
    }

    pub fn not_found() -> ApiError {
        ApiError::detail(404, "Not found.")
    }

    pub fn forbidden() -> ApiError {
        ApiError::detail(403, "You do not have permission to perform this action.")
    }

    pub fn with_header(mut self, name: &'static str, value: String) -> ApiError {
        self.headers.push((name, value));
        self
    }

    /// 409 for an action that the backup's state forbids.
    pub fn wrong_state(action: &str, state: BackupState) -> ApiError {
        ApiError::detail(409, format!("Cannot {action} a backup in state '{}'", state.display()))
    }

    /// A refused order in Waldur's words; `action` is "create", "restore" or "delete".
    pub fn refused(action: &str, refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Unstable => ApiError::detail(409, refusal.to_string()),
            Refusal::State(state) => ApiError::wrong_state(action, state),
            Refusal::Quota(sentences) => ApiError::non_field(sentences),
            Refusal::Bootable(_) if action == "create" => ApiError::field("instance", refusal.to_string()),
            Refusal::NoRepository(_) => ApiError::field("repository", refusal.to_string()),
            Refusal::Bootable(_) => ApiError::non_field(vec![refusal.to_string()]),
            Refusal::Profile { field, message } => ApiError::field(field, message),
            Refusal::Catalog(error) => error.into(),
            // What concerns volumes in themselves.
            other => ApiError::detail(409, capitalised(&other.to_string())),
        }
    }

    pub fn into_response(self) -> Response {
        let response = Response::json(self.status, &self.body);
        self.headers.into_iter().fold(response, |response, (name, value)| response.with_header(name, value))
    }

    fn internal(what: &dyn std::fmt::Display) -> ApiError {
        log::error!("a request failed: {what}");
        ApiError::detail(500, "Internal error; the daemon's log says more.")
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> ApiError {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                log::error!("a request failed: {error}");
                ApiError::detail(507, "The coffer's disk is full; delete backups or make room, then try again.")
            }
            Some(rusqlite::ErrorCode::DatabaseBusy) => {
                log::error!("a request failed: {error}");
                ApiError::detail(503, "The coffer is busy; try again.").with_header("Retry-After", "1".into())
            }
            _ => ApiError::internal(&error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        ApiError::internal(&error)
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> ApiError {
        match error {
            AuthError::Catalog(error) => error.into(),
            other => ApiError::detail(401, other.to_string()).with_header("WWW-Authenticate", "Token".into()),
        }
    }
}

/// A message of the engine as a sentence.
fn capitalised(message: &str) -> String {
    let mut letters = message.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).chain(['.']).collect())
}
