//! Where a repository is and how it is spoken to, as the configuration says it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

const PATIENCE_OF_A_TRIAL_S: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Swift,
    S3,
    Directory,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub kind: Kind,
    /// Backups go there that name no other place.
    #[serde(default)]
    pub default: bool,
    /// Which backups that lie elsewhere are copied there; None: none.
    pub copies: Option<Copies>,
    /// S3: the server. Swift: the account's URL, if it is not to be that of the catalog.
    pub endpoint: Option<String>,
    pub container: Option<String>,
    pub bucket: Option<String>,
    pub directory: Option<PathBuf>,
    /// Before the name of every object.
    #[serde(default)]
    pub prefix: String,
    pub region: Option<String>,
    /// The bucket's name is part of the host's.
    #[serde(default)]
    pub virtual_host: bool,
    pub auth_url: Option<String>,
    /// 1 (tempauth and the like) or 3 (Keystone).
    #[serde(default = "defaults::auth_version")]
    pub auth_version: u64,
    pub user: Option<String>,
    pub project: Option<String>,
    #[serde(default = "defaults::domain")]
    pub user_domain: String,
    #[serde(default = "defaults::domain")]
    pub project_domain: String,
    /// Which of the catalog's endpoints.
    #[serde(default = "defaults::interface")]
    pub interface: String,
    /// The file with the secrets; a name without a slash is one of systemd's credentials.
    pub credentials: Option<PathBuf>,
    /// The authorities that are trusted, instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// 0: no limit.
    #[serde(default)]
    pub upload_bytes_per_second: u64,
    #[serde(default)]
    pub download_bytes_per_second: u64,
    /// Requests at a time.
    #[serde(default = "defaults::connections")]
    pub connections: usize,
    /// How long a server may be silent.
    #[serde(default = "defaults::timeout_s")]
    pub timeout_s: u64,
    /// How long what fails is tried again.
    #[serde(default = "defaults::patience_s")]
    pub patience_s: u64,
}

/// Which backups are meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected \"all\", \"scheduled\" or a list of places, such as [\"coffer\"]")]
pub enum Copies {
    Which(Which),
    /// Those that lie in one of these places.
    Of(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    All,
    /// Those that schedules have made.
    Scheduled,
}

mod defaults {
    pub fn auth_version() -> u64 {
        3
    }
    pub fn domain() -> String {
        "Default".to_owned()
    }
    pub fn interface() -> String {
        "public".to_owned()
    }
    pub fn connections() -> usize {
        4
    }
    pub fn timeout_s() -> u64 {
        30
    }
    pub fn patience_s() -> u64 {
        300
    }
}

/// A key that is not as it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {found}: {expected}")]
pub struct Wrong {
    pub key: &'static str,
    pub found: String,
    pub expected: String,
}

fn wrong(key: &'static str, found: impl std::fmt::Debug, expected: impl Into<String>) -> Wrong {
    Wrong { key, found: format!("{found:?}"), expected: expected.into() }
}

impl Settings {
    /// Whether this can be a repository; what is written down is not looked up.
    pub fn check(&self) -> Result<(), Wrong> {
        self.check_keys_of_kind()?;
        match self.kind {
            Kind::S3 => {
                self.url("endpoint", &self.endpoint)?;
                self.place("bucket", &self.bucket)?;
            }
            Kind::Swift => {
                if self.endpoint.is_some() {
                    self.url("endpoint", &self.endpoint)?;
                }
                self.place("container", &self.container)?;
                self.url("auth_url", &self.auth_url)?;
                if ![1, 3].contains(&self.auth_version) {
                    return Err(wrong("auth_version", self.auth_version, "expected 1 (tempauth and the like) or 3 (Keystone)"));
                }
                if !["public", "internal", "admin"].contains(&self.interface.as_str()) {
                    return Err(wrong("interface", &self.interface, "expected \"public\", \"internal\" or \"admin\""));
                }
            }
            Kind::Directory => absolute("directory", self.directory.as_deref(), true)?,
        }
        absolute("ca_file", self.ca_file.as_deref(), false)?;
        if let Some(path) = &self.credentials
            && !path.is_absolute()
            && path.components().count() != 1
        {
            return Err(wrong("credentials", path, "expected an absolute path, or the name of a credential that the unit loads (LoadCredential=)"));
        }
        if !self.prefix.is_empty() && !super::is_name(self.prefix.trim_end_matches('/')) {
            return Err(wrong("prefix", &self.prefix, "expected letters, digits and .-_ in parts divided by single slashes"));
        }
        for (key, value, least, most) in [
            ("connections", self.connections as u64, 1, 64),
            ("timeout_s", self.timeout_s, 1, 3600),
            ("patience_s", self.patience_s, 0, 86_400),
            ("upload_bytes_per_second", self.upload_bytes_per_second, 0, 1 << 40),
            ("download_bytes_per_second", self.download_bytes_per_second, 0, 1 << 40),
        ] {
            if !(least..=most).contains(&value) {
                return Err(wrong(key, value, format!("expected a number from {least} to {most}")));
            }
        }
        Ok(())
    }

    /// The same for one who waits for the answer: what is wrong is told soon.
    pub fn impatient(&self) -> Settings {
        Settings { patience_s: self.patience_s.min(PATIENCE_OF_A_TRIAL_S), ..self.clone() }
    }

    fn check_keys_of_kind(&self) -> Result<(), Wrong> {
        use Kind::{Directory, S3, Swift};
        let keys: [(&'static str, bool, &[Kind]); 11] = [
            ("endpoint", self.endpoint.is_some(), &[Swift, S3]),
            ("container", self.container.is_some(), &[Swift]),
            ("bucket", self.bucket.is_some(), &[S3]),
            ("directory", self.directory.is_some(), &[Directory]),
            ("region", self.region.is_some(), &[Swift, S3]),
            ("virtual_host", self.virtual_host, &[S3]),
            ("auth_url", self.auth_url.is_some(), &[Swift]),
            ("user", self.user.is_some(), &[Swift]),
            ("project", self.project.is_some(), &[Swift]),
            ("credentials", self.credentials.is_some(), &[Swift, S3]),
            ("ca_file", self.ca_file.is_some(), &[Swift, S3]),
        ];
        match keys.iter().find(|(_, given, kinds)| *given && !kinds.contains(&self.kind)) {
            Some((key, _, kinds)) => {
                let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                let expected = format!("this key is for a repository of kind {}, and this one is of kind {}", kinds.join(" or "), self.kind.as_str());
                Err(Wrong { key, found: "...".to_owned(), expected })
            }
            None => Ok(()),
        }
    }

    fn url(&self, key: &'static str, text: &Option<String>) -> Result<(), Wrong> {
        let expected = "expected an address such as \"https://objects.example.org:8080\", without user, password or query";
        let text = text.as_deref().unwrap_or_default();
        match Url::parse(text) {
            Ok(url)
                if ["http", "https"].contains(&url.scheme())
                    && url.has_host()
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
                    && url.fragment().is_none() => Ok(()),
            // There may be a password in it.
            _ if text.contains('@') || text.contains('?') => Err(Wrong { key, found: "...".to_owned(), expected: expected.to_owned() }),
            _ => Err(wrong(key, text, expected)),
        }
    }

    fn place(&self, key: &'static str, name: &Option<String>) -> Result<(), Wrong> {
        let name = name.as_deref().unwrap_or_default();
        let bad = name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.chars().any(|c| c == '/' || c.is_control());
        if bad { Err(wrong(key, name, "expected the name of one that exists, without a slash")) } else { Ok(()) }
    }

    /// What is meant, for messages.
    pub fn place_name(&self) -> String {
        let host = |url: &Option<String>| {
            let url = url.as_deref().and_then(|text| Url::parse(text).ok());
            url.map_or_else(String::new, |url| url.origin().ascii_serialization())
        };
        match self.kind {
            Kind::S3 => format!("bucket {} at {}", self.bucket.as_deref().unwrap_or_default(), host(&self.endpoint)),
            Kind::Swift => {
                let at = if self.endpoint.is_some() { &self.endpoint } else { &self.auth_url };
                format!("container {} at {}", self.container.as_deref().unwrap_or_default(), host(at))
            }
            Kind::Directory => format!("directory {}", self.directory.as_deref().unwrap_or(Path::new("")).display()),
        }
    }
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Swift => "swift",
            Kind::S3 => "s3",
            Kind::Directory => "directory",
        }
    }
}

fn absolute(key: &'static str, path: Option<&Path>, required: bool) -> Result<(), Wrong> {
    match path {
        None if !required => Ok(()),
        Some(path) if path.is_absolute() => Ok(()),
        path => Err(wrong(key, path.unwrap_or(Path::new("")), "expected an absolute path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3: &str = "kind = 's3'\nendpoint = 'https://s3.example.org'\nbucket = 'b'\n";
    const SWIFT: &str = "kind = 'swift'\nauth_url = 'http://127.0.0.1:5000/v3'\ncontainer = 'c'\n";
    const DIRECTORY: &str = "kind = 'directory'\ndirectory = '/mnt/usb'\n";

    fn parse(text: &str) -> Result<Settings, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn each_kind_needs_little() {
        for (text, place) in [(S3, "bucket b at https://s3.example.org"), (SWIFT, "container c at http://127.0.0.1:5000"), (DIRECTORY, "directory /mnt/usb")] {
            let settings = parse(text).unwrap();
            assert_eq!(settings.place_name(), place);
            assert_eq!((settings.connections, settings.upload_bytes_per_second), (4, 0));
            let again: Settings = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
            assert_eq!(again, settings);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, parts) in [
            ("kind = 's4'".to_owned(), &["s4", "swift"][..]),
            ("endpoint = 'http://x'".to_owned(), &["kind"]),
            (format!("{S3}colour = 1"), &["colour", "endpoint"]),
            (format!("{S3}container = 'c'"), &["container", "of kind swift", "of kind s3"]),
            (format!("{SWIFT}virtual_host = true"), &["virtual_host", "of kind s3"]),
            (format!("{DIRECTORY}credentials = '/c'"), &["credentials", "of kind swift or s3"]),
            ("kind = 's3'\nbucket = 'b'".to_owned(), &["endpoint", "https://objects.example.org"]),
            ("kind = 's3'\nendpoint = 'ftp://x'\nbucket = 'b'".to_owned(), &["endpoint", "ftp://x"]),
            ("kind = 's3'\nendpoint = 'https://x'".to_owned(), &["bucket", "name"]),
            ("kind = 's3'\nendpoint = 'https://x'\nbucket = 'a/b'".to_owned(), &["bucket", "a/b"]),
            ("kind = 'swift'\ncontainer = 'c'".to_owned(), &["auth_url"]),
            (format!("{SWIFT}auth_version = 2"), &["auth_version", "3 (Keystone)"]),
            (format!("{SWIFT}interface = 'none'"), &["interface", "internal"]),
            ("kind = 'directory'\ndirectory = 'usb'".to_owned(), &["directory", "absolute"]),
            ("kind = 'directory'".to_owned(), &["directory", "absolute"]),
            (format!("{S3}ca_file = 'ca.pem'"), &["ca_file", "absolute"]),
            (format!("{S3}credentials = 'a/b'"), &["credentials", "LoadCredential"]),
            (format!("{S3}prefix = '../x'"), &["prefix", "../x"]),
            (format!("{S3}prefix = 'a//b'"), &["prefix"]),
            (format!("{S3}connections = 0"), &["connections", "from 1 to 64"]),
            (format!("{S3}upload_bytes_per_second = -1"), &["upload_bytes_per_second"]),
            (format!("{S3}timeout_s = 0"), &["timeout_s"]),
        ] {
            let error = parse(&text).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{text:?} gave {error:?}, without {part:?}");
            }
        }
        for good in [format!("{S3}credentials = 's3'"), format!("{S3}prefix = 'a/b'"), format!("{S3}prefix = 'a/'")] {
            parse(&good).unwrap();
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_shown() {
        let error = parse("kind = 's3'\nendpoint = 'https://ada:hunter2@x'\nbucket = 'b'").unwrap_err();
        assert!(error.contains("without user, password") && !error.contains("hunter2"), "{error}");
    }
}
