//! What a backup reads of a volume: the image itself, or a reflink copy of it and of that only what has changed since the copy
//! that was kept by the backup before.
//!
//! A copy is kept until a newer one takes its place: as long as it holds its blocks, an equal place on the disk means equal
//! bytes. It is written down in the catalog before it is made, and removed when the catalog has no more use for it, so that
//! no crash leaves one behind. Whatever is in the way, the image is read as if there were no copies.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::ingest::Known;
use super::{Engine, Settings, log_catalog};
use crate::catalog::reflinks;
use crate::catalog::volume_backups::{self, Part};
use crate::source::{self, Source, SourceError, reflink};
use crate::store::format::CHUNK_SIZE;

/// The directory of the copies, beside the images.
pub const DIRECTORY: &str = ".cofferd";

impl Engine {
    /// Finds the cheapest way to read a volume that can be trusted: from where, and what is known of it.
    pub(super) fn reading(
        &self,
        part: &Part,
        repository_id: Option<i64>,
        image: Source,
        path: &Path,
        settings: &Settings,
    ) -> rusqlite::Result<(Source, Known)> {
        let Some(volume_id) = part.volume_id else { return Ok((image, Known::default())) };
        let (previous, newest) = self.db.read(|c| {
            Ok::<_, rusqlite::Error>((volume_backups::latest_map(c, volume_id, repository_id)?, reflinks::newest(c, volume_id)?))
        })?;
        let nothing_else = Known { previous, changed: None };
        if !settings.reflinks || !source::trusted(&image) {
            return Ok((image, nothing_else));
        }
        let Some(copy) = self.keep_copy(part, &image, path)? else { return Ok((image, nothing_else)) };
        let known = newest.and_then(|(old, map)| match changes(Path::new(&old), &copy) {
            Ok(changed) => changed.map(|changed| Known { previous: Some(map), changed: Some(changed) }),
            Err(error) => {
                log::warn!("{} is read as a whole, because what has changed in it cannot be told: {error}", part.label());
                None
            }
        });
        Ok((copy, known.unwrap_or(nothing_else)))
    }

    /// None if there can be no copy.
    fn keep_copy(&self, part: &Part, image: &Source, path: &Path) -> rusqlite::Result<Option<Source>> {
        let Some(place) = path.parent().map(|directory| directory.join(DIRECTORY).join(&part.uuid)) else { return Ok(None) };
        let Some(name) = place.to_str() else { return Ok(None) };
        self.db.write(|tx| reflinks::insert(tx, name, part.id))?;
        match reflink::keep(image, &place) {
            Ok(Some(copy)) => return Ok(Some(copy)),
            Ok(None) => {}
            Err(error) => log::warn!("no reflink copy of {} can be made, it is read itself: {error}", part.label()),
        }
        self.db.write(|tx| reflinks::remove(tx, name))?;
        Ok(None)
    }

    /// Removes copies that nothing needs any more, or all of them if there shall be none.
    pub(super) fn remove_stale_copies(&self) {
        let find = if self.settings().reflinks { reflinks::stale } else { reflinks::all };
        match self.db.read(find) {
            Ok(stale) => stale.iter().for_each(|path| self.remove_copy(path)),
            Err(error) => log_catalog("look for copies of volumes", &error),
        }
    }

    fn remove_copy(&self, path: &str) {
        if let Err(error) = reflink::remove(&PathBuf::from(path)) {
            // Its file system may be back tomorrow.
            log::warn!("a copy that is of no use any more cannot be removed: {error}");
            return;
        }
        if let Err(error) = self.db.write(|tx| reflinks::remove(tx, path)) {
            log_catalog("forget a copy of a volume", &error);
        }
    }
}

/// None if the older copy is no good any more.
fn changes(old: &Path, new: &Source) -> Result<Option<Vec<Range<u64>>>, SourceError> {
    let Some(old) = reflink::kept(old)? else { return Ok(None) };
    source::changes(&old, new, u64::from(CHUNK_SIZE)).map(Some)
}
