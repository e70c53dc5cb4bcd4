//! `cofferd role`: what a user may do in a project.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::Client;
use super::find::{PROJECT, USER, project};
use super::output::{Column, field};
use super::{CliError, Context};

const OF_PROJECTS: &str = "/api/project-permissions/";
const OF_ALL: &str = "/api/customer-permissions/";

/// Say what a user may do in a project
#[derive(Subcommand)]
pub enum Role {
    /// Give a user a role
    Add {
        /// Name of the user
        user: String,
        /// What the user may do
        role: Name,
        /// May be left out when there is only one; an owner owns all
        #[arg(long, short)]
        project: Option<String>,
    },
    /// List roles
    List,
    /// Take a role from a user
    Remove {
        /// Name of the user
        user: String,
        /// The role to take away
        role: Name,
        /// May be left out when there is only one; an owner owns all
        #[arg(long, short)]
        project: Option<String>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Sees and changes everything in the project
    Admin,
    /// The same; the API calls it manager
    Member,
    /// Sees everything in the project
    Reader,
    /// Admin of all projects
    Owner,
}

impl Name {
    /// As the API spells it.
    fn in_api(self) -> &'static str {
        match self {
            Name::Admin => "admin",
            Name::Member => "manager",
            Name::Reader => "reader",
            Name::Owner => "owner",
        }
    }
}

const COLUMNS: &[Column] = &[
    ("USER", |r| field(r, "user_username")),
    ("ROLE", |r| field(r, "role").replace("manager", "member")),
    ("PROJECT", |r| if r["role"] == "owner" { "(all)".to_owned() } else { field(r, "project_name") }),
    ("UUID", |r| field(r, "uuid")),
];

pub fn run(args: &Role, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Role::Add { user, role, project: of } => {
            let user = USER.find(&client, user)?;
            let mut body = json!({"user": USER.path(&user), "role": role.in_api()});
            let target = match role {
                Name::Owner => OF_ALL,
                _ => {
                    body["project"] = json!(PROJECT.path(&project(&client, of.as_deref())?));
                    OF_PROJECTS
                }
            };
            context.show(&client.post(target, body)?, |r| format!("{} is {} now\n", field(&user, "username"), field(r, "role").replace("manager", "member")))
        }
        Role::List => context.show_list(all(&client)?, COLUMNS),
        Role::Remove { user, role, project: of } => {
            let path = find(&client, user, *role, of.as_deref())?;
            let answer = client.call("DELETE", &path, None)?;
            context.show(&answer, |_| "removed\n".to_owned())
        }
    }
}

fn all(client: &Client) -> Result<Vec<Value>, CliError> {
    let mut roles = client.list(OF_PROJECTS)?;
    roles.extend(client.list(OF_ALL)?);
    Ok(roles)
}

/// The path of the one role that is meant.
fn find(client: &Client, user: &str, role: Name, of: Option<&str>) -> Result<String, CliError> {
    let user = USER.find(client, user)?;
    let (target, of) = match role {
        Name::Owner => (OF_ALL, None),
        _ => (OF_PROJECTS, Some(project(client, of)?)),
    };
    let meant = |r: &Value| {
        let in_project = of.as_ref().is_none_or(|p| r["project_uuid"] == p["uuid"]);
        r["role"] == role.in_api() && r["user_uuid"] == user["uuid"] && in_project
    };
    match client.list(target)?.iter().find(|r| meant(r)) {
        Some(role) => Ok(format!("{target}{}/", field(role, "uuid"))),
        None => Err(CliError::failed(format!("{} does not have that role", field(&user, "username")))),
    }
}
