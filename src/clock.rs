//! The one place where the time is read.

use chrono::{DateTime, Utc};

pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Milliseconds since 1970-01-01T00:00Z, as the coffer keeps times.
pub fn now_ms() -> i64 {
    now().timestamp_millis()
}

/// Milliseconds on a clock that nobody sets and that counts suspends; its beginning means nothing.
pub fn steady_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// A host without a battery for its clock begins in 1970, or when its system was built, until the network tells it the time.
pub fn is_set(ms: i64) -> bool {
    const WRITTEN: i64 = 1_735_689_600_000; // 2025-01-01, before the first release
    ms >= WRITTEN
}

/// The instant of a stored time; what is out of chrono's range becomes its nearest end.
pub fn from_ms(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or(if ms < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC })
}
