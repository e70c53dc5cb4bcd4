//! `cofferd restore`: a backup's volume to a file or device, or the whole backup to a new instance.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::find::{self, BACKUP, FLAVOR, IMAGE, INSTANCE};
use super::output::field;
use super::progress::{self, Bar};
use super::{CliError, Context};

/// Restore a backup to a file or device, or to a new instance
///
/// With --to, one volume of the backup is written to PATH. With --new-instance, a new instance with new volumes is made in
/// the restore directory; the old one is left alone.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub struct Restore {
    /// Uuid (or its beginning) or description (of a volume's, name) of the backup
    backup: String,
    /// File or block device to write to
    #[arg(long, value_name = "PATH", group = "target")]
    to: Option<PathBuf>,
    /// Which volume of the backup, counted from 0; needed when there are several
    #[arg(long, value_name = "N", requires = "to")]
    volume: Option<u64>,
    /// Make PATH; it must not exist (this is the default)
    #[arg(long, requires = "to", conflicts_with = "overwrite")]
    create: bool,
    /// Write over what PATH holds; it must be large enough
    #[arg(long, requires = "to")]
    overwrite: bool,
    /// Name of the instance to make
    #[arg(long, value_name = "NAME", group = "target", requires_all = ["image", "flavor"])]
    new_instance: Option<String>,
    /// Image (profile) of the new instance
    #[arg(long, requires = "new_instance")]
    image: Option<String>,
    /// Flavor (size) of the new instance
    #[arg(long, requires = "new_instance")]
    flavor: Option<String>,
}

pub fn run(args: &Restore, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let (kind, backup) = find::backup(&client, &args.backup)?;
    match (&args.to, &args.new_instance, &args.image, &args.flavor) {
        (Some(path), ..) => to_path(&client, context, args, &backup, path),
        (None, ..) if kind.collection != BACKUP.collection => {
            Err(CliError::failed("this is a backup of a volume alone, and no instance can be made of it; restore it with --to PATH"))
        }
        (None, Some(name), Some(image), Some(flavor)) => {
            let image = IMAGE.path(&IMAGE.find(&client, image)?);
            let flavor = FLAVOR.path(&FLAVOR.find(&client, flavor)?);
            to_instance(&client, context, &backup, json!({"name": name, "image": image, "flavor": flavor}))
        }
        // The parser lets nothing else through.
        _ => Err(CliError::failed("say where to: --to PATH, or --new-instance NAME with --image and --flavor")),
    }
}

fn to_path(client: &Client, context: &Context, args: &Restore, backup: &Value, path: &PathBuf) -> Result<(), CliError> {
    let path = std::path::absolute(path).map_err(|e| CliError::failed(format!("{}: {e}", path.display())))?;
    let mode = if args.overwrite { "overwrite" } else { "create" };
    let body = json!({"backup": field(backup, "uuid"), "position": position(args, backup)?, "path": path, "mode": mode});
    let bar = Bar::new(context, "restoring");
    let task = progress::run_task(client, &bar, "/ops/restores/", body)?;
    drop(bar);
    context.show(&task, |_| format!("restored backup {} to {}\n", field(backup, "uuid"), path.display()))
}

/// A backup of several volumes needs to be told which one: writing the wrong one over a disk cannot be undone.
fn position(args: &Restore, backup: &Value) -> Result<u64, CliError> {
    let volumes = backup["metadata"]["volumes"].as_array().map_or(1, Vec::len);
    match args.volume {
        Some(position) => Ok(position),
        None if volumes == 1 => Ok(0),
        None => Err(CliError::failed(format!(
            "the backup has {volumes} volumes; say which one with --volume (0 to {})",
            volumes.saturating_sub(1)
        ))),
    }
}

fn to_instance(client: &Client, context: &Context, backup: &Value, body: Value) -> Result<(), CliError> {
    let path = BACKUP.path(backup);
    let answer = client.post(&format!("{path}restore/"), body)?;
    let bar = Bar::new(context, "restoring");
    progress::wait(client, &bar, &path, |b| b["state"] == "Restoring")?;
    drop(bar);
    let uuid = field(&answer, "instance_uuid");
    let instance = client.get(&format!("{}{uuid}/", INSTANCE.collection))?;
    match instance["state"].as_str() {
        Some("Erred") => Err(CliError::failed(format!("instance {uuid}: {}", field(&instance, "error_message")))),
        _ => context.show(&instance, |i| {
            format!("restored backup {} to the new instance {} ({uuid})\n", field(backup, "uuid"), field(i, "name"))
        }),
    }
}
