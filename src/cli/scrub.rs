//! `cofferd scrub`: reads what is stored again, what was not verified for the longest time first, and mends what it can.

use clap::Args;
use serde_json::json;

use super::output::{any_table, details, field, parse_mib};
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Read all stored data again, compare it with its hashes, and mend what is damaged where it can be had
///
/// The daemon does the same in the background, slowly: see [scrub] in the configuration. Unlike check, which reads backup by
/// backup, this reads each stored byte once.
#[derive(Args)]
pub struct Scrub {
    /// Leave out what was written or verified within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=36_500))]
    older_than: u32,
    /// Stored bytes to read a second, MiB or with a unit as in 1G; else as fast as it goes
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Read all that lies in repositories too, instead of one chunk of each object
    #[arg(long)]
    full: bool,
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_mib(text)?.checked_mul(1 << 20) {
        Some(0) => Err("expected at least 1".into()),
        Some(bytes) => Ok(bytes),
        None => Err("too large".into()),
    }
}

pub fn run(args: &Scrub, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let bar = Bar::new(context, "scrubbing");
    let order = json!({"older_than_days": args.older_than, "bytes_per_second": args.rate, "full": args.full});
    let task = progress::run_task(&client, &bar, "/ops/scrub/", order)?;
    drop(bar);
    let list = |name: &str| task["result"][name].as_array().cloned().unwrap_or_default();
    let (corrupt, healed) = (list("corrupt"), list("healed"));
    let number = |name: &str| task["result"][name].as_u64().unwrap_or(0);
    let (unused, unsettled) = (number("unused"), number("unsettled"));
    let unreachable = task["result"]["unreachable"].as_object().cloned().unwrap_or_default();
    let whole = corrupt.is_empty() && healed.is_empty() && unused + unsettled == 0 && unreachable.is_empty();
    context.show(&task, |task| match whole {
        true => details(&task["result"]) + "every chunk that was read is as it was stored\n",
        false => any_table(&[corrupt.clone(), healed.clone()].concat()),
    })?;
    if !corrupt.is_empty() && list("backups").is_empty() {
        return Err(CliError::failed(format!("{} parts of copies are corrupt; they are made again: cofferd replicate --list", corrupt.len())));
    }
    if !corrupt.is_empty() {
        return Err(CliError::failed(format!(
            "{} parts of backups are corrupt; these backups cannot be restored whole: {}; back up again, good data is stored anew",
            corrupt.len(),
            field(&task["result"], "backups")
        )));
    }
    if unsettled > 0 {
        return Err(CliError::failed(format!(
            "{unsettled} packs have damage that running work may use; scrub again when that is done, and look into the daemon's log"
        )));
    }
    if let Some((name, reason)) = unreachable.iter().next() {
        return Err(CliError::failed(format!(
            "repository {name}: {}; what lies there was not read; scrub again when `cofferd repository test {name}` says that it works",
            reason.as_str().unwrap_or_default()
        )));
    }
    match whole {
        true => Ok(()),
        false => Err(CliError::failed(format!(
            "{} damaged parts of backups were stored anew, and {unused} damaged chunks are needed by no backup; look after the disk, or the repository, that lost them",
            healed.len()
        ))),
    }
}
