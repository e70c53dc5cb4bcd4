//! Places that hold named objects: Swift, S3, a directory. Nothing here knows what the objects are.
//!
//! Each kind does one attempt of each operation (`Backend`); what all have in common is done once, in front of them (`Client`): names
//! are checked and get their prefix, and what fails for a reason that passes is tried again.

mod credentials;
mod directory;
mod error;
mod http;
mod limit;
mod retry;
mod s3;
mod settings;
mod swift;
#[cfg(test)]
mod tests;
mod trial;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use credentials::Credentials;
pub use error::ObjectError;
pub use retry::Cancel;
pub use settings::{Copies, Settings};
pub use trial::{Step, try_out};

use retry::Patience;

/// A place for objects: names below one prefix of one container, bucket or directory. A call takes as long as the repository's
/// patience lasts; one that is cancelled ends soon with `Cancelled`.
pub trait Objects: Send + Sync {
    /// A whole object, new or in place of an older one. After `Ok` it is there with these bytes.
    fn put(&self, name: &str, body: &[u8]) -> Result<(), ObjectError>;

    /// All of an object or a range of it, never more than `limit` bytes, never less than was asked for.
    fn get(&self, name: &str, range: Option<Range<u64>>, limit: usize) -> Result<Vec<u8>, ObjectError>;

    /// None: there is no such object.
    fn size(&self, name: &str) -> Result<Option<u64>, ObjectError>;

    /// One that is not there is fine.
    fn delete(&self, name: &str) -> Result<(), ObjectError>;

    /// One page of the names that begin with `prefix` and come after `after`, in the order of their bytes. Empty: there are no more.
    /// A store may need a moment until it lists what was put there or deleted.
    fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>, ObjectError>;

    /// The same place, whose calls end soon once `cancel` says so.
    fn until(&self, cancel: Cancel) -> Box<dyn Objects>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub size: u64,
}

/// Names of one page of a list, where the place lets us choose.
const PAGE: usize = 1000;
const LONGEST_NAME: usize = 512;

/// One attempt of each operation; names have the prefix already. A range is not empty.
trait Backend: Send + Sync {
    fn put(&self, name: &str, body: &[u8], cancel: &Cancel) -> Result<(), ObjectError>;
    fn get(&self, name: &str, range: Option<Range<u64>>, limit: usize, cancel: &Cancel) -> Result<Vec<u8>, ObjectError>;
    fn size(&self, name: &str, cancel: &Cancel) -> Result<Option<u64>, ObjectError>;
    fn delete(&self, name: &str, cancel: &Cancel) -> Result<(), ObjectError>;
    fn list(&self, prefix: &str, after: &str, cancel: &Cancel) -> Result<Vec<Listed>, ObjectError>;
}

/// The place that these settings describe, with the credentials that they name. Nobody is asked yet: the first call finds out whether it
/// is there.
pub fn open(settings: &Settings) -> Result<Box<dyn Objects>, ObjectError> {
    let credentials = settings.credentials.as_ref().map_or_else(|| Ok(Credentials::default()), |path| Credentials::read(path))?;
    open_with(settings, &credentials)
}

fn open_with(settings: &Settings, credentials: &Credentials) -> Result<Box<dyn Objects>, ObjectError> {
    settings.check().map_err(|wrong| ObjectError::Settings(wrong.to_string()))?;
    let backend: Arc<dyn Backend> = match settings.kind {
        settings::Kind::Swift => Arc::new(swift::Swift::new(settings, credentials)?),
        settings::Kind::S3 => Arc::new(s3::S3::new(settings, credentials)?),
        settings::Kind::Directory => Arc::new(directory::Directory::new(settings)),
    };
    let prefix = match settings.prefix.trim_end_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    let patience = Patience::of(Duration::from_secs(settings.patience_s));
    Ok(Box::new(Client { backend, place: settings.place_name(), prefix, patience, cancel: Arc::new(|| false) }))
}

/// Letters, digits and `.-_` in parts that are divided by slashes; no part is empty or begins with a dot. Such a name is the same
/// in a URL, in a list and in a file system.
pub fn is_name(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    name.len() <= LONGEST_NAME && name.split('/').all(part)
}

#[derive(Clone)]
struct Client {
    backend: Arc<dyn Backend>,
    place: String,
    prefix: String,
    patience: Patience,
    cancel: Cancel,
}

impl Client {
    fn full(&self, name: &str) -> Result<String, ObjectError> {
        match is_name(name) {
            true => Ok(format!("{}{name}", self.prefix)),
            false => Err(ObjectError::Settings(format!("{name:?} is no name for an object"))),
        }
    }

    fn run<T>(&self, what: &str, name: &str, attempt: impl FnMut() -> Result<T, ObjectError>) -> Result<T, ObjectError> {
        self.patience.run(&self.cancel, &format!("{what} {name:?} ({})", self.place), attempt)
    }

    /// A server that refuses may close the connection before it has read the body, and then what it said is lost. So whoever could
    /// not get a body across asks without one.
    fn put_or_reason(&self, full: &str, body: &[u8]) -> Result<(), ObjectError> {
        let put = self.backend.put(full, body, &self.cancel);
        match &put {
            Err(ObjectError::Unreachable { .. }) => match self.backend.size(full, &self.cancel) {
                Err(reason) if !reason.is_transient() => Err(reason),
                _ => put,
            },
            _ => put,
        }
    }

    fn unexpected(&self, what: String) -> ObjectError {
        ObjectError::Unexpected { place: self.place.clone(), what }
    }

    /// A page that is out of order or holds what was not asked for could make a walk through the list endless, or leave objects out.
    fn check_page(&self, page: &[Listed], prefix: &str, after: &str) -> Result<(), ObjectError> {
        let mut last = after;
        for listed in page {
            if !listed.name.starts_with(prefix) || listed.name.as_str() <= last {
                return Err(self.unexpected(format!("a list of names after {last:?} with {:?} in it", listed.name)));
            }
            last = &listed.name;
        }
        Ok(())
    }
}

impl Objects for Client {
    fn put(&self, name: &str, body: &[u8]) -> Result<(), ObjectError> {
        let full = self.full(name)?;
        self.run("put", name, || self.put_or_reason(&full, body))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: usize) -> Result<Vec<u8>, ObjectError> {
        let full = self.full(name)?;
        let wanted = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        match wanted {
            Some(0) => return Ok(Vec::new()),
            Some(wanted) if wanted > limit as u64 => return Err(ObjectError::TooLarge { name: full, limit }),
            _ => (),
        }
        let bytes = self.run("get", name, || self.backend.get(&full, range.clone(), limit, &self.cancel))?;
        match wanted.is_none_or(|wanted| wanted == bytes.len() as u64) && bytes.len() <= limit {
            true => Ok(bytes),
            false => Err(self.unexpected(format!("{} bytes of {full} where {wanted:?} were asked for", bytes.len()))),
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, ObjectError> {
        let full = self.full(name)?;
        self.run("size", name, || self.backend.size(&full, &self.cancel))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let full = self.full(name)?;
        self.run("delete", name, || self.backend.delete(&full, &self.cancel))
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>, ObjectError> {
        let full_prefix = format!("{}{prefix}", self.prefix);
        let full_after = if after.is_empty() { String::new() } else { format!("{}{after}", self.prefix) };
        let mut page = self.run("list", prefix, || self.backend.list(&full_prefix, &full_after, &self.cancel))?;
        self.check_page(&page, &full_prefix, &full_after)?;
        for listed in &mut page {
            listed.name.drain(..self.prefix.len());
        }
        Ok(page)
    }

    fn until(&self, cancel: Cancel) -> Box<dyn Objects> {
        Box::new(Client { cancel, ..self.clone() })
    }
}
