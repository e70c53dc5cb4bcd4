//! The one place where the time is read.

use chrono::{DateTime, Utc};

pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Milliseconds since 1970-01-01T00:00Z, as the coffer keeps times.
pub fn now_ms() -> i64 {
    now().timestamp_millis()
}

/// The instant of a stored time; what is out of chrono's range becomes its nearest end.
pub fn from_ms(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or(if ms < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC })
}
