//! `cofferd schedule`: backups by the clock.

use clap::Subcommand;
use serde_json::{Value, json};

use super::find::{INSTANCE, SCHEDULE};
use super::output::{Column, field, table, time};
use super::{CliError, Context};

/// Back up by the clock
#[derive(Subcommand)]
pub enum Schedule {
    /// Add a schedule; it is active at once
    Add {
        /// Name of the instance
        instance: String,
        /// Five cron fields: minute, hour, day of month, month, day of week
        cron: String,
        /// How many backups of this schedule are kept; the oldest go
        #[arg(long, default_value_t = 7)]
        keep: u32,
        /// Days each backup is kept at most; 0: no limit
        #[arg(long, default_value_t = 0)]
        days: u32,
        /// Zone of the cron fields, as in Europe/Berlin; else the configured one
        #[arg(long)]
        timezone: Option<String>,
        /// A note, and a name for the schedule
        #[arg(long, short, default_value = "", hide_default_value = true)]
        description: String,
        /// Do not run it yet
        #[arg(long)]
        inactive: bool,
        /// Where its backups go: a repository, or `coffer`; else the default one
        #[arg(long, value_name = "NAME")]
        repository: Option<String>,
    },
    /// List schedules
    List {
        /// Only those of this instance
        #[arg(long, short)]
        instance: Option<String>,
    },
    /// Let a schedule run
    Activate {
        /// Uuid (or its beginning) or description of the schedule
        schedule: String,
    },
    /// Stop a schedule; its backups stay
    Deactivate {
        /// Uuid (or its beginning) or description of the schedule
        schedule: String,
    },
    /// Remove a schedule; its backups stay
    Remove {
        /// Uuid (or its beginning) or description of the schedule
        schedule: String,
    },
    /// Show when a schedule runs next
    Next {
        /// Uuid (or its beginning) or description of the schedule
        schedule: String,
        /// How many runs
        #[arg(long, default_value_t = 5)]
        count: u32,
    },
}

const COLUMNS: &[Column] = &[
    ("UUID", |s| field(s, "uuid")),
    ("INSTANCE", |s| field(s, "instance_name")),
    ("SCHEDULE", |s| field(s, "schedule")),
    ("TIMEZONE", |s| field(s, "timezone")),
    ("ACTIVE", |s| field(s, "is_active")),
    ("NEXT (UTC)", |s| if s["is_active"] == true { time(s, "next_trigger_at") } else { "-".to_owned() }),
    ("KEEP", |s| field(s, "maximal_number_of_backups")),
    ("DAYS", |s| field(s, "retention_time")),
    ("DESCRIPTION", |s| field(s, "description")),
    ("ERROR", |s| field(s, "error_message")),
];

pub fn run(args: &Schedule, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Schedule::Add { instance, cron, keep, days, timezone, description, inactive, repository } => {
            let mut body = json!({
                "instance": INSTANCE.path(&INSTANCE.find(&client, instance)?),
                "schedule": cron,
                "maximal_number_of_backups": keep,
                "retention_time": days,
                "description": description,
                "is_active": !inactive,
                "repository": repository.as_deref().unwrap_or_default(),
            });
            if let Some(timezone) = timezone {
                body["timezone"] = json!(timezone);
            }
            context.show(&client.post(SCHEDULE.collection, body)?, |s| {
                format!("schedule {} of {}, next run {} UTC\n", field(s, "uuid"), field(s, "instance_name"), time(s, "next_trigger_at"))
            })
        }
        Schedule::List { instance } => {
            let mut target = SCHEDULE.collection.to_owned();
            if let Some(instance) = instance {
                target += &format!("?instance_uuid={}", field(&INSTANCE.find(&client, instance)?, "uuid"));
            }
            context.show_list(client.list(&target)?, COLUMNS)
        }
        Schedule::Activate { schedule } | Schedule::Deactivate { schedule } => {
            let action = if matches!(args, Schedule::Activate { .. }) { "activate" } else { "deactivate" };
            let path = SCHEDULE.path(&SCHEDULE.find(&client, schedule)?);
            context.show(&client.post(&format!("{path}{action}/"), json!({}))?, |answer| format!("{}\n", field(answer, "status")))
        }
        Schedule::Remove { schedule } => {
            let schedule = SCHEDULE.find(&client, schedule)?;
            let answer = client.call("DELETE", &SCHEDULE.path(&schedule), None)?;
            context.show(&answer, |_| format!("removed schedule {}; its backups stay\n", field(&schedule, "uuid")))
        }
        Schedule::Next { schedule, count } => {
            let path = SCHEDULE.path(&SCHEDULE.find(&client, schedule)?);
            context.show(&client.get(&format!("{path}next-runs/?count={count}"))?, next_runs)
        }
    }
}

/// Each run in UTC and in the schedule's own zone.
fn next_runs(answer: &Value) -> String {
    let runs: Vec<Value> = answer["next_runs"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(answer["next_runs_local"].as_array().into_iter().flatten())
        .map(|(utc, local)| json!({"utc": utc, "local": local}))
        .collect();
    table(&[("UTC", |run| time(run, "utc")), ("LOCAL", |run| time(run, "local"))], &runs)
}
