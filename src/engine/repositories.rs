//! The repositories as the engine sees them: opened from the configuration, taken at the first use, tended after collections, and
//! attached by a host that has lost its coffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::ingest::Progress;
use super::{Engine, EngineError, manifest};
use crate::catalog::manifests::{self, Manifest};
use crate::catalog::repositories;
use crate::clock;
use crate::config::Config;
use crate::objects::{self, Objects, Settings};
use crate::store::format::Hash;
use crate::store::{Adopted, Mark, Remote, Store, StoreError};

/// Bytes of a manifest, at most: that of a volume of 64 TiB has five million.
const LARGEST_MANIFEST: usize = 64 << 20;

/// One that the configuration names and that can be opened.
pub struct Place {
    pub name: String,
    pub objects: Box<dyn Objects>,
    /// Objects that are sent or brought at once.
    pub connections: usize,
}

/// Opens those of the configuration. One that cannot be opened is left out, and the log says why: the others go on.
pub fn places(config: &Config) -> Vec<Place> {
    let open = |(name, settings): (&String, &Settings)| {
        match objects::open(settings) {
            Ok(objects) => Some(Place { name: name.clone(), objects, connections: settings.connections }),
            Err(error) => {
                log::error!("repository {name} cannot be used: {error}");
                None
            }
        }
    };
    config.repositories.iter().filter_map(open).collect()
}

impl Engine {
    /// These are the repositories from now on; backups that name none go to `default`, or into the coffer. Nothing is sent yet.
    pub fn open_repositories(&self, places: Vec<Place>, default: Option<&str>) -> rusqlite::Result<()> {
        let rows = self.db.write(|tx| {
            let rows = places.iter().map(|place| repositories::ensure(tx, &place.name, clock::now_ms())).collect::<Result<Vec<_>, _>>()?;
            repositories::set_default(tx, default)?;
            Ok::<_, rusqlite::Error>(rows)
        })?;
        let remote = |(row, place): (repositories::Repository, Place)| {
            let mark = Mark { writer: row.writer, epoch: row.epoch };
            Remote::new(row.id, row.name, &*place.objects, place.connections, mark, self.hurry.clone())
        };
        self.store.remotes.replace(rows.into_iter().zip(places).map(remote));
        Ok(())
    }

    /// A repository to write to. The first use takes it, if nobody has it.
    pub(super) fn remote(&self, repository_id: i64) -> Result<Arc<Remote>, EngineError> {
        let remote = self.store.remotes.get(repository_id)?;
        if remote.mark().epoch == 0 {
            let epoch = remote.take(false)?;
            self.db.write(|tx| repositories::set_epoch(tx, repository_id, epoch))?;
        }
        Ok(remote)
    }

    /// After a collection: sends what was compacted, and removes objects that have been of no use for a while, or all of them.
    pub fn tend_repositories(&self, all: bool, cancel: &Arc<AtomicBool>) -> Vec<(String, Result<u64, StoreError>)> {
        let used = self.store.remotes.all().into_iter().filter(|remote| remote.mark().epoch > 0);
        used.map(|remote| (remote.name.clone(), self.tend(&remote, all, cancel))).collect()
    }

    fn tend(&self, remote: &Arc<Remote>, all: bool, cancel: &Arc<AtomicBool>) -> Result<u64, StoreError> {
        if self.store.is_staged(remote.id)? {
            self.store.upload(remote, cancel, |upload| upload.finish_all())?;
        }
        if all {
            self.store.sweep(remote, manifest::PREFIX, |c, name| {
                c.prepare_cached("SELECT 1 FROM backup WHERE manifest = ?")?.exists([name])
            })?;
        }
        self.store.empty_trash(remote, all, cancel)
    }

    /// Takes a repository over, whoever had it, and fills the catalog with all backups in it.
    pub fn attach(&self, name: &str, progress: &Progress, cancel: &AtomicBool) -> Result<Value, EngineError> {
        let row = self.db.read(|c| repositories::by_name(c, name))?;
        let row = row.ok_or_else(|| EngineError::Told(format!("there is no repository {name} in the configuration")))?;
        let remote = self.store.remotes.get(row.id)?;
        let epoch = remote.take(true)?;
        self.db.write(|tx| repositories::set_epoch(tx, row.id, epoch))?;
        let adopted = self.store.adopt(&remote, cancel, &|objects| {
            progress.read.fetch_add(objects, Ordering::Relaxed);
        })?;
        let (mut added, mut known, mut failed) = (0, 0, adopted.unreadable.clone());
        // In the order of their making, so that what they are incremental to is there.
        let mut found = self.manifests(&remote, &mut failed, cancel)?;
        found.sort_by_key(|(_, manifest)| manifest.created);
        for (object, manifest) in &found {
            match self.take_in_manifest(&remote, &adopted, object, manifest)? {
                Some(true) => added += 1,
                Some(false) => known += 1,
                None => failed.push(object.clone()),
            }
        }
        log::info!("repository {name}: {added} backups taken in, {known} known, {} objects unusable", failed.len());
        Ok(json!({"name": name, "added": added, "known": known, "packs": adopted.packs, "segments": adopted.segments, "unusable": failed}))
    }

    fn manifests(&self, remote: &Remote, failed: &mut Vec<String>, cancel: &AtomicBool) -> Result<Vec<(String, Manifest)>, EngineError> {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = remote.list(manifest::PREFIX, &after)?;
            let Some(last) = page.last() else { return Ok(found) };
            after = last.name.clone();
            for object in page {
                if cancel.load(Ordering::Relaxed) {
                    return Err(EngineError::Cancelled);
                }
                let body = remote.get(&object.name, LARGEST_MANIFEST)?;
                let parsed = serde_json::from_slice::<Manifest>(&body).ok();
                match parsed.filter(|parsed| manifests::is_plausible(parsed) && manifest::name(&parsed.uuid, &body) == object.name) {
                    Some(parsed) => found.push((object.name, parsed)),
                    None => failed.push(object.name),
                }
            }
        }
    }

    /// None: something that it needs is missing.
    fn take_in_manifest(&self, remote: &Remote, adopted: &Adopted, object: &str, manifest: &Manifest) -> Result<Option<bool>, EngineError> {
        let mut volumes = Vec::new();
        for volume in &manifest.volumes {
            let segments = volume.segments.iter().map(|name| if name.is_empty() { Some(None) } else { from_hex(name).map(Some) });
            let (Some(segments), Some(hash)) = (segments.collect::<Option<Vec<_>>>(), from_hex(&volume.hash)) else { return Ok(None) };
            volumes.push((volume, segments, hash));
        }
        let now = clock::now_ms();
        let mut manifest = manifest.clone();
        // Nobody has looked at these backups since the host was lost. They must not go before somebody has.
        manifest.kept_until = manifest.kept_until.filter(|until| *until > now);
        let mut whole = true;
        let added = self.db.write(|tx| {
            if crate::catalog::backups::get(tx, &manifest.uuid)?.is_some() {
                return Ok(false);
            }
            let mut maps = Vec::new();
            for (volume, segments, hash) in &volumes {
                match Store::adopt_map(tx, remote.id, adopted, volume.size, volume.chunk_size, segments, hash)? {
                    Some(map) => maps.push(map),
                    None => {
                        whole = false;
                        return Err(StoreError::Cancelled); // rolled back: nothing of it stays
                    }
                }
            }
            Ok(manifests::insert(tx, &manifest, remote.id, object, &maps, now)?)
        });
        match added {
            Ok(added) => Ok(Some(added)),
            Err(_) if !whole => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn from_hex(text: &str) -> Option<Hash> {
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}
