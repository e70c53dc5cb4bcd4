//! `cofferd serve`: the service itself.

use clap::Args;

use super::{CliError, Context};

/// Run the daemon until SIGTERM or Ctrl-C
#[derive(Args)]
pub struct Serve {}

pub fn run(_: &Serve, context: &Context) -> Result<(), CliError> {
    crate::daemon::serve(context.config_file.as_deref()).map_err(|e| {
        // Into the log like everything else, with its priority.
        log::error!("{e}");
        CliError::Told
    })
}
