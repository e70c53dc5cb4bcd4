//! A file or device that is held but not opened: it can be looked at before it is touched.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FsWord, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use super::path::{self, Place};
use super::{Kind, SourceError};

/// statfs(2).
const SYSFS_MAGIC: FsWord = 0x6265_6572;

/// What makes a file the same file: device and inode number, or for a device node the number of the device it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub kind: Kind,
    pub device: u64,
    inode: u64,
}

impl Identity {
    /// None of what is no volume.
    fn of(metadata: &Metadata) -> Option<Identity> {
        let file_type = metadata.file_type();
        if file_type.is_file() {
            Some(Identity { kind: Kind::File, device: metadata.dev(), inode: metadata.ino() })
        } else if file_type.is_block_device() {
            Some(Identity { kind: Kind::Block, device: metadata.rdev(), inode: 0 })
        } else {
            None
        }
    }

    pub fn is_of(self, metadata: &Metadata) -> bool {
        Identity::of(metadata) == Some(self)
    }
}

/// What lies at a path. Holding it does nothing to it: a pipe does not wait, a device is not claimed, and letting go of it drops no
/// lock of this process (fcntl(2)). What is opened then is this and nothing else, whatever has become of the path.
pub struct Found {
    path: PathBuf,
    held: File,
    identity: Identity,
}

impl Found {
    /// At an absolute path without symbolic links (see [`super::resolve`]).
    pub fn at(path: &Path) -> Result<Found, SourceError> {
        Found::held(path, path::hold(path)?)
    }

    /// By its name in a directory that was walked to.
    pub(super) fn in_place(place: &Place, path: &Path) -> Result<Found, SourceError> {
        Found::held(path, path::hold_in(place, path)?)
    }

    /// A file that was opened already, or held.
    pub(super) fn held(path: &Path, held: File) -> Result<Found, SourceError> {
        let io = |e| SourceError::of(path, e);
        let metadata = held.metadata().map_err(io)?;
        let Some(identity) = Identity::of(&metadata) else {
            return Err(if metadata.is_dir() { SourceError::Directory(path.to_path_buf()) } else { SourceError::NotAVolume(path.to_path_buf()) });
        };
        // Files there are doors into the kernel: /proc/kcore is all of the memory.
        let system = rustix::fs::fstatfs(&held).map_err(|e| io(e.into()))?;
        if identity.kind == Kind::File && matches!(system.f_type, PROC_SUPER_MAGIC | SYSFS_MAGIC) {
            return Err(SourceError::NotAVolume(path.to_path_buf()));
        }
        Ok(Found { path: path.to_path_buf(), held, identity })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the file at another path is this one, by whatever name.
    pub fn is(&self, other: &Path) -> bool {
        std::fs::metadata(other).is_ok_and(|metadata| self.identity.is_of(&metadata))
    }

    pub(super) fn open(&self, flags: OFlags) -> Result<File, SourceError> {
        reopen(&self.held, flags).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => SourceError::Busy(self.path.clone()),
            // It is there, for we hold it: it is /proc that is not, or a driver behind the device.
            Some(Errno::NOENT | Errno::NOTDIR) => SourceError::Io { path: self.path.clone(), error },
            _ => SourceError::of(&self.path, error),
        })
    }
}

/// Opens once more what a descriptor is open on, with other flags.
pub(super) fn reopen(file: &File, flags: OFlags) -> io::Result<File> {
    // NONBLOCK: no device may keep us waiting. It means nothing for files and block devices.
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::openat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty())?.into())
}
