//! The layout of what lies in the store's tables: addresses, tables of contents, segments and volume maps. FORMAT.md is
//! its description for readers; this is its only implementation.

/// BLAKE3-256. The name of a chunk is the hash of its raw bytes; a chunk of zeros is named by 32 zero bytes instead.
pub type Hash = [u8; 32];

/// A name as text: 64 lower-case hexadecimal digits.
pub fn to_hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// None: this is no name.
pub fn from_hex(text: &str) -> Option<Hash> {
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

/// Stands for a chunk, or a whole segment, that is all zeros.
pub const ZERO_HASH: Hash = [0; 32];
/// Bytes of a volume in one chunk, in new backups. Older ones may have other sizes. Small in unit tests, where many chunks say
/// more than many bytes.
pub const CHUNK_SIZE: u32 = if cfg!(test) { 64 << 10 } else { 1 << 20 };
/// Chunks in a segment (1 GiB of a volume); the last one of a volume may have fewer.
pub const SEGMENT_CHUNKS: usize = 1024;
/// A pack is closed once it holds this many stored bytes.
pub const PACK_BYTES: usize = if cfg!(test) { 2 << 20 } else { 8 << 20 };
/// Slots that an address can tell apart within a pack.
pub const PACK_SLOTS: usize = 1 << SLOT_BITS;
/// `segment.format`, and `pack_toc.format` of packs without deltas.
pub const FORMAT: i64 = 1;
/// `pack_toc.format` of packs in which chunks may be stored as deltas.
pub const FORMAT_WITH_DELTAS: i64 = 2;
/// Bytes of one entry of a table of contents.
pub const ENTRY_BYTES: usize = 56;

const SLOT_BITS: u32 = 12;
/// Pack numbers stay below this, so that an address fits 40 bits.
pub const MAX_PACKS: i64 = 1 << 28;

/// Where a chunk lies: a pack and a slot in it. The address 0 stands for a chunk of zeros, which is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    pub const ZERO: Address = Address(0);

    pub fn new(pack: i64, slot: usize) -> Address {
        Address((pack as u64) << SLOT_BITS | slot as u64)
    }

    pub fn from_bits(bits: u64) -> Address {
        Address(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn pack(self) -> i64 {
        (self.0 >> SLOT_BITS) as i64
    }

    pub fn slot(self) -> usize {
        (self.0 & (PACK_SLOTS as u64 - 1)) as usize
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// How the bytes of a chunk are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Raw,
    /// One zstd frame (RFC 8878).
    Zstd,
    /// One zstd frame that refers to the raw bytes of another chunk, which is stored raw or as a frame of its own.
    Delta { base: Address },
}

/// One slot of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub hash: Hash,
    /// Where the stored bytes begin in `pack.data`.
    pub offset: u32,
    pub stored: u32,
    pub raw: u32,
    /// The encoding as stored: see [`Entry::encoding`].
    pub code: u8,
    /// Bit 0: a check found the chunk damaged, so new backups do not share it.
    pub flags: u8,
    /// Of a delta: where its base lies.
    base: Address,
}

const DEAD: u8 = 0;
const RAW: u8 = 1;
const ZSTD: u8 = 2;
const DELTA: u8 = 3;
pub const FLAG_DAMAGED: u8 = 1;

impl Entry {
    pub fn new(hash: Hash, offset: u32, stored: u32, raw: u32, encoding: Encoding) -> Entry {
        let (code, base) = match encoding {
            Encoding::Raw => (RAW, Address::ZERO),
            Encoding::Zstd => (ZSTD, Address::ZERO),
            Encoding::Delta { base } => (DELTA, base),
        };
        Entry { hash, offset, stored, raw, code, flags: 0, base }
    }

    /// What compaction leaves in the slot of a chunk that nothing refers to.
    pub fn dead() -> Entry {
        Entry { hash: ZERO_HASH, offset: 0, stored: 0, raw: 0, code: DEAD, flags: 0, base: Address::ZERO }
    }

    pub fn is_dead(&self) -> bool {
        self.code == DEAD
    }

    pub fn is_damaged(&self) -> bool {
        self.flags & FLAG_DAMAGED != 0
    }

    /// None for a dead slot and for a code that this version does not know.
    pub fn encoding(&self) -> Option<Encoding> {
        match self.code {
            RAW => Some(Encoding::Raw),
            ZSTD => Some(Encoding::Zstd),
            DELTA => Some(Encoding::Delta { base: self.base }),
            _ => None,
        }
    }

    /// Where the chunk lies that this one is a delta to.
    pub fn base(&self) -> Option<Address> {
        (self.code == DELTA).then_some(self.base)
    }

    fn append_to(&self, entries: &mut Vec<u8>) {
        entries.extend_from_slice(&self.hash);
        entries.extend_from_slice(&self.offset.to_le_bytes());
        entries.extend_from_slice(&self.stored.to_le_bytes());
        entries.extend_from_slice(&self.raw.to_le_bytes());
        entries.extend_from_slice(&[self.code, self.flags, 0, 0]);
        entries.extend_from_slice(&self.base.0.to_le_bytes());
    }

    fn parse(bytes: &[u8; ENTRY_BYTES]) -> Entry {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut hash = ZERO_HASH;
        hash.copy_from_slice(&bytes[..32]);
        let base = Address(u64::from(number(48)) | u64::from(number(52)) << 32);
        Entry { hash, offset: number(32), stored: number(36), raw: number(40), code: bytes[44], flags: bytes[45], base }
    }
}

/// `pack_toc.format` and `pack_toc.entries` for these slots.
pub fn entries_to_bytes(entries: &[Entry]) -> (i64, Vec<u8>) {
    let format = if entries.iter().any(|entry| entry.base().is_some()) { FORMAT_WITH_DELTAS } else { FORMAT };
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    entries.iter().for_each(|entry| entry.append_to(&mut bytes));
    (format, bytes)
}

/// A table of contents as read from the file.
#[derive(Clone, Copy)]
pub struct Toc<'a>(&'a [[u8; ENTRY_BYTES]]);

impl<'a> Toc<'a> {
    /// None if the bytes cannot be a table of contents of the known format.
    pub fn parse(format: i64, entries: &'a [u8]) -> Option<Toc<'a>> {
        let (whole, rest) = entries.as_chunks();
        let known = matches!(format, FORMAT | FORMAT_WITH_DELTAS);
        (known && rest.is_empty() && whole.len() <= PACK_SLOTS).then_some(Toc(whole))
    }

    pub fn slots(self) -> usize {
        self.0.len()
    }

    pub fn entry(self, slot: usize) -> Option<Entry> {
        self.0.get(slot).map(Entry::parse)
    }

    pub fn entries(self) -> impl Iterator<Item = Entry> + 'a {
        self.0.iter().map(Entry::parse)
    }
}

/// `segment.chunks`: the addresses in order, little endian.
pub fn addresses_to_bytes(addresses: &[Address]) -> Vec<u8> {
    addresses.iter().flat_map(|address| address.0.to_le_bytes()).collect()
}

/// None if the bytes are not a list of 1 to 1024 addresses of the known format.
pub fn addresses_from_bytes(format: i64, bytes: &[u8]) -> Option<Vec<Address>> {
    let (whole, rest) = bytes.as_chunks();
    let plausible = format == FORMAT && rest.is_empty() && (1..=SEGMENT_CHUNKS).contains(&whole.len());
    plausible.then(|| whole.iter().map(|b| Address(u64::from_le_bytes(*b))).collect())
}

/// `volume_map.segments`: the ids in order, little endian; 0 stands for a segment of zeros.
pub fn segments_to_bytes(ids: &[i64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// None if the bytes are not a list of ids.
pub fn segments_from_bytes(bytes: &[u8]) -> Option<Vec<i64>> {
    let (whole, rest) = bytes.as_chunks();
    rest.is_empty().then(|| whole.iter().map(|b| i64::from_le_bytes(*b)).collect())
}

/// The name of a segment, from the names of its chunks.
pub fn segment_hash<'a>(chunks: impl IntoIterator<Item = &'a Hash>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for chunk in chunks {
        hasher.update(chunk);
    }
    *hasher.finalize().as_bytes()
}

/// The name of a volume's content, from the names of its segments.
pub fn map_hash<'a>(size: u64, chunk_size: u32, segments: impl IntoIterator<Item = &'a Hash>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    hasher.update(&u64::from(chunk_size).to_le_bytes());
    for segment in segments {
        hasher.update(segment);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_pack_and_slot_within_40_bits() {
        let last = Address::new(MAX_PACKS - 1, PACK_SLOTS - 1);
        assert_eq!((last.pack(), last.slot()), (MAX_PACKS - 1, PACK_SLOTS - 1));
        assert_eq!(last.bits(), (1 << 40) - 1);
        assert_eq!(Address::new(1, 0).bits(), 4096);
    }

    #[test]
    fn an_entry_survives_the_way_through_bytes() {
        let base = Address::new(MAX_PACKS - 1, 77);
        let entries = [Entry::new([7; 32], 1, 2, 3, Encoding::Zstd), Entry::new([8; 32], 4, 5, 6, Encoding::Delta { base }), Entry::dead()];
        let (format, bytes) = entries_to_bytes(&entries);
        assert_eq!((format, bytes.len()), (FORMAT_WITH_DELTAS, 3 * ENTRY_BYTES));
        assert_eq!(entries_to_bytes(&entries[..1]).0, FORMAT);
        let toc = Toc::parse(format, &bytes).unwrap();
        assert_eq!(toc.entries().collect::<Vec<_>>(), entries);
        assert_eq!((toc.entry(0).unwrap().base(), toc.entry(1).unwrap().base()), (None, Some(base)));
        assert!(toc.entry(2).unwrap().is_dead());
        assert_eq!((toc.entry(3), toc.slots()), (None, 3));
        assert!(Toc::parse(FORMAT, &bytes[1..]).is_none());
        assert!(Toc::parse(FORMAT_WITH_DELTAS + 1, &bytes).is_none());
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        let addresses = [Address::ZERO, Address::new(3, 4)];
        let bytes = addresses_to_bytes(&addresses);
        assert_eq!(addresses_from_bytes(FORMAT, &bytes).unwrap(), addresses);
        assert!(addresses_from_bytes(FORMAT, &bytes[..15]).is_none());
        assert!(addresses_from_bytes(FORMAT, &[]).is_none());
        assert!(addresses_from_bytes(FORMAT, &vec![0; 8 * (SEGMENT_CHUNKS + 1)]).is_none());
        assert!(segments_from_bytes(&[0; 9]).is_none());
    }
}
