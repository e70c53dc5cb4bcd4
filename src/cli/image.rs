//! `cofferd image`: the profiles a restored instance can have.

use clap::Subcommand;
use serde_json::json;

use super::find::IMAGE;
use super::output::{Column, field, mib, parse_mib};
use super::{CliError, Context};

/// Define the profiles of restored instances
#[derive(Subcommand)]
pub enum Image {
    /// Add an image; it is a record only, no data belongs to it
    Add {
        /// What to call the image
        name: String,
        /// Least disk in MiB, or with a unit as in 20G
        #[arg(long, default_value = "0", value_parser = parse_mib)]
        min_disk: u64,
        /// Least memory in MiB, or with a unit as in 4G
        #[arg(long, default_value = "0", value_parser = parse_mib)]
        min_ram: u64,
    },
    /// List images
    List,
}

const COLUMNS: &[Column] = &[
    ("UUID", |i| field(i, "uuid")),
    ("NAME", |i| field(i, "name")),
    ("MIN DISK", |i| mib(i, "min_disk")),
    ("MIN RAM", |i| mib(i, "min_ram")),
];

pub fn run(args: &Image, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Image::Add { name, min_disk, min_ram } => {
            let body = json!({"name": name, "min_disk": min_disk, "min_ram": min_ram});
            context.show(&client.post(IMAGE.collection, body)?, |i| format!("image {} ({})\n", field(i, "name"), field(i, "uuid")))
        }
        Image::List => context.show_list(client.list(IMAGE.collection)?, COLUMNS),
    }
}
