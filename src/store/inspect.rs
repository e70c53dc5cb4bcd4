//! The store as it lies in the file, for people who want to look inside.

use serde_json::{Value, json};

use super::format::{Address, Encoding, Hash};
use super::toc::Stored;
use super::{Store, StoreError, format};

impl Store {
    /// The chunks of a pack; None if there is no such pack.
    pub fn describe_pack(&self, pack: i64) -> Result<Option<Value>, StoreError> {
        let Some(stored) = self.db.read(|c| Stored::load(c, pack))? else { return Ok(None) };
        let Some(toc) = stored.toc() else { return Err(StoreError::Damaged(format!("the table of contents of pack {pack} cannot be read"))) };
        let chunk = |(slot, entry): (usize, format::Entry)| {
            let encoding = match entry.encoding() {
                Some(Encoding::Raw) => "raw",
                Some(Encoding::Zstd) => "zstd",
                Some(Encoding::Delta { .. }) => "delta",
                _ if entry.is_dead() => "dead",
                _ => "unknown",
            };
            let base = entry.base().map(|base| json!({"pack": base.pack(), "slot": base.slot()}));
            json!({"slot": slot, "hash": format::to_hex(&entry.hash), "offset": entry.offset, "stored": entry.stored, "raw": entry.raw,
                "encoding": encoding, "base": base, "damaged": entry.is_damaged()})
        };
        let chunks: Vec<Value> = toc.entries().enumerate().map(chunk).collect();
        Ok(Some(json!({"pack": pack, "slots": toc.slots(), "chunks": chunks})))
    }

    /// The segments of a volume map; None if there is no such map.
    pub fn describe_map(&self, map: i64) -> Result<Option<Value>, StoreError> {
        use rusqlite::OptionalExtension;
        self.db.read(|c| {
            let row = c
                .prepare_cached("SELECT hash, size, chunk_size, segments FROM volume_map WHERE id = ?")?
                .query_row([map], |row| Ok((row.get::<_, Hash>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?)))
                .optional()?;
            let Some((hash, size, chunk_size, segments)) = row else { return Ok(None) };
            let mut described = Vec::new();
            for id in format::segments_from_bytes(&segments).unwrap_or_default() {
                described.push(if id == 0 { json!({"segment": 0}) } else { segment(c, id)? });
            }
            Ok(Some(json!({"map": map, "hash": format::to_hex(&hash), "size": size, "chunk_size": chunk_size, "segments": described})))
        })
    }
}

fn segment(connection: &rusqlite::Connection, id: i64) -> Result<Value, StoreError> {
    let (hash, layout, chunks): (Hash, i64, Vec<u8>) = connection
        .prepare_cached("SELECT hash, format, chunks FROM segment WHERE id = ?")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let addresses = format::addresses_from_bytes(layout, &chunks).unwrap_or_default();
    let data: Vec<&Address> = addresses.iter().filter(|address| !address.is_zero()).collect();
    let mut packs: Vec<i64> = data.iter().map(|address| address.pack()).collect();
    packs.sort_unstable();
    packs.dedup();
    Ok(json!({"segment": id, "hash": format::to_hex(&hash), "chunks": addresses.len(), "data_chunks": data.len(), "packs": packs}))
}
