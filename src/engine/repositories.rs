//! The repositories as the engine sees them: opened from the configuration, taken at the first use, tended after collections, and
//! attached by a host that has lost its coffer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Transaction;
use rusqlite::ErrorCode;
use serde_json::{Value, json};

use super::ingest::Progress;
use super::{Engine, EngineError, manifest};
use crate::catalog::backups::Backup;
use crate::catalog::manifests::{self, Manifest};
use crate::catalog::{backups, copies, repositories, volume_backups};
use crate::clock;
use crate::config::Config;
use crate::model::backup::BackupState;
use crate::objects::{self, Objects, Settings};
use crate::store::format::from_hex;
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
    /// These are the repositories from now on, those that cannot be opened among them, so that nothing goes elsewhere instead; backups that
    /// name none go to the default one, or into the coffer. Nothing is sent before somebody asks for it, or the configuration wants
    /// copies there.
    pub fn open_repositories(&self, places: Vec<Place>, configured: &BTreeMap<String, Settings>) -> rusqlite::Result<()> {
        let default = configured.iter().find(|(_, settings)| settings.default).map(|(name, _)| name.as_str());
        let now = clock::now_ms();
        let rows = self.db.write(|tx| {
            let rows = configured.keys().map(|name| repositories::ensure(tx, name, now)).collect::<Result<Vec<_>, _>>()?;
            repositories::set_default(tx, default)?;
            repositories::clear_copies(tx)?;
            for (name, settings) in configured.iter().filter(|(_, settings)| settings.copies.is_some()) {
                repositories::ensure(tx, name, now)?;
                repositories::set_copies(tx, name, &json!(settings.copies))?;
            }
            for copy in copies::unwanted(tx)? {
                super::copies::remove(tx, &copy)?;
            }
            if configured.values().any(|settings| settings.copies.is_some()) {
                copies::order_wanted(tx, None, now)?;
            }
            copies::hurry(tx)?;
            Ok::<_, rusqlite::Error>(rows)
        })?;
        let remote = |place: Place| {
            let row = rows.iter().find(|row| row.name == place.name)?;
            let mark = Mark { writer: row.writer.clone(), epoch: row.epoch };
            Some(Remote::new(row.id, place.name, &*place.objects, place.connections, mark, self.hurry.clone()))
        };
        self.store.remotes.replace(places.into_iter().filter_map(remote));
        self.copies.open();
        Ok(())
    }

    /// A repository to write to. The first use takes it, if nobody has it.
    pub(super) fn remote(&self, repository_id: i64) -> Result<Arc<Remote>, EngineError> {
        let remote = self.store.remote(repository_id)?;
        if !remote.is_renewed() {
            let _alone = remote.alone();
            let note = |epoch| self.note_epoch(&remote, epoch);
            match remote.mark().epoch {
                _ if remote.is_renewed() => {}
                0 => {
                    let mark = remote.take(false)?;
                    note(mark.epoch)?;
                    remote.accept(mark);
                }
                // A copy of the coffer that was put back may be of this morning, with the mark that is there.
                _ => remote.renew(|epoch| self.compare_manifests(&remote).and_then(|()| note(epoch)))?,
            }
        }
        Ok(remote)
    }

    fn note_epoch(&self, remote: &Remote, epoch: i64) -> Result<(), StoreError> {
        Ok(self.db.write(|tx| repositories::set_epoch(tx, remote.id, epoch))?)
    }

    /// After a collection: sends what was compacted, and removes objects that have been of no use for a while, or all of them.
    pub fn tend_repositories(&self, all: bool, cancel: &Arc<AtomicBool>) -> Vec<(String, Result<u64, EngineError>)> {
        let used = self.store.remotes.all().into_iter().filter(|remote| remote.mark().epoch > 0);
        used.map(|remote| (remote.name.clone(), self.tend(&remote, all, cancel))).collect()
    }

    fn tend(&self, remote: &Remote, all: bool, cancel: &Arc<AtomicBool>) -> Result<u64, EngineError> {
        let is_staged = self.store.is_staged(remote.id)?;
        if !all && !is_staged && !self.store.has_trash(remote.id)? {
            return Ok(0);
        }
        let remote = self.remote(remote.id)?;
        let _alone = remote.alone();
        if is_staged {
            self.store.upload(&remote, cancel, |upload| upload.finish_all())?;
        }
        if !all && !self.store.has_trash(remote.id)? {
            return Ok(0);
        }
        remote.guard()?;
        self.check_manifests(&remote)?;
        if all {
            self.store.sweep(&remote)?;
        }
        Ok(self.store.empty_trash(&remote, all, cancel)?)
    }

    /// Is the catalog that of this repository, or older, such as a copy of the coffer that was put back?
    fn compare_manifests(&self, remote: &Remote) -> Result<(), StoreError> {
        let listed = self.check_known(remote)?;
        for (object, _, state, _) in self.db.read(|c| backups::with_manifest(c, remote.id))? {
            if state == BackupState::Ready && !listed.contains(&object) && !remote.has_object(&object)? {
                let what = format!("has no object {object} any more, the manifest of a backup that this coffer has as Ready");
                return Err(refusal(remote, &what, "nothing is written"));
            }
        }
        Ok(())
    }

    /// Nothing may be removed as long as there is a backup whose data the catalog does not know.
    fn check_manifests(&self, remote: &Remote) -> Result<(), StoreError> {
        self.check_known(remote)?;
        let all = self.db.read(|c| backups::with_manifest(c, remote.id))?;
        match all.into_iter().find(|(_, _, state, whole)| *state == BackupState::Erred && !whole) {
            Some((name, ..)) => Err(refusal(remote, &format!("lacks data of a backup, {name}"), "nothing is removed")),
            None => Ok(()),
        }
    }

    /// Fails if there is a manifest that the catalog does not know. Returns all.
    fn check_known(&self, remote: &Remote) -> Result<HashSet<String>, StoreError> {
        let (mut listed, mut after) = (HashSet::new(), String::new());
        loop {
            let page = remote.list(manifest::PREFIX, &after)?;
            let Some(last) = page.last() else { return Ok(listed) };
            after = last.name.clone();
            let known: HashSet<String> = self.db.read(|c| {
                let backups = backups::with_manifest(c, remote.id)?.into_iter().map(|(name, ..)| name);
                Ok::<_, rusqlite::Error>(backups.chain(copies::with_manifest(c, remote.id)?.into_iter().map(|(name, ..)| name)).collect())
            })?;
            for object in page.iter().filter(|object| !known.contains(&object.name)) {
                // A list may lag behind.
                if !self.db.read(|c| Store::is_trash(c, remote.id, &object.name))? && remote.has_object(&object.name)? {
                    return Err(refusal(remote, &format!("has a backup that this coffer does not know, {}", object.name), "nothing is changed"));
                }
            }
            listed.extend(page.into_iter().map(|object| object.name));
        }
    }

    /// Takes a repository over, whoever had it, and fills the catalog with all backups in it.
    pub fn attach(&self, name: &str, progress: &Progress, cancel: &AtomicBool) -> Result<Value, EngineError> {
        let row = self.db.read(|c| repositories::by_name(c, name))?;
        let row = row.ok_or_else(|| EngineError::Told(format!("there is no repository {name} in the configuration")))?;
        let remote = self.store.remote(row.id)?;
        let _alone = remote.alone();
        let Some(_silence) = remote.silence() else {
            return Err(EngineError::Told(format!("backups are being sent to repository {name}; attach it when they are done")));
        };
        let anothers = remote.is_anothers()?;
        if anothers.is_none() && !self.db.read(|c| backups::with_manifest(c, row.id))?.is_empty() && remote.list(manifest::PREFIX, "")?.is_empty() {
            let why = "there is nothing, and this coffer has backups there: is it mounted, and are container and prefix the right ones?";
            return Err(StoreError::Repository(name.to_owned(), why.to_owned()).into());
        }
        // This keeps others away. Nothing is sent there before it is known what is there.
        let mark = remote.take(true)?;
        // What is taken in is needed by nothing at first.
        let _kept = self.store.without_collection();
        self.store.forget_trash(remote.id, anothers.unwrap_or(true))?;
        let adopted = self.store.adopt(&remote, cancel, &|objects| {
            progress.read.fetch_add(objects, Ordering::Relaxed);
        })?;
        let mut failed = adopted.unreadable.clone();
        // In the order of their making, so that what they are incremental to is there.
        let mut found = self.manifests(&remote, &mut failed, cancel)?;
        found.sort_by_key(|(_, manifest)| manifest.created);
        let (mut added, mut known, mut incomplete) = (0, 0, 0);
        for (object, manifest) in &found {
            match self.take_in_manifest(&remote, &adopted, object, manifest) {
                Ok(TakenIn::Added) => added += 1,
                Ok(TakenIn::Known) => known += 1,
                Ok(TakenIn::Incomplete) => incomplete += 1,
                // It says what cannot be: the others are taken in.
                Err(EngineError::Store(StoreError::Sqlite(error))) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    log::warn!("repository {name}: {object} cannot be taken in: {error}");
                    failed.push(object.clone());
                }
                Err(error) => return Err(error),
            }
        }
        let gone = self.miss(&remote, &found)?;
        self.note_epoch(&remote, mark.epoch)?;
        remote.accept(mark);
        self.db.write(|tx| copies::order_wanted(tx, None, clock::now_ms()))?;
        self.copies.wake();
        log::info!(
            "repository {name}: {added} backups taken in, {known} known, {incomplete} incomplete, {gone} gone, {} objects unusable, {} lost",
            failed.len(),
            adopted.lost.len()
        );
        Ok(json!({"name": name, "added": added, "known": known, "incomplete": incomplete, "gone": gone, "packs": adopted.packs,
            "segments": adopted.segments, "unusable": failed, "lost": adopted.lost}))
    }

    /// Backups that the catalog has there and whose manifest is gone: another host has deleted them, and what they were made of may go.
    fn miss(&self, remote: &Remote, found: &[(String, Manifest)]) -> Result<u64, EngineError> {
        let found: HashSet<&String> = found.iter().map(|(object, _)| object).collect();
        let mut gone = 0;
        for (object, id, state, _) in self.db.read(|c| backups::with_manifest(c, remote.id))? {
            if state == BackupState::Ready && !found.contains(&object) && !remote.has_object(&object)? {
                let why = format!("repository {} has no object {object} any more: another host has deleted this backup", remote.name);
                self.db.write(|tx| backups::mark_corrupt(tx, id, &why))?;
                gone += 1;
            }
        }
        for (object, id, whole) in self.db.read(|c| copies::with_manifest(c, remote.id))? {
            if whole && !found.contains(&object) && !remote.has_object(&object)? {
                let why = format!("repository {} has no object {object} any more: another host has deleted this copy", remote.name);
                self.db.write(|tx| copies::lose(tx, id, &why, clock::now_ms()))?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    fn manifests(&self, remote: &Remote, failed: &mut Vec<String>, cancel: &AtomicBool) -> Result<Vec<(String, Manifest)>, EngineError> {
        let (mut found, mut after) = (Vec::new(), String::new());
        let dying = remote.announced()?;
        let ready: HashSet<String> = self.db.read(|c| {
            let all = backups::with_manifest(c, remote.id)?;
            Ok::<_, rusqlite::Error>(all.into_iter().filter(|(_, _, state, _)| *state == BackupState::Ready).map(|(name, ..)| name).collect())
        })?;
        loop {
            let page = remote.list(manifest::PREFIX, &after)?;
            let Some(last) = page.last() else { return Ok(found) };
            after = last.name.clone();
            for object in page {
                if cancel.load(Ordering::Relaxed) {
                    return Err(EngineError::Cancelled);
                }
                if !objects::is_name(&object.name) {
                    failed.push(object.name);
                    continue;
                }
                // One that this coffer has is there: nobody deletes it any more.
                if dying.contains(&object.name) && !ready.contains(&object.name) {
                    self.db.write(|tx| Store::discard(tx, remote.id, &object.name))?;
                }
                if self.db.read(|c| Store::is_trash(c, remote.id, &object.name))? {
                    continue; // this coffer has deleted it, or the one before
                }
                let body = match remote.get(&object.name, LARGEST_MANIFEST) {
                    Err(_) if !remote.has_object(&object.name)? => continue, // a list may lag behind
                    body => body?,
                };
                let parsed = serde_json::from_slice::<Manifest>(&body).ok();
                match parsed.filter(|parsed| manifests::is_plausible(parsed) && manifest::name(&parsed.uuid, &body) == object.name) {
                    Some(parsed) => found.push((object.name, parsed)),
                    None => failed.push(object.name),
                }
            }
        }
    }

    fn take_in_manifest(&self, remote: &Remote, adopted: &Adopted, object: &str, manifest: &Manifest) -> Result<TakenIn, EngineError> {
        let mut volumes = Vec::new();
        for volume in &manifest.volumes {
            let segments = volume.segments.iter().map(|name| if name.is_empty() { Some(None) } else { from_hex(name).map(Some) });
            let segments = segments.collect::<Option<Vec<_>>>();
            volumes.push((volume, segments.zip(from_hex(&volume.hash))));
        }
        let now = clock::now_ms();
        let mut manifest = manifest.clone();
        // Nobody has looked at these backups since the host was lost. They must not go before somebody has.
        manifest.kept_until = manifest.kept_until.filter(|until| *until > now);
        Ok(self.db.write(|tx| {
            let known = backups::get(tx, &manifest.uuid)?;
            let mut of_copy = None;
            if let Some(known) = known {
                let parts = volume_backups::parts(tx, known.id)?;
                let failed = known.state == BackupState::Erred && parts.iter().any(|part| part.map_id.is_none());
                if is_unknown_copy(tx, &known, &manifest, remote.id)? {
                    of_copy = Some(known);
                } else if !failed || known.repository_id != Some(remote.id) {
                    return Ok(TakenIn::Known);
                } else {
                    // It was incomplete the last time, or nobody knew that its manifest had come through.
                    parts.iter().try_for_each(|part| match volume_backups::release_map(tx, part)? {
                        Some(map) => Store::delete_map(tx, map),
                        None => Ok(()),
                    })?;
                    backups::delete(tx, known.id)?;
                }
            }
            let mut maps = Vec::new();
            for (volume, named) in &volumes {
                maps.push(match named {
                    Some((segments, hash)) => Store::adopt_map(tx, remote.id, adopted, volume.size, volume.chunk_size, segments, hash)?,
                    None => None,
                });
            }
            if let Some(known) = of_copy {
                return Ok(take_in_copy(tx, &known, &manifest, remote.id, object, maps, now)?);
            }
            let id = manifests::insert(tx, &manifest, remote.id, object, &maps, now)?;
            if maps.iter().all(Option::is_some) {
                return Ok(TakenIn::Added);
            }
            let what = adopted.unreadable.first().map_or_else(|| "some are not there".to_string(), |first| format!("{first} is the first"));
            let why = format!(
                "repository {} lacks objects that this backup needs ({what}); if they come back, `cofferd repository attach {}` makes it whole",
                remote.name, remote.name
            );
            backups::mark_corrupt(tx, id, &why)?;
            Ok::<_, StoreError>(TakenIn::Incomplete)
        })?)
    }
}

fn refusal(remote: &Remote, what: &str, so: &str) -> StoreError {
    let why = format!("{what}; {so} there until `cofferd repository attach {}` has compared the two, or it is deleted", remote.name);
    StoreError::Repository(remote.name.clone(), why)
}

/// What has become of a manifest.
enum TakenIn {
    Added,
    Known,
    /// It is in the catalog, but not all of its data is there.
    Incomplete,
}

/// A copy of a backup that the catalog has from elsewhere.
fn take_in_copy(
    tx: &Transaction,
    known: &Backup,
    manifest: &Manifest,
    repository_id: i64,
    object: &str,
    maps: Vec<Option<i64>>,
    now: i64,
) -> Result<TakenIn, StoreError> {
    let Some(maps) = maps.iter().copied().collect::<Option<Vec<i64>>>() else {
        // What is left of it is of no use to a backup that has all its data elsewhere.
        maps.into_iter().flatten().try_for_each(|map| Store::delete_map(tx, map))?;
        Store::discard(tx, repository_id, object)?;
        return Ok(TakenIn::Known);
    };
    let copy = copies::order(tx, known.id, Some(repository_id), now)?;
    for map in copies::release_maps(tx, copy)? {
        Store::delete_map(tx, map)?; // of what it was before
    }
    for (part, map) in volume_backups::parts(tx, known.id)?.iter().zip(maps) {
        copies::add_volume(tx, copy, part.id, map)?;
    }
    copies::set_manifest(tx, copy, Some(object))?;
    copies::finish(tx, copy, manifest.stored, now)?;
    Ok(TakenIn::Known)
}

/// Has the manifest been written for a copy, of which nothing is known here, of this backup?
fn is_unknown_copy(tx: &Transaction, known: &Backup, manifest: &Manifest, repository_id: i64) -> rusqlite::Result<bool> {
    let copy = copies::at(tx, known.id, Some(repository_id))?;
    if known.repository_id == Some(repository_id) || copy.is_some_and(|copy| copy.manifest.is_some()) {
        return Ok(false);
    }
    let parts = volume_backups::parts(tx, known.id)?;
    for (part, volume) in parts.iter().zip(&manifest.volumes) {
        let Some(map_id) = part.map_id else { return Ok(false) };
        if part.uuid != volume.uuid || Store::map_hash(tx, map_id)?.as_deref() != from_hex(&volume.hash).as_ref().map(|hash| &hash[..]) {
            return Ok(false);
        }
    }
    Ok(parts.len() == manifest.volumes.len() && known.state != BackupState::Deleting)
}
