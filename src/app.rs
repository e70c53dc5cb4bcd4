//! The whole of cofferd behind one door: the open coffer, the engine, the timer and the API over them. The daemon puts HTTP
//! in front of it; a command that finds no daemon running uses it directly.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::api;
use crate::api::auth::{Throttle, Verified};
use crate::catalog::users::{self, User};
use crate::catalog::{meta, new_uuid, projects};
use crate::clock;
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::durable;
use crate::engine::repositories::places;
use crate::engine::{Engine, EngineStartError, Settings};
use crate::http::{Request, Response};
use crate::store::{Store, StoreError};
use crate::timer::Timer;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the coffer cannot be set up: {0}")]
    Catalog(#[from] rusqlite::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineStartError),
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    #[error("everybody may write to the state directory {0}, and so become staff; chmod o-w it")]
    Open(PathBuf),
    #[error("no randomness from the kernel: {0}")]
    Random(#[from] getrandom::Error),
}

pub struct App {
    config: RwLock<Arc<Config>>,
    pub db: Arc<Db>,
    pub store: Arc<Store>,
    pub engine: Arc<Engine>,
    pub throttle: Throttle,
    pub verified: Verified,
    /// Where clients of this host reach the daemon over TCP, as URLs; set by the daemon, never by a command.
    pub listening: OnceLock<Vec<String>>,
    timer: Arc<Timer>,
    first_token: Option<String>,
    /// uuid of the one customer.
    pub customer_uuid: String,
    pub started: i64,
}

impl App {
    /// Opens the coffer (making it, the first user and the first token when there is none), settles what a crash left
    /// behind and starts the engine. Fails at once if another process has the coffer.
    pub fn open(mut config: Config) -> Result<Arc<App>, AppError> {
        let directory = config.state_directory.clone();
        durable::make_directory(&directory, 0o750).map_err(|e| AppError::Io(directory.clone(), e))?;
        check_modes(&config)?;
        resolve_directories(&mut config);
        let db = Arc::new(Db::open(&config.coffer())?);
        let first_token = set_up(&db, &config)?;
        let customer_uuid = db.read(|c| meta::get(c, meta::CUSTOMER_UUID))?.unwrap_or_default();
        let store = Arc::new(Store::open(db.clone())?);
        let engine = Engine::start(db.clone(), store.clone(), &config)?;
        open_repositories(&engine, &config)?;
        Ok(Arc::new(App {
            throttle: Throttle::new(config.auth.login_attempts, config.auth.login_window),
            verified: Verified::new()?,
            listening: OnceLock::new(),
            config: RwLock::new(Arc::new(config)),
            db,
            store,
            engine,
            timer: Arc::new(Timer::new()),
            first_token,
            customer_uuid,
            started: clock::now_ms(),
        }))
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first staff token, only right after the coffer was made; also in the file `Config::admin_token`.
    pub fn first_token(&self) -> Option<&str> {
        self.first_token.as_deref()
    }

    pub fn handle(self: &Arc<App>, request: Request) -> Response {
        let response = api::handle(self, request);
        self.engine.note_activity();
        response
    }

    /// What the daemon does by itself as time passes.
    pub fn start_timer(&self) -> Result<(), AppError> {
        let interval = self.config().engine.expiry_interval;
        let io = |e| AppError::Io(PathBuf::from("timer thread"), e);
        self.timer.start(self.engine.clone(), self.db.clone(), interval).map_err(io)?;
        self.engine.start_scrub().map_err(|e| AppError::Io(PathBuf::from("scrub thread"), e))
    }

    /// Age of the timer's last beat.
    pub fn timer_heartbeat(&self) -> Duration {
        self.timer.heartbeat()
    }

    /// What can change at run time: roots, restore directory, threads a job, default zone, proxies, query token, scrub,
    /// repositories, shutdown deadline, token lifetimes, region, noauth.
    /// Listeners, limits of the gate, number of jobs and intervals stay as they were at start.
    pub fn reload(&self, mut config: Config) {
        resolve_directories(&mut config);
        if let Err(error) = open_repositories(&self.engine, &config) {
            log::error!("the repositories stay as they were: {error}");
        }
        self.engine.set_settings(Settings::from_config(&config));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// No new work from now on.
    pub fn begin_shutdown(&self) {
        self.timer.stop();
        self.engine.begin_shutdown();
    }

    /// Ends or cleanly interrupts what runs, within about `deadline`, and leaves the coffer as one file.
    pub fn shutdown(&self, deadline: Duration) {
        self.begin_shutdown();
        self.engine.shutdown(deadline);
        if let Err(error) = self.db.close() {
            log::error!("the last checkpoint failed, the next start does it: {error}");
        }
    }
}

/// What was there already may be open to others. Whoever can write to the directory could put another coffer or token in the place of ours.
fn check_modes(config: &Config) -> Result<(), AppError> {
    let mode = |path: &std::path::Path| std::fs::metadata(path).map(|found| found.mode()).unwrap_or_default();
    let directory = &config.state_directory;
    // With the sticky bit (a tmpfs has it) what is there cannot be replaced; something can be there first.
    match mode(directory) {
        mode if mode & 0o1002 == 0o002 => return Err(AppError::Open(directory.clone())),
        mode if mode & 0o022 != 0 => log::warn!("others may write to {}, and so become staff; chmod go-w it", directory.display()),
        _ => {}
    }
    for private in [config.coffer(), config.admin_token()].iter().filter(|path| mode(path) & 0o077 != 0) {
        log::warn!("others may open {}; chmod 600 it", private.display());
    }
    Ok(())
}

fn open_repositories(engine: &Engine, config: &Config) -> rusqlite::Result<()> {
    engine.open_repositories(places(config), &config.repositories)
}

/// New volumes are opened without following links, so the way to them must have none. What is not there yet, the first
/// restore or the first new volume makes.
fn resolve_directories(config: &mut Config) {
    for directory in [&mut config.volumes.restore_directory, &mut config.volumes.pool_directory] {
        let existing = directory.ancestors().find_map(|above| above.canonicalize().ok().map(|resolved| (above.to_path_buf(), resolved)));
        if let Some((above, resolved)) = existing
            && let Ok(below) = directory.strip_prefix(&above)
        {
            *directory = resolved.join(below);
        }
    }
}

/// The first user, project and token, once. The token is shown to the caller and saved beside the coffer.
fn set_up(db: &Db, config: &Config) -> Result<Option<String>, AppError> {
    if db.read(|c| meta::get(c, meta::COFFER_UUID))?.is_some() {
        return Ok(None);
    }
    let token = api::auth::new_token()?;
    let path = config.admin_token();
    // Before the commit: a token that is saved but not valid is replaced at the next start, the reverse would lock the admin out.
    save_private(&path, &token).map_err(|e| AppError::Io(path.clone(), e))?;
    db.write(|tx| {
        let now = clock::now_ms();
        let admin = User {
            uuid: new_uuid(),
            username: "admin".into(),
            full_name: "Administrator".into(),
            is_staff: true,
            is_active: true,
            created: now,
            ..User::default()
        };
        let user_id = users::insert(tx, &admin)?;
        users::insert_token(tx, user_id, &api::auth::token_hash(&token), "first token", now, None)?;
        projects::insert(tx, "default", "made with the coffer", now)?;
        meta::set(tx, meta::CUSTOMER_UUID, &new_uuid())?;
        meta::set(tx, meta::CREATED, &now.to_string())?;
        meta::set(tx, meta::COFFER_UUID, &new_uuid())
    })?;
    Ok(Some(token))
}

fn save_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let _ = std::fs::remove_file(path); // an older one may have another mode
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    durable::sync_name(path)
}
