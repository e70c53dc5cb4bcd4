//! Volumes out of a coffer that SQLite cannot open or walk any more. The file is read page by page and never written to; nothing
//! here goes through SQLite, and any bytes whatever may be in the file.
//!
//! First the file is surveyed ([`survey`]): the rows of the tables that matter are found by way of their trees, then those that no
//! tree leads to any more. Then each volume is put together from the rows ([`volume`], [`chunks`]) and verified by its hashes.
//! In memory are the places of rows and the beginnings of the chunks' names: some ten MiB for a tebibyte.

mod btree;
mod chunks;
mod pages;
mod strays;
mod survey;
mod volume;
mod wal;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::source::{SourceError, Target};
use chunks::Chunks;
use pages::Pages;
use survey::{Part, Survey};
pub use volume::{Fault, Outcome};
use volume::Map;

#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("{0} is in use by a cofferd; stop it first, or salvage a copy")]
    InUse(PathBuf),
    #[error(transparent)]
    Target(#[from] SourceError),
}

/// A coffer that was looked through.
pub struct Salvage {
    pages: Pages,
    survey: Survey,
    /// Keeps a daemon from being started meanwhile.
    _lock: Option<File>,
}

/// A volume that was stored, or of which at least the catalog says so.
pub struct Version {
    pub map_id: i64,
    /// None: no catalog row tells of it.
    pub part: Option<Part>,
    map: Option<Map>,
}

impl Salvage {
    /// Looks through a coffer. `progress` is told of pages that are done, and of all.
    pub fn open(coffer: &Path, progress: &dyn Fn(u64, u64)) -> Result<Salvage, SalvageError> {
        let lock = lock(coffer)?;
        let pages = Pages::open(coffer).map_err(|e| SalvageError::Io(coffer.to_path_buf(), e))?;
        let survey = Survey::new(&pages, progress);
        Ok(Salvage { pages, survey, _lock: lock })
    }

    /// All volumes of all backups that were stored completely, and those that no backup tells of.
    pub fn versions(&self) -> Vec<Version> {
        let mut parts = self.survey.parts(&self.pages);
        parts.sort_by_key(|part| (part.backup.as_ref().map(|backup| (backup.created, backup.uuid.clone())), part.position));
        let known: HashSet<i64> = parts.iter().map(|part| part.map).collect();
        let unknown = self.survey.maps.first_of_each().map(|(id, _)| id).filter(|id| !known.contains(id));
        let all = parts.into_iter().map(|part| (part.map, Some(part))).chain(unknown.map(|id| (id, None)));
        all.map(|(map_id, part)| Version { map_id, part, map: Map::find(&self.pages, &self.survey, map_id) }).collect()
    }

    /// Begins to read volumes.
    pub fn reader(&self) -> io::Result<Reader<'_>> {
        Ok(Reader { chunks: Chunks::new(&self.pages, &self.survey)? })
    }

    /// What is wrong with the file as a whole, in words.
    pub fn remarks(&self) -> Vec<String> {
        [
            (self.survey.found, "rows were found that no table leads to any more"),
            (self.pages.damaged_frames(), "frames of the write-ahead log are damaged and were left out"),
            (self.pages.unreadable_blocks(), "times a block of the disk could not be read"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect()
    }
}

/// Puts volumes together.
pub struct Reader<'a> {
    chunks: Chunks<'a>,
}

impl Reader<'_> {
    /// Writes a volume to a new file, which is removed again if that fails. None if there is no map of it.
    pub fn write(&mut self, version: &Version, path: &Path, progress: &dyn Fn(u64)) -> Result<Option<Outcome>, SalvageError> {
        let Some(map) = &version.map else { return Ok(None) };
        let target = Target::create(path, map.size)?;
        let written = map.write(&mut self.chunks, &target, progress);
        if written.is_err() {
            let _ = std::fs::remove_file(path);
        }
        Ok(Some(written?))
    }
}

impl Version {
    /// Bytes of the volume; None if it is lost.
    pub fn size(&self) -> Option<u64> {
        self.map.as_ref().map(|map| map.size)
    }
}

/// None if there is no lock file, as beside a copy.
fn lock(coffer: &Path) -> Result<Option<File>, SalvageError> {
    let Ok(file) = File::open(coffer.with_extension("lock")) else { return Ok(None) };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SalvageError::InUse(coffer.to_path_buf())),
        _ => Ok(Some(file)),
    }
}
