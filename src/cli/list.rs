//! `cofferd list`: the backups of instances, or those of volumes alone.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::find::{BACKUP, INSTANCE, SCHEDULE, VOLUME_BACKUP};
use super::output::{Column, byte_field, field, time};
use super::{CliError, Context, space};
use crate::catalog::repositories::COFFER;

/// List backups, oldest first
#[derive(Args)]
pub struct List {
    /// Only those of this instance
    #[arg(long, short)]
    instance: Option<String>,
    /// Only those made by this schedule
    #[arg(long, short)]
    schedule: Option<String>,
    /// Those of volumes alone instead, which OpenStack clients made, and snapshots
    #[arg(long, conflicts_with_all = ["instance", "schedule"])]
    volumes: bool,
    /// What each takes of the coffer, and what deleting it would free
    #[arg(long)]
    space: bool,
}

const COLUMNS: &[Column] = &[
    ("UUID", |b| field(b, "uuid")),
    ("INSTANCE", |b| field(b, "instance_name")),
    ("STATE", |b| field(b, "state")),
    ("CREATED (UTC)", |b| time(b, "created_at")),
    ("KEPT UNTIL", |b| time(b, "kept_until")),
    ("SIZE", |b| byte_field(b, "size_bytes")),
    ("STORED", |b| byte_field(b, "stored_bytes")),
    ("DESCRIPTION", |b| field(b, "description")),
];

/// Shown if there are any that lie elsewhere than in the coffer.
const REPOSITORY: Column = ("REPOSITORY", |b| field(b, "repository"));

const OF_VOLUMES: &[Column] = &[
    ("UUID", |b| field(b, "uuid")),
    ("VOLUME", |b| field(b, "volume_name")),
    ("KIND", |b| match (b["kind"] == "snapshot", b["is_incremental"] == true) {
        (true, _) => "snapshot".into(),
        (false, true) => "incremental".into(),
        (false, false) => "backup".into(),
    }),
    ("STATE", |b| field(b, "state")),
    ("CREATED (UTC)", |b| time(b, "created_at")),
    ("SIZE", |b| byte_field(b, "size_bytes")),
    ("STORED", |b| byte_field(b, "stored_bytes")),
    ("NAME", |b| field(b, "name")),
];

const SPACE: &[Column] = &[
    ("UUID", |b| field(b, "uuid")),
    ("OF", |b| ["instance_name", "volume_name"].iter().find(|name| b.get(name).is_some()).map_or_else(String::new, |name| field(b, name))),
    ("STATE", |b| field(b, "state")),
    ("CREATED (UTC)", |b| time(b, "created_at")),
    ("LOGICAL", |b| byte_field(&b["space"], "logical_bytes")),
    ("DATA", |b| byte_field(&b["space"], "data_bytes")),
    ("STORED", |b| byte_field(&b["space"], "stored_bytes")),
    ("EXCLUSIVE", |b| byte_field(&b["space"], "exclusive_bytes")),
];

pub fn run(args: &List, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    if args.volumes {
        return show(args, context, &client, client.list(VOLUME_BACKUP.collection)?, OF_VOLUMES);
    }
    let mut target = format!("{}?o=created_at", BACKUP.collection);
    for (key, kind, text) in [("instance_uuid", INSTANCE, &args.instance), ("backup_schedule_uuid", SCHEDULE, &args.schedule)] {
        if let Some(text) = text {
            target += &format!("&{key}={}", field(&kind.find(&client, text)?, "uuid"));
        }
    }
    let backups = client.list(&target)?;
    if backups.is_empty() {
        eprintln!("no backups of instances; `cofferd list --volumes` shows those of volumes alone");
    }
    let mut columns = COLUMNS.to_vec();
    if backups.iter().any(|backup| backup["repository"] != COFFER) {
        columns.insert(columns.len() - 1, REPOSITORY);
    }
    show(args, context, &client, backups, &columns)
}

fn show(args: &List, context: &Context, client: &Client, mut backups: Vec<Value>, columns: &[Column]) -> Result<(), CliError> {
    if !args.space {
        return context.show_list(backups, columns);
    }
    space::add_to(client, &mut backups)?;
    context.show_list(backups, SPACE)
}
