//! Reflink copies of image files: the state of an image at one moment, made without copying bytes.
//!
//! A copy shares its blocks with the image, so it takes no room until the image is written to, and no writer comes between its
//! beginning and its end (ioctl_ficlonerange(2)): it is what the disk would hold after a power cut. It is read like any other
//! [`Source`], whose checks are then about the copy. One that is kept tells at the next backup what has changed since
//! ([`super::changes`]).
//!
//! A copy has the modification time 0. Whoever writes to it later moves that on, so a copy that is no longer what it was is known
//! without any record of it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::path::{self, Place};
use super::{Found, Kind, Source, SourceError};

/// Seconds and nanoseconds.
const UNTOUCHED: (i64, i64) = (0, 0);
const WRITABLE_BY_OTHERS: Mode = Mode::WGRP.union(Mode::WOTH);

/// Makes a copy of an open image at an absolute path on the same file system, mode 0600, on the disk when this returns, and opens it.
/// The directory it lies in is made if need be; it must be nobody else's. Nothing is ever overwritten, and a crash leaves the whole
/// copy or none. None if the file system cannot do it.
///
/// Writers to the image wait meanwhile, because every extent gets another owner: a tenth of a second for some thousand of them,
/// seconds for 100,000.
pub fn keep(source: &Source, path: &Path) -> Result<Option<Source>, SourceError> {
    if source.kind != Kind::File {
        return Ok(None);
    }
    make_directory(path)?;
    let copy = copy(source, path);
    if !matches!(copy, Ok(Some(_))) {
        remove_directory(path);
    }
    copy
}

fn copy(source: &Source, path: &Path) -> Result<Option<Source>, SourceError> {
    let io = |e: Errno| SourceError::of(path, e.into());
    let place = own(path)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let copy = match rustix::fs::openat(&place.directory, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(copy) => copy,
        Err(Errno::OPNOTSUPP) => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    match_flags(&source.file, &copy);
    match rustix::fs::ioctl_ficlone(&copy, &source.file) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::TXTBSY) => return Ok(None),
        Err(e) => return Err(io(e)),
    }
    let copy = File::from(copy);
    source.expect_size(copy.metadata().map_err(|e| SourceError::of(path, e))?.len())?;
    let untouched = Timespec { tv_sec: UNTOUCHED.0, tv_nsec: UNTOUCHED.1 };
    rustix::fs::futimens(&copy, &Timestamps { last_access: untouched, last_modification: untouched }).map_err(io)?;
    let unnamed = format!("/proc/self/fd/{}", copy.as_raw_fd());
    rustix::fs::linkat(CWD, unnamed, &place.directory, place.name, AtFlags::SYMLINK_FOLLOW).map_err(io)?;
    // A power cut may not take back what the copy shares with the image and what has been backed up of it.
    let synced = rustix::fs::fsync(&copy).and_then(|()| rustix::fs::fsync(readable(&place)?)).map_err(io);
    // The copy itself, not what has its name by now.
    let opened = synced.and_then(|()| Source::of(&Found::held(path, copy)?));
    if opened.is_err() {
        // Nobody would know of it.
        let _ = rustix::fs::unlinkat(&place.directory, place.name, AtFlags::empty());
    }
    opened.map(Some)
}

/// Opens a copy that [`keep`] has made. None if it is gone, or somebody has written to it.
pub fn kept(path: &Path) -> Result<Option<Source>, SourceError> {
    match own(path).and_then(|place| Source::of(&Found::in_place(&place, path)?)) {
        Ok(copy) => Ok(Some(copy).filter(|copy| copy.kind == Kind::File && copy.modified == UNTOUCHED)),
        Err(SourceError::Missing(_) | SourceError::Empty(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a copy, if it is there, and the directory with the last one.
pub fn remove(path: &Path) -> Result<(), SourceError> {
    let place = match own(path) {
        Ok(place) => place,
        Err(SourceError::Missing(_)) => return Ok(()),
        Err(e) => return Err(e),
    };
    match rustix::fs::unlinkat(&place.directory, place.name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(SourceError::of(path, e.into())),
    }
    remove_directory(path);
    Ok(())
}

/// Makes the directory that a path lies in.
fn make_directory(path: &Path) -> Result<(), SourceError> {
    let directory = path.parent().unwrap_or(path);
    let outer = path::walk(directory)?;
    match rustix::fs::mkdirat(&outer.directory, outer.name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(SourceError::of(directory, e.into())),
    }
}

/// Removes our directory that a path lies in, unless there is anything in it. Best effort: an empty directory does no harm.
fn remove_directory(path: &Path) {
    if own(path).is_ok()
        && let Ok(outer) = path::walk(path.parent().unwrap_or(path))
    {
        let _ = rustix::fs::unlinkat(&outer.directory, outer.name, AtFlags::REMOVEDIR);
    }
}

/// Walks to a copy's directory. It must belong to the user of this process, and nobody else may write to it: whoever can put
/// another file in the place of a copy decides what is taken for unchanged.
fn own(path: &Path) -> Result<Place<'_>, SourceError> {
    let place = path::walk(path)?;
    let found = rustix::fs::fstat(&place.directory).map_err(|e| SourceError::of(path, e.into()))?;
    let others = Mode::from_raw_mode(found.st_mode).intersects(WRITABLE_BY_OTHERS);
    if found.st_uid != rustix::process::geteuid().as_raw() || others {
        return Err(SourceError::NotOurs(path.parent().unwrap_or(path).to_path_buf()));
    }
    Ok(place)
}

/// A directory that was only walked to, opened for reading and syncing.
fn readable(place: &Place) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(&place.directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Btrfs shares blocks only between files that both have checksums or both have none (`chattr +C`, which is what libvirt gives its
/// images), and lets that be chosen as long as a file is empty. If it does not work, the copying fails and says so.
fn match_flags(image: &File, copy: &OwnedFd) {
    if let (Ok(wanted), Ok(found)) = (rustix::fs::ioctl_getflags(image), rustix::fs::ioctl_getflags(copy))
        && (wanted ^ found).contains(IFlags::NOCOW)
    {
        let _ = rustix::fs::ioctl_setflags(copy, found ^ IFlags::NOCOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Random;
    use crate::source::{Buffer, changes, trusted};
    use rustix::fs::FallocateFlags;
    use std::os::unix::fs::{FileExt, MetadataExt, symlink};
    use std::path::PathBuf;
    use std::process::Command;

    /// A new file system in a file, mounted until it is dropped.
    struct Mounted {
        root: PathBuf,
        _guard: tempfile::TempDir,
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.root).status();
        }
    }

    /// None, and a word why, where that cannot be done: it takes root, loop devices and the tools of the file system.
    fn mounted(make: &[&str], options: &str) -> Option<Mounted> {
        // In memory if may be: much is synced.
        let guard = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (image, root) = (guard.path().join("disk"), guard.path().canonicalize().unwrap().join("root"));
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir(&root).unwrap();
        let made = Command::new(make[0]).args(&make[1..]).arg("-q").arg(&image).output();
        let mount = || Command::new("mount").args(["-o", &format!("loop,{options}")]).arg(&image).arg(&root).output();
        match made.and_then(|made| if made.status.success() { mount() } else { Ok(made) }) {
            Ok(done) if done.status.success() => Some(Mounted { root, _guard: guard }),
            failed => {
                let why = failed.map_or_else(|e| e.to_string(), |done| String::from_utf8_lossy(&done.stderr).into_owned());
                eprintln!("skipped: no {} here: {}", make[0], why.trim());
                None
            }
        }
    }

    fn xfs() -> Option<Mounted> {
        mounted(&["mkfs.xfs", "-m", "reflink=1"], "rw")
    }

    const SIZE: u64 = 8 << 20;
    const BLOCK: u64 = 4096;

    /// One random change of an image. Btrfs compresses only files in which nothing was ever preallocated.
    fn disturb(image: &File, preallocate: bool, random: &mut Random) {
        let size = image.metadata().unwrap().len();
        let most = [100, BLOCK, 32 << 10, 256 << 10][random.below(4) as usize];
        let len = 1 + random.below(most);
        let at = random.below(size - len);
        let byte = random.below(256) as u8;
        match random.below(if preallocate { 12 } else { 10 }) {
            0..=3 => image.write_all_at(&vec![byte; len as usize], at).unwrap(),
            4..=5 => {
                let noise: Vec<u8> = (0..len.div_ceil(4)).flat_map(|_| (random.below(1 << 32) as u32).to_le_bytes()).collect();
                image.write_all_at(&noise[..len as usize], at).unwrap();
            }
            // As machines write: past the page cache.
            6..=8 => {
                let mut buffer = Buffer::new(len.next_multiple_of(BLOCK) as usize);
                buffer.fill(byte);
                let direct = crate::source::found::reopen(image, OFlags::WRONLY | OFlags::DIRECT).unwrap();
                direct.write_all_at(&buffer, at / BLOCK * BLOCK).unwrap();
            }
            9 => rustix::fs::fallocate(image, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len).unwrap(),
            10 => rustix::fs::fallocate(image, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, at, len).unwrap(),
            // Room beyond the end; another end, sometimes; bytes on the disk.
            _ => match random.below(4) {
                0 => rustix::fs::fallocate(image, FallocateFlags::KEEP_SIZE, size, len).unwrap(),
                1 => image.set_len(SIZE - random.below(2) * random.below(1 << 18)).unwrap(),
                2 => image.sync_all().unwrap(),
                _ => rustix::fs::fallocate(image, FallocateFlags::empty(), at, len).unwrap(),
            },
        }
    }

    /// Generations of an image, each compared with the one before. Returns how much of all of them was said to be changed.
    fn generations(root: &Path, seed: u64, attribute: &str, preallocate: bool) -> u64 {
        let mut random = Random(seed);
        let path = root.join(format!("image{seed}{attribute}"));
        let image = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        if !attribute.is_empty() {
            assert!(Command::new("chattr").arg(attribute).arg(&path).status().unwrap().success());
        }
        image.set_len(SIZE).unwrap();
        (0..60).for_each(|_| disturb(&image, preallocate, &mut random));
        let name = |generation| root.join(".kept").join(format!("{seed}{attribute}.{generation}"));
        let mut old = keep(&Source::open(&path).unwrap(), &name(0)).unwrap().expect("a copy");
        let mut said = 0;
        for generation in 1..=20 {
            (0..random.below(30)).for_each(|_| disturb(&image, preallocate, &mut random));
            let bytes = std::fs::read(&path).unwrap();
            let new = keep(&Source::open(&path).unwrap(), &name(generation)).unwrap().expect("a copy");
            (0..5).for_each(|_| disturb(&image, preallocate, &mut random));
            assert!(!new.check().unwrap());
            let (before, after) = (std::fs::read(name(generation - 1)).unwrap(), std::fs::read(name(generation)).unwrap());
            assert!(after == bytes, "seed {seed}, generation {generation}: the copy is not what the image was");
            let granule = [1, BLOCK, 64 << 10][random.below(3) as usize];
            let changed = changes(&old, &new, granule).unwrap();
            for (number, block) in after.chunks(512).enumerate() {
                let at = number as u64 * 512;
                if before.get(at as usize..at as usize + block.len()) != Some(block) {
                    let end = at + block.len() as u64;
                    let first = changed.partition_point(|range| range.end <= at);
                    let found = changed.get(first).is_some_and(|range| range.start < end);
                    assert!(found, "seed {seed}, generation {generation}: missed {at}");
                }
            }
            said += changed.iter().map(|range| range.end - range.start).sum::<u64>();
            drop(std::mem::replace(&mut old, new));
            remove(&name(generation - 1)).unwrap();
        }
        remove(&name(20)).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!root.join(".kept").exists());
        said
    }

    /// How often; each time something else.
    fn seeds() -> std::ops::RangeInclusive<u64> {
        1..=std::env::var("COFFERD_TEST_RUNS").map_or(1, |runs| runs.parse().unwrap())
    }

    #[test]
    fn no_change_on_xfs_is_missed() {
        let Some(disk) = xfs() else { return };
        for seed in seeds() {
            let said = generations(&disk.root, seed, "", true);
            assert!(said < 20 * SIZE / 3, "{said}");
        }
    }

    #[test]
    fn no_change_on_btrfs_is_missed_whatever_it_does_with_the_data() {
        for compress in [false, true] {
            let Some(disk) = mounted(&["mkfs.btrfs"], if compress { "compress-force=zstd" } else { "rw" }) else { return };
            for seed in seeds() {
                for (attribute, preallocate) in [("", true), ("", false), ("+C", true)] {
                    let said = generations(&disk.root, seed, attribute, preallocate);
                    let compressed = compress && attribute.is_empty() && !preallocate;
                    assert_eq!(said > 20 * SIZE / 3, compressed, "{said}");
                }
            }
        }
    }

    #[test]
    fn a_copy_is_private_stays_what_it_was_and_is_not_trusted_once_written_to() {
        let Some(disk) = xfs() else { return };
        let (path, copy) = (disk.root.join("image"), disk.root.join(".kept/one"));
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let source = Source::open(&path).unwrap();
        assert!(trusted(&source) && kept(&copy).unwrap().is_none());
        let first = keep(&source, &copy).unwrap().unwrap();
        let (found, directory) = (std::fs::metadata(&copy).unwrap(), std::fs::metadata(disk.root.join(".kept")).unwrap());
        assert_eq!((found.mode() & 0o7777, directory.mode() & 0o7777, found.len()), (0o600, 0o700, 100_000));
        assert!(matches!(keep(&source, &copy), Err(SourceError::Exists(_))));

        std::fs::write(&path, vec![2; 50]).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Shrunk { .. })) && !first.check().unwrap());
        assert!(matches!(keep(&source, &disk.root.join(".kept/two")), Err(SourceError::Shrunk { .. })));
        let mut buffer = Buffer::new(102_400);
        assert_eq!(kept(&copy).unwrap().unwrap().read(0, 100_000, &mut buffer).unwrap(), vec![1; 100_000]);

        File::options().write(true).open(&copy).unwrap().write_all_at(b"!", 0).unwrap();
        assert!(kept(&copy).unwrap().is_none() && first.check().unwrap());
        remove(&copy).unwrap();
        remove(&copy).unwrap();
        assert!(!disk.root.join(".kept").exists());
    }

    #[test]
    fn a_file_system_that_cannot_share_is_left_as_it_was() {
        let (Some(one), Some(other)) = (mounted(&["mkfs.xfs", "-m", "reflink=0"], "rw"), xfs()) else { return };
        let path = one.root.join("image");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let source = Source::open(&path).unwrap();
        for root in [&one.root, &other.root] {
            assert!(keep(&source, &root.join(".kept/copy")).unwrap().is_none());
            assert!(!root.join(".kept").exists());
        }
        std::fs::copy(&path, other.root.join("image")).unwrap();
        let foreign = Source::open(&other.root.join("image")).unwrap();
        assert!(matches!(changes(&source, &foreign, BLOCK), Err(SourceError::Extents { .. })));
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let guard = tempfile::tempdir().unwrap();
        let dir = guard.path().canonicalize().unwrap();
        std::fs::write(dir.join("image"), vec![1; 5000]).unwrap();
        let source = Source::open(&dir.join("image")).unwrap();
        std::fs::create_dir(dir.join("open")).unwrap();
        std::fs::set_permissions(dir.join("open"), std::os::unix::fs::PermissionsExt::from_mode(0o770)).unwrap();
        symlink(dir.join("open"), dir.join("link")).unwrap();
        for (directory, linked) in [("open", false), ("link", true)] {
            let path = dir.join(directory).join("copy");
            let errors = [
                keep(&source, &path).err(),
                kept(&path).err(),
                remove(&path).err(),
            ];
            for error in errors.map(|error| error.expect("a refusal")) {
                let fits = if linked { matches!(error, SourceError::Symlink(_)) } else { matches!(error, SourceError::NotOurs(_)) };
                assert!(fits, "{error}");
            }
        }
    }
}
