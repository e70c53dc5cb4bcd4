//! Names that outlive a power cut. A file's own sync makes its bytes last; that there is a file of this name, or none any more, is what its
//! directory's sync is for.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
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
}
