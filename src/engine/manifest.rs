//! The manifest of a backup in a repository, which is written when all its data is there.

use rusqlite::Transaction;

use super::ingest::Ingested;
use super::{Engine, EngineError};
use crate::catalog::manifests;
use crate::catalog::volume_backups::{self, Part};
use crate::clock;
use crate::store::format::{self, Hash};
use crate::store::{Store, Upload};

/// Where manifests lie in a repository.
pub const PREFIX: &str = "backups/";

/// What a volume's manifest says of its data.
pub(super) struct Content {
    size: u64,
    chunk_size: u32,
    hash: Hash,
    /// Ids; 0: zeros.
    segments: Vec<i64>,
    stored: i64,
    objects: i64,
}

impl From<&Ingested> for Content {
    fn from(new: &Ingested) -> Content {
        let (stored, objects) = (new.stored() as i64, new.objects() as i64);
        Content { size: new.size(), chunk_size: new.chunk_size(), hash: new.hash(), segments: new.segments().to_vec(), stored, objects }
    }
}

impl Engine {
    /// Of a part whose data is known already.
    pub(super) fn content(&self, part: &Part) -> Result<Content, EngineError> {
        let found = self.db.read(|c| part.map_id.map_or(Ok(None), |map| Store::map_content(c, map)))?;
        let (size, chunk_size, hash, segments) = found.ok_or_else(|| EngineError::Told(format!("{} has no data any more", part.label())))?;
        let objects = self.db.read(|c| volume_backups::by_id(c, part.id))?.map_or(0, |row| row.objects);
        Ok(Content { size, chunk_size, hash, segments, stored: 0, objects })
    }

    /// Stores the manifest of a backup whose data is all there. From then on another host can restore it. `note` writes its name down
    /// before it is there, so that it is found and removed if this fails. Returns the name.
    pub(super) fn send_manifest(
        &self,
        backup_id: i64,
        contents: &[Content],
        upload: &Upload,
        note: impl FnOnce(&Transaction, &str) -> rusqlite::Result<()>,
    ) -> Result<String, EngineError> {
        let mut manifest = self.db.read(|c| manifests::of(c, backup_id))?;
        manifest.sent = clock::now_ms();
        manifest.stored = contents.iter().map(|content| content.stored).sum();
        for (volume, content) in manifest.volumes.iter_mut().zip(contents) {
            volume.size = content.size;
            volume.chunk_size = content.chunk_size;
            volume.hash = format::to_hex(&content.hash);
            volume.stored = content.stored;
            volume.objects = content.objects;
            let names = self.db.read(|c| Store::segment_names(c, &content.segments))?;
            volume.segments = names.iter().map(|name| name.as_ref().map(format::to_hex).unwrap_or_default()).collect();
        }
        let body = serde_json::to_vec(&manifest).map_err(|e| EngineError::Told(format!("its manifest cannot be written: {e}")))?;
        let name = name(&manifest.uuid, &body);
        self.db.write(|tx| note(tx, &name))?;
        upload.put_last(&name, &body)?;
        Ok(name)
    }
}

/// The name of a manifest says what its content is, because the content has no other proof.
pub fn name(uuid: &str, body: &[u8]) -> String {
    format!("{PREFIX}{uuid}-{}.json", &blake3::hash(body).to_hex()[..16])
}
