//! `cofferd backup`: backs up an instance now.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::find::{BACKUP, INSTANCE};
use super::output::{byte_field, bytes, field};
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Back up an instance now
#[derive(Args)]
pub struct Backup {
    /// Name of the instance
    instance: String,
    /// A note kept with the backup
    #[arg(long, short, default_value = "", hide_default_value = true)]
    description: String,
    /// Where its data goes: a repository, or `coffer`; else the default one
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Return when the backup is queued (only with a running daemon)
    #[arg(long)]
    no_wait: bool,
}

pub fn run(args: &Backup, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let instance = INSTANCE.find(&client, &args.instance)?;
    let body = json!({"instance": INSTANCE.path(&instance), "description": args.description,
        "repository": args.repository.as_deref().unwrap_or_default()});
    let start = Instant::now();
    let backup = client.post(BACKUP.collection, body)?;
    if args.no_wait && client.outlives_command() {
        return context.show(&backup, |b| format!("backup {} of {} is queued\n", field(b, "uuid"), field(b, "instance_name")));
    }
    let backup = finish(&client, context, &backup)?;
    context.show(&backup, |b| summary(b, start.elapsed()))?;
    // Scripts read standard output; what may be wrong with a backup that was made goes elsewhere.
    for warning in warnings(&backup) {
        eprintln!("warning: {}", crate::logging::plain(warning));
    }
    Ok(())
}

/// Waits until the backup is made. One that is not Ready then is an error.
fn finish(client: &Client, context: &Context, backup: &Value) -> Result<Value, CliError> {
    let bar = Bar::new(context, &format!("backing up {}", field(backup, "instance_name")));
    let backup = progress::wait(client, &bar, &BACKUP.path(backup), |b| b["state"] == "Backing up")?;
    match backup["state"].as_str() {
        Some("Erred") => Err(CliError::failed(format!(
            "backup {} failed: {}",
            field(&backup, "uuid"),
            field(&backup, "error_message")
        ))),
        _ => Ok(backup),
    }
}

/// What the engine noticed while it read the volumes.
fn warnings(backup: &Value) -> impl Iterator<Item = &str> {
    backup["metadata"]["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn summary(backup: &Value, took: Duration) -> String {
    let size = backup["size_bytes"].as_f64().unwrap_or(0.0);
    let rate = bytes(size / took.as_secs_f64().max(0.001));
    format!(
        "backup {} of {}: {} backed up, {} stored, {:.1} s, {rate}/s\n",
        field(backup, "uuid"),
        field(backup, "instance_name"),
        byte_field(backup, "size_bytes"),
        byte_field(backup, "stored_bytes"),
        took.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_found() {
        let backup = json!({"metadata": {"warnings": ["One.", "Two."]}});
        assert_eq!(warnings(&backup).collect::<Vec<_>>(), ["One.", "Two."]);
        assert_eq!(warnings(&json!({"metadata": null})).count(), 0);
    }
}
