//! `/api/openstack-backup-schedules/` and its alias `/api/openstack-backup-schedule/`.

use rusqlite::{Connection, Transaction};
use serde_json::{Value, json};

use super::backups::check_repository;
use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::{Fields, Text};
use super::links::{self, BACKUPS, INSTANCES, SCHEDULES};
use super::listing::{link_filter, order, uuid_filter};
use super::{instances, uuid_segment};
use crate::api::text::{parse_timestamp, timestamp};
use crate::catalog::events::Severity;
use crate::catalog::list::Filter;
use crate::catalog::schedules::{self, Schedule};
use crate::catalog::{backups, new_uuid, volumes};
use crate::clock;
use crate::engine::orders;
use crate::engine::trigger::next_instant;
use crate::http::Response;
use crate::model::role::Access;
use crate::model::schedule::{CronSchedule, parse_zone};

/// Instants that a representation shows ahead, and at most that next-runs tells.
const SHOWN_RUNS: usize = 5;
const MAX_RUNS: i64 = 1000;
/// Longer than any zone's name, so that a wrong one is called a wrong choice.
const MAX_ZONE: usize = 1000;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| create(context))]),
        ["preview"] => context.methods(&[("POST", &|| preview(context))]),
        [uuid] => context.methods(&[
            ("GET", &|| show(context, uuid)),
            ("PUT", &|| update(context, uuid, false)),
            ("PATCH", &|| update(context, uuid, true)),
            ("DELETE", &|| delete(context, uuid)),
        ]),
        [uuid, "activate"] => context.methods(&[("POST", &|| switch(context, uuid, true))]),
        [uuid, "deactivate"] => context.methods(&[("POST", &|| switch(context, uuid, false))]),
        [uuid, "next-runs"] => context.methods(&[("GET", &|| next_runs(context, uuid))]),
        _ => Err(ApiError::not_found()),
    }
}

const ORDERS: [(&str, &str); 4] =
    [("created", "s.created"), ("next_trigger_at", "s.next_trigger_at"), ("is_active", "s.is_active"), ("instance_name", "i.name")];

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        context.only_visible(&mut filter, "i.project_id");
        for text in context.params("description") {
            filter.contains("s.description", text);
        }
        for text in context.params("instance_name") {
            filter.contains("i.name", text);
        }
        link_filter(context, &mut filter, "instance", INSTANCES, "i.uuid")?;
        link_filter(context, &mut filter, "project", links::PROJECTS, "p.uuid")?;
        uuid_filter(context, &mut filter, "uuid", "s.uuid")?;
        match context.param("is_active").map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "1" | "t") => filter.equals("s.is_active", 1),
            Some("false" | "0" | "f") => filter.equals("s.is_active", 0),
            _ => {}
        }
        // The count does not depend on the order; the page does.
        let order = order(context, &ORDERS, "s.created", "s.id");
        let count = crate::catalog::list::count(c, schedules::FROM, &filter)?;
        let paging = context.page(count, &order)?;
        let (_, rows) = schedules::list(c, &filter, &paging.page)?;
        let items = rows.iter().map(|schedule| to_json(context, c, schedule)).collect::<Result<_, _>>()?;
        Ok(context.list(&paging, items))
    })
}

/// The fields that create and update share, checked; None where absent.
struct Input {
    description: Option<String>,
    retention_time: Option<i64>,
    maximal_number: Option<i64>,
    cron: Option<String>,
    timezone: Option<String>,
    is_active: Option<bool>,
    repository: Option<String>,
}

fn read_input(fields: &mut Fields) -> Input {
    let description = fields.text("description", &Text::optional(500));
    let retention_time = fields.integer("retention_time", true, 0, i64::from(i32::MAX));
    let maximal_number = fields.integer("maximal_number_of_backups", true, 1, 32767);
    let mut cron = fields.text("schedule", &Text::required(100));
    if let Some(text) = &cron
        && let Err(error) = CronSchedule::parse(text)
    {
        fields.error("schedule", error.to_string());
        cron = None;
    }
    let mut timezone = fields.text("timezone", &Text::not_blank(MAX_ZONE));
    if let Some(name) = &timezone
        && parse_zone(name).is_none()
    {
        fields.error("timezone", format!("\"{name}\" is not a valid choice."));
        timezone = None;
    }
    let is_active = fields.boolean("is_active");
    let repository = fields.text("repository", &Text::optional(64));
    Input { description, retention_time, maximal_number, cron, timezone, is_active, repository }
}

fn create(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let instance = fields.link("instance", true, INSTANCES);
    let input = read_input(&mut fields);
    let (uuid, body) = context.write(|tx| {
        let instance = instances::linked(context, tx, &mut fields, "instance", instance)?;
        check_repository(tx, &mut fields, input.repository.as_deref().unwrap_or_default())?;
        fields.finish()?;
        let (Some(instance), Some(cron), Some(retention_time), Some(maximal_number)) =
            (instance, input.cron, input.retention_time, input.maximal_number)
        else {
            return Err(ApiError::not_found());
        };
        if context.identity.access(instance.project_id) < Access::Write {
            return Err(ApiError::forbidden());
        }
        if instance.state.is_going() {
            return Err(ApiError::detail(409, "Instance should be in stable state."));
        }
        let bootable = volumes::of_instance(tx, instance.id)?.iter().filter(|v| v.bootable).count();
        if bootable != 1 {
            return Err(ApiError::refused("create", orders::Refusal::Bootable(bootable)));
        }
        let timezone = input.timezone.unwrap_or_else(|| context.app.config().timezone.name().to_string());
        let schedule = Schedule {
            id: 0,
            uuid: new_uuid(),
            instance_id: instance.id,
            instance_uuid: instance.uuid,
            instance_name: instance.name,
            project_id: instance.project_id,
            project_uuid: instance.project_uuid,
            project_name: instance.project_name,
            description: input.description.unwrap_or_default(),
            retention_time,
            maximal_number,
            next_trigger_at: first_instant(&cron, &timezone)?,
            cron,
            timezone,
            is_active: input.is_active.unwrap_or(false),
            error_message: String::new(),
            last_run_at: None,
            last_skip_reason: String::new(),
            created: clock::now_ms(),
            repository: input.repository.unwrap_or_default(),
        };
        schedules::insert(tx, &schedule)?;
        let schedule = find(context, tx, &schedule.uuid)?;
        orders::log_schedule(tx, &schedule, "resource_backup_schedule_creation_succeeded", Severity::Info, || {
            format!("Backup schedule for {} has been created.", schedule.instance_name)
        })?;
        let body = with_warnings(to_json(context, tx, &schedule)?, warnings(&schedule, None));
        Ok((schedule.uuid, body))
    })?;
    Ok(context.created(&context.link(SCHEDULES, &uuid), &body))
}

fn first_instant(cron: &str, timezone: &str) -> Result<i64, ApiError> {
    next_instant(cron, timezone).ok_or_else(|| ApiError::field("schedule", "The schedule never matches again."))
}

fn find(context: &Context, c: &Connection, uuid: &str) -> Result<Schedule, ApiError> {
    let schedule = schedules::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)?;
    context.can_see(schedule.project_id)?;
    Ok(schedule)
}

fn show(context: &Context, uuid: &str) -> ApiResult {
    context.read(|c| {
        let schedule = find(context, c, uuid)?;
        Ok(Response::json(200, &to_json(context, c, &schedule)?))
    })
}

fn update(context: &Context, uuid: &str, partial: bool) -> ApiResult {
    context.write(|tx| {
        let old = find(context, tx, uuid)?;
        context.can_write(old.project_id)?;
        let mut fields = context.fields(partial)?;
        let input = read_input(&mut fields);
        check_repository(tx, &mut fields, input.repository.as_deref().unwrap_or_default())?;
        fields.finish()?;
        let mut new = old.clone();
        new.description = input.description.unwrap_or(new.description);
        new.retention_time = input.retention_time.unwrap_or(new.retention_time);
        new.maximal_number = input.maximal_number.unwrap_or(new.maximal_number);
        new.cron = input.cron.unwrap_or(new.cron);
        new.timezone = input.timezone.unwrap_or(new.timezone);
        new.repository = input.repository.unwrap_or(new.repository);
        if (&new.cron, &new.timezone) != (&old.cron, &old.timezone) {
            new.next_trigger_at = first_instant(&new.cron, &new.timezone)?;
        }
        schedules::update(tx, &new)?;
        orders::log_schedule(tx, &new, "resource_backup_schedule_update_succeeded", Severity::Info, || {
            format!("Backup schedule for {} has been updated.", new.instance_name)
        })?;
        if let Some(active) = input.is_active
            && active != old.is_active
        {
            set_active(tx, &mut new, active)?;
        }
        let new = find(context, tx, uuid)?;
        Ok(Response::json(200, &with_warnings(to_json(context, tx, &new)?, warnings(&new, Some(&old)))))
    })
}

fn delete(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let schedule = find(context, tx, uuid)?;
        context.can_write(schedule.project_id)?;
        schedules::delete(tx, schedule.id)?;
        orders::log_schedule(tx, &schedule, "resource_backup_schedule_deletion_succeeded", Severity::Info, || {
            format!("Backup schedule for {} has been deleted. Its backups stay.", schedule.instance_name)
        })?;
        Ok(Response::empty(204))
    })
}

fn switch(context: &Context, uuid: &str, active: bool) -> ApiResult {
    context.write(|tx| {
        let mut schedule = find(context, tx, uuid)?;
        context.can_write(schedule.project_id)?;
        let word = if active { "activated" } else { "deactivated" };
        if schedule.is_active == active {
            let message = format!("BackupSchedule is already {word}");
            return Err(ApiError::body(409, json!({"status": message, "detail": message})));
        }
        set_active(tx, &mut schedule, active)?;
        Ok(Response::json(200, &json!({"status": format!("BackupSchedule was {word}")})))
    })
}

/// Activation begins anew: the next instant is reckoned from now, what was missed while inactive stays missed.
fn set_active(tx: &Transaction, schedule: &mut Schedule, active: bool) -> Result<(), ApiError> {
    schedule.is_active = active;
    if active {
        schedule.next_trigger_at = first_instant(&schedule.cron, &schedule.timezone)?;
        schedule.error_message.clear();
        schedule.last_skip_reason.clear();
    }
    schedules::update(tx, schedule)?;
    let (kind, word) = match active {
        true => ("resource_backup_schedule_activated", "activated"),
        false => ("resource_backup_schedule_deactivated", "deactivated by a user"),
    };
    orders::log_schedule(tx, schedule, kind, Severity::Info, || {
        format!("Backup schedule for {} has been {word}.", schedule.instance_name)
    })?;
    Ok(())
}

// ---- looking ahead

fn next_runs(context: &Context, uuid: &str) -> ApiResult {
    let schedule = context.read(|c| find(context, c, uuid))?;
    let number = |name: &str, default: i64| match context.param(name) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(n) if (1..=MAX_RUNS).contains(&n) => Ok(n),
            _ => Err(ApiError::field(name, format!("A number from 1 to {MAX_RUNS} is required."))),
        },
    };
    let count = number("count", SHOWN_RUNS as i64)?;
    let from = base_time(context.param("now"))?;
    look_ahead(&schedule.cron, &schedule.timezone, from, count).map(|body| Response::json(200, &body))
}

/// What a schedule would do, without making one.
fn preview(context: &Context) -> ApiResult {
    let mut fields = context.fields(false)?;
    let mut cron = fields.text("schedule", &Text::required(100));
    if let Some(text) = &cron
        && let Err(error) = CronSchedule::parse(text)
    {
        fields.error("schedule", error.to_string());
        cron = None;
    }
    fields.drop_null("timezone");
    let timezone = fields.text("timezone", &Text::not_blank(MAX_ZONE));
    let timezone = timezone.unwrap_or_else(|| context.app.config().timezone.name().to_string());
    if parse_zone(&timezone).is_none() {
        fields.error("timezone", format!("\"{timezone}\" is not a valid choice."));
    }
    let count = fields.integer("count", false, 1, MAX_RUNS).unwrap_or(SHOWN_RUNS as i64);
    let now = fields.text("now", &Text::optional(64));
    fields.finish()?;
    let from = base_time(now.as_deref())?;
    look_ahead(&cron.unwrap_or_default(), &timezone, from, count).map(|body| Response::json(200, &body))
}

fn base_time(text: Option<&str>) -> Result<chrono::DateTime<chrono::Utc>, ApiError> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(clock::now()),
        Some(text) => parse_timestamp(text).ok_or_else(|| ApiError::field("now", "An ISO 8601 time is required.")),
    }
}

fn look_ahead(cron: &str, timezone: &str, from: chrono::DateTime<chrono::Utc>, count: i64) -> Result<Value, ApiError> {
    let schedule = CronSchedule::parse(cron).map_err(|error| ApiError::field("schedule", error.to_string()))?;
    let zone = parse_zone(timezone).unwrap_or(chrono_tz::UTC);
    let runs = schedule.upcoming(from, zone, usize::try_from(count).unwrap_or(SHOWN_RUNS));
    Ok(json!({
        "schedule": cron,
        "timezone": timezone,
        "description": schedule.describe(),
        "next_runs": runs.iter().map(|at| timestamp(at.timestamp_millis())).collect::<Vec<_>>(),
        "next_runs_local": runs.iter().map(|at| at.with_timezone(&zone).to_rfc3339()).collect::<Vec<_>>(),
    }))
}

// ---- out

pub fn to_json(context: &Context, c: &Connection, schedule: &Schedule) -> Result<Value, ApiError> {
    let backups = backups::uuids_of_schedule(c, schedule.id, instances::EMBEDDED)?;
    let cron = CronSchedule::parse(&schedule.cron).ok();
    let zone = parse_zone(&schedule.timezone).unwrap_or(chrono_tz::UTC);
    let runs = cron.as_ref().map(|cron| cron.upcoming(clock::now(), zone, SHOWN_RUNS)).unwrap_or_default();
    Ok(json!({
        "url": context.link(SCHEDULES, &schedule.uuid),
        "uuid": schedule.uuid,
        "description": schedule.description,
        "instance": context.link(INSTANCES, &schedule.instance_uuid),
        "instance_name": schedule.instance_name,
        "instance_uuid": schedule.instance_uuid,
        "project": context.link(links::PROJECTS, &schedule.project_uuid),
        "project_uuid": schedule.project_uuid,
        "project_name": schedule.project_name,
        "retention_time": schedule.retention_time,
        "maximal_number_of_backups": schedule.maximal_number,
        "schedule": schedule.cron,
        "schedule_description": cron.map(|cron| cron.describe()).unwrap_or_default(),
        "timezone": schedule.timezone,
        "is_active": schedule.is_active,
        "next_trigger_at": timestamp(schedule.next_trigger_at),
        "next_trigger_at_local": clock::from_ms(schedule.next_trigger_at).with_timezone(&zone).to_rfc3339(),
        "next_runs": runs.iter().map(|at| timestamp(at.timestamp_millis())).collect::<Vec<_>>(),
        "error_message": schedule.error_message,
        "last_run_at": schedule.last_run_at.map(timestamp),
        "last_skip_reason": schedule.last_skip_reason,
        "created": timestamp(schedule.created),
        "repository": schedule.repository,
        "backups": backups.iter().map(|uuid| context.link(BACKUPS, uuid)).collect::<Vec<_>>(),
    }))
}

fn with_warnings(mut body: Value, warnings: Vec<&str>) -> Value {
    body["warnings"] = json!(warnings);
    body
}

/// What a user may not expect of these settings.
fn warnings(new: &Schedule, old: Option<&Schedule>) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if !new.is_active {
        warnings.push("The schedule is not active: it makes no backups until it is activated.");
    }
    if new.retention_time == 0 {
        warnings.push("Backups are kept for ever by time, but the maximal number still deletes the oldest ones.");
    } else {
        warnings.push("The maximal number can delete a backup before its retention time is over.");
    }
    if old.is_some_and(|old| new.maximal_number < old.maximal_number) {
        warnings.push("With the next successful backup the oldest ones above the lower number are deleted.");
    }
    warnings
}
