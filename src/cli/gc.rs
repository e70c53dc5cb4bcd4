//! `cofferd gc`: gives back the space of deleted backups now instead of with the next maintenance.

use clap::Args;
use serde_json::json;

use super::output::details;
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Give back the space of deleted backups now
#[derive(Args)]
pub struct Gc {}

pub fn run(_: &Gc, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let bar = Bar::new(context, "collecting");
    let task = progress::run_task(&client, &bar, "/ops/gc/", json!({"dead_fraction": 0.0}))?;
    drop(bar);
    context.show(&task, |task| details(&task["result"]))
}
