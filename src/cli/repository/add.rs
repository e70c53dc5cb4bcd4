//! `cofferd repository add`: one more table in the configuration, after it was tried out.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde_json::{Map, Value, json};

use super::STEPS;
use crate::cli::output::table;
use crate::cli::{CliError, Context};
use crate::config::Config;
use crate::objects::{self, Settings, Step};

/// Try out a place for backups and write it into the configuration
///
/// Nothing is written if it does not work. The daemon takes it over with `systemctl reload cofferd`. Everything else that a repository can
/// have is described in the configuration file.
#[derive(Args)]
#[command(group = ArgGroup::new("place").required(true))]
pub struct Add {
    /// What it is to be called, in the configuration and in `container`
    name: String,
    /// OpenStack Swift: where to log in, such as https://keystone.example.org:5000/v3
    #[arg(long, value_name = "AUTH_URL", group = "place", requires = "container")]
    swift: Option<String>,
    /// S3: the server, such as https://s3.example.org
    #[arg(long, value_name = "ENDPOINT", group = "place", requires = "bucket")]
    s3: Option<String>,
    /// A directory on another disk or a network file system
    #[arg(long, value_name = "PATH", group = "place")]
    directory: Option<PathBuf>,
    /// Swift: the container, which must exist
    #[arg(long)]
    container: Option<String>,
    /// S3: the bucket, which must exist
    #[arg(long)]
    bucket: Option<String>,
    /// Before the name of every object, so that several hosts can share a container, bucket or directory
    #[arg(long)]
    prefix: Option<String>,
    /// The file with the secrets, of mode 0600; a name without a slash is a credential of the unit
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// S3 signs for it; Swift's catalog is searched for it
    #[arg(long)]
    region: Option<String>,
    /// Swift: 3 for Keystone, which is the default, or 1 for Swift's own login
    #[arg(long, value_name = "VERSION")]
    auth_version: Option<u64>,
    /// Swift: the user
    #[arg(long)]
    user: Option<String>,
    /// Swift: the project
    #[arg(long)]
    project: Option<String>,
    /// Authorities to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Backups go there that name no other place
    #[arg(long)]
    default: bool,
    /// Copy backups there: `all`, `scheduled`, or the places whose backups are meant, such as `coffer`
    #[arg(long, value_name = "WHICH", value_delimiter = ',')]
    copies: Vec<String>,
    /// Write it down untried: the network or the credentials are for the daemon alone
    #[arg(long)]
    no_test: bool,
}

pub fn run(args: &Add, context: &Context) -> Result<(), CliError> {
    let config = context.config()?;
    let name = &args.name;
    if config.repositories.contains_key(name) {
        return Err(CliError::failed(format!("the configuration has a repository {name} already; nothing was changed")));
    }
    let keys = args.keys();
    let settings: Settings = serde_json::from_value(Value::Object(keys.clone())).map_err(|e| CliError::failed(e.to_string()))?;
    settings.check().map_err(|wrong| CliError::failed(wrong.to_string()))?;
    let steps = if args.no_test { Vec::new() } else { try_out(&settings)? };
    let file = Config::append(context.config_file.as_deref(), &to_toml(name, &keys)).map_err(|e| CliError::failed(e.to_string()))?;
    let steps: Vec<Value> = steps.iter().map(Step::to_json).collect();
    let added = json!({"name": name, "place": settings.place_name(), "file": file, "steps": steps});
    context.show(&added, |_| {
        let tried = if args.no_test { String::new() } else { format!("{}{name} works: {}\n", table(STEPS, &steps), settings.place_name()) };
        format!("{tried}added to {}; next: systemctl reload cofferd\n", file.display())
    })
}

impl Add {
    /// What the table is to have, in the order of the documentation.
    fn keys(&self) -> Map<String, Value> {
        let kind = if self.swift.is_some() { "swift" } else if self.s3.is_some() { "s3" } else { "directory" };
        let keys = json!({
            "kind": kind, "endpoint": self.s3, "bucket": self.bucket, "auth_url": self.swift, "container": self.container,
            "auth_version": self.auth_version, "user": self.user, "project": self.project, "region": self.region,
            "directory": self.directory, "prefix": self.prefix, "credentials": self.credentials, "ca_file": self.ca_file,
            "default": self.default.then_some(true), "copies": self.copies(),
        });
        let keys = if let Value::Object(keys) = keys { keys } else { Map::new() };
        keys.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }
}

impl Add {
    fn copies(&self) -> Option<Value> {
        match &self.copies[..] {
            [] => None,
            [which] if which == "all" || which == "scheduled" => Some(json!(which)),
            places => Some(json!(places)),
        }
    }
}

fn try_out(settings: &Settings) -> Result<Vec<Step>, CliError> {
    let failed = |error: String| CliError::failed(format!("{error}; nothing was changed"));
    let objects = objects::open(&settings.impatient()).map_err(|error| failed(error.to_string()))?;
    objects::try_out(&*objects).map_err(|error| failed(error.to_string()))
}

/// Numbers, booleans and strings look the same in JSON and in TOML.
fn to_toml(name: &str, keys: &Map<String, Value>) -> String {
    // What may stand bare (toml.io, Keys).
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let name = if bare { name.to_owned() } else { Value::from(name).to_string() };
    keys.iter().fold(format!("[repositories.{name}]\n"), |text, (key, value)| text + &format!("{key} = {value}\n"))
}
