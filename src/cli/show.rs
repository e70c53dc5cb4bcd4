//! `cofferd show`: one backup with everything that is known of it.

use clap::Args;

use super::find;
use super::{CliError, Context, output, space};

/// Show a backup
#[derive(Args)]
pub struct Show {
    /// Uuid (or its beginning) or description (of a volume's, name) of the backup
    backup: String,
}

pub fn run(args: &Show, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let mut backup = find::backup(&client, &args.backup)?.1;
    backup["space"] = space::of(&client, &backup)?;
    context.show(&backup, output::details)
}
