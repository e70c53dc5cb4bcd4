//! The manifest of a backup in a repository, which is written when all its data is there.

use super::ingest::Ingested;
use super::{Engine, EngineError};
use crate::catalog::backups::{self, Backup};
use crate::catalog::manifests;
use crate::catalog::volume_backups::Part;
use crate::store::format::Hash;
use crate::store::{Store, Upload};

/// Where manifests lie in a repository.
pub const PREFIX: &str = "backups/";

impl Engine {
    /// Stores the manifest of a backup whose data is all there. From then on another host can restore it.
    pub(super) fn send_manifest(&self, backup: &Backup, parts: &[(Part, Ingested)], upload: &Upload) -> Result<(), EngineError> {
        let mut manifest = self.db.read(|c| manifests::of(c, backup.id))?;
        manifest.stored = parts.iter().map(|(_, ingested)| ingested.stored() as i64).sum();
        for (volume, (_, ingested)) in manifest.volumes.iter_mut().zip(parts) {
            volume.size = ingested.size();
            volume.chunk_size = ingested.chunk_size();
            volume.hash = hex(&ingested.hash());
            volume.stored = ingested.stored() as i64;
            volume.objects = ingested.added() as i64;
            let names = self.db.read(|c| Store::segment_names(c, ingested.segments()))?;
            volume.segments = names.iter().map(|name| name.as_ref().map(|hash| hex(hash)).unwrap_or_default()).collect();
        }
        let body = serde_json::to_vec(&manifest).map_err(|e| EngineError::Told(format!("its manifest cannot be written: {e}")))?;
        let name = name(&backup.uuid, &body);
        // Before it is there: so it is found and removed if this fails.
        self.db.write(|tx| backups::set_manifest(tx, backup.id, Some(&name)))?;
        Ok(upload.put_last(&name, &body)?)
    }
}

/// The name of a manifest says what its content is, because the content has no other proof.
pub fn name(uuid: &str, body: &[u8]) -> String {
    format!("{PREFIX}{uuid}-{}.json", &blake3::hash(body).to_hex()[..16])
}

fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}
