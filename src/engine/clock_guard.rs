//! Keeps a clock that was set forward from deleting what it says is over: see model/confirmed.rs. Here it is remembered and told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::log_catalog;
use crate::catalog::events::{self, NewEvent, Severity};
use crate::catalog::meta;
use crate::clock;
use crate::db::Db;
use crate::model::confirmed::Confirmed;

pub struct ClockGuard {
    confirmed: Mutex<Confirmed>,
    /// The coffer knows that the clock is doubted, so that a restart does not confirm it.
    noted: AtomicBool,
}

pub struct Doubt {
    pub ahead: Duration,
    pub left: Duration,
}

impl ClockGuard {
    /// To be called before anything is recorded at what may be the wrong time.
    pub fn start(db: &Db, hold: Duration) -> rusqlite::Result<ClockGuard> {
        let (recorded, doubted) = db.read(|c| Ok::<_, rusqlite::Error>((events::last(c)?, meta::get(c, meta::DOUBTED)?)))?;
        let doubted = doubted.and_then(|ms| ms.parse().ok());
        let confirmed = Confirmed::start(clock::now_ms(), clock::steady_ms(), recorded, doubted, hold.as_millis() as i64);
        let guard = ClockGuard { confirmed: Mutex::new(confirmed), noted: AtomicBool::new(doubted.is_some()) };
        guard.look(db);
        Ok(guard)
    }

    /// The time by which something may be deleted for good.
    pub fn confirmed_ms(&self) -> i64 {
        self.confirmed().look(clock::now_ms(), clock::steady_ms())
    }

    pub fn doubt(&self) -> Option<Doubt> {
        let duration = |ms: i64| Duration::from_millis(ms.max(0) as u64);
        self.confirmed().doubt(clock::steady_ms()).map(|(ahead, left)| Doubt { ahead: duration(ahead), left: duration(left) })
    }

    /// Writes down that a doubt has come up or is over, and tells.
    pub fn look(&self, db: &Db) {
        let confirmed_ms = self.confirmed_ms();
        let doubt = self.doubt();
        if doubt.is_some() == self.noted.load(Ordering::Relaxed) {
            return;
        }
        let written = db.write(|tx| match &doubt {
            Some(doubt) => {
                meta::set(tx, meta::DOUBTED, &confirmed_ms.to_string())?;
                log(tx, "clock_doubted", Severity::Warning, doubted(doubt))
            }
            None => {
                meta::remove(tx, meta::DOUBTED)?;
                log(tx, "clock_confirmed", Severity::Info, "The clock is believed again: backups expire by it.".into())
            }
        });
        match written {
            Ok(()) => self.noted.store(doubt.is_some(), Ordering::Relaxed),
            Err(error) => log_catalog("write down whether the clock is to be believed", &error), // the next look tries again
        }
    }

    fn confirmed(&self) -> MutexGuard<'_, Confirmed> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn doubted(doubt: &Doubt) -> String {
    let (minutes, left) = (doubt.ahead.as_secs() / 60, doubt.left.as_secs().div_ceil(60));
    format!(
        "The clock is {} d {} h {} min ahead of what is known. If that is wrong, set it right: in {left} min backups begin to expire by it.",
        minutes / 1440, minutes / 60 % 24, minutes % 60
    )
}

fn log(tx: &rusqlite::Transaction, kind: &str, severity: Severity, message: String) -> rusqlite::Result<()> {
    let level = if severity == Severity::Warning { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "{message}");
    let scope = meta::get(tx, meta::COFFER_UUID)?.unwrap_or_default();
    events::insert(tx, clock::now_ms(), &NewEvent { kind, severity, message, context: json!({}), project_id: None, scope: &scope })
}
