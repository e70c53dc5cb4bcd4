//! The domain, pure: states and their transitions, roles, quotas, retention, schedules. No I/O, no SQL.

pub mod backup;
pub mod confirmed;
pub mod instance;
pub mod quota;
pub mod retention;
pub mod role;
pub mod schedule;
pub mod volume;
