//! Where the bytes of volumes come from and go to: raw image files and block devices.
//!
//! A [`Source`] is read past the page cache where possible, tells data from holes, and notices when the file under it is cut,
//! extended, replaced or removed. A [`Target`] is a new sparse file or an existing file or device that is overwritten.
//! Paths are opened component by component without following symbolic links, so what was allowed is what is opened; the
//! one exception are links that lead from one name in `/dev` to another, because names such as `/dev/vg/volume` are stable
//! and the `/dev/dm-3` behind them is not.
//!
//! Where files can share blocks, [`reflink`] makes a copy of an image as it is at one moment, and [`changes`] tells what differs
//! between two such copies without reading them.

mod buffer;
mod error;
mod extents;
#[cfg(fuzzing)]
pub use extents::fuzz as fuzz_extents;
mod found;
mod path;
pub mod reflink;
mod target;

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
#[cfg(test)]
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::io::Errno;

pub use buffer::{ALIGNMENT, Buffer};
pub use error::SourceError;
pub use extents::{changes, trusted};
pub use found::Found;
use found::Identity;
pub use path::resolve;
pub use target::Target;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file that holds the raw image.
    File,
    /// A block device.
    Block,
}

impl Kind {
    /// The name in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Block => "block",
        }
    }
}

/// What was found at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Absolute, without symbolic links, except that a stable name in `/dev` is kept.
    pub path: PathBuf,
    pub kind: Kind,
    /// Bytes; never 0.
    pub size: u64,
}

/// A volume opened for reading.
pub struct Source {
    path: PathBuf,
    file: File,
    /// The same file opened with `O_DIRECT`, where the file system can do that.
    direct: Option<File>,
    direct_works: AtomicBool,
    kind: Kind,
    size: u64,
    identity: Identity,
    modified: (i64, i64),
    /// Called with the offset before each read: lets a test change the file at a known moment, or fail the read.
    #[cfg(test)]
    pub hook: Option<Hook>,
}

#[cfg(test)]
pub type Hook = Box<dyn Fn(u64) -> io::Result<()> + Send + Sync>;

impl Source {
    pub fn of(found: &Found) -> Result<Source, SourceError> {
        let path = found.path();
        let file = found.open(OFlags::RDONLY)?;
        let io = |e| SourceError::of(path, e);
        let metadata = file.metadata().map_err(io)?;
        let identity = found.identity();
        let size = size_of(&file, identity.kind).map_err(io)?;
        if size == 0 {
            return Err(SourceError::Empty(path.to_path_buf()));
        }
        Ok(Source {
            path: path.to_path_buf(),
            // Not every file system can do that.
            direct: found.open(OFlags::RDONLY | OFlags::DIRECT).ok(),
            direct_works: AtomicBool::new(true),
            file,
            kind: identity.kind,
            size,
            identity,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            #[cfg(test)]
            hook: None,
        })
    }

    #[cfg(test)]
    pub fn open(path: &Path) -> Result<Source, SourceError> {
        Source::of(&Found::at(path)?)
    }

    /// What it is, without the open file.
    pub fn probe(&self) -> Probe {
        Probe { path: self.path.clone(), kind: self.kind, size: self.size }
    }

    /// Bytes, as found when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next range of data at or after `from`; None if only a hole follows. A device is all data.
    pub fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, SourceError> {
        if from >= self.size {
            return Ok(None);
        }
        if self.kind == Kind::Block {
            return Ok(Some(from..self.size));
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some(from..self.size)),
            Err(e) => return Err(self.read_error(from, e.into())),
        };
        if start >= self.size {
            return Ok(None);
        }
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start)).map_err(|e| self.read_error(start, e.into()))?;
        Ok(Some(start..end.clamp(start + 1, self.size)))
    }

    /// Fills the first `len` bytes of `buffer` from `offset` on and returns them. `offset` is a multiple of [`ALIGNMENT`], and
    /// the buffer holds at least `len` rounded up to one.
    pub fn read<'b>(&self, offset: u64, len: usize, buffer: &'b mut Buffer) -> Result<&'b [u8], SourceError> {
        #[cfg(test)]
        if let Some(hook) = &self.hook {
            hook(offset).map_err(|e| self.read_error(offset, e))?;
        }
        let whole = len.next_multiple_of(ALIGNMENT);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let direct = self.direct.as_ref().filter(|_| self.direct_works.load(Ordering::Relaxed));
            match direct.unwrap_or(&self.file).read_at(&mut buffer[done..whole], at) {
                Ok(0) => return Err(self.size_changed()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems accept the flag at open and refuse it here, or refuse to go on after a short read.
                Err(e) if direct.is_some() && e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.direct_works.store(false, Ordering::Relaxed);
                }
                Err(e) => return Err(self.read_error(at, e)),
            }
        }
        if self.direct.is_none() || !self.direct_works.load(Ordering::Relaxed) {
            // Best effort: a backup must not push the host's working set out of the page cache.
            let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len as u64), Advice::DontNeed);
        }
        Ok(&buffer[..len])
    }

    /// Fails if the open file has another size than at the start. Cheap enough to be asked after each read.
    pub fn check_size(&self) -> Result<(), SourceError> {
        let found = match self.kind {
            Kind::File => self.file.metadata().map(|m| m.len()),
            Kind::Block => size_of(&self.file, Kind::Block),
        };
        self.expect_size(found.map_err(|e| SourceError::of(&self.path, e))?)
    }

    /// Fails if this is not the size that was found when it was opened.
    fn expect_size(&self, found: u64) -> Result<(), SourceError> {
        match found.cmp(&self.size) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(SourceError::Shrunk { path: self.path.clone(), found, expected: self.size }),
            std::cmp::Ordering::Greater => Err(SourceError::Grew { path: self.path.clone(), found, expected: self.size }),
        }
    }

    /// Fails if the path no longer leads to the file that was opened, or its size has changed. Otherwise tells whether the
    /// file was written to since it was opened (its modification time changed; never true for devices).
    pub fn check(&self) -> Result<bool, SourceError> {
        self.check_size()?;
        let now = match path::hold(&self.path) {
            Ok(file) => file.metadata().map_err(|e| SourceError::of(&self.path, e))?,
            Err(SourceError::Missing(path)) => return Err(SourceError::Vanished(path)),
            Err(SourceError::Symlink(_)) => return Err(SourceError::Replaced(self.path.clone())),
            Err(e) => return Err(e),
        };
        if !self.identity.is_of(&now) {
            return Err(SourceError::Replaced(self.path.clone()));
        }
        Ok(self.kind == Kind::File && (now.mtime(), now.mtime_nsec()) != self.modified)
    }

    /// A read ended early: says how the size has changed.
    fn size_changed(&self) -> SourceError {
        match self.check_size() {
            Err(e) => e,
            Ok(()) => self.read_error(self.size, io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn read_error(&self, offset: u64, error: io::Error) -> SourceError {
        SourceError::Read { path: self.path.clone(), offset, error }
    }
}

fn size_of(file: &File, kind: Kind) -> io::Result<u64> {
    match kind {
        Kind::File => Ok(file.metadata()?.len()),
        // A device has no length in its metadata; its end is found by seeking. Reads here name their offsets.
        Kind::Block => Ok(rustix::fs::seek(file, SeekFrom::End(0))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A small deterministic generator, so that a failure can be repeated.
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % n
        }
    }

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    fn probe(path: &Path) -> Result<Source, SourceError> {
        Source::open(&resolve(path)?)
    }

    #[test]
    fn resolving_follows_the_links() {
        let (_guard, dir) = dir();
        std::fs::write(dir.join("image"), b"12345").unwrap();
        symlink(dir.join("image"), dir.join("link")).unwrap();
        let probed = probe(&dir.join("link")).unwrap().probe();
        assert_eq!(probed, Probe { path: dir.join("image"), kind: Kind::File, size: 5 });
    }

    #[test]
    fn what_was_found_is_what_is_opened() {
        let (_guard, dir) = dir();
        std::fs::write(dir.join("image"), b"right").unwrap();
        std::fs::write(dir.join("other"), b"wrong").unwrap();
        let found = Found::at(&dir.join("image")).unwrap();
        std::fs::hard_link(dir.join("image"), dir.join("link")).unwrap();
        std::fs::rename(dir.join("other"), dir.join("image")).unwrap();
        assert!(found.is(&dir.join("link")) && !found.is(&dir.join("image")));
        let mut buffer = Buffer::new(4096);
        assert_eq!(Source::of(&found).unwrap().read(0, 5, &mut buffer).unwrap(), b"right");
        Target::over(&found, 5).unwrap().write(0, b"again").unwrap();
        assert_eq!(std::fs::read(dir.join("link")).unwrap(), b"again");
        assert_eq!(std::fs::read(dir.join("image")).unwrap(), b"wrong");
    }

    #[test]
    fn what_is_no_volume_is_refused_with_a_reason() {
        let (_guard, dir) = dir();
        std::fs::write(dir.join("empty"), b"").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(probe(&dir.join("nothing")), Err(SourceError::Missing(_))));
        assert!(matches!(probe(&dir), Err(SourceError::Directory(_))));
        assert!(matches!(probe(&dir.join("empty")), Err(SourceError::Empty(_))));
        assert!(matches!(probe(&dir.join("pipe")), Err(SourceError::NotAVolume(_))));
        for door in ["/dev/null", "/dev/zero", "/proc/kcore", "/proc/self/mem", "/sys/kernel/notes"] {
            assert!(matches!(probe(Path::new(door)), Err(SourceError::NotAVolume(_) | SourceError::Missing(_))), "{door}");
        }
        assert!(matches!(Source::open(Path::new("image")), Err(SourceError::NotAbsolute(_))));
        assert!(matches!(Source::open(&dir.join("../x")), Err(SourceError::NotAbsolute(_))));
    }

    #[test]
    fn symbolic_links_are_never_followed_when_opening() {
        let (_guard, dir) = dir();
        std::fs::create_dir(dir.join("real")).unwrap();
        std::fs::write(dir.join("real/image"), b"x").unwrap();
        symlink(dir.join("real"), dir.join("directory")).unwrap();
        symlink("image", dir.join("real/link")).unwrap();
        for path in ["directory/image", "real/link"] {
            let error = Source::open(&dir.join(path)).err().unwrap();
            assert!(matches!(error, SourceError::Symlink(_)), "{error}");
        }
        Source::open(&dir.join("real/image")).unwrap();
    }

    #[test]
    fn data_is_told_from_holes_and_read_exactly() {
        let (_guard, dir) = dir();
        let path = dir.join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len((8 << 20) + 5).unwrap();
        file.write_at(&[7; 100], 4 << 20).unwrap();
        file.write_at(b"tail!", 8 << 20).unwrap();
        let source = Source::open(&path).unwrap();
        let first = source.next_data(0).unwrap().unwrap();
        assert!(first.start <= 4 << 20 && first.end >= (4 << 20) + 100);
        let mut buffer = Buffer::new(1 << 20);
        assert_eq!(source.read(4 << 20, 100, &mut buffer).unwrap(), &[7; 100]);
        assert_eq!(source.read(8 << 20, 5, &mut buffer).unwrap(), b"tail!");
        assert_eq!(source.next_data(source.size()).unwrap(), None);
    }

    #[test]
    fn a_source_notices_what_happens_to_its_file() {
        let (_guard, dir) = dir();
        let path = dir.join("image");
        let fresh = || {
            std::fs::write(&path, vec![1; 10_000]).unwrap();
            Source::open(&path).unwrap()
        };
        let source = fresh();
        assert!(!source.check().unwrap());
        File::options().write(true).open(&path).unwrap().set_len(5_000).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Shrunk { found: 5_000, expected: 10_000, .. })));
        let source = fresh();
        File::options().write(true).open(&path).unwrap().set_len(20_000).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Grew { .. })));
        let source = fresh();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Vanished(_))));
        std::fs::write(&path, vec![1; 10_000]).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Replaced(_))));
        let source = fresh();
        let written = File::options().write(true).open(&path).unwrap();
        written.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
        assert!(source.check().unwrap());
    }
}
