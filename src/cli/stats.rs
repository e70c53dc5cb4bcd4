//! `cofferd stats`: how much is backed up and how much it takes.

use clap::Args;

use super::{CliError, Context, output, space};

/// Show how much is backed up and how much it takes
#[derive(Args)]
pub struct Stats {}

pub fn run(_: &Stats, context: &Context) -> Result<(), CliError> {
    context.show(&space::ask(&context.client()?, "GET", "/ops/stats/", None)?, output::details)
}
