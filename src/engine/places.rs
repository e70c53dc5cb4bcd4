//! Which paths of the host are read and written. A path is host-wide read access through backup and restore, so it must lie
//! under a root that the administrator has configured, and be none of the coffer's own files, whatever its name.
//!
//! Both are asked each time that a path is opened, of the very file that is opened: since it was registered the roots may have changed,
//! and somebody may have put another file in its place.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::reading::DIRECTORY as REFLINK_DIRECTORY;
use super::{EngineError, Settings};
use crate::source::{Found, Probe, Source, SourceError, Target, resolve};

/// Names in the state directory that begin so are the coffer's, or would be taken for its.
const OWN_NAMES: [&str; 3] = ["coffer.", "cofferd.sock", "admin.token"];
/// Those of them that can have another name as well.
const OWN_FILES: [&str; 5] = ["coffer.db", "coffer.db-wal", "coffer.db-shm", "coffer.lock", "admin.token"];

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("{path} does not lie under a configured root ({roots}); add its directory to volumes.roots in the configuration", path = .path.display())]
    Outside { path: PathBuf, roots: String },
    #[error("no path may be used yet: set volumes.roots in the configuration to the directories that hold disk images, then reload")]
    NoRoots,
    #[error("{0} belongs to the coffer itself; choose another place")]
    Own(PathBuf),
}

/// How far somebody's paths reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Below the roots, and where cofferd makes volumes.
    Roots,
    /// Wherever this process can write: for who is administrator of the host and could write there anyway.
    Host,
}

impl Reach {
    /// Does a path without links lie within?
    fn check(self, path: &Path, settings: &Settings) -> Result<(), PlaceError> {
        let roots = settings.roots.iter().chain([&settings.restore_directory, &settings.pool_directory]);
        if self == Reach::Host || roots.clone().any(|root| under(path, root)) {
            return Ok(());
        }
        if settings.roots.is_empty() {
            return Err(PlaceError::NoRoots);
        }
        let roots: Vec<String> = settings.roots.iter().map(|root| root.display().to_string()).collect();
        Err(PlaceError::Outside { path: path.to_path_buf(), roots: roots.join(", ") })
    }
}

/// Looks at what a path leads to, by links or not: what is to be registered, or written over.
pub fn probe(path: &Path, reach: Reach, settings: &Settings) -> Result<Probe, EngineError> {
    let path = resolve(path).map_err(EngineError::Source)?;
    Ok(open_source_within(&path, reach, settings)?.probe())
}

/// Opens a registered disk to be read.
pub fn open_source(path: &Path, settings: &Settings) -> Result<Source, EngineError> {
    open_source_within(path, Reach::Roots, settings)
}

fn open_source_within(path: &Path, reach: Reach, settings: &Settings) -> Result<Source, EngineError> {
    Source::of(&find(path, reach, settings)?.map_err(EngineError::Source)?).map_err(EngineError::Source)
}

/// Opens what is there to be written over.
pub fn open_target(path: &Path, size: u64, reach: Reach, settings: &Settings) -> Result<Target, EngineError> {
    Target::over(&find(path, reach, settings)?.map_err(EngineError::Target)?, size).map_err(EngineError::Target)
}

/// Makes a new file.
pub fn create_target(path: &Path, size: u64, reach: Reach, settings: &Settings) -> Result<Target, EngineError> {
    check_new(path, reach, settings)?;
    Target::create(path, size).map_err(EngineError::Target)
}

/// May there be a new file of this name?
pub fn check_new(path: &Path, reach: Reach, settings: &Settings) -> Result<(), PlaceError> {
    reach.check(path, settings)?;
    if has_own_name(path, settings) { Err(PlaceError::Own(path.to_path_buf())) } else { Ok(()) }
}

/// To be asked before anything is opened: closing any descriptor of the coffer drops the locks that SQLite has on it in this process
/// (fcntl(2)), and then another process can take the WAL away from under the daemon.
fn find(path: &Path, reach: Reach, settings: &Settings) -> Result<Result<Found, SourceError>, PlaceError> {
    check_new(path, reach, settings)?;
    let found = Found::at(path);
    match &found {
        Ok(found) if OWN_FILES.iter().any(|own| found.is(&settings.state_directory.join(own))) => Err(PlaceError::Own(path.to_path_buf())),
        _ => Ok(found),
    }
}

/// Other files may lie beside the coffer, restored volumes and copies of the coffer among them.
fn has_own_name(path: &Path, settings: &Settings) -> bool {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return false };
    let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    // The same directory may be mounted in two places.
    let same = |other: &Path| directory == other || identity(directory).is_some_and(|found| identity(other) == Some(found));
    // Reflink copies are removed when they are of no use any more, whatever has become of them.
    let copy = directory.file_name().is_some_and(|name| name == REFLINK_DIRECTORY) && name.len() == 32;
    copy || OWN_NAMES.iter().any(|own| name.starts_with(own)) && same(&settings.state_directory)
}

/// `path` has no links left; the root may be one, such as /var/run.
fn under(path: &Path, root: &Path) -> bool {
    path.starts_with(root) || root.canonicalize().is_ok_and(|root| path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScrubConfig;

    fn settings(state: &str, roots: &[&str]) -> Settings {
        Settings {
            workers: 1,
            state_directory: state.into(),
            roots: roots.iter().map(PathBuf::from).collect(),
            restore_directory: "/var/lib/cofferd/restored".into(),
            pool_directory: "/var/lib/cofferd/volumes".into(),
            reflinks: false,
            scrub: ScrubConfig::default(),
        }
    }

    #[test]
    fn only_whole_components_under_a_root_count() {
        let check = |path: &str, roots: &[&str]| Reach::Roots.check(Path::new(path), &settings("/s", roots));
        assert!(check("/srv/vm/a.img", &["/srv"]).is_ok());
        assert!(check("/var/lib/cofferd/restored/x", &[]).is_ok());
        assert!(matches!(check("/srv2/a.img", &["/srv"]), Err(PlaceError::Outside { .. })));
        assert!(matches!(check("/srv/a.img", &[]), Err(PlaceError::NoRoots)));
        assert!(Reach::Host.check(Path::new("/srv/a.img"), &settings("/s", &[])).is_ok());
    }

    #[test]
    fn the_coffers_own_names_are_known() {
        let own = |path: &str| has_own_name(Path::new(path), &settings("/s", &[]));
        for ours in ["/s/coffer.db", "/s/coffer.db-wal", "/s/coffer.lock", "/s/cofferd.sock", "/s/admin.token", "/vm/.cofferd/0123456789abcdef0123456789abcdef"] {
            assert!(own(ours), "{ours}");
        }
        for other in ["/s/restored/a/b.raw", "/s/copy.db", "/t/coffer.db", "/s/x/coffer.db", "/vm/.cofferd/a.raw", "/s", "/"] {
            assert!(!own(other), "{other}");
        }
    }

    #[test]
    fn another_name_of_the_coffer_is_the_coffer() {
        let guard = tempfile::tempdir().unwrap();
        let dir = guard.path().canonicalize().unwrap();
        let state = dir.join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("coffer.db"), b"coffer").unwrap();
        std::fs::hard_link(state.join("coffer.db"), dir.join("link")).unwrap();
        std::fs::write(dir.join("image"), b"image").unwrap();
        let settings = settings(state.to_str().unwrap(), &[dir.to_str().unwrap()]);
        let refused = |path: &str| matches!(open_source(&dir.join(path), &settings), Err(EngineError::Place(PlaceError::Own(_))));
        assert!(refused("link") && refused("state/coffer.db") && !refused("image"));
        assert!(matches!(open_target(&dir.join("link"), 1, Reach::Host, &settings), Err(EngineError::Place(PlaceError::Own(_)))));
    }
}
