//! Which paths of the host volumes may have. A path is host-wide read access through backup and restore, so it must lie
//! under a root that the administrator has configured.

use std::path::{Path, PathBuf};

use super::{EngineError, Settings};
use crate::source::Source;

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("{path} does not lie under a configured root ({roots}); add its directory to volumes.roots in the configuration", path = .path.display())]
    Outside { path: PathBuf, roots: String },
    #[error("no path may be used yet: set volumes.roots in the configuration to the directories that hold disk images, then reload")]
    NoRoots,
}

/// Is this resolved path under a root? Where cofferd makes volumes is one too.
pub fn check_allowed(path: &Path, settings: &Settings) -> Result<(), PlaceError> {
    let roots = settings.roots.iter().chain([&settings.restore_directory, &settings.pool_directory]);
    if roots.clone().any(|root| under(path, root)) {
        return Ok(());
    }
    if settings.roots.is_empty() {
        return Err(PlaceError::NoRoots);
    }
    let roots: Vec<String> = settings.roots.iter().map(|root| root.display().to_string()).collect();
    Err(PlaceError::Outside { path: path.to_path_buf(), roots: roots.join(", ") })
}

/// Opens a registered disk to be read. The roots may have changed since it was registered.
pub fn open_source(path: &Path, settings: &Settings) -> Result<Source, EngineError> {
    check_allowed(path, settings)?;
    Source::open(path).map_err(EngineError::Source)
}

/// `path` has no links left; the root may be one, such as /var/run.
fn under(path: &Path, root: &Path) -> bool {
    path.starts_with(root) || root.canonicalize().is_ok_and(|root| path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScrubConfig;

    #[test]
    fn only_whole_components_under_a_root_count() {
        let settings = |roots: &[&str]| Settings {
            workers: 1,
            roots: roots.iter().map(PathBuf::from).collect(),
            restore_directory: "/var/lib/cofferd/restored".into(),
            pool_directory: "/var/lib/cofferd/volumes".into(),
            reflinks: false,
            scrub: ScrubConfig::default(),
        };
        assert!(check_allowed(Path::new("/srv/vm/a.img"), &settings(&["/srv"])).is_ok());
        assert!(check_allowed(Path::new("/var/lib/cofferd/restored/x"), &settings(&[])).is_ok());
        assert!(matches!(check_allowed(Path::new("/srv2/a.img"), &settings(&["/srv"])), Err(PlaceError::Outside { .. })));
        assert!(matches!(check_allowed(Path::new("/srv/a.img"), &settings(&[])), Err(PlaceError::NoRoots)));
    }
}
