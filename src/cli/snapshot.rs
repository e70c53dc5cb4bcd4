//! `cofferd snapshot`: a consistent copy of the coffer, while it is in use.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::output::details;
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Write a consistent copy of the coffer to a new file
#[derive(Args)]
pub struct Snapshot {
    /// File to make; it must not exist
    path: PathBuf,
}

pub fn run(args: &Snapshot, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let path = std::path::absolute(&args.path).map_err(|e| CliError::failed(format!("{}: {e}", args.path.display())))?;
    let bar = Bar::new(context, "copying");
    let task = progress::run_task(&client, &bar, "/ops/snapshot/", json!({"path": path}))?;
    drop(bar);
    context.show(&task, |task| format!("copied the coffer to {}\n{}", path.display(), details(&task["result"])))
}
