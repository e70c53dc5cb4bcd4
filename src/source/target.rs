//! Where a restored volume is written: a new sparse file, or an existing file or device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::found::reopen;
use super::{Found, Kind, SourceError, buffer, path, size_of};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A volume opened for writing. Several threads may write to different places of it.
pub struct Target {
    path: PathBuf,
    file: File,
    direct: Option<File>,
    direct_works: AtomicBool,
    /// Of a new file: its name must reach the disk too.
    directory: Option<File>,
    size: u64,
}

impl Target {
    /// Makes a sparse file of `size` bytes, mode 0600. Never overwrites anything. Removing it after a later failure is
    /// the caller's.
    pub fn create(path: &Path, size: u64) -> Result<Target, SourceError> {
        let io = |e: io::Error| SourceError::of(path, e);
        let place = path::walk(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&place.directory, place.name, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(|e| io(e.into()))?);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&place.directory, ".", flags, Mode::empty()).map_err(|e| io(e.into()))?;
        if let Err(e) = file.set_len(size) {
            // Too large for the file system; the caller cannot tell whether there is a file of its own.
            let _ = rustix::fs::unlinkat(&place.directory, place.name, AtFlags::empty());
            return Err(io(e));
        }
        Ok(Target::new(path, file, Some(directory.into()), size))
    }

    /// Opens an existing file or device of at least `size` bytes; what lies beyond them stays as it is. A device that is
    /// mounted or otherwise claimed is refused.
    pub fn over(found: &Found, size: u64) -> Result<Target, SourceError> {
        let path = found.path();
        let kind = found.identity().kind;
        // Without O_CREAT, O_EXCL claims a block device (open(2)).
        let claim = if kind == Kind::Block { OFlags::EXCL } else { OFlags::empty() };
        let file = found.open(OFlags::RDWR | claim)?;
        let has = size_of(&file, kind).map_err(|e| SourceError::of(path, e))?;
        if has < size {
            return Err(SourceError::TooSmall { path: path.to_path_buf(), found: has, needed: size });
        }
        Ok(Target::new(path, file, None, has))
    }

    #[cfg(test)]
    pub fn open(path: &Path, size: u64) -> Result<Target, SourceError> {
        Target::over(&Found::at(path)?, size)
    }

    fn new(path: &Path, file: File, directory: Option<File>, size: u64) -> Target {
        let direct = reopen(&file, OFlags::WRONLY | OFlags::DIRECT).ok();
        Target { path: path.to_path_buf(), file, direct, direct_works: AtomicBool::new(true), directory, size }
    }

    /// Removes the name of a new file that shall not be, if it is still that file's.
    pub fn discard(self) {
        if let (Some(directory), Some(name), Ok(ours)) = (&self.directory, self.path.file_name(), rustix::fs::fstat(&self.file))
            && let Ok(found) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            && (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)
        {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes, as found when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes all of `bytes` at `offset`, past the page cache if both are aligned.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SourceError> {
        if let Some(direct) = &self.direct
            && buffer::is_aligned(bytes)
            && offset.is_multiple_of(buffer::ALIGNMENT as u64)
            && self.direct_works.load(Ordering::Relaxed)
        {
            match direct.write_all_at(bytes, offset) {
                Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.direct_works.store(false, Ordering::Relaxed);
                }
                result => return result.map_err(|e| SourceError::of_write(&self.path, offset, e)),
            }
        }
        self.file.write_all_at(bytes, offset).map_err(|e| SourceError::of_write(&self.path, offset, e))
    }

    /// Makes a file at least this long, with a hole at its end, and returns when that is on the disk.
    pub fn grow(&self, size: u64) -> Result<(), SourceError> {
        if size > self.size {
            self.file.set_len(size).map_err(|e| SourceError::of(&self.path, e))?;
        }
        self.sync()
    }

    /// Makes a range read as zeros, by giving its space back if that can be done.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), SourceError> {
        for mode in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
            match rustix::fs::fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, offset, len) {
                Ok(()) => return Ok(()),
                // Not this way on this file system or device, or not at this alignment: the next way.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV | Errno::PERM) => {}
                Err(e) => return Err(SourceError::of_write(&self.path, offset, e.into())),
            }
        }
        self.write_zeros(offset, len)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), SourceError> {
        let mut at = offset;
        while at < offset + len {
            let n = (offset + len - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..n as usize], at).map_err(|e| SourceError::of_write(&self.path, at, e))?;
            at += n;
        }
        Ok(())
    }

    /// Returns when all that was written is on the disk, and with a new file its name.
    pub fn sync(&self) -> Result<(), SourceError> {
        self.file.sync_all().map_err(|e| SourceError::of(&self.path, e))?;
        match &self.directory {
            Some(directory) => directory.sync_all().map_err(|e| SourceError::of(&self.path, e)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Buffer;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_new_target_is_sparse_private_and_never_an_overwrite() {
        let guard = tempfile::tempdir().unwrap();
        let path = guard.path().canonicalize().unwrap().join("new");
        let target = Target::create(&path, (1 << 20) + 3).unwrap();
        let mut buffer = Buffer::new(8192);
        buffer.fill(5);
        target.write(8192, &buffer).unwrap();
        target.write(1 << 20, b"end").unwrap();
        target.sync().unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), ((1 << 20) + 3, 0o600));
        assert!(metadata.blocks() * 512 < 64 << 10);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes[8191], bytes[8192], bytes[16383], bytes[16384]), (0, 5, 5, 0));
        assert_eq!(&bytes[1 << 20..], b"end");
        assert!(matches!(Target::create(&path, 1), Err(SourceError::Exists(_))));
    }

    #[test]
    fn an_existing_target_must_be_large_enough_and_can_be_zeroed_in_place() {
        let guard = tempfile::tempdir().unwrap();
        let path = guard.path().canonicalize().unwrap().join("old");
        std::fs::write(&path, vec![9; 300_001]).unwrap();
        assert!(matches!(Target::open(&path, 300_002), Err(SourceError::TooSmall { found: 300_001, .. })));
        let target = Target::open(&path, 300_001).unwrap();
        target.zero(100_000, 100_000).unwrap();
        target.write_zeros(200_001, 100_000).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..100_000].iter().all(|b| *b == 9));
        assert!(bytes[100_000..200_000].iter().all(|b| *b == 0));
        assert_eq!(bytes[200_000], 9);
        assert!(bytes[200_001..].iter().all(|b| *b == 0));
        assert_eq!(bytes.len(), 300_001);
    }

    #[test]
    fn a_link_is_no_target() {
        let guard = tempfile::tempdir().unwrap();
        let dir = guard.path().canonicalize().unwrap();
        std::fs::write(dir.join("file"), b"keep").unwrap();
        std::os::unix::fs::symlink(dir.join("file"), dir.join("link")).unwrap();
        assert!(matches!(Target::open(&dir.join("link"), 1), Err(SourceError::Symlink(_))));
        assert!(matches!(Target::create(&dir.join("link"), 1), Err(SourceError::Exists(_))));
    }
}
