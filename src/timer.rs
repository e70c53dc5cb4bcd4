//! The timer thread: fires due schedules, begins the deletion of expired backups, trims the event log.
//!
//! It looks at the wall clock about once a second and asks an index what is due, so clock steps, suspends and new or
//! changed schedules need no special care. Its heartbeat feeds the watchdog.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::catalog::{events, meta};
use crate::clock;
use crate::db::Db;
use crate::engine::Engine;

const TICK: Duration = Duration::from_secs(1);
/// A clock that went back by more than this was set; less is ordinary correction.
const STEP_BACK_MS: i64 = 10_000;
/// While writing fails, how often to see whether it works again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Ticks without a request or an ended job until memory is given back.
const QUIET_TICKS: u32 = 5;

pub struct Timer {
    started: Instant,
    /// Milliseconds since `started`.
    last_beat: AtomicU64,
    stop: Mutex<bool>,
    wake: Condvar,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Tells when activity has come to rest: once, some ticks after its end.
#[derive(Default)]
struct Burst {
    seen: u64,
    quiet_ticks: u32,
}

impl Burst {
    fn is_over(&mut self, activity: u64) -> bool {
        self.quiet_ticks = if activity == self.seen { self.quiet_ticks.saturating_add(1) } else { 0 };
        self.seen = activity;
        self.quiet_ticks == QUIET_TICKS
    }
}

impl Timer {
    pub fn new() -> Timer {
        Timer {
            started: Instant::now(),
            last_beat: AtomicU64::new(0),
            stop: Mutex::new(false),
            wake: Condvar::new(),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread.
    pub fn start(self: &Arc<Timer>, engine: Arc<Engine>, db: Arc<Db>, expiry_interval: Duration) -> std::io::Result<()> {
        let timer = self.clone();
        let body = move || timer.run(&engine, &db, expiry_interval);
        let thread = std::thread::Builder::new().name("timer".into()).spawn(body)?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Age of the last beat.
    pub fn heartbeat(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last_beat.load(Ordering::Relaxed)))
    }

    pub fn stop(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join(); // a panic was logged where it happened
        }
    }

    fn run(&self, engine: &Engine, db: &Db, expiry_interval: Duration) {
        let mut last_expiry: Option<Instant> = None;
        let mut last_try = Instant::now();
        let mut burst = Burst::default();
        let mut last_seen = i64::MAX; // so that the first look counts as a step back
        while self.sleep() {
            let now = clock::now_ms();
            engine.clock.look(db);
            // By a clock that is not set yet everything would be due once more when it is.
            if clock::is_set(now) {
                if now < last_seen.saturating_sub(STEP_BACK_MS)
                    && let Err(error) = engine.realign()
                {
                    log::error!("cannot realign the schedules with the clock: {error}");
                }
                last_seen = now;
            }
            if let Err(error) = engine.trigger_due(&|| self.goes_on()) {
                log::error!("cannot fire the due schedules: {error}");
            }
            if last_expiry.is_none_or(|at| at.elapsed() >= expiry_interval) {
                last_expiry = Some(Instant::now());
                let done = engine.expire(&|| self.goes_on()).and_then(|()| db.write(|tx| events::prune(tx)));
                if let Err(error) = done {
                    log::error!("cannot expire backups: {error}");
                }
            }
            if db.is_failing() && last_try.elapsed() >= TRY_AGAIN {
                last_try = Instant::now();
                // Nobody else may be writing. It is told where the health is asked for; the log has what came before.
                let _ = db.write(|tx| meta::touch(tx, clock::now_ms()));
            }
            if burst.is_over(engine.activity()) {
                engine.rest();
            }
            self.beat();
        }
    }

    fn beat(&self) {
        self.last_beat.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// In the middle of much work: it is alive. False: stop.
    fn goes_on(&self) -> bool {
        self.beat();
        !*self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: stop.
    fn sleep(&self) -> bool {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        !*self.wake.wait_timeout_while(stop, TICK, |stop| !*stop).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_once() {
        let mut burst = Burst::default();
        let calls = [1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3].map(|activity| burst.is_over(activity));
        assert_eq!(calls.iter().position(|over| *over), Some(6));
        assert_eq!(calls.iter().filter(|over| **over).count(), 1);
    }
}
