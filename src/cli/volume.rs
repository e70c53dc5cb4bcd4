//! `cofferd volume`: the disk images and block devices that belong to instances.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::find::{VOLUME, project};
use super::output::{Column, byte_field, field};
use super::{CliError, Context};

/// Register disk images and block devices
#[derive(Subcommand)]
pub enum Volume {
    /// Register a raw disk image or a block device; its size is found
    Add {
        /// The image or device; it must lie below one of volumes.roots of the configuration
        path: PathBuf,
        /// What to call the volume
        #[arg(long, short)]
        name: Option<String>,
        /// Its project; may be left out when there is only one
        #[arg(long, short)]
        project: Option<String>,
    },
    /// List volumes
    List,
    /// Forget a volume that belongs to no instance
    ///
    /// A file or device that you registered is left alone. A file that cofferd made, for a restore or for an OpenStack client, is deleted with its volume.
    Remove {
        /// Name or path of the volume
        volume: String,
    },
}

const COLUMNS: &[Column] = &[
    ("UUID", |v| field(v, "uuid")),
    ("NAME", |v| field(v, "name")),
    ("SIZE", |v| byte_field(v, "size")),
    ("STATE", |v| field(v, "state")),
    ("KIND", |v| field(v, "kind")),
    ("INSTANCE", |v| field(v, "instance_name")),
    ("PATH", |v| field(v, "path")),
];

pub fn run(args: &Volume, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Volume::Add { path, name, project: of } => {
            let path = std::path::absolute(path).map_err(|e| CliError::failed(format!("{}: {e}", path.display())))?;
            let mut body = json!({"path": path, "project": project(&client, of.as_deref())?["uuid"]});
            if let Some(name) = name {
                body["name"] = json!(name);
            }
            context.show(&client.post(VOLUME.collection, body)?, |v| {
                format!("volume {}: {} ({})\n", field(v, "uuid"), field(v, "path"), byte_field(v, "size"))
            })
        }
        Volume::List => context.show_list(client.list(VOLUME.collection)?, COLUMNS),
        Volume::Remove { volume } => {
            let volume = VOLUME.find(&client, volume)?;
            let answer = client.call("DELETE", &VOLUME.path(&volume), None)?;
            let fate = if volume["managed"] == true { "is deleted" } else { "is left alone" };
            context.show(&answer, |_| format!("removed volume {}; {} {fate}\n", field(&volume, "uuid"), field(&volume, "path")))
        }
    }
}
