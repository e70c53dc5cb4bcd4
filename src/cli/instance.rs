//! `cofferd instance`: the machines that are backed up.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::find::{FLAVOR, IMAGE, INSTANCE, VOLUME, project};
use super::output::{Column, details, field, mib, time};
use super::{CliError, Context};

/// Register the machines that are backed up
#[derive(Subcommand)]
pub enum Instance {
    /// Register a machine with its volumes
    Add {
        /// What to call the machine, as in `cofferd backup NAME`
        name: String,
        /// A disk image, a block device, or a volume added before; `,boot` marks the one it boots from (else the first)
        #[arg(long, short, value_name = "PATH[,boot]", required = true)]
        volume: Vec<String>,
        /// Its project; may be left out when there is only one
        #[arg(long, short)]
        project: Option<String>,
        /// Flavor (size) of the machine
        #[arg(long)]
        flavor: Option<String>,
        /// Image (profile) of the machine
        #[arg(long)]
        image: Option<String>,
        /// A note kept with the instance
        #[arg(long, short, default_value = "", hide_default_value = true)]
        description: String,
        /// Add it even if the project has an instance of that name
        #[arg(long)]
        force: bool,
    },
    /// List instances
    List,
    /// Show an instance with its volumes
    Show {
        /// Name of the instance
        instance: String,
    },
    /// Forget an instance that is off and has no backups
    ///
    /// Disks that you registered are left alone, and volumes that were made on their own are only detached. Files that a restore made for the instance are deleted with it.
    Remove {
        /// Name of the instance
        instance: String,
    },
    /// Record that the machine runs
    Start {
        /// Name of the instance
        instance: String,
    },
    /// Record that the machine is off
    Stop {
        /// Name of the instance
        instance: String,
    },
}

const COLUMNS: &[Column] = &[
    ("UUID", |i| field(i, "uuid")),
    ("NAME", |i| field(i, "name")),
    ("PROJECT", |i| field(i, "project_name")),
    ("STATE", |i| field(i, "state")),
    ("CORES", |i| field(i, "cores")),
    ("RAM", |i| mib(i, "ram")),
    ("DISK", |i| mib(i, "disk")),
    ("VOLUMES", |i| i["volumes"].as_array().map_or(0, Vec::len).to_string()),
    ("CREATED (UTC)", |i| time(i, "created")),
];

pub fn run(args: &Instance, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Instance::Add { name, volume, project: of, flavor, image, description, force } => {
            let project = project(&client, of.as_deref())?;
            if !force {
                refuse_second(&client.list(INSTANCE.collection)?, name, &project)?;
            }
            let mut body = json!({
                "name": name,
                "description": description,
                "project": project["url"],
                "volumes": volumes(&client, volume)?,
            });
            for (key, kind, text) in [("flavor", FLAVOR, flavor), ("image", IMAGE, image)] {
                if let Some(text) = text {
                    body[key] = json!(kind.path(&kind.find(&client, text)?));
                }
            }
            context.show(&client.post(INSTANCE.collection, body)?, |i| {
                format!("instance {} ({}), {} to back up\n", field(i, "name"), field(i, "uuid"), mib(i, "disk"))
            })
        }
        Instance::List => context.show_list(client.list(INSTANCE.collection)?, COLUMNS),
        Instance::Show { instance } => context.show(&INSTANCE.find(&client, instance)?, details),
        Instance::Remove { instance } => {
            let instance = INSTANCE.find(&client, instance)?;
            let answer = client.call("DELETE", &INSTANCE.path(&instance), None)?;
            context.show(&answer, |_| format!("removed instance {}\n", field(&instance, "name")))
        }
        Instance::Start { instance } => act(&client, context, instance, "start"),
        Instance::Stop { instance } => act(&client, context, instance, "stop"),
    }
}

fn act(client: &Client, context: &Context, instance: &str, action: &str) -> Result<(), CliError> {
    let path = INSTANCE.path(&INSTANCE.find(client, instance)?);
    context.show(&client.post(&format!("{path}{action}/"), json!({}))?, |answer| format!("{}\n", field(answer, "status")))
}

/// Scripts name instances: two of one name in a project would make each of their commands ambiguous.
fn refuse_second(instances: &[Value], name: &str, project: &Value) -> Result<(), CliError> {
    match instances.iter().find(|i| i["name"] == name && i["project_uuid"] == project["uuid"]) {
        None => Ok(()),
        Some(first) => Err(CliError::failed(format!(
            "project {} has an instance {name} already ({}); choose another name, or add it with --force and use uuids from then on",
            field(project, "name"),
            field(first, "uuid")
        ))),
    }
}

/// Without a slash a volume's name is meant; who has such a file here probably meant that.
fn hint_at_file(error: CliError, registered: &[Value], text: &str) -> CliError {
    match error {
        CliError::Failed(message) if Path::new(text).exists() && registered.iter().all(|v| v["name"] != text) => {
            CliError::Failed(format!("{message}; for the file in this directory give ./{text}"))
        }
        other => other,
    }
}

/// The API's `volumes` for `--volume` arguments: exactly one boots, the first unless another is marked.
fn volumes(client: &Client, texts: &[String]) -> Result<Vec<Value>, CliError> {
    let marked: Vec<(&str, bool)> =
        texts.iter().map(|text| text.strip_suffix(",boot").map_or((text.as_str(), false), |path| (path, true))).collect();
    let none = marked.iter().all(|(_, boot)| !boot);
    let registered = client.list(VOLUME.collection)?;
    let mut entries = Vec::new();
    for (index, (text, boot)) in marked.into_iter().enumerate() {
        let mut entry = match text.contains('/') {
            true => by_path(&registered, text)?,
            false => json!({"volume": VOLUME.find(client, text).map_err(|e| hint_at_file(e, &registered, text))?["uuid"]}),
        };
        entry["bootable"] = json!(boot || (none && index == 0));
        entries.push(entry);
    }
    Ok(entries)
}

/// A path registered before stands for its volume; any other is registered now.
fn by_path(registered: &[Value], text: &str) -> Result<Value, CliError> {
    let path = std::path::absolute(Path::new(text)).map_err(|e| CliError::failed(format!("{text}: {e}")))?;
    match registered.iter().find(|v| v["path"].as_str().map(Path::new) == Some(&path)) {
        Some(volume) => Ok(json!({"volume": volume["uuid"]})),
        None => Ok(json!({"path": path})),
    }
}
