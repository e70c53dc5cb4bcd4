//! `cofferd delete`: deletes a backup and waits until its data is let go.

use clap::Args;
use serde_json::json;

use super::find::{self, BACKUP};
use super::output::field;
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Delete a backup
#[derive(Args)]
pub struct Delete {
    /// Uuid (or its beginning) or description (of a volume's, name) of the backup
    backup: String,
}

pub fn run(args: &Delete, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let (kind, backup) = find::backup(&client, &args.backup)?;
    let path = kind.path(&backup);
    let answer = match kind.collection == BACKUP.collection {
        true => client.post(&format!("{path}delete/"), json!({}))?,
        false => client.call("DELETE", &path, None)?,
    };
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
    let of = ["instance_name", "volume_name"].iter().find_map(|name| backup[name].as_str()).unwrap_or_default();
    context.show(&answer, |_| format!("deleted backup {} of {}\n", field(&backup, "uuid"), of))
}
