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
    context.show(&task, |task| match corrupt.is_empty() {
        true => details(&task["result"]) + "every chunk is as it was stored\n",
        false => any_table(&corrupt),
    })?;
    match corrupt.len() {
        0 => Ok(()),
        n => Err(CliError::failed(format!(
            "{n} chunks are corrupt; these backups cannot be restored whole: {}",
            field(&task["result"], "backups")
        ))),
    }
}
