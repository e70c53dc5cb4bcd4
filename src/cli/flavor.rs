//! `cofferd flavor`: the sizes a restored instance can have.

use clap::Subcommand;
use serde_json::json;

use super::find::FLAVOR;
use super::output::{Column, field, mib, parse_mib};
use super::{CliError, Context};

/// Define the sizes of restored instances
#[derive(Subcommand)]
pub enum Flavor {
    /// Add a flavor
    Add {
        /// What to call the flavor
        name: String,
        /// Number of processors
        #[arg(long, default_value_t = 1)]
        cores: u32,
        /// Memory in MiB, or with a unit as in 4G
        #[arg(long, default_value = "1G", value_parser = parse_mib)]
        ram: u64,
        /// Disk in MiB, or with a unit as in 20G
        #[arg(long, default_value = "10G", value_parser = parse_mib)]
        disk: u64,
    },
    /// List flavors
    List,
}

const COLUMNS: &[Column] = &[
    ("UUID", |f| field(f, "uuid")),
    ("NAME", |f| field(f, "name")),
    ("CORES", |f| field(f, "cores")),
    ("RAM", |f| mib(f, "ram")),
    ("DISK", |f| mib(f, "disk")),
];

pub fn run(args: &Flavor, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Flavor::Add { name, cores, ram, disk } => {
            let body = json!({"name": name, "cores": cores, "ram": ram, "disk": disk});
            context.show(&client.post(FLAVOR.collection, body)?, |f| format!("flavor {} ({})\n", field(f, "name"), field(f, "uuid")))
        }
        Flavor::List => context.show_list(client.list(FLAVOR.collection)?, COLUMNS),
    }
}
