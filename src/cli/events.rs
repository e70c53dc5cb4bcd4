//! `cofferd events`: what happened.

use clap::Args;

use super::output::{Column, field, time};
use super::{CliError, Context};

/// Show what happened, oldest first
#[derive(Args)]
pub struct Events {
    /// How many of the latest
    #[arg(long, short, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=300))]
    number: u32,
    /// Only events of this type, as in resource_backup_creation_failed
    #[arg(long, short, value_name = "TYPE", value_parser = parse_type)]
    r#type: Option<String>,
}

const COLUMNS: &[Column] = &[
    ("TIME (UTC)", |e| time(e, if e.get("created").is_some() { "created" } else { "@timestamp" })),
    ("TYPE", |e| field(e, "event_type")),
    ("MESSAGE", |e| field(e, "message")),
];

pub fn run(args: &Events, context: &Context) -> Result<(), CliError> {
    let mut target = format!("/api/events/?o=-created&page_size={}", args.number);
    if let Some(name) = &args.r#type {
        target += &format!("&event_type={name}");
    }
    let mut events = context.client()?.get(&target)?.as_array().cloned().unwrap_or_default();
    events.reverse();
    context.show_list(events, COLUMNS)
}

/// Types are words; nothing else could be put into the query as it is.
fn parse_type(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        true => Ok(text.to_owned()),
        false => Err("expected a word such as resource_backup_creation_failed".to_owned()),
    }
}
