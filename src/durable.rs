//! Names that outlive a power cut. A file's own sync makes its bytes last; that there is a file of this name, or none any more, is what its
//! directory's sync is for.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Returns when what happened to the names in a directory is on the disk.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Returns when the name of this file is on the disk, or that it is gone.
pub fn sync_name(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) if directory.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(directory) => sync_directory(directory),
        None => Ok(()),
    }
}

/// Makes a directory and those above it, unless they are there, and returns when their names are on the disk.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        // Whoever made it may have been killed before this. That it was made by somebody else, elsewhere, is no reason to fail.
        let _ = sync_name(path);
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_directory(above, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_name(path)
}

/// Gives a file other content, and returns when that is on the disk. Mode and owner stay; a new file has `mode`. A crash leaves the old
/// content or the new.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let old = match std::fs::metadata(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(directory) = path.parent() {
        make_directory(directory, 0o755)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{:016x}", getrandom::u64().map_err(io::Error::other)?));
    let beside = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        if let Some(old) = &old {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(old.permissions())?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&beside)))?;
    sync_name(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn directories_are_made_with_their_mode_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        make_directory(&path, 0o700).unwrap();
        make_directory(&path, 0o755).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert!(make_directory(&dir.path().join("file"), 0o700).is_err() && make_directory(&dir.path().join("file/below"), 0o700).is_err());
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_one_that_cannot_be_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/file");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(replace(&path.join("below"), b"three", 0o600).is_err());
        assert!(replace(dir.path(), b"three", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count() + std::fs::read_dir(dir.path().join("new")).unwrap().count(), 2);
    }
}
