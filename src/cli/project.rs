//! `cofferd project`: what instances, roles and quotas belong to.

use clap::Subcommand;
use serde_json::json;

use super::find::PROJECT;
use super::output::{Column, field, time};
use super::{CliError, Context};

/// Group instances, roles and quotas
#[derive(Subcommand)]
pub enum Project {
    /// Add a project
    Add {
        /// What to call the project
        name: String,
        /// A note kept with the project
        #[arg(long, short, default_value = "", hide_default_value = true)]
        description: String,
    },
    /// List projects
    List,
}

const COLUMNS: &[Column] = &[
    ("UUID", |p| field(p, "uuid")),
    ("NAME", |p| field(p, "name")),
    ("CREATED (UTC)", |p| time(p, "created")),
    ("DESCRIPTION", |p| field(p, "description")),
];

pub fn run(args: &Project, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Project::Add { name, description } => {
            let body = json!({"name": name, "description": description});
            context.show(&client.post(PROJECT.collection, body)?, |p| format!("project {} ({})\n", field(p, "name"), field(p, "uuid")))
        }
        Project::List => context.show_list(client.list(PROJECT.collection)?, COLUMNS),
    }
}
