//! `cofferd replicate`: keeps backups in a further place too.

use clap::Args;
use serde_json::{Value, json};

use super::find;
use super::output::{Column, byte_field, field, time};
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Keep backups in a further repository too, or list what is kept so
///
/// Only what is not there yet is sent. What cannot be done now is tried again by itself, as long as the daemon runs.
#[derive(Args)]
pub struct Replicate {
    /// Uuids (or their beginnings) or descriptions of backups; else all that are Ready
    backups: Vec<String>,
    /// Where to: a repository of the configuration, or `coffer`
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    to: Option<String>,
    /// List all copies with their states instead
    #[arg(long, conflicts_with_all = ["backups", "to"])]
    list: bool,
}

const COLUMNS: &[Column] = &[
    ("BACKUP", |c| field(c, "backup")),
    ("PLACE", |c| field(c, "repository")),
    ("STATE", |c| field(c, "state")),
    ("SINCE (UTC)", |c| time(c, "finished")),
    ("STORED", |c| byte_field(c, "stored_bytes")),
    ("NEXT TRY", |c| time(c, "next_try")),
    ("ERROR", |c| field(c, "error_message")),
];

pub fn run(args: &Replicate, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    if args.list {
        return context.show_list(client.list("/ops/copies/")?, COLUMNS);
    }
    let to = args.to.as_deref().unwrap_or_default();
    let uuids = args.backups.iter().map(|text| Ok(find::backup(&client, text)?.1["uuid"].clone())).collect::<Result<Vec<_>, CliError>>()?;
    let body = json!({"to": to, "backups": if uuids.is_empty() { Value::Null } else { json!(uuids) }});
    let bar = Bar::new(context, &format!("copying to {to}"));
    let task = progress::run_task(&client, &bar, "/ops/replicate/", body)?;
    drop(bar);
    let failed = task["result"]["failed"].as_array().cloned().unwrap_or_default();
    context.show(&task["result"], |result| {
        format!("{} of these backups are in {to}, {} were sent for them\n", field(result, "copied"), byte_field(result, "stored_bytes"))
    })?;
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(CliError::failed(format!(
            "{} backups could not be copied to {to}, which is tried again later; of {}: {}",
            failed.len(),
            field(first, "backup"),
            field(first, "error_message")
        ))),
    }
}
