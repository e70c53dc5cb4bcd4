//! A directory as a place for objects: a disk or a network file system that is mounted. An object is a file of its name; it appears
//! whole and synced or not at all. The directory itself is never made, for then an empty mount point would be taken for the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::retry::Cancel;
use super::{Backend, Listed, ObjectError, PAGE, Settings, is_name};

/// What is being written begins so; no object's name does.
const UNFINISHED: &str = ".new-";
/// Of what is read or written between two looks at whether to go on.
const PIECE: usize = 1 << 20;

pub struct Directory {
    root: PathBuf,
    place: String,
}

impl Directory {
    pub fn new(settings: &Settings) -> Directory {
        Directory { root: settings.directory.clone().unwrap_or_default(), place: settings.place_name() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn check_root(&self) -> Result<(), ObjectError> {
        match self.root.is_dir() {
            true => Ok(()),
            false => Err(ObjectError::NoPlace(self.place.clone())),
        }
    }

    /// What an error means; one that a network file system gives while its server is away passes.
    fn error(&self, path: &Path, error: io::Error) -> ObjectError {
        let name = || path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        match error.kind() {
            io::ErrorKind::NotFound => ObjectError::NotFound(name()),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ObjectError::Full { place: self.place.clone(), message: error.to_string() },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                let user = rustix::process::geteuid().as_raw().to_string();
                ObjectError::Denied { path: path.display().to_string(), user, error }
            }
            io::ErrorKind::TimedOut | io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkDown => {
                ObjectError::Unreachable { host: self.place.clone(), error: error.to_string() }
            }
            _ => ObjectError::Unexpected { place: self.place.clone(), what: format!("{}: {error}", name()) },
        }
    }

    /// The directory of an object, made if need be, each new one with its entry on the disk.
    fn make_parent(&self, parent: &Path) -> Result<(), ObjectError> {
        if parent.is_dir() {
            return Ok(());
        }
        let above = parent.parent().unwrap_or(&self.root);
        if parent != self.root {
            self.make_parent(above)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(self.error(parent, error)),
            _ => sync_directory(above).map_err(|error| self.error(above, error)),
        }
    }

    fn write(&self, temporary: &Path, target: &Path, body: &[u8], cancel: &Cancel) -> Result<(), ObjectError> {
        let failed = |error| self.error(temporary, error);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(temporary).map_err(failed)?;
        for piece in body.chunks(PIECE) {
            if cancel() {
                return Err(ObjectError::Cancelled);
            }
            file.write_all(piece).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        fs::rename(temporary, target).map_err(|error| self.error(target, error))
    }

    /// Adds to `page` what lies in one directory and below, in the order of whole names.
    fn walk(&self, directory: &Path, before: &str, prefix: &str, after: &str, page: &mut Vec<Listed>) -> Result<(), ObjectError> {
        let failed = |error| self.error(directory, error);
        let mut names = Vec::new();
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // It was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != self.root => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(failed)?;
            // What is no name of an object, such as lost+found, is somebody else's.
            if is_name(&name) && (kind.is_dir() || kind.is_file()) {
                names.push(if kind.is_dir() { format!("{before}{name}/") } else { format!("{before}{name}") });
            }
        }
        names.sort_unstable();
        for name in names {
            if page.len() >= PAGE {
                return Ok(());
            }
            if name.ends_with('/') {
                let concerned = name.starts_with(prefix) || prefix.starts_with(&name);
                if concerned && (name.as_str() > after || after.starts_with(&name)) {
                    self.walk(&self.path(&name), &name, prefix, after, page)?;
                }
            } else if name.starts_with(prefix) && name.as_str() > after {
                match fs::metadata(self.path(&name)) {
                    Ok(found) => page.push(Listed { size: found.len(), name }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                    Err(error) => return Err(self.error(&self.path(&name), error)),
                }
            }
        }
        Ok(())
    }
}

impl Backend for Directory {
    fn put(&self, name: &str, body: &[u8], cancel: &Cancel) -> Result<(), ObjectError> {
        self.check_root()?;
        let target = self.path(name);
        let parent = target.parent().unwrap_or(&self.root);
        self.make_parent(parent)?;
        let random = getrandom::u64().map_err(|error| ObjectError::Unexpected { place: self.place.clone(), what: error.to_string() })?;
        let temporary = parent.join(format!("{UNFINISHED}{random:016x}"));
        let written = self.write(&temporary, &target, body, cancel);
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        sync_directory(parent).map_err(|error| self.error(parent, error))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: usize, cancel: &Cancel) -> Result<Vec<u8>, ObjectError> {
        self.check_root()?;
        let path = self.path(name);
        let failed = |error| self.error(&path, error);
        let file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let range = range.unwrap_or(0..size);
        if range.end > size {
            return Err(ObjectError::Short { name: name.to_owned(), why: format!("it has {size} bytes, and bytes up to {} were asked for", range.end) });
        }
        if range.end - range.start > limit as u64 {
            return Err(ObjectError::TooLarge { name: name.to_owned(), limit });
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut offset = range.start;
        for piece in bytes.chunks_mut(PIECE) {
            if cancel() {
                return Err(ObjectError::Cancelled);
            }
            file.read_exact_at(piece, offset).map_err(failed)?;
            offset += piece.len() as u64;
        }
        Ok(bytes)
    }

    fn size(&self, name: &str, _cancel: &Cancel) -> Result<Option<u64>, ObjectError> {
        self.check_root()?;
        match fs::metadata(self.path(name)) {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Ok(None),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.error(&self.path(name), error)),
        }
    }

    fn delete(&self, name: &str, _cancel: &Cancel) -> Result<(), ObjectError> {
        self.check_root()?;
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(path.parent().unwrap_or(&self.root)).map_err(|error| self.error(&path, error)),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(self.error(&path, error)),
        }
    }

    fn list(&self, prefix: &str, after: &str, _cancel: &Cancel) -> Result<Vec<Listed>, ObjectError> {
        self.check_root()?;
        let mut page = Vec::new();
        self.walk(&self.root, "", prefix, after, &mut page)?;
        Ok(page)
    }
}

/// Also when a part of the name is another object.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
