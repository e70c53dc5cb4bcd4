//! `cofferd token`: what API clients identify themselves with.

use clap::Subcommand;
use serde_json::json;

use super::find::USER;
use super::output::{Column, field, time};
use super::{CliError, Context};

const COLLECTION: &str = "/ops/tokens/";

/// Manage API tokens
#[derive(Subcommand)]
pub enum Token {
    /// Make a token; it is shown this once
    Add {
        /// Name of the user
        user: String,
        /// What it is for
        #[arg(long, short, default_value = "", hide_default_value = true)]
        name: String,
        /// Hours it is good for; else as configured
        #[arg(long, value_name = "HOURS")]
        lifetime: Option<u32>,
    },
    /// List tokens (not their secrets)
    List,
    /// Make a token useless, by its id in the list
    Revoke {
        /// As `cofferd token list` shows it
        id: String,
    },
}

const COLUMNS: &[Column] = &[
    ("ID", |t| field(t, "id")),
    ("USER", |t| field(t, "user")),
    ("NAME", |t| field(t, "name")),
    ("CREATED (UTC)", |t| time(t, "created")),
    ("EXPIRES (UTC)", |t| time(t, "expires")),
];

pub fn run(args: &Token, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Token::Add { user, name, lifetime } => {
            let user = USER.find(&client, user)?;
            let mut body = json!({"user": user["username"], "name": name});
            if let Some(hours) = lifetime {
                body["lifetime_h"] = json!(hours);
            }
            context.show(&client.post(COLLECTION, body)?, |t| format!("{}\n", field(t, "token")))
        }
        Token::List => context.show_list(client.list(COLLECTION)?, COLUMNS),
        Token::Revoke { id } => {
            if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err(CliError::failed(format!("{id:?} is no id of a token; `cofferd token list` shows them")));
            }
            let answer = client.call("DELETE", &format!("{COLLECTION}{id}/"), None)?;
            context.show(&answer, |_| format!("token {id} is revoked\n"))
        }
    }
}
