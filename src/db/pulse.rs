//! How writing goes, as it is known without writing: whether the last change came to its commit, and since when the writer is at one.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::sync;

#[derive(Default)]
pub(super) struct Pulse(Mutex<State>);

#[derive(Default)]
struct State {
    busy_since: Option<Instant>,
    failing: bool,
}

impl Pulse {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn busy(&self) -> Duration {
        self.state().busy_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn is_failing(&self) -> bool {
        self.state().failing
    }
}

/// The writer's connection, lent to one thread.
pub(super) struct Writing<'a> {
    connection: MutexGuard<'a, Connection>,
    pulse: &'a Pulse,
    changes: u64,
}

impl<'a> Writing<'a> {
    pub fn new(connection: MutexGuard<'a, Connection>, pulse: &'a Pulse) -> Writing<'a> {
        pulse.state().busy_since = Some(Instant::now());
        let changes = connection.total_changes();
        Writing { connection, pulse, changes }
    }

    /// To be told of each step that meets the disk. It ends the process if that did not confirm what was written (sync.rs).
    pub fn note<T>(&self, outcome: Result<T, rusqlite::Error>) -> Result<T, rusqlite::Error> {
        let outcome = sync::judge(outcome);
        match &outcome {
            // The commit of nothing tells nothing.
            Ok(_) if self.connection.total_changes() == self.changes => {}
            Ok(_) => self.pulse.state().failing = false,
            Err(error) if is_the_disks(error) => self.pulse.state().failing = true,
            Err(_) => {}
        }
        outcome
    }
}

fn is_the_disks(error: &rusqlite::Error) -> bool {
    use ErrorCode::{CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure};
    matches!(error.sqlite_error_code(), Some(DiskFull | SystemIoFailure | ReadOnly | CannotOpen | DatabaseCorrupt | NotADatabase))
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.pulse.state().busy_since = None;
    }
}

impl Deref for Writing<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
