//! `cofferd check`: reads every chunk of one backup, or of all, and compares it with its hash.

use clap::Args;
use serde_json::{Value, json};

use super::find;
use super::output::{any_table, details, field};
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Verify every chunk of a backup, or of all
#[derive(Args)]
pub struct Check {
    /// Uuid (or its beginning) or description of the backup; else all are checked
    backup: Option<String>,
}

pub fn run(args: &Check, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let backup = match &args.backup {
        Some(text) => find::backup(&client, text)?.1["uuid"].clone(),
        None => Value::Null,
    };
    let bar = Bar::new(context, "checking");
    let task = progress::run_task(&client, &bar, "/ops/check/", json!({"backup": backup}))?;
    drop(bar);
    let corrupt = task["result"]["corrupt"].as_array().cloned().unwrap_or_default();
    let unreachable = task["result"]["unreachable"].as_object().cloned().unwrap_or_default();
    context.show(&task, |task| match corrupt.is_empty() {
        true if unreachable.is_empty() => details(&task["result"]) + "every chunk is as it was stored\n",
        true => details(&task["result"]),
        false => any_table(&corrupt),
    })?;
    match (corrupt.len(), unreachable.iter().next()) {
        (0, None) => Ok(()),
        (0, Some((name, reason))) => Err(CliError::failed(format!(
            "repository {name}: {}; backups there were left out, all others are as they were stored",
            reason.as_str().unwrap_or_default()
        ))),
        (n, _) => Err(CliError::failed(format!(
            "{n} chunks are corrupt; these backups cannot be restored whole: {}",
            field(&task["result"], "backups")
        ))),
    }
}
