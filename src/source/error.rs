//! What can go wrong with a volume's file or device, worded for the administrator who has to mend it.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{0} is not an absolute path without `.` and `..`")]
    NotAbsolute(PathBuf),
    #[error("{0} does not exist")]
    Missing(PathBuf),
    #[error("{0} is a directory; a volume is a raw image file or a block device")]
    Directory(PathBuf),
    #[error("{0} is neither a regular file nor a block device")]
    NotAVolume(PathBuf),
    #[error("{0} is empty: there is nothing to back up")]
    Empty(PathBuf),
    #[error("{0} is a symbolic link; name the file it leads to")]
    Symlink(PathBuf),
    #[error("user {user} may not open {path}; give it access to the file and to every directory above it")]
    Denied { path: PathBuf, user: String },
    #[error("{0} exists already and is not overwritten")]
    Exists(PathBuf),
    #[error("{0} is in use, perhaps mounted; release it before it is written to")]
    Busy(PathBuf),
    #[error("{path} is too small: it has {found} bytes, the volume has {needed}")]
    TooSmall { path: PathBuf, found: u64, needed: u64 },
    #[error("{path} became shorter while it was read: {found} bytes instead of {expected}")]
    Shrunk { path: PathBuf, found: u64, expected: u64 },
    #[error("{path} became longer while it was read: {found} bytes instead of {expected}")]
    Grew { path: PathBuf, found: u64, expected: u64 },
    #[error("{0} was replaced by another file while it was read")]
    Replaced(PathBuf),
    #[error("{0} was removed while it was read")]
    Vanished(PathBuf),
    #[error("{path} cannot be read at byte {offset}: {error}")]
    Read { path: PathBuf, offset: u64, error: io::Error },
    #[error("{path} cannot be written at byte {offset}: {error}")]
    Write { path: PathBuf, offset: u64, error: io::Error },
    #[error("the extents of {path} cannot be relied on: {error}")]
    Extents { path: PathBuf, error: io::Error },
    #[error("{0} belongs to another user, or others may write to it")]
    NotOurs(PathBuf),
    #[error("the disk of {0} is full")]
    NoSpace(PathBuf),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl SourceError {
    /// The error of opening or looking at `path`.
    pub fn of(path: &Path, error: io::Error) -> SourceError {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SourceError::Missing(path),
            io::ErrorKind::PermissionDenied => SourceError::Denied { path, user: user_name() },
            io::ErrorKind::AlreadyExists => SourceError::Exists(path),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::NoSpace(path),
            _ => SourceError::Io { path, error },
        }
    }

    /// The error of writing to `path`.
    pub(super) fn of_write(path: &Path, offset: u64, error: io::Error) -> SourceError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::NoSpace(path.to_path_buf()),
            _ => SourceError::Write { path: path.to_path_buf(), offset, error },
        }
    }
}

/// The user this process runs as, by name if the local user file knows it.
fn user_name() -> String {
    let id = rustix::process::geteuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?);
        (uid.parse() == Ok(id)).then(|| name.to_string())
    });
    name.unwrap_or_else(|| id.to_string())
}
