//! `cofferd user`: who may log in.

use std::io::{BufRead, IsTerminal};

use clap::Subcommand;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;

use super::client::Client;
use super::find::USER;
use super::output::{Column, field, time};
use super::{CliError, Context};

/// Manage users
#[derive(Subcommand)]
pub enum User {
    /// Add a user; without a password it can only use tokens
    Add {
        /// What the user logs in as
        username: String,
        /// May do everything, also register paths of the host
        #[arg(long)]
        staff: bool,
        /// Ask for a password, or read it from standard input
        #[arg(long)]
        password: bool,
        /// The name of the person
        #[arg(long)]
        full_name: Option<String>,
        /// The address of the person; nothing is sent there
        #[arg(long)]
        email: Option<String>,
    },
    /// List users
    List,
    /// Set a user's password, asked for or read from standard input
    Passwd {
        /// Name of the user
        user: String,
    },
    /// Refuse a user's logins and tokens from now on
    Disable {
        /// Name of the user
        user: String,
    },
    /// Undo `disable`
    Enable {
        /// Name of the user
        user: String,
    },
}

const COLUMNS: &[Column] = &[
    ("UUID", |u| field(u, "uuid")),
    ("USERNAME", |u| field(u, "username")),
    ("FULL NAME", |u| field(u, "full_name")),
    ("STAFF", |u| field(u, "is_staff")),
    ("ACTIVE", |u| field(u, "is_active")),
    ("JOINED (UTC)", |u| time(u, "date_joined")),
];

pub fn run(args: &User, context: &Context) -> Result<(), CliError> {
    match args {
        User::Add { username, staff, password, full_name, email } => {
            let mut body = json!({"username": username, "is_staff": staff});
            let password = if *password { Some(read_password()?) } else { None };
            for (key, value) in [("password", &password), ("full_name", full_name), ("email", email)] {
                if let Some(value) = value {
                    body[key] = json!(value);
                }
            }
            let user = context.client()?.post(USER.collection, body)?;
            context.show(&user, |u| format!("user {} ({})\n", field(u, "username"), field(u, "uuid")))
        }
        User::List => context.show_list(context.client()?.list(USER.collection)?, COLUMNS),
        User::Passwd { user } => {
            let client = context.client()?;
            let user = USER.find(&client, user)?;
            let body = json!({"password": read_password()?});
            let answer = client.post(&format!("{}password/", USER.path(&user)), body)?;
            context.show(&answer, |_| format!("the password of {} is set\n", field(&user, "username")))
        }
        User::Disable { user } => set_active(&context.client()?, context, user, false),
        User::Enable { user } => set_active(&context.client()?, context, user, true),
    }
}

fn set_active(client: &Client, context: &Context, user: &str, active: bool) -> Result<(), CliError> {
    let user = USER.find(client, user)?;
    let answer = client.call("PATCH", &USER.path(&user), Some(json!({"is_active": active})))?;
    let done = if active { "enabled" } else { "disabled" };
    context.show(&answer, |u| format!("user {} is {done}\n", field(u, "username")))
}

/// Asked twice without echo on a terminal, else the first line of standard input. Never an argument: those can be seen by
/// every user of the host.
fn read_password() -> Result<String, CliError> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return read_line();
    }
    let password = ask("New password: ")?;
    match ask("Once more: ")? == password {
        true => Ok(password),
        false => Err(CliError::failed("the two passwords differ; nothing was changed")),
    }
}

fn ask(prompt: &str) -> Result<String, CliError> {
    let failed = |e: rustix::io::Errno| CliError::failed(format!("the terminal: {e}"));
    let terminal = std::io::stdin();
    let usual = tcgetattr(&terminal).map_err(failed)?;
    let mut silent = usual.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    // Before the prompt: what is typed after that counts, and is not shown.
    tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(failed)?;
    eprint!("{prompt}");
    let line = read_line();
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &usual).map_err(failed);
    eprintln!();
    restored.and(line)
}

fn read_line() -> Result<String, CliError> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|e| CliError::failed(format!("standard input: {e}")))?;
    let line = line.trim_end_matches(['\n', '\r']);
    match line.is_empty() {
        true => Err(CliError::failed("no password was given; nothing was changed")),
        false => Ok(line.to_owned()),
    }
}
