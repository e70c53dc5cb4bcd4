//! Fuzz targets: what the file holds. A coffer that somebody has made up, or that a disk has changed, may lack any sense.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::codec::{Base, Decoder, Encoder};
use super::format::{self, Address, CHUNK_SIZE, ENTRY_BYTES, Encoding, Entry, Hash, PACK_SLOTS, SEGMENT_CHUNKS, Toc, ZERO_HASH};
use super::read::{MapReader, Piece, ReadError};
use super::{Claim, Depth, GcOptions, Store, StoreError};
use crate::db::Db;
use crate::fuzz::Input;

/// Tables of contents, lists of addresses and of segments: what is read is written as it was.
pub fn lists(data: &[u8]) {
    let mut input = Input(data);
    let number = input.number(1) as i64;
    let bytes = input.0;
    if let Some(toc) = Toc::parse(number, bytes) {
        let entries: Vec<Entry> = toc.entries().collect();
        assert!(toc.slots() == entries.len() && entries.len() <= PACK_SLOTS && toc.entry(entries.len()).is_none());
        let (_, written) = format::entries_to_bytes(&entries);
        // Two bytes of an entry are nobody's.
        let expected: Vec<u8> = bytes.chunks(ENTRY_BYTES).flat_map(|entry| [&entry[..46], &[0, 0], &entry[48..]].concat()).collect();
        assert!(written == expected);
        for entry in entries {
            assert_eq!(entry.base().is_some(), matches!(entry.encoding(), Some(Encoding::Delta { .. })));
            assert!(!entry.is_dead() || entry.encoding().is_none());
        }
    }
    if let Some(addresses) = format::addresses_from_bytes(number, bytes) {
        assert!((1..=SEGMENT_CHUNKS).contains(&addresses.len()));
        assert_eq!(format::addresses_to_bytes(&addresses), bytes);
        assert!(addresses.iter().all(|address| address.slot() < PACK_SLOTS));
    }
    if let Some(ids) = format::segments_from_bytes(bytes) {
        assert_eq!(format::segments_to_bytes(&ids), bytes);
    }
}

/// Some bytes, of which short inputs can make many.
fn bytes(input: &mut Input, most: usize) -> Vec<u8> {
    let length = input.number(3) as usize % (most + 1);
    let (seed, piece) = (input.number(1), input.below(40) as usize);
    let mut bytes = input.take(piece).to_vec();
    if seed & 1 == 1 {
        bytes = bytes.repeat(1 + length / bytes.len().max(1));
    } else {
        blake3::Hasher::new_keyed(&[seed as u8; 32]).finalize_xof().fill(&mut {
            let rest = length.saturating_sub(bytes.len());
            bytes.resize(bytes.len() + rest, 0);
            &mut bytes[length - rest..]
        });
    }
    bytes.truncate(length);
    bytes
}

/// What was encoded is decoded, with a base or without; and nothing that is stored makes the decoder write elsewhere or say more
/// than it was asked for.
pub fn codec(data: &[u8]) {
    let mut input = Input(data);
    let (mut encoder, mut decoder) = match (Encoder::new(), Decoder::new()) {
        (Ok(encoder), Ok(decoder)) => (encoder, decoder),
        _ => return,
    };
    let base = bytes(&mut input, CHUNK_SIZE as usize);
    let mut raw = match input.below(2) {
        0 => bytes(&mut input, CHUNK_SIZE as usize),
        _ => base.clone(),
    };
    for _ in 0..input.below(4) {
        let (at, new) = (input.number(3) as usize, bytes(&mut input, 5000));
        if let Some(place) = raw.get_mut(at..).filter(|place| place.len() >= new.len()) {
            place[..new.len()].copy_from_slice(&new);
        }
    }
    let address = Address::new(1, 1);
    let given = (input.below(3) > 0).then_some(Base { address, raw: &base, stored: base.len() });
    let (encoding, mut stored) = encoder.encode(&raw, given);
    assert!(stored.len() <= raw.len() && (given.is_some() || encoding != Encoding::Delta { base: address }));
    let mut back = vec![0x55; raw.len()];
    assert_eq!(decoder.decode(encoding, &stored, &base, &mut back), Ok(()));
    assert!(back == raw, "{encoding:?}");
    for _ in 0..input.below(6) {
        let at = input.number(3) as usize % (stored.len() + 1);
        match stored.get_mut(at) {
            Some(byte) => *byte ^= input.number(1) as u8,
            None => stored.extend_from_slice(input.take(30)),
        }
    }
    let length = if input.below(2) == 0 { raw.len() } else { input.number(3) as usize % (CHUNK_SIZE as usize) };
    back.resize(length, 0);
    for encoding in [encoding, Encoding::Raw, Encoding::Zstd, Encoding::Delta { base: address }] {
        let _ = decoder.decode(encoding, &stored, &base, &mut back);
        let _ = decoder.decode(encoding, input.0, &base, &mut back);
    }
}

struct Bench {
    db: Arc<Db>,
    /// Removed with the process.
    _directory: PathBuf,
}

/// A coffer for the whole run, whose store is filled anew for each input.
static BENCH: LazyLock<Option<Bench>> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("cofferd-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).ok()?;
    let db = Arc::new(Db::open(&directory.join("coffer.db")).ok()?);
    Some(Bench { db, _directory: directory })
});

/// A pack: its bytes and what its table of contents says of them. Hashes are right where that is possible.
fn pack(input: &mut Input, bases: &[(Address, Vec<u8>)]) -> (Vec<u8>, Vec<Entry>) {
    let (mut data, mut entries) = (Vec::new(), Vec::new());
    let large = input.below(8) == 0;
    if large {
        data.resize(4 << 20, input.number(1) as u8);
    }
    for _ in 0..input.below(5) {
        let raw = bytes(input, 9000);
        let base = bases.get(input.below(4) as usize).map(|(address, raw)| Base { address: *address, raw, stored: raw.len() });
        let Some((encoding, stored)) = Encoder::new().ok().map(|mut encoder| encoder.encode(&raw, base)) else { break };
        entries.push(Entry::new(*blake3::hash(&raw).as_bytes(), data.len() as u32, stored.len() as u32, raw.len() as u32, encoding));
        data.extend(stored);
    }
    // Whatever can be said, many times over.
    for _ in 0..input.below(4) {
        let size = |input: &mut Input| [0, 1, 4096, 65_536, 1 << 20, 4 << 20, u32::MAX, input.number(4) as u32][input.below(8) as usize];
        let base = Address::from_bits(input.number(5));
        let base = if input.below(2) == 0 { bases.first().map_or(base, |(address, _)| *address) } else { base };
        let encoding = [Encoding::Raw, Encoding::Zstd, Encoding::Delta { base }][input.below(3) as usize];
        let (offset, stored, raw) = (size(input), size(input), size(input));
        let hash: Hash = if input.below(2) == 0 { ZERO_HASH } else { *blake3::hash(&data).as_bytes() };
        let entry = Entry::new(hash, offset, stored, raw, encoding);
        entries.extend(std::iter::repeat_n(entry, [1, 2, 1024, 4096][input.below(4) as usize]));
    }
    entries.truncate(PACK_SLOTS);
    (data, entries)
}

/// A store that is nonsense: everything that reads it comes to an end, and what it gives out as data has the name that it should.
pub fn coffer(data: &[u8]) {
    let Some(bench) = BENCH.as_ref() else { return };
    let mut input = Input(data);
    let (mut maps, mut names) = (Vec::new(), HashSet::new());
    let filled = bench.db.write(|tx| {
        for table in ["volume_map", "segment", "pack_toc", "verified", "pack"] {
            tx.execute(&format!("DELETE FROM {table}"), [])?;
        }
        let (mut bases, mut all): (Vec<(Address, Vec<u8>)>, Vec<(Address, Hash)>) = (Vec::new(), Vec::new());
        for id in 1..2 + input.below(3) as i64 {
            let (data, mut entries) = pack(&mut input, &bases);
            if input.below(4) == 0 && !entries.is_empty() {
                let at = input.below(entries.len() as u64) as usize;
                entries[at].flags = input.number(1) as u8;
            }
            let (form, mut list) = format::entries_to_bytes(&entries);
            if input.below(8) == 0 && !list.is_empty() {
                let at = input.number(3) as usize % list.len();
                list[at] ^= input.number(1) as u8;
            }
            for (slot, entry) in entries.iter().enumerate() {
                let address = Address::new(id, slot);
                all.push((address, entry.hash));
                names.insert(entry.hash);
                let place = entry.offset as usize..(entry.offset as usize).saturating_add(entry.stored as usize);
                if let (Some(Encoding::Raw), Some(raw)) = (entry.encoding(), data.get(place)) && bases.len() < 4 {
                    bases.push((address, raw.to_vec()));
                }
            }
            tx.execute("INSERT INTO pack (id, data) VALUES (?, ?)", (id, &data))?;
            let form = if input.below(16) == 0 { input.number(1) as i64 } else { form };
            tx.execute(
                "INSERT INTO pack_toc (id, format, slots, stored, entries) VALUES (?, ?, ?, ?, ?)",
                (id, form, entries.len() as i64, data.len() as i64, &list),
            )?;
            tx.execute("INSERT INTO verified (pack, at) VALUES (?, 0)", [id])?;
        }
        for id in 1..2 + input.below(3) as i64 {
            let chunk_size: i64 = [4096, 65_536, 1 << 20, 4 << 20, input.number(4) as i64][input.below(5) as usize];
            let count = [1, 2, 5, 1024][input.below(4) as usize];
            let chosen: Vec<(Address, Hash)> = (0..count)
                .map(|number| match (all.len(), if count == 1024 { 1 } else { input.below(5) }) {
                    (_, 0) => (Address::ZERO, ZERO_HASH),
                    (0, _) => (Address::from_bits(input.number(5)), ZERO_HASH),
                    (known, _) if count == 1024 => all[number % known],
                    (known, _) => all[input.below(known as u64) as usize],
                })
                .collect();
            let addresses: Vec<Address> = chosen.iter().map(|(address, _)| *address).collect();
            let right = input.below(4) > 0;
            let name = if right { format::segment_hash(chosen.iter().map(|(_, hash)| hash)) } else { ZERO_HASH };
            tx.execute(
                "INSERT INTO segment (id, hash, format, chunks) VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING",
                (id, &name[..], format::addresses_to_bytes(&addresses)),
            )?;
            let size = chunk_size.saturating_mul(count as i64).saturating_sub(input.below(3) as i64 * input.number(2) as i64).max(1);
            let segments = format::segments_to_bytes(&[id]);
            let hash = format::map_hash(size as u64, chunk_size as u32, [&name]);
            tx.execute(
                "INSERT INTO volume_map (id, hash, size, chunk_size, segments) VALUES (?, ?, ?, ?, ?)",
                (id, &hash[..], size, chunk_size, segments),
            )?;
            maps.push(id);
        }
        Ok::<_, rusqlite::Error>(())
    });
    filled.unwrap_or_else(|error| panic!("the coffer cannot be made: {error}"));
    visit(bench, &maps, &names);
}

fn visit(bench: &Bench, maps: &[i64], names: &HashSet<Hash>) {
    let never = AtomicBool::new(false);
    let store = match Store::open(bench.db.clone()) {
        Ok(store) => store,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let fine = |error: StoreError| assert!(!matches!(error, StoreError::Sqlite(_)), "{error}");
    for map in maps {
        match MapReader::open(&store, *map) {
            Ok(reader) => {
                let visit = |piece: Piece| {
                    if let Piece::Data { bytes, .. } = piece {
                        assert!(bytes.chunks(reader.chunk_size()).all(|chunk| names.contains(blake3::hash(chunk).as_bytes())));
                    }
                    Ok(())
                };
                reader.for_each(1, &never, |size| vec![0; size], visit).unwrap_or_else(fine);
                reader.check_top().map(drop).unwrap_or_else(fine);
            }
            Err(ReadError::Corrupt(_)) => {}
            Err(ReadError::Store(error)) => fine(error),
        }
        store.check_map(*map, &|_| {}, &never).map(drop).unwrap_or_else(fine);
    }
    for pack in 1..5 {
        store.scrub_pack(pack, Depth::All, |_| Ok(())).map(drop).unwrap_or_else(fine);
    }
    let claims: Vec<Claim> = maps.iter().map(|map| Claim { map: *map, owner: 0 }).collect();
    store.usage(&claims, &never).map(drop).unwrap_or_else(fine);
    let options = GcOptions { dead_fraction: 0.0, pause: Duration::ZERO, cancel: &never, spared: Vec::new() };
    store.gc(&options).map(drop).unwrap_or_else(fine);
}
