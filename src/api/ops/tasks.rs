//! Long work: restore to a path, check, gc, snapshot. Each answers 202 with its task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Transaction;
use serde_json::{Value, json};

use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::api::waldur::fields::Text;
use crate::api::waldur::uuid_segment;
use crate::app::App;
use crate::catalog::backups::{self, Backup};
use crate::catalog::{instances, jobs, projects, volume_backups, volumes};
use crate::engine::emit::MAP_LOST;
use crate::clock;
use crate::engine::scrub::Rate;
use crate::store::Depth;
use crate::engine::tasks::{RESTORE, SCRUB, Task};
use crate::engine::places::{self, Reach};
use crate::engine::{EngineError, orders, restore};
use crate::http::Response;
use crate::model::backup::{BackupAction, BackupState};
use crate::model::instance::InstanceState;
use crate::model::volume::VolumeState;
use crate::store::{Corrupt, MapReport, StoreError};

pub fn show(context: &Context, id: &str) -> ApiResult {
    let task = id.parse().ok().and_then(|id| context.app.engine.tasks.get(id)).ok_or_else(ApiError::not_found)?;
    Ok(Response::json(200, &task.to_json()))
}

fn accepted(task: &Task) -> Response {
    Response::json(202, &json!({"task": task.id}))
}

/// Runs `work` on a thread of its own; its end is the task's.
pub(super) fn spawn(context: &Context, kind: &'static str, work: impl FnOnce(&Arc<App>, &Arc<Task>) -> Result<Value, String> + Send + 'static) -> ApiResult {
    let task = context.app.engine.tasks.begin(kind);
    let (app, inner) = (context.app.clone(), task.clone());
    let body = move || {
        let attempt = std::panic::AssertUnwindSafe(|| work(&app, &inner));
        inner.finish(std::panic::catch_unwind(attempt).unwrap_or_else(|_| Err("an internal error; see the daemon's log".into())));
    };
    match std::thread::Builder::new().name(kind.into()).spawn(body) {
        Ok(_) => Ok(accepted(&task)),
        Err(error) => {
            task.finish(Err(format!("cannot start a thread: {error}")));
            Err(ApiError::detail(503, format!("Cannot start a thread: {error}")))
        }
    }
}

// ---- restore

/// {backup, position, path, mode: "create" | "overwrite"}
pub fn restore(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let uuid = fields.text("backup", &Text::required(36)).unwrap_or_default();
    let position = fields.integer("position", false, 0, 1_000_000).unwrap_or(0);
    let path = PathBuf::from(fields.text("path", &Text::required(4096)).unwrap_or_default());
    let mode = fields.text("mode", &Text::required(20)).unwrap_or_default();
    if !matches!(mode.as_str(), "create" | "overwrite" | "") {
        fields.error("mode", format!("\"{mode}\" is not a valid choice."));
    }
    if !path.as_os_str().is_empty() && !path.is_absolute() {
        fields.error("path", "An absolute path is required.");
    }
    fields.finish()?;
    let task = context.app.engine.tasks.begin(RESTORE);
    // Before the transaction: looking at a path may last as long as its device likes.
    let path = check_target(context, &path, mode == "create");
    let promised = context.write(|tx| {
        let backup = backups::get(tx, &uuid_segment(&uuid)?)?.ok_or_else(ApiError::not_found)?;
        if !backup.state.allows(BackupAction::Restore) {
            return Err(ApiError::wrong_state("restore", backup.state));
        }
        if !volume_backups::parts(tx, backup.id)?.iter().any(|part| part.position == position) {
            return Err(ApiError::field("position", format!("The backup has no volume {position}.")));
        }
        let path = path?;
        let volume_id = check_at_rest(tx, &backup, &path)?;
        let target = restore::path_target(&path, position, mode == "create", reach(context), task.id);
        orders::restore_to_path(tx, &backup, volume_id, &target).map_err(|refusal| ApiError::refused("restore", refusal))
    });
    if let Err(error) = promised {
        task.finish(Err("refused".into()));
        return Err(error);
    }
    context.app.engine.wake();
    Ok(accepted(&task))
}

/// The administrator of this host may name any path, for he could write there himself. Who comes from elsewhere with a token of
/// staff may not: it would be write access to the whole host.
fn reach(context: &Context) -> Reach {
    if context.request.peer.is_administrator() { Reach::Host } else { Reach::Roots }
}

/// The resolved path: an existing one, or a new name in an existing directory. Never one of the coffer's own files.
fn check_target(context: &Context, path: &Path, create: bool) -> Result<PathBuf, ApiError> {
    let refuse = |message: String| ApiError::field("path", message);
    let (reach, settings) = (reach(context), context.app.engine.settings());
    if !create {
        return Ok(places::probe(path, reach, &settings).map_err(|error| refuse(error.to_string()))?.path);
    }
    let path = new_path(path).map_err(refuse)?;
    places::check_new(&path, reach, &settings).map_err(|error| refuse(error.to_string()))?;
    Ok(path)
}

/// A registered volume is overwritten only while its instance is at rest: neither running nor being worked on. Returns the
/// volume's id.
fn check_at_rest(tx: &Transaction, backup: &Backup, path: &Path) -> Result<Option<i64>, ApiError> {
    let Some(volume) = volumes::by_path(tx, &path.to_string_lossy())? else { return Ok(None) };
    let Some(instance_id) = volume.instance_id else {
        use VolumeState::{Available, Error, ErrorExtending, ErrorRestoring};
        if matches!(volume.status, Available | Error | ErrorExtending | ErrorRestoring) {
            return Ok(Some(volume.id));
        }
        let why = format!("{} is the volume {}, which is {}; try again when it is available.", path.display(), volume.uuid, volume.status.as_str());
        return Err(ApiError::detail(409, why));
    };
    let instance = instances::by_id(tx, instance_id)?;
    let refuse = |why: &str| Err(ApiError::detail(409, format!("{} is a volume of {}, which is {why}.", path.display(), instance.name)));
    if !matches!(instance.state, InstanceState::Offline | InstanceState::Erred) {
        return refuse(&format!("{}; stop it first", instance.state.display()));
    }
    // On the backup's own instance one is done after the other.
    if instance.uuid != backup.instance_uuid && jobs::on_volume(tx, volume.id)? {
        return refuse("being backed up or restored; try again later");
    }
    Ok(Some(volume.id))
}

fn new_path(path: &Path) -> Result<PathBuf, String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{} is no name for a new file.", path.display()));
    };
    let path = parent.canonicalize().map_err(|error| format!("{}: {error}", parent.display()))?.join(name);
    match path.symlink_metadata() {
        Ok(_) => Err(format!("{} exists already; choose another name.", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

// ---- check

/// {backup: uuid or null}: reads every chunk of one backup, or of all, and compares it with its hash.
pub fn check(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    fields.drop_null("backup");
    let uuid = fields.text("backup", &Text::not_blank(36));
    fields.finish()?;
    let chosen = context.read(|c| match &uuid {
        Some(uuid) => Ok(vec![backups::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)?]),
        None => {
            let states = [BackupState::Ready, BackupState::Restoring, BackupState::Erred];
            Ok(states.into_iter().map(|state| backups::in_state(c, state)).collect::<Result<Vec<_>, _>>()?.concat())
        }
    })?;
    let whole = uuid.is_none();
    spawn(context, "check", move |app, task| check_backups(app, task, &chosen, whole).map_err(|error| error.to_string()))
}

fn check_backups(app: &Arc<App>, task: &Task, chosen: &[Backup], whole: bool) -> Result<Value, EngineError> {
    task.progress.total.store(chosen.iter().map(|b| b.size as u64).sum(), Ordering::Relaxed);
    let (mut chunks, mut bytes, mut corrupt, mut bad_backups) = (0, 0, Vec::new(), Vec::new());
    let mut unreachable = BTreeMap::new();
    'backups: for backup in chosen {
        let mut first = None;
        let parts = app.db.read(|c| volume_backups::parts(c, backup.id))?;
        let stored = parts.iter().all(|part| part.map_id.is_some());
        for part in parts {
            let Some(map_id) = part.map_id else { continue };
            let count = |n: u64| {
                task.progress.read.fetch_add(n, Ordering::Relaxed);
            };
            let report = match app.store.check_map(map_id, &count, &task.cancel) {
                Err(StoreError::NoSuchMap(_)) if is_leaving(app, backup.id)? => break,
                Err(StoreError::NoSuchMap(_)) => map_lost(part.size as u64),
                // The others are looked at all the same.
                Err(StoreError::Repository(name, reason)) => {
                    unreachable.insert(name, reason);
                    continue 'backups;
                }
                other => other?,
            };
            chunks += report.chunks;
            bytes += report.bytes;
            first = first.or_else(|| Some((part.position, report.corrupt.first()?.clone())));
            corrupt.extend(report.corrupt.iter().map(|bad| {
                json!({"backup": backup.uuid, "volume": part.position, "offset": bad.offset, "length": bad.length, "reason": bad.reason})
            }));
        }
        if let Some((volume, bad)) = first {
            bad_backups.push(backup.uuid.clone());
            app.engine.mark_damaged(backup, volume, bad.offset, &bad.reason)?;
        } else if backup.state == BackupState::Erred && stored {
            app.engine.mark_whole(backup)?;
        }
    }
    let wrong_tallies = match whole {
        true => app.db.read(projects::wrong_tallies)?,
        false => Vec::new(),
    };
    for (project, name, kept, truth) in &wrong_tallies {
        log::error!("the tally {name} of project {project} is {kept} and should be {truth}");
    }
    Ok(json!({"chunks": chunks, "bytes": bytes, "corrupt": corrupt, "backups": bad_backups, "unreachable": unreachable,
        "wrong_tallies": wrong_tallies.len()}))
}

/// Deleted since the check began, or about to be.
fn is_leaving(app: &App, backup_id: i64) -> rusqlite::Result<bool> {
    app.db.read(|c| Ok(backups::by_id(c, backup_id)?.is_none_or(|backup| backup.state == BackupState::Deleting)))
}

fn map_lost(size: u64) -> MapReport {
    let all = Corrupt { offset: 0, length: size, reason: MAP_LOST.into() };
    MapReport { bytes: size, corrupt_bytes: size, corrupt: vec![all], ..MapReport::default() }
}

// ---- scrub

/// {older_than_days, bytes_per_second, full}: reads and verifies what was not verified for so many days, or all, at this rate, or as
/// fast as it goes; of packs in repositories one chunk each, or all if `full`.
pub fn scrub(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    fields.drop_null("older_than_days");
    fields.drop_null("bytes_per_second");
    fields.drop_null("full");
    let days = fields.integer("older_than_days", false, 0, 36_500).unwrap_or(0);
    let rate = fields.integer("bytes_per_second", false, 1, 1 << 40);
    let depth = if fields.boolean("full").unwrap_or(false) { Depth::All } else { Depth::Sample };
    fields.finish()?;
    // Also what is written this moment.
    let before = clock::now_ms() - days * 86_400_000 + 1;
    let rate = rate.map_or(Rate::Unlimited, |rate| Rate::Fixed(rate as u64));
    spawn(context, SCRUB, move |app, task| {
        let report = app.engine.scrub(before, rate, depth, &task.progress, &task.cancel).map_err(|error| error.to_string())?;
        Ok(report.to_json())
    })
}

// ---- gc, snapshot

/// {dead_fraction}: packs with at least this part dead are rewritten; 0 rewrites any that has a dead byte.
pub fn gc(context: &Context) -> ApiResult {
    let fields = context.fields(false)?;
    let fraction = match fields.get("dead_fraction") {
        None | Some(Value::Null) => 0.0,
        Some(value) => match value.as_f64() {
            Some(fraction) if (0.0..=1.0).contains(&fraction) => fraction as f32,
            _ => return Err(ApiError::field("dead_fraction", "A number from 0 to 1 is required.")),
        },
    };
    spawn(context, "gc", move |app, task| {
        let report = app.engine.collect_garbage(fraction, &task.cancel).map_err(|error| error.to_string())?;
        let mut removed = 0;
        for (_, tended) in app.engine.tend_repositories(true, &task.cancel) {
            removed += tended.map_err(|error| error.to_string())?;
        }
        Ok(json!({"objects_removed": removed, "segments_dropped": report.segments_dropped, "packs_dropped": report.packs_dropped,
            "packs_compacted": report.packs_compacted, "bytes_freed": report.bytes_freed, "complete": report.complete}))
    })
}

/// {path}: a consistent copy of the coffer as a new file.
pub fn snapshot(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let path = PathBuf::from(fields.text("path", &Text::required(4096)).unwrap_or_default());
    if !path.as_os_str().is_empty() && !path.is_absolute() {
        fields.error("path", "An absolute path is required.");
    }
    fields.finish()?;
    let path = check_target(context, &path, true)?;
    spawn(context, "snapshot", move |app, _| {
        let size = app.db.snapshot(&path).map_err(|error| error.to_string())?;
        Ok(json!({"path": path, "bytes": size}))
    })
}
