//! A schedule's instant has come: what happens then, in one transaction, so that a crash neither repeats nor loses a run.

use rusqlite::Transaction;

use super::{Engine, create, log_catalog, orders};
use crate::catalog::events::Severity;
use crate::catalog::schedules::{self, Schedule};
use crate::catalog::{backups, instances};
use crate::clock;
use crate::model::retention;
use crate::model::schedule::{CronSchedule, parse_zone};
use orders::Refusal;

/// The description of backups that a schedule makes.
const DESCRIPTION: &str = "scheduled backup";
/// What is done in one transaction, so that nobody waits long for the writer.
const BATCH: usize = 50;

impl Engine {
    /// Runs every schedule that is due. Missed instants (the daemon was down, the clock jumped) make one run, not many,
    /// because the next instant is reckoned from now.
    /// `go_on` is asked from time to time, for there may be thousands.
    pub fn trigger_due(&self, go_on: &dyn Fn() -> bool) -> rusqlite::Result<()> {
        let due = self.db.read(|c| schedules::due(c, clock::now_ms()))?;
        self.in_batches(&due, go_on, "run a schedule", trigger);
        Ok(())
    }

    /// Does something with each of many rows, many in a transaction: one for each would write and sync the same pages once more.
    fn in_batches(&self, ids: &[i64], go_on: &dyn Fn() -> bool, what: &str, work: fn(&Transaction, i64) -> rusqlite::Result<()>) {
        for batch in ids.chunks(BATCH) {
            if self.db.write(|tx| batch.iter().try_for_each(|id| work(tx, *id))).is_err() {
                // One that fails must not keep the others from it.
                for id in batch {
                    if let Err(error) = self.db.write(|tx| work(tx, *id)) {
                        log_catalog(what, &error);
                    }
                }
            }
            self.wake();
            if !go_on() {
                return;
            }
        }
    }

    /// After the clock was set back, instants that were reckoned from a future that did not come would silence schedules for
    /// as long as that future was away: no schedule waits longer than it would if it were activated now. What was verified in
    /// that future would not be read again until then.
    pub fn realign(&self) -> rusqlite::Result<()> {
        self.store.forget_future(clock::now_ms())?;
        self.db.write(|tx| {
            for mut schedule in schedules::active_after(tx, clock::now_ms())? {
                match next_instant(&schedule.cron, &schedule.timezone) {
                    Some(next) if next < schedule.next_trigger_at => {
                        schedule.next_trigger_at = next;
                        schedules::update(tx, &schedule)?;
                    }
                    _ => {}
                }
            }
            Ok(())
        })
    }

    /// Begins to delete the backups whose time is over, also by a clock that was not set forward just now.
    pub fn expire(&self, go_on: &dyn Fn() -> bool) -> rusqlite::Result<()> {
        let now = clock::from_ms(self.clock.confirmed_ms());
        let candidates = self.db.read(|c| backups::past_kept_until(c, now.timestamp_millis()))?;
        let expired = candidates.into_iter().filter(|(_, state, until)| retention::expired(*state, Some(clock::from_ms(*until)), now));
        let expired: Vec<i64> = expired.map(|(id, ..)| id).collect();
        self.in_batches(&expired, go_on, "begin the deletion of an expired backup", begin_expiry);
        Ok(())
    }
}

fn begin_expiry(tx: &Transaction, id: i64) -> rusqlite::Result<()> {
    let Some(backup) = backups::by_id(tx, id)? else { return Ok(()) };
    match orders::delete(tx, &backup) {
        Err(Refusal::Catalog(error)) => Err(error),
        _ => Ok(()), // it has just changed its state: a later pass looks again
    }
}

fn trigger(tx: &Transaction, id: i64) -> rusqlite::Result<()> {
    let now = clock::now_ms();
    let Some(mut schedule) = schedules::by_id(tx, id)? else { return Ok(()) };
    if !schedule.is_active || schedule.next_trigger_at > now {
        return Ok(());
    }
    let instant = schedule.next_trigger_at;
    match next_instant(&schedule.cron, &schedule.timezone) {
        Some(next) => schedule.next_trigger_at = next,
        None => return create::deactivate(tx, id, "Failed to schedule: the schedule has no further instant."),
    }
    schedule.last_run_at = Some(instant);
    match run(tx, &schedule, instant)? {
        Outcome::Begun => schedule.last_skip_reason.clear(),
        Outcome::Skipped(reason) => {
            orders::log_schedule(tx, &schedule, "resource_backup_schedule_skipped", Severity::Warning, || {
                format!("A scheduled backup of {} was skipped: {reason}", schedule.instance_name)
            })?;
            schedule.last_skip_reason = reason;
        }
        Outcome::Refused(reason) => {
            schedules::update(tx, &schedule)?;
            return create::deactivate(tx, id, &format!("Failed to schedule a backup of {}. {reason}", schedule.instance_name));
        }
    }
    schedules::update(tx, &schedule)
}

enum Outcome {
    Begun,
    /// This run is left out; the schedule goes on.
    Skipped(String),
    /// No backup can be made; the schedule ends.
    Refused(String),
}

fn run(tx: &Transaction, schedule: &Schedule, instant: i64) -> rusqlite::Result<Outcome> {
    if backups::schedule_is_running(tx, schedule.id)? {
        return Ok(Outcome::Skipped("the previous backup of this schedule is still being made".into()));
    }
    let instance = instances::by_id(tx, schedule.instance_id)?;
    // A second backup for the same instant is refused by the index backup_trigger even if all else failed.
    match orders::back_up(tx, &instance, "", DESCRIPTION, Some((schedule, instant)), &schedule.repository) {
        Ok(_) => Ok(Outcome::Begun),
        Err(Refusal::Unstable) => Ok(Outcome::Skipped(format!("the instance is {}", instance.state.display()))),
        Err(Refusal::Catalog(error)) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
            Ok(Outcome::Skipped("a backup for this instant exists already".into()))
        }
        Err(Refusal::Catalog(error)) => Err(error),
        Err(other) => Ok(Outcome::Refused(other.to_string())),
    }
}

/// The first instant of a stored schedule after now, in milliseconds. None if its text is not a schedule (it was checked
/// when it was stored) or there is none.
pub fn next_instant(cron: &str, timezone: &str) -> Option<i64> {
    let schedule = CronSchedule::parse(cron).ok()?;
    let zone = parse_zone(timezone)?;
    schedule.next_after(clock::now(), zone).map(|at| at.timestamp_millis())
}
