//! Jobs: backups and volumes are made, restored and deleted here, by a few worker threads that take promised work from the
//! catalog.
//!
//! The job table is the queue, so nothing that was promised is forgotten with the process: the next start settles it
//! (recovery.rs). Work on one volume or one backup is done one after another, in the order it was promised (queue.rs). What moves no
//! bytes, such as a deletion, has a worker of its own, so that it never waits for a long backup of something else.

mod clock_guard;
pub mod copies;
pub mod create;
mod delete;
pub mod emit;
mod error;
pub mod ingest;
pub mod maintenance;
mod manifest;
pub mod orders;
pub mod places;
mod queue;
pub mod reading;
#[cfg(test)]
mod path_bench;
#[cfg(test)]
mod path_tests;
mod recovery;
pub mod repositories;
#[cfg(test)]
mod repository_tests;
pub mod restore;
pub mod scrub;
#[cfg(test)]
mod scrub_tests;
pub mod space;
pub mod tasks;
pub mod trigger;
mod verdict;
mod volumes;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::catalog::jobs::{self, Job, JobKind};
use crate::config::{Config, ScrubConfig};
use crate::db::Db;
use crate::store::{Store, StoreError};
pub use clock_guard::ClockGuard;
pub use error::EngineError;
use ingest::Progress;
use queue::Queue;
use tasks::Tasks;

/// How often an idle worker looks at the job table even if nobody woke it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A failure that could not be written down (disk full) is tried again after this long.
const RETRY: Duration = Duration::from_secs(3);

/// What the engine needs of the configuration; can change while it runs.
#[derive(Clone)]
pub struct Settings {
    /// Threads that share one job's work.
    pub workers: usize,
    /// Where the coffer is.
    pub state_directory: PathBuf,
    /// Where registered paths may lie.
    pub roots: Vec<PathBuf>,
    pub restore_directory: PathBuf,
    /// Where new volumes are made.
    pub pool_directory: PathBuf,
    /// Keep reflink copies of image files.
    pub reflinks: bool,
    pub scrub: ScrubConfig,
}

impl Settings {
    pub fn from_config(config: &Config) -> Settings {
        Settings {
            workers: config.engine.workers,
            state_directory: config.state_directory.clone(),
            roots: config.volumes.roots.clone(),
            restore_directory: config.volumes.restore_directory.clone(),
            pool_directory: config.volumes.pool_directory.clone(),
            reflinks: config.volumes.reflinks,
            scrub: config.scrub,
        }
    }
}

/// A job that a worker is at.
pub struct Running {
    job: Job,
    pub progress: Progress,
    pub cancel: Arc<AtomicBool>,
    /// A restore has begun to write: what it writes to is not what it was.
    touched: AtomicBool,
    /// It could not be done now, and is to be tried again.
    put_off: AtomicBool,
    pub started: Instant,
}

impl Running {
    /// Counters in bytes, rate in bytes per second, eta in seconds (null until it can be told).
    pub fn to_json(&self) -> Value {
        let mut progress = tasks::progress_json(&self.progress);
        let seconds = self.started.elapsed().as_secs_f64();
        let read = self.progress.read.load(Ordering::Relaxed) as f64;
        let total = self.progress.total.load(Ordering::Relaxed) as f64;
        let rate = if seconds > 0.0 { read / seconds } else { 0.0 };
        progress["rate"] = json!(rate.round() as u64);
        progress["eta"] = if rate > 0.0 { json!(((total - read).max(0.0) / rate).ceil() as u64) } else { Value::Null };
        progress
    }
}

pub struct Engine {
    db: Arc<Db>,
    store: Arc<Store>,
    settings: RwLock<Settings>,
    dispatch: Mutex<Dispatch>,
    /// One for each lane.
    wake: [Condvar; 2],
    activity: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub clock: ClockGuard,
    pub tasks: Tasks,
    pub maintenance: maintenance::Maintenance,
    /// Nobody waits for a repository any more: the engine ends.
    hurry: Arc<AtomicBool>,
    /// Held by the one scrub that deals with damage.
    scrub_dealing: Mutex<()>,
    pub copies: copies::Copies,
    space: space::Space,
}

#[derive(Default)]
struct Dispatch {
    queue: Queue,
    /// By job id.
    running: HashMap<i64, Arc<Running>>,
    /// Promised jobs that are to end as soon as they begin.
    cancelled: HashSet<i64>,
    stopping: bool,
}

/// Which jobs a worker takes.
#[derive(Clone, Copy)]
enum Lane {
    /// Moves the bytes of volumes; takes long.
    Data,
    Quick,
}

impl Lane {
    fn of(kind: JobKind) -> Lane {
        match kind {
            JobKind::Create | JobKind::Restore | JobKind::Copy => Lane::Data,
            JobKind::Delete | JobKind::Provision | JobKind::Extend | JobKind::Erase => Lane::Quick,
        }
    }
}

impl Engine {
    /// Settles what the last run of the daemon left behind, then starts the workers.
    pub fn start(db: Arc<Db>, store: Arc<Store>, config: &Config) -> Result<Arc<Engine>, EngineStartError> {
        let clock = ClockGuard::start(&db, config.engine.clock_hold)?;
        let engine = Arc::new(Engine {
            db,
            store,
            settings: RwLock::new(Settings::from_config(config)),
            dispatch: Mutex::default(),
            wake: Default::default(),
            activity: AtomicU64::new(0),
            threads: Mutex::default(),
            clock,
            tasks: Tasks::default(),
            maintenance: maintenance::Maintenance::new(config.engine.maintenance_interval),
            hurry: Arc::default(),
            scrub_dealing: Mutex::default(),
            copies: copies::Copies::default(),
            space: space::Space::default(),
        });
        engine.recover()?;
        let data_workers = (0..config.engine.jobs.max(1)).map(|n| (format!("job-{n}"), Lane::Data));
        for (name, lane) in data_workers.chain([("job-quick".to_string(), Lane::Quick)]) {
            let worker = engine.clone();
            engine.spawn(&name, move || worker.work(lane))?;
        }
        let keeper = engine.clone();
        engine.spawn("maintenance", move || keeper.maintain())?;
        let copier = engine.clone();
        engine.spawn("copies", move || copier.keep_copies())?;
        Ok(engine)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let handle = std::thread::Builder::new().name(name.into()).spawn(body)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        Ok(())
    }

    /// Tells the workers that there is a new job; called after the commit that inserted it.
    pub fn wake(&self) {
        let mut dispatch = self.dispatch();
        if let Err(error) = self.db.read(|c| dispatch.queue.look(c)) {
            log_catalog("look for work", &error);
        }
        self.call_workers(&dispatch);
        self.copies.wake();
    }

    /// Wakes those who sleep although there is something for them: each lane by itself, for one may have thousands of jobs.
    fn call_workers(&self, dispatch: &Dispatch) {
        for lane in [Lane::Data, Lane::Quick] {
            if dispatch.queue.is_ready(lane) {
                self.wake[lane as usize].notify_all();
            }
        }
    }

    /// What is being done with a backup right now.
    pub fn running(&self, backup_id: i64) -> Option<Arc<Running>> {
        self.dispatch().running.values().find(|running| running.job.backup_id == Some(backup_id)).cloned()
    }

    /// Ends the making or the restoring of a backup, whether it has begun or not; called after the commit that gave the backup
    /// another state. What it was restored to is in error then.
    pub fn cancel(&self, backup_id: i64) {
        let mut dispatch = self.dispatch();
        for running in dispatch.running.values().filter(|running| running.job.backup_id == Some(backup_id)) {
            running.cancel.store(true, Ordering::Relaxed);
        }
        match self.db.read(|c| jobs::of_backup(c, backup_id)) {
            Ok(mut jobs) => {
                jobs.retain(|job| job.kind == JobKind::Restore && !dispatch.running.contains_key(&job.id));
                dispatch.cancelled.extend(jobs.iter().map(|job| job.id));
            }
            Err(error) => log_catalog("cancel promised work", &error),
        }
    }

    pub fn running_count(&self) -> usize {
        self.dispatch().running.len()
    }

    pub fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        self.maintenance.wake_scrub();
    }

    /// Nothing new is begun from now on; what runs goes on.
    pub fn begin_shutdown(&self) {
        self.dispatch().stopping = true;
        self.maintenance.stop();
        self.copies.stop();
        self.space.stop();
        self.wake.iter().for_each(Condvar::notify_all);
    }

    /// Waits for running jobs; those that do not end within `deadline` are interrupted cleanly (a backup becomes Erred, a
    /// restore's backup Ready again).
    pub fn shutdown(&self, deadline: Duration) {
        self.begin_shutdown();
        let end = Instant::now() + deadline;
        while Instant::now() < end && self.is_busy() {
            std::thread::sleep(Duration::from_millis(20));
        }
        for running in self.dispatch().running.values() {
            running.cancel.store(true, Ordering::Relaxed);
        }
        self.hurry.store(true, Ordering::Relaxed);
        self.tasks.cancel_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join(); // a panic was logged where it happened
        }
    }

    fn is_busy(&self) -> bool {
        !self.dispatch().running.is_empty() || self.tasks.any_running()
    }

    fn dispatch(&self) -> MutexGuard<'_, Dispatch> {
        self.dispatch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.dispatch().stopping
    }

    // ---- workers

    fn work(&self, lane: Lane) {
        while let Some(running) = self.next(lane) {
            let attempt = std::panic::AssertUnwindSafe(|| self.run(&running));
            let _ = std::panic::catch_unwind(attempt); // a panic was logged where it happened
            if running.put_off.load(Ordering::Relaxed) {
                self.put_off(&running.job);
                continue;
            }
            self.bring_to_an_end(&running.job);
            self.end(&running.job);
            self.note_activity();
        }
    }

    /// What the job claimed is free for others.
    fn end(&self, job: &Job) {
        let mut dispatch = self.dispatch();
        dispatch.running.remove(&job.id);
        dispatch.queue.end(job);
        self.call_workers(&dispatch);
    }

    /// The job keeps what it claimed; others of its lane go first.
    fn put_off(&self, job: &Job) {
        let mut dispatch = self.dispatch();
        dispatch.running.remove(&job.id);
        dispatch.queue.put_off(job.clone(), Instant::now() + RETRY);
    }

    /// A request was answered; see [`Engine::activity`].
    pub fn note_activity(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts requests and ended jobs, so that the timer sees when a burst is over.
    pub fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    /// After a burst of work the daemon becomes small again.
    pub fn rest(&self) {
        if let Err(error) = self.db.rest() {
            log_catalog("give room and memory back", &error);
        }
        crate::memory::trim();
    }

    /// The next job for this lane; sleeps until there is one. None: the engine stops.
    fn next(&self, lane: Lane) -> Option<Arc<Running>> {
        let mut dispatch = self.dispatch();
        loop {
            if dispatch.stopping {
                return None;
            }
            let rest = match self.db.read(|c| dispatch.next(c, lane)) {
                Ok(Some(job)) => return Some(dispatch.begin(job)),
                Ok(None) => {
                    let due = dispatch.queue.next_due().map(|due| due.saturating_duration_since(Instant::now()));
                    due.map_or(LOOK_AGAIN, |rest| rest.min(LOOK_AGAIN))
                }
                Err(error) => {
                    log_catalog("look for work", &error);
                    RETRY // whatever is due
                }
            };
            dispatch = self.wake[lane as usize].wait_timeout(dispatch, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run(&self, running: &Running) {
        let job = &running.job;
        match job.kind {
            JobKind::Create => self.run_create(job, running),
            JobKind::Restore => self.run_restore(job, running),
            JobKind::Delete => self.run_delete(job, running),
            JobKind::Provision => self.run_provision(job),
            JobKind::Copy => self.run_copy(job, running),
            JobKind::Extend => self.run_extend(job),
            JobKind::Erase => self.run_erase(job),
        }
    }

    /// A job whose end has not been recorded has met a fault of ours. It fails, or if not even that can be written down, is
    /// forgotten: what it leaves behind is settled at the next start.
    fn bring_to_an_end(&self, job: &Job) {
        if self.is_unfinished(job) {
            self.settle(job, "an internal error; see the daemon's log");
        }
        if self.is_unfinished(job) {
            self.write_down("forget a job", |tx| jobs::remove(tx, job.id));
        }
    }

    /// Is the job still promised, although it has run? At shutdown the next start goes on with it.
    fn is_unfinished(&self, job: &Job) -> bool {
        !self.is_stopping() && self.db.read(|c| jobs::is_there(c, job.id)).unwrap_or_else(|error| {
            log_catalog("look for the end of a job", &error);
            false
        })
    }

    /// Gives a job that cannot go on its honest end.
    fn settle(&self, job: &Job, reason: &str) {
        match job.kind {
            JobKind::Create => self.fail_create(job, reason),
            JobKind::Restore => self.fail_restore(job, reason, None),
            JobKind::Delete => self.fail_delete(job, reason),
            JobKind::Provision | JobKind::Copy | JobKind::Extend | JobKind::Erase => self.fail_volume_job(job, reason),
        }
    }

    /// Writes an end down, trying again while the disk is full; gives up at shutdown, since recovery does it at the next start,
    /// and where trying again is of no use ([`Engine::bring_to_an_end`]).
    fn write_down<T>(&self, what: &str, mut write: impl FnMut(&rusqlite::Transaction) -> rusqlite::Result<T>) -> Option<T> {
        loop {
            match self.db.write(&mut write) {
                Ok(value) => return Some(value),
                Err(error) => {
                    log_catalog(what, &error);
                    if self.is_stopping() || !may_pass(&error) {
                        return None;
                    }
                }
            }
            std::thread::sleep(RETRY);
        }
    }
}

impl Dispatch {
    fn next(&mut self, connection: &rusqlite::Connection, lane: Lane) -> rusqlite::Result<Option<Job>> {
        self.queue.look(connection)?;
        self.queue.take(connection, lane)
    }

    fn begin(&mut self, job: Job) -> Arc<Running> {
        let cancelled = self.cancelled.remove(&job.id);
        let running = Arc::new(Running {
            progress: Progress::default(),
            cancel: Arc::new(AtomicBool::new(cancelled)),
            touched: AtomicBool::new(false),
            put_off: AtomicBool::new(false),
            started: Instant::now(),
            job,
        });
        self.running.insert(running.job.id, running.clone());
        running
    }
}

/// Can the same write succeed later? Not if it is the write that is wrong, and not the disk.
fn may_pass(error: &rusqlite::Error) -> bool {
    !matches!(error.sqlite_error_code(), None | Some(rusqlite::ErrorCode::ConstraintViolation))
}

fn log_catalog(what: &str, error: &rusqlite::Error) {
    log::error!("cannot {what}: {error}");
}

#[derive(Debug, thiserror::Error)]
pub enum EngineStartError {
    #[error("what the last run left behind cannot be settled: {0}; see that the coffer's disk works and has room")]
    Catalog(#[from] rusqlite::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}
