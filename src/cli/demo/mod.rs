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
use crate::http::Listener;

/// The usual port; another is taken when it is not free.
const PORT: u16 = 8776;
const STATS: &str = "/ops/stats/";
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
    let signals = daemon::signals().map_err(|e| CliError::failed(e.to_string()))?;
    let place = Place::make(args.dir.as_deref())?;
    let listener = listener().map_err(|e| CliError::failed(format!("127.0.0.1: {e}")))?;
    let config = place.config(&listener)?;
    let daemon = Daemon::start(config, vec![Listener::Tcp(listener)]).map_err(|e| CliError::failed(e.to_string()))?;
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
    fn config(&self, listener: &TcpListener) -> Result<Config, CliError> {
        // JSON's strings are TOML's too.
        let text = format!(
            "state_directory = {}\n[http]\nlisten = [\"127.0.0.1:{}\"]\n[volumes]\nroots = [{}]\n",
            json!(self.directory.join("state")),
            listener.local_addr().map_or(PORT, |address| address.port()),
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

fn listener() -> std::io::Result<TcpListener> {
    // Port 0: any free one.
    TcpListener::bind(("127.0.0.1", PORT)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
}

/// What the backups and restores are made of.
struct Objects {
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
    Ok(tour(address, token, place, &objects, [&first, &second]))
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
    Ok(Objects { flavor, image, instance })
}

fn back_up(client: &Client, context: &Context, objects: &Objects, disk: &Path, name: &str) -> Result<Version, CliError> {
    let unreadable = |e: std::io::Error| CliError::failed(format!("{}: {e}", disk.display()));
    // In this order: opening a file system may write to it, and what counts is the disk as it is backed up.
    let line = disk::first_line(disk, disk::NOTE).map_err(unreadable)?;
    let hash = disk::hash(disk).map_err(unreadable)?;
    let before = client.get(STATS)?;
    let start = Instant::now();
    let backup = client.post(BACKUP.collection, json!({"instance": objects.instance["url"], "description": name}))?;
    let bar = Bar::new(context, "backing up");
    let backup = progress::wait(client, &bar, &BACKUP.path(&backup), |b| b["state"] == "Backing up")?;
    drop(bar);
    if backup["state"] != "Ready" {
        return Err(CliError::failed(format!("the backup is {}: {}", field(&backup, "state"), field(&backup, "error_message"))));
    }
    let took = start.elapsed().as_secs_f64();
    let after = client.get(STATS)?;
    let more = |counter: &str| after[counter].as_f64().unwrap_or(0.0) - before[counter].as_f64().unwrap_or(0.0);
    let (read, new, stored) = (bytes(disk::SIZE as f64), more("chunks"), bytes(more("stored_bytes")));
    say("backup", &format!("{name}: {read} read, {new} chunks of it new, {stored} stored, {took:.2} s"))?;
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
    let stats = client.get(STATS)?;
    let (backups, read) = (field(&stats, "backups"), byte_field(&stats, "logical_bytes"));
    say("stored", &format!("{} for {backups} backups of {read} together", byte_field(&stats, "stored_bytes")))
}

fn say(what: &str, text: &str) -> Result<(), CliError> {
    print(&format!("{what:<9} {text}\n"))
}

/// Lines to paste into a shell, one by one or all together.
fn tour(address: SocketAddr, token: &str, place: &Place, objects: &Objects, backups: [&Version; 2]) -> String {
    let program = std::env::current_exe().map_or("cofferd".to_owned(), |path| path.display().to_string());
    let [first, second] = backups.map(|version| BACKUP.path(&version.backup));
    format!(
        r#"
The daemon stays up at http://{address} until Ctrl-C. In another shell:

URL=http://{address} TOKEN={token}
API() {{ curl -sS -H "Authorization: Token $TOKEN" "$@"; echo; }}
INSTANCE={instance} IMAGE={image} FLAVOR={flavor}

# list the backups; make one
API $URL/api/openstack-backups/
API -d instance=$INSTANCE -d description=mine $URL/api/openstack-backups/

# every five minutes, keep three
API -d instance=$INSTANCE -d 'schedule=*/5 * * * *' -d retention_time=1 -d maximal_number_of_backups=3 \
    -d is_active=true $URL/api/openstack-backup-schedules/

# restore to a new instance; delete; see what happened
API -d image=$IMAGE -d flavor=$FLAVOR -d name=web2 $URL{second}restore/
API -X POST $URL{first}delete/
API $URL/api/events/?page_size=5

# the same with the command line
{program} --config {config} list
"#,
        instance = INSTANCE.path(&objects.instance),
        image = IMAGE.path(&objects.image),
        flavor = FLAVOR.path(&objects.flavor),
        config = place.config_file().display()
    )
}
