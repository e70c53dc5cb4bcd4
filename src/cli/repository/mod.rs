//! `cofferd repository`: places outside of this host that the configuration names.

mod add;

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::output::{Column, byte_field, field, table};
use super::progress::{self, Bar};
use super::{CliError, Context};

const COLLECTION: &str = "/ops/repositories/";

/// Look after places for backups outside of this host
#[derive(Subcommand)]
pub enum Repository {
    Add(Box<add::Add>),
    /// List the repositories of the configuration
    List,
    /// Take a repository over, whoever wrote to it before, and take all backups in it into the catalog
    Attach {
        /// As the configuration calls it
        name: String,
    },
    /// Put a small object there, read, list and delete it, and tell what is wrong or how long each takes
    Test {
        /// As the configuration calls it
        name: String,
    },
}

const COLUMNS: &[Column] = &[
    ("NAME", |r| field(r, "name")),
    ("KIND", |r| field(r, "kind")),
    ("PLACE", |r| field(r, "place")),
    ("PREFIX", |r| field(r, "prefix")),
    ("BACKUPS", |r| field(r, "backups")),
    ("COPIES", |r| field(r, "backups_copied")),
    ("STORED", |r| byte_field(r, "stored_bytes")),
    ("WAITING", |r| byte_field(r, "waiting_bytes")),
];

const STEPS: &[Column] = &[("STEP", |s| field(s, "step")), ("TIME", |s| format!("{:.1} ms", s["seconds"].as_f64().unwrap_or_default() * 1000.0))];

pub fn run(args: &Repository, context: &Context) -> Result<(), CliError> {
    if let Repository::Add(args) = args {
        return add::run(args, context);
    }
    let client = context.client()?;
    match args {
        Repository::Add(_) => Ok(()),
        Repository::List => context.show_list(client.list(COLLECTION)?, COLUMNS),
        Repository::Attach { name } => {
            check_name(&client, name)?;
            let bar = Bar::new(context, "attaching");
            let task = progress::run_task(&client, &bar, &format!("{COLLECTION}{name}/attach/"), json!({}))?;
            drop(bar);
            context.show(&task["result"], |result| {
                let unusable = result["unusable"].as_array().map_or(0, Vec::len);
                let mut text = format!("{} backups of {name} are new in the catalog, {} were known\n", field(result, "added"), field(result, "known"));
                for (what, meaning) in [
                    ("incomplete", "lack data there and are Erred; attach again if it comes back, or delete them"),
                    ("gone", "were deleted there by another host and are Erred here"),
                ] {
                    if let Some(count) = result[what].as_u64().filter(|count| *count > 0) {
                        text += &format!("{count} backups {meaning}\n");
                    }
                }
                if unusable > 0 {
                    text += &format!("{unusable} objects cannot be used; --json names them\n");
                }
                text
            })
        }
        Repository::Test { name } => {
            check_name(&client, name)?;
            let bar = Bar::new(context, "testing");
            let task = progress::run_task(&client, &bar, &format!("{COLLECTION}{name}/test/"), json!({}))?;
            drop(bar);
            context.show(&task["result"], |result| {
                let steps = result["steps"].as_array().map_or(&[][..], Vec::as_slice);
                format!("{}{} works: {}\n", table(STEPS, steps), name, field(result, "place"))
            })
        }
    }
}

fn check_name(client: &Client, name: &str) -> Result<(), CliError> {
    let all = client.list(COLLECTION)?;
    if all.iter().any(|repository| repository["name"] == name) {
        return Ok(());
    }
    let names: Vec<String> = all.iter().map(|repository| field(repository, "name")).collect();
    let known = if names.is_empty() { "it names none".to_owned() } else { format!("it names {}", names.join(", ")) };
    Err(CliError::failed(format!(
        "there is no repository {name:?} in the configuration of the daemon ({known}); after a change: systemctl reload cofferd"
    )))
}
