//! Following paths without being led astray by symbolic links.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::SourceError;

/// The directory a path lies in, open, and the last component.
pub(super) struct Place<'a> {
    pub directory: OwnedFd,
    pub name: &'a OsStr,
}

/// Resolves all symbolic links of an existing path, except that a name in `/dev` that stands for a block device is kept.
pub fn resolve(path: &Path) -> Result<PathBuf, SourceError> {
    let absolute = std::path::absolute(path).map_err(|e| SourceError::of(path, e))?;
    let resolved = absolute.canonicalize().map_err(|e| SourceError::of(path, e))?;
    if names(&absolute).is_ok() && is_device_name(&absolute) && hold_device_name(&absolute).is_ok() {
        return Ok(absolute);
    }
    Ok(resolved)
}

/// Holds (`O_PATH`) what lies at an absolute path, following no symbolic link but those between names in `/dev`.
pub(super) fn hold(path: &Path) -> Result<File, SourceError> {
    match hold_strictly(path) {
        Err(SourceError::Symlink(_)) if is_device_name(path) => hold_device_name(path),
        result => result,
    }
}

/// Holds what has this name in a directory that was walked to; a symbolic link is refused.
pub(super) fn hold_in(place: &Place, path: &Path) -> Result<File, SourceError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::openat(&place.directory, place.name, flags, Mode::empty());
    let held = File::from(held.map_err(|e| SourceError::of(path, e.into()))?);
    let metadata = held.metadata().map_err(|e| SourceError::of(path, e))?;
    if metadata.is_symlink() { Err(SourceError::Symlink(path.to_path_buf())) } else { Ok(held) }
}

/// Walks to the directory of an absolute path, following no symbolic link.
pub(super) fn walk(path: &Path) -> Result<Place<'_>, SourceError> {
    let names = names(path)?;
    let Some((name, parents)) = names.split_last() else {
        return Err(SourceError::Directory(path.to_path_buf()));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut walked = PathBuf::from("/");
    let mut directory = rustix::fs::openat(CWD, &walked, flags, Mode::empty()).map_err(|e| SourceError::of(path, e.into()))?;
    for parent in parents {
        walked.push(parent);
        directory = match rustix::fs::openat(&directory, *parent, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOTDIR | Errno::LOOP) if rustix::fs::readlinkat(&directory, *parent, Vec::new()).is_ok() => {
                return Err(SourceError::Symlink(walked));
            }
            Err(e) => return Err(SourceError::of(path, e.into())),
        };
    }
    Ok(Place { directory, name })
}

fn hold_strictly(path: &Path) -> Result<File, SourceError> {
    hold_in(&walk(path)?, path)
}

/// True for names that only root can make: below `/dev`, but not in the shared memory that everybody writes to.
fn is_device_name(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

fn hold_device_name(path: &Path) -> Result<File, SourceError> {
    let resolved = path.canonicalize().map_err(|e| SourceError::of(path, e))?;
    if !is_device_name(&resolved) {
        return Err(SourceError::Symlink(path.to_path_buf()));
    }
    let held = hold_strictly(&resolved)?;
    let metadata = held.metadata().map_err(|e| SourceError::of(path, e))?;
    if metadata.file_type().is_block_device() { Ok(held) } else { Err(SourceError::Symlink(path.to_path_buf())) }
}

fn names(path: &Path) -> Result<Vec<&OsStr>, SourceError> {
    let mut components = path.components();
    let refused = || SourceError::NotAbsolute(path.to_path_buf());
    if components.next() != Some(Component::RootDir) {
        return Err(refused());
    }
    components
        .map(|component| match component {
            Component::Normal(name) => Ok(name),
            _ => Err(refused()),
        })
        .collect()
}
