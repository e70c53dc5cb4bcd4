//! Objects that nothing needs any more are removed from their repository, some time after they became so: whoever is still reading
//! one has read it by then.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, params};

use super::object::{Name, PACKS, SEGMENTS};
use super::remote::Remote;
use super::upload::{discard, is_staged};
use super::{Store, StoreError};
use crate::clock;
use crate::objects::{Listed, ObjectError};

/// How long an object stays after nothing needs it, in milliseconds.
const GRACE_MS: i64 = if cfg!(test) { 0 } else { 600_000 };
/// Objects announced at once.
const AT_ONCE: usize = 500;
/// Where announcements lie.
const ANNOUNCED: &str = "trash/";

impl Store {
    /// Removes what has been of no use for a while. `all`: also what is so since a moment ago. Returns how many objects were
    /// removed. As long as something waits to be sent there, nothing is: what it replaces may be needed by another host.
    pub fn empty_trash(&self, remote: &Remote, all: bool, cancel: &AtomicBool) -> Result<u64, StoreError> {
        let before = if all { i64::MAX } else { clock::now_ms() - GRACE_MS };
        let mut removed = 0;
        if all {
            remote.forget_announcements()?;
        }
        loop {
            // Names sort so that a manifest goes before segments, and packs come last but for these: `backups`, `packs`, `segments`.
            let objects: Vec<String> = self.db.read(|c| {
                if is_staged(c, remote.id)? {
                    return Ok(Vec::new());
                }
                // A manifest is read by nobody but who attaches, and to him it would bring back what was deleted.
                let due = "SELECT object FROM trash WHERE repository = ?1 AND (since <= ?2 OR object LIKE 'backups/%')
                           ORDER BY object LIKE 'packs/%', object LIMIT ?3";
                c.prepare_cached(due)?
                    .query_map(params![remote.id, before, AT_ONCE as i64], |row| row.get(0))?
                    .collect::<Result<_, rusqlite::Error>>()
            })?;
            if objects.is_empty() {
                return Ok(removed);
            }
            let announcement = format!("{ANNOUNCED}{:016x}-{}", clock::now_ms(), remote.mark().writer);
            remote.objects.put(&announcement, objects.join("\n").as_bytes()).map_err(|e| remote.failed(e))?;
            if let Err(error) = remote.guard() {
                // Nothing of it is removed: whoever has taken the repository may build upon it.
                remote.objects.delete(&announcement).map_err(|e| remote.failed(e))?;
                return Err(error);
            }
            for object in &objects {
                if cancel.load(Ordering::Relaxed) {
                    return Err(StoreError::Cancelled);
                }
                remote.objects.delete(object).map_err(|e| remote.failed(e))?;
                self.db.write(|tx| {
                    tx.prepare_cached("DELETE FROM trash WHERE repository = ?1 AND object = ?2")?.execute(params![remote.id, object])?;
                    Ok::<_, StoreError>(())
                })?;
                removed += 1;
            }
            remote.objects.delete(&announcement).map_err(|e| remote.failed(e))?;
        }
    }
}

impl Store {
    /// Looks through a repository for packs and segments that nothing knows of, such as a crash leaves, and discards them.
    pub fn sweep(&self, remote: &Remote) -> Result<u64, StoreError> {
        let mut swept = 0;
        for (kind, known) in [
            (PACKS, "SELECT 1 FROM pack_toc WHERE object = ?1 AND repository = ?2"),
            (SEGMENTS, "SELECT 1 FROM segment WHERE object = ?1 AND repository = ?2"),
        ] {
            let mut after = String::new();
            loop {
                let page = remote.list(&format!("{kind}/"), &after)?;
                let Some(last) = page.last() else { break };
                after = last.name.clone();
                // In this order: what was being sent when the page was made is known to the one or the other.
                let sending = remote.sending().names.clone();
                self.db.write(|tx| {
                    let ours = |object: &&Listed| Name::parse(&object.name).is_some() && !sending.contains(&object.name);
                    for object in page.iter().filter(ours) {
                        let found = tx.prepare_cached(known)?.exists(params![object.name, remote.id])?;
                        if !found && discard(tx, remote.id, &object.name)? {
                            swept += 1;
                        }
                    }
                    Ok::<_, StoreError>(())
                })?;
            }
        }
        Ok(swept)
    }

    /// What was of no use may be so again when all that is there is taken in. `all`: backups too, since another coffer has written
    /// there meanwhile.
    pub fn forget_trash(&self, repository: i64, all: bool) -> rusqlite::Result<()> {
        let data = "DELETE FROM trash WHERE repository = ?1 AND (?2 OR object LIKE 'packs/%' OR object LIKE 'segments/%')";
        self.db.write(|tx| tx.execute(data, params![repository, all])).map(drop)
    }

    /// Is this object to be removed?
    pub fn is_trash(c: &Connection, repository: i64, object: &str) -> rusqlite::Result<bool> {
        c.prepare_cached("SELECT 1 FROM trash WHERE repository = ?1 AND object = ?2")?.exists(params![repository, object])
    }

    /// Is there anything to be removed?
    pub fn has_trash(&self, repository: i64) -> Result<bool, StoreError> {
        Ok(self.db.read(|c| c.prepare_cached("SELECT 1 FROM trash WHERE repository = ?1")?.exists([repository]))?)
    }
}

impl Remote {
    /// Removes announcements of our own, which a crash has left: what they name is announced anew.
    fn forget_announcements(&self) -> Result<(), StoreError> {
        let (ours, mut after) = (format!("-{}", self.mark().writer), String::new());
        loop {
            let page = self.list(ANNOUNCED, &after)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.name.clone();
            for object in page.iter().filter(|object| object.name.ends_with(&ours)) {
                self.objects.delete(&object.name).map_err(|e| self.failed(e))?;
            }
        }
    }

    /// The objects that a writer before us may be deleting at this moment.
    pub fn announced(&self) -> Result<HashSet<String>, StoreError> {
        let (mut names, mut after) = (HashSet::new(), String::new());
        loop {
            let page = self.objects.list(ANNOUNCED, &after).map_err(|e| self.failed(e))?;
            let Some(last) = page.last() else { return Ok(names) };
            after = last.name.clone();
            for object in &page {
                let text = match self.objects.get(&object.name, None, 1 << 20) {
                    Err(ObjectError::NotFound(_)) => continue, // done with
                    text => text.map_err(|e| self.failed(e))?,
                };
                names.extend(String::from_utf8_lossy(&text).lines().map(str::to_string));
            }
        }
    }
}
