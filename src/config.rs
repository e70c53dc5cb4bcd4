//! What the daemon and the commands run with: one TOML file, the environment, and defaults that need neither.
//!
//! A file that is wrong in any way is refused as a whole, with the file, the key and what would be right, because a
//! misspelt limit that is silently ignored is worse than a daemon that does not start.
//!
//! Which file: the one named with `--config` (or `COFFERD_CONFIG`); else `/etc/cofferd/cofferd.toml` for root and for the
//! service that systemd starts; else `$XDG_CONFIG_HOME/cofferd/cofferd.toml` (`~/.config/...`). The last two may be missing.
//! Where the state lies: `state_directory` of the file; else `$STATE_DIRECTORY` (systemd.exec(5)); else `/var/lib/cofferd`
//! for root when it exists; else `$XDG_STATE_HOME/cofferd`, `~/.local/state/cofferd`, `./cofferd-state`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::catalog::repositories::COFFER;
use crate::durable;
use crate::http::Limits;
use crate::objects::{self, Copies, is_name};

const SYSTEM_FILE: &str = "/etc/cofferd/cofferd.toml";
const SYSTEM_STATE: &str = "/var/lib/cofferd";
const DEFAULT_LISTEN: &str = "127.0.0.1:8776";
/// What OpenStack installations of one region call it.
const DEFAULT_REGION: &str = "RegionOne";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: cannot read the configuration: {error}", path = .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    /// The parser's text shows the line, the key and, for an unknown key, the known ones.
    #[error("{path}: {error}", path = .path.display())]
    Malformed { path: PathBuf, error: String },
    #[error("{path}: {key} = {found}: {expected}", path = .path.display())]
    Value { path: PathBuf, key: String, found: String, expected: String },
    #[error("{path}: cannot write the configuration: {error}", path = .path.display())]
    Unwritable { path: PathBuf, error: std::io::Error },
    #[error("there is no place for a configuration of this user: name a file with --config")]
    NoFile,
    #[error("cannot find out the current directory, so say state_directory in the configuration: {0}")]
    NoDirectory(std::io::Error),
}

/// Everything that can be configured, checked and complete.
#[derive(Clone, Debug)]
pub struct Config {
    /// Absolute.
    pub state_directory: PathBuf,
    /// Zone of schedules that name none.
    pub timezone: chrono_tz::Tz,
    /// How long running jobs may take to come to an end after SIGTERM.
    pub shutdown_deadline: Duration,
    pub http: HttpConfig,
    pub volumes: VolumesConfig,
    pub engine: EngineConfig,
    pub scrub: ScrubConfig,
    pub auth: AuthConfig,
    /// Places for objects, by name.
    pub repositories: BTreeMap<String, objects::Settings>,
}

#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// TCP addresses; the Unix socket is always there. Sockets passed by systemd replace these.
    pub listen: Vec<SocketAddr>,
    pub limits: Limits,
    /// Peers whose X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-For are believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Accept `?x-auth-token=` (it ends up in logs, so off by default).
    pub query_token: bool,
}

#[derive(Clone, Debug)]
pub struct VolumesConfig {
    /// Directories under which a volume's path must lie.
    pub roots: Vec<PathBuf>,
    /// Where restores to a new instance make their volume files.
    pub restore_directory: PathBuf,
    /// Where Cinder's new volumes are made.
    pub pool_directory: PathBuf,
    /// Keep reflink copies of image files, to read only what has changed.
    pub reflinks: bool,
}

#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Threads that share one job's work.
    pub workers: usize,
    /// Jobs that run at once.
    pub jobs: usize,
    pub maintenance_interval: Duration,
    pub expiry_interval: Duration,
    /// How long a clock that was set forward must keep to that until backups expire by it.
    pub clock_hold: Duration,
}

/// How what is stored is read again and verified, in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Stored bytes; 0: not at all.
    pub bytes_per_second: u64,
    /// What was verified less than this long ago is not read again.
    pub every: Duration,
}

impl Default for ScrubConfig {
    fn default() -> ScrubConfig {
        ScrubConfig { bytes_per_second: 16 << 20, every: Duration::from_secs(30 * 86_400) }
    }
}

#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// None: tokens are good for ever.
    pub token_lifetime: Option<Duration>,
    /// Failed logins allowed for one user and address within `login_window`.
    pub login_attempts: u32,
    pub login_window: Duration,
    /// How long a token of Keystone's dialect is good for.
    pub keystone_token_lifetime: Duration,
    /// Name of the one region in OpenStack's service catalog.
    pub region: String,
    /// Whoever is on this host is administrator of the OpenStack API without any credential.
    pub noauth: bool,
}

impl Config {
    /// Reads the file at `path`, or the default one if there is one, and fills in the defaults.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let surroundings = Surroundings::look();
        let (path, text) = match path {
            Some(path) => (path.to_path_buf(), read(path)?),
            None => match surroundings.default_file() {
                Some(path) if path.exists() => {
                    let text = read(&path)?;
                    (path, text)
                }
                _ => (PathBuf::from("the defaults"), String::new()),
            },
        };
        Config::parse(path, &text, &surroundings)
    }

    fn parse(path: PathBuf, text: &str, surroundings: &Surroundings) -> Result<Config, ConfigError> {
        let file: File = toml::from_str(text)
            .map_err(|e| ConfigError::Malformed { path: path.clone(), error: e.to_string().trim_end().to_string() })?;
        let mut config = Checker { path }.check(file, surroundings)?;
        config.make_absolute()?;
        Ok(config)
    }

    /// Writes `text` at the end of the file that [`Config::load`] reads, if that makes a whole configuration, and returns the file's path. A
    /// crash leaves the old file or the new one.
    pub fn append(path: Option<&Path>, text: &str) -> Result<PathBuf, ConfigError> {
        let surroundings = Surroundings::look();
        let path = path.map(Path::to_path_buf).or_else(|| surroundings.default_file()).ok_or(ConfigError::NoFile)?;
        // What a link leads to is changed, not the link.
        let path = path.canonicalize().unwrap_or(path);
        let old = if path.exists() { read(&path)? } else { String::new() };
        let gap = if old.is_empty() { "" } else if old.ends_with('\n') { "\n" } else { "\n\n" };
        let new = [&old, gap, text].concat();
        Config::parse(path.clone(), &new, &surroundings)?;
        durable::replace(&path, new.as_bytes(), 0o644).map_err(|error| ConfigError::Unwritable { path: path.clone(), error })?;
        Ok(path)
    }

    /// The one file of the catalog and the data.
    pub fn coffer(&self) -> PathBuf {
        self.state_directory.join("coffer.db")
    }

    /// The Unix socket through which commands reach a running daemon.
    pub fn socket(&self) -> PathBuf {
        self.state_directory.join("cofferd.sock")
    }

    /// Where the first staff token is saved, readable by the owner only.
    pub fn admin_token(&self) -> PathBuf {
        self.state_directory.join("admin.token")
    }

    /// A relative state directory must not depend on where a later command is started.
    fn make_absolute(&mut self) -> Result<(), ConfigError> {
        for path in [&mut self.state_directory, &mut self.volumes.restore_directory, &mut self.volumes.pool_directory] {
            *path = std::path::absolute(&*path).map_err(ConfigError::NoDirectory)?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_path_buf(), error })
}

/// What of the process's surroundings decides the defaults; apart, so that the rules can be tested.
#[derive(Default)]
struct Surroundings {
    root: bool,
    system_state_exists: bool,
    /// `$STATE_DIRECTORY`: a colon-separated list, of which the first is ours.
    service_state: Option<PathBuf>,
    xdg_state_home: Option<PathBuf>,
    xdg_config_home: Option<PathBuf>,
    home: Option<PathBuf>,
    cores: usize,
}

impl Surroundings {
    fn look() -> Surroundings {
        // The XDG specification: a relative path in these variables is to be ignored.
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        Surroundings {
            root: rustix::process::geteuid().is_root(),
            system_state_exists: Path::new(SYSTEM_STATE).is_dir(),
            service_state: std::env::var("STATE_DIRECTORY")
                .ok()
                .and_then(|list| list.split(':').next().map(PathBuf::from))
                .filter(|p| p.is_absolute()),
            xdg_state_home: absolute("XDG_STATE_HOME"),
            xdg_config_home: absolute("XDG_CONFIG_HOME"),
            home: absolute("HOME"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn default_file(&self) -> Option<PathBuf> {
        if self.root || self.service_state.is_some() {
            return Some(PathBuf::from(SYSTEM_FILE));
        }
        let home = self.home.as_ref().map(|home| home.join(".config"));
        self.xdg_config_home.clone().or(home).map(|dir| dir.join("cofferd/cofferd.toml"))
    }

    fn state_directory(&self) -> PathBuf {
        if let Some(path) = &self.service_state {
            return path.clone();
        }
        if self.root && self.system_state_exists {
            return PathBuf::from(SYSTEM_STATE);
        }
        let home = self.home.as_ref().map(|home| home.join(".local/state"));
        match self.xdg_state_home.clone().or(home) {
            Some(dir) => dir.join("cofferd"),
            None => PathBuf::from("cofferd-state"),
        }
    }
}

/// The file as written: every key optional, every unknown key refused.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    state_directory: Option<PathBuf>,
    timezone: Option<String>,
    shutdown_deadline_s: Option<i64>,
    http: HttpTable,
    volumes: VolumesTable,
    engine: EngineTable,
    scrub: ScrubTable,
    auth: AuthTable,
    repositories: BTreeMap<String, objects::Settings>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HttpTable {
    listen: Option<Vec<String>>,
    max_connections: Option<i64>,
    head_timeout_s: Option<i64>,
    body_timeout_s: Option<i64>,
    idle_timeout_s: Option<i64>,
    write_timeout_s: Option<i64>,
    trusted_proxies: Vec<String>,
    query_token: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct VolumesTable {
    roots: Vec<PathBuf>,
    restore_directory: Option<PathBuf>,
    pool_directory: Option<PathBuf>,
    reflinks: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EngineTable {
    workers: Option<i64>,
    jobs: Option<i64>,
    maintenance_interval_s: Option<i64>,
    expiry_interval_s: Option<i64>,
    clock_hold_s: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ScrubTable {
    bytes_per_second: Option<i64>,
    every_days: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AuthTable {
    token_lifetime_h: Option<i64>,
    login_attempts: Option<i64>,
    login_window_s: Option<i64>,
    keystone_token_lifetime_h: Option<i64>,
    region: Option<String>,
    noauth: bool,
}

/// Turns the file into a `Config`; every error names `path` and the key.
struct Checker {
    path: PathBuf,
}

impl Checker {
    fn check(&self, file: File, surroundings: &Surroundings) -> Result<Config, ConfigError> {
        let state_directory = file.state_directory.unwrap_or_else(|| surroundings.state_directory());
        if state_directory.as_os_str().is_empty() {
            return Err(self.wrong("state_directory", "\"\"", "expected a path".into()));
        }
        let http = self.http(file.http)?;
        Ok(Config {
            timezone: self.timezone(file.timezone)?,
            shutdown_deadline: self.seconds("shutdown_deadline_s", file.shutdown_deadline_s, Duration::from_secs(30))?,
            volumes: self.volumes(file.volumes, &state_directory)?,
            engine: self.engine(file.engine, surroundings.cores)?,
            scrub: self.scrub(file.scrub)?,
            auth: self.auth(file.auth, &http)?,
            repositories: self.repositories(file.repositories, &state_directory)?,
            http,
            state_directory,
        })
    }

    fn http(&self, table: HttpTable) -> Result<HttpConfig, ConfigError> {
        let listen = table.listen.unwrap_or_else(|| vec![DEFAULT_LISTEN.to_string()]);
        let expected = "expected an IP address and a port, for example \"127.0.0.1:8776\" or \"[::1]:8776\"";
        let mut limits = Limits::default();
        limits.max_connections =
            self.number("http.max_connections", table.max_connections, 1..=100_000, limits.max_connections as i64)? as usize;
        limits.head_timeout = self.seconds("http.head_timeout_s", table.head_timeout_s, limits.head_timeout)?;
        limits.body_timeout = self.seconds("http.body_timeout_s", table.body_timeout_s, limits.body_timeout)?;
        limits.idle_timeout = self.seconds("http.idle_timeout_s", table.idle_timeout_s, limits.idle_timeout)?;
        limits.write_timeout = self.seconds("http.write_timeout_s", table.write_timeout_s, limits.write_timeout)?;
        Ok(HttpConfig {
            listen: self.parse_all("http.listen", &listen, expected)?,
            limits,
            trusted_proxies: self.parse_all("http.trusted_proxies", &table.trusted_proxies, "expected an IP address")?,
            query_token: table.query_token,
        })
    }

    fn volumes(&self, table: VolumesTable, state_directory: &Path) -> Result<VolumesConfig, ConfigError> {
        for root in &table.roots {
            if !root.is_absolute() {
                let expected = "expected absolute paths, for example [\"/srv/images\", \"/dev\"]".into();
                return Err(self.wrong("volumes.roots", &format!("{root:?}"), expected));
            }
        }
        let restore_directory = table.restore_directory.unwrap_or_else(|| state_directory.join("restored"));
        let pool_directory = table.pool_directory.unwrap_or_else(|| state_directory.join("volumes"));
        Ok(VolumesConfig { roots: table.roots, restore_directory, pool_directory, reflinks: table.reflinks })
    }

    fn engine(&self, table: EngineTable, cores: usize) -> Result<EngineConfig, ConfigError> {
        let workers = (cores + 2).min(16) as i64;
        Ok(EngineConfig {
            workers: self.number("engine.workers", table.workers, 1..=64, workers)? as usize,
            jobs: self.number("engine.jobs", table.jobs, 1..=16, 2)? as usize,
            maintenance_interval: self.seconds(
                "engine.maintenance_interval_s",
                table.maintenance_interval_s,
                Duration::from_secs(600),
            )?,
            expiry_interval: self.seconds("engine.expiry_interval_s", table.expiry_interval_s, Duration::from_secs(60))?,
            clock_hold: self.seconds("engine.clock_hold_s", table.clock_hold_s, Duration::from_secs(3600))?,
        })
    }

    fn scrub(&self, table: ScrubTable) -> Result<ScrubConfig, ConfigError> {
        let ScrubConfig { bytes_per_second, every } = ScrubConfig::default();
        let days = self.number("scrub.every_days", table.every_days, 1..=36_500, (every.as_secs() / 86_400) as i64)?;
        Ok(ScrubConfig {
            bytes_per_second: self.number("scrub.bytes_per_second", table.bytes_per_second, 0..=1 << 40, bytes_per_second as i64)? as u64,
            every: Duration::from_secs(days as u64 * 86_400),
        })
    }

    fn auth(&self, table: AuthTable, http: &HttpConfig) -> Result<AuthConfig, ConfigError> {
        if table.noauth {
            self.only_local(http)?;
        }
        let keystone_hours = self.number("auth.keystone_token_lifetime_h", table.keystone_token_lifetime_h, 1..=8760, 24)?;
        let hours = self.number("auth.token_lifetime_h", table.token_lifetime_h, 0..=1_000_000, 0)?;
        Ok(AuthConfig {
            token_lifetime: (hours > 0).then(|| Duration::from_secs(hours as u64 * 3600)),
            login_attempts: self.number("auth.login_attempts", table.login_attempts, 1..=1_000_000, 10)? as u32,
            login_window: self.seconds("auth.login_window_s", table.login_window_s, Duration::from_secs(600))?,
            keystone_token_lifetime: Duration::from_secs(keystone_hours as u64 * 3600),
            region: self.region(table.region)?,
            noauth: table.noauth,
        })
    }

    fn repositories(&self, tables: BTreeMap<String, objects::Settings>, state_directory: &Path) -> Result<BTreeMap<String, objects::Settings>, ConfigError> {
        for (name, settings) in &tables {
            if !is_name(name) || name.contains('/') || name.len() > 64 {
                let expected = "expected a name of letters, digits and .-_, of at most 64".to_owned();
                return Err(self.wrong("repositories", &format!("{name:?}"), expected));
            }
            if name == COFFER {
                return Err(self.wrong("repositories", &format!("{name:?}"), "the coffer itself has this name".to_owned()));
            }
            settings.check().map_err(|wrong| self.wrong(format!("repositories.{name}.{}", wrong.key), &wrong.found, wrong.expected))?;
        }
        for (name, settings) in &tables {
            let Some(Copies::Of(places)) = &settings.copies else { continue };
            if let Some(place) = places.iter().find(|place| *place == name || *place != COFFER && !tables.contains_key(*place)) {
                let expected = "expected other places: repositories of this configuration, or \"coffer\"".to_owned();
                return Err(self.wrong(format!("repositories.{name}.copies"), &format!("{place:?}"), expected));
            }
        }
        for (name, settings) in &tables {
            let inside = settings.directory.as_ref().filter(|directory| directory.starts_with(state_directory));
            if let Some(directory) = inside {
                let expected = "expected a directory apart from the state directory: what lies on one disk is lost with it".to_owned();
                return Err(self.wrong(format!("repositories.{name}.directory"), &format!("{directory:?}"), expected));
            }
        }
        let mut default = tables.iter().filter(|(_, settings)| settings.default).map(|(name, _)| name);
        if let (Some(_), Some(second)) = (default.next(), default.next()) {
            return Err(self.wrong(format!("repositories.{second}.default"), "true", "expected one default at most".to_owned()));
        }
        Ok(tables)
    }

    /// Without authentication whoever reaches a socket is administrator.
    fn only_local(&self, http: &HttpConfig) -> Result<(), ConfigError> {
        if let Some(address) = http.listen.iter().find(|address| !address.ip().is_loopback()) {
            let expected = format!("{address} in http.listen can be reached from other hosts; with noauth listen on 127.0.0.1 and [::1] only");
            return Err(self.wrong("auth.noauth", "true", expected));
        }
        if !http.trusted_proxies.is_empty() {
            let expected = "http.trusted_proxies names a proxy, through which others would come; have one of the two".into();
            return Err(self.wrong("auth.noauth", "true", expected));
        }
        Ok(())
    }

    fn region(&self, name: Option<String>) -> Result<String, ConfigError> {
        let name = name.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        match name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            true => Err(self.wrong("auth.region", &format!("{name:?}"), "expected a name of 1 to 255 printable characters".into())),
            false => Ok(name),
        }
    }

    fn timezone(&self, name: Option<String>) -> Result<chrono_tz::Tz, ConfigError> {
        let Some(name) = name else { return Ok(chrono_tz::UTC) };
        name.parse().map_err(|_| {
            let expected = "expected a zone of the tz database, for example \"Europe/Berlin\" (capitals matter)".into();
            self.wrong("timezone", &format!("{name:?}"), expected)
        })
    }

    fn seconds(&self, key: &'static str, value: Option<i64>, default: Duration) -> Result<Duration, ConfigError> {
        match value {
            Some(_) => Ok(Duration::from_secs(self.number(key, value, 1..=86_400, 0)? as u64)),
            None => Ok(default),
        }
    }

    fn number(
        &self,
        key: &'static str,
        value: Option<i64>,
        range: std::ops::RangeInclusive<i64>,
        default: i64,
    ) -> Result<i64, ConfigError> {
        let value = value.unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.wrong(key, &value.to_string(), format!("expected a number from {} to {}", range.start(), range.end())))
    }

    fn parse_all<T: std::str::FromStr>(&self, key: &'static str, texts: &[String], expected: &str) -> Result<Vec<T>, ConfigError> {
        texts.iter().map(|t| t.parse().map_err(|_| self.wrong(key, &format!("{t:?}"), expected.to_string()))).collect()
    }

    fn wrong(&self, key: impl Into<String>, found: &str, expected: String) -> ConfigError {
        ConfigError::Value { path: self.path.clone(), key: key.into(), found: found.to_string(), expected }
    }
}

/// Fuzz target: what a configuration file may hold. One that is taken is complete and within its limits.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(file) = toml::from_str(text) else { return };
    let surroundings = Surroundings { cores: 2, home: Some("/home".into()), ..Surroundings::default() };
    match (Checker { path: "f".into() }).check(file, &surroundings) {
        Ok(config) => {
            assert!(!config.state_directory.as_os_str().is_empty());
            assert!(config.engine.workers > 0 && config.engine.jobs > 0 && config.auth.login_attempts > 0);
            assert!(config.http.limits.max_connections > 0);
        }
        Err(error) => assert!(error.to_string().starts_with("f: ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path)).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = check("state_directory = '/s'").unwrap();
        assert_eq!(config.coffer(), Path::new("/s/coffer.db"));
        assert_eq!(config.socket(), Path::new("/s/cofferd.sock"));
        assert_eq!(config.volumes.restore_directory, Path::new("/s/restored"));
        assert_eq!(config.http.listen, vec!["127.0.0.1:8776".parse().unwrap()]);
        assert_eq!(config.timezone, chrono_tz::UTC);
        assert_eq!(config.engine.jobs, 2);
        assert_eq!(config.scrub, ScrubConfig { bytes_per_second: 16 << 20, every: Duration::from_secs(2_592_000) });
        assert_eq!(config.auth.token_lifetime, None);
        assert_eq!((config.auth.keystone_token_lifetime, config.auth.region.as_str()), (Duration::from_secs(86_400), "RegionOne"));
        assert!(!config.auth.noauth);
    }

    #[test]
    fn every_key_is_taken() {
        let config = check(
            r#"
            state_directory = "/var/lib/x"
            timezone = "Europe/London"
            shutdown_deadline_s = 7
            [http]
            listen = ["[::1]:80", "0.0.0.0:0"]
            max_connections = 9
            head_timeout_s = 1
            body_timeout_s = 2
            idle_timeout_s = 3
            write_timeout_s = 4
            trusted_proxies = ["10.0.0.1"]
            query_token = true
            [volumes]
            roots = ["/srv", "/dev"]
            restore_directory = "/r"
            [engine]
            workers = 5
            jobs = 1
            maintenance_interval_s = 11
            expiry_interval_s = 12
            clock_hold_s = 13
            [scrub]
            bytes_per_second = 0
            every_days = 7
            [auth]
            token_lifetime_h = 2
            login_attempts = 3
            login_window_s = 4
            keystone_token_lifetime_h = 5
            region = "here"
            [repositories.usb]
            kind = "directory"
            directory = "/mnt/usb"
            [repositories.cloud]
            kind = "swift"
            auth_url = "https://keystone:5000"
            container = "c"
            credentials = "/etc/cofferd/cloud"
            "#,
        )
        .unwrap();
        assert_eq!(config.timezone, chrono_tz::Europe::London);
        assert_eq!(config.shutdown_deadline, Duration::from_secs(7));
        assert_eq!(config.http.listen.len(), 2);
        assert_eq!(config.http.limits.max_connections, 9);
        assert_eq!(config.http.limits.head_timeout, Duration::from_secs(1));
        assert_eq!(config.http.limits.body_timeout, Duration::from_secs(2));
        assert_eq!(config.http.limits.idle_timeout, Duration::from_secs(3));
        assert_eq!(config.http.limits.write_timeout, Duration::from_secs(4));
        assert!(config.http.query_token);
        assert_eq!(config.volumes.roots, vec![PathBuf::from("/srv"), PathBuf::from("/dev")]);
        assert_eq!(config.volumes.restore_directory, Path::new("/r"));
        assert_eq!((config.engine.workers, config.engine.jobs), (5, 1));
        assert_eq!(config.scrub, ScrubConfig { bytes_per_second: 0, every: Duration::from_secs(604_800) });
        assert_eq!(config.engine.maintenance_interval, Duration::from_secs(11));
        assert_eq!(config.auth.token_lifetime, Some(Duration::from_secs(7200)));
        assert_eq!((config.auth.login_attempts, config.auth.login_window), (3, Duration::from_secs(4)));
        assert_eq!((config.auth.keystone_token_lifetime, config.auth.region.as_str()), (Duration::from_secs(18_000), "here"));
        assert!(!config.auth.noauth);
        assert_eq!(config.repositories.keys().collect::<Vec<_>>(), ["cloud", "usb"]);
    }

    #[test]
    fn without_authentication_only_loopback_is_listened_on() {
        let noauth = |http: &str| check(&format!("state_directory = '/s'\n[http]\n{http}\n[auth]\nnoauth = true"));
        assert!(noauth("").unwrap().auth.noauth);
        assert!(noauth("listen = ['127.0.0.1:1', '[::1]:1', '127.9.9.9:1']").is_ok());
        for listen in ["0.0.0.0:1", "[::]:1", "192.168.0.1:1", "[fe80::1]:1"] {
            let error = noauth(&format!("listen = ['127.0.0.1:1', '{listen}']")).unwrap_err();
            assert!(error.contains("auth.noauth = true") && error.contains(listen), "{error}");
        }
        let error = noauth("trusted_proxies = ['127.0.0.1']").unwrap_err();
        assert!(error.contains("auth.noauth = true") && error.contains("trusted_proxies"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_with_file_key_and_remedy() {
        for (text, parts) in [
            ("[http]\nlisten_on = 1", &["c.toml", "listen_on", "expected one of", "max_connections"][..]),
            ("colour = 'red'", &["c.toml", "colour", "state_directory"]),
            ("[http]\nlisten = ['localhost:80']", &["http.listen", "localhost:80", "127.0.0.1:8776"]),
            ("[http]\nmax_connections = 0", &["http.max_connections = 0", "from 1 to 100000"]),
            ("[http]\nhead_timeout_s = -1", &["http.head_timeout_s = -1", "from 1"]),
            ("[http]\ntrusted_proxies = ['proxy']", &["http.trusted_proxies", "\"proxy\""]),
            ("timezone = 'Berlin'", &["timezone", "\"Berlin\"", "Europe/Berlin"]),
            ("timezone = 3", &["timezone", "expected a string"]),
            ("[volumes]\nroots = ['srv']", &["volumes.roots", "absolute"]),
            ("[engine]\nworkers = 65", &["engine.workers = 65", "from 1 to 64"]),
            ("[scrub]\nbytes_per_second = -1", &["scrub.bytes_per_second = -1", "from 0"]),
            ("[scrub]\nevery_days = 0", &["scrub.every_days = 0", "from 1 to 36500"]),
            ("[auth]\nkeystone_token_lifetime_h = 0", &["auth.keystone_token_lifetime_h = 0", "from 1 to 8760"]),
            ("[auth]\nkeystone_token_lifetime_h = 8761", &["from 1 to 8760"]),
            ("[auth]\nregion = ''", &["auth.region", "printable"]),
            ("[auth]\nnoauth = 1", &["noauth", "boolean"]),
            ("state_directory = ''", &["state_directory", "path"]),
            ("[http", &["c.toml", "line 1"]),
            ("[repositories.a]\nkind = 's3'", &["c.toml", "repositories.a.endpoint", "https://"]),
            ("[repositories.a]\nkind = 'ftp'", &["c.toml", "line 2", "ftp", "swift"]),
            ("[repositories.a]\nkind = 's3'\nconnection = 1", &["connection", "connections"]),
            ("[repositories.coffer]\nkind = 'directory'\ndirectory = '/d'", &["repositories", "coffer itself"]),
            ("[repositories.'a b']\nkind = 'directory'\ndirectory = '/d'", &["repositories", "\"a b\"", "letters"]),
        ] {
            let error = check(text).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{text:?} gave {error:?}, without {part:?}");
            }
        }
    }

    #[test]
    fn a_named_file_must_exist_and_a_default_one_need_not() {
        let error = Config::load(Some(Path::new("/no/such/file.toml"))).unwrap_err().to_string();
        assert!(error.contains("/no/such/file.toml"), "{error}");
    }

    #[test]
    fn the_state_lies_where_systemd_says_else_by_user() {
        let root = Surroundings { root: true, home: Some("/root".into()), ..Surroundings::default() };
        assert_eq!(root.state_directory(), Path::new("/root/.local/state/cofferd"));
        assert_eq!(root.default_file(), Some(SYSTEM_FILE.into()));
        let root = Surroundings { system_state_exists: true, ..root };
        assert_eq!(root.state_directory(), Path::new("/var/lib/cofferd"));

        let service = Surroundings { service_state: Some("/var/lib/private/c".into()), ..Surroundings::default() };
        assert_eq!(service.state_directory(), Path::new("/var/lib/private/c"));
        assert_eq!(service.default_file(), Some(SYSTEM_FILE.into()));

        let user = Surroundings { home: Some("/home/u".into()), system_state_exists: true, ..Surroundings::default() };
        assert_eq!(user.state_directory(), Path::new("/home/u/.local/state/cofferd"));
        assert_eq!(user.default_file(), Some("/home/u/.config/cofferd/cofferd.toml".into()));
        let user = Surroundings { xdg_state_home: Some("/x".into()), xdg_config_home: Some("/y".into()), ..user };
        assert_eq!(user.state_directory(), Path::new("/x/cofferd"));
        assert_eq!(user.default_file(), Some("/y/cofferd/cofferd.toml".into()));
        assert_eq!(Surroundings::default().state_directory(), Path::new("cofferd-state"));
    }
}
