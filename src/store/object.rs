//! What packs and segments are as objects of a repository: each with a head that says all that is needed to use it, so that the
//! objects alone give every volume back. FORMAT.md describes them; this is their only implementation.
//!
//! In a repository a pack has a key instead of a number, because numbers are each coffer's own. An object is written once and
//! never changed: what replaces it has the same key and a higher generation. Its name ends with a random number, so that not even
//! a try that nobody knows of any more is written over.

use super::format::{Address, ENTRY_BYTES, Entry, Hash, PACK_SLOTS, SEGMENT_CHUNKS, Toc};

const PACK_MAGIC: &[u8; 8] = b"COFFPAK\x01";
const SEGMENT_MAGIC: &[u8; 8] = b"COFFSEG\x01";
/// Magic, key, generation, slots, layout of the entries.
const PACK_FIXED: usize = 8 + 8 + 8 + 4 + 4;
const HASH_BYTES: usize = size_of::<Hash>();
/// What stands for a chunk of zeros.
const ZERO: u32 = u32::MAX;
/// Bytes of the head of a pack with all its slots.
pub const LARGEST_HEAD: usize = pack_head_bytes(PACK_SLOTS);

/// Bytes before a pack's data.
pub const fn pack_head_bytes(slots: usize) -> usize {
    PACK_FIXED + slots * ENTRY_BYTES + HASH_BYTES
}

/// The name of an object, in order of generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// `packs` or `segments`.
    pub kind: &'static str,
    /// 16 digits of a pack, 64 of a segment.
    pub key: String,
    pub generation: u32,
    pub nonce: u32,
}

pub const PACKS: &str = "packs";
pub const SEGMENTS: &str = "segments";

impl Name {
    pub fn pack(key: u64, nonce: u32) -> Name {
        Name { kind: PACKS, key: format!("{key:016x}"), generation: 0, nonce }
    }

    pub fn segment(hash: &Hash, nonce: u32) -> Name {
        let key = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Name { kind: SEGMENTS, key, generation: 0, nonce }
    }

    /// One that takes its place.
    pub fn next(self, nonce: u32) -> Name {
        Name { generation: self.generation.saturating_add(1), nonce, ..self }
    }

    pub fn parse(name: &str) -> Option<Name> {
        let (kind, rest) = name.split_once('/')?;
        let (key, rest) = rest.split_once('-')?;
        let (generation, nonce) = rest.split_once('-')?;
        let (kind, digits) = [(PACKS, 16), (SEGMENTS, 2 * HASH_BYTES)].into_iter().find(|(known, _)| *known == kind)?;
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = |text: &str| (text.len() == 8 && hex(text)).then(|| u32::from_str_radix(text, 16).ok()).flatten();
        let name = Name { kind, key: key.to_string(), generation: number(generation)?, nonce: number(nonce)? };
        (key.len() == digits && hex(key)).then_some(name)
    }

    /// Of a pack.
    pub fn pack_key(&self) -> Option<u64> {
        (self.kind == PACKS).then(|| u64::from_str_radix(&self.key, 16).ok()).flatten()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}-{:08x}-{:08x}", self.kind, self.key, self.generation, self.nonce)
    }
}

/// The head of a pack: its data follows at [`pack_head_bytes`].
pub struct PackHead {
    pub key: u64,
    pub generation: u32,
    pub format: i64,
    pub entries: Vec<u8>,
}

impl PackHead {
    pub fn slots(&self) -> usize {
        self.entries.len() / ENTRY_BYTES
    }

    /// The object of a pack with so many bytes of data, all of them 0 yet.
    pub fn with_room(&self, data: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(pack_head_bytes(self.slots()) + data);
        bytes.extend_from_slice(PACK_MAGIC);
        bytes.extend_from_slice(&self.key.to_le_bytes());
        bytes.extend_from_slice(&u64::from(self.generation).to_le_bytes());
        bytes.extend_from_slice(&(self.slots() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.format as u32).to_le_bytes());
        bytes.extend_from_slice(&self.entries);
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    /// Reads the head at the beginning of an object; None if it is none, is damaged, or does not lie within these bytes.
    pub fn parse(bytes: &[u8]) -> Option<PackHead> {
        let fixed = bytes.get(..PACK_FIXED)?;
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
        let slots = number(24) as usize;
        if &fixed[..8] != PACK_MAGIC || slots > PACK_SLOTS {
            return None;
        }
        let (head, hash) = bytes.get(..pack_head_bytes(slots))?.split_at(pack_head_bytes(slots) - HASH_BYTES);
        let whole = blake3::hash(head).as_bytes()[..] == *hash;
        let head = PackHead { key: long(8), generation: u32::try_from(long(16)).ok()?, format: i64::from(number(28)), entries: head[PACK_FIXED..].to_vec() };
        (whole && Toc::parse(head.format, &head.entries).is_some()).then_some(head)
    }

    /// Bytes of the data, by its entries.
    pub fn data_bytes(&self) -> u64 {
        let toc = Toc::parse(self.format, &self.entries);
        toc.iter().flat_map(|toc| toc.entries()).map(|entry: Entry| u64::from(entry.offset) + u64::from(entry.stored)).max().unwrap_or(0)
    }
}

/// A segment as an object: its chunks by key of their pack and slot; None for one of zeros.
pub fn segment_object(hash: &Hash, chunks: &[Option<(u64, usize)>]) -> Vec<u8> {
    let mut keys: Vec<u64> = chunks.iter().flatten().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(SEGMENT_MAGIC);
    bytes.extend_from_slice(hash);
    bytes.extend_from_slice(&(keys.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
    keys.iter().for_each(|key| bytes.extend_from_slice(&key.to_le_bytes()));
    for chunk in chunks {
        let place = chunk.and_then(|(key, slot)| Some((keys.binary_search(&key).ok()? * PACK_SLOTS + slot) as u32)).unwrap_or(ZERO);
        bytes.extend_from_slice(&place.to_le_bytes());
    }
    bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
    bytes
}

/// What [`segment_object`] was made from; None if this is no such object or a damaged one.
pub fn parse_segment(bytes: &[u8]) -> Option<(Hash, Vec<Option<(u64, usize)>>)> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    let (head, lists) = body.split_at_checked(8 + HASH_BYTES + 8)?;
    if &head[..8] != SEGMENT_MAGIC || blake3::hash(body).as_bytes()[..] != *check {
        return None;
    }
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&head[8..8 + HASH_BYTES]);
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (keys, chunks) = (number(8 + HASH_BYTES), number(8 + HASH_BYTES + 4));
    if keys > SEGMENT_CHUNKS || !(1..=SEGMENT_CHUNKS).contains(&chunks) || lists.len() != keys * 8 + chunks * 4 {
        return None;
    }
    let (keys, places) = lists.split_at(keys * 8);
    let keys: Vec<u64> = keys.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let chunk = |place: u32| match place {
        ZERO => Some(None),
        place => Some(Some((*keys.get(place as usize / PACK_SLOTS)?, place as usize % PACK_SLOTS))),
    };
    let chunks = places.as_chunks().0.iter().map(|b| chunk(u32::from_le_bytes(*b))).collect::<Option<Vec<_>>>()?;
    Some((hash, chunks))
}

/// The addresses of a segment's chunks as keys and slots.
pub fn by_key(addresses: &[Address], key: impl Fn(i64) -> Option<u64>) -> Option<Vec<Option<(u64, usize)>>> {
    let place = |address: &Address| if address.is_zero() { Some(None) } else { Some(Some((key(address.pack())?, address.slot()))) };
    addresses.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::format::{self, Encoding};

    #[test]
    fn a_pack_is_read_back_from_its_head_and_any_changed_bit_is_seen() {
        let entries = [Entry::new([7; 32], 0, 5, 9, Encoding::Zstd), Entry::dead(), Entry::new([8; 32], 5, 3, 3, Encoding::Raw)];
        let (format, entries) = format::entries_to_bytes(&entries);
        let object = PackHead { key: 0xfedc_ba98_7654_3210, generation: 3, format, entries: entries.clone() }.with_room(8);
        assert_eq!(object.len(), pack_head_bytes(3) + 8);
        let head = PackHead::parse(&object[..pack_head_bytes(3)]).unwrap();
        assert_eq!((head.key, head.generation, head.format, &head.entries, head.slots()), (0xfedc_ba98_7654_3210, 3, format, &entries, 3));
        assert_eq!(head.data_bytes(), 8);
        assert!(PackHead::parse(&object[..pack_head_bytes(3) - 1]).is_none());
        for at in 0..pack_head_bytes(3) {
            let mut flipped = object.clone();
            flipped[at] ^= 4;
            assert!(PackHead::parse(&flipped).is_none(), "{at}");
        }
    }

    #[test]
    fn a_segment_is_read_back_and_any_changed_bit_is_seen() {
        let chunks = vec![Some((9, 4095)), None, Some((u64::MAX, 0)), Some((9, 1))];
        let object = segment_object(&[5; 32], &chunks);
        assert_eq!(parse_segment(&object), Some(([5; 32], chunks)));
        for at in 0..object.len() {
            let mut flipped = object.clone();
            flipped[at] ^= 4;
            assert_eq!(parse_segment(&flipped), None, "{at}");
            assert_eq!(parse_segment(&object[..at]), None, "{at}");
        }
        assert_eq!(parse_segment(&segment_object(&[5; 32], &vec![None; SEGMENT_CHUNKS + 1])), None);
    }

    #[test]
    fn names_sort_by_generation_and_are_read_back() {
        let name = Name::pack(0xab, 9).next(0xc);
        assert_eq!(name.to_string(), "packs/00000000000000ab-00000001-0000000c");
        assert_eq!((Name::parse(&name.to_string()), name.pack_key()), (Some(name.clone()), Some(0xab)));
        assert!(name.to_string() < name.clone().next(0).to_string());
        let segment = Name::segment(&[0x1f; 32], u32::MAX);
        assert_eq!(Name::parse(&segment.to_string()), Some(segment));
        for wrong in ["packs/ab-00000001-00000001", "packs/00000000000000ab-00000001", "packs/00000000000000AB-00000001-00000001", "other/x", ""] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }
}
