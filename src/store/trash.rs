//! Objects that nothing needs any more are removed from their repository, some time after they became so: whoever is still reading
//! one has read it by then.

use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, params};

use super::object::{Name, PACKS, SEGMENTS};
use super::remote::Remote;
use super::upload::{discard, is_staged};
use super::{Store, StoreError};
use crate::clock;

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
        loop {
            // Names sort so that a manifest goes before segments, and packs come last but for these: `backups`, `packs`, `segments`.
            let objects: Vec<String> = self.db.read(|c| {
                if is_staged(c, remote.id)? {
                    return Ok(Vec::new());
                }
                c.prepare_cached("SELECT object FROM trash WHERE repository = ?1 AND since <= ?2 ORDER BY object LIKE 'packs/%', object LIMIT ?3")?
                    .query_map(params![remote.id, before, AT_ONCE as i64], |row| row.get(0))?
                    .collect::<Result<_, rusqlite::Error>>()
            })?;
            if objects.is_empty() {
                return Ok(removed);
            }
            let announcement = format!("{ANNOUNCED}{:016x}-{}", clock::now_ms(), remote.mark().writer);
            remote.objects.put(&announcement, objects.join("\n").as_bytes()).map_err(|e| remote.failed(e))?;
            remote.guard()?;
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
    /// Looks through a repository for objects that nothing knows of, such as a crash leaves, and discards them. `is_known` tells of
    /// those below `others`, which are not the store's.
    pub fn sweep(
        &self,
        remote: &Remote,
        others: &str,
        is_known: impl Fn(&Connection, &str) -> rusqlite::Result<bool>,
    ) -> Result<u64, StoreError> {
        let mut swept = 0;
        for (prefix, known) in [
            (format!("{PACKS}/"), "SELECT 1 FROM pack_toc WHERE object = ?1 AND repository = ?2"),
            (format!("{SEGMENTS}/"), "SELECT 1 FROM segment WHERE object = ?1 AND repository = ?2"),
            (others.to_string(), ""),
        ] {
            let mut after = String::new();
            loop {
                let page = remote.list(&prefix, &after)?;
                let Some(last) = page.last() else { break };
                after = last.name.clone();
                // In this order: what was being sent when the page was made is known to the one or the other.
                let sending = remote.sending().names.clone();
                self.db.write(|tx| {
                    for object in page.iter().filter(|object| !sending.contains(&object.name)) {
                        let found = match known {
                            "" => is_known(tx, &object.name)?,
                            sql => tx.prepare_cached(sql)?.exists(params![object.name, remote.id])?,
                        };
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
}

impl Remote {
    /// The packs and segments that a writer before us may be deleting at this moment.
    pub(super) fn announced(&self) -> Result<Vec<Name>, StoreError> {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.objects.list(ANNOUNCED, &after).map_err(|e| self.failed(e))?;
            let Some(last) = page.last() else { return Ok(names) };
            after = last.name.clone();
            for object in &page {
                let text = self.objects.get(&object.name, None, 1 << 20).map_err(|e| self.failed(e))?;
                names.extend(String::from_utf8_lossy(&text).lines().filter_map(Name::parse));
            }
        }
    }
}
