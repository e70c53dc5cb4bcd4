//! `cofferd delete`: deletes a backup and waits until its data is let go.

use clap::Args;
use serde_json::json;

use super::find::BACKUP;
use super::output::field;
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Delete a backup
#[derive(Args)]
pub struct Delete {
    /// Uuid (or its beginning) or description of the backup
    backup: String,
}

pub fn run(args: &Delete, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let backup = BACKUP.find(&client, &args.backup)?;
    let path = BACKUP.path(&backup);
    let answer = client.post(&format!("{path}delete/"), json!({}))?;
    let bar = Bar::new(context, "deleting");
    match progress::wait(&client, &bar, &path, |b| b["state"] == "Deleting") {
        // Gone, as wished.
        Err(CliError::Api { status: 404, .. }) => (),
        Err(e) => return Err(e),
        Ok(left) => {
            let (state, why) = (field(&left, "state"), field(&left, "error_message"));
            return Err(CliError::failed(format!("backup {} was not deleted: it is {state}: {why}", field(&left, "uuid"))));
        }
    }
    context.show(&answer, |_| format!("deleted backup {} of {}\n", field(&backup, "uuid"), field(&backup, "instance_name")))
}
