//! `cofferd demo`: the whole job on a made-up disk, over HTTP like any client, with proof.
//!
//! A daemon of its own, a disk image with a file system and files, two backups with changes between them, and a restore of
//! each to a new instance that must be identical, byte for byte, to the disk as it was.

mod disk;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::find::{BACKUP, FLAVOR, IMAGE, INSTANCE, PROJECT, VOLUME};
use super::output::{byte_field, bytes, field};
use super::progress::{self, Bar};
use super::{CliError, Context, print};
use crate::config::Config;
use crate::daemon::{self, Daemon};

/// The usual port; another is taken when it is not free.
const PORT: u16 = 8776;
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Back up and restore a made-up disk, prove it, and stay up to be tried
#[derive(Args)]
pub struct Demo {
    /// End after the proof
    #[arg(long)]
    once: bool,
    /// Work here, in an empty or new directory that is kept; else in a temporary one that is removed
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub fn run(args: &Demo, context: &Context) -> Result<(), CliError> {
    crate::logging::start(log::LevelFilter::Warn);
    let signals = daemon::signals().map_err(|e| CliError::failed(e.to_string()))?;
    let place = Place::make(args.dir.as_deref())?;
    let config = place.config()?;
    let daemon = Daemon::start(config).map_err(|e| CliError::failed(e.to_string()))?;
    let outcome = prove(&daemon, &place, context).and_then(|tour| {
        if !args.once {
            print(&tour)?;
            // A closed channel means that signals no longer come: nothing to wait for either.
            let _ = signals.recv();
        }
        Ok(())
    });
    daemon.stop(STOP_LIMIT);
    outcome
}

/// Where the demo lives.
struct Place {
    directory: PathBuf,
    temporary: bool,
}

impl Place {
    fn make(wanted: Option<&Path>) -> Result<Place, CliError> {
        let directory = match wanted {
            Some(path) => path.to_path_buf(),
            None => std::env::temp_dir().join(format!("cofferd-demo-{}", std::process::id())),
        };
        let directory = std::path::absolute(&directory).unwrap_or(directory);
        let failed = |e: std::io::Error| CliError::failed(format!("{}: {e}", directory.display()));
        fs::create_dir_all(&directory).map_err(failed)?;
        if fs::read_dir(&directory).map_err(failed)?.next().is_some() {
            return Err(CliError::failed(format!("{} is not empty; choose another with --dir", directory.display())));
        }
        // Registered paths are without symbolic links.
        let directory = fs::canonicalize(&directory).map_err(failed)?;
        Ok(Place { directory, temporary: wanted.is_none() })
    }

    fn disk(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    fn config_file(&self) -> PathBuf {
        self.directory.join("cofferd.toml")
    }

    /// Writes the configuration as a user would, so that the other commands can be tried with it.
    fn config(&self) -> Result<Config, CliError> {
        // JSON's strings are TOML's too.
        let text = format!(
            "state_directory = {}\n[http]\nlisten = [\"127.0.0.1:{}\"]\n[volumes]\nroots = [{}]\n",
            json!(self.directory.join("state")),
            free_port(),
            json!(self.directory)
        );
        let file = self.config_file();
        fs::write(&file, text).map_err(|e| CliError::failed(format!("{}: {e}", file.display())))?;
        Config::load(Some(&file)).map_err(|e| CliError::failed(e.to_string()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is in the directory for such things.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// 0 lets the kernel choose.
fn free_port() -> u16 {
    if TcpListener::bind(("127.0.0.1", PORT)).is_ok() { PORT } else { 0 }
}

/// What the backups and restores are made of.
struct Objects {
    project: Value,
    flavor: Value,
    image: Value,
    instance: Value,
}

/// The disk at the moment of a backup.
struct Version {
    backup: Value,
    hash: blake3::Hash,
    line: String,
}

/// Does everything, says what it does, and returns the lines to try.
fn prove(daemon: &Daemon, place: &Place, context: &Context) -> Result<String, CliError> {
    let (Some(address), Some(token)) = (daemon.addresses().first().copied(), daemon.app().first_token()) else {
        return Err(CliError::failed("the demo needs a coffer of its own; choose another directory with --dir"));
    };
    let client = Client::over_tcp(address, token);
    let disk = place.disk();
    let (files, size) = disk::make(&disk).map_err(|e| CliError::failed(format!("{}: {e}", disk.display())))?;
    say("disk", &format!("{}: FAT file system with {files} files, {}", disk.display(), bytes(size as f64)))?;
    say("daemon", &format!("http://{address}, everything in one file under {}", place.directory.join("state").display()))?;
    let objects = register(&client, &disk)?;
    say("instance", &format!("{} of {}", field(&objects.instance, "name"), bytes(disk::SIZE as f64)))?;

    let first = back_up(&client, context, &objects, &disk, "first")?;
    disk::change(&disk).map_err(|e| CliError::failed(format!("{}: {e}", disk.display())))?;
    say("change", "one file edited, one grown, one added, one deleted")?;
    let second = back_up(&client, context, &objects, &disk, "second")?;
    for (version, name) in [(&first, "web1-as-first"), (&second, "web1-as-second")] {
        restore(&client, context, &objects, version, name)?;
    }
    say("proof", &format!("both restored disks are identical to the originals, byte for byte ({} each)", bytes(disk::SIZE as f64)))?;
    sum_up(&client)?;
    Ok(tour(address, token, place, &objects, &second.backup))
}

fn register(client: &Client, disk: &Path) -> Result<Objects, CliError> {
    let project = client.post(PROJECT.collection, json!({"name": "demo"}))?;
    let flavor = client.post(FLAVOR.collection, json!({"name": "small", "cores": 1, "ram": 1024, "disk": 64}))?;
    let image = client.post(IMAGE.collection, json!({"name": "linux"}))?;
    let body = json!({
        "name": "web1",
        "project": project["url"],
        "flavor": flavor["url"],
        "image": image["url"],
        "volumes": [{"path": disk, "bootable": true}],
    });
    let instance = client.post(INSTANCE.collection, body)?;
    Ok(Objects { project, flavor, image, instance })
}

fn back_up(client: &Client, context: &Context, objects: &Objects, disk: &Path, name: &str) -> Result<Version, CliError> {
    let unreadable = |e: std::io::Error| CliError::failed(format!("{}: {e}", disk.display()));
    // In this order: opening a file system may write to it, and what counts is the disk as it is backed up.
    let line = disk::first_line(disk, disk::NOTE).map_err(unreadable)?;
    let hash = disk::hash(disk).map_err(unreadable)?;
    let start = Instant::now();
    let backup = client.post(BACKUP.collection, json!({"instance": objects.instance["url"], "description": name}))?;
    let bar = Bar::new(context, "backing up");
    let backup = progress::wait(client, &bar, &BACKUP.path(&backup), |b| b["state"] == "Backing up")?;
    drop(bar);
    if backup["state"] != "Ready" {
        return Err(CliError::failed(format!("the backup is {}: {}", field(&backup, "state"), field(&backup, "error_message"))));
    }
    let stored = byte_field(&backup, "stored_size");
    say("backup", &format!("{name}: {} read, {stored} stored, {:.2} s", bytes(disk::SIZE as f64), start.elapsed().as_secs_f64()))?;
    Ok(Version { backup, hash, line })
}

fn restore(client: &Client, context: &Context, objects: &Objects, version: &Version, name: &str) -> Result<(), CliError> {
    let start = Instant::now();
    let path = BACKUP.path(&version.backup);
    let body = json!({"image": objects.image["url"], "flavor": objects.flavor["url"], "name": name});
    let answer = client.post(&format!("{path}restore/"), body)?;
    let bar = Bar::new(context, "restoring");
    progress::wait(client, &bar, &path, |b| b["state"] == "Restoring")?;
    drop(bar);
    let instance = client.get(&format!("{}{}/", INSTANCE.collection, field(&answer, "instance_uuid")))?;
    if instance["state"] == "Erred" {
        return Err(CliError::failed(format!("the restore failed: {}", field(&instance, "error_message"))));
    }
    let volume = client.get(&format!("{}{}/", VOLUME.collection, field(&instance["volumes"][0], "uuid")))?;
    let restored = PathBuf::from(field(&volume, "path"));
    let took = start.elapsed();
    let unreadable = |e: std::io::Error| CliError::failed(format!("{}: {e}", restored.display()));
    if disk::hash(&restored).map_err(unreadable)? != version.hash {
        return Err(CliError::failed(format!("MISMATCH: {} is not the disk that was backed up", restored.display())));
    }
    let line = disk::first_line(&restored, disk::NOTE).map_err(unreadable)?;
    if line != version.line {
        return Err(CliError::failed(format!("MISMATCH: {} reads {line:?} instead of {:?}", disk::NOTE, version.line)));
    }
    let described = field(&version.backup, "description");
    say("restore", &format!("{described} to {name}: identical, {:.2} s; its {} reads \"{line}\"", took.as_secs_f64(), disk::NOTE))
}

fn sum_up(client: &Client) -> Result<(), CliError> {
    let mut stored = 0.0;
    let backups = client.list(BACKUP.collection)?;
    for backup in &backups {
        stored += backup["stored_size"].as_f64().unwrap_or(0.0);
    }
    let read = disk::SIZE as f64 * backups.len() as f64;
    say("stored", &format!("{} for {} backups of {} together", bytes(stored), backups.len(), bytes(read)))
}

fn say(what: &str, text: &str) -> Result<(), CliError> {
    print(&format!("{what:<9} {text}\n"))
}

/// Lines to paste into a shell.
fn tour(address: SocketAddr, token: &str, place: &Place, objects: &Objects, backup: &Value) -> String {
    let program = std::env::current_exe().map_or("cofferd".to_owned(), |path| path.display().to_string());
    let (instance, image, flavor) = (field(&objects.instance, "url"), field(&objects.image, "url"), field(&objects.flavor, "url"));
    let (backup, project) = (field(backup, "url"), field(&objects.project, "url"));
    format!(
        r#"
The daemon stays up at http://{address} until Ctrl-C. In another shell:

TOKEN={token}
API() {{ curl -sS -H "Authorization: Token $TOKEN" "$@"; echo; }}

# list the backups; make one; look at the project with its quotas
API http://{address}/api/openstack-backups/
API -d instance={instance} -d description=mine http://{address}/api/openstack-backups/
API {project}

# every five minutes, keep three
API -d instance={instance} -d 'schedule=*/5 * * * *' -d retention_time=1 -d maximal_number_of_backups=3 -d is_active=true http://{address}/api/openstack-backup-schedules/

# restore to a new instance; delete
API -d image={image} -d flavor={flavor} -d name=web2 {backup}restore/
API -X POST {backup}delete/

# the same with the command line
{program} --config {config} list
"#,
        config = place.config_file().display()
    )
}
