//! Keystone's errors: `{"error": {"code", "title", "message"}}`.

use serde_json::json;

use super::claim::ClaimError;
use crate::api::auth::openstack::{CallerError, ScopeError};
use crate::http::Response;

pub type IdentityResult = Result<Response, Fault>;

/// The end of a request that is not answered with what was asked for.
#[derive(Debug)]
pub struct Fault {
    status: u16,
    message: String,
    header: Option<(&'static str, String)>,
}

impl Fault {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Fault {
        Fault { status, message: message.into(), header: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Fault {
        Fault::new(400, message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Fault {
        Fault::new(401, message)
    }

    pub fn forbidden(message: impl Into<String>) -> Fault {
        Fault::new(403, message)
    }

    pub fn not_found() -> Fault {
        Fault::new(404, "There is nothing here by that name.")
    }

    pub fn method_not_allowed<'m>(allowed: impl Iterator<Item = &'m str>) -> Fault {
        let allowed: Vec<&str> = allowed.flat_map(|name| if name == "GET" { vec!["GET", "HEAD"] } else { vec![name] }).collect();
        Fault { header: Some(("Allow", allowed.join(", "))), ..Fault::new(405, "The method is not allowed here.") }
    }

    pub fn conflict(message: impl Into<String>) -> Fault {
        Fault::new(409, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Fault {
        Fault { header: Some(("Retry-After", "1".into())), ..Fault::new(503, message) }
    }

    /// `base` is what the server's links begin with.
    pub fn into_response(self, base: &str) -> Response {
        let error = json!({"code": self.status, "title": title(self.status), "message": self.message});
        let mut response = Response::json(self.status, &json!({"error": error}));
        if self.status == 401 {
            response = response.with_header("WWW-Authenticate", format!("Keystone uri=\"{base}/identity\""));
        }
        match self.header {
            Some((name, value)) => response.with_header(name, value),
            None => response,
        }
    }
}

fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    }
}

impl From<CallerError> for Fault {
    fn from(error: CallerError) -> Fault {
        match error {
            CallerError::Unauthorized(message) => Fault::unauthorized(message),
            CallerError::Busy(seconds) => {
                Fault { header: Some(("Retry-After", seconds.to_string())), ..Fault::new(429, error.to_string()) }
            }
            CallerError::Catalog(error) => error.into(),
        }
    }
}

impl From<ScopeError> for Fault {
    fn from(error: ScopeError) -> Fault {
        match error {
            ScopeError::Mismatch(message) | ScopeError::NoRole(message) => Fault::forbidden(message),
            ScopeError::Catalog(error) => error.into(),
        }
    }
}

impl From<ClaimError> for Fault {
    fn from(error: ClaimError) -> Fault {
        match error {
            ClaimError::Malformed(_) => Fault::bad_request(error.to_string()),
            ClaimError::Refused(_) => Fault::unauthorized(error.to_string()),
        }
    }
}

impl From<getrandom::Error> for Fault {
    fn from(error: getrandom::Error) -> Fault {
        Fault::unavailable(format!("No randomness from the kernel: {error}"))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        log::error!("a request failed: {error}");
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Fault::new(507, "The coffer's disk is full; delete backups or make room, then try again."),
            Some(rusqlite::ErrorCode::DatabaseBusy) => Fault::unavailable("The coffer is busy; try again."),
            _ => Fault::new(500, "Internal error; the daemon's log says more."),
        }
    }
}
