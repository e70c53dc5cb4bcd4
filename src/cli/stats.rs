//! `cofferd stats`: how much is backed up and how much it takes.

use clap::Args;

use super::{CliError, Context, output};

/// Show how much is backed up and how much it takes
#[derive(Args)]
pub struct Stats {}

pub fn run(_: &Stats, context: &Context) -> Result<(), CliError> {
    context.show(&context.client()?.get("/ops/stats/")?, output::details)
}
