//! `cofferd delete`: deletes backups and waits until their data is let go; or says what that would free.

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::find::{self, BACKUP, Kind};
use super::output::{byte_field, field};
use super::progress::{self, Bar};
use super::{CliError, Context, space};

/// Delete backups
#[derive(Args)]
pub struct Delete {
    /// Uuid (or its beginning) or description (of a volume's, name) of each backup
    #[arg(required = true, value_name = "BACKUP")]
    backups: Vec<String>,
    /// Only say how many bytes deleting them, all together, would free
    #[arg(long, short = 'n')]
    dry_run: bool,
}

pub fn run(args: &Delete, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    // Nothing is deleted unless all are there.
    let found = args.backups.iter().map(|text| find::backup(&client, text)).collect::<Result<Vec<_>, _>>()?;
    if args.dry_run {
        let backups: Vec<Value> = found.into_iter().map(|(_, backup)| backup).collect();
        return context.show(&space::freed_by(&client, &backups)?, |freed| {
            let what = if freed["backups"] == 1 { "this backup".into() } else { format!("these {} backups together", freed["backups"]) };
            format!("deleting {what} frees {}\n", byte_field(freed, "exclusive_bytes"))
        });
    }
    found.iter().try_for_each(|(kind, backup)| delete(&client, context, kind, backup))
}

fn delete(client: &Client, context: &Context, kind: &Kind, backup: &Value) -> Result<(), CliError> {
    let path = kind.path(backup);
    let answer = match kind.collection == BACKUP.collection {
        true => client.post(&format!("{path}delete/"), json!({}))?,
        false => client.call("DELETE", &path, None)?,
    };
    let bar = Bar::new(context, "deleting");
    match progress::wait(client, &bar, &path, |b| b["state"] == "Deleting") {
        // Gone, as wished.
        Err(CliError::Api { status: 404, .. }) => (),
        Err(e) => return Err(e),
        Ok(left) => {
            let (state, why) = (field(&left, "state"), field(&left, "error_message"));
            return Err(CliError::failed(format!("backup {} was not deleted: it is {state}: {why}", field(&left, "uuid"))));
        }
    }
    let of = ["instance_name", "volume_name"].into_iter().find(|name| backup[name].is_string()).map(|name| field(backup, name)).unwrap_or_default();
    context.show(&answer, |_| format!("deleted backup {} of {}\n", field(backup, "uuid"), of))
}
