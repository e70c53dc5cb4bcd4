//! Collecting garbage and giving space back: soon after something was deleted, and from time to time anyway.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Engine, EngineError};
use crate::catalog::{backups, copies};
use crate::clock;
use crate::store::{GcOptions, GcReport, StoreError};

/// Deletions often come in groups; one pass serves them all.
const SETTLE: Duration = Duration::from_millis(500);
/// A pack is rewritten when at least this part of it is dead.
const DEAD_FRACTION: f32 = 0.3;
/// How long what a failed backup has sent to a repository stays for the next one, in milliseconds.
const KEPT_UPLOADS_MS: i64 = 24 * 3_600_000;
/// Rest between two slices, so that backups and restores get the disk.
const PAUSE: Duration = Duration::from_millis(2);

pub struct Maintenance {
    wanted: Mutex<Wanted>,
    changed: Condvar,
    /// The scrub sleeps apart: what is deleted is nothing to it.
    scrub: Condvar,
    interval: Duration,
    pub(super) stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Wanted {
    requested: bool,
}

impl Maintenance {
    pub fn new(interval: Duration) -> Maintenance {
        Maintenance {
            wanted: Mutex::default(),
            changed: Condvar::new(),
            scrub: Condvar::new(),
            interval,
            stop: Arc::default(),
        }
    }

    /// There is garbage: collect it soon.
    pub fn request(&self) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).requested = true;
        self.changed.notify_all();
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // The lock orders this after a look at the flag and before the sleep that follows it.
        drop(self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        self.scrub.notify_all();
    }

    /// Something else may be due now.
    pub fn wake_scrub(&self) {
        drop(self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        self.scrub.notify_all();
    }

    /// Sleeps this long, or until something has changed for the scrub. False: the engine stops.
    pub(super) fn rest(&self, time: Duration) -> bool {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.stopped() {
            drop(self.scrub.wait_timeout(wanted, time).unwrap_or_else(PoisonError::into_inner));
        }
        !self.stopped()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps until a pass is asked for or due. False: the engine stops.
    fn wait(&self) -> bool {
        let due = Instant::now() + self.interval;
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.stopped() && !wanted.requested && Instant::now() < due {
            let rest = due.saturating_duration_since(Instant::now());
            wanted = self.changed.wait_timeout(wanted, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        if !self.stopped() {
            wanted = self.changed.wait_timeout(wanted, SETTLE).unwrap_or_else(PoisonError::into_inner).0;
        }
        wanted.requested = false;
        !self.stopped()
    }
}

impl Engine {
    pub(super) fn maintain(&self) {
        while self.maintenance.wait() {
            match self.collect_garbage(DEAD_FRACTION, &self.maintenance.stop) {
                Ok(report) => log::debug!("maintenance: {report:?}"),
                Err(error) => log::error!("maintenance stopped: {error}"),
            }
            for (name, tended) in self.tend_repositories(false, &self.maintenance.stop) {
                match tended {
                    Ok(removed) => log::debug!("repository {name}: {removed} objects removed"),
                    Err(EngineError::Cancelled) => {}
                    Err(error) => log::warn!("what nothing needs any more stays in a repository for now: {error}"),
                }
            }
            self.remove_stale_copies();
            self.note_activity();
        }
    }

    /// One pass; waits for one that is already running.
    pub fn collect_garbage(&self, dead_fraction: f32, cancel: &AtomicBool) -> Result<GcReport, StoreError> {
        // What a backup or a copy that failed has sent already, the next try need not send again; unless nothing is to be left.
        let spared = match dead_fraction {
            0.0 => Vec::new(),
            _ => self.db.read(|c| {
                let after = clock::now_ms() - KEPT_UPLOADS_MS;
                Ok::<_, StoreError>([backups::failed_uploads(c, after)?, copies::unfinished(c, after)?].concat())
            })?,
        };
        self.store.gc(&GcOptions { dead_fraction, pause: PAUSE, cancel, spared })
    }
}
